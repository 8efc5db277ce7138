"""The scripted teleoperator: every subtask alone, four in a row, variation without chance, files that can be read."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import pytest

from sim.demonstrators.kitchen_arm import KitchenArm, Pose, facing, rotation_about, rotation_between
from sim.demonstrators.kitchen_collect import (
    Attempt,
    CollectSettings,
    collect,
    demonstrate,
    is_feasible,
    play_tasks,
)
from sim.demonstrators.kitchen_teleoperator import Manner
from sim.kitchen import INITIAL_POSITION, KitchenPhysics
from sim.tasks import (
    KITCHEN_TARGET_TASKS,
    KITCHEN_TRAIN_TASKS,
    MAX_STEPS,
    SUBTASKS,
    KitchenTask,
    ever_completed,
    parse_kitchen_task,
)
from simpl_core.cli import main
from simpl_core.dataset import open_demonstrations
from simpl_core.errors import ConfigError


@pytest.fixture(scope="module")
def physics() -> KitchenPhysics:
    return KitchenPhysics()


@pytest.fixture(scope="module")
def arm() -> KitchenArm:
    return KitchenArm()


def play(text: str, seed: int, physics: KitchenPhysics, arm: KitchenArm) -> Attempt:
    return demonstrate(parse_kitchen_task(text), (seed,), physics, arm)


def test_joints_are_found_for_a_pose(arm: KitchenArm) -> None:
    home = INITIAL_POSITION[:7]
    here = arm.pose(home)
    goal = Pose(
        here.position + np.array([0.03, 0.04, -0.05]), rotation_about(np.array([0.0, 0.0, 1.0]), 0.2) @ here.rotation
    )
    found = arm.pose(arm.solve(arm.solve(home, goal, 0.3), goal, 0.3))
    np.testing.assert_allclose(found.position, goal.position, atol=2e-3)
    assert np.linalg.norm(rotation_between(found.rotation, goal.rotation)) < 0.01


def test_rotations() -> None:
    axis = np.array([0.6, 0.0, 0.8])
    turn = rotation_about(axis, 0.7)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(rotation_between(np.eye(3), turn), 0.7 * axis, atol=1e-12)
    np.testing.assert_allclose(facing(yaw=np.pi / 2)[:, 2], [-1.0, 0.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(facing(pitch=np.pi / 2)[:, 2], [0.0, 0.0, 1.0], atol=1e-12)


def test_a_handle_moves_along_its_doors_arc(arm: KitchenArm) -> None:
    arm.look(INITIAL_POSITION)
    predicted = arm.swept(arm.site("microhandle_site"), "microwave", -0.5)
    opened = INITIAL_POSITION.copy()
    opened[22] -= 0.5
    arm.look(opened)
    np.testing.assert_allclose(predicted, arm.site("microhandle_site"), atol=1e-9)


@pytest.mark.parametrize("name", SUBTASKS)
def test_each_subtask_alone(name: str, physics: KitchenPhysics, arm: KitchenArm) -> None:
    attempts = [play(name, seed, physics, arm) for seed in (0, 1)]
    assert [attempt.completed for attempt in attempts] == [1, 1]
    for attempt in attempts:
        assert np.abs(attempt.demonstration.actions).max() <= 1.0
        assert name in ever_completed(attempt.demonstration.observations)


@pytest.mark.parametrize(
    "text",
    ["microwave > kettle > light switch > slide cabinet", "bottom burner > top burner > slide cabinet > hinge cabinet"],
)
def test_four_in_a_row(text: str, physics: KitchenPhysics, arm: KitchenArm) -> None:
    attempt = play(text, 0, physics, arm)
    assert attempt.succeeded
    assert len(attempt.demonstration.actions) <= MAX_STEPS


def test_the_seed_decides_everything(physics: KitchenPhysics, arm: KitchenArm) -> None:
    first, other = play("light switch", 1, physics, arm), play("light switch", 2, physics, arm)
    again = demonstrate(parse_kitchen_task("light switch"), (1,), KitchenPhysics(), KitchenArm())
    np.testing.assert_array_equal(first.demonstration.actions, again.demonstration.actions)
    np.testing.assert_array_equal(first.demonstration.observations, again.demonstration.observations)
    assert not np.array_equal(first.demonstration.actions[:20], other.demonstration.actions[:20])


def test_a_calm_operator_leaves_no_noise(arm: KitchenArm) -> None:
    still = Manner(jitter=(0.0, 0.0), action_noise=(0.0, 0.0), pace=(1.0, 1.0))
    calm = demonstrate(parse_kitchen_task("light switch"), (0,), KitchenPhysics(0.0), arm, still)
    lively = demonstrate(parse_kitchen_task("light switch"), (0,), KitchenPhysics(1.0), arm)
    jerk = [np.diff(np.asarray(a.demonstration.actions)[:15, :7], n=2, axis=0).std() for a in (calm, lively)]
    assert calm.succeeded and jerk[0] < 0.7 * jerk[1]


def test_play_shows_all_subtasks_equally_often_in_many_orders() -> None:
    tasks = list(islice(play_tasks(np.random.default_rng(0)), 2000))
    shares = Counter(name for task in tasks for name in task.subtasks)
    assert {len(task) for task in tasks} == {4}
    assert all(abs(shares[name] / len(tasks) - 4 / 7) < 0.04 for name in SUBTASKS), shares
    assert len(set(tasks)) > 300
    assert all(is_feasible(task.subtasks) for task in (*tasks, *KITCHEN_TRAIN_TASKS, *KITCHEN_TARGET_TASKS))


def test_a_file_does_not_depend_on_threads_and_can_be_read(tmp_path: Path) -> None:
    tasks = [KitchenTask(("light switch",)), KitchenTask(("kettle",))]
    settings = CollectSettings(episodes=3, seed=5)
    told: list[int] = []
    summary = collect(settings, tasks, tmp_path / "one.hdf5", 1, told.append, {"revision": "abc"})
    collect(settings, tasks, tmp_path / "two.hdf5", 2)
    one, two = (open_demonstrations(tmp_path / name, 30) for name in ("one.hdf5", "two.hdf5"))
    np.testing.assert_array_equal(one.states, two.states)
    np.testing.assert_array_equal(one.actions, two.actions)
    assert sum(told) == len(one.lengths) == summary.episodes == 3
    assert summary.steps == len(one.actions) and summary.completed["light switch"] >= 1
    with h5py.File(tmp_path / "one.hdf5") as file:
        assert file.attrs["seed"] == 5 and file.attrs["revision"] == "abc"
        assert file.attrs["tasks"] == "light switch; kettle"


def test_no_episodes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 1, got 0 and 1"):
        collect(CollectSettings(episodes=0), None, tmp_path / "none.hdf5")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = tmp_path / "tasks.txt"
    tasks.write_text("light switch\n", encoding="utf-8")
    out = tmp_path / "kitchen.hdf5"
    assert main(["collect", "kitchen", "--episodes", "1", "--out", str(out), "--tasks", f"@{tasks}"]) == 0
    assert "1 episodes" in capsys.readouterr().out
    assert len(open_demonstrations(out).lengths) == 1


@pytest.mark.slow
def test_the_papers_sequences(physics: KitchenPhysics, arm: KitchenArm) -> None:
    tasks = (*KITCHEN_TRAIN_TASKS, *KITCHEN_TARGET_TASKS)
    done = [demonstrate(task, (7, index), physics, arm).succeeded for index, task in enumerate(tasks)]
    assert sum(done) >= 0.8 * len(tasks), [str(task) for task, good in zip(tasks, done, strict=True) if not good]
