"""Work spread over processes that are spawned, watched and never left behind.

A process is handed the next item when it has finished one. Whatever ends the work early ends the processes: on Ctrl-C
and SIGTERM they are interrupted and may save what they have, when this process is killed they end at once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from simpl_core.errors import SimplError, WorkerError

Work = Callable[[Any, Callable[[Any], None]], None]
"""`work(item, tell)` does one item; `tell(message)` may be called any number of times."""
Prepare = Callable[[], AbstractContextManager[Work]]
"""Makes in a process what its items share (networks, environments), and frees it."""
Spread = Callable[[Prepare, Sequence[Any], int, Callable[[int, Any], None]], None]
"""`spread`, or another that keeps its promises elsewhere."""

SPAWN = multiprocessing.get_context("spawn")  # a forked copy of a process with threads may hang
GRACE = 60.0
"""How long an interrupted process may take to save [s]."""


class Crew(NamedTuple):
    """Who does the work, and how many at the same time."""

    spread: Spread
    workers: int


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def left_to_this_process() -> Iterator[None]:
    """Processes started within do not hear the Ctrl-C that a terminal sends to all: they are told from here."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def spread(prepare: Prepare, items: Sequence[Any], workers: int, heard: Callable[[int, Any], None]) -> None:
    """Do `items` in `workers` processes, or in this one if that is 1.

    Args:
        prepare: picklable, as are the items; called once in each process.
        items: what `Work` is called with, started in this order; `str(item)` names one in errors.
        workers: processes at the same time; no more are started than there are items.
        heard: called here with an item's index and what its work told.

    Raises:
        WorkerError: a process died, or its work raised what is no SimplError (its traceback is on standard error).
        SimplError: as raised by the work.
    """
    if min(workers, len(items)) <= 1:
        with prepare() as work:
            for index, item in enumerate(items):
                work(item, partial(heard, index))
        return
    crew: list[_Worker] = []
    try:
        for _ in range(min(workers, len(items))):
            crew.append(_Worker(prepare))
        _serve_all(crew, items, heard)
    except BaseException:
        for worker in crew:
            worker.process.terminate()
        raise
    finally:
        for worker in crew:
            worker.end()


def _serve_all(crew: Sequence[_Worker], items: Sequence[Any], heard: Callable[[int, Any], None]) -> None:
    waiting = deque(enumerate(items))
    at: dict[Any, tuple[_Worker, int]] = {}  # by connection: who is busy, and with which item

    def hand_out(worker: _Worker) -> None:
        if waiting:
            index, item = waiting.popleft()
            at[worker.line] = worker, index
            worker.give(item)

    for worker in crew:
        hand_out(worker)
    while at:
        for line in wait(list(at)):
            worker, index = at[line]
            told, message = worker.hear(items[index])
            if told:
                heard(index, message)
            else:
                del at[line]
                hand_out(worker)


class _Worker:
    """A process and the line to it."""

    def __init__(self, prepare: Prepare) -> None:
        self.line, far_end = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_work, args=(prepare, far_end), daemon=True)
        resource_tracker.ensure_running()  # else `start` begins with it, and that makes Ctrl-C heard again
        with left_to_this_process():
            self.process.start()
        far_end.close()

    def give(self, item: Any) -> None:
        try:
            self.line.send(item)
        except OSError as error:
            raise self._died(item) from error

    def hear(self, item: Any) -> tuple[bool, Any]:
        """(True, what it told of `item`), or (False, None) when that is done."""
        try:
            kind, message = self.line.recv()
        except (EOFError, OSError) as error:
            raise self._died(item) from error
        if kind == "failed":
            self.process.join(GRACE)  # its traceback comes first
            if isinstance(message, SimplError):
                raise message
            raise WorkerError(f"{item}: {message}; what was saved before is kept")
        return kind == "told", message

    def _died(self, item: Any) -> WorkerError:
        self.process.join(GRACE)
        code = self.process.exitcode
        how = f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit status {code}"
        memory = " (out of memory? fewer workers need less)" if code == -signal.SIGKILL else ""
        return WorkerError(f"{item}: its process ended {how}{memory}; what was saved before is kept")

    def end(self) -> None:
        self.line.close()
        self.process.join(GRACE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _work(prepare: Prepare, line: Connection) -> None:
    """A worker's life: items until the line is closed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with prepare() as work:
            while (item := _next(line)) is not None:
                work(item[0], lambda message: line.send(("told", message)))
                line.send(("done", None))
    except KeyboardInterrupt:
        return  # asked for from there; the work has saved what it wanted to keep
    except SimplError as error:
        line.send(("failed", error))
    except Exception as error:
        line.send(("failed", f"{type(error).__name__}: {error}"))
        raise


def _next(line: Connection) -> tuple[Any] | None:
    try:
        return (line.recv(),)
    except EOFError:
        return None


def _end_with_parent() -> None:
    """At once: whoever goes on after a kill must not meet a process that still writes."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
