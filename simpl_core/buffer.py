"""Replay of skill transitions: one packed tensor (task, slot, feature) over all tasks, read with one gather."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from simpl_core.distributions import DiagonalGaussian
from simpl_core.episode import SkillSteps, context_rows
from simpl_core.errors import ConfigError


class SkillBatch(NamedTuple):
    """Skill transitions, (..., S), (..., Z) or (...,), with the frozen prior's answer at both states."""

    states: Tensor
    z: Tensor
    rewards: Tensor
    dones: Tensor
    next_states: Tensor
    prior: DiagonalGaussian
    next_prior: DiagonalGaussian


class RowLayout(NamedTuple):
    """Where things are in a row: [s, z, r, done, s'] as the task encoder reads it, then the prior at s and at s'."""

    state_dim: int
    z_dim: int

    @property
    def context_width(self) -> int:
        """Numbers of a row without the prior's."""
        return 2 * self.state_dim + self.z_dim + 2

    @property
    def reward(self) -> int:
        """Column of r."""
        return self.state_dim + self.z_dim

    @property
    def width(self) -> int:
        """Numbers of a whole row."""
        return self.context_width + 4 * self.z_dim

    def pack(self, steps: SkillSteps, prior: DiagonalGaussian, next_prior: DiagonalGaussian) -> Tensor:
        """Rows (K, width) of an episode's steps; `prior` is p(z | s), `next_prior` p(z | s'), each (K, Z)."""
        return torch.cat([torch.from_numpy(context_rows(steps)), *prior, *next_prior], dim=-1)

    def unpack(self, rows: Tensor) -> SkillBatch:
        """Views into `rows` (..., width)."""
        s, z = self.state_dim, self.z_dim
        state, skill, reward, done, following, *prior = torch.split(rows, [s, z, 1, 1, s, z, z, z, z], dim=-1)
        return SkillBatch(
            state,
            skill,
            reward.squeeze(-1),
            done.squeeze(-1),
            following,
            DiagonalGaussian(prior[0], prior[1]),
            DiagonalGaussian(prior[2], prior[3]),
        )


class ReplayBuffer:
    """A ring of rows for each task, the oldest overwritten first."""

    def __init__(self, tasks: int, capacity: int, width: int, device: torch.device | str = "cpu") -> None:
        """`capacity` rows of `width` numbers for each of `tasks`."""
        self._rows = torch.zeros(tasks, capacity, width, device=device)
        self._added = torch.zeros(tasks, dtype=torch.int64)

    @property
    def capacity(self) -> int:
        """Rows a task can hold."""
        return self._rows.shape[1]

    @property
    def sizes(self) -> Tensor:
        """Rows held, per task: (tasks,) int64."""
        return self._added.clamp(max=self.capacity)

    def append(self, task: int, rows: Tensor) -> None:
        """Add an episode's `rows` (K, width) to `task`.

        Raises:
            ConfigError: the episode is longer than the ring, or its rows are of another width.
        """
        count, width = rows.shape
        if count > self.capacity or width != self._rows.shape[2]:
            raise ConfigError(
                f"an episode of {count} skill transitions of width {width} does not fit a buffer of "
                f"{self.capacity} of width {self._rows.shape[2]}; set a larger buffer_size"
            )
        slots = (int(self._added[task]) + torch.arange(count)) % self.capacity
        self._rows[task, slots.to(self._rows.device)] = rows.to(self._rows.device)
        self._added[task] += count

    def sample(self, tasks: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Rows (B, count, width), uniform with replacement among those held by `tasks` (B,).

        Raises:
            ConfigError: one of the tasks holds nothing yet.
        """
        picked = self._rows.flatten(0, 1).index_select(0, self._draw(tasks, count, generator).flatten())
        return picked.view(len(tasks), count, self._rows.shape[2])

    def sample_positive_first(
        self, tasks: Tensor, count: int, keep: int, column: int, generator: torch.Generator
    ) -> Tensor:
        """Of such a sample `keep` rows a task, those with a positive number in `column` first: (B, keep, width)."""
        slots = self._draw(tasks, count, generator)
        rows = self._rows.flatten(0, 1)
        others = (rows[:, column][slots] <= 0.0).to(torch.uint8)
        first = others.argsort(dim=1, stable=True)[:, :keep]
        return rows.index_select(0, slots.gather(1, first).flatten()).view(*first.shape, rows.shape[1])

    def _draw(self, tasks: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Places of rows in the flattened ring, (B, count)."""
        sizes = self.sizes[tasks]
        if bool((sizes == 0).any()):
            empty = sorted(set(tasks[sizes == 0].tolist()))
            raise ConfigError(f"nothing to sample: the buffers of tasks {empty} are empty")
        # Double precision, so that rounding cannot reach the first slot past the end.
        draws = torch.rand(len(tasks), count, generator=generator, dtype=torch.float64)
        slots = (draws * sizes[:, None]).long() + tasks[:, None] * self.capacity
        return slots.to(self._rows.device)

    def rows(self, task: int) -> Tensor:
        """What `task` holds, (size, width), in the order of the slots."""
        return self._rows[task, : int(self.sizes[task])]

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the rows in use and the counters."""
        return {"rows": self._rows[:, : int(self.sizes.max())].clone(), "added": self._added.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict`'s answer."""
        self._rows.zero_()
        self._rows[:, : state["rows"].shape[1]] = state["rows"]
        self._added.copy_(state["added"])


def sample_contexts(
    source: ReplayBuffer, tasks: Tensor, sizes: tuple[int, int], layout: RowLayout, generator: torch.Generator
) -> Tensor:
    """Contexts of `tasks` (B,) as the task encoder reads them, drawn from `source`: (B, n, 2S + Z + 2).

    `sizes` are how many transitions are drawn and how many of them are kept, rewarded ones first; n is the latter, or
    the former where that is 0.

    Raises:
        ConfigError: one of the tasks holds nothing yet.
    """
    count, kept = sizes
    if kept == 0:
        rows = source.sample(tasks, count, generator)
    else:
        rows = source.sample_positive_first(tasks, count, kept, layout.reward, generator)
    return rows[..., : layout.context_width]
