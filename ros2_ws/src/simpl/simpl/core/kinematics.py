"""Where an arm's tool is, and whether a motion keeps it in its box: a table of joint frames, numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simpl.core.profile_parts import Kinematics, Workspace

FloatArray = NDArray[np.float64]

MARGIN = 0.02
"""Distance kept from the walls [m]: the way between two looks is an arc, and an arm follows with a delay."""
_ROUNDING = 1e-9  # [m]


class ForwardKinematics:
    """Positions of the tool for joint positions, one or many at once."""

    def __init__(self, kinematics: Kinematics) -> None:
        """`kinematics` of the profile."""
        self._tool = np.array(kinematics.tool.xyz, dtype=np.float64)
        self._joints = []
        for frame in kinematics.joints:
            x, y, z = np.array(frame.axis) / np.linalg.norm(frame.axis)
            cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
            fixed = _rotation(*frame.origin.rpy)
            # Rodrigues: R = R0 (1 + sin K + (1 - cos) K^2). Transposed, because points are rows.
            self._joints.append((np.array(frame.origin.xyz), fixed.T, (fixed @ cross).T, (fixed @ cross @ cross).T))

    def tool(self, position: FloatArray) -> FloatArray:
        """Joint positions (..., A) [rad] -> the tool in the frame of the base (..., 3) [m]."""
        sine, rest = np.sin(position), 1.0 - np.cos(position)
        point = np.broadcast_to(self._tool, (*position.shape[:-1], 1, 3))
        for index in reversed(range(len(self._joints))):
            origin, fixed, turning, tilting = self._joints[index]
            rotation = fixed + sine[..., index, None, None] * turning + rest[..., index, None, None] * tilting
            point = point @ rotation + origin
        tool: FloatArray = point[..., 0, :]
        return tool


class Box:
    """The workspace of an arm as a question: does a motion keep the tool inside?"""

    def __init__(self, workspace: Workspace, kinematics: Kinematics) -> None:
        """Both from the profile."""
        self._kinematics = ForwardKinematics(kinematics)
        self._lowest, self._highest = np.array(workspace.low), np.array(workspace.high)
        self._low, self._high = self._lowest + MARGIN, self._highest - MARGIN

    def holds(self, position: FloatArray, path: FloatArray) -> NDArray[np.bool_]:
        """Which of the ways (N, S, A) from `position` (A,) stay inside, or lead no further out than it is: (S,)."""
        start = np.broadcast_to(position, (1, *path.shape[1:]))
        tool = self._kinematics.tool(np.concatenate((start, path)))
        here = tool[0, 0]
        low, high = np.minimum(self._low, here) - _ROUNDING, np.maximum(self._high, here) + _ROUNDING
        good: NDArray[np.bool_] = ((tool >= low) & (tool <= high)).all(axis=(0, 2))
        return good

    def misses(self, position: FloatArray) -> FloatArray | None:
        """Where the tool is at `position` (A,) [m], if that is outside or within the margin of a wall."""
        tool = self._kinematics.tool(position)
        return None if bool(((self._low <= tool) & (tool <= self._high)).all()) else tool

    def leaves(self, position: FloatArray, onwards: FloatArray) -> bool:
        """Whether the tool is outside, margin not counted, and further out at `onwards` (A,) than at `position`."""
        here, there = self._kinematics.tool(position), self._kinematics.tool(onwards)
        out = (here > self._highest) & (there > here + _ROUNDING) | (here < self._lowest) & (there < here - _ROUNDING)
        return bool(out.any())


def _rotation(roll: float, pitch: float, yaw: float) -> FloatArray:
    """Matrix (3, 3) of a URDF's rpy."""
    (sr, sp, sy), (cr, cp, cy) = np.sin((roll, pitch, yaw)), np.cos((roll, pitch, yaw))
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, cr, -sr], [0.0, sr, cr]])
    about_y = np.array([[cp, 0.0, sp], [0.0, 1.0, 0.0], [-sp, 0.0, cp]])
    about_z = np.array([[cy, -sy, 0.0], [sy, cy, 0.0], [0.0, 0.0, 1.0]])
    return about_z @ about_y @ about_x
