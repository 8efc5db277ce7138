"""Kitchen subtasks, the paper's task sets, and the reward that pays a task's subtasks once and in order.

Numpy only: the robot's episode machine scores what it observes with the same code as the simulation.
Goals and threshold are those of Relay Policy Learning (Gupta et al. 2019) as kept by D4RL; the task sets are
section G.2 of the SiMPL paper (ICLR 2022), in its order.
"""

from __future__ import annotations

import difflib
import itertools
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simpl_core.errors import TaskError

ROBOT_JOINTS: tuple[str, ...] = (
    *(f"panda_joint{number}" for number in range(1, 8)),
    "panda_finger_joint1",
    "panda_finger_joint2",
)
"""State 0 to 8: seven arm joints [rad] and two gripper fingers [m]."""

OBJECT_COORDINATES: tuple[str, ...] = (
    "bottom_right_knob",  # [rad]; its burner follows [m]
    "bottom_right_burner",
    "bottom_left_knob",
    "bottom_left_burner",
    "top_right_knob",
    "top_right_burner",
    "top_left_knob",
    "top_left_burner",
    "light_switch",  # [rad]
    "light",  # [m]
    "slide_cabinet",  # [m]
    "left_hinge_cabinet",  # [rad]
    "right_hinge_cabinet",  # [rad]
    "microwave",  # [rad]
    *(f"kettle_{axis}" for axis in ("x", "y", "z")),  # [m]
    *(f"kettle_q{part}" for part in ("w", "x", "y", "z")),  # unit quaternion
)
"""State 9 to 29: what the kitchen's things do."""

STATE_SIZE = len(ROBOT_JOINTS) + len(OBJECT_COORDINATES)  # 30
ACTION_SIZE = len(ROBOT_JOINTS)

ACTION_SCALE = 2.0
"""Joint velocity [rad/s, m/s] of an action of 1."""

CONTROL_PERIOD = 0.08
"""Time between actions [s]: 12.5 Hz."""

MAX_STEPS = 280
"""An episode is truncated after this many actions."""

SUBTASK_THRESHOLD = 0.3
"""A subtask is complete when its coordinates are closer than this (Euclidean) to their goal."""

SEPARATORS = re.compile(r"->|→|>|,")


@dataclass(frozen=True)
class Subtask:
    """One thing to bring about in the kitchen: `indices` into the 30-number state and their `goal` values."""

    name: str
    indices: tuple[int, ...]
    goal: tuple[float, ...]

    def is_complete(self, state: npt.ArrayLike) -> bool:
        """Whether `state` (30,) is within the threshold of the goal; a state with NaN in it is not."""
        return bool(self.complete_in(np.asarray(state)[None])[0])

    def complete_in(self, states: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """The same for each of `states` (T, 30): (T,)."""
        coordinates = np.asarray(states, dtype=np.float64)[:, list(self.indices)]
        distances = np.linalg.norm(coordinates - np.asarray(self.goal), axis=1)
        complete: npt.NDArray[np.bool_] = distances < SUBTASK_THRESHOLD
        return complete


SUBTASKS: dict[str, Subtask] = {
    subtask.name: subtask
    for subtask in (
        Subtask("bottom burner", (11, 12), (-0.88, -0.01)),
        Subtask("top burner", (15, 16), (-0.92, -0.01)),
        Subtask("light switch", (17, 18), (-0.69, -0.05)),
        Subtask("slide cabinet", (19,), (0.37,)),
        Subtask("hinge cabinet", (20, 21), (0.0, 1.45)),
        Subtask("microwave", (22,), (-0.75,)),
        Subtask("kettle", (23, 24, 25, 26, 27, 28, 29), (-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06)),
    )
}


@dataclass(frozen=True)
class KitchenTask:
    """An ordered list of different subtasks, such as microwave, then kettle.

    Raises:
        TaskError: no subtask, an unknown one, or one named twice.
    """

    subtasks: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.subtasks:
            raise TaskError(f"an empty task was given; a task is an ordered list of: {_all_names()}")
        for position, name in enumerate(self.subtasks):
            if name not in SUBTASKS:
                raise TaskError(_unknown(name))
            if name in self.subtasks[:position]:
                raise TaskError(f"subtask '{name}' is named twice in '{self}'; each can be done once")

    def __str__(self) -> str:
        return " > ".join(self.subtasks)

    def __len__(self) -> int:
        return len(self.subtasks)


def parse_kitchen_task(text: str) -> KitchenTask:
    """Read a task such as "Microwave > kettle, light_switch -> bottom burner"; case and spaces do not matter.

    Raises:
        TaskError: names the wrong subtask, what is close to it, and all that exist.
    """
    names = tuple(" ".join(part.replace("_", " ").lower().split()) for part in SEPARATORS.split(text))
    if names == ("",):
        return KitchenTask(())
    if "" in names:
        raise TaskError(f"a subtask is missing in '{text}'; write a task as 'microwave > kettle'")
    return KitchenTask(names)


def is_unseen(task: KitchenTask) -> bool:
    """Whether `task` was in no training set (the same subtasks in another order are another task)."""
    return task not in KITCHEN_TRAIN_TASKS


class SubtaskTracker:
    """Pays a task's subtasks once and in order, from states as they come.

    Only the finished prefix of the list pays: a subtask done before its turn pays when its turn comes, if it
    still holds then; one already paid stays paid. Several may pay in one step.
    """

    def __init__(self, task: KitchenTask) -> None:
        self.task = task
        self.completed = 0

    def update(self, state: npt.ArrayLike) -> float:
        """Take the state (30,) after a step and return its reward: the number of subtasks newly paid."""
        before = self.completed
        while not self.done and SUBTASKS[self.task.subtasks[self.completed]].is_complete(state):
            self.completed += 1
        return float(self.completed - before)

    @property
    def done(self) -> bool:
        """Whether all subtasks are paid."""
        return self.completed == len(self.task)

    @property
    def names_done(self) -> tuple[str, ...]:
        """The subtasks paid so far, in order."""
        return self.task.subtasks[: self.completed]


def rewards_along(task: KitchenTask, states: npt.ArrayLike) -> tuple[npt.NDArray[np.float32], bool]:
    """What a `SubtaskTracker` pays for `states` (T, 30), each after a step, until the task is done.

    Returns:
        Rewards (n,), n <= T, and whether the task was done at the end of them.
    """
    rows = np.asarray(states)
    rewards = np.zeros(len(rows), np.float32)
    at = 0
    for name in task.subtasks:
        found = np.flatnonzero(SUBTASKS[name].complete_in(rows[at:]))
        if len(found) == 0:
            return rewards, False
        at += int(found[0])
        rewards[at] += 1.0
    return rewards[: at + 1], True


def ever_completed(states: npt.ArrayLike) -> tuple[str, ...]:
    """The subtasks that hold in any of `states` (T, 30), in whatever order."""
    rows = np.asarray(states)
    return tuple(name for name, subtask in SUBTASKS.items() if subtask.complete_in(rows).any())


def _all_names() -> str:
    return ", ".join(SUBTASKS)


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, SUBTASKS, n=1, cutoff=0.5)
    hint = f" (did you mean '{close[0]}'?)" if close else ""
    return f"unknown subtask '{name}'{hint}; the kitchen has: {_all_names()}"


def _tasks(*lines: str) -> tuple[KitchenTask, ...]:
    return tuple(parse_kitchen_task(line) for line in lines)


KITCHEN_TRAIN_TASKS: tuple[KitchenTask, ...] = _tasks(
    "microwave > kettle > bottom burner > slide cabinet",
    "microwave > bottom burner > top burner > slide cabinet",
    "microwave > top burner > light switch > hinge cabinet",
    "kettle > bottom burner > light switch > hinge cabinet",
    "microwave > bottom burner > hinge cabinet > top burner",
    "kettle > top burner > light switch > slide cabinet",
    "microwave > kettle > slide cabinet > bottom burner",
    "kettle > light switch > slide cabinet > bottom burner",
    "microwave > kettle > bottom burner > top burner",
    "microwave > kettle > slide cabinet > hinge cabinet",
    "microwave > bottom burner > slide cabinet > top burner",
    "kettle > bottom burner > light switch > top burner",
    "microwave > kettle > top burner > light switch",
    "microwave > kettle > light switch > hinge cabinet",
    "microwave > bottom burner > light switch > slide cabinet",
    "kettle > bottom burner > top burner > light switch",
    "microwave > light switch > slide cabinet > hinge cabinet",
    "microwave > bottom burner > top burner > hinge cabinet",
    "kettle > bottom burner > slide cabinet > hinge cabinet",
    "bottom burner > top burner > slide cabinet > light switch",
    "microwave > kettle > light switch > slide cabinet",
    "kettle > bottom burner > top burner > hinge cabinet",
    "bottom burner > top burner > light switch > slide cabinet",
)
"""The 23 meta-training tasks."""

KITCHEN_TARGET_TASKS: tuple[KitchenTask, ...] = _tasks(
    "microwave > bottom burner > light switch > top burner",
    "microwave > bottom burner > top burner > light switch",
    "kettle > bottom burner > light switch > slide cabinet",
    "microwave > kettle > top burner > hinge cabinet",
    "kettle > bottom burner > slide cabinet > top burner",
    "kettle > light switch > slide cabinet > hinge cabinet",
    "kettle > bottom burner > top burner > slide cabinet",
    "microwave > bottom burner > slide cabinet > hinge cabinet",
    "bottom burner > top burner > slide cabinet > hinge cabinet",
    "microwave > kettle > bottom burner > hinge cabinet",
)
"""The ten target tasks, none of which is a training task."""


def _others() -> list[KitchenTask]:
    """All orders of four subtasks that the paper does not use, in a random order that never changes."""
    every = [KitchenTask(order) for order in itertools.permutations(SUBTASKS, 4)]
    left = [task for task in every if task not in KITCHEN_TRAIN_TASKS + KITCHEN_TARGET_TASKS]
    return [left[index] for index in np.random.default_rng(0).permutation(len(left))]


KITCHEN_TASKS: dict[str, tuple[KitchenTask, ...]] = {
    "train": KITCHEN_TRAIN_TASKS,
    "target": KITCHEN_TARGET_TASKS,
    "wide": (*KITCHEN_TRAIN_TASKS, *_others()[20:57]),
    "target-wide": tuple(_others()[:20]),
}
"""Named sets of tasks: the paper's two; 60 to train on, the paper's and 37 drawn from all 840 orders of four; and 20
unseen ones drawn from the same.

The paper's 33 tasks begin with microwave, kettle or bottom burner and follow few paths; a user's may be any.
"""
