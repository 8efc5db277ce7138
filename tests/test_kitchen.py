"""The kitchen's physics against its reference, and the Gymnasium environment around it."""

from __future__ import annotations

import importlib.util
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

import sim
from sim.demonstrators.kitchen_teleoperator import KitchenTeleoperator
from sim.kitchen import (
    ACTION_SCALE,
    CONTROL_PERIOD,
    INITIAL_POSITION,
    POSITION_BOUNDS,
    SENSOR_NOISE,
    SUBSTEPS,
    KitchenEnv,
    KitchenPhysics,
    load_kitchen_model,
)
from sim.tasks import MAX_STEPS, SUBTASKS, KitchenTask, SubtaskTracker, parse_kitchen_task
from simpl_core.errors import ConfigError, EnvironmentMissingError, TaskError

MICROWAVE = SUBTASKS["microwave"].indices[0]


def lively_actions(steps: int, seed: int) -> NDArray[np.float32]:
    """Smooth random actions (steps, 9) that throw the arm into the furniture."""
    rng, actions, action = np.random.default_rng(seed), [], np.zeros(9)
    for _ in range(steps):
        action = np.clip(0.8 * action + 0.5 * rng.normal(size=9), -1.0, 1.0)
        actions.append(action)
    return np.array(actions, np.float32)


def open_microwave() -> NDArray[np.float64]:
    qpos = INITIAL_POSITION.copy()
    qpos[MICROWAVE] = -0.75
    return qpos


@pytest.fixture
def env() -> Iterator[KitchenEnv]:
    kitchen = KitchenEnv(task="microwave > kettle", max_steps=5)
    yield kitchen
    kitchen.close()


def test_moves_bit_for_bit_like_gymnasium_robotics_class(franka_kitchen: gymnasium.Env) -> None:
    reference = franka_kitchen.unwrapped
    reference.reset(seed=0)
    env = KitchenEnv()
    env.physics = KitchenPhysics(noise=0.0, sleep=False)
    env.reset()
    for action in lively_actions(40, seed=0):
        reference.robot_env.step(action.astype(np.float64))  # type: ignore[attr-defined]
        env.step(action)
    moved = env.qpos
    np.testing.assert_array_equal(moved, reference.data.qpos)  # type: ignore[attr-defined]
    assert np.abs(moved[9:] - INITIAL_POSITION[9:]).max() > 0.05, "the arm touched nothing: a weak comparison"


def test_what_rests_may_sleep() -> None:
    """An operator moves things in one kitchen; in the other, where nothing sleeps, the same targets do the same."""
    task = parse_kitchen_task("kettle > bottom burner > slide cabinet > hinge cabinet")
    asleep, awake = KitchenPhysics(noise=0.0), KitchenPhysics(noise=0.0, sleep=False)
    operator = KitchenTeleoperator(task, asleep.qpos, np.random.default_rng(0))
    apart: list[NDArray[np.float64]] = []
    tracker = SubtaskTracker(task)
    while not tracker.done and len(apart) < MAX_STEPS:
        measured, action = asleep.qpos, operator.act(asleep.qpos)
        assert action is not None
        for physics in (asleep, awake):
            physics.set_velocity_target(ACTION_SCALE * action.astype(np.float64), measured[:9])
            physics.step()
        tracker.update(asleep.qpos.astype(np.float32))
        apart.append(np.abs(asleep.qpos - awake.qpos))
    assert tracker.done, "little was touched: a weak comparison"
    assert 0.0 < np.max(apart) < 0.04  # rad, m; a subtask is complete at 0.3


def test_constants_are_those_of_the_model_and_of_its_sensor_table() -> None:
    model = load_kitchen_model()
    assert (model.nq, model.nu) == (30, 9)
    assert SUBSTEPS * model.opt.timestep == pytest.approx(CONTROL_PERIOD)
    names = {model.joint(index).name: int(model.jnt_qposadr[index]) for index in range(model.njnt)}
    assert (names["knob_Joint_2"], names["microwave"], names["kettle"]) == (11, 22, 23)

    package = importlib.util.find_spec("gymnasium_robotics")
    assert package is not None
    assert package.origin is not None
    assets = Path(package.origin).parent / "envs" / "assets" / "kitchen_franka"
    root = ElementTree.parse(assets / "franka_assets" / "franka_config.xml").getroot()
    table = [root.find(f"qpos{index}") for index in range(30)]
    amplitudes = [float(entry.attrib["pos_noise_amp"]) for entry in table if entry is not None]
    bounds = [list(map(float, entry.attrib["pos_bound"].split())) for entry in table[:9] if entry is not None]
    np.testing.assert_allclose(SENSOR_NOISE, 0.1 * np.array(amplitudes))
    np.testing.assert_array_equal(POSITION_BOUNDS, bounds)
    assert SENSOR_NOISE[0] == pytest.approx(0.01)


def test_every_reset_is_the_same_and_at_rest() -> None:
    physics = KitchenPhysics()
    physics.set_velocity_target(np.ones(9), INITIAL_POSITION[:9])
    physics.step()
    assert physics.time == pytest.approx(CONTROL_PERIOD)
    physics.reset()
    np.testing.assert_array_equal(physics.qpos, INITIAL_POSITION)
    np.testing.assert_array_equal(physics.qvel, np.zeros(29))
    assert physics.time == 0.0


def test_sensor_noise_is_uniform_of_the_originals_width_and_can_be_scaled() -> None:
    rng = np.random.default_rng(0)
    physics, tenth = KitchenPhysics(), KitchenPhysics(noise=0.1)
    errors = np.array([physics.observe(rng) - INITIAL_POSITION for _ in range(3000)])
    assert (np.abs(errors) <= SENSOR_NOISE).all()
    np.testing.assert_allclose(errors.std(axis=0), SENSOR_NOISE / np.sqrt(3.0), rtol=0.05)
    np.testing.assert_allclose(errors.mean(axis=0) / SENSOR_NOISE, 0.0, atol=0.05)
    same = np.random.default_rng(1), np.random.default_rng(1)
    scaled, full = tenth.observe(same[0]) - INITIAL_POSITION, physics.observe(same[1]) - INITIAL_POSITION
    np.testing.assert_allclose(scaled, 0.1 * full, atol=1e-12)
    np.testing.assert_array_equal(KitchenPhysics(noise=False).observe(rng), INITIAL_POSITION)
    np.testing.assert_array_equal(physics.observe(None), INITIAL_POSITION)


def test_velocity_is_aimed_from_the_measured_position() -> None:
    """The original's rule: q* = q_measured + 0.08 s v. An error of measurement moves the arm."""
    start = INITIAL_POSITION[:9]
    by_velocity, by_measurement = KitchenPhysics(), KitchenPhysics()
    velocity = np.zeros(9)
    velocity[0] = 0.5
    by_velocity.set_velocity_target(velocity, start)
    by_measurement.set_velocity_target(np.zeros(9), start + CONTROL_PERIOD * velocity)
    by_velocity.step()
    by_measurement.step()
    np.testing.assert_array_equal(by_velocity.qpos, by_measurement.qpos)
    moved = by_velocity.qpos[0] - start[0]
    assert 0.3 * 0.04 < moved < 0.04  # under way to 0.04 rad, which takes longer than a period


def test_an_episode_aims_from_its_last_noisy_observation() -> None:
    env, physics, rng = KitchenEnv(), KitchenPhysics(), np.random.default_rng(0)
    env.reset(seed=0)  # Gymnasium makes the same generator from the same seed
    measured = physics.observe(rng)
    for action in lively_actions(3, seed=0):
        physics.set_velocity_target(ACTION_SCALE * action.astype(np.float64), measured[:9])
        physics.step()
        measured = physics.observe(rng)
        np.testing.assert_array_equal(env.step(action)[0], measured.astype(np.float32))


def test_targets_stay_within_the_position_bounds() -> None:
    physics = KitchenPhysics()
    measured = INITIAL_POSITION[:9].copy()
    for _ in range(25):
        physics.set_velocity_target([0, 0, 0, 0, 0, ACTION_SCALE, 0, ACTION_SCALE, -ACTION_SCALE], measured)
        physics.step()
        measured = physics.qpos[:9]
    assert measured[5] == pytest.approx(2.1127, abs=0.02)  # the joint's own stop
    assert measured[7] == pytest.approx(0.04, abs=2e-3)
    assert measured[8] == pytest.approx(0.0, abs=2e-3)


@pytest.mark.parametrize("bad", [np.full(9, np.nan), np.full(9, np.inf), np.zeros(8), np.zeros((1, 9))])
def test_bad_commands_are_refused(bad: NDArray[np.float64], env: KitchenEnv) -> None:
    env.reset(seed=0)
    with pytest.raises(ValueError, match="9 finite numbers"):
        env.step(bad.astype(np.float32))
    physics = KitchenPhysics()
    with pytest.raises(ValueError, match="velocity must be 9 finite numbers"):
        physics.set_velocity_target(bad, np.zeros(9))
    with pytest.raises(ValueError, match="measured position must be 9 finite numbers"):
        physics.set_velocity_target(np.zeros(9), bad)


def test_passes_gymnasiums_checker() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*Box observation space.*infinity.*")
        check_env(KitchenEnv(), skip_render_check=True)


def test_gymnasium_makes_it_by_name() -> None:
    sim.register_envs()
    sim.register_envs()  # twice is fine: an import and a user may both call it
    with gymnasium.make(sim.KITCHEN_ID, task="Kettle, microwave", noise=False) as made:
        observation, info = made.reset(seed=0)
        assert info == {"task": "kettle > microwave", "subtasks_done": ()}
        np.testing.assert_array_equal(observation, INITIAL_POSITION.astype(np.float32))
    with pytest.raises(TaskError, match="'toaster'"):
        gymnasium.make(sim.KITCHEN_ID, task="toaster")


def test_same_seed_same_episode(env: KitchenEnv) -> None:
    def run(seed: int | None) -> NDArray[np.float32]:
        first, _ = env.reset(seed=seed)
        return np.array([first, *(env.step(action)[0] for action in lively_actions(5, seed=2))])

    reference = run(3)
    np.testing.assert_array_equal(run(3), reference)
    assert not np.array_equal(run(4), reference)
    assert not np.array_equal(run(None)[0], run(None)[0])


def test_ends_by_the_clock_without_terminating(env: KitchenEnv) -> None:
    env.reset(seed=0)
    ends = [env.step(np.zeros(9, np.float32))[2:4] for _ in range(5)]
    assert ends == [(False, False)] * 4 + [(False, True)]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(9, np.float32))


def test_pays_subtasks_and_terminates_with_the_last(env: KitchenEnv) -> None:
    env.reset(seed=0, options={"task": KitchenTask(("microwave",))})
    assert env.step(np.zeros(9, np.float32))[1:4] == (0.0, False, False)
    env.physics.reset(open_microwave())
    _, reward, terminated, truncated, info = env.step(np.zeros(9, np.float32))
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert info == {"task": "microwave", "subtasks_done": ("microwave",)}


def test_the_last_step_may_complete_the_task(env: KitchenEnv) -> None:
    env.reset(seed=0, options={"task": "microwave"})
    for _ in range(4):
        env.step(np.zeros(9, np.float32))
    env.physics.reset(open_microwave())
    assert env.step(np.zeros(9, np.float32))[1:4] == (1.0, True, False)


def test_refuses_impossible_settings() -> None:
    with pytest.raises(ConfigError, match="max_steps"):
        KitchenEnv(max_steps=0)
    with pytest.raises(ConfigError, match="noise"):
        KitchenEnv(noise=-1.0)
    with pytest.raises(ConfigError, match="'human'"):
        KitchenEnv(render_mode="human")


def test_missing_model_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    load_kitchen_model.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentMissingError, match="not installed"):
        load_kitchen_model()
    empty = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: empty)
    with pytest.raises(EnvironmentMissingError, match=f"no kitchen at {tmp_path}"):
        load_kitchen_model()
