"""`simpl plot`: pictures of a run of phase 2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional


@dataclass(frozen=True)
class Plot:
    """Draw a run of phase 2, finished or under way: returns of each task, losses and weights, task embeddings.

    returns.png: each task's return over epochs, with e from the prior and from the posterior. statistics.png: both
    divergences of the policy and of the encoder with their weights, Q, time. embeddings.png: q(e | c) of each training
    task in the plane in which the tasks differ most. `simpl train meta` leaves the same pictures in its folder.

    Example: simpl plot runs/meta
    """

    run_folder: Positional[Path]
    """Run folder of phase 2."""
    out: Path | None = None
    """Folder for the pictures. None: the run's."""

    def run(self) -> int:
        from simpl_core.training_report import draw

        written = draw(self.run_folder, self.out or self.run_folder)
        print("\n".join(map(str, written)))
        return 0
