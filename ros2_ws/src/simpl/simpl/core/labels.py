"""What an operator says of an episode, and where its rewards come from. No ROS."""

from __future__ import annotations

import enum
from typing import Any, Protocol

from sim.tasks import KitchenTask, SubtaskTracker
from simpl.graph import OPERATOR, REWARD_SOURCES
from simpl_core.errors import ConfigError


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


def make_rewards(source: str, task: KitchenTask) -> Rewards:
    """What pays for observations when rewards come from `source`.

    Raises:
        ConfigError: there is no such source.
    """
    if source not in REWARD_SOURCES:
        raise ConfigError(f"rewards cannot come from {source!r}; there are {', '.join(REWARD_SOURCES)}")
    return NoRewards() if source == OPERATOR else SubtaskTracker(task)
