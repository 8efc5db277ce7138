"""The simulated robot without ROS: it moves as the environment does, holds when told nothing, and keeps its record."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from sim.kitchen import CONTROL_PERIOD, KitchenEnv
from simpl.core.kitchen_plant import PERIOD_NS, SLICE, SLICES, KitchenPlant
from simpl.core.policy_model import load_policy_model
from simpl.core.profile import load_profile
from simpl.core.profile_files import find_profile
from simpl_core.errors import BundleError, ConfigError

MOVE = np.array([0.5, 0.3, -0.5, 0.3, 0.5, 0.5, 0.5, 0.0, 0.0])


def test_steps_are_the_environments_to_the_last_bit():
    env, plant = KitchenEnv(), KitchenPlant()
    observation, _ = env.reset(seed=3)
    plant.reset(3, 0)
    rng = np.random.default_rng(0)
    for step in range(30):
        np.testing.assert_array_equal(plant.measured.astype(np.float32), observation)
        action = rng.uniform(-1, 1, 9).astype(np.float32)
        observation, *_ = env.step(action)
        plant.step(2.0 * action.astype(np.float64), (step + 1) * PERIOD_NS)
    np.testing.assert_array_equal(plant.qpos, env.qpos)


class RealTime:
    """A plant along a clock that the test moves."""

    def __init__(self):
        self.plant, self.now = KitchenPlant(noise=0.0, command_timeout=0.2), 10.0

    def run(self, seconds):
        """Let time pass; returns how far each arm joint went."""
        start = self.plant.qpos[:7]
        for _ in range(round(seconds / SLICE)):
            self.now += SLICE
            self.plant.advance(self.now, round(self.now * 1e9))
        return self.plant.qpos[:7] - start

    def command(self, velocity):
        self.plant.command(velocity, self.now, round(self.now * 1e9))


def test_a_velocity_command_goes_on_until_the_timeout_and_then_the_arm_holds():
    arm = RealTime()
    arm.command(MOVE)
    latched = arm.run(0.16)  # nobody sends again; a velocity controller goes on
    assert abs(latched[0]) > 0.5 * 0.08 * abs(MOVE[0])
    arm.run(1.0)
    assert np.abs(arm.run(1.0)).max() < 0.01


def test_a_velocity_that_is_sent_more_often_moves_the_arm_no_faster():
    ways = []
    for parts in (1, 2, 4, 8):
        arm = RealTime()
        start = arm.plant.qpos[:7]
        for _ in range(10 * parts):
            arm.command(MOVE)
            arm.run(CONTROL_PERIOD / parts)
        ways.append(arm.plant.qpos[:7] - start)
    assert np.abs(ways[0]).max() > 0.2
    for way in ways[1:]:
        np.testing.assert_allclose(way, ways[0], atol=1e-4)


def test_a_velocity_that_changes_within_a_period_is_followed():
    ways = []
    for second in (1.0, -1.0):
        arm = RealTime()
        arm.command(MOVE)
        arm.run(CONTROL_PERIOD / 2)
        arm.command(second * MOVE)
        ways.append(arm.run(CONTROL_PERIOD / 2)[0])
    assert ways[1] < 0.5 * ways[0]


def test_repeated_zeros_do_not_let_the_arm_sag():
    arm = RealTime()
    arm.command(np.zeros(9))
    arm.run(1.0)
    resting = arm.plant.qpos[:7]
    for _ in range(20):
        arm.command(np.zeros(9))
        arm.run(0.1)
    assert np.abs(arm.plant.qpos[:7] - resting).max() < 0.01


def test_an_arm_told_to_rest_all_night_fills_no_memory():
    plant, zeros = KitchenPlant(), np.zeros(9)
    plant.command(np.full(9, 0.1), 0.0, 1)
    for slice_ in range(200):  # 2 s, the guard's zeros ten times a second
        if slice_ >= 20 and slice_ % 10 == 0:
            plant.command(zeros, 0.01 * slice_, slice_)
        plant.advance(0.01 * slice_, slice_)
    assert 30 < len(plant.record._qpos) <= 41, "until it rests, and for as long as a command lasts"


def test_the_record_is_whole_and_never_overwritten(tmp_path):
    plant = KitchenPlant()
    assert plant.record.save(tmp_path, 7) is None, "nothing was commanded"
    for attempt in range(2):
        plant.reset(attempt, 0)
        for step in range(3):
            plant.step(MOVE, (step + 1) * PERIOD_NS)
        plant.record.save(tmp_path / "new", 7)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["episode_007.npz", "episode_007_1.npz"]
    record = np.load(tmp_path / "new" / "episode_007.npz")
    assert record["qpos"].shape == (4, 30)
    np.testing.assert_array_equal(record["stamps"], np.arange(4) * PERIOD_NS)
    np.testing.assert_array_equal(record["commands"], np.tile(MOVE, (3, 1)))
    np.testing.assert_array_equal(record["command_stamps"], np.arange(3) * PERIOD_NS)


def test_slices_add_up_to_a_control_period():
    assert pytest.approx(CONTROL_PERIOD) == SLICE * SLICES


# -- a model for this arm ----------------------------------------------------------------------------------------------


def test_a_bundle_acts_on_the_arm_it_was_made_for_and_on_no_other(random_bundle):
    profile = load_profile(find_profile("mujoco_kitchen"))
    model = load_policy_model(random_bundle, profile)
    assert (model.e_dim, model.action_scale.tolist()) == (6, [2.0] * 9)
    import dataclasses

    renamed = dataclasses.replace(profile.joints[2], name="elbow")
    for other, message in (
        (dataclasses.replace(profile, joints=(*profile.joints[:2], renamed, *profile.joints[3:])), "number 2 is"),
        (dataclasses.replace(profile, objects=profile.objects[:-1]), "the bundle names 30, the robot profile 29"),
        (dataclasses.replace(profile, control_rate_hz=40.0), "12.5 Hz, .* 40.0 Hz; that must be the same or a whole"),
        (dataclasses.replace(profile, control_rate_hz=6.25), "12.5 Hz, .* 6.25 Hz; that must be the same or a whole"),
    ):
        with pytest.raises(BundleError, match=message):
            load_policy_model(random_bundle, other)
    assert model.periods == 1
    assert load_policy_model(random_bundle, dataclasses.replace(profile, control_rate_hz=100.0)).periods == 8
    # The same arm under another name is the arm it was made for, once the profile says so.
    joints = (*profile.joints[:2], renamed, *profile.joints[3:])
    named = dataclasses.replace(profile, joints=joints, model_names={"elbow": profile.joints[2].name})
    assert load_policy_model(random_bundle, named).version == model.version


def test_a_bundle_that_takes_longer_than_a_period_is_refused(random_bundle, monkeypatch):
    profile = load_profile(find_profile("mujoco_kitchen"))
    processor = itertools.count(step=0.1)
    monkeypatch.setattr(time, "thread_time", lambda: next(processor))
    with pytest.raises(BundleError, match="takes 100 ms for an action; the period of .* mujoco_kitchen is 80 ms"):
        load_policy_model(random_bundle, profile)


def test_profiles_are_found_by_name_and_by_path(tmp_path):
    with pytest.raises(ConfigError, match="no robot profile 'r2d2'; there are: .*mujoco_kitchen"):
        find_profile("r2d2")
    assert find_profile(str(tmp_path / "own.yaml")) == tmp_path / "own.yaml"
