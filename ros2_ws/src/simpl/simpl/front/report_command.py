"""`simpl report RUN`: picture, video and table of a finished run, made again from its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from simpl.front.results import make_results


@dataclass(frozen=True)
class ReportSettings:
    """Make picture, video and table of a run again from its folder."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the run, e.g. runs/adapt/2026-01-31_12-00-00."""
    video: bool = True
    """Render the best episode to a video."""

    def run(self) -> int:
        """Do it; the process's exit status."""
        return run_report(self)


def run_report(settings: ReportSettings, console: Console | None = None) -> int:
    """Make everything again; 0 when there was a report to read.

    Raises:
        ReportError: `settings.folder` is no folder of a finished run.
    """
    make_results(settings.folder, console or Console(), settings.video)
    return 0
