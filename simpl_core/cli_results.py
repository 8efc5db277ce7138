"""`simpl results`: statistics and pictures of evaluations."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional


@dataclass(frozen=True)
class Results:
    """Mean scores of evaluations at milestones, with intervals; curves beside the paper's.

    Milestones are episodes 20-25, 50, 100, 200, 300 and 500, each the mean over a small window around it, and
    "conditioned", the first five episodes after conditioning; those that lie past the data are left out. Reads every
    <domain>_<method>.csv in a folder, such as docs/results/kitchen_simpl.csv (kitchen_simpl-5.csv: with five
    conditioning episodes instead of 20). Needs the extra `stats`.

    Example: simpl results docs/results --json
    """

    folder: Positional[Path] = Path("docs/results")
    """Where the scores files are."""
    json: bool = False
    """Print JSON: domain -> method -> milestone -> mean, iqm, their intervals and the episodes averaged; and "curve",
    the mean score of every episode from the first on."""
    figures: Path | None = None
    """Folder for summary.json and pictures of each domain's curves: all episodes, and the first 40."""

    def run(self) -> int:
        from simpl_core import results

        summary = results.summarise(self.folder)
        text = json.dumps(results.plain(summary), indent=2)
        print(text if self.json else "\n".join(results.describe(summary)))
        if self.figures is not None:
            pictures = results.draw(self.folder, self.figures)
            (self.figures / "summary.json").write_text(text + "\n")
            print(f"pictures: {', '.join(map(str, pictures))}", file=sys.stderr)
        return 0
