"""The policy's watch over the guard: when it falls silent, zeros in its place, and word of it."""

from __future__ import annotations

import math
import time

import numpy as np
from rclpy.node import Node
from rclpy.publisher import Publisher
from simpl_interfaces.msg import GuardState

from simpl import interfaces
from simpl.conversions import to_velocity_command
from simpl.core.guard import Flags
from simpl.core.guard_watch import GuardWatch
from simpl.core.profile import RobotProfile

_ZEROS_FOR = 2.0  # a controller that has not heard by then never will [s]


class Takeover:
    """Hears the guard, and stops the arm when nothing is heard.

    A velocity controller goes on with its last command, so somebody must end it. The publisher exists only from the
    guard's silence to its return: while the guard lives it is the only one. A trajectory ends at rest by itself.

    Args:
        node: the policy.
        profile: of the robot.
        patience: see `GuardWatch`.
    """

    def __init__(self, node: Node, profile: RobotProfile, patience: float) -> None:
        self.watch = GuardWatch(patience)
        self._node = node
        self._zeros = to_velocity_command(np.zeros(len(profile.joints)))
        self._takes_velocities = profile.command.interface == "velocity"
        self._publisher: Publisher | None = None
        self._until = -math.inf
        interfaces.GUARD_STATE.subscription(node, self._on_guard, qos=interfaces.COMMAND)

    def look(self) -> str:
        """Take over, or let go; call it often. Why the episode is over, once; else empty."""
        now = time.monotonic()
        if self._publisher is None and self._takes_velocities and self.watch.silent(now):
            silence = self.watch.silence(now)
            self._publisher = interfaces.COMMANDS.publisher(self._node)
            self._until = now + _ZEROS_FOR
            self._node.get_logger().error(f"the guard has been silent for {silence:.3f} s: zeros in its place")
        if self._publisher is not None and now < self._until:
            self._publisher.publish(self._zeros)
        elif self._publisher is not None:
            self._let_go()
        return "the guard does not answer" if self.watch.gives_up(now) else ""

    def _on_guard(self, message: GuardState) -> None:
        self.watch.heard(message.reason if message.flags & Flags.STALE_STATE else "")
        self._let_go()

    def _let_go(self) -> None:
        if self._publisher is not None:
            self._node.destroy_publisher(self._publisher)
            self._publisher = None
