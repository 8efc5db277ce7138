"""From control steps to skill transitions, by hand."""

import numpy as np
import pytest

from simpl_core.episode import Episode, context_rows, positive_first, to_skill_steps
from simpl_core.errors import DatasetError


def episode(starts: list[int], terminated: bool) -> Episode:
    steps = 7
    return Episode(
        observations=np.arange(8, dtype=np.float32)[:, None],
        actions=np.zeros((steps, 1), np.float32),
        rewards=np.array([0, 1, 0, 0, 0, 0, 2], np.float32),
        terminated=terminated,
        truncated=not terminated,
        skills=np.array([[10.0], [20.0], [30.0]], np.float32)[: len(starts)],
        skill_starts=np.array(starts, np.int64),
        time_stamps=np.arange(8) * 0.08,
    )


def test_skill_steps_by_hand() -> None:
    steps = to_skill_steps(episode([0, 3, 6], terminated=True))
    np.testing.assert_array_equal(steps.states[:, 0], [0, 3, 6])
    np.testing.assert_array_equal(steps.next_states[:, 0], [3, 6, 7])
    np.testing.assert_array_equal(steps.rewards, [1, 0, 2])
    np.testing.assert_array_equal(steps.dones, [0, 0, 1])
    np.testing.assert_array_equal(context_rows(steps), [[0, 10, 1, 0, 3], [3, 20, 0, 0, 6], [6, 30, 2, 1, 7]])


def test_a_time_out_is_not_a_termination() -> None:
    assert to_skill_steps(episode([0, 3, 6], terminated=False)).dones.sum() == 0


def test_an_episode_without_skills_is_refused() -> None:
    with pytest.raises(DatasetError, match="first skill at step 0"):
        to_skill_steps(episode([], terminated=False))


def test_score_is_the_sum_of_rewards() -> None:
    assert episode([0], terminated=True).score == 3.0


@pytest.mark.parametrize(
    ("keep", "first_states"),
    [
        (0, [0, 3, 6, 0, 3, 6]),  # all, in order
        (9, [0, 3, 6, 0, 3, 6]),
        (5, [0, 6, 0, 6, 3]),  # the rewarded four, then one of those that earned nothing
        (3, [0, 6, 0]),
    ],
)
def test_a_condensed_context_keeps_rewarded_rows(keep: int, first_states: list[int]) -> None:
    rows = np.concatenate([context_rows(to_skill_steps(episode([0, 3, 6], terminated=True)))] * 2)
    assert positive_first(rows, 1, keep)[:, 0].tolist() == first_states
