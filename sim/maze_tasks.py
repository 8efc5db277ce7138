"""Goals in a maze: the task, how one is written, and the families that training and evaluation draw (numpy only).

The SiMPL paper (Sec. 5, App. A, Fig. 7, 12, 13) shows its families as pictures; here each is drawn by a rule, for
any layout, from the layout's own seed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim.maze_layout import Cell, MazeLayout
from simpl_core.errors import ConfigError, TaskError

STATE_SIZE = 4
"""Position (2) [m] and velocity (2) [m/s]."""

ACTION_SIZE = 2
"""Force along both axes, in [-1, 1]."""

CONTROL_PERIOD = 0.01
"""Time between actions [s]."""

MAX_STEPS = 2000
"""An episode is truncated after this many actions."""

START_NOISE = 0.1
"""Half width of the uniform noise on where an episode starts, around the centre [m]."""

GOAL_RADIUS = 1.0
"""A goal is reached within this distance [m]."""

NEAREST_GOAL = 2
"""Least number of cells of path from the start to a goal that is drawn; a nearer one is reached by standing still."""

SHORT = 10
"""Longest path to the goals of the easy and medium families [cells]."""

EDGE = 0.25
"""Fraction of the maze that is its top, and its bottom."""

PAPERS_MAZE = MazeLayout(20, 0)


@dataclass(frozen=True)
class MazeTask:
    """Reach the cell `goal` of `layout` from its centre."""

    goal: Cell
    layout: MazeLayout = field(default=PAPERS_MAZE)

    def __post_init__(self) -> None:
        i, j = self.goal
        if not (1 <= i <= self.layout.size and 1 <= j <= self.layout.size):
            raise TaskError(f"goal {i},{j} is outside {self.layout}, whose cells are 1 to {self.layout.size}")
        if self.layout.walls[i, j]:
            raise TaskError(f"goal {i},{j} is a wall in {self.layout}; free nearby: {_near(self.goal, self.layout)}")
        steps = int(self.layout.distances(self.layout.start)[i, j])
        if steps < 0:
            raise TaskError(f"no path leads to goal {i},{j} in {self.layout}; nearby: {_near(self.goal, self.layout)}")
        if steps == 0:
            raise TaskError(
                f"goal {i},{j} is where episodes in {self.layout} start; near it: {_near(self.goal, self.layout)}"
            )

    def __str__(self) -> str:
        return f"{self.goal[0]},{self.goal[1]} in {self.layout}"


def parse_maze_task(text: str, layout: MazeLayout = PAPERS_MAZE) -> MazeTask:
    """Read a task such as "8,2" (a goal in `layout`) or "8, 2 in maze 20:0" (size and seed named).

    Raises:
        TaskError: cannot be read, or no goal can be there.
    """
    goal, where = _split(text, layout)
    found = re.fullmatch(r"\(?\s*(\d+)\s*[,\s]\s*(\d+)\s*\)?", goal)
    if found is None:
        raise TaskError(
            f"'{text}' is no goal in a maze; write '8,2' or, with size and seed, '8,2 in maze 20:0'; "
            f"or name a family of goals: {', '.join(FAMILIES)}"
        )
    return MazeTask((int(found[1]), int(found[2])), where)


def read_maze_tasks(text: str, layout: MazeLayout = PAPERS_MAZE) -> tuple[MazeTask, ...]:
    """The tasks of a family such as "maze40" or "target in maze 20:3", or one task as `parse_maze_task` reads it."""
    name, where = _split(text, layout)
    return maze_tasks(name, where) if name in FAMILIES else (parse_maze_task(text, layout),)


def _split(text: str, layout: MazeLayout) -> tuple[str, MazeLayout]:
    """What is wanted, and in which maze: that named after "in maze", or `layout`."""
    found = re.fullmatch(r"(.*?)(?:\s+in\s+maze\s+(\d+):(\d+))?", " ".join(text.lower().split()))
    if found is None or found[2] is None:
        return text.strip().lower(), layout
    try:
        return found[1], MazeLayout(int(found[2]), int(found[3]))
    except ConfigError as error:
        raise TaskError(f"'{text}': {error}") from error


def start_state(layout: MazeLayout, rng: np.random.Generator) -> NDArray[np.float64]:
    """Where an episode starts: the centre +-0.1, at rest; (4,)."""
    state = np.zeros(STATE_SIZE)
    state[:2] = layout.start + rng.uniform(-START_NOISE, START_NOISE, 2)
    return state


def reached(positions: ArrayLike, goals: ArrayLike) -> NDArray[np.bool_]:
    """Whether `positions` (..., 2) are at their `goals` (..., 2)."""
    offset = np.asarray(positions, np.float64) - np.asarray(goals, np.float64)
    within: NDArray[np.bool_] = (offset**2).sum(-1) <= GOAL_RADIUS**2
    return within


def maze_tasks(family: str, layout: MazeLayout = PAPERS_MAZE) -> tuple[MazeTask, ...]:
    """The tasks of a family (see `FAMILIES`) in a layout, always the same ones.

    Raises:
        TaskError: unknown family, or the maze is too small for it.
    """
    if family not in FAMILIES:
        raise TaskError(f"no family of maze tasks '{family}'; there are {', '.join(FAMILIES)}")
    choose, first, last = FAMILIES[family]
    goals = choose(layout)
    if len(goals) < last:
        raise TaskError(f"{layout} has {len(goals)} goals to draw '{family}' from, which needs {last}")
    return tuple(MazeTask(goal, layout) for goal in goals[first:last])


def is_unseen(task: MazeTask, family: str = "maze40") -> bool:
    """Whether `task` is not among the training tasks `family` of its layout."""
    return task not in maze_tasks(family, task.layout)


def _anywhere(layout: MazeLayout) -> list[Cell]:
    return _shuffled(_goals(layout), layout, 0)


def _top(layout: MazeLayout) -> list[Cell]:
    return _shuffled([cell for cell in _goals(layout) if cell[1] > (1.0 - EDGE) * layout.size], layout, 1)


def _bottom(layout: MazeLayout) -> list[Cell]:
    return _shuffled([cell for cell in _goals(layout) if cell[1] <= EDGE * layout.size], layout, 2)


def _short(layout: MazeLayout) -> list[Cell]:
    return _shuffled(_goals(layout, farthest=SHORT), layout, 3)


def _cluster(layout: MazeLayout) -> list[Cell]:
    """Short goals around one of them, nearest first in twos of one training and one target goal."""
    goals = _short(layout)
    steps = layout.distances(max(goals, key=lambda cell: int(layout.distances(layout.start)[cell])))
    nearest = sorted(goals, key=lambda cell: int(steps[cell]))[:20]
    return nearest[::2] + nearest[1::2]


FAMILIES: dict[str, tuple[Callable[[MazeLayout], list[Cell]], int, int]] = {
    "target": (_anywhere, 0, 10),
    "maze40": (_anywhere, 10, 50),
    "maze20": (_anywhere, 10, 30),
    "maze10": (_anywhere, 10, 20),
    "hard": (_anywhere, 10, 50),
    "top": (_top, 0, 10),
    "target-top": (_top, 10, 20),
    "target-bottom": (_bottom, 0, 10),
    "medium": (_short, 0, 10),
    "target-medium": (_short, 10, 20),
    "easy": (_cluster, 0, 10),
    "target-easy": (_cluster, 10, 20),
}
"""Named sets of goals: a random order of cells and which of them are taken.

`maze40`, its first 20 and its first 10 are training goals from anywhere, `target` ten others; `hard` is `maze40`.
`top` are ten training goals from the top quarter, with ten targets at the top and ten at the bottom. `medium` goals
are at most 10 cells of path away, in any direction; `easy` ones also lie next to each other.
"""

TRAINING_FAMILIES = ("maze40", "maze20", "maze10", "top", "easy", "medium", "hard")


def _goals(layout: MazeLayout, farthest: int | None = None) -> list[Cell]:
    """Cells that are not next to the start, and at most `farthest` steps from it."""
    steps = layout.distances(layout.start)
    return [cell for cell in layout.cells if NEAREST_GOAL <= steps[cell] <= (farthest or steps.max())]


def _shuffled(cells: list[Cell], layout: MazeLayout, family: int) -> list[Cell]:
    order = np.random.default_rng([layout.size, layout.seed, family]).permutation(len(cells))
    return [cells[index] for index in order]


def _near(cell: Cell, layout: MazeLayout) -> str:
    others = [other for other in layout.cells if other not in (cell, layout.start)]
    others.sort(key=lambda other: abs(other[0] - cell[0]) + abs(other[1] - cell[1]))
    return "; ".join(f"{i},{j}" for i, j in others[:3])
