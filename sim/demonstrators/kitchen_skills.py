"""How each of the kitchen's subtasks is done: strategies that say, period after period, where the gripper should go.

A strategy is a generator: it looks at the kitchen through a `Hand`, yields an `Aim` for one control period, and
ends when it has done its work or given up. Whether the subtask succeeded is for others to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sim.demonstrators.kitchen_arm import Float64, KitchenArm, Pose, facing
from sim.demonstrators.kitchen_tracker import GRASP, OPEN, Aim
from sim.tasks import SUBTASKS

__all__ = ["STRATEGIES", "Hand", "Strategy"]

TIP = 0.045
"""From the site between the fingers to where their tips do their work [m]."""

GRASP_DEPTH = 0.015
"""How far short of a handle's axis the site stays when the fingers grasp it [m]."""

SLIP = 0.075
"""A handle farther than this from where it should be in the fingers has slipped out [m]."""

TRIES = 2
"""What the finger tips slip off is tried again."""

KETTLE_GOAL: Float64 = np.array(SUBTASKS["kettle"].goal[:3])


@dataclass
class Hand:
    """What a strategy knows: the kitchen as observed, where the arm is believed to be, and this episode's whims."""

    arm: KitchenArm
    pose: Pose
    joints: Float64
    rng: np.random.Generator
    jitter: float
    pace: float

    def near(self, point: Float64) -> Float64:
        """`point` (3,) [m], missed by a little in each direction, differently each time."""
        return np.asarray(point + self.rng.uniform(-self.jitter, self.jitter, 3))

    def about(self, angle: float) -> float:
        """`angle` [rad], give or take three degrees."""
        return float(angle + self.rng.uniform(-0.05, 0.05))

    def paced(self, aim: Aim) -> Aim:
        """`aim` at this episode's pace."""
        return aim._replace(speed=aim.speed * self.pace)


Strategy = Callable[[Hand], Iterator[Aim]]


def by(x: float, y: float, z: float) -> Float64:
    """A displacement (3,) [m]: to the right, ahead, up."""
    return np.array([x, y, z])


def reach(hand: Hand, aim: Aim, tolerance: float = 0.03, patience: int = 40) -> Iterator[Aim]:
    """Go to `aim` until closer than `tolerance` [m], or for `patience` periods."""
    for _ in range(patience):
        if np.linalg.norm(hand.pose.position - aim.position) < tolerance:
            return
        yield hand.paced(aim)


def hold(hand: Hand, aim: Aim, periods: int) -> Iterator[Aim]:
    """Stay at `aim`."""
    for _ in range(periods):
        yield hand.paced(aim)


def back_off(hand: Hand, face: Float64, grip: float = GRASP, distance: float = 0.1) -> Iterator[Aim]:
    """Withdraw against the direction in which the gripper looks."""
    yield from reach(hand, Aim(hand.pose.position - distance * face[:, 2], face, grip), patience=10)


def unwind(hand: Hand, joints: Float64) -> Iterator[Aim]:
    """Go to `joints` (7,) joint by joint, or nearly."""
    for _ in range(20):
        if np.abs(hand.joints - joints).max() < 0.25:
            return
        yield Aim(hand.pose.position, hand.pose.rotation, joints=joints)


class Door(NamedTuple):
    """What turns on a hinge and has an upright handle; angles [rad] count as the joint does."""

    joint: str
    handle: str
    open_at: float
    lead: float
    """How far ahead of the handle, along its arc, the gripper is sent."""
    yaw: float
    pitch: float
    follow: float
    """Part of the door's turn that the gripper makes."""
    height: float
    """Of the grasp above the handle's middle [m]."""
    posture: Float64 | None
    """(7,) towards which the arm drifts on its way to the handle; the wrist has two ways to get there."""


MICROWAVE = Door(
    "microwave", "microhandle_site", -0.72, -0.22, 0.25, 0.0, -0.3, 0.05,
    np.array([-1.19, -1.76, 1.83, -1.46, -0.73, 1.33, 2.54]),
)  # fmt: skip
HINGE_CABINET = Door("right_hinge_cabinet", "hinge_site2", 1.38, 0.25, -0.2, 0.3, 0.3, -0.05, None)


CROUCH: Float64 = np.array([-0.4, -1.6, 1.3, -2.5, -0.1, 1.4, 1.6])
"""A posture (7,) before the stove, below the cabinets and above the kettle [rad]."""


def swing_open(hand: Hand, door: Door) -> Iterator[Aim]:
    """Grasp the handle and pull it along the door's arc; grasp again when it slips."""
    yaw, pitch = hand.about(door.yaw), hand.about(door.pitch)
    miss = hand.near(np.array([0.0, 0.0, door.height]))
    pulls = 80

    def angle() -> float:
        return abs(hand.arm.joint(door.joint))

    def face() -> Float64:
        return facing(yaw + door.follow * hand.arm.joint(door.joint), pitch)

    for _ in range(3):
        ahead = face()
        grasp = hand.arm.site(door.handle) + miss - GRASP_DEPTH * ahead[:, 2]
        yield from reach(hand, Aim(grasp - 0.1 * ahead[:, 2], ahead, OPEN, posture=door.posture))
        yield from reach(hand, Aim(grasp, ahead, OPEN, speed=0.4), 0.012, 15)
        yield from hold(hand, Aim(grasp, ahead), 4)
        while pulls > 0 and angle() < abs(door.open_at):
            pulls -= 1
            ahead = face()
            offset = miss - GRASP_DEPTH * ahead[:, 2]
            handle = hand.arm.site(door.handle)
            if np.linalg.norm(handle + offset - hand.pose.position) > SLIP:
                break
            yield hand.paced(Aim(hand.arm.swept(handle, door.joint, door.lead) + offset, ahead, turn_weight=0.15))
        yield from hold(hand, Aim(hand.pose.position, ahead, OPEN), 3)
        yield from back_off(hand, ahead, OPEN, 0.12)
        if angle() >= abs(door.open_at) or pulls <= 0:
            return


def microwave(hand: Hand) -> Iterator[Aim]:
    """Pull the door open."""
    return swing_open(hand, MICROWAVE)


def hinge_cabinet(hand: Hand) -> Iterator[Aim]:
    """Pull the right door open and duck away from under it."""
    yield from swing_open(hand, HINGE_CABINET)
    yield from unwind(hand, CROUCH)


def kettle(hand: Hand) -> Iterator[Aim]:
    """Hook the bar from below with the closed gripper, lift, carry, lower. Pushing would tip it."""
    face = facing(hand.about(-0.4))
    under = hand.near(hand.arm.site("kettle_site") - by(0.0, 0.0, 0.08)) - 0.02 * face[:, 2]
    yield from reach(hand, Aim(under - 0.12 * face[:, 2], face))
    yield from reach(hand, Aim(under, face, speed=0.4), 0.015, 15)
    lifted = under + by(0.0, 0.0, 0.075)
    carried = lifted + KETTLE_GOAL - _kettle(hand)
    yield from reach(hand, Aim(lifted, face, speed=0.35), 0.02, 10)
    for _ in range(40):
        if (KETTLE_GOAL - _kettle(hand))[1] < 0.03:
            break
        yield hand.paced(Aim(carried, face))
    lowered = np.array([*hand.pose.position[:2], under[2]])
    yield from reach(hand, Aim(lowered, face, speed=0.35), 0.012, 12)
    yield from back_off(hand, face, distance=0.16)


def _kettle(hand: Hand) -> Float64:
    return np.array([hand.arm.joint(f"kettle_{axis}") for axis in "xyz"])


AT_KNOBS: Float64 = np.array([-1.2, -1.3, 1.4, -2.2, -0.1, 1.7, 0.8])
"""A posture (7,) [rad] towards which the arm drifts on its way there, so that its wrist can push."""

UNDER_DOOR = (0.4, -0.4)
"""Pitch and roll [rad] that keep palm and wrist below the cabinets' doors while the tips are at the upper knobs."""


def flick(hand: Hand, site: str, knob: str) -> Iterator[Aim]:
    """Push the upper end of a knob's bar to the right with the closed finger tips.

    The gripper is rolled, or its palm would run into the light switch beside the knobs. Under an open cabinet door
    it comes from below.
    """
    pitch, roll = UNDER_DOOR if hand.arm.joint("right_hinge_cabinet") > 0.5 else (0.0, -0.8)
    for _ in range(TRIES):
        face = facing(hand.about(-0.3), hand.about(pitch), roll)
        centre = hand.near(hand.arm.site(site)) + by(0.0, 0.005, 0.0) - TIP * face[:, 2]
        yield from reach(hand, Aim(centre + _beside(0.0, 0.036, -0.05) - 0.1 * face[:, 2], face, posture=AT_KNOBS))
        yield from reach(hand, Aim(centre + _beside(0.0, 0.036, -0.045), face, speed=0.4), 0.012, 15)
        for _ in range(25):
            turned = -hand.arm.joint(knob)
            if turned > 0.85:
                break
            yield hand.paced(Aim(centre + _beside(turned, 0.05, 0.035), face, speed=0.4, push=0.05))
        yield from back_off(hand, face)
        if -hand.arm.joint(knob) > 0.7:
            return


def _beside(turned: float, radius: float, ahead: float) -> Float64:
    """From a knob's centre: `radius` along its upright bar, `ahead` of it in the direction in which it turns [m]."""
    sine, cosine = np.sin(turned), np.cos(turned)
    return radius * np.array([sine, 0.0, cosine]) + ahead * np.array([cosine, 0.0, -sine])


def bottom_burner(hand: Hand) -> Iterator[Aim]:
    """Turn its knob."""
    return flick(hand, "knob2_site", "bottom_left_knob")


def top_burner(hand: Hand) -> Iterator[Aim]:
    """Turn its knob."""
    return flick(hand, "knob4_site", "top_left_knob")


def light_switch(hand: Hand) -> Iterator[Aim]:
    """Sweep it to the left with the closed finger tips."""
    for _ in range(TRIES):
        face = facing(hand.about(0.0), 0.15)
        switch = hand.near(hand.arm.site("light_site")) + by(0.0, 0.01, 0.01) - TIP * face[:, 2]
        yield from reach(hand, Aim(switch + by(0.062, -0.1, 0.0), face))
        yield from reach(hand, Aim(switch + by(0.06, 0.0, 0.0), face, speed=0.4), 0.012, 15)
        for _ in range(20):
            if hand.arm.joint("light_switch") < -0.68:
                break
            yield hand.paced(Aim(switch - by(0.07, 0.0, 0.0), face, speed=0.35))
        yield from back_off(hand, face)
        if hand.arm.joint("light_switch") < -0.6:
            return


def slide_cabinet(hand: Hand) -> Iterator[Aim]:
    """Push the handle to the right with the closed gripper, and come back."""
    yaw = hand.about(-0.45)
    face = facing(yaw, 0.5)
    beside = hand.near(hand.arm.site("slide_site")) + by(-0.05, -0.01, -0.05)
    yield from reach(hand, Aim(beside + by(-0.03, -0.14, -0.03), face))
    yield from reach(hand, Aim(beside, face, speed=0.4), 0.015, 15)
    for _ in range(50):
        moved = hand.arm.joint("slide_cabinet")
        if moved > 0.36:
            break
        point = hand.arm.site("slide_site") + by(0.06, -0.02, 0.0)
        point[2] = beside[2]
        yield hand.paced(Aim(point, facing(yaw - 0.6 * moved, 0.5), turn_weight=0.15))
    yield from reach(hand, Aim(hand.pose.position + by(-0.04, -0.05, -0.01), hand.pose.rotation), patience=5)
    # Far out there the wrist is at its stops: a straight line back would fold the arm up.
    yield from unwind(hand, CROUCH)


STRATEGIES: dict[str, Strategy] = {
    "bottom burner": bottom_burner,
    "top burner": top_burner,
    "light switch": light_switch,
    "slide cabinet": slide_cabinet,
    "hinge cabinet": hinge_cabinet,
    "microwave": microwave,
    "kettle": kettle,
}
