"""Task-agnostic demonstrations in a maze: shortest paths between random cells, followed by a PD controller.

Gains, and the tolerance at way points, are those of D4RL's way point controller (Fu et al. 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sim.maze_layout import Cell, MazeLayout
from sim.maze_physics import Float64, WallMap, advance
from sim.maze_tasks import ACTION_SIZE, MAX_STEPS, STATE_SIZE
from simpl_core.dataset_writer import Demonstration, write_demonstrations

POSITION_GAIN, VELOCITY_GAIN = 10.0, -1.0
"""Action per metre to the way point, and per m/s."""

AT_WAY_POINT = 0.1
"""A way point is passed within this distance [m]."""

JITTER = 0.1
"""Half width of the uniform noise on starts and way points around their cells' middles [m]."""

ACTION_NOISE = 0.1
"""Standard deviation of the noise on actions: a skill decoder sees how to come back to the path."""

BATCH = 256
"""Episodes made side by side."""


def shortest_path(layout: MazeLayout, start: Cell, goal: Cell, rng: np.random.Generator) -> list[Cell]:
    """Cells after `start` up to and including `goal`, any of the shortest paths with a chance."""
    steps = layout.distances(goal)
    path, cell = [], start
    while cell != goal:
        i, j = cell
        neighbours = ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1))
        nearer = [other for other in neighbours if steps[other] == steps[cell] - 1 and not layout.walls[other]]
        cell = nearer[rng.integers(len(nearer))]
        path.append(cell)
    return path


def collect(
    layout: MazeLayout,
    episodes: int,
    seed: int,
    out: Path,
    on_progress: Callable[[int], None] | None = None,
    attributes: dict[str, Any] | None = None,
) -> Path:
    """Make demonstrations in `layout` and write them to the HDF5 file `out` (see `simpl_core.dataset_writer`).

    Args:
        layout: the maze.
        episodes: how many; episode i depends on `seed` and i alone.
        seed: of starts, goals, paths and noise.
        out: file; it appears when it is complete.
        on_progress: told how many episodes more are done.
        attributes: of the file, beside the settings.

    Raises:
        DatasetError: no episodes.
    """
    settings = {"domain": "maze", "layout": str(layout), "seed": seed, "action_noise": ACTION_NOISE, "jitter": JITTER}
    made: list[Demonstration] = []
    for first in range(0, episodes, BATCH):
        batch = demonstrate(layout, range(first, min(first + BATCH, episodes)), seed)
        made += batch
        if on_progress is not None:
            on_progress(len(batch))
    return write_demonstrations(out, made, settings | (attributes or {}))


def demonstrate(layout: MazeLayout, indices: range, seed: int) -> list[Demonstration]:
    """The demonstrations of these indices, from random starts to random goals, which end them."""
    errands = [_errand(layout, np.random.default_rng([seed, index])) for index in indices]
    longest = max(len(errand.way) for errand in errands)
    way = np.stack([np.pad(errand.way, ((0, longest - len(errand.way)), (0, 0)), "edge") for errand in errands])
    noise = np.stack([errand.noise for errand in errands])
    points = np.array([len(errand.way) for errand in errands])
    states = np.stack([errand.start for errand in errands])
    walls = WallMap()
    places = np.tile(walls.add(layout, layout.walls), (len(errands), 1))

    observations = np.zeros((len(errands), MAX_STEPS, STATE_SIZE), np.float32)
    actions = np.zeros((len(errands), MAX_STEPS, ACTION_SIZE), np.float32)
    lengths, passed = np.zeros(len(errands), np.int64), np.zeros(len(errands), np.int64)
    for step in range(MAX_STEPS):
        rows = np.flatnonzero(passed < points)
        if len(rows) == 0:
            break
        offsets = way[rows, passed[rows]] - states[rows, :2]
        wanted = np.clip(POSITION_GAIN * offsets + VELOCITY_GAIN * states[rows, 2:], -1.0, 1.0)
        observations[rows, step] = states[rows]
        actions[rows, step] = np.clip(wanted + noise[rows, step], -1.0, 1.0)
        states[rows] = advance(states[rows], actions[rows, step].astype(np.float64), walls, places[rows])
        passed[rows] += np.linalg.norm(offsets, axis=1) < AT_WAY_POINT
        lengths[rows] += 1
    arrived = passed == points
    return [
        Demonstration(observations[row, :length].copy(), actions[row, :length].copy(), bool(arrived[row]))
        for row, length in enumerate(lengths)
    ]


class _Errand(NamedTuple):
    """Where a demonstration starts (4,), its way points (P, 2) and the noise on its actions (MAX_STEPS, 2)."""

    start: Float64
    way: Float64
    noise: Float64


def _errand(layout: MazeLayout, rng: np.random.Generator) -> _Errand:
    cells = layout.cells
    first, last = rng.choice(len(cells), 2, replace=False)
    path = np.array([cells[first], *shortest_path(layout, cells[first], cells[last], rng)], np.float64)
    path += rng.uniform(-JITTER, JITTER, path.shape)
    noise = ACTION_NOISE * rng.standard_normal((MAX_STEPS, ACTION_SIZE))
    return _Errand(np.append(path[0], [0.0, 0.0]), path[1:], noise)
