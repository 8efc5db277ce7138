"""Listens to the graph from outside, like any other ROS tool, and keeps a `Progress` up to date."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from simpl_interfaces.msg import EpisodeResult, EpisodeState, GuardState, LearnerStatus, PolicyStatus

from simpl import interfaces
from simpl.front.keys import SERVICES
from simpl.front.progress import GUARD_MODES, Progress, Score

# The guard speaks once per command, hundreds of times a second; for a screen its newest word is enough.
_NEWEST = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
)


class Monitor:
    """A node that only listens, and passes on what a person at the keyboard says.

    It has no thread: messages wait until `poll` takes them, so a screen costs the run little.
    """

    def __init__(self, progress: Progress, namespace: str, domain_id: int) -> None:
        """Join the graph in `namespace` of ROS domain `domain_id` and write what is heard into `progress`."""
        self.new_scores: list[Score] = []
        self._progress = progress
        self._heard = 0
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain_id, signal_handler_options=SignalHandlerOptions.NO)
        self._node = Node(
            "adapt_monitor",
            namespace=namespace,
            context=self._context,
            enable_rosout=False,
            start_parameter_services=False,
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        for topic, callback in (
            (interfaces.EPISODE_STATE, self._on_state),
            (interfaces.EPISODE_RESULT, self._on_result),
            (interfaces.POLICY_STATUS, self._on_policy),
            (interfaces.LEARNER_STATUS, self._on_learner),
        ):
            topic.subscription(self._node, self._counted(callback))
        interfaces.GUARD_STATE.subscription(self._node, self._counted(self._on_guard), qos=_NEWEST)
        self._clients = {key: service.client(self._node) for key, service in SERVICES.items()}

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def poll(self, limit: int = 300) -> list[Score]:
        """Take the messages that wait, at most `limit`.

        Returns:
            Episodes that ended since the last call.
        """
        for _ in range(limit):
            before = self._heard
            self._executor.spin_once(timeout_sec=0)
            if self._heard == before:
                break
        new, self.new_scores = self.new_scores, []
        return new

    def press(self, key: str, tell: Callable[[str], None]) -> None:
        """Call the service behind `key`, if there is one; `tell` hears later, in `poll`, what it said."""
        client = self._clients.get(key.lower())
        if client is None:
            return
        name = SERVICES[key.lower()].name
        if not client.service_is_ready():
            tell(f"{name}: nobody offers it")
            return

        def answered(future: Future[Any]) -> None:
            failure, answer = future.exception(), None if future.exception() else future.result()
            refused = "" if answer is not None and answer.success else "refused: "
            tell(f"{name}: {refused}{answer.message if answer is not None else failure}")

        client.call_async(SERVICES[key.lower()].type.Request()).add_done_callback(answered)

    def _counted(self, callback: Callable[..., None]) -> Callable[..., None]:
        def take(message: object) -> None:
            self._heard += 1
            callback(message)

        return take

    def _on_state(self, message: EpisodeState) -> None:
        progress = self._progress
        progress.phase, progress.episode = message.phase, message.episode
        progress.heard_step(message.step, message.steps_total, message.subtasks)
        progress.status, progress.finished = message.status, message.finished
        progress.model_version = message.model_version

    def _on_result(self, message: EpisodeResult) -> None:
        score = self._progress.heard_result(
            message.phase,
            message.episode,
            message.score,
            message.steps,
            tuple(message.subtasks_done),
            message.model_version,
        )
        if score is not None:
            self.new_scores.append(score)

    def _on_policy(self, message: PolicyStatus) -> None:
        health = self._progress.control
        health.state, health.rate_hz = message.state, message.rate_hz
        health.ticks, health.missed = message.ticks, message.missed
        health.latency_ms_p50, health.latency_ms_p99 = message.latency_ms_p50, message.latency_ms_p99

    def _on_guard(self, message: GuardState) -> None:
        health = self._progress.control
        health.guard_mode = GUARD_MODES[message.mode] if message.mode < len(GUARD_MODES) else str(message.mode)
        health.guard_reason, health.interventions = message.reason, message.interventions
        if message.flags & GuardState.FLAG_SHUTDOWN and not any(message.velocity):
            health.zero_at_shutdown = True

    def _on_learner(self, message: LearnerStatus) -> None:
        health = self._progress.learner
        health.state, health.stored = message.state, message.stored
        health.updates, health.gradient_steps = message.updates, message.gradient_steps
        self._progress.heard_metrics(message.metrics_json)


def running_nodes(domain_id: int, seconds: float = 1.5) -> list[str]:
    """Full names of all nodes that can be seen in a ROS domain, e.g. "/policy".

    Args:
        domain_id: where to look.
        seconds: how long to listen; nodes announce themselves within about a second, not all at once.
    """
    context = Context()
    rclpy.init(context=context, domain_id=domain_id, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = Node(f"adapt_probe_{os.getpid()}", context=context, enable_rosout=False, start_parameter_services=False)
        try:
            time.sleep(seconds)
            others = [f"{space.rstrip('/')}/{name}" for name, space in node.get_node_names_and_namespaces()]
            return sorted(name for name in others if name != f"/{node.get_name()}")
        finally:
            node.destroy_node()
    finally:
        context.try_shutdown()
