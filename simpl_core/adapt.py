"""Phase 3: an unseen task (SiMPL Sec. 4.3). Conditioning episodes, e* = mean of q(e | them), then fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simpl_core.agents.spirl import SpirlAgent, Start, start_from_prior
from simpl_core.checkpoint import Models
from simpl_core.config import AdaptConfig, skill_temperature
from simpl_core.distributions import DiagonalGaussian
from simpl_core.episode import Episode, Float32, SkillSteps, context_rows, positive_first, to_skill_steps
from simpl_core.errors import CheckpointError, ConfigError
from simpl_core.learner import part, prefixed
from simpl_core.networks import SkillPolicy
from simpl_core.rollout import RolloutJob, SkillActor, SlotEnv, collect

CONDITIONING, FINETUNE = "conditioning", "finetune"


class FineTuner(SpirlAgent):
    """Prior-regularised learning of one task, from a meta-trained policy, its critics and alpha_2, with e* fixed."""

    def __init__(self, models: Models, config: AdaptConfig, embedding: Float32, seed: int) -> None:
        """`models` of a run of phase 2, `embedding` e* (E,).

        Raises:
            CheckpointError: the models are of phase 1 only.
            ConfigError: the embedding is of another size.
        """
        super().__init__(meta_trained(models, config), config, embedding, seed, models.device)


def meta_trained(models: Models, config: AdaptConfig) -> Start:
    """What phase 2 leaves to fine-tune.

    Raises:
        CheckpointError: the models are of phase 1 only.
    """
    if models.skill_policy is None or models.critics is None or models.alpha_2 is None:
        raise CheckpointError("fine-tuning with a task embedding needs a meta-trained run; this one holds skills only")
    return Start(models.skill_policy, models.critics, models.alpha_2 if config.alpha is None else config.alpha)


def spirl_start(models: Models, config: AdaptConfig, seed: int) -> Start:
    """SPiRL's start from the skills alone, with networks as large as those of phase 2 where there was one.

    Raises:
        ConfigError: `config` leaves alpha to a meta-trained run.
    """
    if config.alpha is None:
        raise ConfigError("SPiRL has no meta-trained alpha to start from; set alpha (preset 'spirl' has 1.0)")
    sizes = models.meta_config or config
    return start_from_prior(
        models.skill_prior,
        hidden=sizes.hidden,
        layers=sizes.layers,
        critics=sizes.critics,
        alpha=config.alpha,
        seed=seed,
    )


@torch.no_grad()
def encode_task(models: Models, steps: Sequence[SkillSteps]) -> Float32:
    """e* (E,): the mean of q(e | all transitions of `steps`); the prior's mean 0 where there are none.

    Raises:
        CheckpointError: the models are of phase 1 only.
    """
    if models.task_encoder is None or models.meta_config is None:
        raise CheckpointError("encoding a task needs a meta-trained run; this one holds skills only")
    if not steps:
        return np.zeros(models.meta_config.e_dim, np.float32)
    rows = np.concatenate([context_rows(episode) for episode in steps])
    rows = positive_first(rows, models.skills_config.state_dim, models.meta_config.context_kept)
    mean: Float32 = models.task_encoder(torch.from_numpy(rows).unsqueeze(0)).mean.squeeze(0).numpy()
    return mean


class Adaptation:
    """One run of phase 3 on one task with one seed: says which episodes it wants next and learns from them.

    A resumed adaptation goes on exactly: what comes depends on the seed and the episodes alone.
    """

    def __init__(self, method: str, models: Models, config: AdaptConfig, task: Any, seed: int) -> None:
        """`method` is `simpl` (needs a meta-trained run) or `spirl` (skills suffice).

        Raises:
            CheckpointError: the models lack what the method needs.
            ConfigError: unknown method, or a setting it cannot do with.
        """
        if method not in METHODS:
            raise ConfigError(f"no method {method!r}; there are {', '.join(METHODS)}")
        self._models, self.config, self.task, self.seed = models, config, task, seed
        self.scores: list[float] = []
        self._conditioning = config.conditioning_episodes if method == "simpl" else 0
        self.total_episodes = self._conditioning + config.episodes
        self._steps: list[SkillSteps] = []
        self._agent: SpirlAgent | None = None
        self._exploring: SkillPolicy | None = None
        if method == "simpl":
            self._exploring = meta_trained(models, config).policy
        if self._conditioning == 0:
            start = meta_trained(models, config) if method == "simpl" else spirl_start(models, config, seed)
            self._agent = SpirlAgent(start, config, np.zeros(start.policy.e_dim, np.float32), seed, models.device)

    @property
    def done(self) -> bool:
        """Whether all episodes were made."""
        return len(self.scores) >= self.total_episodes

    def next_jobs(self, policy: int) -> list[RolloutJob]:
        """Episodes to make next: all conditioning episodes that are left, or one with the policy of the moment.

        `policy` is the index under which the actor knows this adaptation's `act`.
        """
        first = len(self.scores)
        count = 0 if self.done else max(1, self._conditioning - first)
        return [self._job(index, policy) for index in range(first, first + count)]

    def _job(self, index: int, policy: int) -> RolloutJob:
        rng = np.random.default_rng([self.seed, index])
        seed = int(rng.integers(2**31))
        if self._agent is None:
            e = rng.standard_normal(self._embedding_size(), dtype=np.float32)
            return RolloutJob(self.task, e, seed, policy=policy, label=CONDITIONING)
        made = index - self._conditioning
        return RolloutJob(
            self.task,
            self._agent.embedding.cpu().numpy(),
            seed,
            skill_temperature(made, self.config.temperature, self.config.cool_over),
            policy=policy,
            label=FINETUNE,
        )

    def _embedding_size(self) -> int:
        return self._models.meta_config.e_dim if self._models.meta_config is not None else 0

    def act(self, state: Tensor, e: Tensor, prior: DiagonalGaussian) -> DiagonalGaussian:
        """pi(z | s, e) of the moment, given the frozen prior's answer."""
        if self._agent is not None:
            return self._agent.act(state, e, prior)
        if self._exploring is None:
            raise ConfigError("an adaptation without conditioning has its agent from the start")
        if self.config.explore_with == "prior":
            return prior
        return self._exploring.with_prior(state, e, prior)

    def add(self, episode: Episode) -> dict[str, float]:
        """Learn from the next episode asked for; returns metrics of the gradient steps taken."""
        self.scores.append(episode.score)
        steps = to_skill_steps(episode)
        if self._agent is None:
            self._steps.append(steps)
            if self._explored():
                self._condition()
            return {}
        self._agent.add(steps)
        return self._agent.update(self._agent.steps_for(len(steps.z)))

    def _explored(self) -> bool:
        made = len(self.scores)
        longest = self._conditioning + self.config.explore_on
        return made == longest or (made >= self._conditioning and max(self.scores) > 0.0)

    def _condition(self) -> None:
        self._agent = FineTuner(self._models, self.config, encode_task(self._models, self._steps), self.seed)
        if self.config.use_conditioning:
            for steps in self._steps:
                self._agent.add(steps)

    def state_dict(self) -> dict[str, Tensor]:
        """Scores and learning state as flat tensors; conditioning episodes are made anew if they were not finished."""
        if self._agent is None:
            return {"scores": torch.zeros(0)}
        scores = torch.tensor(self.scores, dtype=torch.float64)
        return {"scores": scores, **prefixed("agent", self._agent.state_dict())}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict`'s answer."""
        self.scores = [float(score) for score in state["scores"]]
        agent = part("agent", state)
        if not agent:
            return
        if self._agent is None:
            self._agent = FineTuner(self._models, self.config, agent["embedding"].cpu().numpy(), self.seed)
        self._agent.load_state_dict(agent)


METHODS = ("simpl", "spirl")


def adapt_in_simulation(
    env: SlotEnv,
    models: Models,
    runs: Sequence[Adaptation],
    on_round: Callable[[], None] | None = None,
    on_metrics: Callable[[Adaptation, dict[str, float]], None] | None = None,
) -> None:
    """Bring all `runs` to their end, side by side in the slots of `env`.

    A round is the conditioning episodes of one run, which fill the slots, or an episode of each run.

    Args:
        env: where episodes are made.
        models: whose decoder acts.
        runs: adaptations, of any tasks and seeds; each learns alone.
        on_round: told after each round; all runs are then in a state to save.
        on_metrics: told what each run's gradient steps measured.
    """
    policies = [run.act for run in runs]
    actor = SkillActor(models.skill_decoder, models.skill_prior, policies, models.skills_config.horizon)
    while not all(run.done for run in runs):
        wanted = [run.next_jobs(i) for i, run in enumerate(runs)]
        jobs = next((many for many in wanted if len(many) > 1), [job for few in wanted for job in few])
        for job, episode in zip(jobs, collect(env, actor, jobs), strict=True):
            metrics = runs[job.policy].add(episode)
            if on_metrics is not None and metrics:
                on_metrics(runs[job.policy], metrics)
        if on_round is not None:
            on_round()
