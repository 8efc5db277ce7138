"""One episode of anything that moves: the currency between simulation, robot and training (numpy only)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simpl_core.errors import DatasetError

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Episode:
    """What happened between a reset and the end.

    Attributes:
        observations: (T+1, S) float32; row t+1 follows action t.
        actions: (T, A) float32, normalised to [-1, 1].
        rewards: (T,) float32.
        terminated: the task ended the episode (no value beyond); a time-out is `truncated` instead.
        truncated: the clock ended it.
        skills: (K, Z) float32, the skill chosen at each of `skill_starts`.
        skill_starts: (K,) int64, control steps, the first is 0; empty if no skills were used.
        time_stamps: (T+1,) float64 [s].
        header: robot, task, model version, seed and the like.
    """

    observations: Float32
    actions: Float32
    rewards: Float32
    terminated: bool
    truncated: bool
    skills: Float32
    skill_starts: NDArray[np.int64]
    time_stamps: NDArray[np.float64]
    header: dict[str, str | int | float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def score(self) -> float:
        """Sum of rewards: subtasks completed in order, or 1 for a goal reached."""
        return float(self.rewards.sum())

    def rejudged(self, task: object, rewards: Float32, terminated: bool) -> Episode:
        """The same motion as `task` would have rewarded it: its first steps, as many as `rewards` (n,) has.

        `terminated` says that `task` ends there; otherwise time does, also where the task it was made for ended it.
        """
        end = len(rewards)
        kept = self.skill_starts < end
        return Episode(
            observations=self.observations[: end + 1],
            actions=self.actions[:end],
            rewards=rewards,
            terminated=terminated,
            truncated=not terminated,
            skills=self.skills[kept],
            skill_starts=self.skill_starts[kept],
            time_stamps=self.time_stamps[: end + 1],
            header=self.header | {"task": str(task)},
        )


class SkillSteps(NamedTuple):
    """An episode seen by the high-level policy: K transitions, one a skill.

    states (K, S), z (K, Z), rewards (K,) summed over the skill's steps, dones (K,) 1 where the task ended the
    episode within the skill, next_states (K, S).
    """

    states: Float32
    z: Float32
    rewards: Float32
    dones: Float32
    next_states: Float32


def to_skill_steps(episode: Episode) -> SkillSteps:
    """Fold an episode into skill transitions; the last one ends where the episode does.

    Raises:
        DatasetError: the episode was not made with skills.
    """
    starts = episode.skill_starts
    if len(starts) == 0 or starts[0] != 0 or len(starts) != len(episode.skills):
        raise DatasetError(
            f"an episode of skills needs a first skill at step 0 and one start per skill; got starts "
            f"{starts[:5].tolist()} for {len(episode.skills)} skills"
        )
    ends = np.append(starts[1:], len(episode))
    dones = np.zeros(len(starts), np.float32)
    dones[-1] = float(episode.terminated)
    return SkillSteps(
        states=episode.observations[starts],
        z=episode.skills,
        rewards=np.add.reduceat(episode.rewards, starts).astype(np.float32),
        dones=dones,
        next_states=episode.observations[ends],
    )


def context_rows(steps: SkillSteps) -> Float32:
    """The task encoder's input: rows [s, z, r, done, s'], (K, 2S + Z + 2)."""
    return np.concatenate(
        [steps.states, steps.z, steps.rewards[:, None], steps.dones[:, None], steps.next_states], axis=1
    ).astype(np.float32)


def positive_first(rows: Float32, state_dim: int, keep: int) -> Float32:
    """Of context rows [s, z, r, done, s'] (N, 2S + Z + 2) `keep`: rewarded ones, then others evenly; 0 keeps all."""
    if keep == 0 or len(rows) <= keep:
        return rows
    rewards = rows[:, -state_dim - 2]
    rewarded, others = np.flatnonzero(rewards > 0.0)[:keep], np.flatnonzero(rewards <= 0.0)
    spread = np.linspace(0, len(others) - 1, keep - len(rewarded)).astype(np.int64)
    kept: Float32 = rows[np.concatenate([rewarded, others[spread]])]
    return kept
