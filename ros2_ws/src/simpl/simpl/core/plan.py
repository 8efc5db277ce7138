"""What a run is to do, and the random numbers that follow from its one seed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.tasks import parse_kitchen_task
from simpl.core.commands import EpisodeDone
from simpl.graph import OPERATOR, PHASES, REWARD_SOURCES, SCENES
from simpl_core.config import skill_temperature
from simpl_core.errors import ConfigError

LEARNED_FROM = ("conditioning", "evaluation", "finetune")
"""Phases whose transitions the learner trains on; all are real experience with the task, `final` judges the outcome."""

_MAY_CHANGE = ("model_wait", "label_wait", "scene", "temperature", "cool_over")
"""What another start of the same run may have otherwise."""

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
    reward: str = "object_states"
    """Where rewards come from, one of REWARD_SOURCES; labels of the operator count beside all of them."""
    label_wait: float = 0.0
    """Longest wait for a label after each episode [s]; 0: none. Where the operator alone rewards it has no end."""
    scene: str = "service"
    """Who puts the scene back: a service of the arm or its simulation, or the operator, after the arm went home."""
    temperature: float = 1.0
    """What the skills' noise is cooled down to, in a line over the first `cool_over` episodes of fine-tuning."""
    cool_over: int = 30

    def __post_init__(self) -> None:
        parse_kitchen_task(self.task)
        least = dict.fromkeys(("evaluation", "finetune", "final", "seed", "label_wait", "temperature", "cool_over"), 0)
        for name, minimum in (least | {"conditioning": 1, "max_steps": 1}).items():
            if getattr(self, name) < minimum:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {minimum}")
        for name, known in (("reward", REWARD_SOURCES), ("scene", SCENES)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; there are {', '.join(known)}")

    @property
    def asks(self) -> bool:
        """Whether the end of an episode waits for a label."""
        return self.reward == OPERATOR or self.label_wait > 0.0

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

    def skill_temperature(self, phase: str, index: int) -> float:
        """Factor on the scale of the skills in episode `index` of `phase`; `final` is as cool as `finetune` ends."""
        made = {"finetune": index, "final": self.finetune}.get(phase, 0)
        return skill_temperature(made, self.temperature, self.cool_over)

    def scene_seed(self, phase: str, index: int) -> int:
        """Seed of the sensor noise of episode `index` of `phase`."""
        return int(self._sequence(phase, index, _SCENE).generate_state(1, np.uint64)[0])

    def _sequence(self, phase: str, index: int, purpose: int) -> np.random.SeedSequence:
        return np.random.SeedSequence([self.seed, PHASES.index(phase), index, purpose])


class Schedule:
    """How far a plan is carried out.

    Attributes:
        results: finished episodes, oldest first; `add` appends.
    """

    def __init__(self, plan: RunPlan, done: Sequence[EpisodeDone] = ()) -> None:
        """`done` are episodes of earlier starts."""
        self.plan = plan
        self.results: list[EpisodeDone] = []
        self._counts: Counter[str] = Counter()
        for result in done:
            self.add(result)

    def add(self, result: EpisodeDone) -> None:
        """An episode is finished."""
        self.results.append(result)
        self._counts[result.phase] += 1

    @property
    def phase(self) -> str:
        """Phase of the current or next episode; the last one when all is done."""
        return next((phase for phase in PHASES if self.count(phase) < self.plan.episodes(phase)), PHASES[-1])

    @property
    def index(self) -> int:
        """Number of the current or next episode within its phase, from 0."""
        return self.count(self.phase)

    @property
    def adapted(self) -> bool:
        """Whether the learner's models act in the current or next episode."""
        return self.phase in ("finetune", "final") and self.plan.finetune > 0

    @property
    def complete(self) -> bool:
        """Whether there is no next episode."""
        return self.index >= self.plan.episodes(self.phase)

    def count(self, phase: str) -> int:
        """Finished episodes of `phase`."""
        return self._counts[phase]

    def embedding(self, e_dim: int) -> NDArray[np.float32]:
        """E ~ N(0, I) (e_dim,) of the next episode, if it is one of conditioning."""
        return self.plan.embedding(self.index, e_dim)

    def skill_seed(self) -> int:
        """Seed of its skill noise."""
        return self.plan.skill_seed(self.phase, self.index)

    def temperature(self) -> float:
        """Factor on the scale of its skills."""
        return self.plan.skill_temperature(self.phase, self.index)

    def scene_seed(self) -> int:
        """Seed of its sensor noise."""
        return self.plan.scene_seed(self.phase, self.index)


def open_plan(folder: Path, plan: RunPlan) -> bool:
    """Claim run folder `folder` for `plan`; returns whether it was begun before and is to be continued.

    Raises:
        ConfigError: the folder holds another run.
    """
    path = folder / "plan.json"
    wanted = asdict(plan)
    try:
        known = asdict(RunPlan(plan.task)) | json.loads(path.read_text())  # an older run lacks what came later
    except FileNotFoundError:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(".plan.json")
        temporary.write_text(json.dumps(wanted, indent=2) + "\n")
        temporary.replace(path)
        return False
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} is damaged: {error}") from error
    changed = [name for name in wanted if known[name] != wanted[name] and name not in _MAY_CHANGE]
    if changed:
        differences = ", ".join(f"{name} {known[name]!r} instead of {wanted[name]!r}" for name in changed)
        raise ConfigError(f"{folder} holds another run, with {differences}; choose another folder")
    return True
