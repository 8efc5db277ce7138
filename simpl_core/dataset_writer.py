"""Demonstrations to disk in the layout that `simpl_core.dataset` reads: D4RL's, with where they come from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import ArrayLike

from simpl_core.dataset import open_demonstrations
from simpl_core.errors import DatasetError


class Demonstration(NamedTuple):
    """One episode: row t of `observations` (T, S) is what action t of `actions` (T, A), in [-1, 1], answered.

    `terminated` says that a task ended it; otherwise its last step is a time-out.
    """

    observations: ArrayLike
    actions: ArrayLike
    terminated: bool = False


def write_demonstrations(path: Path, episodes: Iterable[Demonstration], attributes: Mapping[str, Any]) -> Path:
    """Write episodes end to end as flat observations, actions, terminals and timeouts.

    The file appears when it is complete and readable; one of that name is then replaced.

    Args:
        path: of the HDF5 file; its folder is made.
        episodes: at least one, each of at least one step, all of the same sizes.
        attributes: kept as attributes of the file: provenance, settings, seed (None is left out).

    Raises:
        DatasetError: no episode, episodes that do not fit together, NaN, actions outside [-1, 1].
    """
    parts = [_checked(index, episode) for index, episode in enumerate(episodes)]
    if not parts:
        raise DatasetError(f"{path}: there is no episode to write")
    _check_widths(path, parts)
    terminals = np.concatenate([_last_step(episode, episode.terminated) for episode in parts])
    timeouts = np.concatenate([_last_step(episode, not episode.terminated) for episode in parts])
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with h5py.File(unfinished, "w") as file:
            file["observations"] = np.concatenate([episode.observations for episode in parts])
            file["actions"] = np.concatenate([episode.actions for episode in parts])
            file["terminals"], file["timeouts"] = terminals, timeouts
            for name, value in attributes.items():
                if value is not None:
                    file.attrs[name] = value if isinstance(value, str | int | float) else str(value)
        open_demonstrations(unfinished)  # what cannot be read is not written
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _checked(index: int, episode: Demonstration) -> Demonstration:
    observations = np.asarray(episode.observations, np.float32)
    actions = np.asarray(episode.actions, np.float32)
    if observations.ndim != 2 or actions.ndim != 2 or len(observations) != len(actions) or len(actions) == 0:
        raise DatasetError(
            f"episode {index}: wanted observations (T, S) and actions (T, A) with the same T > 0; "
            f"got {observations.shape} and {actions.shape}"
        )
    return Demonstration(observations, actions, bool(episode.terminated))


def _check_widths(path: Path, episodes: list[Demonstration]) -> None:
    widths = {(np.shape(episode.observations)[1], np.shape(episode.actions)[1]) for episode in episodes}
    if len(widths) > 1:
        raise DatasetError(f"{path}: episodes have different numbers of observed and action numbers: {sorted(widths)}")


def _last_step(episode: Demonstration, value: bool) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    flags = np.zeros(len(np.asarray(episode.actions)), np.bool_)
    flags[-1] = value
    return flags
