"""A plant that only reports, at 1 kHz, and a listener that notes when answers to its joint states come."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from simpl_interfaces.msg import GuardState, PolicyAction, PolicyStatus
from std_msgs.msg import Float64MultiArray, UInt64MultiArray

from simpl import interfaces
from simpl.conversions import float64_field, from_time, to_joint_state, to_time
from simpl.core.guard import Mode
from simpl.nodes.bench_peers import ECHO, LATE, TIMER
from simpl.nodes.running import new_executor
from simpl_core.errors import ConfigError, EnvironmentMissingError

STATE_RATE = 1000.0
"""Joint states a second [Hz]."""
_OBJECTS_EVERY = 20  # joint states for each message about objects: a camera's rate
_DISCOVERY = 90.0  # longest wait for the other nodes [s]


class BenchPlant:
    """Says joint states on a thread of its own; notes on another what is answered. Stamps are of the steady clock.

    Attributes:
        answers: by what was answered with ("action", "command", "echo", "timer"): arrival and delay since the joint
            state behind it was sent, both [s].
        status: newest word of the policy about itself.
        timer_ticks: of the timer node: ticks, and those that were late.
    """

    def __init__(self, namespace: str, joints: Sequence[str], objects: Sequence[str]) -> None:
        self.answers: dict[str, list[tuple[float, float]]] = {
            name: [] for name in ("action", "command", "echo", "timer")
        }
        self.status: PolicyStatus | None = None
        self.timer_ticks = (0, 0)
        self._commanded: dict[bytes, float] = {}
        self._context = Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = Node(
            "bench_plant",
            namespace=namespace,
            context=self._context,
            enable_rosout=False,
            start_parameter_services=False,
        )
        self._joints, self._objects = list(joints), list(objects)
        self._joint_states = interfaces.JOINT_STATES.publisher(self.node)
        self._object_states = interfaces.OBJECT_STATES.publisher(self.node) if objects else None
        self._listen()
        self._over = threading.Event()
        self._done: Future[None] = Future()
        self._executor = new_executor(self._context)
        self._executor.add_node(self.node)
        self._threads = [threading.Thread(target=body, daemon=True) for body in (self._report, self._spin)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Say and hear nothing more."""
        self._over.set()
        self._done.set_result(None)
        self._executor.wake()
        for thread in self._threads:
            thread.join(timeout=5.0)
        self.node.destroy_node()
        self._context.try_shutdown()

    def await_listeners(self, count: int, alive: Callable[[], None]) -> None:
        """Wait until so many nodes hear the joint states; `alive` raises when one of them has died.

        Raises:
            EnvironmentMissingError: they do not come.
        """
        deadline = time.monotonic() + _DISCOVERY
        while self._joint_states.get_subscription_count() < count:
            alive()
            if time.monotonic() > deadline:
                raise EnvironmentMissingError(f"fewer than {count} nodes have found the plant after {_DISCOVERY:g} s")
            time.sleep(0.05)

    def call(self, service: interfaces.Service, request: Any) -> Any:
        """The answer of a service.

        Raises:
            ConfigError: there is none.
        """
        client = service.client(self.node)
        answered = threading.Event()
        if client.wait_for_service(_DISCOVERY):
            future = client.call_async(request)
            future.add_done_callback(lambda _: answered.set())
            if answered.wait(_DISCOVERY):
                return future.result()
        raise ConfigError(f"nobody answers {service.name}")

    # -- the plant -----------------------------------------------------------------------------------------------

    def _report(self) -> None:
        message = to_joint_state(0, self._joints, [0.0] * len(self._joints))
        scene = to_joint_state(0, self._objects, [0.0] * len(self._objects))
        number, deadline = 0, time.monotonic()
        while not self._over.is_set():
            # Moves a little, so that no two commands are the same.
            message.position = float64_field(
                [0.1 * math.sin(1e-3 * number + index) for index in range(len(self._joints))]
            )
            message.header.stamp = to_time(time.monotonic_ns())
            self._joint_states.publish(message)
            if self._object_states is not None and number % _OBJECTS_EVERY == 0:
                scene.header.stamp = message.header.stamp
                self._object_states.publish(scene)
            number += 1
            deadline = max(deadline + 1.0 / STATE_RATE, time.monotonic() - 0.01)  # no burst after a pause
            time.sleep(max(0.0, deadline - time.monotonic()))

    # -- the listener --------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        interfaces.POLICY_ACTION.subscription(self.node, self._on_action, qos=interfaces.STREAM)
        interfaces.COMMANDS.subscription(self.node, self._on_command, qos=interfaces.STREAM)
        interfaces.GUARD_STATE.subscription(self.node, self._on_guard, qos=interfaces.STREAM)
        interfaces.POLICY_STATUS.subscription(self.node, self._on_status)
        for name, topic in (("echo", ECHO), ("timer", TIMER)):
            self.node.create_subscription(Float64MultiArray, topic, self._peer(name), interfaces.STREAM)
        self.node.create_subscription(UInt64MultiArray, LATE, self._on_timer_ticks, interfaces.STATUS)

    def _spin(self) -> None:
        # `spin` of the events executor hangs in some releases; waiting for a future does not.
        self._executor.spin_until_future_complete(self._done, timeout_sec=1e6)

    def _note(self, name: str, now: float, stamp: float) -> None:
        self.answers[name].append((now, now - 1e-9 * stamp))

    def _on_action(self, message: PolicyAction) -> None:
        if message.active:
            self._note("action", time.monotonic(), from_time(message.header.stamp))

    def _on_command(self, message: Float64MultiArray) -> None:
        self._commanded[message.data.tobytes()] = time.monotonic()

    def _on_guard(self, message: GuardState) -> None:
        """A command does not say which state it answers; what the guard says of it does."""
        now = time.monotonic()
        at = self._commanded.pop(message.velocity.tobytes(), now)
        if message.mode == Mode.RUNNING and message.tick:
            self._note("command", at, from_time(message.header.stamp))

    def _on_status(self, message: PolicyStatus) -> None:
        self.status = message

    def _peer(self, name: str) -> Callable[[Float64MultiArray], None]:
        return lambda message: self._note(name, time.monotonic(), message.data[0])

    def _on_timer_ticks(self, message: UInt64MultiArray) -> None:
        self.timer_ticks = (message.data[0], message.data[1])
