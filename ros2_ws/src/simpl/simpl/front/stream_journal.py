"""Our transition stream between two processes over TCP, for `simpl bench stream`: parts of bridge and learner, no ROS.

`TransitionStream` and `TransitionStore` are what the nodes run; only what carries the messages is another, the same as
that of the designs beside which it is measured.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from multiprocessing.connection import Client, Connection
from pathlib import Path

import numpy as np

from simpl.core.stream import TransitionStream
from simpl.core.transition import Transition, pack, unpack
from simpl.core.transition_store import TransitionStore

POLL = 0.02
"""As the bridge's [s]."""
ACK_PERIOD = 0.05
"""As the learner's [s]."""
DRAIN = 10.0
"""Longest wait for the learner at the end [s]."""


class JournalRobot:
    """On the disk first, then sent until acknowledged; a thread of its own sends."""

    def __init__(self, address: tuple[str, int], folder: Path) -> None:
        self._address = address
        self._lock = threading.Lock()  # the stream is for one thread at a time
        self._outgoing: list[bytes] = []
        self._stream = TransitionStream(folder / "bridge", lambda one: self._outgoing.append(pack(one)))
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, number: int) -> None:
        """Journal a transition; it is sent aside."""
        with self._lock:
            self._stream.append(blank(number), time.monotonic())

    def close(self) -> None:
        """Wait for the learner, for a while."""
        give_up = time.monotonic() + DRAIN
        while self._stream.pending and time.monotonic() < give_up:
            time.sleep(POLL)
        self._closing.set()
        self._thread.join(1.0)
        self._stream.close()

    def _run(self) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(OSError, EOFError), Client(self._address) as connection:
                self._talk(connection)
            self._closing.wait(POLL)

    def _talk(self, connection: Connection) -> None:
        """Until the connection ends."""
        while not self._closing.is_set():
            with self._lock:
                self._stream.poll(time.monotonic())
                messages, self._outgoing = self._outgoing, []
            for message in messages:
                connection.send_bytes(message)
            while connection.poll(POLL):
                robot, epoch, high_water, _ = json.loads(connection.recv_bytes())
                with self._lock:
                    self._stream.acknowledge(robot, epoch, high_water, time.monotonic())


class JournalLearner:
    """Everything on the disk once, then acknowledged."""

    def __init__(self, folder: Path) -> None:
        self._store = TransitionStore(folder / "learner")
        self._lock = threading.Lock()

    def serve(self, connection: Connection) -> None:
        """Store and acknowledge until the connection ends."""
        while True:
            with self._lock:
                give_up = time.monotonic() + ACK_PERIOD
                while connection.poll(max(0.0, give_up - time.monotonic())):
                    self._store.add(unpack(connection.recv_bytes()))
                acknowledgements = self._store.acknowledge()
            for one in acknowledgements:
                connection.send_bytes(json.dumps(one).encode())

    def numbers(self) -> list[int]:
        """In the store."""
        return [one.step for one in self._store.replay()]


def blank(number: int) -> Transition:
    """One of the kitchen's size; its `step` is the number."""
    state, action, z, e = (np.zeros(size, np.float32) for size in (30, 9, 10, 5))
    return Transition(
        robot_uuid="", epoch=0, seq=0, stamp=time.time_ns(), episode=1, step=number, phase="finetune", task="kettle",
        model_version="0" * 64, skill_start=False, z=z, e=e, observation=state, next_observation=state, action=action,
        velocity_wanted=np.zeros(9), velocity_executed=np.zeros(9), guard_flags=0, reward=0.0,
        reward_source="object_states", terminated=False, truncated=False,
    )  # fmt: skip
