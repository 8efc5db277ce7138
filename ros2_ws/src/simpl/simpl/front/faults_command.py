"""`simpl faults`: does to real graphs what must not harm them, and says what became of it."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from simpl import runtime_env
from simpl.faults.scenario import FAIL, LATE, LEFT_OUT, PASS, Outcome, Scenario
from simpl.front.preflight import check_ros
from simpl_core.errors import ConfigError

_STYLES = {PASS: "green", LATE: "yellow", FAIL: "bold red", LEFT_OUT: "dim"}


@dataclass(frozen=True)
class FaultsSettings:
    """Play faults on real node graphs with the simulated arm: killed processes, full disks, broken sensors, networks.

    Example: simpl faults --only policy_sigkill guard_sigkill
    """

    only: tuple[str, ...] = ()
    """Names of scenarios; all but those of endurance when none is given."""
    quick: bool = False
    """Only the short set."""
    endurance: bool = False
    """Only the scenarios that take many minutes each: fifty kills, a thousand swaps, a million hostile actions."""
    portion: float = 1.0
    """Of those kills, minutes, swaps and actions so large a part."""
    list: bool = False
    """List the scenarios and play none."""
    json: bool = False
    """Print JSON instead of a table."""
    out: Path | None = None
    """Folder for logs, journals and records of each scenario; a temporary one, removed afterwards, when not given."""

    def run(self) -> int:
        """Play them; the process's exit status."""
        return run_faults(self)


def run_faults(settings: FaultsSettings, console: Console | None = None) -> int:
    """Play them; 0 when the graph did what is expected each time, and in time, else 1; 130 after Ctrl-C.

    Raises:
        ConfigError: a name is no scenario's, or the portion is none. EnvironmentMissingError: there is no ROS here.
    """
    console = console or Console()
    runtime_env.prepare()
    check_ros()
    chosen = _choose(settings)
    if settings.list:
        _show_list(chosen, settings, console)
        return 0
    outcomes: list[Outcome] = []
    interrupted = False
    with tempfile.TemporaryDirectory(prefix="simpl-faults-") as temporary:
        folder = (settings.out or Path(temporary)).absolute()
        try:
            _play(chosen, folder, outcomes, console, settings)
        except KeyboardInterrupt:
            interrupted = True
    if settings.json:
        console.print_json(json.dumps([outcome.document() for outcome in outcomes]))
    else:
        console.print(outcomes_table(outcomes))
        _tell_failures(outcomes, console)
    return 130 if interrupted else int(any(one.verdict in (FAIL, LATE) for one in outcomes))


def outcomes_table(outcomes: Sequence[Outcome]) -> Table:
    """A row for each."""
    table = Table("scenario", "expected", "seen", "time to zero", "lost", "duplicated", "", title="faults")
    for one in outcomes:
        bound = f" (of {one.within:g} s)" if one.within is not None else ""
        zero = "" if one.time_to_zero is None else f"{one.time_to_zero:.3f} s{bound}"
        numbers = ("" if number is None else str(number) for number in (one.lost, one.duplicated))
        seen = one.left_out or one.seen.strip().rpartition("\n")[2]
        seen += "".join(f"\n{name.replace('_', ' ')} {value:.6g}" for name, value in one.figures.items())
        table.add_row(one.name, one.expected, seen, zero, *numbers, one.verdict, style=_STYLES[one.verdict])
    return table


def _choose(settings: FaultsSettings) -> list[Scenario]:
    from simpl.faults.catalogue import SCENARIOS  # loads ROS

    unknown = [name for name in settings.only if name not in SCENARIOS]
    if unknown:
        raise ConfigError(f"no scenario {unknown[0]!r}; there are {', '.join(SCENARIOS)}")
    if not 0.0 < settings.portion <= 1.0:
        raise ConfigError(f"--portion is {settings.portion:g}; it must be more than 0, and at most 1")
    if settings.only:
        return [SCENARIOS[name] for name in settings.only]
    wanted = [one for one in SCENARIOS.values() if one.endurance == settings.endurance or settings.list]
    return [one for one in wanted if one.quick or not settings.quick]


def _play(
    chosen: Sequence[Scenario], folder: Path, outcomes: list[Outcome], console: Console, settings: FaultsSettings
) -> None:
    from simpl.faults.runner import play_apart

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True) if settings.json else console, transient=True) as bar:
        task = bar.add_task("", total=len(chosen))
        for number, one in enumerate(chosen):
            bar.update(task, description=one.name)
            place = folder / f"{number:02d}_{one.name}_{time.strftime('%H%M%S')}"
            outcomes.append(play_apart(one, place, settings.portion))
            bar.advance(task)


def _show_list(chosen: Sequence[Scenario], settings: FaultsSettings, console: Console) -> None:
    if settings.json:
        rows = [{key: value for key, value in vars(one).items() if key not in ("play", "needs")} for one in chosen]
        console.print_json(json.dumps(rows))
        return
    table = Table("scenario", "fault", "expected", "zeros within", "set")
    for one in chosen:
        within = "" if one.within is None else f"{one.within:g} s"
        table.add_row(
            one.name, one.fault, one.expected, within, "short" if one.quick else "endurance" if one.endurance else ""
        )
    console.print(table)


def _tell_failures(outcomes: Sequence[Outcome], console: Console) -> None:
    for one in outcomes:
        if one.verdict == FAIL:
            console.print(f"[bold red]{one.name}[/]: {one.fault}")
            console.print(f"{one.seen}\n{one.tail}", markup=False, highlight=False)
    counts = [f"{sum(one.verdict == kind for one in outcomes)} {kind}" for kind in (PASS, LATE, FAIL, LEFT_OUT)]
    console.print(", ".join(counts))
