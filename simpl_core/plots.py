"""Pictures of results: learning curves with the standard error over runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

SMOOTHING = 5
"""Episodes in the running mean of a curve."""


def smoothed(scores: NDArray[np.float64], window: int = SMOOTHING) -> NDArray[np.float64]:
    """Running mean over the last `window` episodes (fewer at the start): (runs, episodes) -> the same shape."""
    total = np.cumsum(np.pad(scores, ((0, 0), (1, 0))), axis=1)
    ends = np.arange(1, scores.shape[1] + 1)
    begins = np.maximum(ends - window, 0)
    averages: NDArray[np.float64] = (total[:, ends] - total[:, begins]) / (ends - begins)
    return averages


def learning_curves(
    curves: Mapping[str, NDArray[np.float64]],
    path: Path,
    *,
    conditioning: Mapping[str, int] | None = None,
    points: Mapping[str, Mapping[int, float]] | None = None,
    label: str = "score",
) -> None:
    """Draw mean score over episodes with the standard error over runs.

    Args:
        curves: per method (runs, episodes).
        path: picture to write; the ending decides the format.
        conditioning: per method the episodes before the task is encoded; marked by a line.
        points: other people's results, per name {episode: score}.
        label: of the vertical axis.
    """
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for index, (name, scores) in enumerate(curves.items()):
        smooth = smoothed(scores)
        episodes, mean = np.arange(1, smooth.shape[1] + 1), smooth.mean(0)
        error = smooth.std(0, ddof=1) / np.sqrt(len(smooth)) if len(smooth) > 1 else np.zeros_like(mean)
        colour = matplotlib.color_sequences["tab10"][index % 10]
        axes.plot(episodes, mean, color=colour, label=f"{name} ({len(scores)} runs)")
        axes.fill_between(episodes, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
        if before := (conditioning or {}).get(name):
            axes.axvline(before, color=colour, linewidth=0.8, linestyle=":")
    for index, (name, marks) in enumerate((points or {}).items()):
        style = ("k--o", "k:s")[index % 2]
        axes.plot(list(marks), list(marks.values()), style, markersize=4, linewidth=0.8, label=name)
    axes.set(xlabel="episode", ylabel=label, ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
