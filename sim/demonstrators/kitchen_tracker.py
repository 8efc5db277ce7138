"""From where the gripper should go to the kitchen's nine numbers: one action for each control period."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim.demonstrators.kitchen_arm import ARM_JOINTS, Float64, KitchenArm, Pose, rotation_about, rotation_between
from sim.tasks import ACTION_SCALE, CONTROL_PERIOD

__all__ = ["GRASP", "OPEN", "Aim", "KitchenTracker"]

REACH = ACTION_SCALE * CONTROL_PERIOD
"""How far an action of 1 puts a joint's target from where the joint was measured [rad]."""

# fmt: off
RESPONSE: Float64 = np.array([0.5, 0.5, 0.5, 0.5, 0.62, 0.62, 0.62])
"""Part of the way to its target that a joint goes in one control period."""

STEP_LIMIT: Float64 = np.array([0.075, 0.075, 0.075, 0.075, 0.095, 0.095, 0.095])
"""Joint steps [rad a period] that an action within [-1, 1] can bring about, with a little to spare."""
# fmt: on

TRUST = 0.5
"""Weight of a measurement against what the last command should have done. With the response of one half, an error
of the sensor then moves the target there and the action back, and the arm stays calm."""

WINDUP = 0.25  # [rad]: how far joints and orientation of the reference may run ahead of the arm
OPEN, GRASP = 0.04, -0.05
"""Half the opening of the fingers that they are sent to [m]; below 0 they press with all they have."""


FINGER_LIMIT = 0.4
"""Largest action of a finger."""

SHARES = (1.0, 0.6, 0.35, 0.2, 0.1)
"""Parts of a period's way that are tried, longest first."""


class Aim(NamedTuple):
    """What the operator wants of the arm at this moment.

    Attributes:
        position: of the site between the fingers, (3,) [m].
        rotation: of the gripper, (3, 3).
        grip: half the opening of the fingers [m]: `OPEN` or `GRASP`.
        speed: along a straight line to there [m/s].
        turn_weight: what a radian of misalignment weighs against a metre.
        posture: (7,) [rad] towards which the arm may drift on its way; None where it must not.
        push: how far the reference may run ahead of an arm that is held back [m]; about a kilonewton per metre.
        joints: (7,) [rad] to go to instead, whatever way the gripper takes.
    """

    position: Float64
    rotation: Float64
    grip: float = GRASP
    speed: float = 0.5
    turn_weight: float = 0.3
    posture: Float64 | None = None
    push: float = 0.03
    joints: Float64 | None = None


class KitchenTracker:
    """Moves a reference pose towards the aim, no faster than the arm can, and asks for the joints that follow it."""

    def __init__(self, arm: KitchenArm, joints: Float64, turn_speed: float = 1.6) -> None:
        """Args: joints: (7,) where the arm is believed to be; turn_speed: of the gripper [rad/s]."""
        self._arm = arm
        self._turn_step = turn_speed * CONTROL_PERIOD
        self._believed: Float64 = joints.copy()
        self._joints: Float64 = joints.copy()
        self._pose = arm.pose(joints)

    @property
    def joints(self) -> Float64:
        """Where the arm is believed to be, (7,) [rad]."""
        return self._believed

    def observe(self, measured: Float64) -> None:
        """Take in the measured joints (9,) of this moment."""
        self._believed = self._believed + TRUST * (measured[:ARM_JOINTS] - self._believed)

    def follow(self, aim: Aim, measured: Float64) -> Float64:
        """The action (9,) in [-1, 1] that takes the arm, measured at (9,), one period nearer to `aim`."""
        self._rein_in(aim.push)
        self._advance(aim)
        sag = self._arm.sag(self._believed)
        wanted = (self._joints - self._believed) / RESPONSE + sag
        action = np.empty(len(measured))
        action[:ARM_JOINTS] = np.clip(wanted / REACH, -1.0, 1.0)
        action[ARM_JOINTS:] = np.clip((aim.grip - measured[ARM_JOINTS:]) / REACH, -FINGER_LIMIT, FINGER_LIMIT)
        self._believed = self._believed + RESPONSE * (REACH * action[:ARM_JOINTS] - sag)
        return action

    def _advance(self, aim: Aim) -> None:
        """Move the reference by one period: less far along the line where a joint could not keep up."""
        start = self._joints
        if aim.joints is not None:
            self._joints = start + np.clip(aim.joints - start, -STEP_LIMIT, STEP_LIMIT)
            self._pose = self._arm.pose(self._joints)
            return
        for share in SHARES:
            goal = self._ahead(aim, share)
            joints = self._arm.solve(start, goal, aim.turn_weight, aim.posture)
            if (np.abs(joints - start) <= STEP_LIMIT).all():
                break
        self._joints = start + np.clip(joints - start, -STEP_LIMIT, STEP_LIMIT)
        self._pose = goal

    def _ahead(self, aim: Aim, share: float) -> Pose:
        """The reference after `share` of this period's step."""
        way = aim.position - self._pose.position
        length = float(np.linalg.norm(way))
        reach = share * aim.speed * CONTROL_PERIOD
        position = aim.position if length <= reach else self._pose.position + way * (reach / length)
        turn = rotation_between(self._pose.rotation, aim.rotation)
        angle = float(np.linalg.norm(turn))
        most = share * self._turn_step
        if angle <= most:
            return Pose(position, aim.rotation)
        return Pose(position, rotation_about(turn / angle, most) @ self._pose.rotation)

    def _rein_in(self, push: float) -> None:
        """Where something holds the arm back, the reference waits for it."""
        self._joints = self._believed + np.clip(self._joints - self._believed, -WINDUP, WINDUP)
        here = self._arm.pose(self._believed)
        position, rotation = self._pose
        lead = position - here.position
        length = float(np.linalg.norm(lead))
        if length > push:
            position = here.position + lead * (push / length)
        turn = rotation_between(here.rotation, rotation)
        angle = float(np.linalg.norm(turn))
        if angle > WINDUP:
            rotation = rotation_about(turn / angle, WINDUP) @ here.rotation
        self._pose = Pose(position, rotation)
