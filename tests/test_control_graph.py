"""Plant, guard and policy as real processes: the loop equals the bare environment, and every stop ends in zeros.

The test listens on the command topic beside the plant, so what it sees is what a controller would get.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("simpl_interfaces", reason="the ROS workspace is not built: make ros")

from ros_rig import Log, RosRig, wait_for  # noqa: E402
from simpl_interfaces.msg import GuardState  # noqa: E402
from simpl_interfaces.srv import BeginEpisode, ResetScene, StageModel  # noqa: E402

from export.bundle import Bundle  # noqa: E402
from export.runtime import PolicyRunner  # noqa: E402
from sim.kitchen import INITIAL_POSITION, KitchenEnv  # noqa: E402
from sim.tasks import OBJECT_COORDINATES, ROBOT_JOINTS  # noqa: E402
from simpl import interfaces as topics  # noqa: E402
from simpl.conversions import to_joint_state, to_policy_action, to_velocity_command  # noqa: E402
from simpl.core.guard import Flags, Mode  # noqa: E402
from simpl.core.policy_loop import PolicyTick  # noqa: E402

STEPS = 60
E = [0.3, -0.2, 0.5, 0.0, 1.0, -1.0]


@pytest.fixture
def rig() -> Iterator[RosRig]:
    rig = RosRig()
    yield rig
    rig.close()


def velocities(commands: Log) -> np.ndarray:
    return np.array([list(message.data) for message in commands]).reshape(-1, len(ROBOT_JOINTS))


# -- lockstep: the graph is the environment --------------------------------------------------------------------------


class Lockstep:
    """The three nodes in lockstep; one for the module, since starting them takes seconds."""

    def __init__(self, rig: RosRig, bundle: Path, folder: Path) -> None:
        self.rig, self.folder = rig, folder
        self.actions = rig.listen(topics.POLICY_ACTION, qos=topics.STREAM)
        self.guard_states = rig.listen(topics.GUARD_STATE)
        rig.start("arm_sim", lockstep=True, output_folder=folder)
        rig.start("guard", lockstep=True, action_timeout=10.0)  # a starved machine must not look like a dead policy
        rig.start("policy", lockstep=True, bundle=bundle, max_steps=STEPS)
        # Discovery takes a moment: the first episode is over when the test has begun to hear everything.
        while not self.guard_states:
            self.run(0, 0)

    def begin(self, episode: int, seed: int) -> BeginEpisode.Response:
        assert self.rig.call(topics.SCENE_RESET, ResetScene.Request(episode=episode, seed=seed)).success
        return self.rig.call(topics.BEGIN_EPISODE, BeginEpisode.Request(episode=episode, e=E, seed=seed))

    def run(self, episode: int, seed: int) -> list:
        """A whole episode: its actions, the terminal one included."""
        begun = self.begin(episode, seed)
        assert begun.success, begun.message
        self.actions.wait(lambda action: action.episode == episode and not action.active)
        assert self.rig.call(topics.END_EPISODE).message == ""
        return [action for action in self.actions if action.episode == episode]


@pytest.fixture(scope="module")
def lockstep(random_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lockstep]:
    rig = RosRig()
    try:  # nodes that do not come up must not outlive the test
        yield Lockstep(rig, random_bundle, tmp_path_factory.mktemp("plant"))
    finally:
        rig.close()


def alone(bundle: Path, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The bare environment with the same policy and seeds: observations, actions, true coordinates."""
    env, runner = KitchenEnv(), PolicyRunner(Bundle.open(bundle))
    runner.begin_episode(np.array(E, np.float32), seed)
    observation, _ = env.reset(seed=seed)
    observations, actions, coordinates = [observation], [], [env.qpos]
    for _ in range(STEPS):
        action = runner.act(observation).action
        observation, *_ = env.step(action)
        observations.append(observation)
        actions.append(action)
        coordinates.append(env.qpos)
    return np.array(observations), np.array(actions), np.array(coordinates)


@pytest.mark.parametrize(("episode", "seed"), [(1, 5), (2, 6), (3, 5)])
def test_the_graph_in_lockstep_equals_the_bare_environment(lockstep, random_bundle, episode, seed):
    """To the last bit, noise included, whatever the processes do to each other's timing."""
    ticks = lockstep.run(episode, seed)
    observations, actions, coordinates = alone(random_bundle, seed)
    assert [tick.step for tick in ticks] == list(range(STEPS + 1))
    assert [tick.active for tick in ticks] == [True] * STEPS + [False]
    np.testing.assert_array_equal([tick.observation for tick in ticks], observations)
    np.testing.assert_array_equal([tick.action for tick in ticks[:-1]], actions)
    assert [tick.skill_start for tick in ticks[:-1]] == [step % 10 == 0 for step in range(STEPS)]

    # The plant writes its own record when the next episode begins; its truth is the environment's.
    lockstep.rig.call(topics.SCENE_RESET, ResetScene.Request(episode=episode + 100, seed=0))
    record = np.load(lockstep.folder / f"episode_{episode:03d}.npz")
    np.testing.assert_array_equal(record["qpos"][: STEPS + 1], coordinates)
    np.testing.assert_array_equal(record["commands"][STEPS:], np.zeros((1, 9)))  # the terminal zeros, executed too
    assert (np.diff(record["stamps"]) == 80_000_000).all()


def test_there_is_one_command_per_action_and_none_changes_the_motion(lockstep):
    ticks = lockstep.run(10, 8)
    by_tick = {state.tick: state for state in lockstep.guard_states if state.tick}
    states = [by_tick[tick.tick] for tick in ticks]
    assert [state.mode for state in states] == [Mode.RUNNING] * STEPS + [Mode.STOPPED]
    assert {state.flags for state in states[:-1]} == {0}
    assert states[-1].flags == Flags.EPISODE_END
    assert len([state for state in lockstep.guard_states if state.tick in {tick.tick for tick in ticks}]) == STEPS + 1


def test_time_stands_still_between_episodes(lockstep):
    joint_states = lockstep.rig.listen(topics.JOINT_STATES)
    wait_for(lambda: len(joint_states) > 5)  # published again for those who come late
    assert len({(state.header.stamp.sec, state.header.stamp.nanosec) for state in joint_states}) == 1


def test_an_episode_can_be_ended_in_the_middle(lockstep):
    lockstep.begin(20, 0)
    lockstep.actions.wait(lambda action: action.episode == 20 and action.step == 3)
    assert lockstep.rig.call(topics.END_EPISODE).success
    ticks = [action for action in lockstep.actions if action.episode == 20]
    assert not ticks[-1].active
    assert ticks[-1].step == len(ticks) - 1 < STEPS
    np.testing.assert_array_equal(ticks[-1].velocity, np.zeros(9))
    assert lockstep.rig.call(topics.END_EPISODE).success, "ending twice is no error"


def test_models_are_swapped_at_the_next_episode_and_damaged_ones_are_refused(lockstep, random_bundle, tmp_path):
    from conftest import make_random_bundle

    other = make_random_bundle(tmp_path / "other", seed=7)
    first = lockstep.begin(30, 0).model_version
    staged = lockstep.rig.call(topics.STAGE_MODEL, StageModel.Request(path=str(other)))
    assert staged.success and staged.model_version == Bundle.open(other).model_version != first
    lockstep.actions.wait(lambda action: action.episode == 30 and not action.active)
    assert {action.model_version for action in lockstep.actions if action.episode == 30} == {first}
    lockstep.rig.call(topics.END_EPISODE)
    assert {tick.model_version for tick in lockstep.run(31, 0)} == {staged.model_version}

    damaged = tmp_path / "damaged"
    shutil.copytree(random_bundle, damaged)
    content = bytearray((damaged / "skill_decoder.onnx").read_bytes())
    content[-5] ^= 1
    (damaged / "skill_decoder.onnx").write_bytes(content)
    for path in (damaged, tmp_path / "nowhere"):
        refused = lockstep.rig.call(topics.STAGE_MODEL, StageModel.Request(path=str(path)))
        assert not refused.success and refused.message
    assert {tick.model_version for tick in lockstep.run(32, 0)} == {staged.model_version}
    assert lockstep.rig.call(topics.STAGE_MODEL, StageModel.Request(path=str(random_bundle))).success
    assert lockstep.run(33, 0)[0].model_version == first


def test_the_policy_is_a_lifecycle_node_and_inactive_it_begins_nothing(lockstep):
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    change = topics.Service("policy/change_state", ChangeState)
    lockstep.begin(50, 0)
    wanted = Transition(id=Transition.TRANSITION_DEACTIVATE)
    assert lockstep.rig.call(change, ChangeState.Request(transition=wanted)).success
    assert not lockstep.actions.wait(lambda action: action.episode == 50 and not action.active).active
    refused = lockstep.begin(51, 0)
    assert not refused.success
    assert "not active" in refused.message
    wanted = Transition(id=Transition.TRANSITION_ACTIVATE)
    assert lockstep.rig.call(change, ChangeState.Request(transition=wanted)).success
    assert len(lockstep.run(52, 0)) == STEPS + 1


def test_episodes_that_cannot_begin_are_refused_with_a_reason(lockstep):
    refused = lockstep.rig.call(topics.BEGIN_EPISODE, BeginEpisode.Request(episode=40, e=[1.0], seed=0))
    assert not refused.success and "wanted 6 finite numbers" in refused.message


# -- real time: deaths, stops and latches ----------------------------------------------------------------------------


class RealTime:
    """The three nodes by the wall clock, an episode under way."""

    def __init__(self, rig: RosRig, bundle: Path) -> None:
        self.rig, self.bundle = rig, bundle
        self.commands = rig.listen(topics.COMMANDS, qos=topics.STREAM)
        self.guard_states = rig.listen(topics.GUARD_STATE)
        self.actions = rig.listen(topics.POLICY_ACTION, qos=topics.STREAM)
        self.joint_states = rig.listen(topics.JOINT_STATES)
        self.status = rig.listen(topics.POLICY_STATUS)
        self.episode = 0

        rig.start("arm_sim", noise=0.0)
        rig.start("guard")
        rig.start("policy", bundle=bundle, max_steps=10_000)

    def set_in_motion(self) -> None:
        """End the episode of an earlier test, if any, and begin one."""
        self.rig.call(topics.END_EPISODE)
        self.episode += 1
        assert self.rig.call(topics.SCENE_RESET, ResetScene.Request(episode=self.episode, seed=0)).success
        begun = self.rig.call(topics.BEGIN_EPISODE, BeginEpisode.Request(episode=self.episode, e=E, seed=0))
        assert begun.success, begun.message
        self.wait_for_motion()

    def wait_for_motion(self) -> None:
        self.commands.wait(lambda command: np.abs(command.data).max() > 0.01, start=len(self.commands))

    def at_rest(self) -> int:
        """Wait until nothing but zeros is on its way; the number of the last command heard."""
        wait_for(lambda: len(self.commands) >= 5 and not np.any([command.data for command in self.commands[-5:]]))
        return len(self.commands) - 1

    def assert_still(self, start: int, seconds: float = 0.5) -> None:
        """From command number `start` on there are zeros and nothing else."""
        time.sleep(seconds)
        seen = velocities(self.commands)[start:]
        assert len(seen) > 0
        np.testing.assert_array_equal(seen, np.zeros_like(seen))


@pytest.fixture(scope="module")
def real_time_nodes(random_bundle: Path) -> Iterator[RealTime]:
    rig = RosRig()
    try:
        yield RealTime(rig, random_bundle)
    finally:
        rig.close()


@pytest.fixture
def real_time(real_time_nodes: RealTime) -> RealTime:
    """For tests that leave every process alive."""
    real_time_nodes.set_in_motion()
    return real_time_nodes


@pytest.fixture
def doomed(rig: RosRig, random_bundle: Path) -> RealTime:
    """For tests that kill: other tests want every process alive."""
    nodes = RealTime(rig, random_bundle)
    nodes.set_in_motion()
    return nodes


def test_the_control_loop_reports_its_health(real_time):
    status = real_time.status.wait(lambda status: status.ticks > 12)
    assert status.state == "active"
    assert status.model_version == Bundle.open(real_time.bundle).model_version
    assert 0 < status.latency_ms_p50 <= status.latency_ms_p99


def test_a_killed_policy_leaves_the_arm_stopped_by_explicit_zeros(doomed):
    start = len(doomed.guard_states)
    doomed.rig.finish("policy", signal.SIGKILL)
    killed, alive = time.monotonic(), len(doomed.commands)
    stale = doomed.guard_states.wait(lambda state: state.flags & Flags.STALE_ACTION, start=start)
    assert "no action for" in stale.reason
    assert stale.mode == Mode.STOPPED
    wait_for(lambda: len(doomed.commands) > alive and not np.any(doomed.commands[-1].data))
    heard = list(zip(list(doomed.commands.times), list(doomed.commands), strict=False))
    moving = [at for at, command in heard if np.any(command.data)]
    # Two periods and a look of the watchdog, and a second for a busy machine.
    assert moving[-1] - killed < 0.16 + 0.02 + 1.0
    doomed.assert_still(len(doomed.commands) - 1)


def test_a_stopped_policy_process_counts_as_dead_until_it_goes_on(real_time):
    start = len(real_time.guard_states)
    process = real_time.rig.processes["policy"]
    process.send_signal(signal.SIGSTOP)
    real_time.guard_states.wait(lambda state: state.flags & Flags.STALE_ACTION, start=start)
    real_time.assert_still(real_time.at_rest())
    process.send_signal(signal.SIGCONT)
    real_time.wait_for_motion()


def test_estop_latches_until_reset_and_a_new_episode(real_time):
    assert real_time.rig.call(topics.GUARD_ESTOP).success
    stopped, acted = real_time.at_rest(), len(real_time.actions)
    wait_for(lambda: len(real_time.actions) > acted + 3)  # the policy goes on, and only zeros come out
    real_time.assert_still(stopped)
    assert real_time.guard_states[-1].mode == Mode.ESTOP
    wait_for(lambda: real_time.rig.call(topics.GUARD_RESET).success)
    real_time.assert_still(stopped)
    assert real_time.guard_states[-1].mode == Mode.STOPPED
    real_time.set_in_motion()
    wait_for(lambda: real_time.guard_states[-1].mode == Mode.RUNNING)


def test_the_guards_health_is_on_diagnostics(rig: RosRig) -> None:
    said = rig.listen(topics.DIAGNOSTICS)

    def level() -> int | None:
        words = [one for message in said for one in message.status if one.name == "guard: safety"]
        return words[-1].level[0] if words else None

    rig.start("guard")
    wait_for(lambda: level() == 1)  # it hears no arm
    joints = topics.JOINT_STATES.publisher(rig.node)
    timer = rig.node.create_timer(
        0.02, lambda: joints.publish(to_joint_state(time.time_ns(), ROBOT_JOINTS, INITIAL_POSITION[:9]))
    )
    wait_for(lambda: level() == 0)
    rig.call(topics.GUARD_ESTOP)
    wait_for(lambda: level() == 2)
    assert said[-1].status[0].message == "ESTOP: e-stop pressed"
    rig.node.destroy_timer(timer)


def test_qualities_of_the_robots_own_topics_can_be_overridden(rig: RosRig) -> None:
    rig.start("guard", **{"qos_overrides./joint_states.subscription.reliability": "reliable"})

    def readers() -> list[str]:
        found = rig.node.get_subscriptions_info_by_topic("/joint_states")
        return [one.qos_profile.reliability.name for one in found if one.node_name == "guard"]

    wait_for(lambda: readers() == ["RELIABLE"])
    assert topics.JOINT_STATES.reader.reliability.name == "BEST_EFFORT", "for one process, not for all"


def test_no_episode_begins_before_the_guard_hears_the_arm(rig: RosRig, random_bundle: Path) -> None:
    """Discovery takes its time: what the policy hears its guard may not hear yet."""
    states = rig.listen(topics.GUARD_STATE)
    rig.start("guard", remap={"joint_states": "elsewhere"})
    rig.start("policy", bundle=random_bundle)
    wait_for(lambda: len(states) > 0)
    begin = BeginEpisode.Request(episode=1, e=E, seed=0)
    refused = rig.call(topics.BEGIN_EPISODE, begin)
    assert not refused.success and refused.message.endswith("no joint state has come yet")
    rig.finish("guard")
    rig.start("guard")
    joints = topics.JOINT_STATES.publisher(rig.node)

    def begins() -> bool:
        joints.publish(to_joint_state(time.time_ns(), ROBOT_JOINTS, INITIAL_POSITION[:9]))
        return bool(rig.call(topics.BEGIN_EPISODE, begin).success)

    wait_for(begins)


def test_the_plant_comes_to_rest_when_the_guard_is_killed(doomed):
    def movement() -> float:
        recent = np.array([list(state.position) for state in doomed.joint_states[-30:]])
        return float(np.ptp(recent, axis=0)[:7].max())

    wait_for(lambda: movement() > 0.1)
    doomed.rig.finish("guard", signal.SIGKILL)
    wait_for(lambda: movement() < 0.01)


def test_a_killed_guard_is_replaced_by_zeros_the_policy_says_so_and_a_new_guard_takes_over(doomed):
    """A velocity controller without a watchdog would go on with the guard's last word."""
    heard = len(doomed.status)
    doomed.rig.finish("guard", signal.SIGKILL)
    alive = len(doomed.commands)
    wait_for(lambda: len(doomed.commands) > alive and not np.any(doomed.commands[-1].data))
    stopped = len(doomed.commands) - 1
    said = doomed.status.wait(lambda status: status.reason and status.state == "terminal", start=heard)
    assert said.reason == "the guard does not answer"
    wait_for(lambda: doomed.rig.node.count_publishers(topics.COMMANDS.name) <= 1)  # the dead guard's, for a while
    doomed.assert_still(stopped)
    refused = doomed.rig.call(topics.BEGIN_EPISODE, BeginEpisode.Request(episode=90, e=E, seed=0))
    assert not refused.success and "no guard" in refused.message

    first = len(doomed.guard_states)
    doomed.rig.start("guard")
    wait_for(lambda: len(doomed.guard_states) > first)
    doomed.set_in_motion()
    assert not any(state.flags & Flags.SECOND_PUBLISHER for state in list(doomed.guard_states)[first:])


def test_a_policy_that_is_told_to_end_because_the_guard_died_stops_the_arm_first(doomed):
    """What launch files and `simpl adapt` do: one node's death is a signal to all others, within milliseconds."""
    guard = doomed.rig.processes["guard"]
    guard.kill()
    status, output = doomed.rig.finish("policy", signal.SIGINT)
    assert status == 0, output
    assert "zeros in its place" in output
    wait_for(lambda: not np.any(doomed.commands[-1].data))


def test_every_node_ends_cleanly_on_a_signal_and_leaves_the_arm_stopped(doomed):
    start = len(doomed.actions)
    status, output = doomed.rig.finish("policy", signal.SIGINT)
    assert status == 0, output
    last = doomed.actions.wait(lambda action: not action.active, start=start)
    doomed.guard_states.wait(lambda state: state.tick == last.tick and state.flags & Flags.EPISODE_END)

    start = len(doomed.guard_states)
    status, output = doomed.rig.finish("guard", signal.SIGTERM)
    assert status == 0, output
    doomed.guard_states.wait(lambda state: state.flags & Flags.SHUTDOWN, start=start)
    np.testing.assert_array_equal(velocities(doomed.commands)[-1], np.zeros(9))

    status, output = doomed.rig.finish("arm_sim", signal.SIGINT)
    assert status == 0, output
    assert "Traceback" not in output


# -- guard alone: a hostile policy and a broken sensor ---------------------------------------------------------------


class LoneGuard:
    """The guard with the test as its policy, its sensors and its controller."""

    def __init__(self, rig: RosRig) -> None:
        self.rig = rig
        self.commands = rig.listen(topics.COMMANDS, qos=topics.STREAM)
        self.guard_states = rig.listen(topics.GUARD_STATE)
        self.actions = topics.POLICY_ACTION.publisher(rig.node)
        self.joints = topics.JOINT_STATES.publisher(rig.node)
        self.start()
        self.tick = 0
        wait_for(lambda: self.actions.get_subscription_count() == 1 and self.joints.get_subscription_count() == 1)
        wait_for(lambda: rig.node.count_publishers(self.commands_topic) == 1)
        # Best effort: the first ones may come before the reader is ready.
        wait_for(self.moves)

    commands_topic = topics.COMMANDS.name

    def start(self) -> None:
        self.rig.start("guard", action_timeout=0.05, state_timeout=10.0, zero_repeat=0.0)

    def moves(self) -> bool:
        self.sense(INITIAL_POSITION[:9])
        self.act(np.full(9, 0.1), step=0)
        time.sleep(0.05)
        return any(np.any(command.data) for command in self.commands) and len(self.guard_states) > 0

    def sense(self, position, names=ROBOT_JOINTS) -> None:
        self.joints.publish(to_joint_state(time.time_ns(), names, position))

    def act(self, velocity, *, step: int = 1) -> int:
        self.tick += 1
        nothing = np.zeros(0, np.float32)
        self.actions.publish(
            to_policy_action(
                PolicyTick(
                    stamp=0, tick=self.tick, episode=1, step=step, observation=nothing, z=nothing, e=nothing,
                    skill_start=False, action=nothing, velocity=np.asarray(velocity), model_version="test",
                    latency=0.0, active=True,
                )
            )
        )  # fmt: skip
        return self.tick

    def answer(self, tick: int) -> GuardState:
        return self.guard_states.wait(lambda state: state.tick == tick)


@pytest.fixture
def lone_guard(rig: RosRig) -> LoneGuard:
    return LoneGuard(rig)


def test_nothing_impossible_ever_reaches_the_controller(lone_guard):
    """A fuzzer for a policy: NaN, infinities, wrong sizes, absurd speeds; after each fault a reset."""
    rng = np.random.default_rng(0)
    faults = 0
    for _ in range(60):
        velocity = rng.normal(size=9) * 10.0 ** rng.integers(-3, 12)
        kind = rng.integers(4)
        if kind == 0:
            velocity[rng.integers(9)] = rng.choice([np.nan, np.inf, -np.inf])
        if kind == 1:
            velocity = velocity[: rng.integers(9)] if rng.random() < 0.5 else np.tile(velocity, 2)
        answer = lone_guard.answer(lone_guard.act(velocity, step=0))
        assert bool(answer.flags & (Flags.NONFINITE | Flags.WRONG_SIZE)) == (kind < 2)
        assert (answer.mode == Mode.FAULT) == (kind < 2)
        if answer.mode == Mode.FAULT:
            faults += 1
            # Refused for a moment, while the impossible action is fresh.
            wait_for(lambda: lone_guard.sense(INITIAL_POSITION[:9]) or lone_guard.rig.call(topics.GUARD_RESET).success)
    seen = velocities(lone_guard.commands)
    assert faults > 20
    assert len(seen) > 60
    assert np.isfinite(seen).all()
    assert (np.abs(seen) <= 2.0).all()


def test_a_joint_state_with_nan_stops_the_arm_and_stays_a_fault_until_sensors_are_well(lone_guard):
    broken = INITIAL_POSITION[:9].copy()
    broken[3] = np.nan
    wait_for(lambda: lone_guard.sense(broken) or lone_guard.guard_states[-1].mode == Mode.FAULT)
    fault = lone_guard.guard_states[-1]
    assert fault.flags & Flags.INVALID_STATE and "panda_joint4 is nan" in fault.reason
    tick = lone_guard.act(np.full(9, 0.1))
    assert not np.any(lone_guard.answer(tick).velocity)
    refused = lone_guard.rig.call(topics.GUARD_RESET)
    assert not refused.success and "panda_joint4" in refused.message
    wait_for(lambda: lone_guard.sense(INITIAL_POSITION[:9]) or lone_guard.rig.call(topics.GUARD_RESET).success)
    assert lone_guard.answer(lone_guard.act(np.full(9, 0.1), step=0)).mode == Mode.RUNNING
    assert np.isfinite(velocities(lone_guard.commands)).all()


def test_joint_states_of_others_are_ignored_and_incomplete_ones_refused(lone_guard):
    lone_guard.sense([0.1], names=["some_other_gripper"])
    assert lone_guard.answer(lone_guard.act(np.full(9, 0.1))).mode == Mode.RUNNING
    wait_for(
        lambda: lone_guard.sense(np.zeros(8), names=ROBOT_JOINTS[:8]) or lone_guard.guard_states[-1].mode == Mode.FAULT
    )
    assert "panda_finger_joint2 is missing" in lone_guard.guard_states[-1].reason


def test_a_second_publisher_of_commands_is_a_fault(lone_guard):
    intruder = topics.COMMANDS.publisher(lone_guard.rig.node)
    intruder.publish(to_velocity_command(np.zeros(9)))
    fault = lone_guard.guard_states.wait(lambda state: state.flags & Flags.SECOND_PUBLISHER)
    assert fault.mode == Mode.FAULT and lone_guard.rig.node.get_name() in fault.reason
    assert not lone_guard.rig.call(topics.GUARD_RESET).success
    lone_guard.rig.node.destroy_publisher(intruder)
    wait_for(lambda: lone_guard.sense(INITIAL_POSITION[:9]) or lone_guard.rig.call(topics.GUARD_RESET).success)


def test_a_guard_started_again_after_kill_9_takes_over_and_still_finds_a_live_stranger(lone_guard):
    """Its dead predecessor stays announced to others for its lease, but tells a newcomer nothing any more."""
    lone_guard.rig.finish("guard", signal.SIGKILL)
    lone_guard.start()
    first = len(lone_guard.guard_states)
    wait_for(lambda: lone_guard.moves() and len(lone_guard.guard_states) > first)
    for _ in range(30):  # a second and more: the guard looks around ten times a second
        assert lone_guard.answer(lone_guard.act(np.full(9, 0.1), step=0)).mode == Mode.RUNNING
        time.sleep(0.04)
    intruder = topics.COMMANDS.publisher(lone_guard.rig.node)
    assert lone_guard.guard_states.wait(lambda state: state.flags & Flags.SECOND_PUBLISHER).mode == Mode.FAULT
    lone_guard.rig.node.destroy_publisher(intruder)


def test_a_reset_is_heard_by_those_who_wait_for_it(lone_guard):
    assert lone_guard.rig.call(topics.GUARD_ESTOP).success
    heard = len(lone_guard.guard_states)
    wait_for(lambda: lone_guard.sense(INITIAL_POSITION[:9]) or lone_guard.rig.call(topics.GUARD_RESET).success)
    released = lone_guard.guard_states.wait(lambda state: state.mode == Mode.STOPPED, start=heard)
    assert "reset" in released.reason and not np.any(released.velocity)


def test_flags_and_modes_have_the_values_of_the_message():
    for kind, prefix in ((Mode, ""), (Flags, "FLAG_")):
        for item in kind:
            if item:
                assert getattr(GuardState, prefix + item.name) == item


# -- what a user gets wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "parameters", "message"),
    [
        ("policy", {"bundle": "/nowhere"}, "/nowhere"),
        ("policy", {}, "'bundle' is empty"),
        ("policy", {"bundle": "/nowhere", "rate_hz": 50.0}, "driven at 12.5 Hz"),
        ("guard", {"profile": "r2d2"}, "no robot profile 'r2d2'; there are: "),
        ("guard", {"action_timeout": -1.0}, "action_timeout"),
        ("guard", {"controller_manager": "controller_manager"}, "controller_manager_msgs"),
        ("arm_sim", {"lockstep": "maybe"}, "lockstep"),
    ],
)
def test_wrong_parameters_end_in_one_message_and_exit_status_2(rig, node, parameters, message):
    rig.start(node, **parameters)
    status, output = rig.finish(node, how=None)
    assert status == 2, output
    assert message in output
    assert "Traceback" not in output


@pytest.mark.parametrize("node", ["policy", "guard", "arm_sim"])
def test_the_parameter_file_holds_every_parameter_at_its_default(rig, node):
    from rcl_interfaces.srv import GetParameters, ListParameters
    from rclpy.parameter import parameter_value_to_python

    path = Path(__file__).parents[1] / "ros2_ws" / "src" / "simpl" / "config" / "control.params.yaml"
    written = yaml.safe_load(path.read_text())[f"/**/{node}"]["ros__parameters"]
    rig.start(node, **({"autostart": False} if node == "policy" else {}))
    names = rig.call(topics.Service(f"{node}/list_parameters", ListParameters)).result.names
    own = sorted(name for name in names if name != "use_sim_time" and not name.startswith(("qos_", "start_type")))
    assert sorted(written) == own
    values = rig.call(topics.Service(f"{node}/get_parameters", GetParameters), GetParameters.Request(names=own)).values
    found = dict(zip(own, map(parameter_value_to_python, values), strict=True))
    assert {**found, **({"autostart": True} if node == "policy" else {})} == written


def test_nothing_here_reaches_the_network():
    assert os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"


def test_object_names_are_the_simulators(lockstep):
    objects = lockstep.rig.listen(topics.OBJECT_STATES)
    wait_for(lambda: len(objects) > 0)
    assert tuple(objects[0].name) == OBJECT_COORDINATES
