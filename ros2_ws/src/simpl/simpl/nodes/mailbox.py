"""Topics that nobody is woken up for: whoever needs the newest message looks.

A driver speaks a thousand times a second; a control loop needs to hear it at its own ticks. Waking Python up for each
message would take a quarter of a core in each node that listens.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription

from simpl.interfaces import Topic

DEPTH = 10
"""Messages that wait: a gripper may talk on the arm's topic, and its message must not push the arm's out."""


class Mailbox:
    """What has come on a topic since the last look.

    Args:
        subscription: of raw messages, which no executor serves.
    """

    def __init__(self, subscription: Subscription[Any]) -> None:
        self._subscription = subscription
        self._looked = time.monotonic()

    def news(self) -> Iterator[tuple[Any, float]]:
        """Messages that came since the last look, the newest first, and when each came (steady clock [s])."""
        waiting: list[tuple[bytes, dict[str, int]]] = []
        with self._subscription.handle:
            for _ in range(self._subscription.qos_profile.depth):  # who floods the topic does not keep us here
                taken = self._subscription.handle.take_message(self._subscription.msg_type, True)
                if taken is None:
                    break
                waiting.append(taken)
        before, self._looked = self._looked, time.monotonic()
        now, wall = self._looked, time.time_ns()
        for raw, info in reversed(waiting):
            # By the wall clock, which may have been set since; but it was after the last look that it came.
            age = 1e-9 * (wall - info["received_timestamp"])
            yield deserialize_message(raw, self._subscription.msg_type), max(before, now - max(0.0, age))


class Recipient(Node):
    """A node with mailboxes; its executor does not see their subscriptions."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self._unserved: list[Subscription[Any]] = []
        super().__init__(*arguments, **settings)

    @property
    def subscriptions(self) -> Iterator[Subscription[Any]]:
        """Those that executors serve."""
        for subscription in super().subscriptions:
            if subscription not in self._unserved:
                yield subscription

    def mailbox(self, topic: Topic) -> Mailbox:
        """A mailbox for `topic`; make it before the node is given to an executor."""
        subscription = topic.subscription(self, lambda _: None, qos=_waiting(topic.reader), raw=True)
        self._unserved.append(subscription)
        return Mailbox(subscription)


def _waiting(qos: QoSProfile) -> QoSProfile:
    return QoSProfile(history=qos.history, depth=DEPTH, reliability=qos.reliability, durability=qos.durability)
