"""The table of domains, and the maze through all stages of the command line."""

from __future__ import annotations

import csv
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torch import nn
from toy_domain import toy_models

from sim.maze_layout import MazeLayout
from sim.maze_tasks import maze_tasks
from sim.tasks import KITCHEN_TARGET_TASKS, KITCHEN_TRAIN_TASKS
from simpl_core.adapt import spirl_start
from simpl_core.config import ADAPT_PRESETS, META_PRESETS, SKILLS_PRESETS
from simpl_core.domains import DOMAINS, domain
from simpl_core.errors import CheckpointError, ConfigError, TaskError


def simpl(*arguments: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "simpl_core", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)


def test_every_domain_makes_its_environment_and_has_its_presets() -> None:
    for name in DOMAINS:
        where = domain(name)
        assert where.name == name
        env = where.make_env(2, 1, 1.0)
        training = where.tasks((), where.training)
        target = where.tasks((), where.target)
        assert not set(map(str, training)) & set(map(str, target))
        assert len(env.reset(0, training[0], 0)) == env.observation_size == where.state_dim == len(where.sensor_noise)
        env.close()
        for preset in ("official", "fast", "small"):
            assert SKILLS_PRESETS[where.preset(preset)].state_dim == where.state_dim
            assert where.preset(preset) in META_PRESETS and where.preset(preset) in ADAPT_PRESETS
        assert where.preset("spirl") in ADAPT_PRESETS


def test_tasks_come_as_texts_families_and_files(tmp_path: Path) -> None:
    maze, kitchen = domain("maze"), domain("kitchen")
    assert kitchen.tasks((), kitchen.training) == list(KITCHEN_TRAIN_TASKS)
    assert kitchen.tasks(("target",), "train") == list(KITCHEN_TARGET_TASKS)
    assert [str(task) for task in kitchen.tasks(("kettle > microwave",), "train")] == ["kettle > microwave"]
    path = tmp_path / "goals.txt"
    path.write_text("8,2\n\nmaze10 in maze 20:4\n")
    goals = maze.tasks((f"@{path}", "5,11"), "target")
    assert len(goals) == 12
    assert goals[1:11] == list(maze_tasks("maze10", MazeLayout(20, 4)))
    with pytest.raises(ConfigError, match="cannot be read"):
        maze.tasks(("@nowhere",), "target")
    with pytest.raises(TaskError, match="maze40"):
        maze.tasks(("maze50",), "target")


def test_spirl_from_skills_alone_has_networks_as_large_as_its_domains() -> None:
    for preset, meta in (("spirl", "official"), ("maze-spirl", "maze-official")):
        start = spirl_start(toy_models(), ADAPT_PRESETS[preset], seed=0)
        layers = [layer for layer in start.critics.critics[0] if isinstance(layer, nn.Linear)]
        wanted = META_PRESETS[meta]
        assert (len(layers) - 1, layers[0].out_features) == (wanted.layers, wanted.hidden)
        assert len(start.critics.critics) == wanted.critics


def test_models_of_another_domain_are_refused() -> None:
    domain("maze").check(4, Path("run"))
    with pytest.raises(CheckpointError, match=r"run is for states of 30 numbers and the maze has 4.*--domain"):
        domain("maze").check(30, Path("run"))
    with pytest.raises(ConfigError, match="kitchen, maze"):
        domain("blocks")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--domain", "maze"), "states of 30 numbers"),
        (("--episodes", "0"), "at least 1"),
    ],
)
def test_rollouts_that_cannot_be_are_refused(random_run: Path, arguments: tuple[str, ...], message: str) -> None:
    answer = simpl("rollout", str(random_run), *arguments)
    assert answer.returncode == 2
    assert message in answer.stderr and len(answer.stderr.strip().splitlines()) == 1


def test_a_meta_trained_policy_explores(random_run: Path) -> None:
    answer = simpl("rollout", str(random_run), "--policy", "explore", "--episodes", "1")
    assert answer.returncode == 0, answer.stderr
    assert "subtasks completed per episode" in answer.stdout


@pytest.mark.slow
def test_the_maze_goes_through_every_stage(tmp_path: Path) -> None:
    """Layout and demonstrations, skills, meta-training, evaluation, rollouts: each from the last one's files."""
    data, skills, meta, scores = (tmp_path / name for name in ("demos.hdf5", "skills", "meta", "evaluation"))
    small = "--domain maze --preset small"
    commands = [
        f"collect maze --episodes 50 --size 12 --layout-seed 1 --out {data}",
        f"train skills {data} --out {skills} {small} --set iterations=200 hidden=32",
        f"train meta {skills} --out {meta} {small} --tasks 'maze10 in maze 12:1' --set epochs=1 context_large=64 "
        "batch_size=32 hidden=32 encoder_hidden=16 reuse=0.5",
        f"evaluate {meta} --out {scores} {small} --workers 1 --tasks '3,3 in maze 12:1' --set "
        "conditioning_episodes=2 episodes=2 reuse=1",
        f"rollout {skills} --domain maze --tasks 'target in maze 12:1' --episodes 4 --picture {tmp_path}/rollout.png",
        f"export {meta} --domain maze -o {tmp_path}/bundle",
        f"rollout {meta} --domain maze --tasks '3,3 in maze 12:1' --episodes 2 --policy encoded",
    ]
    for command in commands:
        answer = simpl(*shlex.split(command))
        assert answer.returncode == 0, f"{command}: {answer.stderr[-2000:]}"
    assert "goals reached: " in answer.stdout and "cells seen by an episode" in answer.stdout
    with (scores / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["task"] for row in rows] == ["3,3 in maze 12:1"] * 4
    assert all(float(row["score"]) in (0.0, 1.0) for row in rows)
    for picture in (data.with_suffix(".png"), tmp_path / "rollout.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_picture_shows_walls_goals_and_paths(tmp_path: Path) -> None:
    from PIL import Image

    from simpl_core.plots_maze import maze_picture

    layout = MazeLayout(12, 1)
    path = tmp_path / "maze.png"
    maze_picture(layout.walls, path)
    empty = np.asarray(Image.open(path).convert("RGB"), int)
    walls = (empty.max(2) - empty.min(2) < 12) & (empty.mean(2) > 100) & (empty.mean(2) < 160)
    assert walls.mean() == pytest.approx(layout.walls.mean(), abs=0.1)
    maze_picture(
        layout.walls,
        path,
        trajectories=[[layout.start, (6.0, 9.0), (9.0, 9.0)]],
        goals={"goals": [task.goal for task in maze_tasks("maze10", layout)]},
        start=layout.start,
        title="twelve cells",
    )
    full = np.asarray(Image.open(path).convert("RGB"), int)
    blue = (full[..., 2] - full[..., 0] > 60).sum()
    green = (full[..., 1] - full[..., 0] > 60).sum()
    assert blue > 200 and green > 500
