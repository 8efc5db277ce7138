"""Hierarchical rollouts: many episodes at once over a vector environment, each with its own seed.

An episode depends on its job alone, bit for bit: its noise comes from the job's seed, and (on one thread, in padded
batches, with layers of 32 units or more) a row's policy outputs do not change with the rows beside it. So neither the
number of slots nor the order of jobs matters.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simpl_core.distributions import DiagonalGaussian
from simpl_core.episode import Episode, Float32
from simpl_core.errors import ConfigError
from simpl_core.learner import torch_threads
from simpl_core.networks import Decoder, SkillDecoder

ROW_BLOCK = 16
"""Batches are padded to a multiple: a few rows alone, or the tail of a vector loop, round differently."""


class StepResult(Protocol):
    """What a step of several slots returns, one row a slot."""

    @property
    def observations(self) -> NDArray[Any]:
        """(n, S) after the step."""

    @property
    def rewards(self) -> NDArray[Any]:
        """(n,)."""

    @property
    def terminated(self) -> NDArray[Any]:
        """(n,) bool: the task ended the episode."""

    @property
    def truncated(self) -> NDArray[Any]:
        """(n,) bool: the clock ended it."""


class SlotEnv(Protocol):
    """Environments in numbered slots; each is reset to its own task and stepped when asked."""

    @property
    def num_slots(self) -> int:
        """How many there are."""

    @property
    def observation_size(self) -> int:
        """S."""

    @property
    def action_size(self) -> int:
        """A."""

    def reset(self, slot: int, task: Any, seed: int) -> NDArray[Any]:
        """Begin an episode of `task`; returns the first observation (S,)."""

    def place(self, slot: int, state: Float32) -> NDArray[Any]:
        """Move the episode that has just begun to `state` (S,), at rest; returns its observation (S,)."""

    def step(self, slots: NDArray[np.int64], actions: Float32) -> StepResult:
        """One control step of `slots` (n,) with `actions` (n, A)."""

    def close(self) -> None:
        """Free what the environments hold."""


class SkillSource(Protocol):
    """A high-level policy pi(z | s, e)."""

    def __call__(self, state: Tensor, e: Tensor) -> DiagonalGaussian:
        """`state` (B, S), `e` (B, E) -> Gaussian over z (B, Z)."""


@dataclass(frozen=True)
class RolloutJob:
    """One episode to make.

    Attributes:
        task: what the environment is reset to; `str(task)` goes into the episode's header.
        embedding: task embedding e (E,), the same throughout the episode; empty for a policy without one.
        seed: of the environment's noise and of the skills drawn.
        temperature: factor on the scale of the policy's skills; 0 takes their mean.
        policy: which of the actor's policies acts.
        label: goes into the episode's header as `phase`.
        skills: (K, Z), K > 0, skills to play instead of asking a policy; the episode is truncated when they are played.
        start: state (S,) to begin in, at rest; None is where the task begins.
    """

    task: Any
    embedding: Float32 = field(default_factory=lambda: np.zeros(0, np.float32))
    seed: int = 0
    temperature: float = 1.0
    policy: int = 0
    label: str = ""
    skills: Float32 | None = None
    start: Float32 | None = None


class SkillActor:
    """One frozen skill decoder under one or several skill policies."""

    def __init__(
        self, decoder: Decoder, policies: Sequence[SkillSource], horizon: int, control_period: float = 1.0
    ) -> None:
        """`horizon` control steps a skill; `control_period` [s] is for time stamps only."""
        self._decoder, self._policies = decoder.eval(), policies
        self._direct = decoder.net.direct() if isinstance(decoder, SkillDecoder) else None
        self.horizon, self.control_period = horizon, control_period

    def skills(self, policy: int, states: Float32, embeddings: Float32) -> tuple[Float32, Float32]:
        """Mean and scale (n, Z) of pi(z | s, e) for `states` (n, S) and `embeddings` (n, E)."""
        count = len(states)
        answer = self._policies[policy](_padded(states), _padded(embeddings))
        return answer.mean[:count].numpy(), answer.scale[:count].numpy()

    def actions(self, states: Float32, z: Float32) -> Float32:
        """Decoder's actions until it looks again (n, 1 or H, A), clipped to [-1, 1]."""
        if self._direct is not None:
            decoded = self._direct(torch.cat([_padded(states), _padded(z)], dim=1)).unsqueeze(1)
        else:
            decoded = self._decoder.decode(_padded(states).unsqueeze(1), _padded(z))
        actions: Float32 = decoded[: len(states)].clamp(-1.0, 1.0).numpy()
        return actions


class _Running:
    """An episode in the making."""

    def __init__(self, index: int, job: RolloutJob, observation: NDArray[Any]) -> None:
        self.index, self.job = index, job
        self.observations = [np.asarray(observation, np.float32)]
        self.actions: list[Float32] = []
        self.rewards: list[float] = []
        self.skills: list[Float32] = []
        self.starts: list[int] = []
        self.planned: deque[Float32] = deque()
        self._noise = np.random.default_rng([job.seed, 1])

    def draw_skill(self, mean: Float32, scale: Float32) -> None:
        noise = self._noise.standard_normal(len(mean), dtype=np.float32)
        self.begin_skill(mean + np.float32(self.job.temperature) * noise * scale)

    def begin_skill(self, z: Float32) -> None:
        self.starts.append(len(self.actions))
        self.skills.append(z)
        self.planned.clear()

    def played(self, horizon: int) -> bool:
        """Whether the job named its skills and this was the last step of the last one."""
        return self.job.skills is not None and len(self.actions) == horizon * len(self.job.skills)

    def finish(self, terminated: bool, truncated: bool, period: float) -> Episode:
        return Episode(
            observations=np.stack(self.observations),
            actions=np.stack(self.actions),
            rewards=np.array(self.rewards, np.float32),
            terminated=terminated,
            truncated=truncated,
            skills=np.stack(self.skills),
            skill_starts=np.array(self.starts, np.int64),
            time_stamps=period * np.arange(len(self.observations), dtype=np.float64),
            header={"task": str(self.job.task), "seed": self.job.seed, "phase": self.job.label},
        )


@torch.no_grad()
def collect(
    env: SlotEnv, actor: SkillActor, jobs: Sequence[RolloutJob], on_episode: Callable[[Episode], None] | None = None
) -> list[Episode]:
    """Make the episodes of `jobs`, as many at once as `env` has slots; a finished slot takes the next job.

    Args:
        env: where they are made.
        actor: who acts in them.
        jobs: any number.
        on_episode: told of each episode as it ends (in order of ending).

    Returns:
        Episodes in the order of `jobs`.

    Raises:
        ConfigError: the environment has no slot, or answers with an observation that is not finite.
    """
    if env.num_slots < 1:
        raise ConfigError(f"rollouts need an environment with at least one slot; this one has {env.num_slots}")
    waiting = deque(enumerate(jobs))
    running: dict[int, _Running] = {}
    episodes: list[Episode | None] = [None] * len(jobs)
    with torch_threads(1):
        while waiting or running:
            for slot in range(env.num_slots):
                if slot not in running and waiting:
                    index, job = waiting.popleft()
                    observation = env.reset(slot, job.task, job.seed)
                    if job.start is not None:
                        observation = env.place(slot, job.start)
                    running[slot] = _Running(index, job, observation)
            for slot, episode in _step(env, actor, running):
                episodes[running.pop(slot).index] = episode
                if on_episode is not None:
                    on_episode(episode)
    return [episode for episode in episodes if episode is not None]


def _step(env: SlotEnv, actor: SkillActor, running: dict[int, _Running]) -> list[tuple[int, Episode]]:
    """One control step of all running episodes; returns slots that ended with their episodes."""
    slots = sorted(running)
    rows = [running[slot] for slot in slots]
    _choose_skills(actor, [row for row in rows if len(row.actions) % actor.horizon == 0])
    _plan_actions(actor, [row for row in rows if not row.planned])
    actions = np.array([row.planned.popleft() for row in rows])
    result = env.step(np.array(slots, np.int64), actions)
    if not np.isfinite(result.observations).all():
        raise ConfigError(f"the environment answered with observations that are not finite in slots {slots}")
    ended = []
    for i, (slot, row) in enumerate(zip(slots, rows, strict=True)):
        row.observations.append(np.asarray(result.observations[i], np.float32))
        row.actions.append(actions[i].copy())
        row.rewards.append(float(result.rewards[i]))
        if result.terminated[i] or result.truncated[i] or row.played(actor.horizon):
            terminated = bool(result.terminated[i])
            ended.append((slot, row.finish(terminated, not terminated, actor.control_period)))
    return ended


def _choose_skills(actor: SkillActor, rows: Sequence[_Running]) -> None:
    for row in rows:
        if row.job.skills is not None:
            row.begin_skill(row.job.skills[len(row.skills)])
    asking = [row for row in rows if row.job.skills is None]
    for policy in sorted({row.job.policy for row in asking}):
        group = [row for row in asking if row.job.policy == policy]
        states = np.stack([row.observations[-1] for row in group])
        embeddings = np.stack([np.asarray(row.job.embedding, np.float32) for row in group])
        means, scales = actor.skills(policy, states, embeddings)
        for row, mean, scale in zip(group, means, scales, strict=True):
            row.draw_skill(mean, scale)


def _plan_actions(actor: SkillActor, rows: Sequence[_Running]) -> None:
    """Look at the state: a closed-loop decoder does so at every step, an open-loop one when a skill begins."""
    if rows:
        states, skills = np.array([row.observations[-1] for row in rows]), np.array([row.skills[-1] for row in rows])
        for row, actions in zip(rows, actor.actions(states, skills), strict=True):
            row.planned.extend(actions)


def _padded(rows: Float32) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(rows))
    missing = -len(tensor) % ROW_BLOCK
    return torch.cat([tensor, tensor.new_zeros(missing, tensor.shape[1])])
