"""Whether the controller behind the command topic would obey: asked of ROS's graph, and of ros2_control where it is."""

from __future__ import annotations

import math
import time
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher

from simpl.nodes.running import STEADY, declare
from simpl_core.errors import ConfigError

_PERIOD = 0.5  # between two questions to the controller manager [s]
_PATIENCE = 2.0  # for its answer [s]
_LOOK = 0.1  # between two looks at who listens [s]
_ONLOOKERS = ("record", "rosbag2_recorder", "_ros2cli")  # how the names of those begin who listen and move nothing


class ControllerWatch:
    """Knows why a command would not be executed.

    Without the parameter `controller_manager` only what everybody can see: whether somebody listens who is no recorder.
    With it ros2_control is asked, twice a second, whether the controller that the command topic is named after is
    active.

    Args:
        node: the guard.
        commands: its publisher on the command topic.

    Raises:
        ConfigError: a controller manager is named but its messages are not installed.
    """

    def __init__(self, node: Node, commands: Publisher) -> None:
        self._node, self._commands = node, commands
        self._listened, self._looked_at = True, -math.inf
        manager = declare(
            node, "controller_manager", "", "node of ros2_control to ask whether the controller is active; empty: none"
        )
        self._client: Any = None
        self._waiting: Any = None
        self._state = ""
        self._answered_at = time.monotonic()
        if not manager:
            return
        try:
            from controller_manager_msgs.srv import ListControllers
        except ImportError as error:
            raise ConfigError(
                f"parameter 'controller_manager' is {manager!r}, but the package controller_manager_msgs that it takes "
                "to ask is not installed; install it, or leave the parameter empty"
            ) from error
        self._request = ListControllers.Request
        self._client = node.create_client(ListControllers, f"{manager}/list_controllers")
        self._name = commands.topic_name.rsplit("/", 2)[-2]
        self._state = f"{manager} has not said yet whether {self._name} is active"
        node.create_timer(_PERIOD, self._ask, clock=STEADY)

    def problem(self) -> str:
        """Why a command would have no effect; empty when it would, or nobody knows."""
        if not self._somebody_listens():
            return f"no controller listens to {self._commands.topic_name}"
        if self._client is not None and time.monotonic() - self._answered_at > _PATIENCE:
            return f"{self._client.srv_name} does not answer"
        return self._state

    def _somebody_listens(self) -> bool:
        if self._commands.get_subscription_count() == 0:
            return False
        if time.monotonic() - self._looked_at > _LOOK:
            self._looked_at = time.monotonic()
            listeners = self._node.get_subscriptions_info_by_topic(self._commands.topic_name)
            self._listened = not listeners or any(not each.node_name.startswith(_ONLOOKERS) for each in listeners)
        return self._listened

    def _ask(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            if time.monotonic() - self._answered_at < _PATIENCE:
                return
            self._client.remove_pending_request(self._waiting)
        if self._client.service_is_ready():
            self._waiting = self._client.call_async(self._request())
            self._waiting.add_done_callback(self._take)

    def _take(self, future: Any) -> None:
        if future.cancelled() or future.exception() is not None:
            return
        self._answered_at = time.monotonic()
        states = {controller.name: controller.state for controller in future.result().controller}
        state = states.get(self._name, "not loaded")
        self._state = "" if state == "active" else f"controller {self._name} is {state}, wanted active"
