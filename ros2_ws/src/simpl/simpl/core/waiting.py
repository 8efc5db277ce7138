"""What the episode machine waits for, and how long."""

from __future__ import annotations

import enum

RETRY = 0.5
"""Pause before something that failed is tried again [s]."""
PATIENCE = 60.0
"""Longest time of failing at the same thing before the run is given up [s]."""
ANSWER_WAIT = 10.0
"""Longest wait for an answer of a node that is there [s]."""
HOME_WAIT = 120.0
"""The same for an arm on its way home, which may be long and slow [s]."""
STOP_WAIT = 1.0
"""The same for the end of an episode: after it the guard's own watchdog has stopped the arm anyway [s]."""
SILENCE = {True: 10.0, False: 2.0}
"""Longest time without a tick within an episode, in lockstep and on the wall clock [s]."""
MOST_ABORTS = 5
"""Broken episodes in a row after which the run is given up."""


class State(enum.Enum):
    """What the machine waits for."""

    IDLE = "between episodes"
    ENCODING = "encoding the task"
    STAGING = "loading a model"
    RESETTING = "resetting the scene"
    HOMING = "moving the arm home"
    READY = "waiting for episode/ready: put the scene back"
    BEGINNING = "starting"
    RUNNING = "acting"
    ENDING = "stopping"
    LABEL = "waiting for episode/success, episode/failure or episode/discard"
    MODEL = "waiting for the learner"
    HELD = "waiting for guard/reset"
    FINISHED = "finished"
