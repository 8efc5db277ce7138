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
_TICKS = 256
"""Of room on a fresh tape."""
_NEVER = -1
"""No age of an episode."""


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


@dataclass
class _Running:
    """An episode in the making, but for what is on the tape."""

    index: int
    job: RolloutJob
    noise: np.random.Generator
    skills: list[Float32] = field(default_factory=list)


class _Tape:
    """What every slot saw, did and earned, tick by tick: an episode is a stretch of its slot's column."""

    def __init__(self, env: SlotEnv) -> None:
        self.ticks = 0
        self._observations = np.zeros((_TICKS + 1, env.num_slots, env.observation_size), np.float32)
        self._actions = np.zeros((_TICKS, env.num_slots, env.action_size), np.float32)
        self._rewards = np.zeros((_TICKS, env.num_slots), np.float32)

    def begin(self, slot: int, observation: NDArray[Any]) -> None:
        self._observations[self.ticks, slot] = observation

    def seen(self, slots: NDArray[np.int64]) -> Float32:
        """The latest observations of `slots` (n,), (n, S)."""
        latest: Float32 = self._observations[self.ticks, slots]
        return latest

    def append(self, slots: NDArray[np.int64], actions: Float32, result: StepResult) -> None:
        self._actions[self.ticks, slots] = actions
        self._rewards[self.ticks, slots] = result.rewards
        self.ticks += 1
        self._observations[self.ticks, slots] = result.observations

    def cut(self, slot: int, since: int) -> tuple[Float32, Float32, Float32]:
        """Observations (T + 1, S), actions (T, A) and rewards (T,) of `slot` from tick `since` on."""
        now = self.ticks
        return (
            self._observations[since : now + 1, slot].copy(),
            self._actions[since:now, slot].copy(),
            self._rewards[since:now, slot].copy(),
        )

    def make_room(self, oldest: int) -> int:
        """Have room for a tick; returns by how many ticks, none of them after `oldest`, everything has moved up."""
        if self.ticks < len(self._rewards):
            return 0
        if oldest > 0:
            for column in (self._observations, self._actions, self._rewards):
                column[: len(column) - oldest] = column[oldest:].copy()
            self.ticks -= oldest
            return oldest
        self._observations, self._actions, self._rewards = (
            np.concatenate([column, np.zeros((self.ticks, *column.shape[1:]), np.float32)])
            for column in (self._observations, self._actions, self._rewards)
        )
        return 0


class _Lockstep:
    """All episodes that are under way, a step at a time."""

    def __init__(self, env: SlotEnv, actor: SkillActor) -> None:
        self._env, self._actor = env, actor
        self._running: dict[int, _Running] = {}
        self._tape = _Tape(env)
        self._since = np.zeros(env.num_slots, np.int64)  # ticks on the tape at which they began
        self._last = np.zeros(env.num_slots, np.int64)  # steps after which their named skills are played
        self._z = np.zeros((env.num_slots, 0), np.float32)
        self._plans = np.zeros((env.num_slots, 1, env.action_size), np.float32)

    @property
    def idle(self) -> list[int]:
        """Slots that may begin an episode."""
        return [slot for slot in range(self._env.num_slots) if slot not in self._running]

    def begin(self, slot: int, index: int, job: RolloutJob) -> None:
        observation = self._env.reset(slot, job.task, job.seed)
        if job.start is not None:
            observation = self._env.place(slot, job.start)
        self._running[slot] = _Running(index, job, np.random.default_rng([job.seed, 1]))
        self._tape.begin(slot, observation)
        self._since[slot] = self._tape.ticks
        self._last[slot] = _NEVER if job.skills is None else self._actor.horizon * len(job.skills)

    def step(self) -> list[tuple[int, Episode]]:
        """One control step of them all; returns those that ended, with the places of their jobs."""
        slots = np.array(sorted(self._running), np.int64)
        self._since -= self._tape.make_room(int(self._since[slots].min()))
        ages = self._tape.ticks - self._since[slots]
        states = self._tape.seen(slots)
        begins = ages % self._actor.horizon == 0
        if begins.any():
            self._choose_skills(slots[begins], states[begins])
        reach = self._plan_actions(slots, ages, states)
        actions = self._plans[slots, ages % reach]
        result = self._env.step(slots, actions)
        if not np.isfinite(result.observations).all():
            raise ConfigError(f"the environment answered with observations that are not finite in slots {slots}")
        self._tape.append(slots, actions, result)
        over = result.terminated | result.truncated | (ages + 1 == self._last[slots])
        return [self._finish(int(slots[i]), bool(result.terminated[i])) for i in np.flatnonzero(over)]

    def _choose_skills(self, slots: NDArray[np.int64], states: Float32) -> None:
        """New skills for `slots` (n,), which are in `states` (n, S)."""
        asking: dict[int, list[int]] = {}
        for row, slot in enumerate(slots.tolist()):
            run = self._running[slot]
            if run.job.skills is None:
                asking.setdefault(run.job.policy, []).append(row)
            else:
                self._begin_skill(slot, run.job.skills[len(run.skills)])
        for policy, rows in sorted(asking.items()):
            runs = [self._running[slot] for slot in slots[rows].tolist()]
            embeddings = np.array([run.job.embedding for run in runs], np.float32)
            means, scales = self._actor.skills(policy, states[rows], embeddings)
            for slot, run, mean, scale in zip(slots[rows].tolist(), runs, means, scales, strict=True):
                noise = run.noise.standard_normal(len(mean), dtype=np.float32)
                self._begin_skill(slot, mean + np.float32(run.job.temperature) * noise * scale)

    def _begin_skill(self, slot: int, z: Float32) -> None:
        if self._z.shape[1] != len(z):
            self._z = np.zeros((len(self._z), len(z)), np.float32)
        self._z[slot] = z
        self._running[slot].skills.append(z)

    def _plan_actions(self, slots: NDArray[np.int64], ages: NDArray[np.int64], states: Float32) -> int:
        """Look at the state: a closed-loop decoder does so at every step, an open-loop one when a skill begins.

        Returns how many steps a plan is for.
        """
        due = ages % self._plans.shape[1] == 0
        if due.any():
            plans = self._actor.actions(states[due], self._z[slots[due]])
            if self._plans.shape[1] != plans.shape[1]:
                self._plans = np.zeros((len(self._plans), *plans.shape[1:]), np.float32)
            self._plans[slots[due]] = plans
        return self._plans.shape[1]

    def _finish(self, slot: int, terminated: bool) -> tuple[int, Episode]:
        run = self._running.pop(slot)
        observations, actions, rewards = self._tape.cut(slot, int(self._since[slot]))
        return run.index, Episode(
            observations=observations,
            actions=actions,
            rewards=rewards,
            terminated=terminated,
            truncated=not terminated,
            skills=np.stack(run.skills),
            skill_starts=np.arange(len(run.skills), dtype=np.int64) * self._actor.horizon,
            time_stamps=self._actor.control_period * np.arange(len(observations), dtype=np.float64),
            header={"task": str(run.job.task), "seed": run.job.seed, "phase": run.job.label},
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
    episodes: dict[int, Episode] = {}
    lockstep = _Lockstep(env, actor)
    with torch_threads(1):
        while len(episodes) < len(jobs):
            if waiting:
                for slot in lockstep.idle[: len(waiting)]:
                    lockstep.begin(slot, *waiting.popleft())
            for index, episode in lockstep.step():
                episodes[index] = episode
                if on_episode is not None:
                    on_episode(episode)
    return [episodes[index] for index in range(len(jobs))]


def _padded(rows: Float32) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(rows))
    missing = -len(tensor) % ROW_BLOCK
    return torch.cat([tensor, tensor.new_zeros(missing, tensor.shape[1])])
