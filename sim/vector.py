"""Many kitchens side by side: a pool of threads steps them, each exactly as `KitchenEnv` would alone.

MuJoCo frees the interpreter lock while it steps, so plain threads use the cores. (`mujoco.rollout` is as fast but
drops the solver's warm start between calls, and wakes what sleeps.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim.kitchen import KitchenEpisode, KitchenPhysics, KitchenStep
from sim.tasks import ACTION_SIZE, MAX_STEPS, STATE_SIZE, KitchenTask, rewards_along
from simpl_core.episode import Episode
from simpl_core.errors import ConfigError


class VectorStep(NamedTuple):
    """One step of n slots: observations (n, 30) float32, rewards (n,) float32, two (n,) bool."""

    observations: NDArray[np.float32]
    rewards: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


class KitchenVector:
    """`num_slots` kitchens, reset one by one and stepped any subset at a time."""

    observation_size = STATE_SIZE
    action_size = ACTION_SIZE

    def __init__(self, num_slots: int, noise: float = 1.0, threads: int = 2, max_steps: int = MAX_STEPS) -> None:
        """Make the kitchens and start the threads.

        Args:
            num_slots: how many kitchens.
            noise: factor on the sensor noise; 1 (or True) is the original's, 0 (or False) is none.
            threads: how many step at the same time.
            max_steps: actions before truncation.
        """
        if num_slots < 1 or threads < 1:
            raise ConfigError(f"num_slots and threads must be at least 1, got {num_slots} and {threads}")
        self.num_slots = num_slots
        self._episodes = [KitchenEpisode(max_steps) for _ in range(num_slots)]
        self._kitchens = [KitchenPhysics(noise) for _ in range(num_slots)]
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="kitchen")

    def reset(self, slot: int, task: KitchenTask, seed: int) -> NDArray[np.float32]:
        """Start an episode of `task` in `slot`, whose noise `seed` decides; returns the observation (30,)."""
        return self._episodes[slot].reset(self._kitchens[slot], task, np.random.default_rng(seed))

    def place(self, slot: int, state: ArrayLike) -> NDArray[np.float32]:
        """Move the episode that has just begun in `slot` to `state` (30,), at rest; returns its observation (30,)."""
        return self._episodes[slot].place(self._kitchens[slot], state)

    def step(self, slots: Sequence[int] | NDArray[np.int64], actions: ArrayLike) -> VectorStep:
        """Step the named slots, each once, by actions (n, 9) in [-1, 1].

        Raises:
            ValueError: a slot that is not there or is named twice, other shapes, NaN or infinity.
            gymnasium.error.ResetNeeded: a slot in which no episode is running.
        """
        chosen = [int(slot) for slot in slots]
        if not set(chosen) <= set(range(self.num_slots)):
            raise ValueError(f"slots are 0 to {self.num_slots - 1}, got {chosen}")
        rows = np.asarray(actions, dtype=np.float32)
        if rows.shape != (len(chosen), ACTION_SIZE):
            wanted = (len(chosen), ACTION_SIZE)
            raise ValueError(f"actions must be {wanted}, one row a slot, got {rows.shape}")
        if len(set(chosen)) < len(chosen):
            raise ValueError(f"a slot is named twice in {chosen}")
        steps: dict[int, KitchenStep] = {}
        queue = iter(zip(chosen, rows, strict=True))  # shared: a thread that is free takes the next slot
        if min(self._threads, len(chosen)) < 2:  # no other thread to hand anything to
            self._serve(queue, steps)
        else:
            work = [self._pool.submit(self._serve, queue, steps) for _ in range(self._threads)]
            wait(work)
            for served in work:
                served.result()  # raises what the thread raised
        return _stack([steps[slot] for slot in chosen])

    def judge(self, episode: Episode, task: KitchenTask) -> Episode:
        """`episode` as it would have gone had `task` been asked for; it ends no later than it did."""
        rewards, done = rewards_along(task, episode.observations[1:])
        return episode.rejudged(task, rewards, terminated=done)

    def qpos(self, slot: int) -> NDArray[np.float64]:
        """True state (30,) of a slot without noise, as `sim.render` draws it; a copy."""
        return self._kitchens[slot].qpos

    def close(self) -> None:
        """End the threads; closing twice does no harm."""
        self._pool.shutdown()

    def _serve(self, queue: Iterator[tuple[int, NDArray[np.float32]]], steps: dict[int, KitchenStep]) -> None:
        for slot, action in queue:
            steps[slot] = self._episodes[slot].step(self._kitchens[slot], action)


def _stack(steps: list[KitchenStep]) -> VectorStep:
    observations = [step.observation for step in steps]
    return VectorStep(
        np.stack(observations) if steps else np.empty((0, STATE_SIZE), np.float32),
        np.array([step.reward for step in steps], np.float32),
        np.array([step.terminated for step in steps], np.bool_),
        np.array([step.truncated for step in steps], np.bool_),
    )
