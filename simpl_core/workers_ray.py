"""`workers.spread` over the machines of a Ray cluster, which need not share a disk.

What the work keeps in its folders travels with the item, and back when it has changed, so that a run is gone on from as
one that was made here. Ray is an optional extra; all that is asked of it is tasks, one mailbox and to be interrupted.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from simpl_core.checkpoint import write_atomically
from simpl_core.errors import ConfigError, EnvironmentMissingError, SimplError, WorkerError
from simpl_core.provenance import versions
from simpl_core.workers import GRACE, Crew, Prepare, cores
from simpl_core.workers import spread as spread_here

Files = dict[str, bytes]
POLL = 0.2
"""Between two looks at what has been told [s]."""
SEND_EVERY = 5.0
"""Between two times that changed files go back with a message [s]; a kill of this process costs that much more."""
_HOW = "`ray start --head` starts one, `ray start --address HOST:PORT` lets a machine be part of it"


class Item(Protocol):
    """What is done on another machine."""

    @property
    def folders(self) -> Sequence[Path]:
        """Where the work keeps its files."""

    def moved(self, folders: Sequence[Path]) -> Item:
        """The same with other folders."""


@contextmanager
def crew(address: str | None, workers: int | None) -> Iterator[Crew]:
    """Processes of this machine where there is no `address`, else those of a Ray cluster; one a core unless `workers`.

    Raises:
        ConfigError: no worker, or no cluster at the address.
        EnvironmentMissingError: Ray is not installed.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers must be at least 1, got {workers}")
    if address is None:
        yield Crew(spread_here, workers or cores())
        return
    ray = _connect(address)
    try:
        yield Crew(partial(spread, ray), workers or max(1, int(ray.cluster_resources().get("CPU", 1))))
    finally:
        ray.shutdown()


def _connect(address: str) -> Any:
    """Ray, connected to a cluster; `local` starts one that listens to this machine alone and ends with this process."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    _check_reachable(address)
    try:
        import ray
    except ModuleNotFoundError as error:
        raise EnvironmentMissingError("--ray needs the package ray: pip install 'simpl-core[ray]'") from error
    own = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"} if address == "local" else {}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.WARNING, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"no Ray cluster at {address!r} ({error}); {_HOW}") from error
    for number, handler in handlers.items():  # Ray's own would end this process before anything is saved
        signal.signal(number, handler)
    return ray


def _check_reachable(address: str) -> None:
    """Ray itself asks for minutes where nobody answers, and takes this machine's outer address for its inner one."""
    host, _, port = address.rpartition(":")
    if address == "local" or host in ("127.0.0.1", "localhost"):
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # read when Ray loads
    if address in ("auto", "local"):
        return
    try:
        with socket.create_connection((host, int(port)), timeout=5.0):
            pass
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError(f"no Ray cluster at {address!r} ({error}); {_HOW}") from error


def spread(ray: Any, prepare: Prepare, items: Sequence[Item], workers: int, heard: Callable[[int, Any], None]) -> None:
    """As `workers.spread`: do `items`, `workers` at the same time, in tasks of one core.

    Raises:
        WorkerError: a machine or process died, or the work raised what is no SimplError.
        SimplError: as raised by the work; also where a machine has other versions of what computes.
    """
    shared, mailbox = ray.put(prepare), ray.remote(num_cpus=0)(_Mailbox).remote()
    do = ray.remote(num_cpus=1, max_retries=0)(_do)
    waiting = deque(enumerate(items))
    busy: dict[Any, int] = {}

    def hear(tell: Callable[[int, Any], None]) -> None:
        try:
            letters = ray.get(mailbox.take.remote())
        except ray.exceptions.RayError as error:
            raise WorkerError(f"the cluster has lost its mailbox: {error}; what was saved before is kept") from error
        for index, messages, files in letters:
            for folder, own in zip(items[index].folders, files, strict=True):
                _unpack(own, folder)
            for message in messages:
                tell(index, message)

    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                index, item = waiting.popleft()
                files = [_pack(folder) for folder in item.folders]
                busy[do.remote(shared, item, files, (index, mailbox, versions()))] = index
            done, _ = ray.wait(list(busy), timeout=POLL)
            hear(heard)
            for task in done:
                _settle(ray, task, items[busy.pop(task)])
    except BaseException:
        for task in busy:
            ray.cancel(task)  # raises KeyboardInterrupt there
        if busy:
            ray.wait(list(busy), num_returns=len(busy), timeout=GRACE)
        with suppress(WorkerError):  # what ended it is told, not what followed from that
            hear(lambda *_: None)
        raise


def _settle(ray: Any, task: Any, item: Item) -> None:
    """Raise what ended a task early."""
    try:
        failure = ray.get(task)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        raise WorkerError(f"{item}: {type(cause).__name__}: {cause}; what was saved before is kept") from error
    if failure is not None:
        raise failure


class _Mailbox:
    """Messages and files on their way back."""

    def __init__(self) -> None:
        self._letters: list[tuple[int, list[Any], list[Files]]] = []

    def put(self, *letter: Any) -> None:
        self._letters.append(letter)

    def take(self) -> list[tuple[int, list[Any], list[Files]]]:
        letters, self._letters = self._letters, []
        return letters


def _do(
    prepare: Prepare, item: Item, files: Sequence[Files], way_back: tuple[int, Any, Mapping[str, str]]
) -> SimplError | None:
    """A task: one item, in folders of its own. A SimplError is an answer, since Ray would raise another class."""
    from ray import get as arrive

    index, mailbox, wanted = way_back
    with tempfile.TemporaryDirectory(prefix="simpl-") as place:
        folders = [Path(place, str(number)) for number in range(len(files))]
        for folder, own in zip(folders, files, strict=True):
            _unpack(own, folder)
        changes = _Changes(folders)

        def tell(message: Any) -> None:
            mailbox.put.remote(index, [message], changes.due())

        try:
            _check_versions(wanted)
            with prepare() as work:
                work(item.moved(folders), tell)
        except SimplError as error:
            return error
        finally:
            arrive(mailbox.put.remote(index, [], changes.all()))  # and with it, in order, all before
    return None


def _check_versions(wanted: Mapping[str, str]) -> None:
    found = versions()
    other = [f"{name} {found[name]} instead of {wanted[name]}" for name in wanted if found[name] != wanted[name]]
    if other:
        raise ConfigError(
            f"{socket.gethostname()} has {', '.join(other)}: its scores would not be those of this machine"
        )


class _Changes:
    """Files of some folders that have changed since they were last sent."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._sent: dict[Path, tuple[int, int]] = {path: _stamp(path) for path in _files(folders)}
        self._looked = time.monotonic()

    def due(self) -> list[Files]:
        """Now and then, all of them; else none."""
        return self.all() if time.monotonic() - self._looked > SEND_EVERY else [{} for _ in self._folders]

    def all(self) -> list[Files]:
        """All of them, by folder."""
        self._looked = time.monotonic()
        before, self._sent = self._sent, {path: _stamp(path) for path in _files(self._folders)}
        changed = {path for path, stamp in self._sent.items() if before.get(path) != stamp}
        return [
            {str(path.relative_to(folder)): path.read_bytes() for path in changed.intersection(_files([folder]))}
            for folder in self._folders
        ]


def _files(folders: Sequence[Path]) -> list[Path]:
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def _pack(folder: Path) -> Files:
    """Its files; those in folders below it are only written, never read again."""
    return {path.name: path.read_bytes() for path in folder.glob("*") if path.is_file()}


def _unpack(files: Files, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)
