"""Evaluation: rows for every episode, statistics by hand, the same result after a kill."""

from __future__ import annotations

import csv
import dataclasses
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from toy_domain import STEPS, TASKS, ToyEnv, load_toy_models, meta_run

from simpl_core import evaluate
from simpl_core.adapt import Adaptation
from simpl_core.config import AdaptConfig
from simpl_core.errors import CheckpointError, ConfigError
from simpl_core.plots import learning_curves, smoothed
from simpl_core.results import read_scores

CONFIG = AdaptConfig(conditioning_episodes=3, episodes=8, batch_size=16, buffer_size=200, reuse=16.0)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> evaluate.Evaluation:
    load = partial(load_toy_models, meta_run(tmp_path_factory.mktemp("meta")))
    return evaluate.Evaluation(load, ToyEnv, "simpl", CONFIG)


def test_one_row_per_task_seed_and_episode(tmp_path: Path, toy: evaluate.Evaluation) -> None:
    text = evaluate.run(toy, TASKS[:2], [0, 7], tmp_path)
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
    """Stops at its n-th reset."""

    left, how = 0, Killed

    def reset(self, slot, task, seed):
        self.left -= 1
        if self.left < 0:
            raise self.how
        return super().reset(slot, task, seed)


@pytest.mark.parametrize(("how", "kept"), [(Killed, 12 + 4 * 6), (KeyboardInterrupt, 12 + 4 * 7)])
def test_a_stopped_evaluation_goes_on_to_the_same_scores(
    tmp_path: Path, toy: evaluate.Evaluation, how: type[BaseException], kept: int
) -> None:
    """Four runs, of 3 conditioning episodes, a round for each run, and 8 side by side, stop in the middle of the
    twelfth round: a kill costs what came after the tenth, an interrupt that round alone."""
    noisy = dataclasses.replace(toy, make_env=partial(ToyEnv, noise=0.02))
    evaluate.run(noisy, TASKS[:2], [0, 1], tmp_path / "whole")
    dying, env = DyingEnv(4, noise=0.02), ToyEnv(2, noise=0.02)
    dying.left, dying.how = 12 + 4 * 7 + 2, how
    with pytest.raises(how):
        evaluate.run(dataclasses.replace(toy, make_env=lambda _: dying), TASKS[:2], [0, 1], tmp_path / "stopped")
    assert dying.closed
    evaluate.run(dataclasses.replace(toy, make_env=lambda _: env), TASKS[:2], [0, 1], tmp_path / "stopped")
    assert len(env.resets) == 44 - kept
    whole, again = ((tmp_path / name / "scores.csv").read_bytes() for name in ("whole", "stopped"))
    assert whole == again
    measured = [next((tmp_path / name).glob("runs/angle-0-00-*seed1/metrics.csv")) for name in ("whole", "stopped")]
    assert measured[0].read_text() == measured[1].read_text()


def test_processes_make_the_scores_of_one_to_the_last_bit(tmp_path: Path, toy: evaluate.Evaluation) -> None:
    """A run depends on its task and seed alone: neither on who makes it nor on what is made beside it."""
    noisy = dataclasses.replace(toy, make_env=partial(ToyEnv, noise=0.02))
    evaluate.run(noisy, TASKS[:2], [0, 1], tmp_path / "one")
    evaluate.run(noisy, TASKS[:2], [0, 1], tmp_path / "two", workers=2)
    evaluate.run(noisy, TASKS[1:2], [1], tmp_path / "alone")
    one, two = (tmp_path / name / "scores.csv" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    for state in (tmp_path / "two").glob("runs/*/state.safetensors"):  # rewards are coarse; weights are not
        assert state.read_bytes() == (tmp_path / "one" / state.relative_to(tmp_path / "two")).read_bytes()
    alone = next((tmp_path / "alone").glob("runs/*/state.safetensors"))
    assert alone.read_bytes() == (tmp_path / "one" / alone.relative_to(tmp_path / "alone")).read_bytes()


def test_finished_runs_are_kept_when_tasks_are_added(tmp_path: Path, toy: evaluate.Evaluation) -> None:
    evaluate.run(toy, TASKS[:1], [0], tmp_path)
    env = ToyEnv(4)
    evaluate.run(dataclasses.replace(toy, make_env=lambda _: env), TASKS[:2], [0], tmp_path)
    assert {task for _, task, _ in env.resets} == {str(TASKS[1])}
    assert read_scores(tmp_path / "scores.csv").values.shape == (1, 2, 11)


def test_an_evaluation_can_be_made_longer_and_shorter(tmp_path: Path, toy: evaluate.Evaluation) -> None:
    def scores(out: str, episodes: int) -> np.ndarray:
        config = dataclasses.replace(CONFIG, episodes=episodes)
        evaluate.run(dataclasses.replace(toy, config=config), TASKS[:1], [0], tmp_path / out)
        return read_scores(tmp_path / out / "scores.csv").values

    short = scores("longer", 3)
    whole = scores("whole", 7)
    np.testing.assert_array_equal(scores("longer", 7), whole)
    np.testing.assert_array_equal(short, whole[..., : short.shape[-1]])
    np.testing.assert_array_equal(scores("longer", 3), short)


def test_smoothing_looks_back_only() -> None:
    np.testing.assert_allclose(smoothed(np.array([[1.0, 2, 3, 4]]), 2), [[1, 1.5, 2.5, 3.5]])


def test_a_curve_with_other_results_beside_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    curves = {"simpl": rng.random((3, 20)), "spirl": rng.random((1, 20))}
    learning_curves(
        curves, tmp_path / "curve.svg", conditioning={"simpl": 5}, points={"paper": {10: 0.4}}, label="subtasks"
    )
    text = (tmp_path / "curve.svg").read_text()
    assert text.startswith("<?xml") and "<svg" in text


def test_errors(tmp_path: Path, toy: evaluate.Evaluation) -> None:
    def run(tasks: list, seeds: list, **changes: object) -> None:
        evaluate.run(dataclasses.replace(toy, **changes), tasks, seeds, tmp_path)

    with pytest.raises(ConfigError, match="at least one seed, each once; got 1"):
        run(TASKS[:1], [1, 1])
    with pytest.raises(ConfigError, match="at least one task, each once; got none"):
        run([], [1])
    with pytest.raises(ConfigError, match="no method 'sac'; there are simpl, spirl"):
        run(TASKS[:1], [0], method="sac")
    assert not (tmp_path / "evaluation.json").exists()
    run(TASKS[:1], [0])
    with pytest.raises(CheckpointError, match="other adapt"):
        run(TASKS[:1], [0], config=dataclasses.replace(CONFIG, gamma=0.5))
    state = next(tmp_path.glob("runs/*/state.safetensors"))
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="remove it to start that run afresh"):
        run(TASKS[:1], [0])
    assert Adaptation("simpl", toy.load(), CONFIG, TASKS[0], 0).total_episodes == 11
