"""What the ROS-free classes log, said through a node: to the console, /rosout and ROS's log files."""

from __future__ import annotations

import logging

from rclpy.node import Node


class RosHandler(logging.Handler):
    """Passes records of Python's `logging` to a node's logger."""

    def __init__(self, node: Node) -> None:
        """Take what the project's modules log from now on, until `close`."""
        super().__init__(logging.INFO)
        self._ros = node.get_logger()
        self._source = logging.getLogger("simpl")
        self._source.setLevel(logging.INFO)
        self._source.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """One record."""
        text = self.format(record)
        # One call site for each severity: rclpy refuses a severity that changes at the same place.
        if record.levelno >= logging.ERROR:
            self._ros.error(text)
        elif record.levelno >= logging.WARNING:
            self._ros.warning(text)
        else:
            self._ros.info(text)

    def close(self) -> None:
        """Stop listening: the node is about to go."""
        self._source.removeHandler(self)
        super().close()
