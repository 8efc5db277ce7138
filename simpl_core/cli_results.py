"""`simpl results`: statistics and pictures of evaluations."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional


@dataclass(frozen=True)
class Results:
    """Mean scores of evaluations at milestones, with intervals; curves beside the paper's.

    Milestones are episodes 20-25, 50, 100 and 200. Reads every <domain>_<method>.csv in a folder, such as
    docs/results/kitchen_simpl.csv. Needs the extra `stats`.

    Example: simpl results docs/results --json
    """

    folder: Positional[Path] = Path("docs/results")
    """Where the scores files are."""
    json: bool = False
    """Print JSON: domain -> method -> milestone -> mean, iqm and their intervals."""
    figures: Path | None = None
    """Folder for a picture of each domain's curves."""

    def run(self) -> int:
        from simpl_core import results

        summary = results.summarise(self.folder)
        if self.json:
            plain = {
                domain: {
                    method: {name: dataclasses.asdict(value) for name, value in milestones.items()}
                    for method, milestones in methods.items()
                }
                for domain, methods in summary.items()
            }
            print(json.dumps(plain, indent=2))
        else:
            print("\n".join(results.describe(summary)))
        if self.figures is not None:
            results.draw(self.folder, self.figures)
        return 0
