"""One writer for what training measures: metrics.csv, TensorBoard, and the bar that a person watches."""

from __future__ import annotations

import csv
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch.utils.tensorboard import SummaryWriter

LOG_PERIOD = 30.0
"""Between two lines of progress where there is no terminal [s]."""


class MetricsWriter:
    """Appends rows `step, name, value` to `metrics.csv` in a run's folder and to TensorBoard event files.

    Long format, so that the set of names may grow; a resumed run drops the rows past its checkpoint.
    """

    def __init__(self, folder: Path, resume_step: int = 0) -> None:
        """Open for appending; rows with a step above `resume_step` are dropped."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "metrics.csv"
        self._truncate(resume_step)
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step + 1)

    def _truncate(self, resume_step: int) -> None:
        rows = []
        if self._path.exists():
            with self._path.open(newline="") as file:
                rows = [row for row in csv.reader(file) if row and row[0].isdigit() and int(row[0]) <= resume_step]
        with self._path.open("w", newline="") as file:
            csv.writer(file).writerows([["step", "name", "value"], *rows])

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record `values` at `step`."""
        with self._path.open("a", newline="") as file:
            csv.writer(file).writerows([step, name, f"{value:.6g}"] for name, value in values.items())
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush TensorBoard's file."""
        self._events.close()


def peak_memory() -> float:
    """Largest resident set of this process so far [MiB]."""
    units = 2**20 if sys.platform == "darwin" else 2**10  # getrusage(2) of each
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / units


class Bar:
    """Progress that a person can follow: a bar with remaining time on a terminal, a line now and then in a log."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        """Wrap one task of a rich progress display."""
        self._progress, self._task = progress, task
        self._spoken = time.monotonic()

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Move on by `steps`; a `note` replaces the one beside the bar."""
        self._progress.update(self._task, advance=steps)
        if note is not None:
            self._progress.update(self._task, note=note)
        if not self._progress.console.is_terminal and time.monotonic() - self._spoken > LOG_PERIOD:
            self._spoken = time.monotonic()
            self._progress.console.print(self._line(), soft_wrap=True)

    def _line(self) -> str:
        task = self._progress.tasks[self._task]
        left = "?" if task.time_remaining is None else timedelta(seconds=int(task.time_remaining))
        return f"{task.description}: {task.completed:.0f} of {task.total:.0f}, {left} left  {task.fields['note']}"


@contextmanager
def progress_bar(total: int, description: str, done: int = 0) -> Iterator[Bar]:
    """A bar over `total` steps of which `done` are behind us; on standard error, so output can be piped."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    # A step may take a minute: the time left is reckoned from the last ten.
    console = Console(stderr=True)
    with Progress(*columns, console=console, refresh_per_second=2, speed_estimate_period=600) as progress:
        yield Bar(progress, progress.add_task(description, total=total, completed=done, note=""))
