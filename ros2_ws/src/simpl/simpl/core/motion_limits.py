"""Limits of an arm applied to one wanted velocity: joints, their braking distance, and the end effector's box. Pure."""

from __future__ import annotations

import enum
import math

import numpy as np
from numpy.typing import NDArray

from simpl.core.kinematics import Box
from simpl.core.profile import RobotProfile

FloatArray = NDArray[np.float64]

_FAR = 1e6  # stands for infinite room: [rad or m]
_MEASURABLE = 1e-3  # smaller differences of velocity change nothing that an arm does [rad/s, m/s]
_STILL = 1e-6  # slower than this is standing [rad/s, m/s]
_ROUNDING = 1e-9  # of positions [rad, m]
_SHORTEST = 1e-6  # least time between two commands that a change of velocity is divided by [s]
_PARTS = np.linspace(1.0, 0.0, 17)  # how much of the way from braking to the wanted is tried
_LOOKS = 8  # places of the end effector looked at along its way to a stop; walls are flat, so a few are enough


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
    JERK_LIMIT = 8192
    WORKSPACE_LIMIT = 16384
    NO_CONTROLLER = 32768
    PAUSED = 65536


class MotionLimits:
    """All limits of a profile, applied to one command after the other.

    The wanted vector is scaled as a whole to the velocity limit; then the whole change from the last command is scaled
    to the acceleration and jerk limits; so the direction stays. The position limit slows the one joint that is near its
    end, so that the others go on and that joint may come back. The box scales the whole vector again.

    What makes position and box hold: after every command the arm can still brake, within its acceleration and jerk
    limits, to a stop inside of them. Where there is no such command the next step of that braking is sent. A joint
    without an acceleration limit stops at once; a position limit is then flagged where it asks for more than the
    arm's own end: what is cut off beyond that, no arm would have done either.

    Args:
        profile: limits of the arm.
        late: how much longer than a period a command may act before a watchdog ends it [s]; joints that take time to
            brake keep that much more distance.
    """

    def __init__(self, profile: RobotProfile, late: float = 0.0) -> None:
        self._velocity = profile.velocity_limits()
        self._jerk = profile.jerk_limits()
        # More than this is not needed between the two highest speeds, and a jerk limit alone takes time to brake too.
        self._acceleration = np.minimum(profile.acceleration_limits(), 2.0 * np.sqrt(self._velocity * self._jerk))
        self._accelerates = bool(np.isfinite(self._acceleration).any())
        self._jerks = bool(np.isfinite(self._jerk).any())
        self._low, self._high = profile.position_bounds()
        self._lowest, self._highest = profile.position_ends()
        self._period, self._late = profile.period, late
        self._hold = self._period + np.where(np.isfinite(self._acceleration), late, 0.0)
        self._joints = profile.joint_names
        # Time to build up braking, twice: the joint may still be gaining speed.
        build_up = np.where(np.isfinite(self._jerk), self._acceleration, 0.0) / self._jerk
        self._turn = 2.0 * build_up
        self._gain = np.where(build_up > 0.0, self._acceleration, 0.0) * build_up / 2.0
        # From full speed-up to full braking within a period: then only the last period of a stop is another.
        self._jerks_in_stops = bool((self._turn > self._period).any())
        self._slack = self._gain * self._period
        self._steps = self._longest_stop()
        self._looks = np.unique(np.linspace(0, self._steps - 1, _LOOKS).round().astype(int))
        box, frames = profile.workspace, profile.kinematics
        self._box = Box(box, frames) if box is not None and frames is not None else None

    def apply(
        self,
        wanted: FloatArray,
        previous: FloatArray,
        position: FloatArray,
        acceleration: FloatArray | None = None,
        elapsed: float | None = None,
    ) -> tuple[FloatArray, Flags]:
        """The nearest velocity that keeps the limits.

        Args:
            wanted: finite velocity (A,) [rad/s, m/s].
            previous: the last command (A,).
            position: of the joints (A,) [rad, m].
            acceleration: of the last command (A,) [rad/s^2, m/s^2]; zeros by default.
            elapsed: since the last command [s]; a period by default, and at most that.

        Returns:
            The velocity (A,) and the limits that changed it.
        """
        velocity, flags = self._scaled(wanted)
        gained = np.zeros_like(wanted) if acceleration is None else acceleration
        pace = self.pace(elapsed)
        brake = self.brake(previous, gained, pace)
        if self._accelerates:
            velocity, changed = self._reached(velocity, previous, gained, pace)
            flags |= changed
        velocity, slowed = self._before_ends(velocity, brake, previous, position, pace)
        if self._box is not None:
            velocity, kept_in = self._inside(self._box, velocity, brake, previous, position, pace)
            slowed |= kept_in
        return velocity, flags | slowed

    def pace(self, elapsed: float | None) -> float:
        """Time that a change of velocity is judged by [s]: since the last command, at most a period."""
        return self._period if elapsed is None else min(max(elapsed, _SHORTEST), self._period)

    def brake(self, previous: FloatArray, acceleration: FloatArray, pace: float) -> FloatArray:
        """The next command (..., A) of the fastest stop that keeps the acceleration and jerk limits.

        Args:
            previous: the last command (..., A).
            acceleration: of it (..., A).
            pace: see `pace`.
        """
        if not self._accelerates:
            return np.zeros_like(previous)
        # The strongest braking that can be taken back in time: at rest nothing brakes any more.
        fitting = np.minimum(self._acceleration, _reach(np.abs(previous), pace, self._jerk))
        change = self._jerk * pace
        braking = np.clip(-np.sign(previous) * fitting, acceleration - change, acceleration + change)
        velocity: FloatArray = previous + braking * pace
        velocity[np.abs(velocity) < _STILL] = 0.0
        return velocity

    def overrun(self, velocity: FloatArray, position: FloatArray) -> tuple[Flags, str]:
        """The limit that no braking keeps any more, and why: a joint's own end or the box, margins not counted.

        It happens when the arm does not do what it is told, or was moved by somebody else. Noise of a sensor at rest
        is none: only motion outwards counts.

        Args:
            velocity: to be sent (A,).
            position: of the joints (A,).
        """
        if not self._accelerates:
            return Flags.NONE, ""
        room = np.where(velocity > 0.0, self._highest - position, position - self._lowest)
        speed = np.abs(velocity)  # lowered at the end of each period: half a period more than v^2 / 2a at least
        way = speed * self._period / 2.0 + speed**2 / (2.0 * self._acceleration)
        beyond = (way > np.maximum(room, 0.0) + _ROUNDING) & (speed > 0.0)
        if beyond.any():
            return Flags.POSITION_LIMIT, f"{self._joints[int(np.argmax(beyond))]} cannot stop before its end"
        if self._box is not None and self._box.leaves(position, position + velocity * self._period):
            return Flags.WORKSPACE_LIMIT, "the tool is outside of its box and moving on"
        return Flags.NONE, ""

    def stop(self, velocity: FloatArray) -> tuple[FloatArray, float]:
        """Way (A,) [rad, m] and time [s] of the fastest stop from `velocity` (A,)."""
        path = self._stop_path(velocity, np.zeros_like(velocity))
        return path[-1] - path[0], (self._steps - 1) * self._period

    # -- one limit after the other -------------------------------------------------------------------------------

    def _scaled(self, wanted: FloatArray) -> tuple[FloatArray, Flags]:
        largest = float(np.abs(wanted).max())
        if largest > _FAR:  # so that no quotient overflows; what is left of it is the direction
            wanted = wanted / largest * _FAR
        excess = float((np.abs(wanted) / self._velocity).max())
        if excess <= 1.0:
            return wanted, Flags.NONE
        # Rounding may leave the product one ulp above the limit.
        return np.clip(wanted / excess, -self._velocity, self._velocity), Flags.VELOCITY_LIMIT

    def _reached(
        self, velocity: FloatArray, previous: FloatArray, acceleration: FloatArray, pace: float
    ) -> tuple[FloatArray, Flags]:
        """As far from `previous` to `velocity` as the acceleration and jerk limits let it go in `pace`."""
        change = velocity - previous
        size = np.abs(change)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            part = min(1.0, float(np.nanmin(self._acceleration * pace / size)))
        if not self._jerks:
            return (velocity, Flags.NONE) if part == 1.0 else (previous + part * change, Flags.ACCELERATION_LIMIT)
        flags = Flags.NONE if part == 1.0 else Flags.ACCELERATION_LIMIT
        gain = self._jerk * pace
        # Acceleration that can be taken back before a speed is passed: the wanted one, and the joint's own limit.
        arriving = np.minimum(self._acceleration, _reach(size, pace, self._jerk))
        most = np.minimum(acceleration + gain, _reach(self._velocity - previous, pace, self._jerk))
        least = np.maximum(acceleration - gain, -_reach(self._velocity + previous, pace, self._jerk))
        most = np.clip(most, -self._acceleration, self._acceleration)
        least = np.minimum(np.clip(least, -self._acceleration, self._acceleration), most)
        step = np.clip(np.sign(change) * arriving, least, most) * pace
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            shared = float(np.clip(np.nanmin(step / change), 0.0, 1.0)) if change.any() else 1.0
        reached = previous + np.clip(shared * change, least * pace, most * pace)
        if (np.abs(reached - (previous + part * change)) > _MEASURABLE * pace).any():
            flags |= Flags.JERK_LIMIT
        return reached, flags

    def _before_ends(
        self, velocity: FloatArray, brake: FloatArray, previous: FloatArray, position: FloatArray, pace: float
    ) -> tuple[FloatArray, Flags]:
        """Each joint slow enough to stop before its end."""
        up, down = self._high - position - self._slack, position - self._low - self._slack
        if self._jerks_in_stops:
            slowed = self._stopping(velocity, brake, previous, up, down, pace)
        else:
            highest, lowest = _reach(up, self._hold, self._acceleration), -_reach(down, self._hold, self._acceleration)
            if not ((velocity > highest).any() or (velocity < lowest).any()):
                return velocity, Flags.NONE
            # Beyond a limit both bounds hold at once only for motion back inside.
            slowed = np.clip(velocity, lowest, highest)
            if self._accelerates:  # an arm that strays asks for more than may be: `brake` is the most
                slowed = np.clip(slowed, np.minimum(brake, velocity), np.maximum(brake, velocity))
        asks_more = np.abs(slowed - self._possible(velocity, position)) > _MEASURABLE
        return slowed, Flags.POSITION_LIMIT if (asks_more & (slowed != velocity)).any() else Flags.NONE

    def _stopping(
        self,
        velocity: FloatArray,
        brake: FloatArray,
        previous: FloatArray,
        up: FloatArray,
        down: FloatArray,
        pace: float,
    ) -> FloatArray:
        """For each joint the greatest part of the way from `brake` to `velocity` that stops within its room (A,)."""
        up, down = np.maximum(up, 0.0), np.maximum(down, 0.0)
        speed = np.abs(velocity) + self._gain  # the highest that it may still come to
        if (speed * (self._hold + self._turn + speed / (2.0 * self._acceleration)) <= np.minimum(up, down)).all():
            return velocity  # far from every end: no need to look closely
        tried = brake + _PARTS[:, None] * (velocity - brake)
        path = self._stop_path(tried, (tried - previous) / pace)
        late = tried * (self._hold - self._period)
        good = path.max(axis=0) + np.maximum(late, 0.0) <= up + _ROUNDING
        good &= path.min(axis=0) + np.minimum(late, 0.0) >= -down - _ROUNDING
        good[-1] = True
        first: FloatArray = np.take_along_axis(tried, good.argmax(axis=0)[None], axis=0)[0]
        return first

    def _inside(
        self,
        box: Box,
        velocity: FloatArray,
        brake: FloatArray,
        previous: FloatArray,
        position: FloatArray,
        pace: float,
    ) -> tuple[FloatArray, Flags]:
        """The greatest part of the way from `brake` to `velocity` that stops inside the box."""
        for tried in (velocity[None], brake + _PARTS[1:-1, None] * (velocity - brake)):
            path = position + self._stop_path(tried, (tried - previous) / pace)[self._looks]
            good = box.holds(position, np.concatenate((path, path + tried * self._late)))
            if good.any():
                chosen: FloatArray = tried[int(good.argmax())]
                return chosen, Flags.NONE if good.size == 1 else Flags.WORKSPACE_LIMIT
        return brake, Flags.WORKSPACE_LIMIT

    def _stop_path(self, velocity: FloatArray, acceleration: FloatArray) -> FloatArray:
        """Way (N, ..., A) that `velocity` (..., A), held for a period and then braked, leads: after each period."""
        steps = np.arange(self._steps).reshape(-1, *[1] * velocity.ndim)
        if not self._jerks_in_stops:
            lost = steps * np.minimum(self._acceleration * self._period, _FAR)  # zero times infinity is no number
            speeds = np.copysign(np.maximum(np.abs(velocity) - lost, 0.0), velocity)
            return np.cumsum(speeds, axis=0) * self._period
        path = np.empty((self._steps, *velocity.shape))
        way = np.zeros_like(velocity)
        for step in range(self._steps):
            way = way + velocity * self._period
            path[step] = way
            slower = self.brake(velocity, acceleration, self._period)
            velocity, acceleration = slower, (slower - velocity) / self._period
        return path

    def _longest_stop(self) -> int:
        """Periods in which the fastest joint comes to rest, the first one included."""
        slowest = (self._velocity + self._gain) / self._acceleration + 2.0 * self._turn
        return 1 + math.ceil(float(slowest.max()) / self._period) + (4 if self._jerks else 0)

    def _possible(self, velocity: FloatArray, position: FloatArray) -> FloatArray:
        """What an arm makes of `velocity` (A,) in a period by itself: at its end it stands."""
        room_down, room_up = (np.clip(room, 0.0, _FAR) for room in (position - self._lowest, self._highest - position))
        return np.clip(velocity, -room_down / self._period, room_up / self._period)


def _reach(room: FloatArray, period: FloatArray | float, limit: FloatArray) -> FloatArray:
    """Greatest x (A,) that, held for `period` and then lowered at the rate `limit`, uses up no more than `room` (A,).

    Solves x T + x^2 / (2 a) = room: the speed that stops within a distance at an acceleration limit, or the
    acceleration that ends within a change of velocity at a jerk limit. An infinite limit lowers it at once.
    """
    room = np.clip(room, 0.0, _FAR)
    # The usual root times its conjugate: no difference of large numbers, and right where the limit is infinite.
    return 2.0 * room / (period + np.sqrt(np.square(period) + 2.0 * room / limit))


_NAMES = (
    (Flags.VELOCITY_LIMIT, "scaled to the velocity limit"),
    (Flags.ACCELERATION_LIMIT, "change of velocity limited"),
    (Flags.JERK_LIMIT, "change of acceleration limited"),
    (Flags.POSITION_LIMIT, "slowed before a position limit"),
    (Flags.WORKSPACE_LIMIT, "slowed before the workspace's wall"),
)


def describe(flags: Flags) -> str:
    """Names of the limits, for people."""
    return ", ".join(text for flag, text in _NAMES if flag in flags) if flags else ""
