"""Frames of a maze from above, drawn by numpy: no OpenGL, no window (numpy only)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim.maze_layout import MazeLayout
from sim.maze_tasks import GOAL_RADIUS

SIZE = 480
"""Width and height [pixels]."""

BALL_RADIUS = 0.3
"""Three times the true one, to be seen [m]."""

FLOOR, WALL, GOAL, BALL = (245, 243, 240), (96, 92, 90), (240, 190, 185), (40, 80, 160)


def draw_maze(layout: MazeLayout, position: ArrayLike, goal: ArrayLike, size: int = SIZE) -> NDArray[np.uint8]:
    """A frame (size, size, 3): walls, the goal's disc and the ball at `position` (2,); x to the right, y up."""
    cells = layout.size + 2
    along = (np.arange(size) + 0.5) * cells / size - 0.5  # [m] at the middle of each pixel
    x, y = np.meshgrid(along, along[::-1])
    frame = np.empty((size, size, 3), np.uint8)
    frame[:] = FLOOR
    frame[_disc(x, y, goal, GOAL_RADIUS)] = GOAL
    frame[layout.walls[np.rint(x).astype(int), np.rint(y).astype(int)]] = WALL
    frame[_disc(x, y, position, BALL_RADIUS)] = BALL
    return frame


def _disc(x: NDArray[np.float64], y: NDArray[np.float64], centre: ArrayLike, radius: float) -> NDArray[np.bool_]:
    i, j = np.asarray(centre, np.float64)
    within: NDArray[np.bool_] = np.hypot(x - i, y - j) <= radius
    return within
