"""A teleoperator who does the subtasks of a task one after the other, and never twice in the same way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim.demonstrators.kitchen_arm import ARM_JOINTS, KitchenArm
from sim.demonstrators.kitchen_skills import STRATEGIES, Hand
from sim.demonstrators.kitchen_tracker import Aim, KitchenTracker
from sim.tasks import ACTION_SIZE, KitchenTask

__all__ = ["KitchenTeleoperator", "Manner"]

FINGER_NOISE = 0.3
"""Noise on a finger's action for one on a joint's."""


@dataclass(frozen=True)
class Manner:
    """How much a teleoperator varies."""

    jitter: tuple[float, float] = (0.005, 0.010)
    """By how much targets are missed in each direction [m]: drawn from here for each episode."""
    action_noise: tuple[float, float] = (0.05, 0.10)
    """Standard deviation of the noise on actions, likewise."""
    pace: tuple[float, float] = (0.8, 1.0)
    """Part of full speed, likewise."""


class KitchenTeleoperator:
    """Acts on what is observed, noise included, and on the model's geometry; on nothing else."""

    def __init__(
        self,
        task: KitchenTask,
        state: ArrayLike,
        rng: np.random.Generator,
        manner: Manner | None = None,
        arm: KitchenArm | None = None,
    ) -> None:
        """Take the arm over.

        Args:
            task: what to do, in this order.
            state: first observation (30,).
            rng: of this episode's whims.
            manner: how much it varies; None: as `Manner` says.
            arm: kinematics made before, which only one operator may use at a time; None makes them.
        """
        manner = manner or Manner()
        spans = (manner.jitter, manner.action_noise, manner.pace)
        jitter, self._noise, pace = (float(rng.uniform(*span)) for span in spans)
        self._arm, self._rng = arm or KitchenArm(), rng
        observed = np.asarray(state, np.float64)
        self._arm.look(observed)
        self._tracker = KitchenTracker(self._arm, observed[:ARM_JOINTS])
        joints = self._tracker.joints
        self._hand = Hand(self._arm, self._arm.pose(joints), joints, rng, jitter, pace)
        self._plan = self._strategies(task)

    def act(self, state: ArrayLike) -> NDArray[np.float32] | None:
        """The action (9,) in [-1, 1] for an observed state (30,); None when the last subtask's strategy has ended."""
        observed = np.asarray(state, np.float64)
        measured = observed[:ACTION_SIZE]
        self._arm.look(observed)
        self._tracker.observe(measured)
        self._hand.joints = self._tracker.joints
        self._hand.pose = self._arm.pose(self._hand.joints)
        aim = next(self._plan, None)
        if aim is None:
            return None
        noise = self._noise * self._rng.standard_normal(ACTION_SIZE)
        noise[ARM_JOINTS:] *= FINGER_NOISE
        return np.clip(self._tracker.follow(aim, measured) + noise, -1.0, 1.0).astype(np.float32)

    def _strategies(self, task: KitchenTask) -> Iterator[Aim]:
        for name in task.subtasks:
            yield from STRATEGIES[name](self._hand)
