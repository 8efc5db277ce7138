"""The control loop: what each tick sends, when it ticks, how episodes begin and end, how models are swapped."""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

import numpy as np
import pytest

from simpl.core.policy_loop import LoadedModel, LoopSettings, PolicyLoop
from simpl.core.robot_state import RobotState, StateError
from simpl_core.errors import SimplError

JOINTS, OBJECTS = ["a", "b"], ["door"]
E = np.array([0.5, -0.5, 1.0], dtype=np.float32)


class Decision(NamedTuple):
    action: np.ndarray
    z: np.ndarray
    skill_start: bool


class LinearRunner:
    """Acts with a tenth of the joints it sees; a new skill every third step. Remembers how it was begun."""

    def __init__(self, gain=0.1):
        self.gain, self.begun, self.steps = gain, None, 0

    def begin_episode(self, e, seed, temperature=1.0):
        self.begun, self.steps = (tuple(e), seed, temperature), 0

    def act(self, observation):
        self.steps += 1
        z = np.full(4, self.steps, dtype=np.float32)
        return Decision(self.gain * observation[:2], z, self.steps % 3 == 1)


def make_model(version="v1", gain=0.1):
    return LoadedModel(LinearRunner(gain), version, 3, np.array([2.0, 4.0]))


class Rig:
    """A loop ticked by hand on a fake clock, with a list for a topic."""

    def __init__(self, **settings):
        self.time = 50.0
        chosen = LoopSettings(**settings)
        self.state = RobotState(JOINTS, OBJECTS, newer=not chosen.lockstep)  # as the node does it
        self.sent = []
        self.loop = PolicyLoop(self.state, self.sent.append, chosen, now=lambda: self.time)
        self.loop.stage(make_model())

    def see(self, stamp, a=1.0, b=2.0, door=3.0):
        self.state.update_joints(stamp, ["b", "a"], [b, a], self.time)
        self.state.update_objects(stamp, OBJECTS, [door], self.time)

    def tick(self):
        before = len(self.sent)
        self.loop.tick()
        return self.sent[before] if len(self.sent) > before else None


@pytest.fixture
def lockstep():
    return Rig(lockstep=True, max_steps=3)


# -- robot state -----------------------------------------------------------------------------------------------------


def test_state_is_put_into_the_robots_order_whatever_the_senders():
    state = RobotState(JOINTS, OBJECTS)
    assert state.newest() is None
    state.update_joints(7, ["gripper", "b", "a"], [9.0, 2.0, 1.0], now=1.0)
    state.update_objects(7, ["door"], [3.0], now=1.5)
    snapshot = state.paired()
    np.testing.assert_array_equal(snapshot.observation, np.array([1.0, 2.0, 3.0], dtype=np.float32))
    assert (snapshot.stamp, snapshot.received, snapshot.oldest) == (7, 1.5, 1.0)


@pytest.mark.parametrize(
    ("names", "values", "message"),
    [
        (["a"], [1.0], "joint b is missing"),
        (["a", "b"], [1.0], "2 joint names came with 1 numbers"),
        (["a", "b"], [], "2 joint names came with 0 numbers"),
        (["a", "b"], [1.0, float("nan")], "joint b is nan"),
        (["a", "b"], [float("-inf"), 1.0], "joint a is -inf"),
        (["a", "b"], [1e300, 1.0], "joint a is 1e.300"),
    ],
)
def test_unusable_states_are_refused_and_the_last_good_one_stays(names, values, message):
    state = RobotState(JOINTS, OBJECTS)
    state.update_joints(1, JOINTS, [1.0, 2.0], now=0.0)
    state.update_objects(1, OBJECTS, [3.0], now=0.0)
    with pytest.raises(StateError, match=message):
        state.update_joints(2, names, values, now=1.0)
    assert state.paired().stamp == 1
    assert state.rejected == 1


def test_messages_about_other_joints_are_nobodys_fault():
    state = RobotState(JOINTS, OBJECTS)
    state.update_joints(1, ["gripper"], [0.1], now=0.0)
    assert (state.newest(), state.rejected) == (None, 0)


def test_halves_of_different_stamps_are_no_pair():
    state = RobotState(JOINTS, OBJECTS)
    state.update_joints(2, JOINTS, [1.0, 2.0], now=0.0)
    state.update_objects(1, OBJECTS, [3.0], now=0.0)
    assert state.paired() is None
    assert state.newest().stamp == 2


# -- one tick --------------------------------------------------------------------------------------------------------


def test_a_tick_carries_everything_that_a_reader_needs(lockstep):
    lockstep.see(1)
    assert lockstep.loop.begin_episode(4, E, seed=9, temperature=0.5) == "v1"
    lockstep.time += 0.002
    tick = lockstep.tick()
    assert (tick.stamp, tick.tick, tick.episode, tick.step, tick.active) == (1, 1, 4, 0, True)
    np.testing.assert_array_equal(tick.observation, np.array([1.0, 2.0, 3.0], dtype=np.float32))
    np.testing.assert_allclose(tick.action, [0.1, 0.2])
    np.testing.assert_allclose(tick.velocity, [0.2, 0.8], rtol=1e-6)  # action times action scale
    np.testing.assert_array_equal(tick.e, E)
    np.testing.assert_array_equal(tick.z, [1, 1, 1, 1])
    assert tick.skill_start and tick.model_version == "v1"
    assert tick.latency == pytest.approx(2.0)  # milliseconds


def test_lockstep_ticks_once_per_new_pair_of_stamps(lockstep):
    lockstep.see(1)
    assert lockstep.tick() is None, "no episode, no action"
    lockstep.loop.begin_episode(1, E, 0, 1.0)
    assert lockstep.tick().step == 0
    assert lockstep.tick() is None, "the same state again"
    lockstep.state.update_joints(2, JOINTS, [1.0, 1.0], lockstep.time)
    assert lockstep.tick() is None, "only half of the next state is there"
    lockstep.see(2)
    assert lockstep.tick().step == 1


def test_lockstep_sends_an_action_again_that_the_plant_does_not_answer(lockstep):
    lockstep.loop.begin_episode(1, E, 0, 1.0)
    lockstep.see(1)
    first = lockstep.tick()
    lockstep.time += 4.9
    assert lockstep.tick() is None
    lockstep.time += 0.2
    assert lockstep.tick() is first
    assert lockstep.tick() is None
    lockstep.see(2)
    assert lockstep.tick().step == 1, "sending again counts as no step"


def test_after_max_steps_comes_one_terminal_tick_and_then_silence(lockstep):
    lockstep.loop.begin_episode(1, E, 0, 1.0)
    ticks = []
    for stamp in range(1, 7):
        lockstep.see(stamp, a=float(stamp))
        ticks.append(lockstep.tick())
    assert [tick.step for tick in ticks[:4]] == [0, 1, 2, 3]
    terminal = ticks[3]
    assert not terminal.active and terminal.z.size == 0 and not terminal.skill_start
    np.testing.assert_array_equal(terminal.velocity, [0.0, 0.0])
    assert terminal.observation[0] == 4.0, "the observation after the last action"
    assert ticks[4:] == [None, None]
    assert lockstep.loop.status().state == "terminal"


# -- ending ----------------------------------------------------------------------------------------------------------


def test_ending_in_lockstep_waits_for_the_action_under_way_and_for_the_plants_answer(lockstep):
    lockstep.loop.begin_episode(1, E, 0, 1.0)
    lockstep.see(1)
    lockstep.tick()
    ended = lockstep.loop.end_episode()
    assert lockstep.tick() is None, "the plant still works on the last action"
    lockstep.see(2)
    assert not lockstep.tick().active
    assert not ended.done(), "the plant has not answered the zeros yet"
    lockstep.see(3)
    lockstep.tick()
    assert ended.result(timeout=0) is True


def test_ending_does_not_wait_for_a_dead_plant(lockstep):
    lockstep.loop.begin_episode(1, E, 0, 1.0)
    lockstep.see(1)
    lockstep.tick()
    ended = lockstep.loop.end_episode()
    lockstep.time += 0.6
    assert not lockstep.tick().active
    lockstep.time += 0.6
    lockstep.tick()
    assert ended.result(timeout=0) is False


def test_ending_what_ended_by_itself_waits_for_the_plant_too(lockstep):
    lockstep.loop.begin_episode(1, E, 0, 1.0)
    for stamp in range(1, 5):
        lockstep.see(stamp)
        lockstep.tick()
    ended = lockstep.loop.end_episode()
    assert not ended.done()
    lockstep.see(5)
    lockstep.tick()
    assert ended.result(timeout=0) is True
    assert lockstep.loop.end_episode().result(timeout=0) is True, "nothing left to end"


def test_ending_in_real_time_is_done_with_the_terminal_tick():
    rig = Rig()
    rig.loop.begin_episode(1, E, 0, 1.0)
    rig.see(1)
    rig.tick()
    ended = rig.loop.end_episode()
    assert not rig.tick().active
    assert ended.result(timeout=0) is True


# -- beginning and models --------------------------------------------------------------------------------------------


def test_a_staged_model_acts_from_the_next_episode_on_and_the_previous_is_kept(lockstep):
    lockstep.loop.begin_episode(1, E, 0, 1.0)
    lockstep.loop.stage(make_model("v2", gain=1.0)._replace(arithmetic="float64"))
    lockstep.see(1)
    assert lockstep.tick().model_version == "v1"
    assert lockstep.loop.status()[1:3] == ("v1", "v2")
    assert lockstep.loop.status().arithmetic == "", "of the one that acts"
    lockstep.loop.end_episode()
    lockstep.see(2)
    assert lockstep.tick().model_version == "v1"
    assert lockstep.loop.begin_episode(2, E, 0, 1.0) == "v2"
    lockstep.see(3)
    assert lockstep.tick().model_version == "v2" and lockstep.loop.status().arithmetic == "float64"
    assert lockstep.loop.previous.version == "v1"
    assert lockstep.loop.model("v1") is lockstep.loop.previous
    assert lockstep.loop.model("v3") is None


def test_episodes_that_cannot_begin_say_why_and_leave_the_model(lockstep):
    for e in (E[:2], np.array([1.0, np.nan, 0.0])):
        with pytest.raises(SimplError, match="wanted 3 finite numbers"):
            lockstep.loop.begin_episode(1, e, 0, 1.0)
    lockstep.loop.begin_episode(1, E, 0, 1.0)
    with pytest.raises(SimplError, match="episode 1 is still running"):
        lockstep.loop.begin_episode(2, E, 0, 1.0)
    empty = PolicyLoop(lockstep.state, print, LoopSettings())
    with pytest.raises(SimplError, match="no model"):
        empty.begin_episode(1, E, 0, 1.0)


def test_a_model_that_refuses_to_begin_is_not_swapped_in(lockstep):
    lockstep.loop.begin_episode(1, E, 0, 1.0)
    lockstep.loop.end_episode()
    lockstep.see(1)
    lockstep.tick()
    broken = make_model("broken")
    broken.runner.begin_episode = lambda *_: (_ for _ in ()).throw(SimplError("cold"))
    lockstep.loop.stage(broken)
    with pytest.raises(SimplError, match="cold"):
        lockstep.loop.begin_episode(2, E, 0, 1.0)
    assert lockstep.loop.status().model_version == "v1"


# -- real time -------------------------------------------------------------------------------------------------------


def test_a_stale_state_is_not_acted_on_and_counts_as_missed():
    rig = Rig(state_timeout=0.2)
    rig.loop.begin_episode(1, E, 0, 1.0)
    rig.see(1)
    rig.time += 0.19
    assert rig.tick().active
    rig.time += 0.02
    assert rig.tick() is None
    assert rig.loop.status().missed == 1


def test_a_joint_state_that_is_said_again_becomes_no_younger():
    rig = Rig(state_timeout=0.2)
    rig.loop.begin_episode(1, E, 0, 1.0)
    rig.see(1)
    for _ in range(2):
        rig.time += 0.09
        rig.see(1)
        assert rig.tick().active
    rig.time += 0.09
    rig.see(1)
    assert rig.tick() is None and rig.loop.status().missed == 1
    rig.see(2)
    assert rig.tick().active


def test_real_time_ticks_keep_absolute_deadlines():
    """100 ticks at 100 Hz: the mean period is exact although each tick takes a while."""
    state = RobotState(JOINTS, OBJECTS)
    done = threading.Event()

    def publish(tick):
        time.sleep(0.002)
        if not tick.active:
            done.set()

    settings = LoopSettings(rate_hz=100.0, max_steps=100, state_timeout=60.0)
    loop = PolicyLoop(state, publish, settings)
    loop.stage(make_model())
    state.update_joints(1, JOINTS, [1.0, 2.0], time.monotonic())
    state.update_objects(1, OBJECTS, [3.0], time.monotonic())
    loop.begin_episode(1, E, 0, 1.0)
    loop.start()
    try:
        assert done.wait(60.0)
    finally:
        loop.stop()
    assert loop.status().ticks == 101
    # A late tick counts as missed, and so do deadlines that were skipped; only the latter add time. Times as the loop
    # took them: between two lines of a test a busy machine may do anything.
    starts = loop._starts._values[:101]
    assert 1.0 - 0.02 < starts[-1] - starts[0] < 1.0 + 0.01 * loop.status().missed + 0.02


# -- the thread ------------------------------------------------------------------------------------------------------


def test_a_failing_tick_ends_in_a_terminal_tick_and_a_message():
    rig, failures = Rig(lockstep=True), []
    rig.loop = PolicyLoop(rig.state, rig.sent.append, LoopSettings(lockstep=True), failures.append)
    model = make_model()
    model.runner.act = lambda observation: 1 / 0
    rig.loop.stage(model)
    rig.see(1)
    rig.loop.begin_episode(1, E, 0, 1.0)
    rig.loop.run()
    assert [tick.active for tick in rig.sent] == [False]
    np.testing.assert_array_equal(rig.sent[0].velocity, [0.0, 0.0])
    assert isinstance(failures[0], ZeroDivisionError)
    assert rig.loop.status().state == "error"
    with pytest.raises(SimplError, match="division by zero"):
        rig.loop.begin_episode(2, E, 0, 1.0)


def test_stopping_the_thread_in_mid_episode_tells_the_arm_to_stop():
    rig = Rig(lockstep=True)
    rig.see(1)
    rig.loop.begin_episode(1, E, 0, 1.0)
    rig.loop.start()
    deadline = time.monotonic() + 5.0
    while not rig.sent and time.monotonic() < deadline:
        time.sleep(0.001)
    rig.loop.stop()
    assert [tick.active for tick in rig.sent] == [True, False]
