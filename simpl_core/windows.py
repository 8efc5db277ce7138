"""Windows of H steps out of demonstrations, as skill extraction reads them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simpl_core.config import SkillsConfig
from simpl_core.dataset import Demonstrations
from simpl_core.errors import ConfigError, DatasetError


class Windows(NamedTuple):
    """Stretches of H steps.

    Attributes:
        states: (B, H, S) as demonstrated.
        actions: (B, H, A) as demonstrated.
        sensed: (B, S), the first state as a robot's sensors show it.
        visited: (B, H, S), the states as the decoder meets them, with noise or off the demonstrated course.
        wanted: (B, H, A), what the decoder should answer to those.
    """

    states: Tensor
    actions: Tensor
    sensed: Tensor
    visited: Tensor
    wanted: Tensor


def split_episodes(count: int, held_out_fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the training and of the held-out ones among `count` episodes; at least one is held out.

    Raises:
        DatasetError: there are not two.
    """
    if count < 2:
        raise DatasetError(f"at least two episodes are needed, one of which is held out; there is {count}")
    order = np.random.default_rng(seed).permutation(count)
    held_out = max(1, round(held_out_fraction * count))
    return order[held_out:], order[:held_out]


class WindowSampler:
    """Draws windows of H steps from demonstrations, split by episode into training and held-out ones."""

    def __init__(
        self,
        data: Demonstrations,
        config: SkillsConfig,
        seed: int,
        noise: NDArray[np.floating] | None = None,
        stride: float | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Split by a permutation of the episodes that depends on `seed` alone.

        Args:
            data: demonstrations.
            config: of phase 1.
            seed: of the split.
            noise: (S,) half width of the environment's uniform sensor noise; None is none.
            stride: how far an action of 1 moves its joint's target away from where the joint is seen, for actions that
                move state numbers 0 to A-1 so; `config.recovery` needs it.
            device: where the windows are wanted; they are drawn on the CPU.

        Raises:
            ConfigError: `config.recovery` without a stride.
        """
        self._recovery = config.recovery if config.decoder == "closed" else 0.0
        if self._recovery and stride is None:
            raise ConfigError(f"recovery={config.recovery} needs actions that move joint targets; here they do not")
        self._stride = stride
        noise = np.zeros(config.state_dim) if noise is None else noise
        self._noise = torch.as_tensor(noise, dtype=torch.float32, device=device)
        self._sensor_noise = config.sensor_noise
        training, held_out = split_episodes(len(data.lengths), config.held_out_fraction, seed)
        self._states = torch.from_numpy(data.states).to(device)
        self._actions = torch.from_numpy(data.actions).to(device)
        self._offsets = torch.arange(config.horizon)
        self.training = torch.from_numpy(data.window_starts(config.horizon, training))
        self.held_out = torch.from_numpy(data.window_starts(config.horizon, held_out))

    def sample(self, count: int, generator: torch.Generator) -> Windows:
        """`count` training windows, each start equally likely."""
        picks = torch.randint(len(self.training), (count,), generator=generator)
        windows = self.at(self.training[picks])
        windows = windows._replace(sensed=self.sense(windows.sensed, generator))
        if self._recovery and self._stride:
            visited = self._disturbed(windows.states, self._recovery, generator)
            error = (visited - windows.states)[..., : windows.actions.shape[-1]]
            return windows._replace(visited=visited, wanted=windows.actions - error / self._stride)
        return windows._replace(visited=self.sense(windows.states, generator))

    def at(self, starts: Tensor) -> Windows:
        """The windows that begin at rows `starts` (B,), without noise."""
        rows = (starts[:, None] + self._offsets).to(self._states.device)
        states, actions = self._states[rows], self._actions[rows]
        return Windows(states, actions, states[:, 0], states, actions)

    def sense(self, states: Tensor, generator: torch.Generator) -> Tensor:
        """`states` (..., S) with sensor noise."""
        return self._disturbed(states, self._sensor_noise, generator)

    def _disturbed(self, states: Tensor, factor: float, generator: torch.Generator) -> Tensor:
        draws = torch.rand(states.shape, generator=generator).to(states.device)
        return states + factor * self._noise * (2.0 * draws - 1.0)
