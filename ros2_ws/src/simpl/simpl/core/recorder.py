"""From ticks of the policy and records of the guard to transitions of one episode."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

from sim.tasks import parse_kitchen_task
from simpl.core.commands import EpisodeDone
from simpl.core.guard import Flags, Mode
from simpl.core.labels import Label, Rewards, make_rewards
from simpl.core.plan import RunPlan
from simpl.core.policy_types import PolicyTick
from simpl.core.transition import Float64, Transition
from simpl.graph import OPERATOR, REWARD_MODEL
from simpl_core.errors import InferenceError

GUARD_WAIT = 2.0
"""[s] after which the guard's record of an action counts as lost."""
GUARD_MEMORY = 1024
"""Guard records kept while their actions have not come."""

_LATE = Flags.STALE_ACTION | Flags.STALE_STATE
_UNKNOWN: Float64 = np.zeros(0)


class GuardRecord(NamedTuple):
    """What a GuardState says of one action: the executed velocity (A,), and why it differs from the wanted.

    Attributes:
        tick: of the action; 0 for a command that no action caused.
    """

    tick: int
    flags: int
    velocity: Float64
    mode: Mode = Mode.RUNNING
    reason: str = ""


class _Open(NamedTuple):
    transition: Transition
    ticks: tuple[int, ...]
    since: float


class EpisodeRecorder:
    """Builds the transitions of one episode, in order, each once both its ends are known.

    Transition k is (observation k, action k, observation k+1), so it exists when tick k+1 has come; the reward is
    the subtasks that observation k+1 newly pays. `over` is decided by that observation as well. Actions that come
    after the end, twice, or for another episode are ignored. Transitions carry no identity yet. A transition whose
    action the guard did not let through, or did not report on, is none, and breaks the episode. Only by the wall clock
    what came late is borne and flagged: a pause, or an action that a newer one overtook on its way to the guard. (In
    lockstep the zeros of a pause let time pass unseen.)

    Where a step of the model lasts several control periods, its velocities are means over them, its flags those of all.

    A label ends the episode with the next observation and decides the last transition. Where one is waited for
    (`asks`), that transition is kept back at the end of the episode until `label` or `settle`.

    Attributes:
        rewards: what pays for observations.
        label: of the operator, if there is one.
        asks: the last transition waits for a label.
        broken: why the episode cannot be used, empty while it can: an action was lost, the policy changed, or the
            guard stopped the arm.
        steps: transitions built.
        interventions: those whose command the guard changed.
        score: sum of the rewards of those taken.
    """

    def __init__(self, episode: int, phase: str, plan: RunPlan, rewards: Rewards | None = None) -> None:
        """`episode` is the number given to the policy; `rewards` are the plan's own unless given."""
        self.episode = episode
        self._task = parse_kitchen_task(plan.task)
        self.rewards = rewards or make_rewards(plan.reward, self._task)
        self.label: Label | None = None
        self.asks = plan.asks
        self._phase, self._source = phase, plan.reward
        self._max_steps, self._lockstep = plan.max_steps, plan.lockstep
        self._undecided: Transition | None = None  # the last one, until a label decides it or none is waited for
        self._last: PolicyTick | None = None
        self._step: list[PolicyTick] = []  # `_last` and the ticks of its step after it
        self._open: deque[_Open] = deque()
        self._guard: dict[int, GuardRecord] = {}
        self._newest_guard = 0
        self._moving = False
        self._pauses = 0  # flags of the guard's stops since the last transition
        self.over = False
        self.broken = ""
        self.steps = 0
        self.interventions = 0
        self.score = 0.0
        self.model_version = ""

    @property
    def complete(self) -> bool:
        """The episode is over and all its transitions were taken."""
        return self.over and not self._open and not self.broken and self._undecided is None

    @property
    def undecided(self) -> Transition | None:
        """The last transition, when all is there and it waits for a label."""
        return self._undecided

    def settle(self) -> None:
        """No label will come: what observations have paid stands; where they pay nothing, nobody can learn from it."""
        self.asks = False
        if self._source == OPERATOR and self.label is None:
            self.label = Label.DISCARD

    def result(self, wall_seconds: float) -> EpisodeDone:
        """Of a complete episode that took `wall_seconds` from its reset."""
        done = int(self.score) if self._source != REWARD_MODEL else 0  # a model's sum counts no subtasks
        done = len(self._task) if self.label is Label.SUCCESS else done
        return EpisodeDone(
            self.episode,
            self._phase,
            self.score,
            self.steps,
            self.model_version,
            done == len(self._task),
            self.interventions,
            wall_seconds,
            self._task.subtasks[:done],
            self.label.value if self.label else "",
        )

    def on_action(self, action: PolicyTick, now: float) -> None:
        """Take a tick of the policy, at time `now` [s]."""
        if action.episode != self.episode or self.over or self.broken:
            return
        last = self._last
        if action.substep:
            if last is not None and action.step == last.step:
                self._step.append(action)
            return
        expected = 0 if last is None else last.step + 1
        if action.step < expected:
            return
        self.broken = self._fault(action, expected)
        if self.broken:
            return
        if last is not None:
            self._close_step(last, action, now)
        self._last, self._step = action, [action]

    def on_guard(self, guard: GuardRecord) -> None:
        """Take a record of the guard; it may come before the action it belongs to."""
        stopped, self._moving = self._moving and guard.mode is not Mode.RUNNING, guard.mode is Mode.RUNNING
        if guard.tick == 0:
            if stopped and not self.over and self._bears(guard):
                self._pauses |= guard.flags
            elif stopped and not self.over:
                self._break(f"the guard stopped the arm: {guard.reason}")
            return
        self._newest_guard = max(self._newest_guard, guard.tick)
        self._guard[guard.tick] = guard
        if len(self._guard) > GUARD_MEMORY:
            del self._guard[next(iter(self._guard))]

    def take(self, now: float) -> list[Transition]:
        """Transitions that are finished, in order, each once."""
        taken = []
        while self._open:
            transition, ticks, since = self._open[0]
            records = self._records(ticks)
            if records is None:
                if self._newest_guard >= ticks[-1] or now - since >= GUARD_WAIT:
                    self._break(f"the guard's record of step {transition.step} did not arrive")
                break
            stop = next((record for record in records if not self._bears(record)), None)
            if stop is not None:
                self._break(f"the guard stopped the arm at step {transition.step}: {stop.reason}")
                break
            self._execute(transition, records)
            self.interventions += transition.guard_flags != 0
            self._open.popleft()
            if self.over and not self._open:
                self._undecided = transition
                break
            self.score += transition.reward
            taken.append(transition)
        if self._undecided is not None and (self.label is not None or not self.asks):
            taken.append(self._judged(self._undecided))
            self._undecided = None
        return taken

    def _records(self, ticks: tuple[int, ...]) -> list[GuardRecord] | None:
        """What the guard did with the actions of a step; None while one of its records is missing."""
        if not all(tick in self._guard for tick in ticks):
            if self._lockstep or self._newest_guard < ticks[-1]:
                return None
            # Records come in order: a newer action came before that one was looked at.
            for tick in ticks:
                self._guard.setdefault(tick, GuardRecord(tick, Flags.STALE_ACTION, _UNKNOWN))
        return [self._guard.pop(tick) for tick in ticks]

    def _execute(self, transition: Transition, records: list[GuardRecord]) -> None:
        """What was done in the transition's step, and why it differs from what was wanted."""
        known = [record.velocity for record in records if record.velocity.size]
        if known:
            transition.velocity_executed = np.mean(known, axis=0)
        for record in records:
            transition.guard_flags |= record.flags
        transition.guard_flags |= self._pauses
        self._pauses = 0

    def _judged(self, last: Transition) -> Transition:
        """The last transition, by the label if there is one."""
        if self.label is Label.DISCARD:
            last.terminated = last.truncated = False
        elif self.label is not None:
            success = self.label is Label.SUCCESS
            last.reward, last.reward_source = max(0.0, len(self._task) - self.score) * success, OPERATOR
            last.terminated = success or not last.truncated
            last.truncated = not last.terminated
        self.score += last.reward
        return last

    def _bears(self, guard: GuardRecord) -> bool:
        """Whether the episode goes on with this."""
        pause = guard.mode is Mode.STOPPED and bool(guard.flags & _LATE)
        return guard.mode is Mode.RUNNING or (pause and not self._lockstep)

    def _break(self, reason: str) -> None:
        """What is not known to have been executed as it was wanted is not learned from."""
        self.broken = self.broken or reason
        self._open.clear()

    def _fault(self, action: PolicyTick, expected: int) -> str:
        if action.step > expected:
            return f"the policy's actions {expected} to {action.step - 1} did not arrive"
        if self._last is not None and action.tick <= self._last.tick:
            return "the policy was restarted"
        if not action.active and action.step < self._max_steps and self.label is None:
            return f"the policy stopped at step {action.step} of {self._max_steps}"
        return "" if np.isfinite(action.observation).all() else f"observation {action.step} is not finite"

    def _close_step(self, last: PolicyTick, action: PolicyTick, now: float) -> None:
        try:
            reward = self.rewards.update(action.observation)
        except InferenceError as error:
            self._break(str(error))
            return
        terminated = self.rewards.done
        truncated = not terminated and action.step >= self._max_steps
        self.over = terminated or truncated or self.label is not None
        self.steps += 1
        self.model_version = last.model_version
        wanted = np.mean([tick.velocity for tick in self._step], axis=0)
        draft = Transition(
            "", 0, 0, last.stamp, self.episode, last.step, self._phase, str(self._task), last.model_version,
            last.skill_start, last.z, last.e, last.observation, action.observation, last.action, wanted,
            _UNKNOWN, 0, reward, self._source, terminated, truncated,
        )  # fmt: skip
        self._open.append(_Open(draft, tuple(tick.tick for tick in self._step), now))
