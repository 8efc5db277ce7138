"""Random mazes: walls with one door each, the cells one can stand in, and how far they are apart (numpy only).

The rule, with its numbers, is that of the mazes in SPiRL (Pertsch et al. 2020), which SiMPL uses: equal size and
seed give equal walls, so size 20 and seed 0 is the maze of the SiMPL paper.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from simpl_core.errors import ConfigError

Cell = tuple[int, int]

SHORTEST_WALL, LONGEST_WALL = 0.3, 0.5
"""Bounds of a wall's length, as a fraction of the maze's side."""

COVERAGE = 0.25
"""Walls are placed until they cover this fraction of the cells."""

CLEARANCE_WIDTH, CLEARANCE_WEIGHT = 5, 20.0
"""A wall is placed with probability ~ exp(-weight x fraction of the strip of this width around it that is wall)."""

CONNECTED = 0.9
"""A maze is drawn anew, from the same stream, unless its centre is free and reaches this fraction of the free cells."""

SMALLEST, LARGEST = 8, 100
"""Bounds of a maze's side [cells]."""


@dataclass(frozen=True)
class MazeLayout:
    """A maze: `size` cells a side, drawn from `seed`, within a border of walls.

    Cell (i, j) is the unit square around the point (i, j) [m]; cells 1 to `size` are inside.
    """

    size: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if not SMALLEST <= self.size <= LARGEST or self.seed < 0:
            raise ConfigError(
                f"a maze has {SMALLEST} to {LARGEST} cells a side and a seed >= 0, got {self.size} and {self.seed}"
            )

    def __str__(self) -> str:
        return f"maze {self.size}:{self.seed}"

    @property
    def walls(self) -> NDArray[np.bool_]:
        """Where walls are, (size + 2, size + 2), the border included; read-only."""
        return _walls(self.size, self.seed)

    @property
    def start(self) -> Cell:
        """The cell in the centre, which is always free."""
        return (self.size // 2, self.size // 2)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells that can be reached from the start, itself included, row by row."""
        return tuple((int(i), int(j)) for i, j in np.argwhere(self.distances(self.start) >= 0))

    def distances(self, cell: Cell) -> NDArray[np.int64]:
        """Steps from each cell to `cell` along the shortest path, (size + 2, size + 2); -1 where there is none."""
        return _distances(self.size, self.seed, cell)


@lru_cache(maxsize=64)
def _walls(size: int, seed: int) -> NDArray[np.bool_]:
    rng = np.random.default_rng(seed)
    centre = (size // 2, size // 2)
    while True:
        walls = np.pad(_draw(size, rng), 1, constant_values=True)
        if not walls[centre] and (_flood(walls, centre) >= 0).sum() >= CONNECTED * (~walls).sum():
            walls.flags.writeable = False
            return walls


def _draw(size: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    inside = np.zeros((size, size), np.bool_)
    while inside.mean() < COVERAGE:
        _place_wall(inside, rng)
    return inside


def _place_wall(inside: NDArray[np.bool_], rng: np.random.Generator) -> None:
    """Add a wall with a door, and posts at both sides of the door."""
    size = len(inside)
    along_first = rng.random() < 0.5
    length = int(max((LONGEST_WALL - SHORTEST_WALL) * size * rng.random() + SHORTEST_WALL * size, 3))
    door = int(rng.choice(np.arange(1, length - 1)))
    strip = (length, CLEARANCE_WIDTH) if along_first else (CLEARANCE_WIDTH, length)
    weights = np.exp(-CLEARANCE_WEIGHT * np.lib.stride_tricks.sliding_window_view(inside, strip).mean((2, 3)))
    place = rng.choice(weights.size, p=weights.ravel() / weights.sum())
    corner = np.unravel_index(place, weights.shape)
    along, across = corner if along_first else corner[::-1]
    door, across = door + int(along), int(across) + CLEARANCE_WIDTH // 2
    maze = inside if along_first else inside.T  # a view: what is written there is written in `inside`
    maze[along : along + length, across] = True
    maze[door, across] = False
    maze[np.ix_((door - 1, door + 1), (across - 1, across + 1))] = True


@lru_cache(maxsize=1024)
def _distances(size: int, seed: int, cell: Cell) -> NDArray[np.int64]:
    return _flood(_walls(size, seed), cell)


def _flood(walls: NDArray[np.bool_], cell: Cell) -> NDArray[np.int64]:
    """Steps from `cell` to every other, -1 where no path leads; read-only."""
    steps = np.full(walls.shape, -1, np.int64)
    steps[cell] = 0
    queue = deque([cell])
    while queue:
        i, j = queue.popleft()
        for neighbour in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
            if not walls[neighbour] and steps[neighbour] < 0:
                steps[neighbour] = steps[i, j] + 1
                queue.append(neighbour)
    steps.flags.writeable = False
    return steps
