"""`simpl adapt`: checks, starts the node graph, shows it, stops it, and presents the results."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from simpl import runtime_env
from simpl.front.preflight import Ready, check_ros, preflight
from simpl.front.progress import Progress
from simpl.front.results import make_results, say
from simpl.front.run_report import REPORT, load_report
from simpl.front.screen import Screen, make_screen, short
from simpl.front.supervisor import NodeDeath, Supervisor, log_tail
from simpl.graph import AdaptSettings

OK, FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
POLL_PERIOD = 0.2
"""How often processes and messages are looked at [s]."""


class _Interrupts:
    """Counts requests to stop."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, *_: object) -> None:
        self.count += 1


def run_adapt(settings: AdaptSettings, console: Console | None = None) -> int:
    """Run an adaptation from the first check to the last picture. Call from the main thread.

    Args:
        settings: what the user asked for.
        console: where to show it; standard output by default.

    Returns:
        Exit status: 0, 1 when a node failed, 2 when it refused what it was given, 130 after Ctrl-C (the arm has
        been stopped).

    Raises:
        SimplError: something was wrong before the start.
    """
    console = console or Console()
    runtime_env.prepare()
    check_ros()
    with console.status("checking bundle, workspace, disk and network"):
        ready = preflight(settings)
    os.environ["ROS_DOMAIN_ID"] = str(ready.domain_id)
    _announce(console, settings, ready)
    status = _run_graph(settings, ready, console)
    if status in (FAILED, USER_ERROR):
        return status
    try:
        if (ready.run_folder / REPORT).exists() and any(load_report(ready.run_folder).scores.values()):
            make_results(ready.run_folder, console, ready.video and status == OK)
    except KeyboardInterrupt:
        say(console, f"stopped; to make the rest: simpl report {ready.run_folder}")
        return INTERRUPTED
    if status == INTERRUPTED:
        say(console, f"interrupted; with --out {ready.run_folder} the same command goes on from here")
    return status


def _announce(console: Console, settings: AdaptSettings, ready: Ready) -> None:
    say(console, f"task     {settings.task}")
    say(console, f"bundle   {short(ready.bundle.model_version)}  {ready.bundle.folder}")
    say(console, f"results  {ready.run_folder}")
    for note in ready.notes:
        say(console, f"note     {note}", "yellow")


def _run_graph(settings: AdaptSettings, ready: Ready, console: Console) -> int:
    """Runs the nodes to their end, with a screen; the exit status."""
    from simpl.front.keys import HINT, Keys  # these load rclpy
    from simpl.front.monitor import Monitor

    progress = Progress(settings.task, settings.episodes_per_phase)
    logs = ready.run_folder / "logs"
    supervisor = Supervisor(ready.specs, logs)
    screen = make_screen(progress, console, logs)
    namespace = settings.namespace.strip("/")
    with (
        _catch_interrupts() as interrupts,
        Monitor(progress, namespace, ready.domain_id) as monitor,
        Keys() as keys,
        screen,
    ):
        progress.hint = HINT if keys.active else ""

        def look(note: str = "") -> None:
            for key in keys.pressed():
                monitor.press(key, screen.say)
            for score in monitor.poll():
                screen.episode(score)
            progress.learner.restarts = supervisor.restarts.get("learner", 0)
            screen.update(note)
            if interrupts.count > 1:
                supervisor.hurry()

        with supervisor:
            while not (interrupts.count or supervisor.run_over or supervisor.failure):
                for death in supervisor.poll():
                    _tell_death(screen, death)
                look()
                time.sleep(POLL_PERIOD)
            note = "Ctrl-C: stopping policy, arm and the rest" if interrupts.count else "stopping the nodes"
            look(note)
            killed = supervisor.stop(while_waiting=_throttled(look, note))
        look("stopped")
    for name in killed:
        say(console, f"{name} did not stop when asked and was killed; see {supervisor.log_of(name)}", "yellow")
    return _outcome(console, supervisor, progress, interrupts.count, ready.run_folder)


def _throttled(look: Callable[[str], None], note: str) -> Callable[[], None]:
    """`look` for callers who call much too often."""
    last = 0.0

    def call() -> None:
        nonlocal last
        if time.monotonic() - last > POLL_PERIOD:
            look(note)
            last = time.monotonic()

    return call


def _outcome(console: Console, supervisor: Supervisor, progress: Progress, interrupts: int, run_folder: Path) -> int:
    if interrupts:
        zeros = ", and the guard's last command was zero velocity" if progress.control.zero_at_shutdown else ""
        say(console, f"stopped by request: no node runs any more{zeros}")
        return INTERRUPTED
    if supervisor.failure is not None:
        _show_failure(console, supervisor.failure.name, supervisor.failure.cause, supervisor.failure.log)
        return USER_ERROR if supervisor.failure.returncode == USER_ERROR else FAILED
    if not (run_folder / REPORT).exists():
        _show_failure(console, "bridge", "exit without a report", supervisor.log_of("bridge"))
        return FAILED
    report = load_report(run_folder)
    if report.interrupted:  # through the service episode/stop
        say(console, f"the run ended early: {report.document.get('reason', '')}", "yellow")
        return INTERRUPTED
    return OK


def _tell_death(screen: Screen, death: NodeDeath) -> None:
    if death.respawn_in is not None:
        screen.say(f"{death.name} died ({death.cause}); starting it again in {death.respawn_in:g} s", "yellow")


def _show_failure(console: Console, name: str, cause: str, log: Path) -> None:
    say(console, f"node {name} failed ({cause}); the end of {log}:", "bold red")
    say(console, log_tail(log) or "(empty)")


@contextmanager
def _catch_interrupts() -> Iterator[_Interrupts]:
    """Turns Ctrl-C, a termination and a closed terminal into counts; the old handlers come back afterwards."""
    interrupts = _Interrupts()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupts) for number in numbers}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
