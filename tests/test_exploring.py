"""Phase 3's conditioning episodes: who acts in them, and how long they go on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from toy_domain import HORIZON, SKILL, STATE, STEPS, TASKS, meta_models

from simpl_core.adapt import Adaptation
from simpl_core.checkpoint import Models
from simpl_core.config import AdaptConfig
from simpl_core.episode import Episode

CONFIG = AdaptConfig(conditioning_episodes=3, episodes=5, batch_size=8, buffer_size=200, reuse=8.0, explore_on=2)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return meta_models(tmp_path_factory.mktemp("meta"))


def an_episode(score: float) -> Episode:
    rewards = np.zeros(STEPS, np.float32)
    rewards[-1] = score
    return Episode(
        observations=np.zeros((STEPS + 1, STATE), np.float32),
        actions=np.zeros((STEPS, 2), np.float32),
        rewards=rewards,
        terminated=False,
        truncated=True,
        skills=np.zeros((STEPS // HORIZON, SKILL), np.float32),
        skill_starts=np.arange(0, STEPS, HORIZON),
        time_stamps=np.arange(STEPS + 1, dtype=np.float64),
    )


@pytest.mark.parametrize(
    ("scores", "explores"),
    [
        ((0, 0, 0, 0, 0), (3, 2, 1, 1, 1, 0)),  # nothing is ever found: two more than planned
        ((0, 0, 0, 1, 0), (3, 2, 1, 1, 0, 0)),  # found by the first of those
        ((0, 1, 0, 0, 0), (3, 2, 1, 0, 0, 0)),  # found in time
    ],
)
def test_exploring_goes_on_until_something_is_found(
    models: Models, scores: tuple[int, ...], explores: tuple[int, ...]
) -> None:
    run = Adaptation("simpl", models, CONFIG, TASKS[0], seed=0)
    seen = []
    for score in (*scores, None):
        jobs = run.next_jobs(0)
        seen.append(sum(job.label == "conditioning" for job in jobs))
        if score is not None:
            run.add(an_episode(float(score)))
    assert tuple(seen) == explores
    assert run.total_episodes == 8


def test_a_run_that_ends_before_anything_is_found_may_be_made_longer(models: Models) -> None:
    """It has not been conditioned on what a longer one would not have been, and is made anew."""
    short = Adaptation("simpl", models, dataclasses.replace(CONFIG, episodes=1), TASKS[0], seed=0)
    for _ in range(4):
        short.add(an_episode(0.0))
    assert short.done
    longer = Adaptation("simpl", models, CONFIG, TASKS[0], seed=0)
    longer.load_state_dict(short.state_dict())
    assert [job.label for job in longer.next_jobs(0)] == ["conditioning"] * 3


def test_the_skill_prior_may_explore(models: Models) -> None:
    state, e = torch.randn(4, STATE), torch.randn(4, 2)
    run = Adaptation("simpl", models, dataclasses.replace(CONFIG, explore_with="prior"), TASKS[0], seed=0)
    with torch.no_grad():
        prior = models.skill_prior(state)
        assert run.act(state, e, prior) is prior
        for _ in range(3):
            run.add(an_episode(1.0))
        torch.testing.assert_close(run.act(state, e, prior), models.skill_policy(state, e))
        published = Adaptation("simpl", models, CONFIG, TASKS[0], seed=0)
        torch.testing.assert_close(published.act(state, e, prior), models.skill_policy(state, e))
