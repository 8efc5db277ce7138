"""report.json: what a run did, for machines. Built from what happened, in one place."""

from __future__ import annotations

import json
import os
import platform
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from simpl.core.commands import EpisodeDone
from simpl.core.plan import RunPlan
from simpl.graph import PHASES

PACKAGES = ("simpl-core", "numpy", "onnxruntime")


@dataclass
class ControlLog:
    """Health of the control loop over a run, from the policy's ticks and status.

    `missed` sums over restarts of the policy, whose own counters start again from 0.
    """

    ticks: int = 0
    missed: int = 0
    latencies: array[float] = field(default_factory=lambda: array("f"))  # [ms]
    _seconds: float = 0.0
    _intervals: int = 0
    _last: tuple[int, float] | None = None
    _status_missed: int = 0

    def tick(self, episode: int, latency_ms: float, now: float) -> None:
        """An action of the policy, at time `now` [s]."""
        self.ticks += 1
        self.latencies.append(latency_ms)
        if self._last is not None and self._last[0] == episode:
            self._seconds += now - self._last[1]
            self._intervals += 1
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
            "rate_hz": round(self._intervals / self._seconds, 2) if self._seconds > 0 else 0.0,
            "ticks": self.ticks,
            "missed": self.missed,
            "latency_ms_p50": round(float(p50), 4),
            "latency_ms_p99": round(float(p99), 4),
        }


@dataclass(frozen=True)
class StreamCounts:
    """What became of the transitions; `unacknowledged` are in the robot's journal but not known to be elsewhere."""

    sent: int
    stored: int
    resent: int
    unacknowledged: int
    duplicates_dropped: int


@dataclass(frozen=True)
class RunFacts:
    """What the bridge knows at the end. `bundle_version` is the model the run started from.

    Attributes:
        phase_seconds: wall time by phase [s].
        models_refused: version -> reason.
        interrupted: the run did not go to its end, for `reason`.
        bridge_starts: 1 unless the bridge was restarted.
    """

    bundle_version: str
    robot_uuid: str
    model_updates: int
    models_refused: dict[str, str]
    wall_seconds: float
    phase_seconds: dict[str, float]
    bridge_starts: int
    interrupted: bool
    reason: str
    warnings: Sequence[str]


def build_report(
    plan: RunPlan, results: Sequence[EpisodeDone], stream: StreamCounts, control: ControlLog, facts: RunFacts
) -> dict[str, Any]:
    """The document; lists of subtasks have one number for each finished episode of the phase, in order."""
    by_phase = {phase: [result for result in results if result.phase == phase] for phase in PHASES}
    subtasks = {phase: [int(result.score) for result in by_phase[phase]] for phase in PHASES}
    return {
        "task": plan.task,
        "bundle_version": facts.bundle_version,
        "conditioning_episodes": len(subtasks["conditioning"]),
        "finetune_episodes": len(subtasks["finetune"]),
        "subtasks_conditioning": subtasks["conditioning"],
        "subtasks_after_conditioning": subtasks["evaluation"],
        "subtasks_finetune": subtasks["finetune"],
        "subtasks_final": subtasks["final"],
        "transitions_sent": stream.sent,
        "transitions_stored": stream.stored,
        "model_updates": facts.model_updates,
        "control": control.summary() | {"wall_seconds": round(facts.wall_seconds, 2)},
        "wall_seconds": round(facts.wall_seconds, 2),
        # What follows is beyond the agreed minimum.
        "interrupted": facts.interrupted,
        "reason": facts.reason,
        "seed": plan.seed,
        "rate": "sim" if plan.lockstep else "real",
        "max_steps": plan.max_steps,
        "planned_episodes": {phase: plan.episodes(phase) for phase in PHASES},
        "phase_seconds": {phase: round(seconds, 2) for phase, seconds in facts.phase_seconds.items()},
        "episodes": [_episode(result) for result in results],
        "guard_interventions": sum(result.guard_interventions for result in results),
        "stream": {
            "resent": stream.resent,
            "unacknowledged": stream.unacknowledged,
            "duplicates_dropped": stream.duplicates_dropped,
        },
        "models_refused": facts.models_refused,
        "bridge_starts": facts.bridge_starts,
        "robot_uuid": facts.robot_uuid,
        "warnings": list(facts.warnings),
        "versions": {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write report.json so that a reader sees all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:
        json.dump(report, file, indent=2, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _episode(result: EpisodeDone) -> dict[str, Any]:
    return {**result._asdict(), "wall_seconds": round(result.wall_seconds, 3)}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
