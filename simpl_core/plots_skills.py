"""Picture of what phase 1 can do: achievements of demonstrations, of their replays and of the skill prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def achievement_bars(
    names: Sequence[str], groups: Mapping[str, Mapping[str, tuple[float, float | None]]], path: Path, title: str = ""
) -> None:
    """Draw a group of bars for each of `names`.

    Args:
        names: what can be achieved.
        groups: per kind of episode, per name: the fraction of episodes and its standard error, if known.
        path: picture to write; the ending decides the format.
        title: above it.
    """
    figure = Figure(figsize=(1.5 + 1.1 * len(names), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    width = 0.8 / len(groups)
    for number, (kind, rates) in enumerate(groups.items()):
        heights, errors = zip(*((rates[name][0], rates[name][1] or 0.0) for name in names), strict=True)
        places = np.arange(len(names)) + (number - (len(groups) - 1) / 2) * width
        axes.bar(places, heights, width, yerr=errors, capsize=2, label=kind)
    axes.set_xticks(np.arange(len(names)), names, rotation=20, ha="right")
    axes.set(ylabel="fraction of episodes", ylim=(0, 1.18), yticks=np.linspace(0, 1, 6))
    axes.set_title(title, fontsize=9)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="upper center", ncols=len(groups))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
