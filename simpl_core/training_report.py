"""What a run of phase 2 looks like, drawn from its folder alone: while it trains, or later."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from simpl_core.buffer import ReplayBuffer, RowLayout, sample_contexts
from simpl_core.config import MetaConfig, from_dict
from simpl_core.errors import CheckpointError
from simpl_core.learner import part
from simpl_core.networks import TaskEncoder
from simpl_core.plots_training import Series, embedding_picture, return_picture, statistics_picture
from simpl_core.resume import STATE, read_resume

CONTEXTS = 4
"""Contexts of each task that are encoded."""


class Posteriors(NamedTuple):
    """q(e | c) of several contexts of each task: means and samples (T, C, E)."""

    means: NDArray[np.float64]
    samples: NDArray[np.float64]


@torch.no_grad()
def task_posteriors(encoder: TaskEncoder, contexts: ReplayBuffer, config: MetaConfig, layout: RowLayout) -> Posteriors:
    """Encode contexts as large as in training, drawn anew from `contexts`, whose rows are laid out as `layout` says."""
    generator, sizes = torch.Generator().manual_seed(0), (config.context_large, config.context_kept)
    means, samples = [], []
    for task in range(contexts.sizes.numel()):
        tasks = torch.full((CONTEXTS,), task)
        posterior = encoder(sample_contexts(contexts, tasks, sizes, layout, generator))
        means.append(posterior.mean.double().numpy())
        samples.append(posterior.sample(torch.randn(posterior.mean.shape, generator=generator)).double().numpy())
    return Posteriors(np.stack(means), np.stack(samples))


def read_metrics(path: Path) -> dict[str, Series]:
    """Epochs and values by name.

    Raises:
        CheckpointError: the file is missing or no `step,name,value`.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    try:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                found.setdefault(row["name"], []).append((float(row["step"]), float(row["value"])))
    except (OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is no file of metrics with step,name,value: {error!r}") from error
    return {name: (column[:, 0], column[:, 1]) for name, column in ((n, np.array(rows)) for n, rows in found.items())}


def draw(run: Path, out: Path) -> list[Path]:
    """Write returns.png, statistics.png and embeddings.png of the run in `run` into `out`; returns what was written.

    The last needs contexts, which a run's resumable state holds: it shows the run as it was when that was saved, and is
    left out where there is none.

    Raises:
        CheckpointError: no run of phase 2 with at least one epoch.
    """
    metrics = read_metrics(run / "metrics.csv")
    before, after = (_by_task(metrics, f"return_{kind}/") for kind in ("prior", "posterior"))
    if not before or before.keys() != after.keys():
        raise CheckpointError(f"{run / 'metrics.csv'} holds no returns of tasks: it is not of a run of phase 2")
    written = [out / "returns.png", out / "statistics.png"]
    title = f"{run.name}: {int(next(iter(before.values()))[0][-1])} epochs"
    return_picture(before, after, written[0], title)
    statistics_picture(metrics, written[1], title)
    if (run / STATE).is_file():
        written.append(out / "embeddings.png")
        _draw_embeddings(run, written[-1])
    return written


def _draw_embeddings(run: Path, path: Path) -> None:
    identity, state = read_resume(run / STATE)
    if identity.get("stage") != "meta":
        raise CheckpointError(f"{run / STATE} is not of a run of phase 2")
    config = from_dict(MetaConfig, identity["meta"])
    kept, width = state["contexts.rows"], state["replay.rows"].shape[2]
    tasks, capacity, context_width = kept.shape
    z_dim = (width - context_width) // 4
    layout = RowLayout((context_width - z_dim - 2) // 2, z_dim)
    encoder = TaskEncoder(layout.state_dim, layout.z_dim, config.e_dim, config.encoder_hidden)
    encoder.load_state_dict(part("task_encoder", state))
    contexts = ReplayBuffer(tasks, max(capacity, config.encoder_buffer_size), context_width)
    contexts.load_state_dict(part("contexts", state))
    found = task_posteriors(encoder.eval(), contexts, config, layout)
    title = f"{run.name}: {int(state['progress'][0])} epochs"
    embedding_picture(found.means, found.samples, identity["tasks"], path, title)


def _by_task(metrics: Mapping[str, Series], prefix: str) -> dict[str, Series]:
    return {name.removeprefix(prefix): series for name, series in metrics.items() if name.startswith(prefix)}
