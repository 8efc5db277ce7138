"""`simpl bench stream`: outages are real, the others do what their projects do, what is counted is what is there."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Listener
from pathlib import Path
from typing import Any

import pytest
from baselines import streams
from rich.console import Console

from simpl.front.bench_stream import BenchStream, designs, run_bench_stream
from simpl.front.stream_outage import Outages, Relay, Tally, count, play
from simpl_core.errors import ConfigError

LIMIT = 60.0
SHORT = Outages(learner_dead=0.5, cut=0.5, robot_dead=0.2, between=0.5, rate=50.0)


class Served:
    """A learner's end that listens, and can be killed in the same breath as its connections."""

    def __init__(self, end: Any, port: int = 0) -> None:
        self.end = end
        self.listener = Listener(("127.0.0.1", port))
        self.address: Any = self.listener.address
        self.connections: list[Any] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.connections.append(self.listener.accept())
                threading.Thread(target=self._serve, args=(self.connections[-1],), daemon=True).start()

    def _serve(self, connection: Any) -> None:
        with contextlib.suppress(EOFError, OSError, TypeError):  # TypeError: closed while it reads
            self.end.serve(connection)


@pytest.fixture
def agentlace(tmp_path: Path) -> Iterator[Served]:
    served = Served(streams.AgentlaceLearner(tmp_path))
    yield served
    served.listener.close()


def put(robot: Any, numbers: range) -> None:
    for number in numbers:
        robot.put(number)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_agentlace_asks_what_there_is_and_sends_what_came_after(agentlace: Served, tmp_path: Path) -> None:
    robot = streams.AgentlaceRobot(agentlace.address, tmp_path)
    put(robot, range(2 * streams.UPDATE_EVERY + 5))
    assert agentlace.end.numbers() == list(range(2 * streams.UPDATE_EVERY))
    agentlace.end = streams.AgentlaceLearner(tmp_path)  # its memory is gone
    for connection in agentlace.connections:
        connection.close()
    robot.close()
    wait_for(lambda: agentlace.end.numbers() == list(range(2 * streams.UPDATE_EVERY + 5)))


def test_agentlace_waits_for_a_learner_that_is_gone_and_sends_nothing_after_its_own_restart(
    agentlace: Served, tmp_path: Path
) -> None:
    put(streams.AgentlaceRobot(agentlace.address, tmp_path), range(40))
    again = streams.AgentlaceRobot(agentlace.address, tmp_path)
    put(again, range(40, 40 + streams.UPDATE_EVERY))
    assert agentlace.end.numbers() == list(range(streams.UPDATE_EVERY)), "its numbers are below those that are known"
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        address = nobody.getsockname()
    alone = streams.AgentlaceRobot(address, tmp_path)
    begun = time.monotonic()
    put(alone, range(streams.UPDATE_EVERY))
    assert time.monotonic() - begun >= streams.TIMEOUT


@pytest.mark.parametrize("kind", [streams.LeRobotRobot, streams.PatientLeRobotRobot])
def test_lerobot_streams_episodes_and_ends_when_the_call_breaks(kind: Any, tmp_path: Path) -> None:
    served = Served(streams.LeRobotLearner(tmp_path))
    robot = kind(served.address, tmp_path)
    put(robot, range(streams.EPISODE + 1))
    wait_for(lambda: served.end.numbers() == list(range(streams.EPISODE)))
    served.connections[0].close()
    for episode in range(1, 6):  # the first ones may go into a connection that is dead already
        put(robot, range(streams.EPISODE * episode + 1, streams.EPISODE * (episode + 1) + 1))
        time.sleep(0.05)
    robot.close()
    newest = served.end.numbers()[-1]
    assert (newest == 6 * streams.EPISODE) == kind.reconnects
    assert robot._thread.is_alive() is False
    served.listener.close()


def test_a_cut_network_passes_nothing_and_refuses_nothing() -> None:
    relay = Relay()
    with socket.create_server(("127.0.0.1", relay.learner_port)) as learner:
        robot = socket.create_connection(("127.0.0.1", relay.port))
        robot.sendall(b"one")
        there, _ = learner.accept()
        there.settimeout(LIMIT)
        assert there.recv(9) == b"one"
        relay.cut = True
        time.sleep(0.2)
        robot.sendall(b"two")
        there.settimeout(0.3)
        with pytest.raises(TimeoutError):
            there.recv(9)
        relay.cut = False
        there.settimeout(LIMIT)
        assert there.recv(9) == b"two"
        robot.close()
        assert there.recv(9) == b"", "the end of a connection passes too"
        there.close()
    relay.close()


def test_counts_come_from_what_was_made_and_what_is_there(tmp_path: Path) -> None:
    def write(name: str, kind: str, numbers: list[float]) -> None:
        (tmp_path / name).write_bytes(b"".join(struct.pack(kind, number) for number in numbers) + b"torn")

    write("made", "<q", [0, 1, 2, 3, 4])
    write("stored", "<q", [0, 1, 1, 1, 4])
    write("waits", "<d", [0.001, 0.9, 0.002])
    write("delays", "<d", [0.0, 0.05, 0.03])
    assert count(tmp_path, 12.5) == Tally(made=5, stored=3, lost=2, duplicated=2, blocked=0.9, late=1)


def test_ours_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """But for the step under way when the robot's process is killed."""
    tally = play(designs()[0], SHORT, tmp_path / "play")
    assert tally.made > 50 and tally.lost <= 1 and tally.duplicated == 0
    assert tally.made == tally.stored + tally.lost


@pytest.mark.slow
def test_the_command_plays_all_and_says_so() -> None:
    out = io.StringIO()
    assert run_bench_stream(BenchStream(outage=1.0, rate=50.0, json=True), Console(file=out)) == 0
    found = json.loads(out.getvalue())["designs"]
    assert len(found) == 4
    ours, *others = found.values()
    assert ours["lost"] <= 1
    assert all(other["made"] > 50 and other["lost"] > 1 for other in others)


@pytest.mark.parametrize("wrong", [{"outage": 0.0}, {"rate": -1.0}])
def test_what_cannot_be_played_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"--{next(iter(wrong))} is"):
        run_bench_stream(BenchStream(**wrong))  # type: ignore[arg-type]
