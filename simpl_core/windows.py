"""Windows of H steps out of demonstrations, as skill extraction reads them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simpl_core.config import SkillsConfig
from simpl_core.dataset import Demonstrations


class Windows(NamedTuple):
    """Stretches of H steps: states (B, H, S), actions (B, H, A) and the states as a robot's sensors show them."""

    states: Tensor
    actions: Tensor
    sensed: Tensor


class WindowSampler:
    """Draws windows of H steps from demonstrations, split by episode into training and held-out ones."""

    def __init__(
        self, data: Demonstrations, config: SkillsConfig, seed: int, noise: NDArray[np.floating] | None = None
    ) -> None:
        """Split by a permutation of the episodes that depends on `seed` alone.

        `noise` (S,) is the half width of the environment's uniform sensor noise.
        """
        self._noise = config.sensor_noise * torch.as_tensor(
            np.zeros(config.state_dim) if noise is None else noise, dtype=torch.float32
        )
        order = np.random.default_rng(seed).permutation(len(data.lengths))
        held_out = max(1, round(config.held_out_fraction * len(order)))
        self._states = torch.from_numpy(data.states)
        self._actions = torch.from_numpy(data.actions)
        self._offsets = torch.arange(config.horizon)
        self.training = torch.from_numpy(data.window_starts(config.horizon, order[held_out:]))
        self.held_out = torch.from_numpy(data.window_starts(config.horizon, order[:held_out]))

    def sample(self, count: int, generator: torch.Generator) -> Windows:
        """`count` training windows, each start equally likely."""
        picks = torch.randint(len(self.training), (count,), generator=generator)
        windows = self.at(self.training[picks])
        return windows._replace(sensed=self.sense(windows.states, generator))

    def at(self, starts: Tensor) -> Windows:
        """The windows that begin at rows `starts` (B,), without sensor noise."""
        rows = starts[:, None] + self._offsets
        return Windows(self._states[rows], self._actions[rows], self._states[rows])

    def sense(self, states: Tensor, generator: torch.Generator) -> Tensor:
        """`states` (..., S) with sensor noise."""
        return states + self._noise * (2.0 * torch.rand(states.shape, generator=generator) - 1.0)
