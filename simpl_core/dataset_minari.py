"""Demonstrations as the `minari` package keeps them: a group an episode, with one observation more than actions."""

from __future__ import annotations

import os
import re
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from simpl_core.errors import DatasetError, EnvironmentMissingError

MAIN_FILE = Path("data", "main_data.hdf5")
"""Within the folder of a data set."""

MINARI_DATASETS = tuple(f"D4RL/kitchen/{kind}-v2" for kind in ("complete", "partial", "mixed"))
"""Names of the kitchen's; others of that form are asked for, too."""

_NAME = re.compile(r"([\w.-]+/)+[\w.-]+-v\d+")
_EPISODE = re.compile(r"episode_(\d+)")

KITCHEN_SIZE = 59
KITCHEN_STATE = np.r_[0:9, 18:39]
"""The 30 positions among the 59 numbers of `FrankaKitchen-v1`, in D4RL's order: 9 robot joint positions, their 9
velocities, 21 object coordinates, their 20 velocities (the kettle's quaternion turns at 3)."""


def is_minari_name(name: str) -> bool:
    """Whether this is how Minari names data sets: D4RL/kitchen/mixed-v2."""
    return _NAME.fullmatch(name) is not None


def minari_file(name: str) -> Path:
    """The file of a data set in Minari's cache (`MINARI_DATASETS_PATH`, else `~/.minari/datasets`).

    Raises:
        EnvironmentMissingError: it is not there, and the package that downloads it is not installed.
        DatasetError: it could not be downloaded, or is not HDF5.
    """
    folder = Path(os.environ.get("MINARI_DATASETS_PATH", Path.home() / ".minari" / "datasets")) / name
    if not (folder / MAIN_FILE).is_file():
        _download(name, folder)
    return folder / MAIN_FILE


def _download(name: str, folder: Path) -> None:
    try:
        import minari
    except ImportError as error:
        raise EnvironmentMissingError(
            f"{name} is not in {folder}, and the package minari, which downloads it, is not installed; install "
            f"simpl-core with its 'minari' extra, or give the path of a {MAIN_FILE.name}"
        ) from error
    try:
        minari.download_dataset(name)
    except Exception as error:  # whatever the hosts' client libraries raise
        reason = " ".join(str(error).split())[:300]
        raise DatasetError(
            f"{name} is not in {folder} and could not be downloaded ({type(error).__name__}: {reason}); put its "
            f"{MAIN_FILE} there, or give a path"
        ) from error
    if not (folder / MAIN_FILE).is_file():
        raise DatasetError(f"{name} was downloaded to {folder}, which holds no {MAIN_FILE}; only HDF5 is read")


def holds_episodes(file: h5py.File) -> bool:
    """Whether an open file is in Minari's layout."""
    return any(_EPISODE.fullmatch(name) for name in file)


def read_episodes(file: h5py.File, path: Path) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.bool_]]:
    """Observations (N, S), actions (N, A) and whether a step is its episode's last (N,), of all episodes in order.

    An observation after the last action is left out. Of a dictionary the entry `observation` is taken, and of the
    kitchen's 59 numbers the 30 positions.

    Raises:
        DatasetError: an episode lacks something, or its lengths do not fit.
    """
    observations, actions, ends = [], [], []
    for name in sorted(filter(_EPISODE.fullmatch, file), key=lambda name: int(name.split("_")[1])):
        seen, done = _episode(file[name], f"{path}: {name}")
        if len(done):
            observations.append(seen[:-1])
            actions.append(done)
            ends.append(np.arange(len(done)) == len(done) - 1)
    if not actions:
        raise DatasetError(f"{path}: none of the episodes has a step")
    return np.concatenate(observations), np.concatenate(actions), np.concatenate(ends)


def _episode(group: h5py.Group, what: str) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    missing = [name for name in ("observations", "actions") if name not in group]
    if missing:
        raise DatasetError(f"{what}: no {', '.join(missing)}; it holds {', '.join(sorted(group))}")
    seen = group["observations"]
    if isinstance(seen, h5py.Group):
        if "observation" not in seen:
            raise DatasetError(f"{what}: no observations/observation; there is {', '.join(sorted(seen))}")
        seen = seen["observation"]
    observations, actions = np.asarray(seen), np.asarray(group["actions"])
    if observations.ndim != 2 or actions.ndim != 2 or len(observations) != len(actions) + 1:
        raise DatasetError(
            f"{what}: wanted observations (T+1, S) and actions (T, A); found {observations.shape}, {actions.shape}"
        )
    if observations.shape[1] == KITCHEN_SIZE:
        observations = observations[:, KITCHEN_STATE]
    return observations, actions
