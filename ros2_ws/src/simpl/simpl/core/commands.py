"""What the episode machine asks for: requests that are answered, and facts to be written down."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simpl.core.transition import Transition


class ResetScene(NamedTuple):
    """Put arm and objects back; `seed` is that of the sensor noise."""

    episode: int
    seed: int


class Home(NamedTuple):
    """Let the policy move the arm to its home pose."""


class BeginEpisode(NamedTuple):
    """Let the policy act with task embedding `e` (E,), and `temperature` times the scale of its skills."""

    episode: int
    e: NDArray[np.float32]
    seed: int
    temperature: float = 1.0


class EndEpisode(NamedTuple):
    """Let the policy stop."""

    episode: int


class StageModel(NamedTuple):
    """Let the policy load this version; it acts from the next episode on."""

    version: str


class Encode(NamedTuple):
    """Run the task encoder on the conditioning episodes."""


class Store(NamedTuple):
    """Journal this transition, then send it."""

    transition: Transition


class Hold(NamedTuple):
    """Keep this transition safe until a label decides it: it is stored then."""

    transition: Transition


class EpisodeDone(NamedTuple):
    """An episode that counts. `wall_seconds` counts from its reset; `label` is the operator's, if there was one."""

    episode: int
    phase: str
    score: float
    steps: int
    model_version: str
    success: bool
    guard_interventions: int
    wall_seconds: float
    subtasks_done: tuple[str, ...]
    label: str = ""


class Finish(NamedTuple):
    """The run is over; `reason` is empty when it went to its end. `failed` unless somebody wanted it to stop."""

    reason: str = ""
    failed: bool = False


Request = ResetScene | Home | BeginEpisode | EndEpisode | StageModel | Encode
Command = Request | Store | Hold | EpisodeDone | Finish
