"""Looks at a running robot for a while, as any other ROS tool: topics, who is behind them, and what they say."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState

from simpl import interfaces, runtime_env
from simpl.conversions import from_time
from simpl.core.profile import RobotProfile
from simpl.core.robot_check import JOINT_STATE, Endpoint, Seen, StateMessage

# Everything counts for a rate, and whoever publishes, reliably or not, is heard.
_ALL = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=2000, reliability=ReliabilityPolicy.BEST_EFFORT)


def look(profile: RobotProfile, namespace: str, seconds: float) -> Seen:
    """Listen to the topics of a profile.

    Args:
        profile: names the topics.
        namespace: in which its relative names are; "" for the root.
        seconds: how long to listen.
    """
    runtime_env.prepare()
    context = Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = Node(
            "robot_probe", namespace=namespace, context=context, enable_rosout=False, start_parameter_services=False
        )
        try:
            return _listen(node, profile, seconds)
        finally:
            node.destroy_node()
    finally:
        context.try_shutdown()


def _listen(node: Node, profile: RobotProfile, seconds: float) -> Seen:
    heard: dict[str, list[StateMessage]] = defaultdict(list)
    states = {profile.topics.joint_states, profile.topics.object_states}
    for topic in states:
        node.create_subscription(JointState, topic, _note(heard[topic]), _ALL)
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        executor.spin_once(timeout_sec=0.05)
    types = dict(node.get_topic_names_and_types())
    seen = Seen(
        seconds=seconds,
        topics={topic: _endpoint(node, topic) for topic in (*states, profile.command.topic)},
        messages=heard,
        joint_state_topics=tuple(
            name for name, kinds in types.items() if JOINT_STATE in kinds and node.count_publishers(name) > 0
        ),
        simulated_time=node.count_publishers(interfaces.CLOCK.name) > 0,
    )
    executor.shutdown()
    return seen


def _note(heard: list[StateMessage]) -> Callable[[JointState], None]:
    def take(message: JointState) -> None:
        now = time.time_ns()
        heard.append(StateMessage(tuple(message.name), tuple(message.position), from_time(message.header.stamp), now))

    return take


def _endpoint(node: Node, topic: str) -> Endpoint:
    publishers = node.get_publishers_info_by_topic(topic)
    subscribers = [info for info in node.get_subscriptions_info_by_topic(topic) if info.node_name != node.get_name()]
    types = sorted({info.topic_type for info in (*publishers, *subscribers)})
    return Endpoint(tuple(types), _names(publishers), _names(subscribers))


def _names(infos: list[object]) -> tuple[str, ...]:
    return tuple(f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in infos)  # type: ignore[attr-defined]
