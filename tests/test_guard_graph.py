"""The guard as a process of its own: a hostile policy, an arm that obeys, and a listener that judges every command.

The listener knows the guard only by what it sends; `limit_checker` knows the limits only by their numbers.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("simpl_interfaces", reason="the ROS workspace is not built: make ros")

from limit_checker import READY, LimitChecker, arm  # noqa: E402
from ros_rig import RosRig, wait_for  # noqa: E402
from simpl_interfaces.msg import PolicyAction  # noqa: E402

from simpl import interfaces as topics  # noqa: E402
from simpl.conversions import float64_field, header, to_joint_state  # noqa: E402
from simpl.core.guard import Flags, Mode  # noqa: E402
from simpl.core.trajectory import LAG  # noqa: E402
from simpl.nodes.controllers import ControllerWatch  # noqa: E402

DOCUMENT = arm(jerk=5000.0, box=True, rate=20.0)
NAMES = [joint["name"] for joint in DOCUMENT["joints"]]
ARM_TIMEOUT = 0.3  # the arm holds still after this silence of its controller, as long as the guard counts with [s]


class ObedientArm:
    """Integrates the commands by the clock and says where it is; like a driver it stops when it hears nothing."""

    def __init__(self, rig: RosRig, interface: topics.Topic = topics.COMMANDS) -> None:
        self.rig = rig
        self.position, self.velocity = READY.copy(), np.zeros(READY.size)
        self.furthest = [READY.copy(), READY.copy()]
        self.moved_at = self.heard_at = time.monotonic()
        self.commands = rig.listen(interface, qos=topics.STREAM)
        if interface is topics.COMMANDS:
            interface.subscription(rig.node, self._on_command)
        self._states = topics.JOINT_STATES.publisher(rig.node)
        self._lock = threading.Lock()
        rig.node.create_timer(0.01, self._on_time)

    def _on_command(self, message: Any) -> None:
        command = np.array(message.data)
        with self._lock:
            self._move()
            self.heard_at = time.monotonic()
            # As a controller does: what it cannot use is dropped. The listener sees it all the same.
            if command.shape == self.velocity.shape and np.isfinite(command).all():
                self.velocity = command

    def _on_time(self) -> None:
        with self._lock:
            self._move()
            if time.monotonic() - self.heard_at > ARM_TIMEOUT:
                self.velocity = np.zeros(READY.size)
            self._states.publish(to_joint_state(time.time_ns(), NAMES, self.position))

    def _move(self) -> None:
        now = time.monotonic()
        self.position = self.position + self.velocity * (now - self.moved_at)
        self.moved_at = now
        self.furthest = [np.minimum(self.furthest[0], self.position), np.maximum(self.furthest[1], self.position)]


class Hostile:
    """A policy of the test's own."""

    def __init__(self, rig: RosRig) -> None:
        self.actions = topics.POLICY_ACTION.publisher(rig.node)
        self.tick = 0
        self.episode = 1

    def act(self, velocity: Any, *, step: int = 0, active: bool = True, **fields: Any) -> int:
        self.tick += 1
        message = PolicyAction(header=header(time.time_ns()), tick=self.tick, episode=self.episode, step=step)
        message.velocity, message.active = float64_field(velocity), active
        for name, value in fields.items():
            setattr(message, name, value)
        self.actions.publish(message)
        return self.tick


class Graph:
    """A guard for the tests' arm, both connected and the arm in motion."""

    def __init__(self, rig: RosRig, folder: Path, document: dict[str, Any], interface: topics.Topic) -> None:
        self.rig = rig
        self.profile = folder / "profile.yaml"
        self.profile.write_text(yaml.safe_dump(document))
        self.states = rig.listen(topics.GUARD_STATE)
        self.arm, self.policy = ObedientArm(rig, interface), Hostile(rig)
        rig.start("guard", profile=str(self.profile), action_timeout=0.3, state_timeout=5.0, zero_repeat=0.0)
        wait_for(self.moves)

    def moves(self) -> bool:
        self.policy.act(np.full(7, 0.05))
        time.sleep(0.05)
        return any(state.mode == Mode.RUNNING for state in list(self.states))


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Graph]:
    rig = RosRig()
    try:  # a guard that does not come up must not outlive the test
        yield Graph(rig, tmp_path, DOCUMENT, topics.COMMANDS)
    finally:
        rig.close()


def judged(graph: Graph) -> np.ndarray:
    """Everything heard on the command topic, after the checker has seen it."""
    sent = [list(message.data) for message in list(graph.arm.commands)]
    checker = LimitChecker(DOCUMENT)
    # The order is what a listener can be sure of, the time between two messages is the network's: a period at most.
    times = np.arange(len(sent)) * checker.period
    assert checker.problems(times, sent, np.tile(READY, (len(sent) + 1, 1))) == []
    return np.array(sent)


def test_a_listener_hears_nothing_beyond_a_limit_whatever_is_published(graph: Graph) -> None:
    rng = np.random.default_rng(3)
    for step in range(400):
        kind = rng.integers(10)
        base = rng.normal(size=7) * 10.0 ** rng.integers(-4, 9)
        heard = len(graph.states)
        if kind < 5:
            graph.policy.act(base)
        elif kind < 7:
            graph.policy.act(np.sign(graph.arm.position - READY + 1e-9) * 10.0)
        elif kind == 7:
            graph.policy.act(np.where(np.arange(7) == rng.integers(7), rng.choice([np.nan, np.inf, -np.inf]), base))
        elif kind == 8:
            graph.policy.act(np.zeros(int(rng.integers(0, 15))) if step % 2 else base[:6])
        else:
            graph.policy.act(base, joint_names=NAMES[::-1])
        time.sleep(float(rng.choice([0.0, 0.002, 0.02])))
        if step % 4 == 3:  # a starved guard sees the newest of a burst only: it is waited for now and then
            graph.states.wait(lambda state: state.tick == graph.policy.tick, start=max(0, heard - 8))
        if step % 20 == 19:
            wait_for(lambda: graph.rig.call(topics.GUARD_RESET).success)
            graph.policy.episode += 1
    sent = judged(graph)
    seen = Flags(int(np.bitwise_or.reduce([state.flags for state in graph.states])))
    assert Flags.NONFINITE | Flags.WRONG_SIZE | Flags.VELOCITY_LIMIT | Flags.ACCELERATION_LIMIT in seen
    assert len(sent) > 100 and sent.any()
    ends = np.array([joint["position"] for joint in DOCUMENT["joints"]])
    assert (graph.arm.furthest[0] > ends[:, 0]).all() and (graph.arm.furthest[1] < ends[:, 1]).all()
    counts = graph.states[-1].flag_counts
    assert counts[Flags.NONFINITE.bit_length() - 1] > 3 and counts[Flags.ACCELERATION_LIMIT.bit_length() - 1] > 10


def test_pause_and_ctrl_c_slow_the_arm_down_and_end_in_zeros(graph: Graph) -> None:
    def speed_up() -> None:
        wait_for(lambda: bool(graph.policy.act([0, 0, 0, 0, 0, 0, 1.5])) and fast())

    def fast() -> bool:
        time.sleep(0.02)
        return bool(graph.arm.commands[-1].data[6] > 0.8)

    speed_up()
    start = len(graph.states)
    assert graph.rig.call(topics.GUARD_PAUSE).success
    graph.states.wait(lambda state: state.mode == Mode.PAUSED and not any(state.velocity), start=start)
    slowing = [state.velocity[6] for state in list(graph.states)[start:] if state.mode == Mode.PAUSED]
    assert len(slowing) > 2 and slowing[0] > slowing[1] > slowing[-1] == 0.0
    tick = graph.policy.act(np.ones(7))
    assert graph.states.wait(lambda state: state.tick == tick).mode == Mode.PAUSED
    assert graph.rig.call(topics.GUARD_RESUME).success
    speed_up()
    start = len(graph.states)
    status, output = graph.rig.finish("guard", signal.SIGINT)
    assert status == 0 and "PAUSED: paused until guard/resume" in output, output
    last = graph.states.wait(lambda state: state.flags & Flags.SHUTDOWN and not any(state.velocity), start=start)
    assert last.mode == Mode.STOPPED
    assert not judged(graph)[-1].any()


def test_where_nobody_listens_nothing_is_sent_to_move(graph: Graph) -> None:
    graph.rig.finish("guard", signal.SIGTERM)
    nobody = {"joint_group_velocity_controller/commands": "some_other_controller/commands"}
    start = len(graph.states)
    graph.rig.start("guard", remap=nobody, profile=str(graph.profile), state_timeout=5.0)
    wait_for(lambda: bool(graph.policy.act(np.ones(7))) and len(graph.states) > start)
    refused = graph.states.wait(lambda state: state.flags & Flags.NO_CONTROLLER, start=start)
    assert "no controller listens to /some_other_controller/commands" in refused.reason
    assert not any(any(state.velocity) for state in list(graph.states)[start:])


def test_trajectories_end_at_rest(tmp_path: Path) -> None:
    rig = RosRig()
    try:
        document = {**DOCUMENT, "command": {"interface": "trajectory"}}
        graph = Graph(rig, tmp_path, document, topics.TRAJECTORY)
        moving = graph.arm.commands.wait(lambda command: len(command.points) == 2 and any(command.points[0].velocities))
        assert list(moving.joint_names) == NAMES
        first, last = moving.points
        assert not any(last.velocities) and last.time_from_start.nanosec > first.time_from_start.nanosec == 50_000_000
        # From where the arm is, or a little ahead where an earlier one was not heard: this arm does not follow.
        begin = np.subtract(first.positions, np.multiply(first.velocities, 0.05))
        assert (np.abs(begin - READY) <= LAG * np.array([joint["velocity"] for joint in DOCUMENT["joints"]])).all()
    finally:
        rig.close()


class FakeNode:
    """As much of a node as a `ControllerWatch` needs: a parameter, a client, a timer."""

    def __init__(self, manager: str, controllers: dict[str, str]) -> None:
        self.manager, self.controllers, self.listeners = manager, controllers, 1
        self.names = ["joint_group_velocity_controller"]
        self.topic_name = "/left/joint_group_velocity_controller/commands"
        self.srv_name = f"{manager}/list_controllers"
        self.ask: Any = None

    def declare_parameter(self, *_: Any) -> Any:
        return types.SimpleNamespace(value=self.manager)

    def create_client(self, _: Any, name: str) -> FakeNode:
        assert name == self.srv_name
        return self

    def create_timer(self, _: float, callback: Any, clock: Any) -> None:
        self.ask = callback

    def get_subscription_count(self) -> int:
        return self.listeners

    def get_subscriptions_info_by_topic(self, topic: str) -> list[Any]:
        assert topic == self.topic_name
        return [types.SimpleNamespace(node_name=name) for name in self.names]

    def service_is_ready(self) -> bool:
        return True

    def call_async(self, _: Any) -> Any:
        found = [types.SimpleNamespace(name=name, state=state) for name, state in self.controllers.items()]
        future: Any = rclpy.task.Future()
        future.set_result(types.SimpleNamespace(controller=found))
        return future


def test_a_controller_manager_is_asked_whether_the_controller_is_active(monkeypatch: pytest.MonkeyPatch) -> None:
    srv = types.ModuleType("controller_manager_msgs.srv")
    srv.ListControllers = types.SimpleNamespace(Request=object)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "controller_manager_msgs", types.ModuleType("controller_manager_msgs"))
    monkeypatch.setitem(sys.modules, "controller_manager_msgs.srv", srv)
    node = FakeNode("controller_manager", {"joint_group_velocity_controller": "inactive", "other": "active"})
    watch: Any = ControllerWatch(node, node)  # type: ignore[arg-type]
    assert "has not said yet" in watch.problem()
    for state, problem in (
        ("inactive", "controller joint_group_velocity_controller is inactive, wanted active"),
        ("active", ""),
    ):
        node.controllers["joint_group_velocity_controller"] = state
        node.ask()
        wait_for(lambda: watch._waiting.done())
        assert watch.problem() == problem
    node.controllers.clear()
    node.ask()
    assert watch.problem() == "controller joint_group_velocity_controller is not loaded, wanted active"
    node.controllers["joint_group_velocity_controller"] = "active"
    node.ask()
    for names, heard in ((["record", "_ros2cli_17"], False), (["record", "arm"], True), ([], True)):
        node.names = names
        wait_for(lambda heard=heard: (watch.problem() == "") == heard)
    node.listeners = 0
    assert watch.problem() == "no controller listens to /left/joint_group_velocity_controller/commands"
