"""What a node says on /diagnostics."""

from __future__ import annotations

from collections.abc import Callable

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from simpl import interfaces
from simpl.conversions import header
from simpl.core.health import Health
from simpl.nodes.running import STEADY

_PERIOD = 1.0  # [s]


class Diagnostics:
    """Says how a part of a node fares, once a second and whenever it is told to.

    Args:
        node: who speaks.
        part: of it, for the name.
        look: what there is to say now.
    """

    def __init__(self, node: Node, part: str, look: Callable[[], Health]) -> None:
        self._node, self._look = node, look
        self._name = f"{node.get_fully_qualified_name().lstrip('/')}: {part}"
        self._publisher = interfaces.DIAGNOSTICS.publisher(node)
        node.create_timer(_PERIOD, self.say, clock=STEADY)

    def say(self) -> None:
        """Say it now."""
        health = self._look()
        status = DiagnosticStatus(name=self._name, message=health.message, level=bytes([health.level]))
        status.values = [KeyValue(key=name, value=str(value)) for name, value in health.values.items()]
        stamp = header(self._node.get_clock().now().nanoseconds)
        self._publisher.publish(DiagnosticArray(header=stamp, status=[status]))
