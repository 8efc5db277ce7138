"""Pictures of meta-training: returns of each task, losses and their weights, task embeddings in a plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simpl_core.plots import smoothed

Series = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Epochs (n,) and values (n,)."""

SMOOTHING = 10
"""Epochs in the running mean of returns, of which an epoch has one a task."""

PANELS: Mapping[str, tuple[str, ...]] = {
    "KL of the policy to the skill prior [nat]": ("policy/kl_small", "policy/kl_large"),
    "weights of that KL, alpha": ("policy/alpha_1", "policy/alpha_2"),
    "scale of the policy": ("policy/scale",),
    "KL of the encoder, q(e | c) to N(0, I) [nat]": ("encoder/kl_small", "encoder/kl_large"),
    "weights of the encoder's KL": ("encoder/weight_small", "encoder/weight_large"),
    "scale of q(e | c)": ("encoder/scale_large",),
    "Q: mean and spread of targets": ("critic/value", "critic/target_spread"),
    "critics' loss": ("critic/loss",),
    "seconds an epoch": ("seconds/rollout", "seconds/gradient"),
}
"""Title of a panel -> metrics in it."""


class Plane(NamedTuple):
    """The two `directions` (2, E) of largest variance, from `centre` (E,); `held` is their fraction of it."""

    centre: NDArray[np.float64]
    directions: NDArray[np.float64]
    held: float

    def project(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points (..., E) -> (..., 2)."""
        flat: NDArray[np.float64] = (points - self.centre) @ self.directions.T
        return flat


def principal_plane(points: NDArray[np.float64]) -> Plane:
    """Principal components of `points` (n, E); directions that do not exist (E or n too small) are zero."""
    centre = points.mean(0)
    _, singular, directions = np.linalg.svd(points - centre, full_matrices=False)
    two = np.zeros((2, points.shape[1]))
    two[: len(directions[:2])] = directions[:2]
    variance = singular**2
    return Plane(centre, two, float(variance[:2].sum() / max(variance.sum(), np.finfo(float).tiny)))


def embedding_picture(
    means: NDArray[np.float64], samples: NDArray[np.float64], tasks: Sequence[str], path: Path, title: str = ""
) -> None:
    """Draw q(e | c) of each task, projected on the plane in which the tasks' means differ most.

    Args:
        means: of the posterior, for several contexts of each task: (T, C, E).
        samples: of the same posteriors: (T, C, E).
        tasks: names (T,).
        path: picture to write; the ending decides the format.
        title: above it.
    """
    plane = principal_plane(means.mean(1))
    mean_xy, sample_xy, count = plane.project(means), plane.project(samples), len(tasks)
    figure = Figure(figsize=(9.5, max(4.5, 0.22 * count + 1.0)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for index, name in enumerate(tasks):
        colour, mark = matplotlib.color_sequences["tab20"][index % 20], "os^Dv"[index // 20 % 5]
        x, y = sample_xy[index].T
        axes.scatter(x, y, s=9, color=colour, marker=mark, alpha=0.35, linewidths=0)
        x, y = mean_xy[index].T
        axes.scatter(x, y, s=30, color=colour, marker=mark, label=f"{index} {name}")
        axes.annotate(str(index), mean_xy[index].mean(0), xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set(xlabel="first principal direction of e", ylabel="second", aspect="equal")
    axes.set_title(
        f"{title}\nlarge: means of q(e | c), small: samples; the plane holds {plane.held:.0%} of the tasks' variance"
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False, fontsize=7)
    _save(figure, path)


def return_picture(before: Mapping[str, Series], after: Mapping[str, Series], path: Path, title: str = "") -> None:
    """Draw each task's return over epochs, with e from the prior and from the posterior, and their means.

    Args:
        before: per task, e ~ N(0, I).
        after: the same tasks, e ~ q(e | c).
        path: picture to write.
        title: above it.
    """
    names = list(before)
    kinds = {"e from the prior": before, "e from the posterior": after}
    tables = {kind: smoothed(np.stack([found[name][1] for name in names]), SMOOTHING) for kind, found in kinds.items()}
    epochs = before[names[0]][0]
    figure = Figure(figsize=(13.0, max(4.0, 0.2 * len(names) + 1.2)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3, width_ratios=(1.0, 1.0, 0.9))
    extent = (epochs[0] - 0.5, epochs[-1] + 0.5, len(names) - 0.5, -0.5)
    top = max(float(table.max()) for table in tables.values()) or 1.0
    for index, (kind, table) in enumerate(tables.items()):
        image = panels[index].imshow(table, aspect="auto", vmin=0.0, vmax=top, extent=extent, interpolation="nearest")
        panels[index].set(title=kind, xlabel="epoch", yticks=range(len(names)))
        panels[index].set_yticklabels(names if index == 0 else [], fontsize=7)
        panels[2].plot(epochs, table.mean(0), label=kind)
    figure.colorbar(image, ax=panels[1], label=f"return, mean of the last {SMOOTHING} epochs")
    panels[2].set(title="mean over tasks", xlabel="epoch", ylim=(0.0, None))
    panels[2].grid(alpha=0.3)
    panels[2].legend(frameon=False)
    figure.suptitle(title)
    _save(figure, path)


def statistics_picture(metrics: Mapping[str, Series], path: Path, title: str = "") -> None:
    """Draw `PANELS`, as far as they were measured."""
    figure = Figure(figsize=(13.0, 8.0), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (heading, names) in zip(figure.subplots(3, 3).flat, PANELS.items(), strict=True):
        for name in names:
            if name in metrics:
                axes.plot(*metrics[name], label=name.partition("/")[2].replace("_", " "))
        axes.set_title(heading, fontsize=10)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(frameon=False, fontsize=8)
    figure.suptitle(title)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
