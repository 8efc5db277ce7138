"""Node `record`: writes topics to an MCAP file as they come. See `simpl.core.recording`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from simpl import interfaces
from simpl.core.recording import Recording, RecordingError
from simpl.definitions import describe_type, message_class
from simpl.nodes.logs import RosHandler
from simpl.nodes.running import FAILED, STEADY, Ending, declare, run_node
from simpl_core.errors import ConfigError, SimplError

DEPTH = 1000
"""Messages that may wait for this process, per topic."""
LOOK = 0.5
"""How often the graph is searched for topics that are not there yet [s]."""
LEFT_OUT = (interfaces.MODEL_UPDATE,)
"""Megabytes each, and kept in the run folder anyway; recorded when named."""


class RecordNode(Node):
    """Subscribes to all topics of the graph, or to those that are named, and never decodes a message.

    Args:
        ending: told when the disk refuses.
    """

    def __init__(self, ending: Ending) -> None:
        super().__init__("record")
        self._ending = ending
        self._log = RosHandler(self)
        output = declare(self, "output", "", "file to write, *.mcap; it must not exist")
        names = list(declare(self, "topics", [""], "topics to record; empty: all of the graph but model_update"))
        if not output:
            raise ConfigError("parameter 'output' is empty: file to write, *.mcap; it must not exist")
        ours = {self.resolve_topic_name(topic.name): topic for topic in interfaces.TOPICS}
        wanted = [self.resolve_topic_name(name) for name in names if name] or [
            self.resolve_topic_name(topic.name) for topic in interfaces.TOPICS if topic not in LEFT_OUT
        ]
        self._recording = Recording(Path(output))
        self._unseen = set(wanted) - ours.keys()
        for name in wanted:
            if name in ours:
                self._record(name, ours[name].type, ours[name].writer)
        if self._unseen:
            self.create_timer(LOOK, self._search, clock=STEADY)

    def close(self) -> None:
        """Write the index, and say what is in the file."""
        try:
            self._recording.close()
        except RecordingError as error:
            self.get_logger().fatal(str(error))
        counts = ", ".join(f"{name} {count}" for name, count in sorted(self._recording.counts.items()) if count)
        self.get_logger().info(f"{self._recording.path}: {counts or 'no message came'}")
        if self._unseen:
            self.get_logger().warning(f"never seen: {', '.join(sorted(self._unseen))}")
        self._log.close()

    def _record(self, name: str, kind: Any, offered: QoSProfile) -> None:
        self._recording.add_topic(name, describe_type(kind), qos_text(offered))
        # As reliable and as durable as the writer, so that nothing is refused; and a queue that bears a slow disk.
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=DEPTH,
            reliability=offered.reliability,
            durability=offered.durability,
        )
        self.create_subscription(kind, name, partial(self._on_message, name), qos, raw=True)

    def _on_message(self, name: str, data: bytes) -> None:
        try:
            self._recording.write(name, time.time_ns(), data)
        except RecordingError as error:
            self.get_logger().fatal(str(error))
            self._ending.request(FAILED)

    def _search(self) -> None:
        """Topics that are not ours: their type and quality of service are known once somebody offers them."""
        for name, types in self.get_topic_names_and_types():
            publishers = self.get_publishers_info_by_topic(name) if name in self._unseen else []
            if publishers:
                self._unseen.remove(name)
                try:
                    self._record(name, message_class(types[0]), publishers[0].qos_profile)
                except SimplError as error:
                    self.get_logger().error(f"{name} is not recorded: {error}")


def qos_text(qos: QoSProfile) -> str:
    """As rosbag2 keeps it (YAML), so that `ros2 bag play` offers the same."""
    reliable, latched = (
        qos.reliability == ReliabilityPolicy.RELIABLE,
        qos.durability == DurabilityPolicy.TRANSIENT_LOCAL,
    )
    return (
        f"- history: keep_last\n  depth: {max(1, qos.depth)}\n"
        f"  reliability: {'reliable' if reliable else 'best_effort'}\n"
        f"  durability: {'transient_local' if latched else 'volatile'}\n"
        "  deadline:\n    sec: 9223372036\n    nsec: 854775807\n"
        "  lifespan:\n    sec: 9223372036\n    nsec: 854775807\n"
        "  liveliness: automatic\n  liveliness_lease_duration:\n    sec: 9223372036\n    nsec: 854775807\n"
        "  avoid_ros_namespace_conventions: false\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the executable `record`."""
    return run_node(RecordNode, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
