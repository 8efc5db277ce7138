"""`simpl audit RUN`: was anything lost, stored twice or made up on the way from the plant to the learner?"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from simpl.core.audit import Audit, audit_run

SAYS = {
    "stream": {
        "journal": "transitions in the robot's journal",
        "store": "of them in the learner's store",
        "pending": "still to be sent: not acknowledged yet",
        "overtaken": "came after a later one (the learner orders them by step)",
        "lost": "acknowledged, yet not in the store",
        "twice": "in the journal or the store twice",
        "altered": "not the same in both, byte for byte",
        "unknown": "in the store, but never in the journal",
        "gaps": "numbers that the journal skips",
    },
    "plant": {
        "records": "records of the plant",
        "commands": "commands that moved the arm, by its own record",
        "matched": "of them stored, the same to the last bit and in order",
        "unheard": "outside of stored episodes: tails of given-up ones, ways home",
        "overtaken": "stored as overtaken by a newer action, never executed",
        "resting": "stored as a stop by the guard, before anything had moved the arm",
        "uncovered": "stored, from times without a record of the plant",
        "lost": "executed within a stored episode, yet not stored",
        "invented": "stored as executed, yet the plant did not",
    },
    "buffer": {
        "complete": "complete episodes to learn from in the store",
        "given_up": "episodes without an end, which nobody learns from",
        "learned": "episodes in the learner's buffer",
        "twice": "learned from twice",
        "unfounded": "learned from, but not complete in the store",
    },
}
"""What each number means to people; those that must be 0 come last."""


@dataclass(frozen=True)
class AuditSettings:
    """Compare the plant's own record, the robot's journal and the learner's store of a run.

    Example: simpl audit runs/adapt/2026-01-31_12-00-00
    """

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the run, finished or not."""
    json: bool = False
    """Print JSON instead of a table."""

    def run(self) -> int:
        """Do it; the process's exit status."""
        return run_audit(self)


def run_audit(settings: AuditSettings, console: Console | None = None) -> int:
    """Audit a run; 0 when nothing was lost, stored twice or made up, else 1.

    Raises:
        SimplError: `settings.folder` holds no run, or one that cannot be read.
    """
    console = console or Console()
    audit = audit_run(settings.folder)
    if settings.json:
        console.print_json(json.dumps(audit.document()))
    else:
        console.print(audit_table(audit))
        console.print("clean" if audit.clean else "NOT clean", style="green" if audit.clean else "bold red")
    return 0 if audit.clean else 1


def audit_table(audit: Audit) -> Table:
    """All numbers, with what they mean."""
    table = Table("what", "", "number", title="audit")
    for part, texts in SAYS.items():
        counts = getattr(audit, part)
        for name, text in texts.items():
            number = getattr(counts, name)
            wrong = name in counts.FAULTS and number
            table.add_row(part, text, str(number), style="bold red" if wrong else "")
        table.add_section()
    if not audit.plant.records:
        table.caption = "this plant keeps no record of its own; the stream is judged alone"
    return table
