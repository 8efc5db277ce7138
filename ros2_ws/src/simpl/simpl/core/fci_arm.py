"""A Franka arm over its own network protocol (FCI), as a ros2_control velocity controller would be. Pure: no ROS.

The arm holds each velocity for a moment and then brakes by itself, so silence stops it. Whatever stops it otherwise, a
reflex or a lost connection, stays until somebody asks to `recover`, and even then nothing moves before a command of
zeros has come: what was wanted before the stop is not what is wanted after it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from simpl.core.profile import RobotProfile
from simpl_core.errors import SimplError

FloatArray = NDArray[np.float64]
T = TypeVar("T")

_ROUNDING = 1e-9  # a command on a limit is within it [rad/s]


class ArmStoppedError(SimplError):
    """The arm stopped by itself, and wants to be recovered."""


class ArmLostError(SimplError):
    """Nobody answers: no network, no power, or another program has the arm."""


class Reading(NamedTuple):
    """State of the joints: position [rad] and velocity [rad/s], both (A,)."""

    position: FloatArray
    velocity: FloatArray


class Connection(Protocol):
    """One session with an arm. Everything may raise `ArmStoppedError` or `ArmLostError`."""

    def stream(self, velocity: FloatArray) -> None:
        """Go on at this velocity (A,) [rad/s], for a short while."""

    def check(self) -> None:
        """Raises what stopped the motion under way, if anything has."""

    def read(self) -> Reading:
        """The newest state."""

    def recover(self) -> None:
        """Leave a reflex."""

    def close(self) -> None:
        """Brake to a stop and end the session."""


class Condition(enum.Enum):
    """What an arm can do now."""

    READY = "ready"
    STOPPED = "stopped by itself"
    LOST = "connection lost"


class FciArm:
    """Executes velocity commands where that is possible, and says why where it is not.

    Args:
        connect: opens a session.
        profile: names and limits of the arm; commands beyond them are dropped, not clipped: a guard has let them pass
            and is broken.

    Raises:
        ArmLostError: the arm cannot be reached.
    """

    def __init__(self, connect: Callable[[], Connection], profile: RobotProfile) -> None:
        self._connect = connect
        self._profile = profile
        self._velocity = profile.velocity_limits() + _ROUNDING
        self._lowest, self._highest = profile.position_ends()
        self._session: Connection | None = connect()
        self._position: FloatArray | None = None
        self._armed = False
        self._told_to_stop = True
        self.condition = Condition.READY
        self.reason = ""
        self.commands = 0
        self.dropped = 0
        self.stops = 0

    def command(self, velocity: FloatArray) -> str:
        """Take a command (A,) [rad/s]; gives why it is not executed, or "" when it is."""
        self.commands += 1
        problem = self._problem(velocity)
        if problem:
            self.dropped += 1
            return problem
        self._armed = self._armed or not velocity.any()
        # Zeros to an arm at rest would begin a motion of nothing, and release and set its brakes; zeros to one that
        # brakes already would plan its braking anew, and later.
        if velocity.any() or not self._told_to_stop:
            self._told_to_stop = not velocity.any()
            self._attempt(lambda: self._connection().stream(velocity))
        return ""

    def read(self) -> Reading | None:
        """The newest state; None when the arm does not say."""
        if self.condition is Condition.READY:
            self._attempt(lambda: self._connection().check())
        if self.condition is Condition.LOST:
            return None
        reading = self._attempt(lambda: self._connection().read())
        self._position = None if reading is None else reading.position
        return reading

    def recover(self) -> str:
        """Make the arm ready again, with a new connection if the old one is lost; gives why it is not, or ""."""
        if self.condition is Condition.READY:
            return ""
        try:
            if self.condition is Condition.LOST:
                self._session = None  # an arm grants one, and may not have noticed that this one is lost
                self._session = self._connect()
            self._connection().recover()
        except SimplError as error:
            self._note(error)
            return self.reason
        self.condition, self.reason, self._armed, self._told_to_stop = Condition.READY, "", False, True
        return ""

    def close(self) -> None:
        """Brake and leave the arm."""
        if self.condition is not Condition.LOST:
            self._attempt(lambda: self._connection().close())

    def _problem(self, velocity: FloatArray) -> str:
        """Why a command must not be executed."""
        if velocity.shape != self._velocity.shape:
            return f"{velocity.size} velocities came, wanted {self._velocity.size}"
        if not np.isfinite(velocity).all():  # before any comparison, which NaN passes
            return "a velocity is not finite"
        if self.condition is not Condition.READY:
            return f"the arm is not ready ({self.condition.value}: {self.reason}); recover it"
        if not velocity.any():
            return ""
        if not self._armed:
            return "the arm waits for a command of zeros before the first motion"
        if self._position is None:
            return "the arm's position is not known yet"
        for index, joint in enumerate(self._profile.joints):
            wanted, position = velocity[index], self._position[index]
            if abs(wanted) > self._velocity[index]:
                return f"{joint.name}: {wanted:.4f} {joint.unit}/s is beyond the profile's {joint.velocity}"
            end = self._highest[index] if wanted > 0.0 else self._lowest[index]
            if wanted and (position - end) * wanted >= 0.0:
                return f"{joint.name} is at {position:.4f} {joint.unit}, its end, and was to go on"
        return ""

    def _connection(self) -> Connection:
        if self._session is None:
            raise ArmLostError("the connection is lost")
        return self._session

    def _attempt(self, action: Callable[[], T]) -> T | None:
        """Do it; an arm that stops or is lost is a condition, not an error of ours."""
        try:
            return action()
        except SimplError as error:
            self._note(error)
            return None

    def _note(self, error: SimplError) -> None:
        was = self.condition
        self.condition = Condition.LOST if isinstance(error, ArmLostError) else Condition.STOPPED
        self.reason = str(error)
        self.stops += was is Condition.READY
