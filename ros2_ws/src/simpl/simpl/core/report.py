"""report.json: what a run did, for machines. Built from what happened, in one place."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from simpl.core.commands import EpisodeDone
from simpl.core.episode_log import Tally
from simpl.core.plan import RunPlan
from simpl.graph import PHASES
from simpl_core.errors import ConfigError

PACKAGES = ("simpl-core", "numpy", "onnxruntime")


@dataclass(frozen=True)
class StreamCounts:
    """What became of the transitions; `unacknowledged` are in the robot's journal but not known to be elsewhere.

    `duplicates_dropped` counts since the last start of the learner.
    """

    sent: int
    stored: int
    unacknowledged: int
    duplicates_dropped: int


@dataclass(frozen=True)
class RunFacts:
    """What the bridge knows at the end. `bundle_version` is the model the run started from.

    Attributes:
        interrupted: the run did not go to its end, for `reason`.
        bridge_starts: 1 unless the bridge was restarted.
    """

    bundle_version: str
    robot_uuid: str
    wall_seconds: float
    bridge_starts: int
    interrupted: bool
    reason: str


def build_report(
    plan: RunPlan, results: Sequence[EpisodeDone], stream: StreamCounts, tally: Tally, facts: RunFacts
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
        "model_updates": len(tally.models_accepted),
        "control": tally.control.summary() | {"wall_seconds": round(facts.wall_seconds, 2)},
        "wall_seconds": round(facts.wall_seconds, 2),
        # What follows is beyond the agreed minimum.
        "interrupted": facts.interrupted,
        "reason": facts.reason,
        "seed": plan.seed,
        "rate": "sim" if plan.lockstep else "real",
        "max_steps": plan.max_steps,
        "planned_episodes": {phase: plan.episodes(phase) for phase in PHASES},
        "phase_seconds": {phase: round(seconds, 2) for phase, seconds in tally.phase_seconds.items()},
        "episodes": [_episode(result) for result in results],
        "guard_interventions": sum(result.guard_interventions for result in results),
        "stream": {
            "resent": tally.resent,
            "unacknowledged": stream.unacknowledged,
            "duplicates_dropped": stream.duplicates_dropped,
        },
        "models_refused": tally.models_refused,
        "bridge_starts": facts.bridge_starts,
        "robot_uuid": facts.robot_uuid,
        "warnings": tally.warnings,
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


def is_finished(path: Path) -> bool:
    """Whether `path` is the report of a run that came to its end.

    Raises:
        ConfigError: it is there and cannot be read.
    """
    try:
        return not json.loads(path.read_text()).get("interrupted", False)
    except FileNotFoundError:
        return False
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged: {error}") from error
