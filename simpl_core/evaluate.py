"""Phase 3 measured: every task with every seed, spread over processes; scores per episode, summary and curve.

A run depends on its task and seed alone, so neither the number of processes nor a kill changes the scores.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from simpl_core.adapt import Adaptation, adapt_in_simulation
from simpl_core.checkpoint import Models, save_tensors, write_atomically
from simpl_core.config import AdaptConfig
from simpl_core.errors import CheckpointError, ConfigError
from simpl_core.learner import keep_freed_memory, torch_threads
from simpl_core.metrics import MetricsWriter, progress_bar
from simpl_core.plots import learning_curves
from simpl_core.provenance import provenance
from simpl_core.results import milestone_scores, read_scores
from simpl_core.resume import sole_writer
from simpl_core.rollout import SlotEnv
from simpl_core.workers import Crew, Spread, Work, spread

SCORES, SUMMARY, CURVE, IDENTITY, RUNS = "scores.csv", "summary.json", "curve.png", "evaluation.json", "runs"
STATE = "state.safetensors"
SAVE_EVERY = 5
"""Rounds between two resumable states on disk."""
MOST_SLOTS = 32
MOST_TOGETHER = 16
"""Runs side by side in a process: a step of many environments takes little more of the networks than one of one."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is measured; every process gets a copy, so all of it can be pickled.

    Attributes:
        load: reads the models, of phase 2, or of phase 1 for `spirl`.
        make_env: environments to make episodes in, with so many slots.
        method: one of `adapt.METHODS`.
        config: of phase 3.
    """

    load: Callable[[], Models]
    make_env: Callable[[int], SlotEnv]
    method: str
    config: AdaptConfig


class Run(NamedTuple):
    """One adaptation of an evaluation, and the folder of its state and metrics."""

    task: Any
    seed: int
    folder: Path

    def __str__(self) -> str:
        return f"{self.task} with seed {self.seed}"


class Group(NamedTuple):
    """Runs that one process makes side by side."""

    runs: tuple[Run, ...]

    def __str__(self) -> str:
        more = len(self.runs) - 1
        return f"{self.runs[0]}{f' and {more} more' if more else ''}"

    @property
    def folders(self) -> list[Path]:
        """Of the runs."""
        return [run.folder for run in self.runs]

    def moved(self, folders: Sequence[Path]) -> Group:
        """The same runs in other folders, as on a machine that does not share a disk with this one."""
        return Group(tuple(run._replace(folder=folder) for run, folder in zip(self.runs, folders, strict=True)))


def run(
    evaluation: Evaluation,
    tasks: Sequence[Any],
    seeds: Sequence[int],
    out: Path,
    workers: int = 1,
    spread: Spread = spread,
) -> str:
    """Adapt to each of `tasks` with each of `seeds` and write scores.csv, summary.json and curve.png into `out`.

    Args:
        evaluation: what is measured.
        tasks: what environments are reset to; `str(task)` names them.
        seeds: of noise, skills drawn and learning.
        out: folder; unfinished or finished runs of the same evaluation there are kept.
        workers: processes; the scores do not depend on it.
        spread: how they come to their work; neither do the scores depend on where.

    Returns:
        The summary in a few lines.

    Raises:
        ConfigError: no task, no seed, one twice, or unknown method.
        CheckpointError: the models lack what the method needs, or `out` holds another evaluation or a process at work.
        WorkerError: one of several processes died.
    """
    _check_distinct([str(task) for task in tasks], "task")
    _check_distinct([str(seed) for seed in seeds], "seed")
    models, config, method = evaluation.load(), evaluation.config, evaluation.method
    episodes = Adaptation(method, models, config, tasks[0], seeds[0]).total_episodes  # refuses what cannot be done
    with sole_writer(out):
        _claim(out, method, config, models)
        runs = [Run(task, seed, _folder(out, task, seed)) for task in tasks for seed in seeds]
        _adapt(evaluation, runs, episodes, out, Crew(spread, workers))
    scores = read_scores(out / SCORES)
    conditioning = config.conditioning_episodes if method == "simpl" else 0
    means = {name: float(values.mean()) for name, values in milestone_scores(scores, conditioning).items()}
    origin = provenance(
        method=method,
        adapt=dataclasses.asdict(config),
        tasks=sorted(scores.tasks),
        seeds=[int(s) for s in scores.seeds],
    )
    report = {"method": method, "means": means, **origin}
    write_atomically(out / SUMMARY, (json.dumps(report, indent=2) + "\n").encode())
    learning_curves({method: scores.runs}, out / CURVE, conditioning={method: conditioning})
    return describe(means, method, out)


def describe(means: Mapping[str, float], method: str, out: Path) -> str:
    """The summary for people."""
    lines = [f"{method}: mean score", *(f"  {name:11}  {value:5.2f}" for name, value in means.items())]
    return "\n".join([*lines, f"scores, summary and curve in {out}"])


def _adapt(evaluation: Evaluation, runs: Sequence[Run], episodes: int, out: Path, crew: Crew) -> None:
    """Bring all `runs` to their end and leave their scores in `out`."""
    scores = [[float(score) for score in _saved(run).get("scores", ())][:episodes] for run in runs]
    left = [index for index, made in enumerate(scores) if len(made) < episodes]
    count = crew.workers * -(-len(left) // (crew.workers * MOST_TOGETHER))
    shares = [share for share in (left[first::count] for first in range(count)) if share]

    def heard(group: int, news: dict[int, list[float]]) -> None:
        for place, new in news.items():
            own = scores[shares[group][place]]
            own += new
            bar.advance(len(new), f"score {np.mean([made[-1] for made in scores if made]):.2f}")
            if len(own) == episodes:
                _write_scores(runs, scores, out)

    try:
        with progress_bar(len(runs) * episodes, "adapting (episodes)", sum(map(len, scores))) as bar:
            groups = [Group(tuple(runs[index] for index in share)) for share in shares]
            crew.spread(partial(_prepared, evaluation), groups, crew.workers, heard)
    finally:
        _write_scores(runs, scores, out)


@contextmanager
def _prepared(evaluation: Evaluation) -> Iterator[Work]:
    """Networks and environments of one process."""
    keep_freed_memory()
    models = evaluation.load()
    env = evaluation.make_env(min(max(evaluation.config.conditioning_episodes, MOST_TOGETHER), MOST_SLOTS))

    def work(group: Group, tell: Callable[[dict[int, list[float]]], None]) -> None:
        adaptations = []
        for run in group.runs:
            adaptations.append(Adaptation(evaluation.method, models, evaluation.config, run.task, run.seed))
            if state := _saved(run):
                adaptations[-1].load_state_dict(state)
        _adapt_together(adaptations, models, env, [run.folder for run in group.runs], tell)

    try:
        with torch_threads(1):  # processes use the cores; and with more the last bits of a gradient depend on how many
            yield work
    finally:
        env.close()


def _adapt_together(
    adaptations: Sequence[Adaptation],
    models: Models,
    env: SlotEnv,
    folders: Sequence[Path],
    tell: Callable[[dict[int, list[float]]], None],
) -> None:
    """Bring runs to their end; an interrupt saves their states after the last whole round, which `safe` holds.

    `tell` hears the new scores of a round, by place in `adaptations`.
    """
    metrics: dict[Adaptation, dict[str, float]] = {}
    safe, rounds = [adaptation.state_dict() for adaptation in adaptations], 0
    told = [len(adaptation.scores) for adaptation in adaptations]
    writers = [MetricsWriter(folder, made) for folder, made in zip(folders, told, strict=True)]

    def save() -> None:
        for folder, state in zip(folders, safe, strict=True):
            save_tensors(folder / STATE, state)

    def after_round() -> None:
        nonlocal rounds
        rounds += 1
        news = {}
        for place, adaptation in enumerate(adaptations):
            made = len(adaptation.scores)
            if made > told[place]:
                news[place], told[place] = adaptation.scores[told[place] :], made
                safe[place] = adaptation.state_dict()
                writers[place].write(made, {"score": adaptation.scores[-1], **metrics.get(adaptation, {})})
        metrics.clear()
        if rounds % SAVE_EVERY == 0:
            save()
        tell(news)

    try:
        adapt_in_simulation(env, models, adaptations, after_round, metrics.__setitem__)
    except KeyboardInterrupt:
        save()
        raise
    finally:
        for writer in writers:
            writer.close()
    save()


def _write_scores(runs: Sequence[Run], scores: Sequence[Sequence[float]], out: Path) -> None:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["task", "seed", "episode", "score"])
    for run, made in zip(runs, scores, strict=True):
        writer.writerows([str(run.task), run.seed, episode, f"{score:g}"] for episode, score in enumerate(made, 1))
    write_atomically(out / SCORES, table.getvalue().encode())


def _saved(run: Run) -> dict[str, Tensor]:
    """The state that an earlier call left; empty where there is none."""
    path = run.folder / STATE
    if not path.is_file():
        return {}
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} cannot be read ({error}); remove it to start that run afresh") from error


def _folder(out: Path, task: Any, seed: int) -> Path:
    readable = re.sub(r"[^a-z0-9]+", "-", str(task).lower()).strip("-")[:80]
    return out / RUNS / f"{readable}-{hashlib.sha256(str(task).encode()).hexdigest()[:8]}-seed{seed}"


def _claim(out: Path, method: str, config: AdaptConfig, models: Models) -> None:
    """Mark `out` as this evaluation's, or refuse if it is another's."""
    # Not the number of episodes: an evaluation may be made longer or shorter.
    adapt = {key: value for key, value in dataclasses.asdict(config).items() if key != "episodes"}
    identity = {"method": method, "adapt": adapt, "models": _digest(models)}
    path = out / IDENTITY
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
                digest.update(f"{field.name}.{name}".encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def _check_distinct(names: Sequence[str], what: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise ConfigError(f"an evaluation needs at least one {what}, each once; got {', '.join(twice) or 'none'}")
