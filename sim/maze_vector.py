"""Many mazes side by side, each as `MazeEnv` would be alone, all in one numpy step."""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium
import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim.maze_physics import WallMap, advance
from sim.maze_tasks import ACTION_SIZE, MAX_STEPS, STATE_SIZE, MazeTask, reached, start_state
from sim.vector import VectorStep
from simpl_core.episode import Episode
from simpl_core.errors import ConfigError


class MazeVector:
    """`num_slots` mazes, reset one by one, each to its own task and layout, and stepped any subset at a time."""

    observation_size = STATE_SIZE
    action_size = ACTION_SIZE

    def __init__(self, num_slots: int, max_steps: int = MAX_STEPS) -> None:
        """Args: num_slots: how many mazes; max_steps: actions before truncation."""
        if num_slots < 1 or max_steps < 1:
            raise ConfigError(f"num_slots and max_steps must be at least 1, got {num_slots} and {max_steps}")
        self.num_slots = num_slots
        self._max_steps = max_steps
        self._walls = WallMap()
        self._states = np.zeros((num_slots, STATE_SIZE))
        self._goals = np.zeros((num_slots, 2))
        self._places = np.zeros((num_slots, 2), np.int64)
        self._steps = np.zeros(num_slots, np.int64)
        self._running = np.zeros(num_slots, np.bool_)

    def reset(self, slot: int, task: MazeTask, seed: int) -> NDArray[np.float32]:
        """Start an episode of `task` in `slot`, whose start `seed` decides; returns the observation (4,)."""
        self._states[slot] = start_state(task.layout, np.random.default_rng(seed))
        self._goals[slot] = task.goal
        self._places[slot] = self._walls.add(task.layout, task.layout.walls)
        self._steps[slot], self._running[slot] = 0, True
        observation: NDArray[np.float32] = self._states[slot].astype(np.float32)
        return observation

    def place(self, slot: int, state: ArrayLike) -> NDArray[np.float32]:
        """Move the episode that has just begun in `slot` to the place of `state` (4,), at rest; returns that state."""
        self._states[slot] = np.asarray(state, np.float64) * (1.0, 1.0, 0.0, 0.0)
        observation: NDArray[np.float32] = self._states[slot].astype(np.float32)
        return observation

    def step(self, slots: Sequence[int] | NDArray[np.int64], actions: ArrayLike) -> VectorStep:
        """Step the named slots, each once, by actions (n, 2), clipped to [-1, 1].

        Raises:
            ValueError: a slot that is not there or is named twice, other shapes, NaN or infinity.
            gymnasium.error.ResetNeeded: a slot in which no episode is running.
        """
        rows = np.asarray(slots, np.int64).reshape(-1)
        pushes = np.asarray(actions, np.float64)
        self._check(rows, pushes)
        states = advance(self._states[rows], np.minimum(np.maximum(pushes, -1.0), 1.0), self._walls, self._places[rows])
        self._states[rows] = states
        self._steps[rows] += 1
        terminated = reached(states[:, :2], self._goals[rows])
        truncated = ~terminated & (self._steps[rows] >= self._max_steps)
        self._running[rows] = ~(terminated | truncated)
        return VectorStep(states.astype(np.float32), terminated.astype(np.float32), terminated, truncated)

    def judge(self, episode: Episode, task: MazeTask) -> Episode:
        """`episode`, made in the same maze, as it would have gone had `task` been asked for.

        It ends where it first comes to the goal. One that another goal ended earlier counts as out of time.
        """
        arrivals = np.flatnonzero(reached(episode.observations[1:, :2], task.goal))
        end = int(arrivals[0]) + 1 if len(arrivals) else len(episode)
        rewards = np.zeros(end, np.float32)
        rewards[-1] = float(len(arrivals) > 0)
        return episode.rejudged(task, rewards, terminated=len(arrivals) > 0)

    def close(self) -> None:
        """There is nothing to free."""

    def _check(self, slots: NDArray[np.int64], actions: NDArray[np.float64]) -> None:
        chosen = slots.tolist()
        if chosen and not (min(chosen) >= 0 and max(chosen) < self.num_slots):
            raise ValueError(f"slots are 0 to {self.num_slots - 1}, got {chosen}")
        if len(set(chosen)) < len(chosen):
            raise ValueError(f"a slot is named twice in {chosen}")
        if actions.shape != (len(slots), ACTION_SIZE):
            raise ValueError(f"actions must be {(len(slots), ACTION_SIZE)}, one row a slot, got {actions.shape}")
        if not np.isfinite(actions).all():
            raise ValueError(f"actions must be finite numbers, got {actions[~np.isfinite(actions).all(1)][0]}")
        if not self._running[slots].all():
            idle = slots[~self._running[slots]].tolist()
            raise gymnasium.error.ResetNeeded(f"no episode is running in slots {idle}: call reset() first")
