"""What the scenarios of endurance judge by; they themselves are played by test_faults.py."""

from __future__ import annotations

import dataclasses
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from limit_checker import READY, LimitChecker, arm

pytest.importorskip("rclpy")
pytest.importorskip("simpl_interfaces", reason="the ROS workspace is not built: make ros")

from export.bundle import Bundle
from simpl.conversions import from_bundle_files
from simpl.core.guard import Guard, GuardSettings, Mode, Wanted
from simpl.core.journal import Journal
from simpl.core.model_store import ModelStore, ModelUpdate
from simpl.core.profile import load_profile
from simpl.core.profile_files import find_profile
from simpl.core.transition import Transition, pack
from simpl.faults import endurance_faults, fuzz_faults, swap_faults
from simpl.faults.rig import Log
from simpl.faults.scenario import UnexpectedError
from simpl.front.stream_journal import blank

SPEED = np.full(7, 2.0)


def transition(episode: int, step: int) -> Transition:
    return dataclasses.replace(blank(step), robot_uuid="6f1f3a86-2f2c-4a51-9d5e-5f0a4cb6a1de", epoch=1, episode=episode)


def test_what_is_older_than_a_second_must_be_on_the_disk_when_the_bridge_dies(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "bridge" / "journal")
    heard = Log()
    for step in range(40):
        heard.append(types.SimpleNamespace(episode=3, step=step, active=True))
        heard.times[-1] = 100.0 + 0.08 * step
    stage: Any = types.SimpleNamespace(actions=heard, run=tmp_path)
    killed = heard.times[-1]
    for step in range(28):
        journal.append(pack(transition(episode=3, step=step)))
    journal.flush()
    endurance_faults._is_on_the_disk(stage, 100.0, killed)  # 27 is younger than a second
    with pytest.raises(UnexpectedError, match=r"1 steps older than 1 s were not on the disk: \[28\]"):
        endurance_faults._is_on_the_disk(stage, 100.0, killed + 0.15)
    journal.close()


def page(velocities: Any, place: Any = READY) -> list[fuzz_faults.Heard]:
    """Heard 1 ms apart, each decided on within the 2 ms before."""
    return [fuzz_faults.Heard(1e-3 * k, 1e-3 * (k - 2), one, place) for k, one in enumerate(velocities)]


def test_a_change_of_velocity_is_judged_by_the_time_that_may_have_passed() -> None:
    steps, limit = np.arange(400), np.full(2, 3.0)
    steady = np.outer(0.003 * steps, [1.0, -1.0]) + 0.001  # exactly at the limit
    assert fuzz_faults.too_quick(page(steady), limit, 1) == fuzz_faults.too_quick(page(steady), limit, 100) == 0
    assert fuzz_faults.too_quick(page(1.05 * steady), limit, 100) == 300, "the bound is tight over a hundred commands"
    jump = steady + (steps >= 200)[:, None] * 0.1
    assert fuzz_faults.too_quick(page(jump), limit, 1) == 1
    stop = np.where(steps[:, None] == 200, 0.0, steady)
    stop[201:] = np.outer(0.003 * (steps[201:] - 200), [1.0, 1.0])
    assert fuzz_faults.too_quick(page(stop), limit, 1) == 0, "zeros may come at once"


def test_a_page_of_commands_is_judged() -> None:
    document = {**arm(), "position_margin": 0.0}
    checker = LimitChecker(document)
    steady = np.outer(0.009 * np.arange(400), np.ones(7)) + 0.001
    steady[150:] = 0.0

    def judged(velocity: Any, place: Any = READY, bad_from: int = 150) -> str:
        return " ".join(fuzz_faults.problems(page(velocity, place), checker, bad_from))

    assert judged(steady) == ""
    for change, word in ((steady * 1.5, "too quickly"), (steady * 2.0, "too fast"), (steady * np.nan, "not finite")):
        assert word in judged(change), word
    assert "after an impossible action" in judged(steady, bad_from=100)
    assert "beyond its margin" in judged(steady, READY + 3.0)
    assert "6 numbers" in judged(steady[:, :6])


def test_hostile_wishes_are_numbers_beyond_the_limits_and_impossible_ones_are_each_a_fault() -> None:
    draw = np.random.default_rng(0)
    profile = load_profile(find_profile(fuzz_faults.PROFILE))
    checker: Any = types.SimpleNamespace(size=7, speed=SPEED)
    wishes = fuzz_faults.possible(draw, checker, 5000)
    velocities = np.array([one["velocity"] for one in wishes])
    assert velocities.shape == (5000, 7) and np.isfinite(velocities).all()
    assert 0.2 < (np.abs(velocities) > SPEED).any(axis=1).mean() < 0.95
    assert sum("stamp" in one for one in wishes) > 5
    for tick, one in enumerate(fuzz_faults.impossible(draw, profile.joint_names) * 3):
        guard = Guard(profile, GuardSettings())
        guard.on_state(np.array([0.0, -0.78, 0.0, -2.35, 0.0, 1.57, 0.78]))
        wanted = Wanted(one["velocity"], tick, 1, 0, True, joints=tuple(one["joint_names"]))
        assert guard.on_action(wanted).mode is Mode.FAULT, one


def test_each_model_of_the_restless_learner_is_another_and_is_taken_in(random_bundle: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    base = Bundle.open(random_bundle)
    network = onnx.load(random_bundle / swap_faults.NETWORK)
    newest = transition(episode=1, step=0)
    store = ModelStore(tmp_path / "models", base, newest.robot_uuid)
    for seq in (5, 6):
        newest.seq = seq
        message = swap_faults.variant(base, network, newest)
        files = from_bundle_files(message.files)
        told = (message.model_version, message.parent_version, message.manifest_json, files, message.trained_on)
        model = store.offer(ModelUpdate(*told))
        assert model is not None and model.trained_on == (newest.epoch, seq)
    assert len(set(store.accepted)) == 2
