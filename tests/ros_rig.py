"""For tests of real nodes: start them as processes, talk to them, listen to everything they say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from ros_domain import RosDomain

from simpl import runtime_env

PATIENCE = 90.0
"""Longest wait for anything [s]; the machines that run tests are slow and busy."""


class RosRig:
    """Processes of nodes in a ROS domain of their own, and a node of the test beside them."""

    def __init__(self) -> None:
        runtime_env.prepare()
        self._reserved = RosDomain()
        self.domain = self._reserved.number
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=self.domain)
        self.node = rclpy.create_node(f"test_{self.domain}", context=self.context)
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self._clients: dict[str, Any] = {}
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._closing = False
        self._thread.start()

    def start(self, node: str, *, remap: dict[str, str] | None = None, **parameters: object) -> subprocess.Popen[str]:
        """Start a node of package simpl as a process; its output is kept for `finish`."""
        options = ["--ros-args"]
        for name, value in parameters.items():
            options += ["-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}"]
        for old, new in (remap or {}).items():
            options += ["-r", f"{old}:={new}"]
        environment = {**os.environ, "ROS_DOMAIN_ID": str(self.domain), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", f"simpl.nodes.{node}", *options],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes[node] = process
        return process

    def finish(self, node: str, how: int | None = signal.SIGINT) -> tuple[int, str]:
        """Signal a node (None: it ends by itself) and wait: exit status and everything it printed."""
        process = self.processes.pop(node)
        if how is not None:
            process.send_signal(how)
        output, _ = process.communicate(timeout=PATIENCE)
        return process.returncode, output

    def listen(self, topic: Any, *, qos: Any = None) -> Log:
        """Everything that is said on a topic from now on."""
        log = Log()
        topic.subscription(self.node, log.append, qos=qos)
        return log

    def hears(self, *topics: Any) -> None:
        """Wait until somebody publishes each of them, before what happens only once is begun."""
        wait_for(lambda: all(self.node.count_publishers(topic.name) for topic in topics), 90.0)

    def call(self, service: Any, request: Any = None) -> Any:
        """Call a service and wait for its answer."""
        client = self._clients.get(service.name)
        if client is None:
            client = self._clients[service.name] = service.client(self.node)
        assert client.wait_for_service(PATIENCE), f"nobody offers {service.name}"
        answered = threading.Event()
        future = client.call_async(request or service.type.Request())
        future.add_done_callback(lambda _: answered.set())
        assert answered.wait(PATIENCE), f"{service.name} does not answer"
        return future.result()

    def close(self) -> None:
        """End every process and the node of the test."""
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.communicate(timeout=PATIENCE)
        self._closing = True
        self._thread.join(PATIENCE)
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)
        self._reserved.release()

    def _spin(self) -> None:
        while not self._closing:
            self._executor.spin_once(timeout_sec=0.05)


class Log(list[Any]):
    """Messages in the order of arrival, with the time each came [s, steady clock]."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def append(self, message: Any) -> None:
        """Keep a message."""
        self.times.append(time.monotonic())
        super().append(message)

    def wait(self, what: Callable[[Any], bool], *, start: int = 0) -> Any:
        """The first message from number `start` on that `what` holds for; waits for it."""
        found: list[Any] = []

        def look() -> bool:
            found[:] = [message for message in self[start:] if what(message)][:1]
            return bool(found)

        wait_for(look)
        return found[0]


def wait_for(condition: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
