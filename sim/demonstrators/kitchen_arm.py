"""The arm as its operator knows it: kinematics, gravity and where the kitchen's handles are, from one observation.

All of it is geometry: MuJoCo's kinematics on a private copy of the model's data. Nothing here sees the simulation.
"""

from __future__ import annotations

from typing import NamedTuple

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim.kitchen import load_kitchen_model
from sim.tasks import OBJECT_COORDINATES, ROBOT_JOINTS

__all__ = ["ARM_JOINTS", "KitchenArm", "Pose", "facing", "rotation_about", "rotation_between"]

Float64 = NDArray[np.float64]

ARM_JOINTS = 7
DAMPING = 0.03
ITERATIONS = 8
TOLERANCE = 5e-4  # [m], and [rad] times the weight of orientation
POSTURE_GAIN = 0.3
STOP_MARGIN = 0.01  # [rad]

_HOME_ROTATION = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])


class Pose(NamedTuple):
    """Of the site between the fingers: position (3,) [m] and rotation (3, 3).

    Columns of the rotation in the world: x up, y along the line on which the fingers open, z ahead.
    """

    position: Float64
    rotation: Float64


class KitchenArm:
    """Seven joints that hold a gripper, and the kitchen around them as last observed."""

    def __init__(self) -> None:
        self._model = load_kitchen_model()
        self._seen = mujoco.MjData(self._model)  # the kitchen as observed
        self._thought = mujoco.MjData(self._model)  # the arm in postures that are only considered
        self._site = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_SITE, "end_effector")
        lower, upper = self._model.jnt_range[:ARM_JOINTS].T
        self._lower, self._upper = lower + STOP_MARGIN, upper - STOP_MARGIN
        self._stiffness: Float64 = self._model.actuator_gainprm[:ARM_JOINTS, 0].copy()
        self._jacobian = np.zeros((6, self._model.nv))

    def look(self, state: ArrayLike) -> None:
        """Take in an observed state (30,); `site`, `joint` and `swept` speak of it from now on."""
        self._seen.qpos[:] = state
        mujoco.mj_kinematics(self._model, self._seen)

    def site(self, name: str) -> Float64:
        """Position (3,) [m] of a named site of the kitchen, such as "slide_site"."""
        return np.array(self._seen.site(name).xpos)

    def joint(self, name: str) -> float:
        """Observed coordinate of one of the kitchen's things [rad, m], by its name in `sim.tasks`."""
        return float(self._seen.qpos[len(ROBOT_JOINTS) + OBJECT_COORDINATES.index(name)])

    def swept(self, point: Float64, joint: str, angle: float) -> Float64:
        """Where `point` (3,), fixed to what turns about `joint` (its name in the model), is after `angle` [rad]."""
        index = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_JOINT, joint)
        anchor, axis = self._seen.xanchor[index], self._seen.xaxis[index]
        return np.asarray(anchor + rotation_about(axis, angle) @ (point - anchor))

    def pose(self, joints: Float64) -> Pose:
        """Where the gripper is with `joints` (7,) [rad]."""
        data = self._think(joints)
        return Pose(np.array(data.site_xpos[self._site]), np.array(data.site_xmat[self._site]).reshape(3, 3))

    def sag(self, joints: Float64) -> Float64:
        """How far gravity pulls each joint (7,) [rad] below its position target, at rest."""
        data = self._think(joints)
        force = np.empty(self._model.nv)
        mujoco.mj_rne(self._model, data, 0, force)
        return np.asarray(force[:ARM_JOINTS] / self._stiffness)

    def solve(self, start: Float64, goal: Pose, turn_weight: float, posture: Float64 | None = None) -> Float64:
        """Joints (7,) [rad] that bring the gripper to `goal`, by damped least squares from `start` (7,).

        Args:
            start: where to begin; of many solutions one nearby is found.
            goal: wanted pose.
            turn_weight: what a radian of misalignment weighs against a metre of distance.
            posture: (7,) where the arm drifts as far as the gripper does not care; None: no drift.
        """
        joints: Float64 = start.copy()
        for _ in range(ITERATIONS):
            data = self._think(joints)
            error = np.concatenate(
                [
                    goal.position - data.site_xpos[self._site],
                    turn_weight * rotation_between(np.array(data.site_xmat[self._site]).reshape(3, 3), goal.rotation),
                ]
            )
            if posture is None and np.abs(error).max() < TOLERANCE:
                break
            mujoco.mj_jacSite(self._model, data, self._jacobian[:3], self._jacobian[3:], self._site)
            jacobian = self._jacobian[:, :ARM_JOINTS].copy()
            jacobian[3:] *= turn_weight
            # J^T (J J^T + d^2 I)^-1, the damped inverse: exact where the arm can follow, small where it cannot.
            inverse = np.linalg.solve(jacobian @ jacobian.T + DAMPING**2 * np.eye(6), jacobian).T
            step = inverse @ error
            if posture is not None:
                drift = POSTURE_GAIN / ITERATIONS * (posture - joints)
                step += drift - inverse @ (jacobian @ drift)
            joints = np.clip(joints + step, self._lower, self._upper)
        return joints

    def _think(self, joints: Float64) -> mujoco.MjData:
        self._thought.qpos[:ARM_JOINTS] = joints
        mujoco.mj_kinematics(self._model, self._thought)
        mujoco.mj_comPos(self._model, self._thought)
        return self._thought


def facing(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> Float64:
    """Rotation (3, 3) of a gripper that looks at the back wall, turned left by `yaw`, up by `pitch` [rad].

    `roll` turns it about the direction in which it looks.
    """
    turn = rotation_about(np.array([0.0, 0.0, 1.0]), yaw) @ rotation_about(np.array([1.0, 0.0, 0.0]), pitch)
    return np.asarray(turn @ rotation_about(np.array([0.0, 1.0, 0.0]), roll) @ _HOME_ROTATION)


def rotation_about(axis: Float64, angle: float) -> Float64:
    """Rotation (3, 3) by `angle` [rad] about the unit vector `axis` (3,) (Rodrigues' formula)."""
    x, y, z = axis
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross)


def rotation_between(start: Float64, end: Float64) -> Float64:
    """Rotation vector (3,) [rad], in the world, that turns `start` (3, 3) into `end` (3, 3)."""
    turn = end @ start.T
    vector = 0.5 * np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    sine, cosine = float(np.linalg.norm(vector)), 0.5 * (float(np.trace(turn)) - 1.0)
    return np.asarray(vector * (np.arctan2(sine, cosine) / sine)) if sine > 1e-9 else np.zeros(3)
