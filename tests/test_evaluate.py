"""Evaluation: rows for every episode, statistics by hand, the same result after a kill."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from toy_domain import STEPS, TASKS, ToyEnv, meta_models

from simpl_core import evaluate
from simpl_core.adapt import Adaptation
from simpl_core.checkpoint import Models
from simpl_core.config import AdaptConfig
from simpl_core.errors import CheckpointError, ConfigError
from simpl_core.plots import learning_curves, smoothed
from simpl_core.results import read_scores

CONFIG = AdaptConfig(conditioning_episodes=3, episodes=8, batch_size=16, buffer_size=200, reuse=16.0)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return meta_models(tmp_path_factory.mktemp("meta"))


def test_one_row_per_task_seed_and_episode(tmp_path: Path, models: Models) -> None:
    text = evaluate.run(CONFIG, models, "simpl", ToyEnv(4), TASKS[:2], [0, 7], tmp_path)
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["task", "seed", "episode", "score"]
    assert len(rows) == 2 * 2 * 11
    assert {(row["task"], row["seed"]) for row in rows} == {(str(t), s) for t in TASKS[:2] for s in ("0", "7")}
    assert [row["episode"] for row in rows[:11]] == [str(i) for i in range(1, 12)]
    assert all(0 <= float(row["score"]) <= STEPS for row in rows)
    report = json.loads((tmp_path / "summary.json").read_text())
    assert report["means"]["all"] == pytest.approx(np.mean([float(row["score"]) for row in rows]))
    assert report["adapt"] == dataclasses.asdict(CONFIG) and report["seeds"] == [0, 7]
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"
    assert "mean score" in text
    scores = read_scores(tmp_path / "scores.csv")
    assert scores.values.shape == (2, 2, 11) and scores.tasks == (str(TASKS[0]), str(TASKS[1]))


class Killed(BaseException):
    """As SIGKILL: nobody gets to save anything."""


class DyingEnv(ToyEnv):
    left = 28

    def reset(self, slot, task, seed):
        self.left -= 1
        if self.left < 0:
            raise Killed
        return super().reset(slot, task, seed)


def test_a_killed_evaluation_goes_on_to_the_same_scores(tmp_path: Path, models: Models) -> None:
    """Four runs: 12 conditioning episodes, then 4 a round; a state is saved after the fifth round."""
    evaluate.run(CONFIG, models, "simpl", ToyEnv(4, noise=0.02), TASKS[:2], [0, 1], tmp_path / "whole")
    killed = DyingEnv(4, noise=0.02)
    killed.left = 30
    with pytest.raises(Killed):
        evaluate.run(CONFIG, models, "simpl", killed, TASKS[:2], [0, 1], tmp_path / "killed")
    env = ToyEnv(3, noise=0.02)
    evaluate.run(CONFIG, models, "simpl", env, TASKS[:2], [0, 1], tmp_path / "killed")
    assert len(env.resets) == 44 - (12 + 4 * 4)
    whole, again = ((tmp_path / name / "scores.csv").read_text() for name in ("whole", "killed"))
    assert whole == again


def test_finished_runs_are_kept_when_tasks_are_added(tmp_path: Path, models: Models) -> None:
    evaluate.run(CONFIG, models, "simpl", ToyEnv(4), TASKS[:1], [0], tmp_path)
    env = ToyEnv(4)
    evaluate.run(CONFIG, models, "simpl", env, TASKS[:2], [0], tmp_path)
    assert {task for _, task, _ in env.resets} == {str(TASKS[1])}
    assert read_scores(tmp_path / "scores.csv").values.shape == (1, 2, 11)


def test_smoothing_looks_back_only() -> None:
    np.testing.assert_allclose(smoothed(np.array([[1.0, 2, 3, 4]]), 2), [[1, 1.5, 2.5, 3.5]])


def test_a_curve_with_other_results_beside_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    curves = {"simpl": rng.random((3, 20)), "spirl": rng.random((1, 20))}
    learning_curves(curves, tmp_path / "curve.svg", conditioning=5, points={"paper": {10: 0.4}}, label="subtasks")
    text = (tmp_path / "curve.svg").read_text()
    assert text.startswith("<?xml") and "<svg" in text


def test_errors(tmp_path: Path, models: Models) -> None:
    def run(method: str, tasks: list, seeds: list, config: AdaptConfig = CONFIG) -> None:
        evaluate.run(config, models, method, ToyEnv(1), tasks, seeds, tmp_path)

    with pytest.raises(ConfigError, match="at least one seed, each once; got 1"):
        run("simpl", TASKS[:1], [1, 1])
    with pytest.raises(ConfigError, match="at least one task, each once; got none"):
        run("simpl", [], [1])
    run("simpl", TASKS[:1], [0])
    with pytest.raises(CheckpointError, match="another|other adapt"):
        run("simpl", TASKS[:1], [0], dataclasses.replace(CONFIG, gamma=0.5))
    state = next((tmp_path / "state").glob("*.safetensors"))
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="remove it to start that run afresh"):
        run("simpl", TASKS[:1], [0])
    assert Adaptation("simpl", models, CONFIG, TASKS[0], 0).total_episodes == 11
