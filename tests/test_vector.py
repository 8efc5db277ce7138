"""Many kitchens at once are each what one alone would be."""

from __future__ import annotations

from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray

from sim.kitchen import INITIAL_POSITION, KitchenEnv
from sim.tasks import KITCHEN_TARGET_TASKS, SUBTASKS, KitchenTask
from sim.vector import KitchenVector
from simpl_core.errors import ConfigError

TASK = KITCHEN_TARGET_TASKS[0]


def actions_for(seed: int, steps: int) -> NDArray[np.float32]:
    """Smooth random actions (steps, 9); those of seeds 0 and 9 soon hit something."""
    rng, actions, action = np.random.default_rng(seed), [], np.zeros(9)
    for _ in range(steps):
        action = np.clip(0.8 * action + 0.5 * rng.normal(size=9), -1.0, 1.0)
        actions.append(action)
    return np.array(actions, np.float32).reshape(steps, 9)


def alone(seed: int, steps: int) -> NDArray[np.float32]:
    """Observations (steps + 1, 30) of one KitchenEnv."""
    env = KitchenEnv(task=TASK)
    first, _ = env.reset(seed=seed)
    return np.array([first, *(env.step(action)[0] for action in actions_for(seed, steps))])


@pytest.fixture
def vector() -> Iterator[KitchenVector]:
    kitchens = KitchenVector(3, max_steps=4)
    yield kitchens
    kitchens.close()


@pytest.mark.parametrize("threads", [1, 3])
def test_bit_identical_to_the_environment_alone(threads: int) -> None:
    """Slots start and move at different times and in changing order; each still is its seed's episode."""
    seeds, steps = (0, 5, 9), 35
    expected = {seed: alone(seed, steps) for seed in seeds}
    vector = KitchenVector(len(seeds), threads=threads)
    seen = [[vector.reset(slot, TASK, seed)] for slot, seed in enumerate(seeds)]
    rng = np.random.default_rng(0)
    while unfinished := [slot for slot in range(len(seeds)) if len(seen[slot]) <= steps]:
        chosen = rng.permutation(unfinished)[: rng.integers(1, len(unfinished) + 1)]
        rows = np.array([actions_for(seeds[slot], steps)[len(seen[slot]) - 1] for slot in chosen])
        for slot, observation in zip(chosen, vector.step(chosen, rows).observations, strict=True):
            seen[slot].append(observation)
    vector.close()
    for slot, seed in enumerate(seeds):
        np.testing.assert_array_equal(np.array(seen[slot]), expected[seed])
    assert any(np.abs(run[-1, 9:] - run[0, 9:]).max() > 0.05 for run in expected.values()), "nothing was touched"


def test_a_used_slot_starts_afresh(vector: KitchenVector) -> None:
    vector.reset(0, TASK, seed=1)
    for action in actions_for(1, 4):
        vector.step([0], action[None])
    first = vector.reset(0, TASK, seed=5)
    np.testing.assert_array_equal(first, alone(5, 0)[0])
    np.testing.assert_array_equal(vector.qpos(0), INITIAL_POSITION)


def test_rows_belong_to_the_slots_named(vector: KitchenVector) -> None:
    """Slot 2 alone has a microwave that is open; slot 0 alone has had a step more than the others."""
    for slot in range(3):
        vector.reset(slot, KitchenTask(("microwave",)), seed=slot)
    qpos = INITIAL_POSITION.copy()
    qpos[SUBTASKS["microwave"].indices[0]] = -0.75
    vector.place(2, qpos)
    vector.step([0], np.zeros((1, 9)))
    step = vector.step([2, 0, 1], np.zeros((3, 9)))
    assert step.observations.dtype == step.rewards.dtype == np.float32
    np.testing.assert_array_equal(step.rewards, [1.0, 0.0, 0.0])
    np.testing.assert_array_equal(step.terminated, [True, False, False])
    vector.step([0, 1], np.zeros((2, 9)))
    step = vector.step([1, 0], np.zeros((2, 9)))
    np.testing.assert_array_equal(step.truncated, [False, True])
    np.testing.assert_array_equal(step.terminated, [False, False])


def test_sizes_and_an_empty_step(vector: KitchenVector) -> None:
    assert (vector.num_slots, vector.observation_size, vector.action_size) == (3, 30, 9)
    step = vector.step([], np.zeros((0, 9)))
    assert step.observations.shape == (0, 30)
    assert len(step.rewards) == len(step.terminated) == len(step.truncated) == 0


def test_mistakes_are_refused(vector: KitchenVector) -> None:
    vector.reset(0, TASK, seed=0)
    with pytest.raises(ValueError, match="named twice"):
        vector.step([0, 0], np.zeros((2, 9)))
    with pytest.raises(ValueError, match="slots are 0 to 2"):
        vector.step([-1], np.zeros((1, 9)))
    with pytest.raises(ValueError, match=r"must be \(1, 9\).*got \(9,\)"):
        vector.step([0], np.zeros(9))
    with pytest.raises(ValueError, match="finite"):
        vector.step([0], np.full((1, 9), np.nan))
    with pytest.raises(gymnasium.error.ResetNeeded):
        vector.step([1], np.zeros((1, 9)))
    with pytest.raises(ConfigError, match="num_slots"):
        KitchenVector(0)


def test_closing_twice_does_no_harm() -> None:
    vector = KitchenVector(1)
    vector.close()
    vector.close()
