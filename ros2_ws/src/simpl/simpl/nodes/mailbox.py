"""Topics that nobody is woken up for: whoever needs the newest message looks.

A driver speaks a thousand times a second; a control loop needs to hear it at its own ticks. Waking Python up for each
message would take a quarter of a core in each node that listens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
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
        read: of the bytes what is wanted of a message; by default the message.
    """

    def __init__(self, subscription: Subscription[Any], read: Callable[[bytes], Any] | None = None) -> None:
        self._subscription = subscription
        self._read = read or (lambda raw: deserialize_message(raw, subscription.msg_type))
        self.looked = time.monotonic()
        """The last look (steady clock [s])."""
        self.interval = 0.0
        """Between the last messages [s]; 0 when it is not known."""
        self._newest = 0

    def news(self) -> Iterator[tuple[Any, float]]:
        """Messages that came since the last look, the newest first, and when each came (steady clock [s])."""
        waiting: list[tuple[bytes, dict[str, int]]] = []
        with self._subscription.handle:
            for _ in range(self._subscription.qos_profile.depth):  # who floods the topic does not keep us here
                taken = self._subscription.handle.take_message(self._subscription.msg_type, True)
                if taken is None:
                    break
                waiting.append(taken)
        before, self.looked = self.looked, time.monotonic()
        now, wall = self.looked, time.time_ns()
        self._note(waiting)
        for raw, info in reversed(waiting):
            # By the wall clock, which may have been set since; but it was after the last look that it came.
            age = 1e-9 * (wall - info["received_timestamp"])
            yield self._read(raw), max(before, now - max(0.0, age))

    def _note(self, waiting: list[tuple[bytes, dict[str, int]]]) -> None:
        times = [info["received_timestamp"] for _, info in waiting]
        if len(times) == 1:
            times.insert(0, self._newest)
        if times:
            self.interval, self._newest = 1e-9 * (times[-1] - times[0]) / (len(times) - 1), times[-1]


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

    def mailbox(self, topic: Topic, read: Callable[[bytes], Any] | None = None) -> Mailbox:
        """A mailbox for `topic`, see `Mailbox`; make it before the node is given to an executor."""
        subscription = topic.subscription(self, lambda _: None, qos=_waiting(topic.reader), raw=True)
        self._unserved.append(subscription)
        return Mailbox(subscription, read)


def _waiting(qos: QoSProfile) -> QoSProfile:
    return QoSProfile(history=qos.history, depth=DEPTH, reliability=qos.reliability, durability=qos.durability)
