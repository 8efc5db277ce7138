"""What goes into the guard and what comes out of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simpl.core.motion_limits import Flags

FloatArray = NDArray[np.float64]


class Mode(enum.IntEnum):
    """What the guard does with actions; values as in GuardState.msg."""

    RUNNING = 0
    STOPPED = 1
    FAULT = 2
    ESTOP = 3
    PAUSED = 4


HELD = (Mode.FAULT, Mode.ESTOP, Mode.PAUSED)
"""Modes that only a person ends."""


class Held(NamedTuple):
    """A stop that only a person ends, and why; and whether the arm is `paused` when it has ended."""

    mode: Mode
    reason: str
    paused: bool = False


class Wanted(NamedTuple):
    """What one action asks for.

    Attributes:
        velocity: anything that should be (A,) numbers [rad/s, m/s].
        tick: of the policy.
        episode: number of the episode.
        step: of the model within it.
        active: False at the end of an episode.
        age: of the state that it was computed from, seen from the newest one [s].
        joints: names of the joints in the order of `velocity`; empty when the sender does not say.
        substep: control period within the step.
    """

    velocity: Any
    tick: int
    episode: int
    step: int
    active: bool
    age: float = 0.0
    joints: tuple[str, ...] = ()
    substep: int = 0

    @property
    def starts(self) -> bool:
        """Whether an episode starts with it."""
        return self.step == 0 and self.substep == 0


class Command(NamedTuple):
    """What goes to the controller, and why.

    Attributes:
        velocity: (A,), finite and within limits [rad/s, m/s].
        tick: of the action behind it, 0 when there is none.
        mode: after this command.
        flags: all that apply to this command.
        reason: the same for people; empty in normal operation.
        paused: `guard/resume` is still to come, whatever else holds the arm.
    """

    velocity: FloatArray
    tick: int
    mode: Mode
    flags: Flags
    reason: str
    paused: bool = False


class TrajectoryPoint(NamedTuple):
    """Position (A,) [rad, m] and velocity (A,) [rad/s, m/s] at `time` from now [s]."""

    position: FloatArray
    velocity: FloatArray
    time: float


class Answer(NamedTuple):
    """Whether a request was granted, and why not; with it a command to send, for everybody to hear of it."""

    success: bool
    message: str
    command: Command | None = None


@dataclass(frozen=True)
class GuardSettings:
    """Times of the guard's watchdogs, all on the steady clock.

    Attributes:
        action_timeout: longest silence of the policy while the arm moves, and the oldest state it may act on [s].
        state_timeout: oldest joint state to move on [s].
        zero_repeat: zeros are sent again this often while the arm is stopped [s]; 0 sends them once.
        look: time between two looks of the watchdogs [s].
        lockstep: a period of the arm passes between two commands, however long that takes by the clock.
    """

    action_timeout: float = 0.16
    state_timeout: float = 0.16
    zero_repeat: float = 0.0
    look: float = 0.02
    lockstep: bool = False
