"""Velocities as short trajectories that end at rest, for controllers that follow positions. Pure: no ROS."""

from __future__ import annotations

import math

import numpy as np

from simpl.core.guard_types import FloatArray, TrajectoryPoint
from simpl.core.motion_limits import MotionLimits

STALE = 2.0
"""Periods after which nobody knows any more how far a trajectory has got."""
LAG = 0.2
"""An arm follows within this time [s]; one that is further away, at its fastest, was moved or held by somebody else."""


class TrajectoryPath:
    """One trajectory after the other, each beginning where the one before it has got to.

    Beginning at the measured position instead would move an arm that follows with a lag tau at v / (1 + tau / T) only,
    since what it has not caught up with yet would be taken away from it in each period T.

    Args:
        limits: of the arm.
        velocity: highest speeds (A,) [rad/s, m/s].
    """

    def __init__(self, limits: MotionLimits, velocity: FloatArray) -> None:
        self._limits = limits
        self._period = limits.pace(None)
        self._fastest = velocity
        self._begin: FloatArray | None = None
        self._velocity = np.zeros_like(velocity)
        self._since = self._due = -math.inf

    def here(self, measured: FloatArray, now: float) -> FloatArray:
        """How far the last trajectory has got (A,) [rad, m]; `measured` where there is none, or it is not followed."""
        if self._begin is None:
            return measured
        if self._velocity.any() and now - self._since > STALE * self._period:
            return measured
        here = self._aim(self._begin, now)
        return measured if (np.abs(here - measured) > LAG * self._fastest).any() else here

    def points(self, velocity: FloatArray, measured: FloatArray, now: float) -> list[TrajectoryPoint]:
        """`velocity` (A,) for one period and then a stop; zeros hold the arm where it is `measured` (A,), and stay.

        A place to hold is given the time that the controller's set point needs to get there within the highest speeds.
        """
        resting = not (velocity.any() or self._velocity.any())
        begin = self.here(measured, now) if resting or velocity.any() else measured
        before = begin if self._begin is None else self._aim(self._begin, now)
        self._begin, self._velocity, self._since = begin, velocity, now
        if not velocity.any():
            self._due = max(self._due, now + float((np.abs(begin - before) / self._fastest).max()))
            return [TrajectoryPoint(begin, velocity, max(self._period, self._due - now))]
        then = begin + velocity * self._period
        way, time_to_stop = self._limits.stop(velocity)
        rest = TrajectoryPoint(then + way, np.zeros_like(velocity), self._period + max(time_to_stop, self._period))
        return [TrajectoryPoint(then, velocity, self._period), rest]

    def _aim(self, begin: FloatArray, now: float) -> FloatArray:
        """Where a controller has led its set point (A,) that follows the last trajectory from its `begin` (A,)."""
        aim: FloatArray = begin + self._velocity * min(now - self._since, self._period)
        return aim
