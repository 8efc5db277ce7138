"""The table at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from simpl.front.run_report import PHASE_TITLES, RunReport
from simpl.front.screen import clock, short, sparkline


def summary(report: RunReport, files: Sequence[Path]) -> RenderableType:
    """What a run achieved, how its parts fared, and where its results lie."""
    table = Table(title=str(report.task), title_justify="left", title_style="bold")
    for column in ("phase", "episodes", "subtasks, mean", f"all {len(report.task)} done", "each episode"):
        table.add_column(column, justify="left" if column in ("phase", "each episode") else "right")
    most = len(report.task)
    for phase, title in PHASE_TITLES.items():
        scores = report.scores[phase]
        if scores:
            solved = f"{sum(score >= most for score in scores) / len(scores):.0%}"
            table.add_row(title, str(len(scores)), f"{report.mean(phase):.2f}", solved, sparkline(list(scores), most))
    return Group(table, _details(report, files))


def show_summary(console: Console, report: RunReport, files: Sequence[Path]) -> None:
    """Print `summary`."""
    console.print(summary(report, files))


def _details(report: RunReport, files: Sequence[Path]) -> RenderableType:
    document, control = report.document, report.document["control"]
    details = Table.grid(padding=(0, 2))
    details.add_column(style="bold")
    details.add_column(overflow="fold")
    details.add_row("bundle", short(str(document.get("bundle_version", ""))))
    details.add_row(
        "control",
        f"{control.get('rate_hz', 0):.0f} Hz, {control.get('missed', 0)} of {control.get('ticks', 0)} ticks missed, "
        f"latency {control.get('latency_ms_p50', 0):.2f} ms (99 %: {control.get('latency_ms_p99', 0):.2f})",
    )
    sent, stored = document.get("transitions_sent", 0), document.get("transitions_stored", 0)
    lost = "none lost" if stored >= sent else Text(f"{sent - stored} not acknowledged", style="red")
    details.add_row("transitions", Text.assemble(f"{sent} sent, {stored} stored, ", lost))
    details.add_row("models", f"{document.get('model_updates', 0)} new ones accepted")
    details.add_row("time", clock(float(document.get("wall_seconds", control.get("wall_seconds", 0.0)))))
    for warning in document.get("warnings", []):
        details.add_row("warning", Text(str(warning), style="yellow"))
    for index, path in enumerate(files):
        details.add_row("results" if index == 0 else "", Text(str(path), no_wrap=True))
    return details
