"""Short trajectories one after the other, and what an arm makes of them that follows with a lag."""

from __future__ import annotations

import numpy as np
import pytest

from simpl.core.guard import Flags, Guard, GuardSettings, Mode, Wanted
from simpl.core.guard_types import TrajectoryPoint
from simpl.core.profile import RobotProfile, parse_profile

PERIOD = 0.02


def make_profile(acceleration: float | None = 20.0) -> RobotProfile:
    joint = {"unit": "rad", "position": [-1.0, 1.0], "velocity": 1.0, "acceleration": acceleration}
    document = {
        "name": "two",
        "description": "an arm for tests",
        "control_rate_hz": 1.0 / PERIOD,
        "position_margin": 0.1,
        "command": {"interface": "trajectory"},
        "joints": [{"name": name, **joint} for name in ("a", "b")],
        "objects": [],
    }
    return parse_profile(document, "test")


class LaggingArm:
    """Follows the way from where it is to each trajectory's point, x' = (way - x) / lag, as a position loop does.

    The way begins at the measured position, as ros2_control's joint_trajectory_controller lets it by default.
    """

    def __init__(self, lag: float, *, stuck: bool = False) -> None:
        self.time, self.lag, self.stuck = 10.0, lag, stuck
        self.position = np.zeros(2)
        self.guard = Guard(make_profile(), GuardSettings(zero_repeat=0.1), lambda: self.time)
        self.aims: list[np.ndarray] = []
        self.tick = 0

    def act(self, velocity: list[float], periods: int = 1) -> np.ndarray:
        """Want `velocity` for some periods: positions (periods + 1, 2), the first one before them."""
        way = [self.position.copy()]
        for _ in range(periods):
            self.guard.on_state(self.position.copy())
            self.tick += 1
            command = self.guard.on_action(Wanted(np.array(velocity), self.tick, 1, self.tick - 1, True))
            self.follow(self.guard.trajectory(command.velocity))
            way.append(self.position.copy())
        return np.array(way)

    def follow(self, points: list[TrajectoryPoint], seconds: float = PERIOD) -> None:
        self.aims.append(points[-1].position)
        begin, parts = self.position.copy(), 20
        for part in range(1, parts + 1):
            target = begin + (points[0].position - begin) * part / parts
            if not self.stuck:
                self.position = self.position + (target - self.position) * (1.0 - np.exp(-seconds / parts / self.lag))
        self.time += seconds


@pytest.mark.parametrize("lag", [0.01, 0.05, 0.15])
def test_an_arm_that_lags_moves_as_fast_as_it_is_told(lag: float) -> None:
    arm = LaggingArm(lag)
    arm.act([0.5, -0.25], 50)  # until the lag has settled
    before = arm.act([0.5, -0.25], 1)[0]
    after = arm.act([0.5, -0.25], 20)[-1]
    np.testing.assert_allclose((after - before) / (21 * PERIOD), [0.5, -0.25], rtol=0.02)


def test_with_a_lag_neither_arm_nor_aim_passes_the_end() -> None:
    arm = LaggingArm(0.1)
    way = arm.act([1.0, -0.3], 150)
    # 1e-9: rounding of sums; the end of a joint is 1.0, the margin 0.1.
    assert way[:, 0].max() <= 0.9 + 1e-9
    assert max(aim[0] for aim in arm.aims) <= 0.9 + 1e-9
    assert way[-1, 0] == pytest.approx(0.9, abs=0.02), "and it gets there"
    assert min(aim[1] for aim in arm.aims) >= -0.9 - 1e-9


def test_an_arm_that_is_held_is_not_pushed_ever_harder() -> None:
    arm = LaggingArm(0.05, stuck=True)
    arm.act([1.0, 0.0], 200)
    way_to_stop = 1.0 * PERIOD + 1.0**2 / (2 * 20.0) + PERIOD
    assert max(aim[0] for aim in arm.aims) <= 0.2 + way_to_stop
    assert len([aim for aim in arm.aims if aim[0] < 0.15]) > 10, "it begins anew where the arm is"


def test_a_pause_begins_anew_where_the_arm_is() -> None:
    arm = LaggingArm(0.05)
    arm.act([0.5, 0.0], 50)
    told, measured = arm.aims[-1][0], arm.position[0]
    assert told - measured > 0.02
    arm.time += 2.5 * PERIOD
    arm.guard.on_state(arm.position.copy())
    points = arm.guard.trajectory(np.array([0.5, 0.0]))
    assert points[0].position[0] == pytest.approx(arm.position[0] + 0.5 * PERIOD)


def test_an_arm_that_is_not_seen_any_more_is_not_called_back() -> None:
    """It is where it was told to go, 40 ms behind; its last position is 0.16 s old."""
    arm = LaggingArm(0.04)
    arm.act([0.9, 0.0], 20)
    while arm.guard.mode is Mode.RUNNING:
        arm.tick += 1
        command = arm.guard.on_action(Wanted(np.array([0.9, 0.0]), arm.tick, 1, arm.tick, True))
        points = arm.guard.trajectory(command.velocity)
        if command.velocity.any():
            told = points[0].position
            arm.follow(points)
    assert Flags.STALE_STATE in command.flags
    (rest,) = points
    np.testing.assert_allclose(rest.position, arm.position, atol=0.01)
    assert (np.abs(rest.position - told) / rest.time <= 1.0 + 1e-9).all(), "nor faster than the joints may go"


def test_a_place_to_hold_takes_the_time_to_get_there_and_no_repeat_shortens_it() -> None:
    """At 0.9 rad/s with a lag of 0.15 s the set point is 0.13 rad ahead; the joints go 1 rad/s."""
    arm = LaggingArm(0.15)
    arm.act([0.9, 0.0], 40)
    told = arm.aims[-1][0] - arm.guard._limits.stop(np.array([0.9, 0.0]))[0][0]
    arm.guard.on_state(arm.position.copy())
    stopped = arm.guard.estop()
    (rest,) = arm.guard.trajectory(stopped.velocity)
    assert rest.time == pytest.approx(told - arm.position[0]) and rest.time > 0.1
    arm.time += 0.05
    (again,) = arm.guard.trajectory(stopped.velocity)
    assert again.time == pytest.approx(rest.time - 0.05)
    arm.time += 1.0
    (at_last,) = arm.guard.trajectory(stopped.velocity)
    assert at_last.time == PERIOD


def test_zeros_hold_the_arm_where_it_is_and_stay_there() -> None:
    """A stop takes back what the arm has not caught up with; repeated, it does not follow an arm that sags."""
    arm = LaggingArm(0.1)
    arm.act([0.5, 0.0], 50)
    stopped = arm.guard.estop()
    assert stopped.mode is Mode.ESTOP
    arm.guard.on_state(arm.position.copy())
    held = arm.position.copy()
    (rest,) = arm.guard.trajectory(stopped.velocity)
    np.testing.assert_array_equal(rest.position, held)
    for sag in (0.01, 0.02, 0.03):
        arm.time += 0.1
        arm.guard.on_state(held - sag)
        (rest,) = arm.guard.trajectory(np.zeros(2))
        np.testing.assert_array_equal(rest.position, held)
    arm.guard.on_state(held + 0.5)  # somebody has moved it: it stays where he left it
    (rest,) = arm.guard.trajectory(np.zeros(2))
    np.testing.assert_array_equal(rest.position, held + 0.5)
