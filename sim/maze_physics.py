"""The maze's point mass as MuJoCo moves it, in numpy and for many at once.

What `sim.maze` has as a MuJoCo model is here in closed form: a ball pushed by forces, slowed by its joints' damping and
kept out of square walls by MuJoCo's soft contacts. A ball in a free cell can touch three walls at most: one beside it
along each axis and the one between those, by its corner. So the contact forces have a closed form, and agree with
MuJoCo's solver to rounding. (MuJoCo's documentation, Computation: "Constraint model", "Solver parameters", "Euler".)
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

TIMESTEP = 0.01
"""[s]"""
RADIUS = 0.1
"""Of the ball [m]."""
DENSITY = 1000.0
"""[kg/m^3]"""
MASS = DENSITY * 4.0 / 3.0 * math.pi * RADIUS**3
"""4.19 [kg]."""
DAMPING = 1.0
"""Of both joints [N s/m]."""
GEAR = 100.0
"""Force of an action of 1 [N]."""
MAX_SPEED = 5.0
"""Along each axis, at the beginning of a step [m/s]."""
MARGIN = 0.002
"""Contacts are felt from this distance on [m]."""
REACH = RADIUS + MARGIN
"""A wall is felt within this distance of the centre [m]."""
WALL_HALF = 0.5
"""Half a wall's side [m]."""

# MuJoCo's default `solref` (time constant, damping ratio) and `solimp` (least, most, width; power 2 about 0.5).
_TIME_CONSTANT, _DAMPING_RATIO = 0.02, 1.0
_LEAST, _MOST, _WIDTH = 0.9, 0.95, 0.001
_VELOCITY_GAIN = 2.0 / (_MOST * _TIME_CONSTANT)
_POSITION_GAIN = 1.0 / (_MOST * _TIME_CONSTANT * _DAMPING_RATIO) ** 2


class WallMap:
    """The walls of several mazes in one flat array, looked up by (maze, cell)."""

    def __init__(self) -> None:
        self._flat = np.zeros(0, np.bool_)
        self._places: dict[object, tuple[int, int]] = {}

    def add(self, name: object, walls: NDArray[np.bool_]) -> tuple[int, int]:
        """Keep `walls` (n, n) under `name`, once; returns where they are: (offset, stride)."""
        if name not in self._places:
            self._places[name] = (len(self._flat), walls.shape[1])
            self._flat = np.concatenate([self._flat, walls.ravel()])
        return self._places[name]

    def beside(self, places: NDArray[np.int64], cells: Float64, sides: Float64) -> NDArray[np.bool_]:
        """Whether there are walls beside `cells` (n, 2) of the mazes at `places` (n, 2), towards `sides` (n, 2) of +-1.

        Returns:
            (3, n): beside along x, along y, and between those.
        """
        stride, steps = places[:, 1], sides.astype(np.int64)
        here = places[:, 0] + (cells[:, 0] * stride + cells[:, 1]).astype(np.int64)
        beside_x = here + steps[:, 0] * stride
        found = np.array([beside_x, here + steps[:, 1], beside_x + steps[:, 1]])
        # All cells beside a free one are there; for a ball that was placed in a wall at the edge it is the nearest.
        return self._flat.take(found, mode="clip")


def advance(states: Float64, actions: Float64, walls: WallMap, places: NDArray[np.int64]) -> Float64:
    """One step of 0.01 s.

    Args:
        states: (n, 4) positions [m] and velocities [m/s].
        actions: (n, 2) in [-1, 1].
        walls: of all mazes.
        places: (n, 2) where each state's maze is in `walls`.

    Returns:
        States (n, 4) after it.
    """
    positions, velocities = states[:, :2], np.minimum(np.maximum(states[:, 2:], -MAX_SPEED), MAX_SPEED)
    forces = GEAR * actions - DAMPING * velocities
    cells = np.rint(positions)
    offsets = positions - cells
    gaps = WALL_HALF - np.abs(offsets)  # between the ball's centre and the sides of its cell
    if (gaps < REACH).any():
        sides = np.copysign(1.0, offsets)
        away, beside = -sides, walls.beside(places, cells, sides)
        # As seen by a ball whose walls are on its negative sides: force away from a wall is positive.
        forces += away * _contact_forces(gaps, beside, away * velocities, away * forces)
    # Euler's method, implicit in the joints' damping as MuJoCo's is.
    velocities = velocities + TIMESTEP / (MASS + TIMESTEP * DAMPING) * forces
    return np.concatenate([positions + TIMESTEP * velocities, velocities], axis=1)


def _contact_forces(gaps: Float64, walls: NDArray[np.bool_], velocities: Float64, forces: Float64) -> Float64:
    """Sum of the walls' forces on each ball, (n, 2) [N].

    They minimise m/2 |a - a_free|^2 + sum_i D_i/2 min(0, n_i a - w_i)^2 over the acceleration a, where n_i points
    away from wall i and w_i is the acceleration that would settle contact i. The two walls along the axes act on one
    number of a each, where the minimum is at n a = a_free + d max(0, w - a_free) with the impedance d.

    Args:
        gaps: (n, 2) from the centre to the walls' sides, along both axes.
        walls: (3, n) whether there is a wall along x, along y, and between those.
        velocities: (n, 2) away from the sides.
        forces: (n, 2) other forces, in the same directions.
    """
    free = forces / MASS
    impedance, wanted = _settle(gaps, velocities)
    firmness = np.where(walls[:2].T & (gaps < REACH), impedance, 0.0)
    accelerations = firmness * np.maximum(wanted - free, 0.0)
    corner = np.flatnonzero(walls[2] & (gaps[:, 0] ** 2 + gaps[:, 1] ** 2 < REACH**2))
    if len(corner):
        rows = (gaps[corner], velocities[corner], free[corner], firmness[corner], wanted[corner])
        accelerations[corner] = _with_corner(*rows)
    return MASS * accelerations


def _with_corner(gaps: Float64, velocities: Float64, free: Float64, firmness: Float64, wanted: Float64) -> Float64:
    """Acceleration by all walls (n, 2) where one is touched by its corner, beside up to two others.

    The corner adds p >= 0 along its normal n, and the other walls answer: a(p) = a_free + p n + d max(0, w - a_free -
    p n). So p = d_c/(1 - d_c) (w_c - n a(p)) is one equation whose right side falls in two kinks at most, of convex
    shape: three of Newton's steps from p = 0 solve it.
    """
    distances = np.sqrt((gaps**2).sum(1))
    normals = gaps / distances[:, None]
    impedance, corner_wanted = _settle(distances, (normals * velocities).sum(1))
    ratio = (1.0 - impedance) / impedance
    pushes = np.zeros((len(gaps), 1))
    for _ in range(3):
        missing = wanted - free - pushes * normals
        held = np.where(missing > 0.0, firmness, 0.0)
        total = free + pushes * normals + held * missing
        residual = ratio * pushes[:, 0] - corner_wanted + (normals * total).sum(1)
        slope = ratio + (normals**2 * (1.0 - held)).sum(1)
        pushes = np.maximum(pushes - (residual / slope)[:, None], 0.0)
    answer: Float64 = pushes * normals + firmness * np.maximum(wanted - free - pushes * normals, 0.0)
    return answer


def _settle(distances: Float64, velocities: Float64) -> tuple[Float64, Float64]:
    """Impedance of contacts at `distances` [m] from the centre, and the accelerations that would settle them.

    The impedance says how firmly a contact is kept: between 0.9 and 0.95, by depth.
    """
    depth = distances - REACH
    x = np.minimum(np.abs(depth) / _WIDTH, 1.0)
    impedance = _LEAST + (_MOST - _LEAST) * np.where(x <= 0.5, 2.0 * x**2, 1.0 - 2.0 * (1.0 - x) ** 2)
    return impedance, -_VELOCITY_GAIN * velocities - _POSITION_GAIN * impedance * depth
