"""Velocity, acceleration and position limits of an arm, applied to one wanted velocity. Pure."""

from __future__ import annotations

import enum

import numpy as np
from numpy.typing import NDArray

from simpl.core.profile import RobotProfile

FloatArray = NDArray[np.float64]

_FAR = 1e6  # stands for infinite room: [rad or m]
_MEASURABLE = 1e-3  # smaller differences of velocity change nothing that an arm does [rad/s, m/s]


class Flags(enum.IntFlag):
    """Why a command is what it is; values as in GuardState.msg."""

    NONE = 0
    NONFINITE = 1
    WRONG_SIZE = 2
    VELOCITY_LIMIT = 4
    POSITION_LIMIT = 8
    ACCELERATION_LIMIT = 16
    STALE_ACTION = 32
    STALE_STATE = 64
    EPISODE_END = 128
    ESTOP = 256
    SHUTDOWN = 512
    FAULT = 1024
    SECOND_PUBLISHER = 2048
    INVALID_STATE = 4096


class MotionLimits:
    """Velocity, acceleration and position limits of a profile, applied in this order.

    The velocity limit scales the whole vector, so the direction of motion stays; the position limit slows the one
    joint that is near its end, so that the others go on and that joint may come back. It is flagged where it asks for
    more than the arm's own end: what is cut off beyond that, no arm would have done either.

    Args:
        profile: limits of the arm.
    """

    def __init__(self, profile: RobotProfile) -> None:
        self._velocity = profile.velocity_limits()
        self._acceleration = profile.acceleration_limits()
        self._accelerates = bool(np.isfinite(self._acceleration).any())
        self._low, self._high = profile.position_bounds()
        self._lowest, self._highest = profile.position_ends()
        self._period = profile.period

    def apply(self, wanted: FloatArray, previous: FloatArray, position: FloatArray) -> tuple[FloatArray, Flags]:
        """The nearest velocity that keeps the limits.

        Args:
            wanted: finite velocity (A,) [rad/s, m/s].
            previous: the last command (A,).
            position: of the joints (A,) [rad, m].

        Returns:
            The velocity (A,) and the limits that changed it.
        """
        flags, velocity = Flags.NONE, wanted
        excess = float((np.abs(velocity) / self._velocity).max())
        if excess > 1.0:
            # Rounding may leave the product one ulp above the limit.
            velocity = np.clip(velocity / excess, -self._velocity, self._velocity)
            flags |= Flags.VELOCITY_LIMIT
        if self._accelerates:
            change = velocity - previous
            excess = float((np.abs(change) / (self._acceleration * self._period)).max())
            if excess > 1.0:
                velocity = previous + change / excess
                flags |= Flags.ACCELERATION_LIMIT
        highest = self._stoppable(self._high - position)
        lowest = -self._stoppable(position - self._low)
        if (velocity > highest).any() or (velocity < lowest).any():
            # Beyond a limit both bounds hold at once only for motion back inside.
            slowed = np.clip(velocity, lowest, highest)
            if (np.abs(slowed - self._possible(velocity, position)) > _MEASURABLE).any():
                flags |= Flags.POSITION_LIMIT
            velocity = slowed
        return velocity, flags

    def _possible(self, velocity: FloatArray, position: FloatArray) -> FloatArray:
        """What an arm makes of `velocity` (A,) in a period by itself: at its end it stands."""
        room_down, room_up = (np.clip(room, 0.0, _FAR) for room in (position - self._lowest, self._highest - position))
        return np.clip(velocity, -room_down / self._period, room_up / self._period)

    def _stoppable(self, room: FloatArray) -> FloatArray:
        """Highest speed (A,) that, held for a period and then braked, ends within `room` (A,).

        Solves v T + v^2 / (2 a) = room for v; T is the period, a the acceleration limit (infinite without one).
        """
        room = np.clip(room, 0.0, _FAR)
        # The usual root times its conjugate: no difference of large numbers, and right where a is infinite.
        return 2.0 * room / (self._period + np.sqrt(self._period**2 + 2.0 * room / self._acceleration))


def describe(flags: Flags) -> str:
    """Names of the limits, for people."""
    if not flags:
        return ""
    return ", ".join(
        text
        for flag, text in (
            (Flags.VELOCITY_LIMIT, "scaled to the velocity limit"),
            (Flags.ACCELERATION_LIMIT, "change of velocity limited"),
            (Flags.POSITION_LIMIT, "slowed before a position limit"),
        )
        if flag in flags
    )
