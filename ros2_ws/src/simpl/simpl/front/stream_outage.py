"""One script of outages for any way to stream: learner killed, network cut, robot's process killed; and what was lost.

Robot's and learner's end are processes of their own. A relay between them is the network: when it is cut, nothing
passes and nothing is refused, as with a cable.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import select
import signal
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, Listener
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np

HOST = "127.0.0.1"
_NUMBER, _SECONDS = struct.Struct("<q"), struct.Struct("<d")
_CONTEXT = multiprocessing.get_context("spawn")
PATIENCE = 30.0
"""Longest wait for a process to begin or to end [s]."""


class RobotEnd(Protocol):
    """Takes transitions from a control loop."""

    def put(self, number: int) -> None:
        """Transition `number` was made."""

    def close(self) -> None:
        """No more will come; whatever is left may be handed over."""


class LearnerEnd(Protocol):
    """Takes them in, a thread for each connection."""

    def serve(self, connection: Connection) -> None:
        """Until the connection ends (EOFError, OSError)."""

    def numbers(self) -> list[int]:
        """What there is to learn from."""


@dataclass(frozen=True)
class Design:
    """A way to stream: what its ends are made of, from (address, folder) and from (folder)."""

    name: str
    robot: Callable[[tuple[str, int], Path], RobotEnd]
    learner: Callable[[Path], LearnerEnd]


@dataclass(frozen=True)
class Tally:
    """What became of the transitions of one play.

    Attributes:
        made: by the control loop.
        stored: distinct ones that the learner can learn from in the end.
        lost: made and not stored.
        duplicated: stored more than once.
        blocked: longest time that the control loop waited for the stream [s].
        late: control steps that began late by half a period or more.
    """

    made: int
    stored: int
    lost: int
    duplicated: int
    blocked: float
    late: int


@dataclass(frozen=True)
class Outages:
    """What is done, one after the other, with `between` before, between and after [s]; the rate is of control [Hz]."""

    learner_dead: float = 10.0
    cut: float = 10.0
    robot_dead: float = 3.0
    between: float = 10.0
    rate: float = 12.5


class Relay:
    """Carries bytes between connections to `port` and the learner's port, while it is not cut."""

    def __init__(self) -> None:
        self.cut = False
        self._server = socket.create_server((HOST, 0))
        self.port = int(self._server.getsockname()[1])
        with socket.create_server((HOST, 0)) as free:
            self.learner_port = int(free.getsockname()[1])
        self._closing = False
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Hang up."""
        self._closing = True
        for thread in self._threads:
            thread.join()
        self._server.close()

    def _accept(self) -> None:
        self._server.settimeout(0.1)
        while not self._closing:
            with contextlib.suppress(TimeoutError):
                client, _ = self._server.accept()
                self._threads.append(threading.Thread(target=self._carry, args=(client,), daemon=True))
                self._threads[-1].start()

    def _carry(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while self.cut and not self._closing:
                time.sleep(0.01)
            with socket.create_connection((HOST, self.learner_port)) as learner:
                self._forward(client, learner)

    def _forward(self, client: socket.socket, learner: socket.socket) -> None:
        other = {client: learner, learner: client}
        while not self._closing:
            if self.cut:
                time.sleep(0.01)
                continue
            for ready in select.select(list(other), [], [], 0.05)[0]:
                data = ready.recv(65536)
                if not data:
                    return
                other[ready].sendall(data)


def play(design: Design, outages: Outages, folder: Path) -> Tally:
    """The whole script; files go below `folder`, which is created.

    Raises:
        TimeoutError: a process does not begin or end.
    """
    folder.mkdir(parents=True)
    relay, started = Relay(), list[SpawnProcess]()
    here = outages.between

    def start(target: Callable[..., None], *arguments: Any) -> SpawnProcess:
        process = _CONTEXT.Process(target=target, args=(design, *arguments, folder), daemon=True)
        started.append(process)
        process.start()
        return process

    def robot() -> SpawnProcess:
        return start(run_robot, relay.port, outages.rate)

    def learner() -> SpawnProcess:
        (folder / "ready").unlink(missing_ok=True)
        process = start(run_learner, relay.learner_port)
        _wait_for((folder / "ready").exists)
        return process

    try:
        learning = learner()
        acting = robot()
        _wait_for(lambda: bool(_read(folder / "made", _NUMBER)))
        time.sleep(here)
        _kill(learning)
        time.sleep(outages.learner_dead)
        learning = learner()
        time.sleep(here)
        relay.cut = True
        time.sleep(outages.cut)
        relay.cut = False
        time.sleep(here)
        _kill(acting)
        time.sleep(outages.robot_dead)
        acting = robot()
        time.sleep(here)
        for process in (acting, learning):
            process.terminate()
            process.join(PATIENCE)
    finally:
        relay.close()
        for process in started:
            process.kill()
            process.join()
    return count(folder, outages.rate)


def count(folder: Path, rate: float) -> Tally:
    """What the files of a play say."""
    made, stored = _read(folder / "made", _NUMBER), Counter(map(int, _read(folder / "stored", _NUMBER)))
    waits, delays = (np.array(_read(folder / name, _SECONDS)) for name in ("waits", "delays"))
    return Tally(
        made=len(made),
        stored=len(stored),
        lost=len(set(made) - stored.keys()),
        duplicated=sum(stored.values()) - len(stored),
        blocked=float(waits.max(initial=0.0)),
        late=int((delays > 0.5 / rate).sum()),
    )


def run_robot(design: Design, port: int, rate: float, folder: Path) -> None:
    """A control loop on absolute deadlines, until SIGTERM."""
    asked = threading.Event()
    _on_term(asked.set)
    files = [(folder / name).open("ab", buffering=0) for name in ("made", "waits", "delays")]
    made, waits, delays = files  # written at once, so that they survive a kill
    number, end = len(_read(folder / "made", _NUMBER)), design.robot((HOST, port), folder)
    due = time.monotonic()
    while not asked.wait(max(0.0, due - time.monotonic())):
        delays.write(_SECONDS.pack(time.monotonic() - due))
        made.write(_NUMBER.pack(number))
        begun = time.monotonic()
        end.put(number)
        now = time.monotonic()
        waits.write(_SECONDS.pack(now - begun))
        number += 1
        due = max(due + 1.0 / rate, now - 1.0 / rate)  # what was missed is not made up for
    end.close()


def run_learner(design: Design, port: int, folder: Path) -> None:
    """Serve until SIGTERM, then say what there is."""
    asked = threading.Event()
    _on_term(asked.set)
    end = design.learner(folder)
    with Listener((HOST, port)) as listener:
        threading.Thread(target=_serve_all, args=(listener, end), daemon=True).start()
        (folder / "ready").touch()
        asked.wait()
    (folder / "stored").write_bytes(b"".join(map(_NUMBER.pack, end.numbers())))


def _serve_all(listener: Listener, end: LearnerEnd) -> None:
    while True:
        connection: Any = listener.accept()
        threading.Thread(target=_serve, args=(end, connection), daemon=True).start()


def _serve(end: LearnerEnd, connection: Connection) -> None:
    with connection, contextlib.suppress(EOFError, OSError):
        end.serve(connection)


def _on_term(do: Callable[[], object]) -> None:
    def handle(_: int, __: FrameType | None) -> None:
        do()

    signal.signal(signal.SIGTERM, handle)


def _kill(process: SpawnProcess) -> None:
    process.kill()
    process.join()


def _read(path: Path, one: struct.Struct) -> list[Any]:
    data = path.read_bytes() if path.exists() else b""
    return [value for (value,) in one.iter_unpack(data[: len(data) // one.size * one.size])]


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("a process of the play does not begin")
        time.sleep(0.02)
