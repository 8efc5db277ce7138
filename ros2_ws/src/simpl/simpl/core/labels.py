"""What an operator says of an episode, and where its rewards come from. No ROS."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Protocol

from sim.tasks import KitchenTask, SubtaskTracker
from simpl.graph import OPERATOR, REWARD_MODEL
from simpl_core.errors import ConfigError

if TYPE_CHECKING:
    from export.runtime import RewardModel


class Label(enum.Enum):
    """A verdict of the operator: it ends the episode and decides its last step."""

    SUCCESS = "success"
    """The task is done: all that was not paid yet is paid now."""
    FAILURE = "failure"
    """The task cannot be done any more: the last step pays nothing."""
    DISCARD = "discard"
    """Nobody learns from it: its steps are stored without an end, and it is done again."""


class Rewards(Protocol):
    """Pays for observations as they come."""

    @property
    def completed(self) -> int:
        """Subtasks paid so far, in order."""

    @property
    def done(self) -> bool:
        """Whether all are paid."""

    def update(self, state: Any) -> float:
        """The reward of the observation (S,) after a step."""


class NoRewards:
    """Where only the operator rewards: observations pay nothing."""

    completed = 0
    done = False

    def update(self, state: Any) -> float:
        """Nothing."""
        del state
        return 0.0


class ModelRewards:
    """A learned reward model pays, for the task with embedding `e` (E,); it never says that the task is done."""

    completed = 0
    done = False

    def __init__(self, model: RewardModel, e: Any) -> None:
        self._model, self._e = model, e

    def update(self, state: Any) -> float:
        """What the model says; raises InferenceError where that is no finite number."""
        return self._model.reward(state, self._e)


def make_rewards(source: str, task: KitchenTask, e: Any = None, model: RewardModel | None = None) -> Rewards:
    """What pays for observations when rewards come from `source`, in an episode with embedding `e` (E,).

    Raises:
        ConfigError: they are to come from a model, and there is none.
    """
    if source == REWARD_MODEL and model is None:
        raise ConfigError("rewards are to come from a reward model, and none was given")
    if source == REWARD_MODEL and model is not None:
        return ModelRewards(model, e)
    return NoRewards() if source == OPERATOR else SubtaskTracker(task)
