"""Real nodes as processes, and a node beside them that calls their services and listens to everything they say."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor

from simpl import runtime_env
from simpl.faults.ros_domain import RosDomain

PATIENCE = 90.0
"""Longest wait for anything [s]; the machines that run tests are slow and busy."""


class RosRig:
    """Processes of nodes in a ROS domain of their own, and a node of ours beside them.

    Attributes:
        node: ours; its callbacks run on a thread of the rig.
        processes: of the nodes that were started and not finished, by name.
    """

    def __init__(self, domain: int | None = None, logs: Path | None = None) -> None:
        """Without `domain` it takes one that nobody else uses; `logs` is the folder of the output, else hidden."""
        runtime_env.prepare()
        self._reserved = RosDomain() if domain is None else None
        self.domain = self._reserved.number if self._reserved else domain
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=self.domain)
        self.node = rclpy.create_node(f"test_{self.domain}", context=self.context)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._hidden = None if logs else tempfile.TemporaryDirectory(prefix="simpl-rig-")
        self._logs = logs or Path(self._hidden.name if self._hidden else "")
        self._clients: dict[str, Any] = {}
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._closing = False
        self._thread.start()
        atexit.register(self._kill)  # whoever made us may fail before there is anybody to close us

    def start(
        self,
        node: str,
        *,
        remap: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        module: str = "",
        **parameters: object,
    ) -> subprocess.Popen[bytes]:
        """Start a node of package simpl as a process; its output is kept for `finish`.

        Args:
            node: its name.
            remap: topics and services by their usual name.
            prefix: words before the command, such as those that enter a namespace.
            environment: variables besides ours.
            module: what runs instead of `simpl.nodes.<node>`.
            parameters: of the node.
        """
        options = ["--ros-args"]
        for name, value in parameters.items():
            options += ["-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}"]
        for old, new in (remap or {}).items():
            options += ["-r", f"{old}:={new}"]
        ours = {"ROS_DOMAIN_ID": str(self.domain), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        with self.log_of(node).open("wb") as log:  # a file: a pipe that nobody reads would stop a talkative node
            process = subprocess.Popen(
                [*prefix, sys.executable, "-m", module or f"simpl.nodes.{node}", *options],
                env={**os.environ, **ours, **(environment or {})},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.processes[node] = process
        return process

    def log_of(self, node: str) -> Path:
        """The file with what a node has printed since its last start."""
        return self._logs / f"{node}.log"

    def finish(self, node: str, how: int | None = signal.SIGINT) -> tuple[int, str]:
        """Signal a node (None: it ends by itself) and wait: exit status and everything it printed."""
        process = self.processes.pop(node)
        if how is not None:
            process.send_signal(how)
        try:
            status = process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.processes[node] = process  # for `close`
            raise
        return status, self.log_of(node).read_text(errors="replace")

    def listen(self, topic: Any, *, qos: Any = None) -> Log:
        """Everything that is said on a topic from now on."""
        log = Log()
        topic.subscription(self.node, log.append, qos=qos)
        return log

    def hears(self, *topics: Any) -> None:
        """Wait until somebody publishes each of them, before what happens only once is begun."""
        wait_for(lambda: all(self.node.count_publishers(topic.name) for topic in topics))

    def call(self, service: Any, request: Any = None, patience: float = PATIENCE) -> Any:
        """Call a service and wait for its answer, for `patience` [s].

        Raises:
            TimeoutError: nobody offers it, or no answer comes.
        """
        client = self._clients.get(service.name)
        if client is None:
            client = self._clients[service.name] = service.client(self.node)
        if not client.wait_for_service(patience):
            raise TimeoutError(f"nobody offers {service.name}")
        answered = threading.Event()
        future = client.call_async(request or service.type.Request())
        future.add_done_callback(lambda _: answered.set())
        if not answered.wait(patience):
            raise TimeoutError(f"{service.name} does not answer")
        return future.result()

    def close(self) -> None:
        """End every process and our own node."""
        atexit.unregister(self._kill)
        self._kill()
        for process in self.processes.values():
            process.wait(timeout=PATIENCE)
        self._closing = True
        self._thread.join(PATIENCE)
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)
        if self._reserved is not None:
            self._reserved.release()
        if self._hidden is not None:
            self._hidden.cleanup()

    def _kill(self) -> None:
        for process in self.processes.values():
            process.kill()

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

    def wait(self, what: Callable[[Any], bool], *, start: int = 0, patience: float = PATIENCE) -> Any:
        """The first message from number `start` on that `what` holds for; waits for it."""
        found: list[Any] = []

        def look() -> bool:
            found[:] = [message for message in self[start:] if what(message)][:1]
            return bool(found)

        wait_for(look, patience)
        return found[0]


def wait_for(condition: Callable[[], bool], patience: float = PATIENCE, what: str = "waited in vain") -> None:
    """Wait until `condition` holds; TimeoutError says `what` when it does not within `patience` [s]."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.005)
