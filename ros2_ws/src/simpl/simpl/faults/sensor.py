"""A relay between the arm and those who read its joint states, which does to them what broken sensors do."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from rclpy.node import Node
from sensor_msgs.msg import JointState

from simpl import interfaces as topics

RAW = "joint_states/raw"
"""What the arm calls its joint states while a relay stands before it."""
REMAP = {topics.JOINT_STATES.name: RAW}
"""For the arm."""

Fault = Callable[[JointState], list[JointState]]
"""From one message of the arm to those that are passed on, in order."""


class FaultySensor:
    """Passes joint states on, through `fault`.

    Attributes:
        fault: what is wrong at the moment; by default nothing.
    """

    def __init__(self, node: Node) -> None:
        self.fault: Fault = healthy
        self._out = topics.JOINT_STATES.publisher(node)
        node.create_subscription(JointState, RAW, self._on_state, topics.JOINT_STATES.reader)

    def _on_state(self, message: JointState) -> None:
        for one in self.fault(message):
            self._out.publish(one)


def healthy(message: JointState) -> list[JointState]:
    """As it came."""
    return [message]


def silent(_: JointState) -> list[JointState]:
    """Nothing."""
    return []


def missing_joint(message: JointState) -> list[JointState]:
    """Without the last joint."""
    message.name, message.position = message.name[:-1], message.position[:-1]
    return [message]


def nan(message: JointState) -> list[JointState]:
    """One position is not a number."""
    message.position[3] = float("nan")
    return [message]


class HalfRate:
    """Every other one."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, message: JointState) -> list[JointState]:
        """The message, or nothing."""
        self._count += 1
        return [message] if self._count % 2 else []


class Reordered:
    """Every other one is held back, and comes behind many newer ones."""

    def __init__(self, behind: int = 25) -> None:
        """`behind`: so many messages later."""
        self._behind = behind
        self._kept: deque[JointState] = deque()
        self._count = 0

    def __call__(self, message: JointState) -> list[JointState]:
        """The message, or an old one in its place."""
        self._count += 1
        if self._count % 2:
            return [message]
        self._kept.append(message)
        return [self._kept.popleft()] if 2 * len(self._kept) > self._behind else []


class StaleStamp:
    """Messages go on coming, but the reading in them is one and the same: what a driver that hangs publishes."""

    def __init__(self) -> None:
        self._frozen: JointState | None = None

    def __call__(self, message: JointState) -> list[JointState]:
        """The first message, again and again."""
        self._frozen = self._frozen or message
        return [self._frozen]
