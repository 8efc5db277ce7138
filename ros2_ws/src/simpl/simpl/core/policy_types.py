"""What goes into the policy's control loop and what comes out of it: models, settings, ticks, health."""

from __future__ import annotations

import math
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from simpl.core.interpolation import Interpolation
from simpl_core.errors import SimplError

FloatArray = NDArray[np.float32]

NOTHING: FloatArray = np.empty(0, dtype=np.float32)
"""Skill or embedding where there is none."""


class Decision(Protocol):
    """What a runner answers: see export.runtime.SkillAction."""

    @property
    def action(self) -> FloatArray:
        """Normalised (A,), within the model's limits."""

    @property
    def z(self) -> FloatArray:
        """Skill in force (Z,)."""

    @property
    def skill_start(self) -> bool:
        """Whether it was chosen in this step."""


class Runner(Protocol):
    """A policy that can be ticked: see export.runtime.PolicyRunner."""

    def begin_episode(self, e: FloatArray, seed: int, temperature: float = 1.0) -> None:
        """Start over with task embedding `e` (E,)."""

    def act(self, observation: FloatArray) -> Decision | None:
        """The action for an observation (S,); None when there is nothing more to do, which ends the episode."""


class LoadedModel(NamedTuple):
    """A verified, warmed up policy and what its numbers mean.

    Attributes:
        runner: ready to act.
        version: content-addressed model version.
        e_dim: size of a task embedding.
        action_scale: velocity of each joint at action 1 (A,) [rad/s, m/s].
        periods: control periods that an action lasts; commands in between are interpolated.
        arithmetic: that its networks compute in, such as "float32".
    """

    runner: Runner
    version: str
    e_dim: int
    action_scale: NDArray[np.float64]
    periods: int = 1
    arithmetic: str = ""


class PolicyTick(NamedTuple):
    """One tick, to be published: field by field as in PolicyAction.msg; stamp in [ns], latency in [ms]."""

    stamp: int
    tick: int
    episode: int
    step: int
    observation: FloatArray
    z: FloatArray
    e: FloatArray
    skill_start: bool
    action: FloatArray
    velocity: NDArray[np.float64]
    model_version: str
    latency: float
    active: bool
    substep: int = 0


class LoopStatus(NamedTuple):
    """Health of the loop, as in PolicyStatus.msg; latencies in [ms]; `arithmetic` of the model that acts."""

    state: str
    model_version: str
    staged_version: str
    ticks: int
    missed: int
    rate_hz: float
    latency_p50: float
    latency_p99: float
    reason: str = ""
    arithmetic: str = ""


@dataclass(frozen=True)
class LoopSettings:
    """How the loop ticks.

    Attributes:
        rate_hz: control rate, commands a second [Hz].
        lockstep: tick per new stamp instead of per period.
        max_steps: actions in an episode; the tick after them only reports the last observation.
        state_timeout: oldest state a real-time tick acts on [s].
        settle_timeout: in lockstep, longest wait for the plant's answer to the last command [s].
        resend_after: in lockstep, an action is sent again when the plant has not moved on for so long [s]; it was
            lost, or whoever should pass it on has died and come back.
        hang_timeout: a tick that takes longer hangs [s].
    """

    rate_hz: float = 12.5
    lockstep: bool = False
    max_steps: int = 280
    state_timeout: float = 0.2
    settle_timeout: float = 0.5
    resend_after: float = 5.0
    hang_timeout: float = 2.0

    def check(self, model: LoadedModel) -> None:
        """Whether `model` can act so.

        Raises:
            SimplError: its actions last several control periods, and in lockstep a plant lets each last one.
        """
        if self.lockstep and model.periods != 1:
            raise SimplError(
                f"an action of model {model.version[:12]} lasts {model.periods} control periods; in lockstep the "
                "control rate of the robot profile must be the model's"
            )


@dataclass
class Episode:
    """An episode under way, or the way home.

    Attributes:
        number: 0 for the way home.
        e: task embedding (E,).
        model: that acts.
        max_steps: actions in it.
        over: done once the arm was told to stop.
        step: actions so far.
        substep: commands of the action under way before the last one.
        last: the tick sent last.
        decision: the action under way.
        sent_at: when that was [s].
        ending: somebody has asked for its end.
        end_by: when it ends also without a new state [s].
        commands: between its actions.
    """

    number: int
    e: FloatArray
    model: LoadedModel
    max_steps: int
    over: Future[None] = field(default_factory=Future)
    step: int = 0
    substep: int = 0
    last: PolicyTick | None = None
    decision: Decision | None = None
    sent_at: float = -math.inf
    ending: bool = False
    end_by: float = math.inf
    commands: Interpolation = field(init=False)

    def __post_init__(self) -> None:
        self.commands = Interpolation(self.model.periods, self.model.action_scale.size)

    @property
    def last_stamp(self) -> int | None:
        """Of the state acted on last [ns]."""
        return self.last.stamp if self.last else None


@dataclass
class Settling:
    """In lockstep, the wait for the plant's answer to an episode's last command.

    Attributes:
        stamp: of the state that the command was sent for [ns].
        until: longest wait [s].
        waiting: told whether the plant has answered.
    """

    stamp: int
    until: float
    waiting: list[Future[bool]] = field(default_factory=list)


class Window:
    """The last numbers of a stream, in memory that does not grow."""

    def __init__(self, size: int = 4096) -> None:
        self._values = np.zeros(size)
        self._count = 0

    def add(self, value: float) -> None:
        """Keep a value; the oldest goes when there is no room."""
        self._values[self._count % self._values.size] = value
        self._count += 1

    def quantile(self, level: float) -> float:
        """Quantile of what is kept, 0 when there is nothing."""
        kept = self._values[: min(self._count, self._values.size)]
        return float(np.quantile(kept, level)) if kept.size else 0.0

    def rate(self, now: float, span: float = 2.0) -> float:
        """Events a second among the values (times) of the last `span` seconds."""
        kept = self._values[: min(self._count, self._values.size)]
        recent = kept[kept > now - span]
        if recent.size < 2:
            return 0.0
        return float((recent.size - 1) / max(recent.max() - recent.min(), 1e-9))
