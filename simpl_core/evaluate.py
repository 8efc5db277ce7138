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
from numpy.typing import NDArray
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
from simpl_core.resume import sole_writer
from simpl_core.rollout import SlotEnv

SCORES, SUMMARY, CURVE, STATE = "scores.csv", "summary.json", "curve.png", "state"
SAVE_EVERY = 5
"""Rounds between two resumable states on disk."""

MILESTONES: Mapping[str, tuple[int, int]] = {
    "20-25": (21, 25),
    "50": (46, 55),
    "100": (96, 105),
    "200": (196, 205),
}
"""Episodes (first and last, counted from 1) that a milestone averages; what lies past the end is left out."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval, and the interquartile mean."""

    mean: float
    low: float
    high: float
    interquartile_mean: float


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
    scores = np.array([adaptation.scores for adaptation in runs])
    names = [str(adaptation.task) for adaptation in runs]
    summary = summarise(scores, names)
    origin = provenance(method=method, adapt=dataclasses.asdict(config), tasks=sorted(set(names)), seeds=list(seeds))
    report = {"method": method, "milestones": {k: dataclasses.asdict(v) for k, v in summary.items()}, **origin}
    write_atomically(out / SUMMARY, (json.dumps(report, indent=2) + "\n").encode())
    conditioning = config.conditioning_episodes if method == "simpl" else 0
    learning_curves({method: scores}, out / CURVE, conditioning=conditioning)
    return describe(summary, method, out)


def summarise(scores: NDArray[np.float64], tasks: Sequence[str]) -> dict[str, Interval]:
    """Mean scores at the milestones; `scores` (runs, episodes), `tasks` the task of each run.

    The bootstrap draws runs within each task, so that the interval is about seeds and not about the choice of tasks.
    """
    found = {"all": interval(scores.mean(1), tasks)}
    for name, (first, last) in MILESTONES.items():
        if scores.shape[1] >= first:
            found[name] = interval(scores[:, first - 1 : last].mean(1), tasks)
    return found


def interval(values: NDArray[np.float64], tasks: Sequence[str], resamples: int = 2000) -> Interval:
    """Statistics of one number per run, (runs,), resampled within tasks."""
    rng = np.random.default_rng(0)
    labels = np.array(tasks)
    draws = np.empty((resamples, len(values)))
    for task in np.unique(labels):
        members = np.flatnonzero(labels == task)
        draws[:, members] = values[rng.choice(members, (resamples, len(members)))]
    low, high = np.percentile(draws.mean(1), [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high), interquartile_mean(values))


def interquartile_mean(values: NDArray[np.float64]) -> float:
    """Mean of the middle half: a quarter of the values, rounded down, is cut at each end (as rliable does)."""
    cut = len(values) // 4
    return float(np.sort(values)[cut : len(values) - cut].mean())


def describe(summary: Mapping[str, Interval], method: str, out: Path) -> str:
    """The summary for people."""
    lines = [f"{method}: mean score [95 % interval], interquartile mean"]
    lines += [
        f"  episodes {name:>6}  {value.mean:5.2f} [{value.low:.2f}, {value.high:.2f}]  {value.interquartile_mean:5.2f}"
        for name, value in summary.items()
    ]
    return "\n".join([*lines, f"scores, summary and curve in {out}"])


def read_scores(path: Path) -> tuple[NDArray[np.float64], list[str]]:
    """A scores file as (runs, episodes) with the task of each run; unfinished runs are cut to the shortest.

    Raises:
        CheckpointError: the file is missing or has other columns.
    """
    found: dict[tuple[str, str], list[float]] = {}
    try:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                found.setdefault((row["task"], row["seed"]), []).append(float(row["score"]))
    except (OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is no file of scores with task,seed,episode,score: {error!r}") from error
    shortest = min((len(scores) for scores in found.values()), default=0)
    return np.array([scores[:shortest] for scores in found.values()]), [task for task, _ in found]


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
