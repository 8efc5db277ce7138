"""What `simpl bench control` measures policy and guard beside: a node that only echoes, and one with a plain timer.

Both hear the joint states that the policy hears, and answer with the stamp of the state that they answer [ns], then
numbers of an arm. Started as `python -m simpl.nodes.bench_peers echo|timer --ros-args ...`.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, UInt64MultiArray

from export.bundle import Bundle
from export.runtime import PolicyRunner
from simpl import interfaces, runtime_env
from simpl.conversions import float64_field, from_time
from simpl.core.interpolation import Interpolation
from simpl.nodes.running import declare, run_node, take_precedence

ECHO, TIMER, LATE = "bench/echo", "bench/timer", "bench/late"
"""Topics: answers of the one and of the other, and the timer's ticks and how many of them were late."""


def answer(publisher: Publisher, stamp: int, numbers: Sequence[float] | np.ndarray) -> None:
    """Publish `numbers` behind the `stamp` [ns] of the state that they answer."""
    publisher.publish(Float64MultiArray(data=float64_field([float(stamp), *numbers])))


class EchoNode(Node):
    """Answers one joint state in each control period as soon as it comes: what transport alone takes."""

    def __init__(self) -> None:
        super().__init__("bench_echo")
        rate = declare(self, "rate_hz", 100.0, "answers a second at most [Hz]", between=(0.1, 1000.0))
        self._period = round(1e9 / rate)
        self._due = 0
        self._answers = self.create_publisher(Float64MultiArray, ECHO, interfaces.COMMAND)
        interfaces.JOINT_STATES.subscription(self, self._on_joint_states)
        take_precedence(self, 10)  # as the policy

    def close(self) -> None:
        """Nothing to end."""

    def _on_joint_states(self, message: JointState) -> None:
        stamp = from_time(message.header.stamp)
        if stamp >= self._due:
            self._due = max(self._due + self._period, stamp + self._period // 2)
            answer(self._answers, stamp, message.position)


class TimerNode(Node):
    """A policy as it is often written: a timer and a subscription that share one thread; no guard after it."""

    def __init__(self) -> None:
        super().__init__("bench_timer")
        rate = declare(self, "rate_hz", 100.0, "answers a second [Hz]", between=(0.1, 1000.0))
        bundle = Bundle.open(Path(declare(self, "bundle", "", "folder of the bundle that acts")))
        robot = bundle.manifest.robot
        self._runner = PolicyRunner(bundle)
        self._runner.warm_up()
        self._runner.begin_episode(np.zeros(bundle.manifest.e_dim, np.float32), 0)
        self._scale = np.array(robot.action_scale)
        self._commands = Interpolation(max(1, round(rate / robot.control_rate_hz)), self._scale.size)
        self._observation = np.zeros(bundle.manifest.state_dim, np.float32)
        self._stamp = 0
        self._period, self._deadline, self._ticks, self._late = 1.0 / rate, 0.0, 0, 0
        self._answers = self.create_publisher(Float64MultiArray, TIMER, interfaces.COMMAND)
        self._counts = self.create_publisher(UInt64MultiArray, LATE, interfaces.STATUS)
        interfaces.JOINT_STATES.subscription(self, self._on_joint_states)
        self.create_timer(self._period, self._on_time)

    def close(self) -> None:
        """Nothing to end."""

    def _on_joint_states(self, message: JointState) -> None:
        self._stamp = from_time(message.header.stamp)
        self._observation[: len(message.position)] = message.position

    def _on_time(self) -> None:
        self._count(time.monotonic())
        if not self._stamp:
            return
        if self._commands.due:
            self._commands.aim(self._runner.act(self._observation).action.astype(np.float64) * self._scale)
        answer(self._answers, self._stamp, self._commands.next())

    def _count(self, now: float) -> None:
        """Late by half a period, as the policy's own loop counts it."""
        late = now - (self._deadline or now)
        if late > 0.5 * self._period:
            skipped = int(late / self._period)
            self._late += 1 + skipped
            self._ticks += skipped
            self._deadline += skipped * self._period
        self._ticks += 1
        self._deadline = (self._deadline or now) + self._period
        if self._ticks % 10 == 0:
            self._counts.publish(UInt64MultiArray(data=[self._ticks, self._late]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node that the first argument names."""
    kind, *rest = list(sys.argv[1:] if arguments is None else arguments)
    if kind == "echo":
        return run_node(lambda _: EchoNode(), [sys.argv[0], *rest])
    runtime_env.prepare()
    rclpy.init(args=[sys.argv[0], *rest])
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(TimerNode(), SingleThreadedExecutor())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
