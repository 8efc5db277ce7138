"""Ticks that are led to just behind the arrival of what they read."""

from __future__ import annotations

import numpy as np
import pytest

from simpl.core.phase import Phase


def follow(period: float, interval: float, start: float, jitter: float = 0.0, ticks: int = 2000) -> np.ndarray:
    """Ages of the newest reading at the ticks (N,) [s]; readings come every `interval`, the first tick at `start`."""
    rng, phase = np.random.default_rng(0), Phase(period)
    tick, ages = 1.0 + start, []
    for _ in range(ticks):
        near = np.arange(np.floor(tick / interval) - 3, np.floor(tick / interval) + 3)
        arrivals = near * interval + jitter * rng.normal(size=near.size)
        ages.append(tick - arrivals[arrivals <= tick].max())
        phase.saw(ages[-1], interval)
        tick += period + phase.shift()
    return np.array(ages)


@pytest.mark.parametrize("period", [0.01, 0.02, 0.08])
@pytest.mark.parametrize("interval", [0.001, 0.00100005, 0.0050005])
@pytest.mark.parametrize("start", [0.0, 0.0003, 0.00099])
def test_readings_become_young_and_stay_so_though_clocks_drift(period: float, interval: float, start: float) -> None:
    ages = follow(period, interval, start)
    assert ages[-500:].max() < 0.2 * interval + 1.5e-4


def test_where_arrivals_jitter_more_room_is_left() -> None:
    ages = follow(0.01, 0.001, 0.0007, jitter=5e-5)
    assert np.quantile(ages[-1000:], 0.99) < 0.0006, "the reading before is taken once in a hundred times at most"
    assert np.median(ages[-1000:]) > 1e-4


def test_a_tick_is_moved_by_a_hundredth_of_its_period_at_most_and_once() -> None:
    phase = Phase(0.01)
    for age in (0.0, 0.001, 0.003, 0.0049):
        phase.saw(age, 0.005)
        assert abs(phase.shift()) <= 1e-4
        assert phase.shift() == 0.0, "who reads nothing keeps his deadlines"


@pytest.mark.parametrize("interval", [0.0, -1.0, 1e-4, 0.05])
def test_who_speaks_all_the_time_seldom_or_by_a_clock_that_was_set_is_not_followed(interval: float) -> None:
    phase = Phase(0.01)
    phase.saw(0.0004, interval)
    assert phase.shift() == 0.0
