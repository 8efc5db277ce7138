"""Turns a run's folder into what people look at: picture, video, table."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from simpl.front.run_report import BEST_EPISODE, LEARNING_CURVE, REPORT, RunReport, load_report
from simpl.front.summary import show_summary
from simpl_core.errors import EnvironmentMissingError, SimplError


def say(console: Console, text: str, style: str = "") -> None:
    """A line as it is: no wrapping, no colours of rich's own, no markup in a path mistaken for a style."""
    console.print(Text(text, style=style), soft_wrap=True)


def make_results(run_folder: Path, console: Console, video: bool) -> RunReport:
    """Draw the learning curve, render the best episode, and print the table.

    What cannot be made is said and does not keep the rest from being made.

    Args:
        run_folder: of a run with report.json.
        console: for the table.
        video: whether to render the video.

    Raises:
        ReportError: there is no readable report.
    """
    report = load_report(run_folder)
    files = [run_folder / REPORT]
    try:
        files.append(_draw(report, run_folder / LEARNING_CURVE))
    except SimplError as error:
        say(console, f"no learning curve: {error}", "yellow")
    if video:
        try:
            files.append(_render(report, run_folder / BEST_EPISODE, console))
        except SimplError as error:
            say(console, f"no video: {error}", "yellow")
    show_summary(console, report, files)
    return report


def _draw(report: RunReport, path: Path) -> Path:
    try:
        from simpl.front.pictures import draw_learning_curve
    except ModuleNotFoundError as error:
        raise EnvironmentMissingError(f"{error}; a robot needs none, elsewhere: pip install matplotlib") from error
    return draw_learning_curve(report, path)


def _render(report: RunReport, path: Path, console: Console) -> Path:
    from simpl.front.pictures import render_best_episode

    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("video of the best episode", total=None)
        return render_best_episode(report, path, lambda done, total: progress.update(bar, completed=done, total=total))
