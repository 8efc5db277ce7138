"""Demonstrations on disk: D4RL's HDF5 layout, names and cache, or Minari's; checked on opening.

The `d4rl` package itself cannot be installed beside anything current, but its file names, its cache folder
(`D4RL_DATASET_DIR`, else `~/.d4rl/datasets`) and its normalised scores are what people know.
"""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from simpl_core.dataset_minari import (
    MAIN_FILE,
    MINARI_DATASETS,
    holds_episodes,
    is_minari_name,
    minari_file,
    read_episodes,
)
from simpl_core.errors import DatasetError

ACTION_LIMIT = 1.0 + 1e-4


class PublicDataset(NamedTuple):
    """A data set that `d4rl` knows by name: where it is, its checksum and the scores that normalise to 0 and 1."""

    url: str
    sha256: str
    reference_scores: tuple[float, float]


_KITCHEN_URL = "http://rail.eecs.berkeley.edu/datasets/offline_rl/kitchen/"
PUBLIC_DATASETS = {
    "kitchen-complete-v0": PublicDataset(
        _KITCHEN_URL + "mini_kitchen_microwave_kettle_light_slider-v0.hdf5",
        "cd797c38cd52dfbe3f960cef73935cc724847abd189e47a703a7a2315ed60a81",
        (0.0, 4.0),
    ),
    "kitchen-partial-v0": PublicDataset(
        _KITCHEN_URL + "kitchen_microwave_kettle_light_slider-v0.hdf5",
        "57bfd9c5fe88a7cf702bbaf8b7cd800d30cd869e7f73416007238d26cd859800",
        (0.0, 4.0),
    ),
    "kitchen-mixed-v0": PublicDataset(
        _KITCHEN_URL + "kitchen_microwave_kettle_bottomburner_light-v0.hdf5",
        "a30382a50278fdaea2e2d88e5f2836a95bcf9b581d252617872fd6537302721b",
        (0.0, 4.0),
    ),
}


@dataclass(frozen=True)
class Demonstrations:
    """Task-agnostic episodes, end to end.

    Attributes:
        states: (N, S) float32; row t is the state in which action t was taken.
        actions: (N, A) float32 in [-1, 1].
        bounds: (E+1,) int64; episode i is rows bounds[i] to bounds[i+1].
        sha256: checksum of the file.
        origin: where it was read from.
    """

    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    bounds: NDArray[np.int64]
    sha256: str
    origin: str

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Steps of each episode, (E,)."""
        return np.diff(self.bounds)

    def window_starts(self, horizon: int, episodes: NDArray[np.int64]) -> NDArray[np.int64]:
        """First rows of all windows of `horizon` steps that lie within one of `episodes`: (W,).

        Raises:
            DatasetError: no episode is long enough.
        """
        ranges = [np.arange(self.bounds[i], self.bounds[i + 1] - horizon + 1) for i in episodes]
        starts = np.concatenate(ranges) if ranges else np.empty(0, np.int64)
        if len(starts) == 0:
            longest = int(self.lengths[episodes].max()) if len(episodes) else 0
            raise DatasetError(f"{self.origin}: no episode holds {horizon} steps (the longest has {longest})")
        return starts


def dataset_folder() -> Path:
    """Where the `d4rl` package keeps its files."""
    return Path(os.environ.get("D4RL_DATASET_DIR", Path.home() / ".d4rl" / "datasets"))


def locate(name_or_path: str, on_progress: Callable[[int, int], None] | None = None) -> Path:
    """The file of a data set: a path as it is, a name from D4RL's or Minari's cache, downloaded if missing.

    Args:
        name_or_path: a file, Minari's folder of a data set, one of `PUBLIC_DATASETS`, or such as `MINARI_DATASETS`.
        on_progress: called with (bytes so far, bytes in all) while downloading from D4RL.

    Raises:
        DatasetError: neither a file nor a known name; no network; wrong checksum.
        EnvironmentMissingError: a name of Minari's that is not in its cache, without its package.
    """
    if name_or_path not in PUBLIC_DATASETS:
        path = Path(name_or_path).expanduser()
        if path.is_file():
            return path
        if (path / MAIN_FILE).is_file():
            return path / MAIN_FILE
        if is_minari_name(name_or_path):
            return minari_file(name_or_path)
        names = ", ".join((*PUBLIC_DATASETS, *MINARI_DATASETS))
        raise DatasetError(f"no file {name_or_path!r}, and no data set of that name; known names: {names}")
    path = dataset_folder() / PUBLIC_DATASETS[name_or_path].url.rsplit("/", 1)[1]
    if not path.is_file():
        _download(name_or_path, path, on_progress)
    return path


def _download(name: str, path: Path, on_progress: Callable[[int, int], None] | None) -> None:
    url, expected, _ = PUBLIC_DATASETS[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    digest, received = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(url, timeout=30) as response, partial.open("wb") as file:
            total = int(response.headers.get("Content-Length", 0))
            while block := response.read(1 << 18):
                file.write(block)
                digest.update(block)
                received += len(block)
                if on_progress:
                    on_progress(received, total)
        if digest.hexdigest() != expected:
            raise DatasetError(f"{name}: downloaded file has SHA-256 {digest.hexdigest()}, expected {expected}")
        partial.replace(path)
    except (urllib.error.URLError, OSError) as error:
        raise DatasetError(
            f"{name} is not in {path.parent} and could not be downloaded ({error}); put the file there as "
            f"{path.name}, set D4RL_DATASET_DIR, or give a path"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def open_demonstrations(path: Path, state_dim: int | None = None) -> Demonstrations:
    """Read and check a file in D4RL's layout (flat observations, actions, terminals and maybe timeouts) or Minari's.

    Args:
        path: the HDF5 file.
        state_dim: leading observation numbers that are the state; None keeps all.

    Raises:
        DatasetError: unreadable, truncated, missing fields, wrong widths, NaN, actions out of range, no episode
            ends. The message says what was found and where.
    """
    observations, actions, ends = _read(path)
    _check(path, observations, actions, ends, state_dim)
    last = np.flatnonzero(ends)
    bounds = np.concatenate([[0], last + 1])
    if bounds[-1] < len(actions):
        bounds = np.append(bounds, len(actions))
    return Demonstrations(
        states=np.ascontiguousarray(observations[:, :state_dim], np.float32),
        actions=np.asarray(actions, np.float32),
        bounds=bounds.astype(np.int64),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        origin=str(path),
    )


def _read(path: Path) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.bool_]]:
    if not path.is_file():
        raise DatasetError(f"no file {str(path)!r}")
    try:
        with h5py.File(path, "r") as file:
            if holds_episodes(file):
                return read_episodes(file, path)
            missing = [name for name in ("observations", "actions", "terminals") if name not in file]
            if missing:
                raise DatasetError(f"{path}: no {', '.join(missing)}; the file holds {', '.join(sorted(file))}")
            ends = np.asarray(file["terminals"][:], bool)
            if "timeouts" in file:
                ends = ends | np.asarray(file["timeouts"][:], bool)
            return file["observations"][:], file["actions"][:], ends
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise DatasetError(f"{path}: not a readable HDF5 file (truncated or damaged): {error}") from error


def _check(
    path: Path,
    observations: NDArray[np.floating],
    actions: NDArray[np.floating],
    ends: NDArray[np.bool_],
    state_dim: int | None,
) -> None:
    rows = (observations.shape[0], actions.shape[0], ends.shape[0])
    if observations.ndim != 2 or actions.ndim != 2 or len(set(rows)) != 1 or rows[0] == 0:
        raise DatasetError(
            f"{path}: wanted observations (N, S), actions (N, A), terminals (N,) with the same N > 0; "
            f"found {observations.shape}, {actions.shape}, {ends.shape}"
        )
    if state_dim is not None and observations.shape[1] < state_dim:
        raise DatasetError(f"{path}: observations have {observations.shape[1]} numbers, the state needs {state_dim}")
    for name, values in (("observations", observations), ("actions", actions)):
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row, column = bad[0]
            raise DatasetError(
                f"{path}: {name} hold {len(bad)} values that are not finite, the first {values[row, column]} at "
                f"row {row}, column {column}"
            )
    outside = np.argwhere(np.abs(actions) > ACTION_LIMIT)
    if len(outside):
        row, column = outside[0]
        raise DatasetError(
            f"{path}: {len(outside)} actions lie outside [-1, 1], the first {actions[row, column]:.4g} at row {row}, "
            f"column {column}"
        )
    if not ends.any():
        raise DatasetError(f"{path}: no episode ends: terminals and timeouts are False in all {rows[0]} rows")


def normalised_score(name: str, score: float) -> float:
    """D4RL's normalised score: 0 for a random and 1 for an expert policy (`d4rl.get_normalized_score`).

    Raises:
        DatasetError: unknown data set.
    """
    if name not in PUBLIC_DATASETS:
        raise DatasetError(f"no reference scores for {name!r}; there are some for {', '.join(PUBLIC_DATASETS)}")
    low, high = PUBLIC_DATASETS[name].reference_scores
    return (score - low) / (high - low)
