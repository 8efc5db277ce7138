"""Starts the node graph as real processes, keeps an eye on them, and always takes them down again.

Every node runs in a session of its own, so that a Ctrl-C in the terminal reaches only the supervisor, which stops
the nodes in order: no more actions, books closed, zeros to the arm, and the plant last. Whatever happens to the
supervisor itself, nothing stays behind (see `child.py` and `reaper.py`).
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from simpl.front.shared_memory import remove_dead_segments
from simpl.graph import NodeSpec, render_parameters, stop_rank
from simpl_core.errors import EnvironmentMissingError

HERE = Path(__file__).resolve().parent

RESPAWN_DELAY = 0.5
"""Wait before a dead node is started again [s]; doubles with each death in a row."""
RESPAWN_DELAY_LIMIT = 15.0
"""Longest such wait [s]."""
HEALTHY_AFTER = 30.0
"""A node that lived this long [s] starts again with the shortest wait."""
INTERRUPT_PATIENCE = 8.0
"""How long a node may take after SIGINT [s] before it gets SIGTERM."""
TERMINATE_PATIENCE = 2.0
"""How long after SIGTERM [s] before SIGKILL."""
TAIL_LINES = 12
"""Lines of a node's log that are shown when it fails."""


@dataclass(frozen=True)
class NodeDeath:
    """A node that ended while the graph was running."""

    name: str
    """Node name."""
    returncode: int
    """As in `subprocess`: negative is a signal."""
    log: Path
    """Its log file."""
    respawn_in: float | None
    """Wait until it is started again [s]; None when the run cannot go on without it."""

    @property
    def cause(self) -> str:
        """What ended it, for people: "exit status 1" or "SIGKILL"."""
        return f"exit status {self.returncode}" if self.returncode >= 0 else signal.Signals(-self.returncode).name

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The end of its log."""
        return log_tail(self.log, lines)


class _Node:
    """One node's process over its lives."""

    def __init__(self, spec: NodeSpec, command: list[str], log: Path) -> None:
        self.spec, self.command, self.log = spec, command, log
        self.process: subprocess.Popen[bytes] | None = None
        self.started = 0.0
        self.quick_deaths = 0
        self.starts = 0
        self.start_at: float | None = None

    def start(self, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            if self.starts:
                log.write(f"--- started again (start {self.starts + 1}) ---\n".encode())
                log.flush()
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(HERE / "child.py"), str(os.getpid()), *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**environment, **self.spec.environment},
                start_new_session=True,
            )
        self.starts += 1
        self.started, self.start_at = time.monotonic(), None
        return self.process

    def respawn_delay(self) -> float:
        lived = time.monotonic() - self.started
        self.quick_deaths = 0 if lived > HEALTHY_AFTER else self.quick_deaths + 1
        return float(min(RESPAWN_DELAY * 2 ** max(0, self.quick_deaths - 1), RESPAWN_DELAY_LIMIT))


class Supervisor:
    """The processes of a node graph. Use as a context manager: leaving it stops everything.

    Start and poll from one thread that lives as long as the graph: the kernel ties the nodes to that thread.
    """

    def __init__(
        self,
        specs: Sequence[NodeSpec],
        logs: Path,
        *,
        find_executable: Callable[[NodeSpec], Path] | None = None,
        share: Path | None = None,
        patience: float = INTERRUPT_PATIENCE,
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            specs: the nodes, in the order in which they are started.
            logs: folder for `<node>.log` and the parameter files; created.
            find_executable: where a node's executable is; by default in the installed ROS workspace.
            share: folder that the nodes' parameter files are relative to; by default the installed one.
            patience: time between SIGINT and SIGTERM when a node does not stop [s].

        Raises:
            EnvironmentMissingError: the ROS workspace is not built.
        """
        self._patience = patience
        self._logs = logs.resolve()
        (self._logs / "parameters").mkdir(parents=True, exist_ok=True)
        find = find_executable or installed_executable
        self._nodes = [
            _Node(spec, self._command(spec, find(spec), share), self._logs / f"{spec.name}.log") for spec in specs
        ]
        self._reaper: subprocess.Popen[str] | None = None
        self.failure: NodeDeath | None = None
        """The death that the run cannot survive, once it happened."""
        self.run_over = False
        """The node whose end is the run's end has ended, well."""

    def _command(self, spec: NodeSpec, executable: Path, share: Path | None) -> list[str]:
        arguments = [str(executable), "--ros-args", "-r", f"__node:={spec.name}"]
        if spec.namespace:
            arguments += ["-r", f"__ns:=/{spec.namespace.strip('/')}"]
        for source, target in spec.remappings:
            arguments += ["-r", f"{source}:={target}"]
        for file in spec.parameter_files:
            arguments += ["--params-file", str((share or installed_share()) / file)]
        arguments.append("--disable-external-lib-logs")  # its output is in our log already
        own = render_parameters(spec)
        if own:
            path = self._logs / "parameters" / f"{spec.name}.yaml"
            path.write_text(own, encoding="utf-8")
            arguments += ["--params-file", str(path)]
        return arguments

    def __enter__(self) -> Supervisor:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the reaper and then every node."""
        self._reaper = subprocess.Popen(
            [sys.executable, "-I", "-S", str(HERE / "reaper.py"), str(self._patience)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        try:
            for node in self._nodes:
                self._start(node)
        except BaseException:
            self.stop()
            raise

    def _start(self, node: _Node) -> None:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self._tell_reaper("watch", node.start(environment).pid)

    def _tell_reaper(self, verb: str, pid: int) -> None:
        pipe: IO[str] | None = self._reaper.stdin if self._reaper else None
        if pipe is None:
            return
        try:
            pipe.write(f"{verb} {pid}\n")
            pipe.flush()
        except BrokenPipeError:  # somebody killed the reaper; the kernel's SIGINT to the nodes remains
            self._reaper = None

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the nodes that live."""
        return {n.spec.name: n.process.pid for n in self._nodes if n.process and n.process.poll() is None}

    @property
    def restarts(self) -> dict[str, int]:
        """How often each node has been started again, where it has."""
        return {n.spec.name: n.starts - 1 for n in self._nodes if n.starts > 1}

    def log_of(self, name: str) -> Path:
        """The log file of a node."""
        return self._logs / f"{name}.log"

    def poll(self) -> list[NodeDeath]:
        """Notice deaths, start again what may be started again. Call a few times a second.

        Returns:
            The deaths since the last call. `failure` and `run_over` say whether the run goes on.
        """
        deaths = []
        for node in self._nodes:
            if node.start_at is not None and time.monotonic() >= node.start_at:
                self._start(node)
            if node.process is not None and node.process.poll() is not None:
                death = self._bury(node, node.process)
                if death is not None:
                    deaths.append(death)
        return deaths

    def _bury(self, node: _Node, process: subprocess.Popen[bytes]) -> NodeDeath | None:
        self._tell_reaper("forget", process.pid)
        node.process = None
        if node.spec.ends_run and process.returncode == 0:
            self.run_over = True
            return None
        delay = node.respawn_delay() if node.spec.respawn else None
        if delay is not None:
            node.start_at = time.monotonic() + delay
        death = NodeDeath(node.spec.name, process.returncode, node.log, delay)
        if delay is None and self.failure is None:
            self.failure = death
        return death

    def stop(self, while_waiting: Callable[[], None] | None = None) -> list[str]:
        """Stop the nodes in order; returns at once when all are stopped already.

        Args:
            while_waiting: called a few times a second, e.g. to keep a screen alive.

        Returns:
            Names of the nodes that had to be killed.
        """
        killed = []
        in_order = sorted(self._nodes, key=lambda node: stop_rank(node.spec))
        for _, group in itertools.groupby(in_order, key=lambda node: stop_rank(node.spec)):
            killed += self._stop_together(list(group), while_waiting)
        self._close_reaper()
        remove_dead_segments()
        return killed

    def hurry(self) -> None:
        """Somebody presses Ctrl-C again: wait only a moment for each node before it is killed."""
        self._patience = min(self._patience, 0.5)

    def _stop_together(self, nodes: list[_Node], while_waiting: Callable[[], None] | None) -> list[str]:
        """Names of those that had to be killed."""
        alive = {node.spec.name: node.process for node in nodes if node.process is not None}
        for number, limit in ((signal.SIGINT, None), (signal.SIGTERM, TERMINATE_PATIENCE)):
            for process in alive.values():
                process.send_signal(number)
            begun = time.monotonic()
            # `hurry` may shorten the patience while we wait.
            while alive and time.monotonic() - begun < min(limit or self._patience, self._patience):
                alive = {name: process for name, process in alive.items() if process.poll() is None}
                if alive and while_waiting is not None:
                    while_waiting()
                time.sleep(0.02 if alive else 0.0)
        for process in alive.values():
            process.kill()
            process.wait()
        for node in nodes:
            if node.process is not None:
                self._tell_reaper("forget", node.process.pid)
            node.process = node.start_at = None
        return list(alive)

    def _close_reaper(self) -> None:
        if self._reaper is None:
            return
        if self._reaper.stdin is not None:
            self._reaper.stdin.close()
        self._reaper.wait()
        self._reaper = None


def installed_executable(spec: NodeSpec) -> Path:
    """The file `lib/simpl/<executable>` of the installed ROS workspace.

    Raises:
        EnvironmentMissingError: the workspace is not built.
    """
    return _installed(Path("lib") / "simpl" / spec.executable)


def installed_share() -> Path:
    """The folder `share/simpl` of the installed ROS workspace, with configuration and launch files.

    Raises:
        EnvironmentMissingError: the workspace is not built.
    """
    return _installed(Path("share") / "simpl")


def _installed(relative: Path) -> Path:
    # A distribution and its overlays name their prefixes; the wheels' workspace is installed into this environment.
    named = [Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    prefixes = [*named, Path(sys.prefix)]
    for prefix in prefixes:
        if (prefix / relative).exists():
            return prefix / relative
    raise EnvironmentMissingError(
        f"the ROS workspace is not built: no {relative} below {', '.join(map(str, prefixes))}; run `make ros`"
    )


def log_tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last `lines` lines of a log file; empty when there is none."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 200 * lines))
        return "\n".join(file.read().decode("utf-8", errors="replace").splitlines()[-lines:])
