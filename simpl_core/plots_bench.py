"""Picture of how speed scales."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


class Drawable(Protocol):
    """Units a second of `name` over `axis`, at each of `points`."""

    @property
    def name(self) -> str:
        """In the legend."""

    @property
    def axis(self) -> str:
        """What is varied; curves over the same share a panel."""

    @property
    def unit(self) -> str:
        """What is counted."""

    @property
    def points(self) -> Sequence[int]:
        """Where."""

    @property
    def wall(self) -> Sequence[float]:
        """Units a second."""

    @property
    def cpu(self) -> Sequence[float]:
        """Units a second of CPU time."""


def scaling_picture(curves: Sequence[Drawable], path: Path) -> None:
    """Draw `curves`, one panel for each thing that is varied; lines are wall time, dotted ones CPU time."""
    axes = list(dict.fromkeys(curve.axis for curve in curves))
    figure = Figure(figsize=(4.6 * len(axes), 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    for panel, axis in zip(figure.subplots(1, len(axes), squeeze=False)[0], axes, strict=True):
        for curve in (curve for curve in curves if curve.axis == axis):
            (line,) = panel.plot(curve.points, curve.wall, marker="o", markersize=4, label=curve.name)
            panel.plot(curve.points, curve.cpu, color=line.get_color(), linestyle=":", linewidth=1.2)
            panel.set(ylabel=f"{curve.unit} a second (dotted: a CPU second)")
        panel.set(xlabel=axis, xscale="log", yscale="log")
        panel.set_xticks(sorted({point for curve in curves if curve.axis == axis for point in curve.points}))
        panel.get_xaxis().set_major_formatter("{x:g}")
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        panel.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
