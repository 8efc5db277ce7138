"""Statistics over evaluations: mean and interquartile mean at milestones with stratified bootstrap intervals (rliable).

A scores file is `<domain>_<method>.csv` with columns task, seed, episode, score; episodes count from 1, the first
conditioning episode. Intervals resample seeds within each task, so they speak of seeds and not of the choice of tasks
(Agarwal et al. 2021).
"""

from __future__ import annotations

import csv
import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simpl_core.errors import CheckpointError, ConfigError, EnvironmentMissingError
from simpl_core.plots import learning_curves

MILESTONES: Mapping[str, tuple[int, int]] = {
    "20-25": (21, 25),
    "50": (46, 55),
    "100": (96, 105),
    "200": (196, 205),
}
"""Episodes (first and last, counted from 1) that a milestone averages; what lies past the end is left out."""

PAPER: Mapping[str, Mapping[str, Mapping[int, float]]] = {
    "kitchen": {
        "SiMPL (paper)": {20: 1.75, 50: 2.5, 100: 2.7, 200: 2.7},
        "SPiRL (paper)": {20: 0.9, 50: 1.3, 100: 2.0, 200: 2.3},
    },
    "maze40": {
        "SiMPL (paper)": {20: 0.45, 50: 0.75, 100: 0.92, 300: 1.0},
        "SPiRL (paper)": {20: 0.2, 50: 0.45, 100: 0.6, 300: 0.8},
    },
}
"""Read off Figure 4 of the SiMPL paper (ICLR 2022)."""

RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of every episode: `values` (seeds, tasks, episodes), with the names of both."""

    values: NDArray[np.float64]
    seeds: tuple[str, ...]
    tasks: tuple[str, ...]

    @property
    def runs(self) -> NDArray[np.float64]:
        """One row a run: (seeds x tasks, episodes)."""
        return self.values.reshape(-1, self.values.shape[-1])


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Mean and interquartile mean over tasks and seeds, each with its 95 % bootstrap interval."""

    mean: float
    mean_interval: tuple[float, float]
    iqm: float
    iqm_interval: tuple[float, float]


def read_scores(path: Path) -> Scores:
    """A scores file; episodes are cut to those that every run has.

    Raises:
        CheckpointError: the file is missing, has other columns, no row, or not every task with every seed.
    """
    found: dict[tuple[str, str], list[float]] = {}
    try:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                found.setdefault((row["seed"], row["task"]), []).append(float(row["score"]))
    except (OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is no file of scores with task,seed,episode,score: {error!r}") from error
    seeds, tasks = (tuple(dict.fromkeys(names)) for names in zip(*found, strict=True)) if found else ((), ())
    missing = [f"{task} with seed {seed}" for seed in seeds for task in tasks if (seed, task) not in found]
    if missing or not found:
        raise CheckpointError(f"{path} lacks {', '.join(missing[:3]) or 'any row'}; intervals need every task and seed")
    shortest = min(map(len, found.values()))
    values = np.array([[found[seed, task][:shortest] for task in tasks] for seed in seeds])
    return Scores(values, seeds, tasks)


def milestone_scores(scores: Scores) -> dict[str, NDArray[np.float64]]:
    """Mean score of each run at the milestones that lie within the episodes made, and over all: (seeds, tasks) each."""
    found = {"all": scores.values.mean(-1)}
    for name, (first, last) in MILESTONES.items():
        if scores.values.shape[-1] >= first:
            found[name] = scores.values[..., first - 1 : last].mean(-1)
    return found


def estimate(values: NDArray[np.float64]) -> Estimate:
    """Statistics of `values` (seeds, tasks); one seed alone leaves intervals of no width.

    Raises:
        EnvironmentMissingError: rliable is not installed.
    """
    try:
        from rliable import library, metrics
    except ImportError as error:
        raise EnvironmentMissingError(f"intervals need rliable ({error}): pip install 'simpl-core[stats]'") from error

    def both(sample: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([metrics.aggregate_mean(sample), metrics.aggregate_iqm(sample)])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # `arch` renames an argument that rliable passes on
        points, intervals = library.get_interval_estimates(
            {"": values}, both, reps=RESAMPLES, random_state=np.random.RandomState(0)
        )
    (mean, iqm), (low, high) = points[""], intervals[""]
    return Estimate(float(mean), (float(low[0]), float(high[0])), float(iqm), (float(low[1]), float(high[1])))


def summarise(folder: Path) -> dict[str, dict[str, dict[str, Estimate]]]:
    """Estimates by domain, method and milestone from all scores files in `folder`.

    Raises:
        ConfigError: there is none.
        CheckpointError, EnvironmentMissingError: see `read_scores`, `estimate`.
    """
    found: dict[str, dict[str, dict[str, Estimate]]] = {}
    for (domain, method), path in scores_files(folder).items():
        milestones = milestone_scores(read_scores(path))
        found.setdefault(domain, {})[method] = {name: estimate(values) for name, values in milestones.items()}
    return found


def scores_files(folder: Path) -> dict[tuple[str, str], Path]:
    """(domain, method) -> file, for every `<domain>_<method>.csv` in `folder` that begins as scores do.

    Raises:
        ConfigError: there is none.
    """
    found: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.glob("*_*.csv")):
        with path.open() as file:
            if file.readline().strip() == "task,seed,episode,score":
                domain, _, method = path.stem.partition("_")
                found[domain, method] = path
    if not found:
        raise ConfigError(f"{folder} holds no <domain>_<method>.csv with columns task,seed,episode,score")
    return found


def draw(folder: Path, out: Path) -> list[Path]:
    """Curves of each domain's methods in one picture, the paper's beside them; returns the pictures."""
    curves: dict[str, dict[str, NDArray[np.float64]]] = {}
    for (domain, method), path in scores_files(folder).items():
        curves.setdefault(domain, {})[method] = read_scores(path).runs
    pictures = []
    for domain, methods in curves.items():
        label = "subtasks completed in order" if domain.startswith("kitchen") else "score"
        pictures.append(out / f"{domain}_curves.png")
        learning_curves(methods, pictures[-1], conditioning=20, points=PAPER.get(domain), label=label)
    return pictures


def describe(summary: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> Sequence[str]:
    """The summary in lines for people."""
    lines: list[str] = []
    for domain, methods in summary.items():
        for method, milestones in methods.items():
            lines.append(f"{domain}, {method}: mean [95 % interval], interquartile mean [95 % interval]")
            lines += [
                f"  episodes {name:>6}  {value.mean:5.2f} [{value.mean_interval[0]:.2f}, {value.mean_interval[1]:.2f}]"
                f"  {value.iqm:5.2f} [{value.iqm_interval[0]:.2f}, {value.iqm_interval[1]:.2f}]"
                for name, value in milestones.items()
            ]
    return lines
