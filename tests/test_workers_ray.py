"""Work over a Ray cluster: what processes of this machine would make, whoever makes it and however it ends.

Two raylets on this machine stand in for two machines. Ray is an optional extra, not part of what `make` installs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from toy_domain import TASKS, ToyEnv, load_toy_models, meta_run

from simpl_core import evaluate, workers_ray
from simpl_core.config import AdaptConfig
from simpl_core.errors import ConfigError, EnvironmentMissingError, TaskError, WorkerError
from simpl_core.workers import Crew, Work
from simpl_core.workers_ray import crew

CONFIG = AdaptConfig(conditioning_episodes=3, episodes=8, batch_size=16, buffer_size=200, reuse=16.0)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EnvironmentMissingError, match=r"pip install 'simpl-core\[ray\]'"), crew("auto", None):
        pass
    with pytest.raises(ConfigError, match="at least 1, got 0"), crew(None, 0):
        pass


def test_files_that_changed_go_back_once(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    workers_ray._unpack({"state": b"old", "metrics.csv": b"rows"}, there)
    changes = workers_ray._Changes([there])
    assert changes.all() == [{}] and changes.due() == [{}]
    workers_ray._unpack({"state": b"newer", "events/one": b"x"}, there)
    (found,) = changes.all()
    assert found == {"state": b"newer", "events/one": b"x"} and changes.all() == [{}]
    workers_ray._unpack(found, here)
    assert (here / "events/one").read_bytes() == b"x"
    assert workers_ray._pack(here) == {"state": b"newer"}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of two raylets with a core each, which listen to this machine alone."""
    # Nothing is reported, loopback stays loopback, and workers do not come last on a busy machine.
    for name, value in (("USAGE_STATS_ENABLED", "0"), ("ENABLE_WINDOWS_OR_OSX_CLUSTER", "0"), ("worker_niceness", "0")):
        os.environ[f"RAY_{name}"] = value
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    from ray.cluster_utils import Cluster

    here = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **here})
    try:
        cluster.add_node(**here)
        cluster.wait_for_nodes()
        yield cluster.address
    finally:
        cluster.shutdown()


@pytest.fixture
def two_machines(address: str) -> Iterator[Crew]:
    with crew(address, None) as workers:
        yield workers


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> evaluate.Evaluation:
    load = partial(load_toy_models, meta_run(tmp_path_factory.mktemp("meta")))
    return evaluate.Evaluation(load, partial(ToyEnv, noise=0.02), "simpl", CONFIG)


def test_a_cluster_makes_the_scores_and_weights_of_processes_to_the_last_bit(
    tmp_path: Path, toy: evaluate.Evaluation, two_machines: Crew
) -> None:
    assert two_machines.workers == 2
    evaluate.run(toy, TASKS[:2], [0, 1], tmp_path / "processes", workers=2)
    evaluate.run(toy, TASKS[:2], [0, 1], tmp_path / "cluster", two_machines.workers, two_machines.spread)
    found = sorted(path.relative_to(tmp_path / "processes") for path in (tmp_path / "processes").glob("runs/*/*.*"))
    assert len(found) == 2 * 4  # weights and metrics of each run
    for path in (Path("scores.csv"), *found):
        assert (tmp_path / "cluster" / path).read_bytes() == (tmp_path / "processes" / path).read_bytes(), path
    assert len(list((tmp_path / "cluster").glob("runs/*/tensorboard/*"))) == 4


def test_runs_that_were_begun_here_are_gone_on_from_there(
    tmp_path: Path, toy: evaluate.Evaluation, two_machines: Crew
) -> None:
    short = replace(toy, config=replace(CONFIG, episodes=3))
    evaluate.run(short, TASKS[:2], [0], tmp_path / "longer")
    begun = replace(toy, make_env=partial(CountingEnv, tmp_path / "resets"))
    evaluate.run(begun, TASKS[:2], [0], tmp_path / "longer", two_machines.workers, two_machines.spread)
    assert len((tmp_path / "resets").read_text().splitlines()) == 2 * (CONFIG.episodes - 3)
    evaluate.run(toy, TASKS[:2], [0], tmp_path / "whole")
    assert (tmp_path / "longer/scores.csv").read_bytes() == (tmp_path / "whole/scores.csv").read_bytes()


class CountingEnv(ToyEnv):
    """Writes a line for each reset."""

    def __init__(self, note: Path, slots: int) -> None:
        super().__init__(slots, noise=0.02)
        self._note = note

    def reset(self, slot, task, seed):
        with self._note.open("a") as file:
            file.write(f"{task}\n")
        return super().reset(slot, task, seed)


@dataclass(frozen=True)
class Word:
    """An item that says what becomes of who does it."""

    text: str
    folder: Path

    def __str__(self) -> str:
        return self.text

    @property
    def folders(self) -> list[Path]:
        return [self.folder]

    def moved(self, folders: list[Path]) -> Word:
        return Word(self.text, folders[0])


@contextmanager
def worker() -> Iterator[Work]:
    def work(item: Word, tell: Callable[[Any], None]) -> None:
        tell("began")
        if item.text == "bad task":
            raise TaskError("no such subtask")
        if item.text == "bug":
            raise ZeroDivisionError("by hand")
        if item.text == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            for _ in range(1000 if item.text == "long" else 0):  # as work is: an interrupt by Ray does not end a sleep
                time.sleep(0.1)
        finally:  # also when it is interrupted
            (item.folder / "saved").write_text(item.text)

    yield work


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("bad task", TaskError, "^no such subtask$"),
        ("bug", WorkerError, "^bug: ZeroDivisionError: .*by hand"),
        ("killed", WorkerError, "^killed: .*what was saved before is kept"),
    ],
)
def test_what_fails_there_is_one_error_here_and_the_others_are_interrupted_and_save(
    tmp_path: Path, two_machines: Crew, text: str, error: type[Exception], words: str
) -> None:
    items = [Word(name, tmp_path / name) for name in ("long", text, "never")]
    heard: list[tuple[int, str]] = []

    def hear(index: int, message: str) -> None:
        heard.append((index, message))

    with pytest.raises(error, match=f"(?s){words}"):
        two_machines.spread(worker, items, 2, hear)
    if (0, "began") in heard:
        assert (tmp_path / "long/saved").read_text() == "long"
    assert not (tmp_path / "never").exists() and 2 not in dict(heard)


class LostMailbox(workers_ray._Mailbox):
    """Its process ends when it is asked for the first letters."""

    def take(self) -> Any:
        if self._letters:
            os._exit(1)
        return super().take()


def test_a_mailbox_that_is_lost_is_one_error(
    tmp_path: Path, two_machines: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_ray, "_Mailbox", LostMailbox)
    with pytest.raises(WorkerError, match="the cluster has lost its mailbox"):
        two_machines.spread(worker, [Word("long", tmp_path / "long")], 1, lambda *_: None)


def test_another_version_is_refused(tmp_path: Path, two_machines: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_ray, "versions", lambda: workers_ray.__dict__["_wanted"])
    monkeypatch.setattr(workers_ray, "_wanted", {"torch": "1.0"}, raising=False)
    with pytest.raises(ConfigError, match=r"torch .* instead of 1\.0: its scores would not be"):
        two_machines.spread(worker, [Word("x", tmp_path)], 1, lambda *_: None)


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:1", "127.0.0.1:99999"])
def test_no_cluster_is_one_error(address: str) -> None:
    with pytest.raises(ConfigError, match=f"no Ray cluster at '{address}'"), crew(address, None):
        pass


SCRIPT = """
import signal, sys
from functools import partial
from pathlib import Path
from test_workers_ray import Word, worker
from simpl_core.workers_ray import crew
if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    folder = Path(sys.argv[2])
    try:
        with crew(sys.argv[1], 2) as two:
            words = [Word("long", folder / str(i)) for i in range(3)]
            two.spread(worker, words, 2, lambda *_: (folder / "began").touch())
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupt_here_saves_what_is_there(tmp_path: Path, address: str, number: signal.Signals) -> None:
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    environment = os.environ | {"PYTHONPATH": paths}
    parent = subprocess.Popen([sys.executable, "-c", SCRIPT, address, str(tmp_path)], env=environment)
    try:
        deadline = time.monotonic() + 120.0
        while not (tmp_path / "began").exists():
            assert time.monotonic() < deadline and parent.poll() is None
            time.sleep(0.1)
        parent.send_signal(number)
        assert parent.wait(120.0) == 130
        assert any((tmp_path / str(i) / "saved").exists() for i in range(2)) and not (tmp_path / "2").exists()
    finally:
        parent.kill()
        parent.wait()
