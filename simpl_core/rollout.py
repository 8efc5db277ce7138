"""Hierarchical rollouts: many episodes at once over a vector environment, each with its own seed.

An episode depends on its job alone, bit for bit: its noise comes from the job's seed, and (on one thread, in padded
batches, with layers of 32 units or more) a row's policy outputs do not change with the rows beside it. So neither the
number of slots nor the order of jobs matters.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simpl_core.distributions import DiagonalGaussian
from simpl_core.episode import Episode, Float32
from simpl_core.errors import ConfigError
from simpl_core.learner import torch_threads
from simpl_core.networks import Decoder, SkillDecoder, SkillPrior

ROW_BLOCK = 16
"""Batches are padded to a multiple: a few rows alone, or the tail of a vector loop, round differently."""

FIRST_ROOM = 64
"""Skills of an episode for which there is room at first."""

_ENDLESS = np.iinfo(np.int64).max


Where: TypeAlias = NDArray[np.int64] | slice
"""Which slots."""


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
    """A high-level policy pi(z | s, e), which need not ask the frozen prior itself."""

    def __call__(self, state: Tensor, e: Tensor, prior: DiagonalGaussian) -> DiagonalGaussian:
        """`state` (B, S), `e` (B, E), p(z | s) -> Gaussian over z (B, Z)."""


def follow_prior(state: Tensor, e: Tensor, prior: DiagonalGaussian) -> DiagonalGaussian:
    """The policy that is the prior."""
    del state, e
    return prior


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
    """One frozen skill decoder under one or several skill policies, all on top of the same frozen skill prior."""

    def __init__(
        self,
        decoder: Decoder,
        prior: SkillPrior,
        policies: Sequence[SkillSource],
        horizon: int,
        control_period: float = 1.0,
    ) -> None:
        """`horizon` control steps a skill; `control_period` [s] is for time stamps only."""
        self._decoder, self._prior, self._policies = decoder.eval(), prior.direct(), policies
        self._direct = decoder.net.direct() if isinstance(decoder, SkillDecoder) else None
        self.horizon, self.control_period = horizon, control_period

    def skills(
        self, states: Float32, policies: Sequence[int], embeddings: Sequence[Float32]
    ) -> tuple[Float32, Float32]:
        """Mean and scale (n, Z) of pi(z | s, e) in each of `states` (n, S), as its policy says with its embedding."""
        prior, observed = self._prior(_padded(states)), torch.from_numpy(states)
        groups: defaultdict[int, list[int]] = defaultdict(list)
        for row, policy in enumerate(policies):
            groups[policy].append(row)
        means, scales = (np.empty((len(states), answer.shape[1]), np.float32) for answer in prior)
        for policy, rows in groups.items():
            block = rows + rows[:1] * (-len(rows) % ROW_BLOCK)
            index, e = torch.tensor(block), np.array([embeddings[row] for row in block], np.float32)
            before = DiagonalGaussian(prior.mean[index], prior.scale[index])
            answer = self._policies[policy](observed[index], torch.from_numpy(e), before)
            means[rows], scales[rows] = (part[: len(rows)].numpy() for part in answer)
        return means, scales

    def actions(self, states: Float32, z: Float32) -> Float32:
        """Decoder's actions until it looks again (n, 1 or H, A), clipped to [-1, 1]."""
        if self._direct is not None:
            decoded = self._direct(_padded(states, z)).unsqueeze(1)
        else:
            decoded = self._decoder.decode(_padded(states).unsqueeze(1), _padded(z))
        actions: Float32 = decoded[: len(states)].clamp(-1.0, 1.0).numpy()
        return actions


@dataclass(frozen=True)
class _Running:
    """An episode in the making: whose it is, what its skills are drawn with, and those so far."""

    index: int
    job: RolloutJob
    noise: np.random.Generator
    skills: list[Float32] = field(default_factory=list)


class _Table:
    """What running episodes saw and did: arrays of (time, slot, ...) out of which an episode is cut when it ends.

    One clock counts for all, so that what all do in a step is one row. Actions are written as they are planned: those
    of an open-loop decoder lie ahead of the clock.
    """

    def __init__(self, env: SlotEnv, horizon: int) -> None:
        room, slots = FIRST_ROOM * horizon, env.num_slots
        self.horizon, self.now, self.looks_ahead = horizon, 0, False
        self.running: dict[int, _Running] = {}
        self.began, self.ends = np.zeros(slots, np.int64), np.zeros(slots, np.int64)
        self.observations = np.zeros((room, slots, env.observation_size), np.float32)
        self.actions = np.zeros((room, slots, env.action_size), np.float32)
        self.rewards = np.zeros((room, slots), np.float32)
        self.z = np.zeros((slots, 0), np.float32)

    def begin(self, slot: int, running: _Running, observation: NDArray[Any]) -> None:
        self.running[slot] = running
        skills = running.job.skills
        self.began[slot] = self.now
        self.ends[slot] = _ENDLESS if skills is None else self.now + self.horizon * len(skills)
        self.observations[self.now, slot] = observation
        self._look_who_runs()

    def begin_skills(self, slots: Sequence[int], z: Float32) -> None:
        """Skills `z` (n, Z) begin in `slots`."""
        if self.z.shape[1] != z.shape[1]:
            self.z = np.zeros((len(self.z), z.shape[1]), np.float32)
        self.z[slots] = z
        for slot, skill in zip(slots, z, strict=True):
            self.running[slot].skills.append(skill)

    def plan(self, where: Where, actions: Float32) -> None:
        """From now on slots will play `actions` (n, 1 or H, A)."""
        ahead = actions.shape[1]
        self.looks_ahead = ahead > 1
        self.actions[self.now : self.now + ahead, where] = actions.swapaxes(0, 1)

    def add(self, result: StepResult) -> None:
        """All have played what was planned for now."""
        self.rewards[self.now, self.where] = result.rewards
        self.now += 1
        self.observations[self.now, self.where] = result.observations
        if self.now + self.horizon >= len(self.actions):
            self._make_room()

    def end(self, slot: int, terminated: bool, period: float) -> tuple[int, Episode]:
        """Index of the job in `slot` and its episode; the slot is idle then."""
        ended = self.running.pop(slot)
        self._look_who_runs()
        began, now = int(self.began[slot]), self.now
        return ended.index, Episode(
            observations=self.observations[began : now + 1, slot].copy(),
            actions=self.actions[began:now, slot].copy(),
            rewards=self.rewards[began:now, slot].copy(),
            terminated=terminated,
            truncated=not terminated,
            skills=np.stack(ended.skills),
            skill_starts=self.horizon * np.arange(len(ended.skills), dtype=np.int64),
            time_stamps=period * np.arange(now - began + 1, dtype=np.float64),
            header={"task": str(ended.job.task), "seed": ended.job.seed, "phase": ended.job.label},
        )

    def _look_who_runs(self) -> None:
        self.slots = np.array(sorted(self.running), np.int64)
        first = slice(len(self.running))  # numpy is quicker with a slice than with a list of all
        self.where: Where = first if max(self.running, default=-1) < len(self.running) else self.slots

    def _make_room(self) -> None:
        """Forget what was before the running episodes began; they and a skill more take half of the room at most."""
        first, room = int(self.began[self.slots].min()), len(self.actions)
        more = max(first, 2 * (self.now - first + self.horizon) - room + first)
        self.observations, self.actions, self.rewards = (
            np.concatenate([rows[first:], np.zeros((more, *rows.shape[1:]), np.float32)])
            for rows in (self.observations, self.actions, self.rewards)
        )
        self.now, self.began, self.ends = self.now - first, self.began - first, self.ends - first


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
    waiting, idle = deque(enumerate(jobs)), deque(range(env.num_slots))
    table = _Table(env, actor.horizon)
    episodes: dict[int, Episode] = {}
    with torch_threads(1):
        while waiting or table.running:
            while waiting and idle:
                slot, (index, job) = idle.popleft(), waiting.popleft()
                observation = env.reset(slot, job.task, job.seed)
                if job.start is not None:
                    observation = env.place(slot, job.start)
                table.begin(slot, _Running(index, job, np.random.default_rng([job.seed, 1])), observation)
            for slot, terminated in _step(env, actor, table):
                index, episodes[index] = table.end(slot, terminated, actor.control_period)
                idle.append(slot)
                if on_episode is not None:
                    on_episode(episodes[index])
    return [episodes[index] for index in range(len(jobs))]


def _step(env: SlotEnv, actor: SkillActor, table: _Table) -> list[tuple[int, bool]]:
    """One control step of all running episodes; returns slots whose episodes ended and whether the task ended them."""
    slots, where = table.slots, table.where
    beginning = slots[(table.now - table.began[where]) % table.horizon == 0]
    if len(beginning):
        _choose_skills(actor, table, beginning.tolist())
    if len(beginning) or not table.looks_ahead:
        # An open-loop decoder looks at the state when a skill begins, a closed-loop one at every step.
        looking = beginning if table.looks_ahead else where
        table.plan(looking, actor.actions(table.observations[table.now, looking], table.z[looking]))
    result = env.step(slots, table.actions[table.now, where])
    if not np.isfinite(result.observations).all():
        raise ConfigError(f"the environment answered with observations that are not finite in slots {slots.tolist()}")
    played = table.ends[where] == table.now + 1
    table.add(result)
    ended = result.terminated | result.truncated | played
    return list(zip(slots[ended].tolist(), result.terminated[ended].tolist(), strict=True))


def _choose_skills(actor: SkillActor, table: _Table, slots: Sequence[int]) -> None:
    """Skills begin in `slots`: those that a job names, or those that its policy draws."""
    asking = [slot for slot in slots if table.running[slot].job.skills is None]
    for slot in slots:
        job, begun = table.running[slot].job, len(table.running[slot].skills)
        if job.skills is not None:
            table.begin_skills([slot], job.skills[begun : begun + 1])
    if not asking:
        return
    rows = [table.running[slot] for slot in asking]
    jobs = [row.job for row in rows]
    states, embeddings = table.observations[table.now, asking], [job.embedding for job in jobs]
    means, scales = actor.skills(states, [job.policy for job in jobs], embeddings)
    noise = np.array([row.noise.standard_normal(means.shape[1], dtype=np.float32) for row in rows])
    temperatures = np.array([[job.temperature] for job in jobs], np.float32)
    table.begin_skills(asking, means + temperatures * noise * scales)


def _padded(*parts: Float32) -> Tensor:
    """Rows of `parts` side by side, in whole blocks."""
    count = len(parts[0])
    rows = torch.zeros(count + -count % ROW_BLOCK, sum(part.shape[1] for part in parts))
    np.concatenate(parts, axis=1, out=rows.numpy()[:count])
    return rows
