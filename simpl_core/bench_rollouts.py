"""Rollouts with policies in the loop beside Gymnasium's vector environments."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simpl_core.bench import OURS, Comparison, load_baseline, take_turns
from simpl_core.checkpoint import Models, skill_networks
from simpl_core.config import META_PRESETS, SKILLS_PRESETS
from simpl_core.domains import Domain
from simpl_core.episode import Episode
from simpl_core.errors import ConfigError
from simpl_core.networks import SkillPolicy
from simpl_core.rollout import RolloutJob, SkillActor, SlotEnv, collect

TOLERANCE = 1e-4
"""What one Gymnasium environment observes under our actions, and what the networks answer when asked for all states at
once. (Episodes of two loops would part: contacts make large differences of rounding.)"""
CHECKED_EPISODES = 2


@dataclass(frozen=True)
class RolloutSetting:
    """Where, and how many environments side by side.

    Attributes:
        domain: where.
        slots: of our environment.
        cores: threads of ours, and environments of Gymnasium's.
        models: of phase 2, with a closed-loop decoder; None is untrained networks of the papers' sizes.
    """

    domain: Domain
    slots: int
    cores: int
    models: Models | None = None

    @property
    def name(self) -> str:
        """What is compared."""
        return f"rollouts, {self.domain.name}: {self.slots} at once beside {self.cores} of Gymnasium's, one a core"


def compare_rollouts(setting: RolloutSetting, repeats: int) -> Comparison:
    """Our rollouts and those of both kinds of Gymnasium's vector environments.

    Raises:
        ConfigError: the models cannot act in a loop that asks at every step.
    """
    with ExitStack() as stack:
        env = stack.enter_context(closing(setting.domain.make_env(setting.slots, setting.cores, 1.0)))
        models = _acting(setting.models or fresh_models(setting.domain, env.action_size))
        jobs = rollout_jobs(setting.domain, models, setting.slots)
        module = load_baseline("gym_rollouts")
        episodes = collect(env, actor(models), jobs[:CHECKED_EPISODES])
        apart = differences(setting.domain, models, jobs, episodes, module)
        contenders: dict[str, Callable[[], int]] = {OURS: partial(play, env, actor(models), jobs)}
        steps = max(map(len, episodes))
        for name, spread in (("gymnasium, one process", False), ("gymnasium, processes", True)):
            tasks = [jobs[index % len(jobs)].task for index in range(setting.cores)]
            rollouts = module.GymRollouts(
                setting.domain.name, tasks, models.skill_policy, _decode(models), models.skills_config.horizon
            )
            stack.callback(rollouts.close)
            rollouts.open(spread)
            contenders[name] = partial(rollouts.play, steps, _embeddings(jobs, setting.cores))
        return take_turns(setting.name, "environment step", contenders, repeats, (apart, TOLERANCE))


def play(env: SlotEnv, acting: SkillActor, jobs: Sequence[RolloutJob]) -> int:
    """Make the episodes of `jobs`; returns the steps that took."""
    return sum(len(episode) for episode in collect(env, acting, jobs))


def actor(models: Models) -> SkillActor:
    """The skill policy of `models` on their decoder."""
    policies = [] if models.skill_policy is None else [models.skill_policy.with_prior]
    return SkillActor(models.skill_decoder, models.skill_prior, policies, models.skills_config.horizon)


def rollout_jobs(domain: Domain, models: Models, count: int) -> list[RolloutJob]:
    """Episodes of the training tasks in turn, each with a fresh e ~ N(0, I)."""
    tasks, size = domain.tasks((), domain.training), models.meta_config.e_dim if models.meta_config else 0
    rng = np.random.default_rng(0)
    return [
        RolloutJob(tasks[seed % len(tasks)], rng.standard_normal(size, dtype=np.float32), seed) for seed in range(count)
    ]


def fresh_models(domain: Domain, action_dim: int) -> Models:
    """Untrained networks of the papers' sizes."""
    skills, meta = SKILLS_PRESETS[domain.preset("official")], META_PRESETS[domain.preset("official")]
    torch.manual_seed(0)
    networks = skill_networks(skills, action_dim)
    for network in networks:
        network.eval()
    policy = SkillPolicy(
        copy.deepcopy(networks.prior), skills.state_dim, skills.z_dim, meta.e_dim, meta.hidden, meta.layers
    ).eval()
    return Models(skills, action_dim, networks.encoder, networks.decoder, networks.prior, meta, policy)


def _acting(models: Models) -> Models:
    if models.skill_policy is None or models.skills_config.decoder != "closed":
        raise ConfigError("rollouts are measured with a skill policy (a run of phase 2) and a closed-loop decoder")
    return models


def _decode(models: Models) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda states, z: models.skill_decoder.decode(states.unsqueeze(1), z).squeeze(1)


def _embeddings(jobs: Sequence[RolloutJob], count: int) -> Tensor:
    return torch.from_numpy(np.stack([jobs[index % len(jobs)].embedding for index in range(count)]))


@torch.no_grad()
def differences(
    domain: Domain, models: Models, jobs: Sequence[RolloutJob], episodes: Sequence[Episode], module: ModuleType
) -> Mapping[str, float]:
    """Largest differences between `episodes` and what Gymnasium and the networks make of their actions and states."""
    found = {"observations": 0.0, "rewards": 0.0, "skills": 0.0, "actions": 0.0}

    def note(what: str, ours: Any, theirs: Any) -> None:
        apart = np.abs(np.asarray(ours) - np.asarray(theirs))
        found[what] = float(np.maximum(found[what], apart.max()))  # unlike max() it keeps what is not a number

    for job, episode in zip(jobs, episodes, strict=False):
        observations, rewards = module.retrace(domain.name, job.task, job.seed, episode.actions)
        note("observations", episode.observations, observations)
        note("rewards", episode.rewards, rewards)
        noise = np.random.default_rng([job.seed, 1])
        lengths = np.diff([*episode.skill_starts, len(episode)])
        if models.skill_policy is not None:
            e = torch.from_numpy(job.embedding).expand(len(episode.skills), -1)
            mean, scale = models.skill_policy(torch.from_numpy(episode.observations[episode.skill_starts]), e)
            drawn = np.stack([noise.standard_normal(mean.shape[1], dtype=np.float32) for _ in episode.skills])
            note("skills", episode.skills, mean + scale * torch.from_numpy(drawn))
        z = torch.from_numpy(np.repeat(episode.skills, lengths, axis=0))
        states = torch.from_numpy(episode.observations[:-1])
        note("actions", episode.actions, _decode(models)(states, z).clamp(-1.0, 1.0))
    return found
