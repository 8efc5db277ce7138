"""Reads a run's folder back: report.json, checked, and the states of its best episode."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.tasks import KitchenTask, parse_kitchen_task
from simpl_core.errors import SimplError

REPORT = "report.json"
LEARNING_CURVE = "learning_curve.png"
BEST_EPISODE = "best_episode.mp4"
PHASE_KEYS = {
    "conditioning": "subtasks_conditioning",
    "evaluation": "subtasks_after_conditioning",
    "finetune": "subtasks_finetune",
    "final": "subtasks_final",
}
"""Key of report.json that holds the scores of a phase."""
PHASE_TITLES = {
    "conditioning": "conditioning",
    "evaluation": "after conditioning",
    "finetune": "fine-tuning",
    "final": "after fine-tuning",
}
"""The phases in words, in order."""


class ReportError(SimplError):
    """A run folder has no report, or a damaged one."""


@dataclass(frozen=True)
class RunReport:
    """What report.json says, as far as people look at it."""

    folder: Path
    """The run's folder."""
    task: KitchenTask
    """The task that was learned."""
    scores: Mapping[str, list[int]]
    """Subtasks of each episode by phase, in order."""
    document: Mapping[str, Any]
    """All of report.json."""

    @property
    def interrupted(self) -> bool:
        """The run did not go to its end."""
        return bool(self.document.get("interrupted", False))

    def mean(self, phase: str) -> float | None:
        """Mean subtasks of a phase; None without episodes."""
        scores = self.scores[phase]
        return sum(scores) / len(scores) if scores else None

    def best_episode(self) -> Mapping[str, Any] | None:
        """The episode to show: most subtasks; among equals the fewest steps, then the latest."""
        with_states = [e for e in self.document.get("episodes", []) if self.states_file(e["episode"]).is_file()]
        return max(with_states, key=lambda e: (e["score"], -e["steps"], e["episode"]), default=None)

    def states_file(self, episode: int) -> Path:
        """Where the plant wrote the true states of an episode."""
        return self.folder / "plant" / f"episode_{episode:03d}.npz"

    def states(self, episode: int) -> NDArray[np.float64]:
        """True joint positions (T, 30) of an episode [rad, m, quaternion].

        Raises:
            ReportError: the file is missing or damaged.
        """
        path = self.states_file(episode)
        try:
            with np.load(path) as file:
                return np.asarray(file["qpos"], np.float64)
        except (OSError, KeyError, ValueError) as error:
            raise ReportError(f"{path} is not a recorded episode: {error}") from error


def load_report(folder: Path) -> RunReport:
    """Read `folder`/report.json.

    Raises:
        ReportError: no such file, no JSON, or keys are missing; says which.
    """
    path = folder / REPORT
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        hint = "; is the run still going, or was it killed?" if folder.is_dir() else ""
        raise ReportError(f"{path} does not exist{hint}") from error
    except ValueError as error:
        raise ReportError(f"{path} is damaged: {error}") from error
    missing = [key for key in ("task", "control", *PHASE_KEYS.values()) if key not in document]
    if missing:
        raise ReportError(f"{path} has no {', '.join(missing)}")
    scores = {phase: [int(score) for score in document[key]] for phase, key in PHASE_KEYS.items()}
    return RunReport(folder, parse_kitchen_task(document["task"]), scores, document)
