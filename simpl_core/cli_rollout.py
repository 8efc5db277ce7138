"""`simpl rollout`: watch what skills and meta-trained policies do, without learning anything more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from simpl_core.domains import DomainName
from simpl_core.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from simpl_core.checkpoint import Models
    from simpl_core.episode import Episode, Float32
    from simpl_core.rollout import RolloutJob, SlotEnv


@dataclass(frozen=True)
class Rollout:
    """What a skill prior does when nobody asks for anything; or a meta-trained policy, before any fine-tuning.

    In the kitchen: subtasks completed in any order, by name. In the maze: goals reached, and how much is seen.

    Example: simpl rollout runs/skills --episodes 20
    """

    models: Positional[Path]
    """Run folder of phase 1 or 2."""
    domain: DomainName = "kitchen"
    """Where."""
    policy: Literal["prior", "explore", "encoded"] = "prior"
    """The skill prior; the meta-trained policy with a fresh e ~ N(0, I) each episode; or with the e* that the task
    encoder reads from 20 such episodes of the task."""
    tasks: tuple[str, ...] = ()
    """Tasks, families of tasks, or @FILE with one a line, taken in turn. None: all that the kitchen has to do, or the
    maze's target goals."""
    episodes: int = 20
    """How many."""
    noise: float = 1.0
    """Factor on the sensor noise; 1 is the original environment's."""
    seed: int = 0
    """Of skills and noise."""
    threads: int = 2
    """Threads for the physics."""
    picture: Path | None = None
    """Picture of the episodes to write: paths in the maze, stills of the first three in the kitchen."""

    def run(self) -> int:
        from simpl_core.checkpoint import load_models
        from simpl_core.domains import domain

        where, models = domain(self.domain), load_models(self.models)
        where.check(models.skills_config.state_dim, self.models)
        if self.episodes < 1:
            raise ConfigError(f"episodes must be at least 1, got {self.episodes}")
        if self.policy != "prior" and models.skill_policy is None:
            raise CheckpointError(f"{self.models} holds skills only; policy '{self.policy}' needs a run of phase 2")
        choice = where.tasks(self.tasks, where.target) if self.tasks else where.undirected
        tasks = [choice[index % len(choice)] for index in range(self.episodes)]
        env = where.make_env(32, self.threads, self.noise)
        try:
            episodes = self._episodes(env, models, tasks)
        finally:
            env.close()
        print("\n".join(where.describe(episodes, tasks)))
        if self.picture is not None:
            where.draw(episodes, tasks, self.picture)
            print(f"picture in {self.picture}")
        return 0

    def _episodes(self, env: SlotEnv, models: Models, tasks: Sequence[Any]) -> list[Episode]:
        import numpy as np

        from simpl_core.rollout import RolloutJob

        if self.policy == "prior":
            jobs = [RolloutJob(task, seed=self.seed + index) for index, task in enumerate(tasks)]
        elif self.policy == "explore":
            jobs = [_exploring(task, models, [self.seed, index]) for index, task in enumerate(tasks)]
        else:
            found: dict[str, Float32] = {}
            for number, task in enumerate({str(task): task for task in tasks}.values()):
                found[str(task)] = _encode(env, models, task, [self.seed, number])
            seeds = np.random.SeedSequence(self.seed).generate_state(len(tasks)) >> 1
            jobs = [RolloutJob(task, found[str(task)], int(seed)) for task, seed in zip(tasks, seeds, strict=True)]
        return _collect(env, models, jobs)


CONDITIONING_EPISODES = 20


def _exploring(task: Any, models: Models, seed: list[int]) -> RolloutJob:
    """An episode with e ~ N(0, I)."""
    import numpy as np

    from simpl_core.rollout import RolloutJob

    rng = np.random.default_rng(seed)
    size = models.meta_config.e_dim if models.meta_config is not None else 0
    return RolloutJob(task, rng.standard_normal(size, dtype=np.float32), int(rng.integers(2**31)))


def _encode(env: SlotEnv, models: Models, task: Any, seed: list[int]) -> Float32:
    """e* of `task`, from exploring episodes."""
    from simpl_core.adapt import encode_task
    from simpl_core.episode import to_skill_steps

    jobs = [_exploring(task, models, [*seed, index]) for index in range(CONDITIONING_EPISODES)]
    return encode_task(models, [to_skill_steps(episode) for episode in _collect(env, models, jobs)])


def _collect(env: SlotEnv, models: Models, jobs: Sequence[RolloutJob]) -> list[Episode]:
    """Episodes under the skill policy, or under the skill prior where the jobs have no embedding."""
    from simpl_core.rollout import SkillActor, collect, follow_prior

    policy = models.skill_policy if len(jobs[0].embedding) else None
    policies = [follow_prior if policy is None else policy.with_prior]
    actor = SkillActor(models.skill_decoder, models.skill_prior, policies, models.skills_config.horizon)
    return collect(env, actor, jobs)
