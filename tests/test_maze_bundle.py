"""The shipped maze bundle acts as it should without torch: it finds out about an unseen goal, and then goes there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.bundle import Bundle
from export.robots import MAZE
from export.runtime import PolicyRunner
from sim.maze_tasks import MAX_STEPS, MazeTask, is_unseen, parse_maze_task
from sim.maze_vector import MazeVector
from simpl_core.episode import Episode, Float32, context_rows, to_skill_steps

BUNDLE = Path(__file__).resolve().parents[1] / "export" / "bundles" / "maze"


@pytest.fixture(scope="module")
def runner() -> PolicyRunner:
    return PolicyRunner(Bundle.open(BUNDLE))


def play(runner: PolicyRunner, task: MazeTask, e: Float32, seed: int) -> Episode:
    env = MazeVector(1)
    runner.begin_episode(e, seed)
    states, actions, skills, starts = [env.reset(0, task, seed)], [], [], []
    for step in range(MAX_STEPS):
        chosen = runner.act(states[-1])
        if chosen.skill_start:
            skills.append(chosen.z)
            starts.append(step)
        result = env.step([0], chosen.action[None])
        states.append(result.observations[0])
        actions.append(chosen.action)
        if result.terminated[0]:
            break
    rewards = np.zeros(len(actions), np.float32)
    rewards[-1] = result.rewards[0]
    return Episode(
        observations=np.stack(states),
        actions=np.stack(actions),
        rewards=rewards,
        terminated=bool(result.terminated[0]),
        truncated=not result.terminated[0],
        skills=np.stack(skills),
        skill_starts=np.array(starts),
        time_stamps=0.01 * np.arange(len(states)),
    )


def test_it_is_for_the_maze(runner: PolicyRunner) -> None:
    assert runner.bundle.manifest.robot == MAZE
    assert sum(file.stat().st_size for file in BUNDLE.rglob("*")) < 3_000_000


@pytest.mark.slow
def test_after_exploring_it_goes_to_an_unseen_goal(runner: PolicyRunner) -> None:
    """Twenty episodes with random embeddings, some of which pass the goal; their transitions then tell the way."""
    task, rng = parse_maze_task("5,10"), np.random.default_rng(0)
    assert is_unseen(task)
    size = runner.bundle.manifest.e_dim
    explored = [play(runner, task, rng.standard_normal(size, np.float32), seed) for seed in range(20)]
    found = sum(episode.score for episode in explored)
    e = runner.encode(np.concatenate([context_rows(to_skill_steps(episode)) for episode in explored])).mean
    after = [play(runner, task, e, seed) for seed in range(100, 105)]
    assert sum(episode.score for episode in after) == 5 > found / 4
    assert np.mean([len(episode) for episode in after]) < np.mean([len(episode) for episode in explored]) / 2
