"""The safety guard: limits by hand-computed numbers and by property, stops, latches and watchdogs on a fake clock."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from simpl.core.guard import Command, Flags, Guard, GuardSettings, Mode, MotionLimits, Wanted
from simpl.core.interventions import InterventionLog
from simpl.core.profile import parse_profile

PERIOD = 0.1


def make_profile(acceleration=None, margin=0.1, jerk=None):
    joint = {"unit": "rad", "position": [-1.0, 1.0], "velocity": 2.0, "acceleration": acceleration, "jerk": jerk}
    return parse_profile(
        {
            "name": "three",
            "description": "an arm for tests",
            "control_rate_hz": 1.0 / PERIOD,
            "position_margin": margin,
            "joints": [{"name": name, **joint} for name in ("a", "b", "c")],
            "objects": [],
        },
        "test",
    )


class Clock:
    """A steady clock that goes when it is told to."""

    def __init__(self):
        self.time = 100.0

    def __call__(self):
        return self.time


class Rig:
    """A guard with a clock, a resting arm and a policy that counts its ticks."""

    def __init__(self, acceleration=None, jerk=None, **times):
        self.clock = Clock()
        self.guard = Guard(make_profile(acceleration, jerk=jerk), GuardSettings(**times), self.clock)
        self.tick = 0

    def at(self, *position):
        self.guard.on_state(np.array(position, dtype=float))
        return self

    def act(self, velocity, *, episode=1, step=None, active=True, **more):
        self.tick += 1
        step = self.tick - 1 if step is None else step
        return self.guard.on_action(Wanted(velocity, self.tick, episode, step, active, **more))

    def wait(self, seconds):
        self.clock.time += seconds
        return self


@pytest.fixture
def rig():
    return Rig().at(0.0, 0.0, 0.0)


def assert_zero(command, mode, flags):
    assert command.mode is mode
    assert flags in command.flags
    np.testing.assert_array_equal(command.velocity, [0.0, 0.0, 0.0])


# -- passing through and limits --------------------------------------------------------------------------------------


def test_an_action_within_limits_passes_unchanged(rig):
    command = rig.act([0.5, -0.25, 1.0])
    np.testing.assert_array_equal(command.velocity, [0.5, -0.25, 1.0])
    assert (command.mode, command.flags, command.reason, command.tick) == (Mode.RUNNING, Flags.NONE, "", 1)
    assert (rig.guard.interventions, rig.guard.commands) == (0, 1)


def test_too_fast_is_scaled_as_a_whole_vector_so_the_direction_stays(rig):
    command = rig.act([4.0, -1.0, 0.0])
    np.testing.assert_allclose(command.velocity, [2.0, -0.5, 0.0])
    assert command.flags == Flags.VELOCITY_LIMIT
    assert rig.guard.interventions == 1


def test_a_joint_near_its_limit_is_slowed_and_the_others_go_on():
    command = Rig().at(0.85, 0.0, -0.95).act([1.0, 1.0, -1.0])
    # 0.9 is the limit with its margin: 0.05 rad of room in one period of 0.1 s; joint c is already beyond.
    np.testing.assert_allclose(command.velocity, [0.5, 1.0, 0.0])
    assert command.flags == Flags.POSITION_LIMIT


def test_what_the_arms_own_end_would_have_cut_off_anyway_is_no_intervention():
    limits = MotionLimits(make_profile(margin=0.0))
    # Both joints have 0.05 rad left and want 0.1 rad in the period: they end at 1.0 and -1.0 with a guard or without.
    velocity, flags = limits.apply(np.array([1.0, -1.0, 0.5]), np.zeros(3), np.array([0.95, -0.95, 0.0]))
    np.testing.assert_allclose(velocity, [0.5, -0.5, 0.5])
    assert flags == Flags.NONE
    velocity, flags = limits.apply(np.array([1.0, 0.0, 0.0]), np.zeros(3), np.array([1.02, 0.0, 0.0]))
    assert velocity[0] == 0.0 and flags == Flags.NONE  # beyond its end, by noise of the sensor


def test_braking_for_the_end_is_an_intervention_with_no_margin_too():
    limits = MotionLimits(make_profile(acceleration=5.0, margin=0.0))
    velocity, flags = limits.apply(np.array([2.0, 0.0, 0.0]), np.array([2.0, 0.0, 0.0]), np.array([0.55, 0.0, 0.0]))
    assert velocity[0] * PERIOD + velocity[0] ** 2 / 10.0 == pytest.approx(0.45)
    assert flags == Flags.POSITION_LIMIT


def test_a_joint_beyond_its_limit_may_come_back():
    command = Rig().at(0.95, 0.0, -2.0).act([-1.0, 0.0, 1.5])
    np.testing.assert_array_equal(command.velocity, [-1.0, 0.0, 1.5])
    assert command.flags == Flags.NONE


def test_change_of_velocity_is_limited_along_the_way():
    rig = Rig(acceleration=5.0).at(0.0, 0.0, 0.0)
    first = rig.act([1.0, 0.5, 0.0])  # 5 rad/s^2 for 0.1 s
    np.testing.assert_allclose(first.velocity, [0.5, 0.25, 0.0])
    assert first.flags == Flags.ACCELERATION_LIMIT
    np.testing.assert_allclose(rig.wait(PERIOD).act([1.0, 0.5, 0.0]).velocity, [1.0, 0.5, 0.0])


def test_a_burst_of_actions_accelerates_no_more_than_one(rig):
    """A change is judged by the time it had: ten actions within a period are one period's change."""
    rig = Rig(acceleration=5.0).at(0.0, 0.0, 0.0)
    first = rig.act([2.0, 0.0, 0.0]).velocity[0]
    for _ in range(10):
        last = rig.wait(PERIOD / 10).act([2.0, 0.0, 0.0])
    assert last.velocity[0] - first == pytest.approx(0.5)


def test_jerk_is_limited_on_the_way_up_and_at_its_end():
    """20 rad/s^3 for 0.1 s: 2 rad/s^2 more each time, so 0.2 and 0.4 rad/s faster, and as gently into the end."""
    rig, speeds = Rig(acceleration=50.0, jerk=20.0).at(0.0, 0.0, 0.0), []
    for _ in range(12):
        command = rig.at(0.0, 0.0, 0.0).act([1.0, 0.0, 0.0])
        speeds.append(command.velocity[0])
        rig.wait(PERIOD)
    np.testing.assert_allclose(speeds[:2], [0.2, 0.6])
    change = np.diff([0.0, 0.0, *speeds], n=2) / PERIOD**2
    assert (np.abs(change) <= 20.0 + 1e-6).all()
    assert max(speeds) <= 1.0 + 1e-12 and speeds[-1] == pytest.approx(1.0, abs=1e-3)


def test_braking_distance_is_kept():
    """Held for a period and then braked, the motion must end at the limit: v T + v^2 / (2 a) = room."""
    velocity, flags = MotionLimits(make_profile(acceleration=5.0)).apply(
        np.array([2.0, 2.0, 0.0]), np.array([2.0, 2.0, 0.0]), np.array([0.5, -0.8, 0.0])
    )
    room = 0.4
    assert velocity[0] * PERIOD + velocity[0] ** 2 / 10.0 == pytest.approx(room)
    assert velocity[1] == 2.0
    assert flags == Flags.POSITION_LIMIT


@pytest.mark.parametrize("times", [{}, {"action_timeout": 0.1, "state_timeout": 0.4}, {"action_timeout": 0.4}])
def test_an_arm_whose_joint_states_end_on_the_way_stops_before_its_limit(times):
    """Actions go on, from a place that is not true any more; when the watchdog sees it the arm brakes at 5 rad/s^2."""
    for seen_until in np.linspace(-0.5, 0.8, 66):
        rig, place, velocity = Rig(acceleration=5.0, **times), -0.9, 0.0
        for look in range(200):
            rig.wait(0.02)
            place += 0.02 * velocity
            if place <= seen_until:
                rig.at(place, 0.0, 0.0)
            stopped = rig.guard.watch()
            if stopped is None and look % 5 == 0:
                command = rig.act([2.0, 0.0, 0.0])
                stopped = command if command.mode is not Mode.RUNNING else None
                velocity = command.velocity[0] if stopped is None else velocity
            if stopped is not None:
                break
        assert stopped is not None and place + velocity**2 / 10.0 <= 0.9 + 1e-6, seen_until


finite = st.floats(-1e9, 1e9)


@settings(max_examples=300, deadline=None)
@given(
    velocities=st.lists(arrays(float, 3, elements=finite), min_size=1, max_size=20),
    start=arrays(float, 3, elements=st.floats(-0.9, 0.9)),
    acceleration=st.sampled_from([None, 1.0, 20.0]),
)
def test_an_arm_that_obeys_never_leaves_its_limits(velocities, start, acceleration):
    """An ideal integrator driven through the guard, whatever the policy asks for."""
    rig, position, previous = Rig(acceleration=acceleration), start, np.zeros(3)
    for wanted in velocities:
        velocity = rig.wait(PERIOD).at(*position).act(wanted).velocity
        assert (np.abs(velocity) <= 2.0).all()
        if acceleration:
            # Stopping before a limit may brake harder than the limit only as far as rounding goes.
            assert (np.abs(velocity - previous) <= acceleration * PERIOD + 1e-6).all() or (
                np.abs(velocity) < np.abs(previous)
            ).any()
        position = position + velocity * PERIOD
        assert (np.abs(position) <= 0.9 + 1e-9).all()
        previous = velocity


@settings(max_examples=300, deadline=None)
@given(
    velocity=st.one_of(
        arrays(float, st.integers(0, 5), elements=st.floats(allow_nan=True, allow_infinity=True)),
        st.lists(st.one_of(st.floats(allow_nan=True), st.none(), st.text(max_size=2)), max_size=4),
        arrays(float, (3, 1)),
        st.none(),
        st.just("move"),
        st.just(float("nan")),
        st.just([[1.0], [1.0, 2.0]]),
    )
)
def test_whatever_comes_what_goes_out_is_three_finite_numbers_within_limits(velocity):
    command = Rig().at(0.0, 0.0, 0.0).act(velocity)
    assert command.velocity.shape == (3,)
    assert np.isfinite(command.velocity).all()
    assert (np.abs(command.velocity) <= 2.0).all()


# -- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("velocity", "flag"),
    [
        ([0.1, math.nan, 0.1], Flags.NONFINITE),
        ([math.inf, 0.0, 0.0], Flags.NONFINITE),
        ([math.nan], Flags.NONFINITE),  # finiteness is judged before size
        ([0.1, 0.1], Flags.WRONG_SIZE),
        ([], Flags.WRONG_SIZE),
        (["fast", "fast", "fast"], Flags.WRONG_SIZE),
        (["1.0", "1.0", "1.0"], Flags.WRONG_SIZE),  # numpy would read them
        (np.array([1.0 + 2.0j] * 3), Flags.WRONG_SIZE),  # and drop the half of these
        ([10**400, 0, 0], Flags.WRONG_SIZE),
    ],
)
def test_an_impossible_action_latches_a_fault(rig, velocity, flag):
    rig.act([1.0, 0.0, 0.0])
    assert_zero(rig.act(velocity), Mode.FAULT, flag | Flags.FAULT)
    assert_zero(rig.act([0.1, 0.1, 0.1]), Mode.FAULT, flag | Flags.FAULT)


def test_an_action_for_other_joints_or_another_order_is_a_fault(rig):
    assert rig.act([0.1, 0.2, 0.3], joints=("a", "b", "c")).mode is Mode.RUNNING
    command = rig.act([0.1, 0.2, 0.3], joints=("b", "a", "c"))
    assert_zero(command, Mode.FAULT, Flags.WRONG_SIZE)
    assert "b, a, c" in command.reason


def test_a_refused_joint_state_latches_a_fault_until_a_good_one_comes(rig):
    rig.act([1.0, 0.0, 0.0])
    assert_zero(rig.guard.on_invalid_state("joint b is nan"), Mode.FAULT, Flags.INVALID_STATE)
    assert rig.guard.on_invalid_state("joint b is nan") is None, "one fault, one command"
    refused = rig.guard.reset()
    assert not refused.success and "joint b is nan" in refused.message
    rig.at(0.0, 0.0, 0.0)
    assert rig.guard.reset().success


def test_a_second_publisher_is_a_fault_while_it_is_there(rig):
    rig.act([1.0, 0.0, 0.0])
    assert_zero(rig.guard.watch(["/teleop"]), Mode.FAULT, Flags.SECOND_PUBLISHER)
    assert "/teleop" in rig.guard.reset().message
    rig.guard.watch([])
    assert rig.guard.reset().success


def test_reset_is_refused_while_impossible_actions_keep_coming(rig):
    rig.act([math.nan] * 3)
    refused = rig.guard.reset()
    assert not refused.success and "impossible actions" in refused.message
    rig.wait(0.2).at(0.0, 0.0, 0.0)
    assert rig.guard.reset().success


def test_reset_is_refused_while_the_joint_state_is_stale(rig):
    rig.guard.estop()
    rig.wait(0.2)
    refused = rig.guard.reset()
    assert not refused.success and "0.200 s old" in refused.message


# -- e-stop ----------------------------------------------------------------------------------------------------------


def test_estop_latches_whatever_comes_after(rig):
    rig.act([1.0, 0.0, 0.0])
    assert_zero(rig.guard.estop(), Mode.ESTOP, Flags.ESTOP)
    assert_zero(rig.act([1.0, 0.0, 0.0]), Mode.ESTOP, Flags.ESTOP)
    assert_zero(rig.act([math.nan] * 3), Mode.ESTOP, Flags.ESTOP)
    assert_zero(rig.act([1.0, 0.0, 0.0], episode=2, step=0), Mode.ESTOP, Flags.ESTOP)
    rig.guard.on_invalid_state("x")
    rig.guard.watch(["/teleop"])
    assert rig.guard.mode is Mode.ESTOP


def test_reset_alone_moves_nothing_until_an_episode_starts(rig):
    rig.act([1.0, 0.0, 0.0], episode=7, step=5)
    rig.guard.estop()
    assert rig.guard.reset().success
    assert rig.guard.mode is Mode.STOPPED
    assert_zero(rig.act([1.0, 0.0, 0.0], episode=7, step=6), Mode.STOPPED, Flags.EPISODE_END)
    assert rig.act([1.0, 0.0, 0.0], episode=8, step=0).mode is Mode.RUNNING


@pytest.mark.parametrize("latch", [lambda guard: guard.estop(), lambda guard: guard.watch(["/teleop"])])
@pytest.mark.parametrize("before", [[], [7]])
def test_an_episode_that_begins_behind_a_latch_does_not_move_by_a_reset(rig, latch, before):
    """Pressed at rest: what begins before the reset must not come to life by it."""
    for episode in before:
        rig.act([1.0, 0.0, 0.0], episode=episode, step=0)
        rig.act([0.0, 0.0, 0.0], episode=episode, step=1, active=False)
    latch(rig.guard)
    for step in range(3):
        assert not rig.act([1.0, 0.0, 0.0], episode=8, step=step).velocity.any()
    rig.guard.watch([])
    assert rig.guard.reset().success
    assert_zero(rig.act([1.0, 0.0, 0.0], episode=8, step=3), Mode.STOPPED, Flags.EPISODE_END)
    assert rig.act([1.0, 0.0, 0.0], episode=9, step=0).mode is Mode.RUNNING


def test_an_episode_begun_again_under_its_old_number_moves(rig):
    rig.act([1.0, 0.0, 0.0], episode=7, step=5)
    rig.guard.estop()
    rig.guard.reset()
    assert rig.act([1.0, 0.0, 0.0], episode=7, step=0).mode is Mode.RUNNING
    assert rig.act([1.0, 0.0, 0.0], episode=7, step=1).mode is Mode.RUNNING


def test_reset_with_nothing_latched_changes_nothing(rig):
    rig.act([1.0, 0.0, 0.0])
    assert rig.guard.reset() == (True, "nothing is latched", None)
    assert rig.guard.mode is Mode.RUNNING


# -- watchdogs and ends ----------------------------------------------------------------------------------------------


def test_a_silent_policy_leads_to_zeros_once_and_a_new_action_goes_on(rig):
    rig.act([1.0, 0.0, 0.0])
    assert rig.wait(0.15).at(0.0, 0.0, 0.0).guard.watch() is None
    assert_zero(rig.wait(0.02).guard.watch(), Mode.STOPPED, Flags.STALE_ACTION)
    assert rig.guard.watch() is None, "an arm told to stop is not told again"
    assert rig.act([1.0, 0.0, 0.0]).mode is Mode.RUNNING


# A period of 0.1 s and 0.07 s of patience: after 0.17 s without a word the policy sends zeros in the guard's place.


def test_a_guard_that_was_away_does_not_go_on_where_the_policy_has_stopped_the_arm():
    rig = moving(acceleration=5.0)
    command = rig.wait(0.18).at(0.0, 0.0, 0.0).act([1.0, -0.5, 0.0])
    assert_zero(command, Mode.STOPPED, Flags.STALE_ACTION)
    assert command.reason == "the guard was silent for 0.180 s" and rig.guard.interventions > 0
    again = rig.wait(PERIOD).act([1.0, -0.5, 0.0])
    np.testing.assert_allclose(again.velocity, [0.5, -0.25, 0.0])  # from rest, 5 rad/s^2 for 0.1 s


def test_a_guard_that_was_away_and_looks_before_the_next_action_says_so():
    rig = moving(acceleration=5.0, action_timeout=0.4, state_timeout=0.4)
    assert_zero(rig.wait(0.18).guard.watch(), Mode.STOPPED, Flags.STALE_ACTION)
    assert rig.act([1.0, -0.5, 0.0]).mode is Mode.RUNNING


def test_a_guard_that_was_away_on_a_ramp_does_not_take_it_up_again():
    rig = moving(acceleration=5.0)
    assert rig.wait(0.02).guard.pause().command.velocity.any()
    assert_zero(rig.wait(0.18).guard.watch(), Mode.PAUSED, Flags.PAUSED)


def test_an_action_that_is_late_while_the_guard_is_there_passes():
    rig = moving(acceleration=5.0)
    assert rig.wait(0.16).at(0.0, 0.0, 0.0).act([1.0, -0.5, 0.0]).velocity[0] == pytest.approx(1.0)
    rig = moving(acceleration=5.0, action_timeout=0.4)
    for _ in range(15):
        assert rig.wait(0.02).at(0.0, 0.0, 0.0).guard.watch() is None
    assert rig.act([1.0, -0.5, 0.0]).velocity[0] == pytest.approx(1.0)


def test_what_deciding_takes_is_time_to_brake_in_too():
    """A thousand actions a second leave a guard little time beside its arithmetic; the arm is slowed down all along."""
    rig = moving(acceleration=5.0)
    begun, rig.clock.time = rig.clock.time, rig.clock.time + 0.0005
    rig.guard._now = lambda: rig.wait(0.0001).clock.time  # every look at the clock finds it later
    for _ in range(50):
        command = rig.wait(0.0003).at(0.0, 0.0, 0.0).act([0.0, 0.0, 0.0])
    slowed = 1.0 - command.velocity[0]
    assert slowed == pytest.approx(5.0 * (rig.clock.time - begun), rel=0.05)


def test_in_lockstep_no_guard_is_away():
    rig = moving(acceleration=5.0, lockstep=True, action_timeout=10.0, state_timeout=10.0)
    assert rig.wait(5.0).at(0.0, 0.0, 0.0).act([1.0, -0.5, 0.0]).velocity[0] == pytest.approx(1.0)


def test_zeros_are_repeated_when_asked_for():
    rig = Rig(zero_repeat=0.1).at(0.0, 0.0, 0.0)
    assert_zero(rig.guard.watch(), Mode.STOPPED, Flags.NONE)
    assert rig.wait(0.05).guard.watch() is None
    assert_zero(rig.wait(0.06).guard.watch(), Mode.STOPPED, Flags.NONE)


def test_at_rest_the_guard_says_whether_an_episode_could_move():
    rig = Rig(zero_repeat=0.1)
    assert_zero(rig.guard.watch(), Mode.STOPPED, Flags.STALE_STATE)
    assert_zero(rig.wait(0.11).at(0.0, 0.0, 0.0).guard.watch(), Mode.STOPPED, Flags.NONE)
    assert_zero(rig.wait(10.0).guard.watch(), Mode.STOPPED, Flags.STALE_STATE)
    assert not rig.guard.counts.any(), "nothing was stopped"
    rig.guard.estop()
    assert_zero(rig.wait(0.11).guard.watch(), Mode.ESTOP, Flags.ESTOP)


def test_a_stale_joint_state_stops_by_action_and_by_watchdog(rig):
    rig.act([1.0, 0.0, 0.0])
    rig.wait(0.1).act([1.0, 0.0, 0.0])
    assert_zero(rig.wait(0.1).guard.watch(), Mode.STOPPED, Flags.STALE_STATE)
    assert_zero(rig.act([1.0, 0.0, 0.0]), Mode.STOPPED, Flags.STALE_STATE)
    assert rig.at(0.0, 0.0, 0.0).act([1.0, 0.0, 0.0]).mode is Mode.RUNNING


def test_a_joint_state_counts_from_when_it_came(rig):
    """Not from when somebody looked at it; and in between the arm went on."""
    rig.act([1.0, 0.0, 0.0])
    rig.wait(0.1).guard.on_state(np.zeros(3), received=rig.clock() - 0.1)
    assert rig.act([1.0, 0.0, 0.0]).mode is Mode.RUNNING
    assert_zero(rig.wait(0.07).guard.watch(), Mode.STOPPED, Flags.STALE_STATE)


def test_a_joint_state_that_is_said_again_and_again_is_as_old_as_it_was(rig):
    """What a driver that hangs does: it speaks, and nothing it says is new."""
    rig.guard.on_state(np.zeros(3), 5)
    rig.act([1.0, 0.0, 0.0])
    for _ in range(3):
        rig.wait(0.04).guard.on_state(np.zeros(3), 5)
        assert rig.act([1.0, 0.0, 0.0]).mode is Mode.RUNNING
    rig.wait(0.05).guard.on_state(np.zeros(3), 5)
    assert_zero(rig.guard.watch(), Mode.STOPPED, Flags.STALE_STATE)
    rig.guard.on_state(np.zeros(3), 6)
    assert rig.act([1.0, 0.0, 0.0]).mode is Mode.RUNNING


def test_a_joint_state_that_was_overtaken_is_dropped_and_one_of_a_clock_set_back_is_not(rig):
    second = 1_000_000_000
    rig.guard.on_state(np.array([0.85, 0.0, 0.0]), 5000 * second)
    rig.guard.on_state(np.array([0.0, 0.0, 0.0]), 5000 * second - 10_000_000)
    assert rig.act([1.0, 0.0, 0.0]).velocity[0] == pytest.approx(0.5)
    rig.guard.on_state(np.array([0.0, 0.0, 0.0]), 1400 * second)
    assert rig.act([1.0, 0.0, 0.0]).velocity[0] == 1.0
    rig.guard.on_state(np.array([0.85, 0.0, 0.0]), 5000 * second)
    assert rig.act([1.0, 0.0, 0.0]).velocity[0] == pytest.approx(0.5)


def test_in_lockstep_time_may_stand_still():
    rig = Rig(lockstep=True, state_timeout=10.0, action_timeout=10.0)
    rig.guard.on_state(np.zeros(3), 5)
    rig.wait(60.0).guard.on_state(np.zeros(3), 5)
    assert rig.act([1.0, 0.0, 0.0]).mode is Mode.RUNNING


def test_a_policy_that_falls_silent_while_the_state_is_stale_is_noticed_too(rig):
    rig.act([1.0, 0.0, 0.0])
    rig.wait(0.1).act([1.0, 0.0, 0.0])
    assert_zero(rig.wait(0.1).guard.watch(), Mode.STOPPED, Flags.STALE_STATE)
    assert_zero(rig.wait(0.1).guard.watch(), Mode.STOPPED, Flags.STALE_ACTION)
    assert rig.guard.watch() is None


def test_an_action_from_a_state_of_long_ago_is_stale_however_fresh_it_arrives(rig):
    """What a model that hung says when it comes back."""
    assert_zero(rig.act([1.0, 0.0, 0.0], age=0.5), Mode.STOPPED, Flags.STALE_ACTION)
    assert rig.act([1.0, 0.0, 0.0], age=0.05).mode is Mode.RUNNING


def test_nothing_moves_before_the_first_joint_state():
    assert_zero(Rig().act([1.0, 0.0, 0.0]), Mode.STOPPED, Flags.STALE_STATE)


def test_the_end_of_an_episode_is_zeros_and_arms_no_watchdog(rig):
    rig.act([1.0, 0.0, 0.0])
    assert_zero(rig.act([0.0, 0.0, 0.0], active=False), Mode.STOPPED, Flags.EPISODE_END)
    assert rig.wait(10.0).guard.watch() is None
    assert rig.guard.interventions == 0, "the end of an episode is no intervention"


def test_the_last_command_is_zeros_and_keeps_a_latch(rig):
    rig.act([1.0, 0.0, 0.0])
    assert_zero(rig.guard.shutdown(), Mode.STOPPED, Flags.SHUTDOWN)
    rig.guard.estop()
    assert_zero(rig.guard.shutdown(), Mode.ESTOP, Flags.SHUTDOWN)


# -- stops that can wait ---------------------------------------------------------------------------------------------


def ramp(rig):
    """Commands that the watchdog sends until the arm stands."""
    sent = []
    for _ in range(200):
        command = rig.wait(0.02).guard.watch()
        if command is None:
            return sent
        sent.append(command)
    raise AssertionError("the arm never stands")


def moving(**limits):
    rig = Rig(zero_repeat=0.0, **limits).at(0.0, 0.0, 0.0)
    for _ in range(10):
        command = rig.wait(PERIOD).at(0.0, 0.0, 0.0).act([1.0, -0.5, 0.0])
    np.testing.assert_allclose(command.velocity, [1.0, -0.5, 0.0], atol=1e-3)
    return rig


STOPS = {
    "pause": (lambda rig: rig.guard.pause().command, Mode.PAUSED, Flags.PAUSED),
    "end": (lambda rig: rig.act([0.0, 0.0, 0.0], active=False), Mode.STOPPED, Flags.EPISODE_END),
}


@pytest.mark.parametrize("jerk", [None, 100.0])
@pytest.mark.parametrize("kind", STOPS)
def test_a_stop_that_can_wait_keeps_the_limits_and_ends_in_zeros(kind, jerk):
    rig, (stop, mode, flag) = moving(acceleration=5.0, jerk=jerk), STOPS[kind]
    before = np.array([1.0, -0.5, 0.0])
    rig.wait(0.02)
    commands = [stop(rig), *ramp(rig)]
    assert {command.mode for command in commands} == {mode} and {command.flags for command in commands} == {flag}
    speeds = np.array([before, *[command.velocity for command in commands]])
    assert (np.abs(np.diff(speeds, axis=0)) <= 5.0 * 0.02 + 1e-5).all()
    assert (np.diff(np.abs(speeds), axis=0) <= 1e-9).all() or jerk
    assert not speeds[-1].any()
    assert len(commands) == 10 if jerk is None else 10 < len(commands) < 25  # 1 rad/s at 5 rad/s^2 takes 0.2 s


@pytest.mark.parametrize(
    "stop", [lambda guard: guard.estop(), lambda guard: guard.watch(["/teleop"]), lambda g: g.shutdown(at_once=True)]
)
def test_a_stop_that_cannot_wait_is_zeros_at_once(stop):
    assert not stop(moving(acceleration=5.0).guard).velocity.any()


def test_a_shutdown_slows_down_first():
    rig, commands = moving(acceleration=5.0), []
    while not commands or commands[-1].velocity.any():
        rig.wait(0.02)
        commands.append(rig.guard.shutdown())
    assert {command.flags for command in commands} == {Flags.SHUTDOWN}
    assert len(commands) == 10


def test_a_pause_holds_until_resume_and_then_goes_on():
    rig = Rig().at(0.0, 0.0, 0.0)
    rig.act([1.0, 0.0, 0.0])
    assert_zero(rig.guard.pause().command, Mode.PAUSED, Flags.PAUSED)
    assert_zero(rig.act([1.0, 0.0, 0.0]), Mode.PAUSED, Flags.PAUSED)
    assert rig.guard.reset().success and rig.guard.mode is Mode.PAUSED, "only resume ends a pause"
    assert rig.guard.resume().success
    assert rig.act([1.0, 0.0, 0.0]).mode is Mode.RUNNING
    assert rig.guard.resume() == (True, "nothing is paused", None)


def test_a_fault_in_a_pause_is_latched_and_the_pause_outlives_its_reset():
    rig = Rig().at(0.0, 0.0, 0.0)
    rig.guard.pause()
    assert_zero(rig.act([math.nan] * 3), Mode.FAULT, Flags.NONFINITE)
    assert not Rig().guard.pause().command.velocity.any()
    assert rig.wait(0.2).at(0.0, 0.0, 0.0).guard.reset().success
    assert rig.guard.mode is Mode.PAUSED
    rig.guard.estop()
    refused = rig.guard.resume()
    assert not refused.success and "guard/reset" in refused.message
    assert rig.at(0.0, 0.0, 0.0).guard.reset().success and rig.guard.mode is Mode.STOPPED


# -- controller, counts, trajectories --------------------------------------------------------------------------------


def test_a_controller_that_would_not_obey_stops_the_episode(rig):
    rig.act([1.0, 0.0, 0.0], episode=3, step=5)
    stopped = rig.guard.watch(controller="controller x is inactive, wanted active")
    assert_zero(stopped, Mode.STOPPED, Flags.NO_CONTROLLER)
    assert_zero(rig.act([1.0, 0.0, 0.0], episode=3, step=6), Mode.STOPPED, Flags.NO_CONTROLLER)
    rig.guard.watch()
    assert_zero(rig.act([1.0, 0.0, 0.0], episode=3, step=7), Mode.STOPPED, Flags.EPISODE_END)
    assert rig.act([1.0, 0.0, 0.0], episode=4, step=0).mode is Mode.RUNNING


def test_an_arm_that_cannot_stop_before_its_end_any_more_is_stopped_at_once():
    """It was moved by somebody: 0.04 rad are left, and braked to 0.5 rad/s it takes 0.5 x 0.1 and then stands."""
    rig = moving(acceleration=5.0)
    command = rig.wait(PERIOD).at(0.96, 0.0, 0.0).act([1.0, 0.0, 0.0])
    assert_zero(command, Mode.STOPPED, Flags.POSITION_LIMIT)
    assert "a cannot stop before its end" in command.reason


def test_interventions_are_counted_by_kind(rig):
    rig.act([4.0, 0.0, 0.0])
    rig.act([9.0, 0.0, 0.0])
    rig.at(0.95, 0.0, 0.0).act([1.0, 0.0, 0.0])
    rig.wait(0.17).guard.watch()
    rig.guard.estop()
    counted = {flag: int(rig.guard.counts[flag.bit_length() - 1]) for flag in Flags if flag}
    expected = {Flags.VELOCITY_LIMIT: 2, Flags.POSITION_LIMIT: 1, Flags.STALE_ACTION: 1, Flags.ESTOP: 1}
    assert {flag: count for flag, count in counted.items() if count} == expected


def test_the_log_says_each_kind_once_and_then_how_often():
    log = InterventionLog()
    limited = Command(np.zeros(3), 1, Mode.RUNNING, Flags.VELOCITY_LIMIT, "too fast")
    assert log.note(limited, 0.0) == "too fast"
    assert [log.note(limited, 0.01 * k) for k in range(1, 400)] == [""] * 399
    assert log.note(Command(np.zeros(3), 0, Mode.ESTOP, Flags.ESTOP, "pressed"), 4.0) == "ESTOP: pressed"
    assert log.note(limited, 5.0) == "too fast (400 commands since this was last said)"


def test_a_trajectory_ends_at_rest_within_the_acceleration_limit():
    rig = moving(acceleration=5.0).at(0.1, 0.2, 0.3)
    first, last = rig.guard.trajectory(np.array([1.0, -0.5, 0.0]))
    np.testing.assert_allclose(first.position, [0.2, 0.15, 0.3])
    assert not last.velocity.any()
    # From 1 rad/s in steps of 0.5 rad/s: half a period's way more than v^2 / 2a.
    assert last.position[0] - first.position[0] == pytest.approx(0.05)
    (rest,) = rig.guard.trajectory(np.zeros(3))
    np.testing.assert_array_equal(rest.position, [0.1, 0.2, 0.3])
    assert Rig().guard.trajectory(np.zeros(3)) == []
