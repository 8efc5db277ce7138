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
from simpl.core.guard import Flags, Mode
from simpl.core.guard_watch import GuardWatch, next_word
from simpl.core.profile import RobotProfile

_ZEROS_FOR = 2.0  # a controller that has not heard by then never will [s]
_ZEROS_AT_LEAST = 0.3  # before who says them may end: discovery takes its time [s]


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
        self._node, self._period, self._patience = node, profile.period, patience
        self._zeros = to_velocity_command(np.zeros(len(profile.joints)))
        self._takes_velocities = profile.command.interface == "velocity"
        self._publisher: Publisher | None = None
        self._until = self._looked_at = -math.inf
        self._waits = self._guard_ended = False
        interfaces.GUARD_STATE.subscription(node, self._on_guard, qos=interfaces.COMMAND)

    def look(self) -> str:
        """Take over, or let go; call it often. Why the episode is over, once; else empty."""
        now = time.monotonic()
        late, self._looked_at = now - self._looked_at > self._patience, now
        # Where we were away ourselves the guard's words may lie unread: once, they are read before we judge.
        self._waits = late and not self._waits and self._publisher is None and self.watch.silent(now)
        if self._waits:
            return ""
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

    def may_end(self) -> bool:
        """Whether nobody needs us: the guard has the arm at rest, or had when it ended, or has been stood in for."""
        if self._publisher is not None:
            return time.monotonic() > self._until - _ZEROS_FOR + _ZEROS_AT_LEAST
        return self._guard_ended or not self._takes_velocities or not self.watch.waits

    def _on_guard(self, message: GuardState) -> None:
        due = math.inf
        self._guard_ended = bool(message.flags & Flags.SHUTDOWN) and not any(message.velocity)
        if any(message.velocity):
            due = time.monotonic() + next_word(self._period, slowing=message.mode != Mode.RUNNING)
        self.watch.heard(message.reason if message.flags & Flags.STALE_STATE else "", due)
        self._let_go()

    def _let_go(self) -> None:
        if self._publisher is not None:
            self._node.destroy_publisher(self._publisher)
            self._publisher = None
