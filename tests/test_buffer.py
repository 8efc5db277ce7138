"""Replay: what goes in comes out, the oldest goes first, every row is equally likely."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simpl_core.buffer import ReplayBuffer, RowLayout
from simpl_core.distributions import DiagonalGaussian
from simpl_core.episode import SkillSteps
from simpl_core.errors import ConfigError


def numbered(first: int, count: int) -> torch.Tensor:
    return torch.arange(first, first + count, dtype=torch.float32)[:, None]


def test_layout_packs_and_unpacks_every_field() -> None:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    steps = SkillSteps(draw(5, 3), draw(5, 2), draw(5), np.array([0, 0, 0, 0, 1], np.float32), draw(5, 3))
    prior, following = (DiagonalGaussian(*torch.from_numpy(draw(2, 5, 2))) for _ in range(2))
    layout = RowLayout(state_dim=3, z_dim=2)
    rows = layout.pack(steps, prior, following)
    assert rows.shape == (5, layout.width)
    batch = layout.unpack(rows.unsqueeze(0))
    for name in SkillSteps._fields:
        np.testing.assert_array_equal(getattr(batch, name)[0], getattr(steps, name), err_msg=name)
    for ours, theirs in ((batch.prior, prior), (batch.next_prior, following)):
        assert torch.equal(ours.mean[0], theirs.mean) and torch.equal(ours.scale[0], theirs.scale)


def test_context_comes_first_in_a_row() -> None:
    """The task encoder reads the leading numbers of a row as [s, z, r, done, s']."""
    steps = SkillSteps(
        np.full((1, 1), 1.0, np.float32),
        np.full((1, 1), 2.0, np.float32),
        np.array([3.0], np.float32),
        np.array([1.0], np.float32),
        np.full((1, 1), 5.0, np.float32),
    )
    nothing = DiagonalGaussian(torch.full((1, 1), 9.0), torch.full((1, 1), 9.0))
    layout = RowLayout(1, 1)
    assert layout.pack(steps, nothing, nothing)[0, : layout.context_width].tolist() == [1, 2, 3, 1, 5]


@settings(deadline=None, max_examples=60)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=12), capacity=st.integers(7, 20))
def test_the_ring_holds_the_newest_rows(lengths: list[int], capacity: int) -> None:
    buffer = ReplayBuffer(tasks=2, capacity=capacity, width=1)
    total = 0
    for length in lengths:
        buffer.append(1, numbered(total, length))
        total += length
    held = sorted(buffer.rows(1).flatten().tolist())
    assert held == list(range(max(0, total - capacity), total))
    assert buffer.sizes.tolist() == [0, min(total, capacity)]


def test_sampling_takes_each_row_of_its_task_equally_often() -> None:
    buffer = ReplayBuffer(tasks=3, capacity=10, width=1)
    buffer.append(0, numbered(0, 10))
    buffer.append(2, numbered(100, 4))
    generator = torch.Generator().manual_seed(0)
    picked = buffer.sample(torch.tensor([2, 0, 2]), 20_000, generator)
    assert picked.shape == (3, 20_000, 1)
    counts = torch.bincount(picked[[0, 2]].flatten().long() - 100, minlength=4)
    # Binomial(40,000, 1/4) has a standard deviation of 87.
    assert counts.shape == (4,) and (counts - 10_000).abs().max() < 400
    assert set(picked[1].flatten().long().tolist()) == set(range(10))


def test_sampling_follows_its_generator() -> None:
    buffer = ReplayBuffer(1, 50, 1)
    buffer.append(0, numbered(0, 50))
    one, two = (buffer.sample(torch.zeros(1, dtype=torch.long), 8, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)


def test_state_survives_a_round_trip_and_is_a_copy() -> None:
    buffer = ReplayBuffer(2, 6, 1)
    buffer.append(0, numbered(0, 4))
    state = buffer.state_dict()
    assert state["rows"].shape == (2, 4, 1)  # only what is in use
    buffer.append(0, numbered(4, 4))
    again = ReplayBuffer(2, 6, 1)
    again.append(1, numbered(50, 6))
    again.load_state_dict(state)
    assert again.rows(0).flatten().tolist() == [0, 1, 2, 3] and again.sizes.tolist() == [4, 0]
    again.append(0, numbered(4, 4))
    assert torch.equal(again.rows(0), buffer.rows(0))


def test_errors_say_what_does_not_fit() -> None:
    buffer = ReplayBuffer(2, 3, 1)
    with pytest.raises(ConfigError, match="4 skill transitions of width 1 does not fit a buffer of 3"):
        buffer.append(0, numbered(0, 4))
    with pytest.raises(ConfigError, match="of width 2"):
        buffer.append(0, torch.zeros(1, 2))
    buffer.append(0, numbered(0, 1))
    with pytest.raises(ConfigError, match=r"tasks \[1\] are empty"):
        buffer.sample(torch.tensor([0, 1]), 2, torch.Generator())


def test_positive_rows_come_first_and_others_fill_up() -> None:
    """Task 0 holds 3 positive rows of 40, task 1 none: what is kept says so, and stays random beyond them."""
    buffer = ReplayBuffer(tasks=2, capacity=40, width=2)
    for task, positive in ((0, (5, 17, 30)), (1, ())):
        rows = torch.stack([torch.arange(40.0), torch.zeros(40)], dim=1)
        rows[list(positive), 1] = 1.0
        buffer.append(task, rows)
    picked = buffer.sample_positive_first(torch.tensor([0, 1]), 400, 100, 1, torch.Generator().manual_seed(0))
    assert picked.shape == (2, 100, 2)
    share = 400 * 3 / 40  # expected among the candidates
    rewarded = int(picked[0, :, 1].sum())
    assert share / 2 < rewarded < 2 * share
    assert picked[0, :rewarded, 1].eq(1.0).all()
    assert picked[1, :, 1].sum() == 0
    assert len(picked[0, rewarded:, 0].unique()) > 25
