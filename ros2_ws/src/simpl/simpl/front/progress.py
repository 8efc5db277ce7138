"""What is known about a running adaptation, gathered from the graph's messages; knows neither ROS nor a screen."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sim.tasks import parse_kitchen_task
from simpl.graph import PHASES

GUARD_MODES = ("running", "stopped", "fault", "e-stop", "paused")
"""Names of GuardState's modes, by number."""
LATCHED = GUARD_MODES[2:]
"""Those that only a person ends, with guard/reset or guard/resume."""
PERSONS = ("waiting for episode/", "the arm is not home")
"""How a status begins that only a person ends."""


@dataclass(frozen=True)
class Score:
    """One finished episode."""

    phase: str
    """Phase it belonged to."""
    episode: int
    """Number in the run."""
    index: int
    """Number in the phase, from 1."""
    score: float
    """Subtasks completed in order."""
    steps: int
    """Control steps it took."""
    subtasks_done: tuple[str, ...]
    """Names of the completed subtasks."""
    model_version: str
    """Bundle that acted."""
    at: float
    """When it was heard of [s, monotonic]."""


@dataclass
class ControlHealth:
    """Newest health of the control loop and of the guard."""

    state: str = "not seen yet"
    """The policy's state in a word."""
    rate_hz: float = 0.0
    """Ticks per second of wall time."""
    ticks: int = 0
    """Ticks so far."""
    missed: int = 0
    """Ticks that came later than their deadline."""
    latency_ms_p50: float = 0.0
    """State to action, median [ms]."""
    latency_ms_p99: float = 0.0
    """State to action, 99th percentile [ms]."""
    guard_mode: str = "not seen yet"
    """One of GUARD_MODES."""
    guard_reason: str = ""
    """Why the guard does not simply pass commands."""
    interventions: int = 0
    """Commands that differ from what the policy wanted."""
    zero_at_shutdown: bool = False
    """The guard has said that its last command was zeros because it goes down."""


@dataclass
class LearnerHealth:
    """Newest report of the learner."""

    state: str = "not seen yet"
    """One word."""
    stored: int = 0
    """Distinct transitions on its disk."""
    updates: int = 0
    """Models it has published."""
    gradient_steps: int = 0
    """Optimiser steps."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Newest training metrics by name."""
    restarts: int = 0
    """How often the supervisor has started it again."""

    def metric(self, *words: str) -> float | None:
        """The first finite metric with one of `words` in its name; None without one."""
        for word in words:
            for name, value in self.metrics.items():
                if word in name.lower() and math.isfinite(value):
                    return value
        return None


class Progress:
    """Where a run is, and how long it will take."""

    def __init__(self, task: str, plan: Mapping[str, int], clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing known.

        Args:
            task: subtasks in order.
            plan: number of episodes of each phase.
            clock: seconds that only go up.
        """
        self.subtasks = parse_kitchen_task(task).subtasks
        self.plan = {phase: plan.get(phase, 0) for phase in PHASES}
        self._clock = clock
        self.started = clock()
        self.acting_since = self.started  # nodes take a while to start; episodes are timed from the first action
        self.phase = ""
        self.episode = 0
        self.step = 0
        self.steps_total = 0
        self.completed = 0
        self.status = "starting"
        self.model_version = ""
        self.finished = False
        self.hint = ""  # what a person may do
        self.control = ControlHealth()
        self.learner = LearnerHealth()
        self.scores: list[Score] = []

    @property
    def elapsed(self) -> float:
        """Wall time since the start [s]."""
        return self._clock() - self.started

    @property
    def alarm(self) -> str:
        """Why nothing goes on until a person does something; empty as long as it does."""
        health = self.control
        if health.guard_mode not in LATCHED:
            return self.status if self.status.startswith(PERSONS) else ""
        release = "guard/resume" if health.guard_mode == "paused" else "guard/reset"
        return f"the guard holds the arm until {release} is called ({health.guard_mode}: {health.guard_reason})"

    @property
    def done_total(self) -> tuple[int, int]:
        """Episodes finished and episodes planned."""
        return len(self.scores), sum(self.plan.values())

    def scores_of(self, phase: str) -> list[float]:
        """Scores of a phase, in order."""
        return [score.score for score in self.scores if score.phase == phase]

    def heard_step(self, step: int, steps_total: int, completed: int) -> None:
        """Take where the current episode is: control step of how many, and subtasks completed in it."""
        if step and not self.step and not self.scores:
            self.acting_since = self._clock()
        self.step, self.steps_total, self.completed = step, steps_total, completed

    def heard_result(
        self, phase: str, episode: int, score: float, steps: int, subtasks_done: tuple[str, ...], model: str
    ) -> Score | None:
        """Take a finished episode; one that was heard before (a late joiner hears all again) is None."""
        if any(known.episode == episode for known in self.scores):
            return None
        new = Score(phase, episode, len(self.scores_of(phase)) + 1, score, steps, subtasks_done, model, self._clock())
        self.scores.append(new)
        return new

    def heard_metrics(self, text: str) -> None:
        """Take the learner's metrics; what is no number is left out."""
        try:
            values = json.loads(text or "{}")
        except json.JSONDecodeError:
            return
        if isinstance(values, dict):
            self.learner.metrics = {k: float(v) for k, v in values.items() if isinstance(v, int | float)}

    def seconds_left(self) -> float | None:
        """Estimated wall time to the end of the last episode [s]; None before the first is over.

        A phase takes as long per episode as its own episodes took so far, or else as the episodes of all phases.
        """
        if not self.scores:
            return None
        left = 0.0
        for phase, count in self.plan.items():
            missing = count - len(self.scores_of(phase))
            left += max(0, missing) * (self._seconds_per_episode(phase) or self._seconds_per_episode(None) or 0.0)
        return max(0.0, left - (self._clock() - self.scores[-1].at))

    def _seconds_per_episode(self, phase: str | None) -> float | None:
        times = [self.acting_since, *(score.at for score in self.scores)]
        lengths = [
            after - before
            for before, after, score in zip(times, times[1:], self.scores, strict=False)
            if phase in (None, score.phase)
        ]
        return sum(lengths) / len(lengths) if lengths else None
