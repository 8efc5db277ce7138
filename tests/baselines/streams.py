"""Two common ways to stream experience from a robot to a learner, written plainly from what their projects publish.

agentlace (as used by SERL): the robot keeps its newest transitions in a queue in memory; every so many steps its
control loop asks the learner for the number of the last one it has, by request and reply with a time-out, and sends all
after it as one batch. LeRobot (its actor and learner for HIL-SERL): the robot collects an episode, serialises it and
puts it into a queue, from which a thread streams it in a call that lasts as long as the run; nothing is acknowledged,
and when the call breaks the thread ends. In both the learner's buffer is in its memory.

A robot's end has `put` and `close`, a learner's `serve` (one connection) and `numbers` (what is in its buffer).
Transport is a TCP connection with pickled messages, in place of ZeroMQ and gRPC.
"""

from __future__ import annotations

import pickle
import queue
import threading
import time
from collections import deque
from multiprocessing.connection import Client, Connection
from pathlib import Path

Address = tuple[str, int]
PAYLOAD = bytes(700)
"""About what a transition of the kitchen takes."""
CAPACITY, UPDATE_EVERY, TIMEOUT = 2000, 30, 0.8
"""agentlace: transitions in the queue, steps between two updates (both as in SERL's examples), its own time-out [s]."""
EPISODE = 100
"""LeRobot: steps after which transitions are handed over."""


class AgentlaceRobot:
    """A queue in memory, emptied by request and reply from within the control loop."""

    def __init__(self, address: Address, folder: Path) -> None:
        self._address = address
        self._queue: deque[tuple[int, int, bytes]] = deque(maxlen=CAPACITY)
        self._latest = -1  # counts from 0 in each process
        self._connection: Connection | None = None

    def put(self, number: int) -> None:
        """Keep a transition; every so many steps bring the learner up to date."""
        self._latest += 1
        self._queue.append((self._latest, number, PAYLOAD))
        if (self._latest + 1) % UPDATE_EVERY == 0:
            self.update()

    def update(self) -> None:
        """Ask what the learner has, and send what came after."""
        known = self._ask(("last", None))
        if known is None:
            return
        batch = [(number, data) for count, number, data in self._queue if count > known]
        if batch:
            self._ask(("batch", (self._latest, batch)))

    def close(self) -> None:
        """A last update."""
        self.update()

    def _ask(self, request: tuple[str, object]) -> int | None:
        """The answer, or None after the time-out; as ZeroMQ does, it connects again meanwhile."""
        give_up = time.monotonic() + TIMEOUT
        while time.monotonic() < give_up:
            try:
                if self._connection is None:
                    self._connection = Client(self._address)
                self._connection.send(request)
                if self._connection.poll(max(0.0, give_up - time.monotonic())):
                    return int(self._connection.recv())
            except (OSError, EOFError):
                time.sleep(0.05)
            self._connection = None
        return None


class AgentlaceLearner:
    """A buffer in memory, and the number up to which it is filled."""

    def __init__(self, folder: Path) -> None:
        self._numbers: list[int] = []
        self._last = -1

    def serve(self, connection: Connection) -> None:
        """Answer requests until the connection ends."""
        while True:
            kind, content = connection.recv()
            if kind == "batch":
                latest, batch = content
                self._numbers += [number for number, _ in batch]
                self._last = latest
            connection.send(self._last)

    def numbers(self) -> list[int]:
        """In the buffer."""
        return self._numbers


class LeRobotRobot:
    """Episodes through a queue in memory into one long call; where `reconnects`, the call is begun again."""

    reconnects = False

    def __init__(self, address: Address, folder: Path) -> None:
        self._address = address
        self._episode: list[tuple[int, bytes]] = []
        self._queue: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._stream, daemon=True)
        self._thread.start()

    def put(self, number: int) -> None:
        """Keep a transition; a whole episode goes into the queue."""
        self._episode.append((number, PAYLOAD))
        if len(self._episode) == EPISODE:
            self._hand_over()

    def close(self) -> None:
        """Hand the rest over, and let the queue empty itself."""
        self._hand_over()
        self._closing.set()
        self._thread.join(10.0)

    def _hand_over(self) -> None:
        self._queue.put(pickle.dumps(self._episode))
        self._episode = []

    def _stream(self) -> None:
        message = b""
        while not (self._closing.is_set() and self._queue.empty() and not message):
            try:
                with Client(self._address) as connection:
                    while not (self._closing.is_set() and self._queue.empty()):
                        message = message or self._next()
                        if message:
                            connection.send_bytes(message)
                        message = b""
            except OSError:
                if not self.reconnects:
                    return
                time.sleep(0.05)

    def _next(self) -> bytes:
        try:
            return self._queue.get(timeout=0.1)
        except queue.Empty:
            return b""


class PatientLeRobotRobot(LeRobotRobot):
    """The same, but the call is begun again when it breaks, with the message that failed."""

    reconnects = True


class LeRobotLearner:
    """A buffer in memory, filled from the stream."""

    def __init__(self, folder: Path) -> None:
        self._numbers: list[int] = []

    def serve(self, connection: Connection) -> None:
        """Take in episodes until the connection ends."""
        while True:
            # As LeRobot does; here both ends are ours.
            self._numbers += [number for number, _ in pickle.loads(connection.recv_bytes())]  # noqa: S301

    def numbers(self) -> list[int]:
        """In the buffer."""
        return self._numbers
