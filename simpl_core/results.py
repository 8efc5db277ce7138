"""Statistics over evaluations: mean and interquartile mean at milestones with stratified bootstrap intervals (rliable).

A scores file is `<domain>_<method>.csv` with columns task, seed, episode, score; episodes count from 1, the first
conditioning episode. A method's number, as in `kitchen_simpl-5.csv`, is that of its conditioning episodes where they
are not 20. A milestone is the mean of each run over a small window of episodes around it; one that the episodes made do
not reach is left out. Intervals resample seeds within each task, so they speak of seeds and not of the choice of tasks
(Agarwal et al. 2021).
"""

from __future__ import annotations

import csv
import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simpl_core.errors import CheckpointError, ConfigError, EnvironmentMissingError
from simpl_core.plots import learning_curves

MILESTONES: Mapping[str, tuple[int, int, int]] = {
    "20-25": (25, 21, 25),
    **{str(episode): (episode, episode - 4, episode + 5) for episode in (50, 100, 200, 300, 500)},
}
"""Per name the episode (counted from 1) without which there is no such milestone, and the first and last of those that
it averages, as far as they were made."""

CONDITIONED = "conditioned"
"""The milestone of the first five episodes after conditioning, whatever their number."""

DEFINITION = (
    "mean of each run over "
    + ", ".join(f"{first}-{last} for {name}" for name, (_, first, last) in MILESTONES.items())
    + f"; {CONDITIONED}: the first five after conditioning"
)

FIRST_EPISODES = 40
"""What the picture of the first episodes shows."""

PAPER: Mapping[str, Mapping[str, Mapping[int, float]]] = {
    "kitchen": {
        "SiMPL (paper)": {20: 1.75, 50: 2.5, 100: 2.7, 200: 2.7},
        "SPiRL (paper)": {20: 0.9, 50: 1.3, 100: 2.0, 200: 2.3},
    },
    "maze40": {
        "SiMPL (paper)": {20: 0.45, 50: 0.75, 100: 0.92, 300: 1.0, 500: 1.0},
        "SPiRL (paper)": {20: 0.2, 50: 0.45, 100: 0.6, 300: 0.8, 500: 0.85},
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


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a method's scores file says.

    Attributes:
        tasks: how many.
        seeds: how many of each.
        episodes: that every run has.
        windows: first and last episode that each milestone averages.
        milestones: statistics of each, and of all episodes.
        curve: mean score of each episode from the first on, not smoothed.
    """

    tasks: int
    seeds: int
    episodes: int
    windows: dict[str, tuple[int, int]]
    milestones: dict[str, Estimate]
    curve: list[float]


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


def windows(episodes: int, conditioning: int) -> dict[str, tuple[int, int]]:
    """First and last episode that each milestone averages, of those that `episodes` reach, and "all"."""
    known = dict(MILESTONES)
    if conditioning:
        known[CONDITIONED] = (conditioning + 5, conditioning + 1, conditioning + 5)
    reached = {name: (first, last) for name, (needed, first, last) in known.items() if needed <= episodes}
    return {name: (first, min(last, episodes)) for name, (first, last) in reached.items()} | {"all": (1, episodes)}


def milestone_scores(scores: Scores, conditioning: int) -> dict[str, NDArray[np.float64]]:
    """Mean score of each run over the windows of the milestones: (seeds, tasks) each."""
    found = windows(scores.values.shape[-1], conditioning)
    return {name: scores.values[..., first - 1 : last].mean(-1) for name, (first, last) in found.items()}


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


def summarise(folder: Path) -> dict[str, dict[str, Summary]]:
    """By domain and method what the scores files in `folder` say.

    Raises:
        ConfigError: there is none.
        CheckpointError, EnvironmentMissingError: see `read_scores`, `estimate`.
    """
    found: dict[str, dict[str, Summary]] = {}
    for (domain, method), path in scores_files(folder).items():
        scores = read_scores(path)
        seeds, tasks, episodes = scores.values.shape
        conditioning = conditioning_episodes(method)
        estimates = {name: estimate(values) for name, values in milestone_scores(scores, conditioning).items()}
        curve = [round(float(mean), 4) for mean in scores.runs.mean(0)]
        averaged = windows(episodes, conditioning)
        found.setdefault(domain, {})[method] = Summary(tasks, seeds, episodes, averaged, estimates, curve)
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


def conditioning_episodes(method: str) -> int:
    """How many a method's name stands for: `simpl` 20, `simpl-5` 5, others (SPiRL) none."""
    name, _, number = method.partition("-")
    if name != "simpl":
        return 0
    return int(number) if number.isdigit() else 20


def draw(folder: Path, out: Path) -> list[Path]:
    """Two pictures for each domain: all episodes, the paper's curves beside ours, and the first (paper, Figure 10)."""
    curves: dict[str, dict[str, NDArray[np.float64]]] = {}
    for (domain, method), path in scores_files(folder).items():
        curves.setdefault(domain, {})[method] = read_scores(path).runs
    pictures = []
    for domain, methods in curves.items():
        label = "subtasks completed in order" if domain.startswith("kitchen") else "success rate"
        marks = {method: conditioning_episodes(method) for method in methods}
        points = PAPER.get(domain, {})
        for name, last in (("curves", None), ("first_episodes", FIRST_EPISODES)):
            shown = {method: runs[:, :last] for method, runs in methods.items()}
            reached = {
                who: {episode: score for episode, score in theirs.items() if last is None or episode <= last}
                for who, theirs in points.items()
            }
            pictures.append(out / f"{domain}_{name}.png")
            learning_curves(shown, pictures[-1], conditioning=marks, points=reached, label=label)
    return pictures


def plain(summary: Mapping[str, Mapping[str, Summary]]) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """For JSON: domain -> method -> milestone -> its statistics and episodes; and `curve`, the mean by episode."""
    return {
        domain: {
            method: {
                **{
                    name: {"episodes": found.windows[name], **dataclasses.asdict(value)}
                    for name, value in found.milestones.items()
                },
                "curve": {
                    "episodes": (1, found.episodes),
                    "tasks": found.tasks,
                    "seeds": found.seeds,
                    "mean": found.curve,
                },
            }
            for method, found in methods.items()
        }
        for domain, methods in summary.items()
    }


def describe(summary: Mapping[str, Mapping[str, Summary]]) -> Sequence[str]:
    """The summary in lines for people."""
    lines = []
    for domain, methods in summary.items():
        for method, found in methods.items():
            size = f"{found.tasks} tasks, {found.seeds} seeds, {found.episodes} episodes"
            lines.append(f"{domain}, {method} ({size}): mean [95 % interval], interquartile mean [95 % interval]")
            lines += [
                f"  {name:11}  {value.mean:5.2f} [{value.mean_interval[0]:.2f}, {value.mean_interval[1]:.2f}]"
                f"  {value.iqm:5.2f} [{value.iqm_interval[0]:.2f}, {value.iqm_interval[1]:.2f}]"
                f"  episodes {found.windows[name][0]}-{found.windows[name][1]}"
                for name, value in found.milestones.items()
            ]
    return [*lines, f"milestones are the {DEFINITION}"]
