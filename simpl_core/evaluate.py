"""Phase 3 measured: every task with every seed, side by side; scores per episode, summary and curve.

Resumable: a killed evaluation goes on from the last saved round to the same scores.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from simpl_core.adapt import Adaptation, adapt_in_simulation
from simpl_core.checkpoint import Models, save_tensors, write_atomically
from simpl_core.config import AdaptConfig
from simpl_core.errors import CheckpointError, ConfigError
from simpl_core.learner import keep_freed_memory, mean_metrics
from simpl_core.metrics import MetricsWriter, progress_bar
from simpl_core.plots import learning_curves
from simpl_core.provenance import provenance
from simpl_core.results import milestone_scores, read_scores
from simpl_core.resume import sole_writer
from simpl_core.rollout import SlotEnv

SCORES, SUMMARY, CURVE, STATE = "scores.csv", "summary.json", "curve.png", "state"
SAVE_EVERY = 5
"""Rounds between two resumable states on disk."""


def run(
    config: AdaptConfig,
    models: Models,
    method: str,
    env: SlotEnv,
    tasks: Sequence[Any],
    seeds: Sequence[int],
    out: Path,
) -> str:
    """Adapt to each of `tasks` with each of `seeds` and write scores.csv, summary.json and curve.png into `out`.

    Args:
        config: of phase 3.
        models: of phase 2, or of phase 1 for `spirl`.
        method: one of `adapt.METHODS`.
        env: environments to make episodes in, as many at once as it has slots.
        tasks: what `env` is reset to; `str(task)` names them.
        seeds: of noise, skills drawn and learning.
        out: folder; unfinished or finished runs of the same evaluation there are kept.

    Returns:
        The summary in a few lines.

    Raises:
        ConfigError: no task, no seed, one twice, or unknown method.
        CheckpointError: the models lack what the method needs, or `out` holds another evaluation or a process at work.
    """
    _check_distinct([str(task) for task in tasks], "task")
    _check_distinct([str(seed) for seed in seeds], "seed")
    keep_freed_memory()
    runs = [Adaptation(method, models, config, task, seed) for task in tasks for seed in seeds]
    with sole_writer(out):
        _claim(out, method, config, models)
        for adaptation in runs:
            _restore(adaptation, out)
        _adapt(env, models, runs, out)
    scores = read_scores(out / SCORES)
    means = {name: float(values.mean()) for name, values in milestone_scores(scores).items()}
    origin = provenance(
        method=method,
        adapt=dataclasses.asdict(config),
        tasks=sorted(scores.tasks),
        seeds=[int(s) for s in scores.seeds],
    )
    report = {"method": method, "means": means, **origin}
    write_atomically(out / SUMMARY, (json.dumps(report, indent=2) + "\n").encode())
    conditioning = config.conditioning_episodes if method == "simpl" else 0
    learning_curves({method: scores.runs}, out / CURVE, conditioning=conditioning)
    return describe(means, method, out)


def describe(means: Mapping[str, float], method: str, out: Path) -> str:
    """The summary for people."""
    lines = [f"{method}: mean score", *(f"  episodes {name:>6}  {value:5.2f}" for name, value in means.items())]
    return "\n".join([*lines, f"scores, summary and curve in {out}"])


def _adapt(env: SlotEnv, models: Models, runs: Sequence[Adaptation], out: Path) -> None:
    total, done = sum(run.total_episodes for run in runs), sum(len(run.scores) for run in runs)
    began = min(len(run.scores) for run in runs)
    writer = MetricsWriter(out, began)
    history: list[dict[str, torch.Tensor]] = []
    rounds = 0

    def note(_: Adaptation, metrics: dict[str, float]) -> None:
        history.append({name: torch.tensor(value) for name, value in metrics.items()})

    def after_round(episodes: int) -> None:
        nonlocal rounds
        rounds += 1
        recent = float(np.mean([run.scores[-1] for run in runs]))
        writer.write(max(len(run.scores) for run in runs), {"score": recent, **mean_metrics(history)})
        history.clear()
        bar.advance(episodes, f"score {recent:.2f}")
        if rounds % SAVE_EVERY == 0:
            _save(runs, out)

    try:
        with progress_bar(total, "adapting (episodes)", done) as bar:
            adapt_in_simulation(env, models, runs, after_round, note)
    finally:
        writer.close()
    _save(runs, out)


def _save(runs: Sequence[Adaptation], out: Path) -> None:
    for adaptation in runs:
        save_tensors(_state_path(adaptation, out), adaptation.state_dict())
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["task", "seed", "episode", "score"])
    for adaptation in runs:
        for episode, score in enumerate(adaptation.scores, 1):
            writer.writerow([str(adaptation.task), adaptation.seed, episode, f"{score:g}"])
    write_atomically(out / SCORES, table.getvalue().encode())


def _restore(adaptation: Adaptation, out: Path) -> None:
    path = _state_path(adaptation, out)
    if not path.is_file():
        return
    try:
        adaptation.load_state_dict(load_file(path))
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); remove it to start that run afresh") from error


def _state_path(adaptation: Adaptation, out: Path) -> Path:
    name = hashlib.sha256(f"{adaptation.task}".encode()).hexdigest()[:12]
    return out / STATE / f"{name}-{adaptation.seed}.safetensors"


def _claim(out: Path, method: str, config: AdaptConfig, models: Models) -> None:
    """Mark `out` as this evaluation's, or refuse if it is another's."""
    identity = {"method": method, "adapt": dataclasses.asdict(config), "models": _digest(models)}
    path = out / STATE / "evaluation.json"
    if path.is_file():
        theirs = json.loads(path.read_text())
        changed = sorted(key for key in identity if theirs.get(key) != identity[key])
        if changed:
            raise CheckpointError(f"{out} holds an evaluation with other {', '.join(changed)}; give another folder")
    write_atomically(path, json.dumps(identity).encode())


def _digest(models: Models) -> str:
    digest = hashlib.sha256()
    for field in dataclasses.fields(models):
        network = getattr(models, field.name)
        if isinstance(network, nn.Module):
            for name, tensor in network.state_dict().items():
                digest.update(f"{field.name}.{name}".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def _check_distinct(names: Sequence[str], what: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise ConfigError(f"an evaluation needs at least one {what}, each once; got {', '.join(twice) or 'none'}")
