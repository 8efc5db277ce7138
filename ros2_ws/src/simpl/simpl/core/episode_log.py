"""What a report counts beyond the transitions, kept for the next start of the bridge: one line for each episode."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from array import array
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from simpl.core.commands import EpisodeDone
from simpl.core.transition import Transition, TransitionError, pack, unpack

log = logging.getLogger(__name__)


@dataclass
class ControlLog:
    """Health of the control loop over a run, from the policy's ticks and status.

    `missed` sums over restarts of the policy, whose own counters start again from 0.
    """

    missed: int = 0
    seconds: float = 0.0  # between ticks of one episode
    intervals: int = 0
    latencies: array[float] = field(default_factory=lambda: array("f"))  # [ms]
    _last: tuple[int, float] | None = None
    _status_missed: int = 0

    def tick(self, episode: int, latency_ms: float, now: float) -> None:
        """An action of the policy, at time `now` [s]."""
        self.latencies.append(latency_ms)
        if self._last is not None and self._last[0] == episode:
            self.seconds += now - self._last[1]
            self.intervals += 1
        self._last = (episode, now)

    def status(self, missed: int) -> None:
        """The policy's own count of late ticks."""
        self.missed += missed - self._status_missed if missed >= self._status_missed else missed
        self._status_missed = missed

    def summary(self) -> dict[str, float | int]:
        """`rate_hz` is measured within episodes; latencies go from the arrival of a state to its action."""
        latencies = np.asarray(self.latencies, np.float64)
        p50, p99 = np.quantile(latencies, (0.5, 0.99)) if len(latencies) else (0.0, 0.0)
        return {
            "rate_hz": round(self.intervals / self.seconds, 2) if self.seconds > 0 else 0.0,
            "ticks": len(latencies),
            "missed": self.missed,
            "latency_ms_p50": round(float(p50), 4),
            "latency_ms_p99": round(float(p99), 4),
        }


@dataclass
class Tally:
    """Everything of a run that is counted as it goes, over all starts of the bridge."""

    control: ControlLog = field(default_factory=ControlLog)
    phase_seconds: dict[str, float] = field(default_factory=dict)
    """Wall time by phase [s]."""
    warnings: list[str] = field(default_factory=list)
    models_refused: dict[str, str] = field(default_factory=dict)
    """Reason by version."""
    models_accepted: list[str] = field(default_factory=list)
    """Versions."""
    resent: int = 0


class EpisodeLog:
    """A file of JSON lines, read at the start and then written at the end of each episode.

    Of what grows with the run (latencies, warnings, models) a line has what is new since the one before. An episode
    that was under way when the bridge died is not counted: it is done again.

    Attributes:
        tally: of all starts so far; the caller counts on in it.
        results: of the episodes in the file, by number.
    """

    def __init__(self, path: Path) -> None:
        """Read `path` if it exists."""
        self._path = path
        self.tally = Tally()
        self.results: dict[int, EpisodeDone] = {}
        with contextlib.suppress(FileNotFoundError), path.open() as lines:
            for line in lines:
                try:
                    self._take(json.loads(line))
                except (ValueError, KeyError, TypeError):
                    continue  # blank, or torn by a kill: one episode's counts are missing, its transitions are not
        self._written = self._sizes()

    def append(self, result: EpisodeDone) -> None:
        """Note the end of an episode.

        Raises:
            OSError: the disk is full, say.
        """
        tally, control, written = self.tally, self.tally.control, self._written
        note = {
            "result": result._asdict(),
            "phase_seconds": tally.phase_seconds,
            "resent": tally.resent,
            "missed": control.missed,
            "seconds": control.seconds,
            "intervals": control.intervals,
            "latencies": [round(value, 4) for value in control.latencies[written["latencies"] :]],
            "new": {
                "warnings": tally.warnings[written["warnings"] :],
                "models_accepted": tally.models_accepted[written["models_accepted"] :],
                "models_refused": dict(islice(tally.models_refused.items(), written["models_refused"], None)),
            },
        }
        with self._path.open("a") as file:
            file.write("\n" + json.dumps(note))  # the newline comes first, so that a torn line spoils no other
        self._written = self._sizes()
        self.results[result.episode] = result

    def _take(self, note: dict[str, Any]) -> None:
        result = EpisodeDone(**note.pop("result"))
        self.results[result.episode] = result._replace(subtasks_done=tuple(result.subtasks_done))
        control = self.tally.control
        control.latencies.extend(note.pop("latencies"))
        for name in ("missed", "seconds", "intervals"):
            setattr(control, name, note.pop(name))
        new = note.pop("new", None)
        if new is None:  # of an earlier version: the line has all lists as a whole
            self.tally = Tally(control=control, **note)
            return
        self.tally.warnings.extend(new["warnings"])
        self.tally.models_accepted.extend(new["models_accepted"])
        self.tally.models_refused.update(new["models_refused"])
        self.tally.phase_seconds, self.tally.resent = note["phase_seconds"], note["resent"]

    def _sizes(self) -> dict[str, int]:
        tally = self.tally
        return {
            "latencies": len(tally.control.latencies),
            "warnings": len(tally.warnings),
            "models_accepted": len(tally.models_accepted),
            "models_refused": len(tally.models_refused),
        }


class HeldStep:
    """The one transition that waits for a label, on disk so that a kill does not lose it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._there = path.exists()

    def keep(self, transition: Transition) -> None:
        """Write it; a disk that refuses is for the journal to judge."""
        partial = self._path.with_suffix(".part")
        try:
            with partial.open("wb") as file:
                file.write(pack(transition))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._path)
            self._there = True
        except OSError as error:
            log.warning("a step that waits for its label is not kept: %s", error)

    def take(self) -> Transition | None:
        """What an earlier start left; None if that is nothing, or damaged."""
        try:
            return unpack(self._path.read_bytes()) if self._there else None
        except (OSError, TransitionError) as error:
            log.warning("%s cannot be read: %s", self._path, error)
            return None

    def drop(self) -> None:
        """It was stored."""
        if self._there:
            self._there = False
            with contextlib.suppress(OSError):  # then it is found again, and known by its episode and step
                self._path.unlink()
