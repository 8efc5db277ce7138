"""From a stream of transitions back to whole episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simpl.core.transition import Transition
from simpl_core.episode import Episode


@dataclass(frozen=True)
class RecordedEpisode:
    """An episode that ended, with what a learner has to know about where it came from.

    Attributes:
        key: (robot, epoch, episode), its identity.
        last_seq: of its last transition.
        e: (E,) task embedding it was made with.
    """

    key: tuple[str, int, int]
    phase: str
    last_seq: int
    e: np.ndarray
    episode: Episode


class EpisodeAssembler:
    """Collects transitions in any order; hands out each episode once, when its end and every step before are there.

    An episode that was given up half way (a restarted policy, a stop) has no end and is never handed out.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[str, int, int], dict[int, Transition]] = {}

    def add(self, transition: Transition) -> RecordedEpisode | None:
        """Take a transition; returns the episode that it completes, if it does."""
        key = (transition.robot_uuid, transition.epoch, transition.episode)
        steps = self._open.setdefault(key, {})
        steps[transition.step] = transition
        last = steps[max(steps)]
        if not (last.terminated or last.truncated) or len(steps) != last.step + 1:
            return None
        del self._open[key]
        self._forget_older(key)
        ordered = [steps[step] for step in range(len(steps))]
        return RecordedEpisode(key, last.phase, last.seq, ordered[0].e.copy(), to_episode(ordered))

    def _forget_older(self, done: tuple[str, int, int]) -> None:
        # Transitions of a robot come nearly in order: what is still open two episodes later was given up.
        for key in [k for k in self._open if k[0] == done[0] and (k[1], k[2] + 2) < (done[1], done[2])]:
            del self._open[key]


def to_episode(steps: Sequence[Transition]) -> Episode:
    """All transitions of an episode, in order, as an Episode; the first must start a skill."""
    first, last = steps[0], steps[-1]
    starts = [t.step for t in steps if t.skill_start]
    return Episode(
        observations=np.stack([*(t.observation for t in steps), last.next_observation]),
        actions=np.stack([t.action for t in steps]),
        rewards=np.array([t.reward for t in steps], np.float32),
        terminated=last.terminated,
        truncated=last.truncated,
        skills=np.stack([steps[start].z for start in starts]) if starts else np.zeros((0, len(first.z)), np.float32),
        skill_starts=np.array(starts, np.int64),
        time_stamps=_time_stamps(steps),
        header={
            "robot": first.robot_uuid,
            "task": first.task,
            "model_version": first.model_version,
            "phase": first.phase,
            "episode": first.episode,
        },
    )


def _time_stamps(steps: Sequence[Transition]) -> np.ndarray:
    stamps = np.array([t.stamp for t in steps], np.float64) * 1e-9
    period = float(np.median(np.diff(stamps))) if len(stamps) > 1 else 0.0
    return np.append(stamps, stamps[-1] + period)  # the last observation's own stamp is not sent
