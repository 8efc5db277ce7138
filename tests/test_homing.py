"""The way home: within limits by numbers, through the guard unchanged, given up when the arm does not follow."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limit_checker import READY, arm

from simpl.core.guard import Flags, Guard, GuardSettings, Mode, Wanted
from simpl.core.homing import (
    PATIENCE,
    SETTLE,
    SHARE,
    SPEED_UP,
    STRAY,
    TOLERANCE,
    HomeRunner,
    HomingError,
    plan_home,
)
from simpl.core.policy_loop import LoopSettings, PolicyLoop
from simpl.core.profile import JointLimits, RobotProfile, load_profile, parse_profile
from simpl.core.profile_files import find_profile
from simpl.core.robot_state import RobotState
from simpl_core.errors import ConfigError, SimplError

HOME = (0.0, -0.5, 0.04)


def make_profile(home=HOME, *, velocity=(2.0, 1.0, 0.1), acceleration=(5.0, None, 1.0), rate=50.0) -> RobotProfile:
    ends = ((-2.0, 2.0), (-1.5, 1.5), None)
    joints = [
        JointLimits(name, unit, end, v, a)
        for name, unit, end, v, a in zip(
            ("a", "b", "finger"), ("rad", "rad", "m"), ends, velocity, acceleration, strict=False
        )
    ]
    return RobotProfile("test", "three joints", rate, 0.05, tuple(joints), ("door",), home=home)


def drive(runner: HomeRunner, position, *, follow=1.0, sag=0.0, noise=0.0, stuck=None, seconds=40.0):
    """A velocity-controlled arm under the runner: positions and velocities, one row per period."""
    rng, period = np.random.default_rng(0), runner._profile.period
    position, rows = np.array(position, float), []
    for _ in range(int(seconds / period)):
        measured = position + noise * rng.uniform(-1, 1, position.size)
        move = runner.act(np.append(measured, 7.0).astype(np.float32))
        if move is None:
            break
        velocity = move.action.astype(float)
        rows.append((position.copy(), velocity))
        position += (follow * velocity + np.array([sag, 0, 0])) * period * (np.arange(3) != stuck)
    positions, velocities = (np.array(part).reshape(-1, 3) for part in zip(*rows, strict=False))
    return np.vstack([positions, position]), velocities


starts = st.tuples(st.floats(-1.95, 1.95), st.floats(-1.45, 1.45), st.floats(0.0, 0.04))


@settings(max_examples=30, deadline=None)
@given(starts, st.floats(0.05, 3.0), st.floats(0.1, 20.0))
def test_the_way_keeps_its_share_of_every_limit(start, speed, push) -> None:
    profile = make_profile(velocity=(speed, 1.0, 0.1), acceleration=(push, None, 1.0))
    path = plan_home(profile, np.array(start))
    times = np.linspace(0.0, path.duration, 401)
    positions = np.array([path.at(time) for time in times])
    step = times[1]
    velocity = np.diff(positions, axis=0) / step
    acceleration = np.diff(velocity, axis=0) / step
    assert (np.abs(velocity).max(axis=0) <= SHARE * np.array([speed, 1.0, 0.1]) + 1e-9).all()
    highest = SHARE * np.array([push, 1.0 / SPEED_UP, 1.0])
    assert (np.abs(acceleration).max(axis=0) <= highest + 1e-6 * highest + 1e-5).all()
    assert np.array_equal(positions[0], start) and np.allclose(positions[-1], HOME, atol=1e-12)
    steps = np.diff(positions, axis=0) * np.sign(np.array(HOME) - start)
    assert (steps >= -1e-12).all(), "no joint turns round, so none leaves the range between its two ends"
    assert np.abs(velocity[0]).max() < 1e-3 and np.abs(velocity[-1]).max() < 1e-3


def test_it_takes_no_longer_than_its_share_asks_for() -> None:
    path = plan_home(make_profile(), np.array([1.0, -0.5, 0.04]))
    assert path.duration == pytest.approx(max(1.875 * 1.0 / 1.0, np.sqrt(10 / np.sqrt(3) * 1.0 / 2.5)))


def through_guard(profile: RobotProfile, start, *, most_seconds=60.0) -> tuple[HomeRunner, np.ndarray, Flags, float]:
    """An arm that obeys a guard: where it ends, what the guard changed, and by how much of the velocity limits."""
    clock = [0.0]
    runner, guard = HomeRunner(profile), Guard(profile, GuardSettings(), now=lambda: clock[0])
    position, flags, changed = np.array(start, float), Flags.NONE, 0.0
    for step in range(int(most_seconds / profile.period)):
        move = runner.act(position.astype(np.float32))
        if move is None:
            break
        guard.on_state(position)
        command = guard.on_action(Wanted(move.action.astype(float), step + 1, 0, step, True))
        assert command.mode is Mode.RUNNING, command.reason
        flags |= command.flags
        changed = max(changed, float((np.abs(command.velocity - move.action) / profile.velocity_limits()).max()))
        position = position + command.velocity * profile.period
        clock[0] += profile.period
    return runner, position, flags, changed


@pytest.mark.parametrize(("rate", "jerk"), [(12.5, None), (50.0, None), (100.0, None), (12.5, 40.0)])
def test_an_arm_that_follows_gets_home_within_the_guards_limits(rate: float, jerk: float | None) -> None:
    profile = make_profile(rate=rate)
    first, *others = profile.joints
    profile = dataclasses.replace(profile, joints=(dataclasses.replace(first, jerk=jerk), *others))
    runner, position, flags, changed = through_guard(profile, (1.8, 1.2, 0.0))
    assert runner.arrived and "home after" in runner.outcome
    assert np.abs(position - HOME).max() < 0.03
    # Under a jerk limit the guard follows every ramp a little later, so that it can end it in time: changes are small.
    assert flags in ((Flags.NONE,) if jerk is None else (Flags.NONE, Flags.JERK_LIMIT))
    assert changed < (1e-6 if jerk is None else 0.05), "the guard has next to nothing to change"


def test_a_jerk_limit_makes_the_way_longer() -> None:
    profile = make_profile()
    gentle = dataclasses.replace(
        profile, joints=tuple(dataclasses.replace(one, acceleration=5.0, jerk=2.0) for one in profile.joints)
    )
    start = np.array([1.0, -0.5, 0.04])
    assert plan_home(gentle, start).duration == pytest.approx(np.cbrt(60.0 * 1.0 / (SHARE * 2.0)))


@pytest.mark.parametrize("name", ["franka_fr3", "iiwa14", "kinova_gen3"])
def test_the_profiles_we_ship_get_home_inside_their_box(name: str) -> None:
    profile = load_profile(find_profile(name))
    rng, home = np.random.default_rng(0), np.array(profile.home)
    for _ in range(2):
        runner, position, flags, changed = through_guard(profile, home + rng.uniform(-0.2, 0.2, home.size))
        assert runner.arrived, runner.outcome
        assert flags in (Flags.NONE, Flags.JERK_LIMIT) and changed < 0.01
        assert np.abs(position - home).max() < TOLERANCE["rad"]


def test_a_way_through_a_wall_of_the_box_is_refused_before_anything_moves() -> None:
    profile = load_profile(find_profile("franka_fr3"))
    # On the other side of the base: the straight way leads the tool past its side walls.
    start = np.array(profile.home) + np.array([1.2, 0, 0, 0, 0, 0, 0])
    over = dataclasses.replace(profile, home=(-1.2, *profile.home[1:]))
    with pytest.raises(HomingError, match=r"leaves the workspace after \d+\.\d s of \d+\.\d s"):
        plan_home(over, np.array(profile.home))
    # Coming back from outside is no crime: each step is further in than the one before.
    assert plan_home(profile, start).duration > 0.0
    runner = HomeRunner(over)
    assert runner.act(np.array(profile.home, np.float32)) is None and "leaves the workspace" in runner.outcome


def test_an_arm_that_sags_and_lags_gets_home_all_the_same() -> None:
    runner = HomeRunner(make_profile(rate=12.5))
    positions, _ = drive(runner, (1.5, 1.0, 0.02), follow=0.9, sag=-0.3, noise=0.01)
    assert runner.arrived, runner.outcome
    assert abs(positions[-1][0] - HOME[0]) < TOLERANCE["rad"] + 0.01


def test_a_blocked_joint_ends_it_before_the_arm_has_pushed_far() -> None:
    runner = HomeRunner(make_profile())
    _, velocities = drive(runner, (1.5, 1.0, 0.04), stuck=1)
    assert not runner.arrived and "joint b is 0.200 rad off" in runner.outcome and "blocked" in runner.outcome
    pushed = np.abs(velocities[:, 1])
    assert pushed.max() <= SHARE * 1.0 + 1e-6 and len(velocities) <= (2.0 + PATIENCE) * 50


def test_an_arm_that_somebody_moves_is_let_go_at_once() -> None:
    runner = HomeRunner(make_profile())
    at = np.array([1.0, 0.5, 0.04])
    assert runner.act(at.astype(np.float32)) is not None
    at[1] += STRAY["rad"] + 0.02
    assert runner.act(at.astype(np.float32)) is None
    assert not runner.arrived and "joint b is 0.32" in runner.outcome


@pytest.mark.parametrize("paused_at", [0.5, 1.0, 1.8])
def test_an_arm_that_was_paused_is_waited_for_and_not_caught_up_with_in_a_rush(paused_at: float) -> None:
    profile, clock = make_profile(), [0.0]
    runner, guard = HomeRunner(profile), Guard(profile, GuardSettings(), now=lambda: clock[0])
    position, half, fastest = np.array([1.0, 0.5, 0.0]), SHARE * profile.velocity_limits(), 0.0
    pause, resume = round(paused_at * 50), round((paused_at + 0.5) * 50)
    for step in range(1000):
        move = runner.act(position.astype(np.float32))
        if move is None:
            break
        if step in (pause, resume):
            assert (guard.pause if step == pause else guard.resume)().success
        guard.on_state(position)
        command = guard.on_action(Wanted(move.action.astype(float), step + 1, 0, step, True))
        fastest = max(
            fastest, float((np.abs(move.action) / half).max()), float((np.abs(command.velocity) / half).max())
        )
        position = position + command.velocity * profile.period
        clock[0] += profile.period
    assert runner.arrived, runner.outcome
    assert np.abs(position - HOME).max() < TOLERANCE["rad"]
    assert 0.5 < fastest <= 1.0 + 1e-6  # float32


def test_a_finger_that_holds_something_is_no_obstacle() -> None:
    runner = HomeRunner(make_profile())
    drive(runner, (0.5, 0.0, 0.0), stuck=2)
    assert runner.arrived


def test_a_joint_that_stays_away_is_named() -> None:
    runner = HomeRunner(make_profile())
    _, velocities = drive(runner, (0.045, -0.5, 0.04), stuck=0)
    assert not runner.arrived and "joint a stays 0.045 rad from home" in runner.outcome
    assert len(velocities) < (SETTLE + 2.0) * 50


def test_homes_that_cannot_be_reached_are_refused() -> None:
    with pytest.raises(HomingError, match="no home pose"):
        plan_home(make_profile(home=None), np.zeros(3))
    with pytest.raises(HomingError, match=r"home of joint b is 1\.48 rad, beyond its limits -1\.45 to 1\.45"):
        plan_home(make_profile(home=(0.0, 1.48, 0.0)), np.zeros(3))
    with pytest.raises(HomingError, match="finite"):
        plan_home(make_profile(), np.array([0.0, np.nan, 0.0]))
    runner = HomeRunner(make_profile(home=(0.0, 1.48, 0.0)))
    assert runner.act(np.zeros(4, np.float32)) is None and "beyond its limits" in runner.outcome


def test_a_home_outside_of_the_workspace_is_refused_with_the_profile() -> None:
    document = arm(box=True) | {"home": READY.tolist()}
    assert parse_profile(document, "inside").home is not None
    document["home"][0] = -1.5  # beside the base instead of in front of it
    with pytest.raises(ConfigError, match=r"home: the tool is at \(-?\d\.\d+, -0\.\d+, \d\.\d+\) m there"):
        parse_profile(document, "outside")


def test_the_profile_reads_its_home_and_counts_it() -> None:
    joint = {"name": "a", "unit": "rad", "position": [-1, 1], "velocity": 1.0, "acceleration": None}
    document = {"name": "n", "description": "d", "control_rate_hz": 10.0, "position_margin": 0.0, "joints": [joint]}
    assert parse_profile({**document, "objects": [], "home": [0.5]}, "x").home == (0.5,)
    assert parse_profile({**document, "objects": []}, "x").home is None
    with pytest.raises(ConfigError, match=r"home is \[0.5, 0.1\], wanted a list of 1"):
        parse_profile({**document, "objects": [], "home": [0.5, 0.1]}, "x")
    with pytest.raises(ConfigError, match="home is 'up', wanted a finite number"):
        parse_profile({**document, "objects": [], "home": ["up"]}, "x")


# --- in the control loop ------------------------------------------------------------------------------------------


class LoopRig:
    """The policy's loop, ticked by hand, with an arm that obeys."""

    def __init__(self) -> None:
        self.profile, self.time, self.stamp = make_profile(), 10.0, 0
        self.position, self.sent = np.array([1.0, 0.5, 0.0]), []
        self.state = RobotState(self.profile.joint_names, self.profile.objects)
        self.loop = PolicyLoop(self.state, self.sent.append, LoopSettings(rate_hz=50.0), now=lambda: self.time)
        self.runner = HomeRunner(self.profile)

    def tick(self) -> None:
        self.time += self.profile.period
        self.stamp += 20_000_000
        self.state.update_joints(self.stamp, self.profile.joint_names, list(self.position), self.time)
        self.state.update_objects(self.stamp, ["door"], [0.0], self.time)
        self.loop.tick()
        self.position = self.position + (self.sent[-1].velocity * self.profile.period if self.sent else 0.0)


def test_the_loop_drives_it_as_episode_0_without_a_model_and_ends_in_zeros() -> None:
    rig = LoopRig()
    over = rig.loop.move(rig.runner.as_model())
    with pytest.raises(SimplError, match="the way home is still running"):
        rig.loop.begin_episode(1, np.zeros(3, np.float32), 0, False)
    while not over.done():
        rig.tick()
    assert rig.runner.arrived and np.abs(rig.position - HOME).max() < 0.02
    assert {tick.episode for tick in rig.sent} == {0}
    assert [tick.step for tick in rig.sent] == list(range(len(rig.sent)))
    assert not rig.sent[-1].active and not rig.sent[-1].velocity.any()
    assert all(tick.active for tick in rig.sent[:-1])


def test_it_can_be_ended_on_the_way() -> None:
    rig = LoopRig()
    over = rig.loop.move(rig.runner.as_model())
    for _ in range(5):
        rig.tick()
    ended = rig.loop.end_episode()
    rig.tick()
    assert over.done() and ended.done()
    assert not rig.runner.arrived and rig.runner.outcome == "stopped on the way home"
    assert not rig.sent[-1].velocity.any()


def test_a_loop_that_stops_ends_it_too() -> None:
    rig = LoopRig()
    rig.loop.start()
    over = rig.loop.move(rig.runner.as_model())
    rig.loop.stop()
    assert over.done() and not rig.runner.arrived
