"""Pictures of a maze: walls, goals and where the ball went, as in Figures 5, 9 and 12 of the SiMPL paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray


def maze_picture(
    walls: NDArray[np.bool_],
    path: Path,
    *,
    trajectories: Sequence[ArrayLike] = (),
    goals: Mapping[str, ArrayLike] | None = None,
    start: tuple[float, float] | None = None,
    title: str = "",
) -> None:
    """Draw a maze from above, x to the right and y up.

    Args:
        walls: (n, n), by x and y; cell (i, j) is the unit square around (i, j).
        path: picture to write; the ending decides the format.
        trajectories: positions (T, 2), drawn as lines.
        goals: per name (k, 2), drawn as dots of one colour.
        start: drawn as a cross.
        title: above it.
    """
    figure = Figure(figsize=(5.0, 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(walls.T, cmap="Greys", vmin=0.0, vmax=1.8, origin="lower")
    strength = min(0.6, max(0.12, 12.0 / (len(trajectories) + 1)))
    for trajectory in trajectories:
        axes.plot(*np.asarray(trajectory).T, color="royalblue", alpha=strength, linewidth=1.0)
    colours = matplotlib.color_sequences["tab10"]
    for index, (name, cells) in enumerate((goals or {}).items()):
        x, y = np.reshape(np.asarray(cells, np.float64), (-1, 2)).T
        axes.scatter(x, y, s=36, color=colours[(2, 3, 1, 4)[index % 4]], label=f"{name} ({len(x)})", zorder=3)
    if start is not None:
        axes.scatter(*start, marker="x", s=60, color="gold", linewidths=2.5, zorder=4, label="start")
    if goals or start is not None:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=3, frameon=False, fontsize=8)
    axes.set(xticks=(), yticks=(), xlim=(-0.5, len(walls) - 0.5), ylim=(-0.5, len(walls) - 0.5))
    axes.set_title(title, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
