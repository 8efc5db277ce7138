"""`simpl bench stream`: our transition stream beside two common designs, all through the same outages."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from simpl_core.errors import ConfigError

if TYPE_CHECKING:
    from simpl.front.stream_outage import Design, Outages, Tally


@dataclass(frozen=True)
class BenchStream:
    """What is lost between robot and learner when the learner is killed, the network cut, the robot's process killed.

    All over the loopback. Exit code 1 if our own stream lost more than the step under way at the kill, or doubled any.

    Example: simpl bench stream --outage 10
    """

    outage: float = 10.0
    """How long learner and network are away, and the time between two outages [s]."""
    rate: float = 12.5
    """Of control [Hz]."""
    json: bool = False
    """Print JSON instead of a table."""

    def run(self) -> int:
        """Do it; the process's exit status."""
        return run_bench_stream(self)


def designs() -> list[Design]:
    """Ours first.

    Raises:
        EnvironmentMissingError: this is no checkout, so the others are not there.
    """
    from simpl.front.stream_journal import JournalLearner, JournalRobot
    from simpl.front.stream_outage import Design
    from simpl_core.bench import load_baseline

    others = load_baseline("streams")
    return [
        Design("ours: journal and acknowledgements", JournalRobot, JournalLearner),
        Design("agentlace's: queue, request and reply", others.AgentlaceRobot, others.AgentlaceLearner),
        Design("LeRobot's: queue, one streaming call", others.LeRobotRobot, others.LeRobotLearner),
        Design("LeRobot's, calling again", others.PatientLeRobotRobot, others.LeRobotLearner),
    ]


def run_bench_stream(settings: BenchStream, console: Console | None = None) -> int:
    """Play and print; 1 if our own stream lost or doubled something.

    Raises:
        SimplError: no time, no rate, or no checkout.
    """
    console = console or Console()
    for name in ("outage", "rate"):
        if not getattr(settings, name) > 0.0:
            raise ConfigError(f"--{name} is {getattr(settings, name):g}; it must be more than 0")
    from simpl.front.stream_outage import Outages, play

    away = settings.outage
    outages = Outages(learner_dead=away, cut=away, robot_dead=0.3 * away, between=away, rate=settings.rate)
    found: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory(prefix="simpl-stream-") as folder:
        for number, design in enumerate(designs()):
            found[design.name] = play(design, outages, Path(folder) / str(number))
    if settings.json:
        plain = {name: dataclasses.asdict(tally) for name, tally in found.items()}
        console.print_json(json.dumps({"outages": dataclasses.asdict(outages), "designs": plain}))
    else:
        console.print(_table(found, outages))
    ours = next(iter(found.values()))
    return int(ours.lost > 1 or ours.duplicated > 0)


def _table(found: dict[str, Tally], outages: Outages) -> Table:
    title = (
        f"learner killed for {outages.learner_dead:g} s, network cut for {outages.cut:g} s, "
        f"robot's process killed for {outages.robot_dead:g} s, at {outages.rate:g} Hz"
    )
    table = Table("", "made", "stored", "lost", "duplicated", "control blocked", "late steps", title=title, box=None)
    for name, one in found.items():
        counts = map(str, (one.made, one.stored, one.lost, one.duplicated))
        table.add_row(name, *counts, f"{1e3 * one.blocked:.1f} ms", str(one.late))
    return table
