"""What a report counts beyond the transitions, kept for the next start of the bridge: one line for each episode."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from array import array
from dataclasses import dataclass, field
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

    An episode that was under way when the bridge died is not counted: it is done again.

    Attributes:
        tally: of all starts so far; the caller counts on in it.
        results: of the episodes in the file, by number.
    """

    def __init__(self, path: Path) -> None:
        """Read `path` if it exists."""
        self._path = path
        self.tally = Tally()
        self.results: dict[int, EpisodeDone] = {}
        for line in path.read_text().splitlines() if path.is_file() else ():
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue  # blank, or torn by a kill: one episode's counts are missing, its transitions are not
        self._written = len(self.tally.control.latencies)

    def append(self, result: EpisodeDone) -> None:
        """Note the end of an episode.

        Raises:
            OSError: the disk is full, say.
        """
        control = self.tally.control
        note = {
            **{name: value for name, value in vars(self.tally).items() if name != "control"},
            "result": result._asdict(),
            "missed": control.missed,
            "seconds": control.seconds,
            "intervals": control.intervals,
            "latencies": [round(value, 4) for value in control.latencies[self._written :]],  # the others are above
        }
        with self._path.open("a") as file:
            file.write("\n" + json.dumps(note))  # the newline comes first, so that a torn line spoils no other
        self._written = len(control.latencies)
        self.results[result.episode] = result

    def _take(self, note: dict[str, Any]) -> None:
        result = EpisodeDone(**note.pop("result"))
        self.results[result.episode] = result._replace(subtasks_done=tuple(result.subtasks_done))
        control = self.tally.control
        control.latencies.extend(note.pop("latencies"))
        for name in ("missed", "seconds", "intervals"):
            setattr(control, name, note.pop(name))
        self.tally = Tally(control=control, **note)


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
