"""Rollouts as anybody would write them: a vector environment of Gymnasium's, networks asked step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from sim import KITCHEN_ID, MAZE_ID, register_envs

Skills = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(states, e) -> mean and scale of z."""
Decode = Callable[[Tensor, Tensor], Tensor]
"""(states, z) -> actions."""

IDS = {"kitchen": KITCHEN_ID, "maze": MAZE_ID}


def make(name: str, task: Any) -> gymnasium.Env[Any, Any]:
    """The environment for `task`; also in a process of its own, where none is registered yet."""
    register_envs()
    return gymnasium.make(name, task=task)


class GymRollouts:
    """One environment a task in `SyncVectorEnv` or, `spread` over processes, in `AsyncVectorEnv`."""

    def __init__(self, domain: str, tasks: Sequence[Any], skills: Skills, decode: Decode, horizon: int) -> None:
        self._makers = [partial(make, IDS[domain], task) for task in tasks]
        self._skills, self._decode, self._horizon = skills, decode, horizon
        self._env: gymnasium.vector.VectorEnv | None = None

    def open(self, spread: bool) -> None:
        """Make the environments; processes are spawned, since a fork would copy PyTorch's threads half."""
        kinds = gymnasium.vector
        self._env = kinds.AsyncVectorEnv(self._makers, context="spawn") if spread else kinds.SyncVectorEnv(self._makers)

    @torch.no_grad()
    def play(self, steps: int, e: Tensor) -> int:
        """`steps` steps of every environment with embeddings `e` (n, E); how many that makes in all.

        An environment whose episode has ended resets itself in its next step and then draws a new skill.
        """
        count = len(self._makers)
        observations, _ = self._env.reset(seed=list(range(count)))
        ages = np.zeros(count, np.int64)
        z: Tensor | None = None
        for _ in range(steps):
            states = torch.from_numpy(observations)
            due = torch.from_numpy(ages % self._horizon == 0)
            if due.any():
                mean, scale = self._skills(states[due], e[due])
                z = torch.zeros(count, mean.shape[1]) if z is None else z
                z[due] = mean + scale * torch.randn_like(mean)
            actions = self._decode(states, z).clamp(-1.0, 1.0).numpy()
            observations, _, terminated, truncated, _ = self._env.step(actions)
            ages = np.where(terminated | truncated, -1, ages + 1)
        return steps * count

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None


def retrace(domain: str, task: Any, seed: int, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Observations (T + 1, S) and rewards (T,) that `actions` (T, A) bring in one environment of its own."""
    env = make(IDS[domain], task)
    observations, rewards = [env.reset(seed=seed)[0]], []
    for action in actions:
        observation, reward, *_ = env.step(action)
        observations.append(observation)
        rewards.append(reward)
    env.close()
    return np.stack(observations), np.array(rewards, np.float32)
