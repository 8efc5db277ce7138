"""What a run is to do, and the random numbers that follow from its one seed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.tasks import parse_kitchen_task
from simpl.graph import PHASES
from simpl_core.errors import ConfigError

LEARNED_FROM = ("conditioning", "evaluation", "finetune")
"""Phases whose transitions the learner trains on; all are real experience with the task, `final` judges the outcome."""

_EMBEDDING, _SKILLS, _SCENE = range(3)  # purposes of a seed


@dataclass(frozen=True)
class RunPlan:
    """An adaptation run. Counts are episodes; `final` counts those that judge the outcome."""

    task: str
    conditioning: int = 20
    evaluation: int = 10
    finetune: int = 30
    final: int = 10
    seed: int = 0
    max_steps: int = 280
    lockstep: bool = True
    model_wait: float = 10.0
    """Longest wait for the model trained on the last episode, before the next starts [s]."""

    def __post_init__(self) -> None:
        parse_kitchen_task(self.task)
        least = {"conditioning": 1, "evaluation": 0, "finetune": 0, "final": 0, "seed": 0, "max_steps": 1}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {minimum}")

    def episodes(self, phase: str) -> int:
        """How many episodes `phase` has."""
        return int(getattr(self, phase))

    def embedding(self, index: int, e_dim: int) -> NDArray[np.float32]:
        """E ~ N(0, I) (e_dim,) of conditioning episode `index`."""
        generator = np.random.default_rng(self._sequence("conditioning", index, _EMBEDDING))
        return generator.standard_normal(e_dim).astype(np.float32)

    def skill_seed(self, phase: str, index: int) -> int:
        """Seed of the skill noise of episode `index` of `phase`; the same when the episode is repeated."""
        return int(self._sequence(phase, index, _SKILLS).generate_state(1, np.uint64)[0])

    def scene_seed(self, phase: str, index: int) -> int:
        """Seed of the sensor noise of episode `index` of `phase`."""
        return int(self._sequence(phase, index, _SCENE).generate_state(1, np.uint64)[0])

    def _sequence(self, phase: str, index: int, purpose: int) -> np.random.SeedSequence:
        return np.random.SeedSequence([self.seed, PHASES.index(phase), index, purpose])


def open_plan(folder: Path, plan: RunPlan) -> bool:
    """Claim run folder `folder` for `plan`; returns whether it was begun before and is to be continued.

    Raises:
        ConfigError: the folder holds another run.
    """
    path = folder / "plan.json"
    wanted = asdict(plan)
    try:
        known = json.loads(path.read_text())
    except FileNotFoundError:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(".plan.json")
        temporary.write_text(json.dumps(wanted, indent=2) + "\n")
        temporary.replace(path)
        return False
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: {error}") from error
    changed = [name for name in wanted if known.get(name) != wanted[name] and name != "model_wait"]
    if changed:
        differences = ", ".join(f"{name} {known.get(name)!r} instead of {wanted[name]!r}" for name in changed)
        raise ConfigError(f"{folder} holds another run, with {differences}; choose another folder")
    return True
