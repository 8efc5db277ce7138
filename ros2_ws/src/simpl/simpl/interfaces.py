"""Every topic and service of the graph, once: name, type and quality of service.

All nodes make their publishers, subscriptions, services and clients from these tables, so a name or a queue length
is never written twice. Names are relative: namespaces and remaps work. `docs/interfaces.md` says who talks to whom.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from simpl_interfaces.msg import (
    EpisodeResult,
    EpisodeState,
    GuardState,
    LearnerStatus,
    ModelUpdate,
    PolicyAction,
    PolicyStatus,
    Transition,
    TransitionAck,
)
from simpl_interfaces.srv import BeginEpisode, ResetScene, StageModel
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

if TYPE_CHECKING:
    from rclpy.callback_groups import CallbackGroup
    from rclpy.client import Client
    from rclpy.node import Node
    from rclpy.service import Service as RclpyService
    from rclpy.subscription import Subscription


def _qos(depth: int, *, reliable: bool = True, latched: bool = False) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


RCLError = rclpy_implementation.RCLError

# Only the newest reading matters, and a lost one is followed by the next.
SENSOR = _qos(1, reliable=False)
# A command must arrive, and an old one must never be executed after a newer one.
COMMAND = _qos(1)
# Everything is wanted. The journal and acknowledgements make it safe; the queue makes resending rare.
STREAM = _qos(1000)
# Whoever comes late sees how things stand.
STATUS = _qos(1, latched=True)
# Whoever comes late sees what has happened.
LOG = _qos(200, latched=True)


_TRIES = 3


class PatientPublisher(Publisher):
    """A publisher that tries again: the middleware gives a message up after 0.1 s, which a busy machine may take."""

    def publish(self, msg: Any) -> None:
        """Send a message; RCLError: three times it could not be written."""
        for left in reversed(range(_TRIES)):
            try:
                super().publish(msg)
                return
            except RCLError:
                if not left:
                    raise


@dataclass(frozen=True)
class Topic:
    """A topic: name, message type, and the quality of service of its writer and of its usual reader."""

    name: str
    type: type
    writer: QoSProfile
    reader: QoSProfile
    others: bool = False
    """Nodes that are not ours talk here too, and what they offer may differ: users may override the qualities."""

    def publisher(self, node: Node) -> Publisher:
        """A publisher of this topic on `node`."""
        qos, options = self._overridable(self.writer)
        return node.create_publisher(
            self.type, self.name, qos, qos_overriding_options=options, publisher_class=PatientPublisher
        )

    def subscription(
        self,
        node: Node,
        callback: Callable[[Any], None],
        *,
        qos: QoSProfile | None = None,
        group: CallbackGroup | None = None,
        raw: bool = False,
    ) -> Subscription:
        """A subscription on `node`.

        Args:
            node: who listens.
            callback: takes the message.
            qos: for a reader that needs other than the usual, e.g. `STREAM` where each message counts.
            group: callback group; the node's own by default.
            raw: the message as bytes.
        """
        qos, options = self._overridable(qos or self.reader)
        return node.create_subscription(
            self.type, self.name, callback, qos, callback_group=group, qos_overriding_options=options, raw=raw
        )

    def _overridable(self, qos: QoSProfile) -> tuple[QoSProfile, QoSOverridingOptions | None]:
        # A copy: rclpy writes what the user wants into the profile it is given.
        return (copy.copy(qos), QoSOverridingOptions.with_default_policies()) if self.others else (qos, None)


@dataclass(frozen=True)
class Service:
    """A service: name and type."""

    name: str
    type: type

    def server(
        self, node: Node, callback: Callable[[Any, Any], Any], *, group: CallbackGroup | None = None
    ) -> RclpyService:
        """Offers this service on `node`; `callback(request, response)` returns the response."""
        return node.create_service(self.type, self.name, callback, callback_group=group)

    def client(self, node: Node, *, group: CallbackGroup | None = None) -> Client:
        """A client of this service on `node`."""
        return node.create_client(self.type, self.name, callback_group=group)


def _topic(
    name: str, kind: type, writer: QoSProfile, reader: QoSProfile | None = None, *, others: bool = False
) -> Topic:
    return Topic(name, kind, writer, reader or writer, others)


JOINT_STATES = _topic("joint_states", JointState, SENSOR, others=True)
OBJECT_STATES = _topic("object_states", JointState, SENSOR, others=True)
CLOCK = _topic("/clock", Clock, SENSOR)
# The guard reads the newest action only; the bridge subscribes with STREAM and misses none.
POLICY_ACTION = _topic("policy/action", PolicyAction, STREAM, COMMAND)
COMMANDS = _topic("joint_group_velocity_controller/commands", Float64MultiArray, COMMAND, others=True)
# In place of COMMANDS where the profile says so.
TRAJECTORY = _topic("joint_trajectory_controller/joint_trajectory", JointTrajectory, COMMAND, others=True)
GUARD_STATE = _topic("guard/state", GuardState, STREAM)
POLICY_STATUS = _topic("policy/status", PolicyStatus, STATUS)
TRANSITIONS = _topic("transitions", Transition, STREAM)
TRANSITIONS_ACK = _topic("transitions/ack", TransitionAck, STREAM)
MODEL_UPDATE = _topic("model_update", ModelUpdate, STATUS)
EPISODE_STATE = _topic("episode/state", EpisodeState, STATUS)
EPISODE_RESULT = _topic("episode/result", EpisodeResult, LOG)
LEARNER_STATUS = _topic("learner/status", LearnerStatus, STATUS)
DIAGNOSTICS = _topic("/diagnostics", DiagnosticArray, _qos(10))

TOPICS = (
    JOINT_STATES,
    OBJECT_STATES,
    CLOCK,
    POLICY_ACTION,
    COMMANDS,
    TRAJECTORY,
    GUARD_STATE,
    POLICY_STATUS,
    TRANSITIONS,
    TRANSITIONS_ACK,
    MODEL_UPDATE,
    EPISODE_STATE,
    EPISODE_RESULT,
    LEARNER_STATUS,
    DIAGNOSTICS,
)

BEGIN_EPISODE = Service("policy/begin_episode", BeginEpisode)
END_EPISODE = Service("policy/end_episode", Trigger)
HOME = Service("policy/home", Trigger)
STAGE_MODEL = Service("policy/stage_model", StageModel)
GUARD_ESTOP = Service("guard/estop", Trigger)
GUARD_RESET = Service("guard/reset", Trigger)
GUARD_PAUSE = Service("guard/pause", Trigger)
GUARD_RESUME = Service("guard/resume", Trigger)
SCENE_RESET = Service("scene/reset", ResetScene)
EPISODE_SUCCESS = Service("episode/success", Trigger)
EPISODE_FAILURE = Service("episode/failure", Trigger)
EPISODE_DISCARD = Service("episode/discard", Trigger)
EPISODE_READY = Service("episode/ready", Trigger)
EPISODE_STOP = Service("episode/stop", Trigger)
MODEL_ROLLBACK = Service("model/rollback", Trigger)
ARM_RECOVER = Service("franka_fci/recover", Trigger)

SERVICES = (
    BEGIN_EPISODE,
    END_EPISODE,
    HOME,
    STAGE_MODEL,
    GUARD_ESTOP,
    GUARD_RESET,
    GUARD_PAUSE,
    GUARD_RESUME,
    SCENE_RESET,
    EPISODE_SUCCESS,
    EPISODE_FAILURE,
    EPISODE_DISCARD,
    EPISODE_READY,
    EPISODE_STOP,
    MODEL_ROLLBACK,
    ARM_RECOVER,
)
