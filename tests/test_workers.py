"""Work over processes: everything is done once, and whatever ends it early leaves nobody behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from simpl_core.errors import TaskError, WorkerError
from simpl_core.workers import Work, spread


@contextmanager
def worker(folder: Path) -> Iterator[Work]:
    """Items are words that say what becomes of who does them; `folder` hears who began, was interrupted and left."""

    def work(item: str, tell: Callable[[object], None]) -> None:
        if item == "bad task":
            raise TaskError("no such subtask")
        if item == "bug":
            raise ZeroDivisionError("by hand")
        if item == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        tell(os.getpid())
        if item == "long":
            try:
                (folder / f"began {os.getpid()}").touch()
                time.sleep(100)
            except KeyboardInterrupt:
                (folder / f"interrupted {os.getpid()}").touch()
                raise
        tell(item.upper())

    yield work
    (folder / f"left {os.getpid()}").touch()


@pytest.mark.parametrize("workers", [1, 2])
def test_every_item_is_done_and_heard_under_its_index(tmp_path: Path, workers: int) -> None:
    items, told = list("abcdefg"), {}
    spread(partial(worker, tmp_path), items, workers, lambda index, message: told.setdefault(index, []).append(message))
    assert [told[index][1] for index in range(7)] == list("ABCDEFG")
    processes = {messages[0] for messages in told.values()}
    assert processes == {os.getpid()} if workers == 1 else os.getpid() not in processes and len(processes) <= 2
    assert {path.name for path in tmp_path.glob("left *")} >= {f"left {process}" for process in processes}
    assert not any(_alive(process) for process in processes - {os.getpid()})


@pytest.mark.parametrize(
    ("item", "error", "words"),
    [
        ("bad task", TaskError, "^no such subtask$"),
        ("bug", WorkerError, "^bug: ZeroDivisionError: by hand; what was saved"),
        ("killed", WorkerError, r"^killed: its process ended by SIGKILL \(out of memory\?"),
    ],
)
def test_what_fails_in_a_process_is_one_error_here_and_the_others_are_interrupted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], item: str, error: type[Exception], words: str
) -> None:
    heard: list[int] = []
    with pytest.raises(error, match=words):
        spread(partial(worker, tmp_path), ["long", item, "long"], 2, lambda _, pid: heard.append(pid))
    assert not any(_alive(process) for process in heard)
    assert ("Traceback" in capfd.readouterr().err) == (item == "bug")


SCRIPT = """
import signal, sys
from functools import partial
from pathlib import Path
from test_workers import worker
from simpl_core.workers import spread
if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell's background jobs inherit that they ignore the latter
        signal.signal(number, signal.default_int_handler)
    try:
        spread(partial(worker, Path(sys.argv[1])), ["long"] * 3, 2, lambda *_: None)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize(
    ("number", "to_all", "code"),
    [
        (signal.SIGTERM, False, 130),
        (signal.SIGINT, True, 130),  # as a terminal does: all processes get it, and the workers leave it to the parent
        (signal.SIGKILL, False, -9),
    ],
)
def test_however_the_parent_ends_no_process_is_left(
    tmp_path: Path, number: signal.Signals, to_all: bool, code: int
) -> None:
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    parent = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": paths},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _wait_for(lambda: len(list(tmp_path.glob("began *"))) == 2)
        (os.killpg if to_all else os.kill)(parent.pid, number)
        _, errors = parent.communicate(timeout=120)
        assert parent.returncode == code
        assert errors == ""
        processes = {int(path.name.split()[1]) for path in tmp_path.glob("began *")}
        _wait_for(lambda: not any(map(_alive, processes)))
        interrupted = {int(path.name.split()[1]) for path in tmp_path.glob("interrupted *")}
        assert interrupted == (set() if number == signal.SIGKILL else processes)
        _wait_for(lambda: not _of_session(parent.pid))  # multiprocessing's own helper ends after the last of them
    finally:
        for process in _of_session(parent.pid):
            os.kill(process, signal.SIGKILL)


def _of_session(leader: int) -> list[int]:
    """Processes of the session that `leader` began, itself too, that are alive."""
    found = []
    for path in Path("/proc").iterdir():
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
            if path.name.isdigit() and _alive(int(path.name)) and os.getsid(int(path.name)) == leader:
                found.append(int(path.name))
    return found


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _wait_for(happened: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
