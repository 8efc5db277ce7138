"""The arm's way home between two episodes: planned and checked in joint space, then driven as velocities. No ROS.

The way is a straight line in joint space with a minimum-jerk profile in time, s = 10 u^3 - 15 u^4 + 6 u^5 for u = t / T
(Flash and Hogan 1985): all joints start, move and stop together, and each stays between where it is and its home, so
within the limits of both. Nothing here knows what stands in the way: the straight line must be free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simpl.core.kinematics import Box
from simpl.core.policy_types import FloatArray as Float32
from simpl.core.policy_types import LoadedModel
from simpl.core.profile import RobotProfile
from simpl_core.errors import SimplError

FloatArray = NDArray[np.float64]

SHARE = 0.5
"""Of the profile's velocity, acceleration and jerk limits; feedback needs the rest."""
SPEED_UP = 0.5
"""Time to full speed [s] of a joint whose profile names no acceleration limit."""
GAIN = 4.0
"""Of the feedback [1/s]; the integral's is GAIN^2 / 4, critical damping for an arm that follows velocities."""
INTEGRAL_SHARE = 0.25
"""Most that the integral may ask for, of the velocity limit."""
STRAY = {"rad": 0.3, "m": 0.1}
"""A joint this far from its way is blocked, or not obeyed to."""
BEHIND = {"rad": 0.1, "m": 0.03}
"""A joint this far from its way is waited for: from here on the path's clock runs slower, at twice as far it stands."""
PATIENCE = 2.0
"""Longest time that the clock is held up, in sum: then the arm is blocked, or held by the guard [s]."""
TOLERANCE = {"rad": 0.03, "m": 0.01}
"""A joint this near to its home is there."""
SETTLE = 5.0
"""Longest time after the planned end until all joints are there [s]."""

# Highest first, second and third derivative of s(u).
_PEAKS = (15.0 / 8.0, 10.0 / 3.0**0.5, 60.0)
_LOOKS = 101  # places of the tool looked at on the way


class HomingError(SimplError):
    """There is no way home within the limits."""


@dataclass(frozen=True)
class JointPath:
    """From `start` to `goal` (A,) [rad, m] in `duration` [s]."""

    start: FloatArray
    goal: FloatArray
    duration: float

    def at(self, time: float) -> FloatArray:
        """Position (A,) at `time` [s]; before and after it the ends."""
        u = min(1.0, max(0.0, time / self.duration))
        return self.start + (self.goal - self.start) * (u**3 * (10.0 - 15.0 * u + 6.0 * u**2))


def plan_home(profile: RobotProfile, start: FloatArray) -> JointPath:
    """The fastest way home from `start` (A,) within `SHARE` of the profile's limits.

    Raises:
        HomingError: the profile has no home, `start` is no position of this arm, a limit lies before home, or the
            tool would leave its workspace.
    """
    if profile.home is None:
        raise HomingError(f"robot profile {profile.name} has no home pose")
    goal = np.array(profile.home, np.float64)
    if start.shape != goal.shape or not np.isfinite(start).all():
        raise HomingError(f"the way home starts at {start}; wanted {goal.size} finite positions")
    low, high = profile.position_bounds()
    for joint, home, lowest, highest in zip(profile.joints, goal, low, high, strict=True):
        if not lowest <= home <= highest:
            raise HomingError(
                f"home of joint {joint.name} is {home:g} {joint.unit}, beyond its limits {lowest:g} to {highest:g}"
            )
    velocity, acceleration = profile.velocity_limits(), profile.acceleration_limits()
    acceleration = np.where(np.isfinite(acceleration), acceleration, velocity / SPEED_UP)
    distance = np.abs(goal - start)
    times = (
        _PEAKS[0] * distance / (SHARE * velocity),
        np.sqrt(_PEAKS[1] * distance / (SHARE * acceleration)),
        np.cbrt(_PEAKS[2] * distance / (SHARE * profile.jerk_limits())),
    )
    path = JointPath(start, goal, max(float(np.max(times)), profile.period))
    _check_workspace(profile, path)
    return path


def _check_workspace(profile: RobotProfile, path: JointPath) -> None:
    """The guard's own rule: inside its walls, or no further out than where the way begins."""
    if profile.workspace is None or profile.kinematics is None:
        return
    times = np.linspace(0.0, path.duration, _LOOKS)
    ways = np.array([path.at(time) for time in times])[None]
    inside = Box(profile.workspace, profile.kinematics).holds(path.start, ways)
    if not inside.all():
        raise HomingError(
            f"the straight way home leaves the workspace after {times[int(np.argmin(inside))]:.1f} s of "
            f"{path.duration:.1f} s; bring the arm to where the way is free"
        )


class Move(NamedTuple):
    """What a `HomeRunner` answers, as any other runner; the action is a velocity (A,) [rad/s, m/s]."""

    action: Float32
    z: Float32
    skill_start: bool


class HomeRunner:
    """Drives the arm home one control period at a time; a runner for `PolicyLoop`.

    Attributes:
        arrived: all joints are home.
        outcome: what came of it, for people.
    """

    def __init__(self, profile: RobotProfile) -> None:
        self._profile = profile
        self._velocity = profile.velocity_limits()
        # A joint without position limits is compliant (a gripper's finger): an object may keep it from its home.
        rigid = [joint.position is not None for joint in profile.joints]
        self._stray, self._behind, self._tolerance = (
            np.where(rigid, [table[joint.unit] for joint in profile.joints], np.inf)
            for table in (STRAY, BEHIND, TOLERANCE)
        )
        self.begin_episode()

    def as_model(self) -> LoadedModel:
        """For the loop: actions are velocities."""
        return LoadedModel(self, "home", 0, np.ones(len(self._profile.joints)))

    def begin_episode(self, e: Float32 | None = None, seed: int = 0, temperature: float = 1.0) -> None:
        """Start over; the way is planned from the first observation."""
        del e, seed, temperature
        self._path: JointPath | None = None
        self._time = self._waited = 0.0
        self._integral = np.zeros(len(self._profile.joints))
        self.arrived, self.outcome = False, "stopped on the way home"

    def act(self, observation: Float32) -> Move | None:
        """Velocities for the next period, from an observation (S,) that starts with the joints; None at the end."""
        position = observation[: self._velocity.size].astype(np.float64)
        if self._path is None:
            try:
                self._path = plan_home(self._profile, position)
            except HomingError as error:
                self.outcome = str(error)
                return None
        period = self._profile.period
        here = self._path.at(self._time)
        error = here - position
        if self._ends(error):
            return None
        # An arm that is held (a pause) is waited for, and never caught up with in a rush.
        rate = float(np.clip(2.0 - (np.abs(error) / self._behind).max(), 0.0, 1.0))
        self._time += rate * period
        self._waited += (1.0 - rate) * period
        most = INTEGRAL_SHARE * self._velocity
        self._integral = np.clip(self._integral + GAIN**2 / 4.0 * error * rate * period, -most, most)
        # The mean velocity of the coming period: summed over the periods it is exactly the way.
        velocity = (self._path.at(self._time) - here) / period + GAIN * error + self._integral
        velocity = np.clip(velocity, -SHARE * self._velocity, SHARE * self._velocity)
        return Move(velocity.astype(np.float32), np.empty(0, np.float32), False)

    def _ends(self, error: FloatArray) -> bool:
        path, joints, time = self._path, self._profile.joints, self._time
        away = np.abs(error)
        if (away > self._stray).any() or self._waited > PATIENCE:
            worst = int(np.argmax(away / self._stray))
            self.outcome = (
                f"joint {joints[worst].name} is {away[worst]:.3f} {joints[worst].unit} off its way home: blocked, or "
                "held by the guard"
            )
            return True
        if path is None or time < path.duration:
            return False
        self.arrived = bool((away <= self._tolerance).all())
        if self.arrived:
            self.outcome = f"home after {time + self._waited:.1f} s"
        elif time > path.duration + SETTLE:
            worst = int(np.argmax(away / self._tolerance))
            self.outcome = f"joint {joints[worst].name} stays {away[worst]:.3f} {joints[worst].unit} from home"
        return self.arrived or time > path.duration + SETTLE
