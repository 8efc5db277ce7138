"""Phase 1 measured: which episodes are held out, replays that begin where demonstrations do, and the counts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import nn
from toy_domain import ACTION, HORIZON, SKILLS, STEPS, TASKS, PlaySkill, ToyEnv, unit_prior

from sim.kitchen import INITIAL_POSITION, KitchenEnv
from sim.maze_tasks import MazeTask
from sim.maze_vector import MazeVector
from sim.tasks import SUBTASKS, KitchenTask, ever_completed
from sim.vector import KitchenVector
from simpl_core import cli
from simpl_core.checkpoint import Models
from simpl_core.dataset import Demonstrations
from simpl_core.distributions import DiagonalGaussian
from simpl_core.domains import domain
from simpl_core.errors import EnvironmentMissingError
from simpl_core.rollout import RolloutJob, SkillActor, collect, follow_prior
from simpl_core.skills_report import held_out, measure_fit, replay_jobs, replayed_states, tally
from simpl_core.windows import split_episodes


class MeanAction(nn.Module):
    """An encoder whose skill is the mean action of a window, which `PlaySkill` plays."""

    def forward(self, states: torch.Tensor, actions: torch.Tensor) -> DiagonalGaussian:
        mean = actions.mean(1)
        return DiagonalGaussian(mean, torch.full_like(mean, 0.5))


class Recorded(nn.Module):
    """An open-loop decoder that plays recorded actions, whatever the skill."""

    def __init__(self, actions: np.ndarray) -> None:
        super().__init__()
        self.actions = torch.from_numpy(actions)

    def decode(self, states: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return self.actions.expand(len(states), -1, -1)


def exact_models() -> Models:
    return Models(SKILLS, ACTION, MeanAction(), PlaySkill(), unit_prior())  # type: ignore[arg-type]


def toy_demonstrations(lengths: tuple[int, ...] = (8, 5, 7)) -> Demonstrations:
    """Skills of the toy domain as recorded: an action held for a window, from starts of all kinds."""
    rng = np.random.default_rng(0)
    states, actions = [], []
    for steps in lengths:
        moves = np.repeat(rng.uniform(-1, 1, (steps, ACTION)), HORIZON, axis=0)[:steps]
        places = rng.normal(size=2) + 0.1 * np.cumsum(np.vstack([np.zeros((1, 2)), moves[:-1]]), axis=0)
        states.append(np.column_stack([places, np.arange(steps) / STEPS]))
        actions.append(moves)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    flat = (np.concatenate(rows).astype(np.float32) for rows in (states, actions))
    return Demonstrations(*flat, bounds, "a" * 64, "made up")


def test_a_replay_begins_where_the_demonstration_does_and_follows_it() -> None:
    data, models = toy_demonstrations(), exact_models()
    jobs = replay_jobs(models, data, [0, 1, 2], lambda _: TASKS[0], seed=3)
    assert [len(job.skills) for job in jobs] == [4, 2, 3] and len({job.seed for job in jobs}) == 3
    actor = SkillActor(models.skill_decoder, unit_prior(), [], HORIZON)
    for number, episode in enumerate(collect(ToyEnv(2), actor, jobs)):
        first, steps = data.bounds[number], HORIZON * len(jobs[number].skills)
        assert len(episode) == steps and episode.truncated
        np.testing.assert_allclose(episode.actions, data.actions[first : first + steps], atol=1e-6)
        expected = replayed_states(data, number, HORIZON)
        np.testing.assert_allclose(episode.observations[: len(expected), :2], expected[:, :2], atol=1e-5)


def test_only_what_whole_windows_cover_is_compared() -> None:
    data = toy_demonstrations()
    assert [len(replayed_states(data, episode, HORIZON)) for episode in range(3)] == [8, 5, 7]
    assert len(replayed_states(data, 2, 4)) == 5  # one window, and the state after it


def test_replays_and_rollouts_share_the_slots() -> None:
    models = dataclasses.replace(exact_models(), skill_prior=unit_prior())
    replays = replay_jobs(models, toy_demonstrations(), [0, 1], lambda _: TASKS[0], seed=0)
    jobs = [replays[0], RolloutJob(TASKS[1], seed=5), replays[1]]
    actor = SkillActor(models.skill_decoder, models.skill_prior, [follow_prior], HORIZON)
    together = collect(ToyEnv(3), actor, jobs)
    for job, episode in zip(jobs, together, strict=True):
        (alone,) = collect(ToyEnv(1), actor, [job])
        np.testing.assert_array_equal(episode.actions, alone.actions)


def test_a_replay_in_the_kitchen_is_the_recorded_motion() -> None:
    """Recorded without noise from another place than the usual start, replayed: MuJoCo goes the same way."""
    start = INITIAL_POSITION.copy()
    start[0] += 0.2
    start[22] = -0.75  # the microwave is open
    actions = np.random.default_rng(0).uniform(-0.5, 0.5, (10, 9)).astype(np.float32)
    env = KitchenEnv(noise=0.0)
    env.reset(seed=0)
    env.physics.reset(start)
    env._episode._measured = env.physics.observe(None)
    recorded = [env.physics.qpos, *(env.step(action)[0] for action in actions)]
    vector = KitchenVector(1, noise=0.0, threads=1)
    try:
        job = RolloutJob(KitchenTask(tuple(SUBTASKS)), skills=np.zeros((1, 2), np.float32), start=start)
        (episode,) = collect(vector, SkillActor(Recorded(actions), unit_prior(), [], 10), [job])  # type: ignore[arg-type]
    finally:
        vector.close()
    np.testing.assert_allclose(episode.observations, np.array(recorded), atol=1e-6)
    assert ever_completed(episode.observations) == ("microwave",)


def test_a_replay_in_the_maze_starts_anywhere_and_ends_at_the_demonstrations_end() -> None:
    where = domain("maze")
    task = where.retrace(np.array([[3.2, 4.1, 0, 0], [8.1, 2.2, 0, 0]], np.float32), where.undirected[0])
    assert isinstance(task, MazeTask) and task.goal == (8, 2)
    vector = MazeVector(1)
    vector.reset(0, task, seed=0)
    np.testing.assert_allclose(vector.place(0, np.array([5.0, 3.0, 1.0, 2.0])), [5.0, 3.0, 0.0, 0.0])
    walk = np.zeros((4, 4), np.float32)
    walk[:, 0] = 1.0, 2.0, 7.0, 3.0
    assert where.achieved(walk, task) == ["2 m from its start", "5 m from its start"]
    walk[-1] = 7.5, 2.5, 0, 0
    assert where.achieved(walk, task)[-1] == "at its goal"


def test_held_out_are_the_runs_own_or_all_of_other_data() -> None:
    data = toy_demonstrations((4,) * 20)
    config = dataclasses.replace(SKILLS, held_out_fraction=0.2)
    child = {"seed": 1, "data_sha256": data.sha256, "parent": {"seed": 2, "data_sha256": data.sha256}}
    own, theirs = (set(split_episodes(20, 0.2, seed)[1]) for seed in (1, 2))
    found = held_out(config, child, data)
    assert set(found.episodes) == own and len(own) == 4
    assert found.seen == len(own - theirs) > 0
    assert held_out(config, {"seed": 9, "skills": child}, data).episodes.tolist() == found.episodes.tolist()
    other = held_out(config, {"seed": 1, "data_sha256": "b" * 64}, data)
    assert other.episodes.tolist() == list(range(20)) and other.seen == 0
    assert held_out(config, {"seed": 1, "data_sha256": "b" * 64, "parent": child}, data).seen == 20 - len(own & theirs)


def test_the_fit_of_exact_skills_by_hand() -> None:
    """q = N(mean action, 0.25), p = N(0, 1), decoder exact: every figure has a closed form."""
    data = toy_demonstrations((2, 2))
    values = measure_fit(exact_models(), data, np.array([0, 1]))
    means = data.actions[::2]
    kl = 0.5 * (0.25 + means**2 - 1.0 - np.log(0.25)).sum(1).mean()
    assert values["windows"] == 2 and values["reconstruction"] == pytest.approx(0.0, abs=1e-12)
    assert values["prior_divergence"] == pytest.approx(kl, rel=1e-5)
    assert values["divergence"] == pytest.approx(kl, rel=1e-5)  # the prior is N(0, I) here; summed over z


def test_tally_by_hand() -> None:
    found = tally([{"a"}, {"a", "b"}, set(), {"a"}], ["a", "b"])
    assert found.episodes == 4 and found.each["a"][0] == 0.75 and found.each["b"][0] == 0.25
    assert found.each["a"][1] == pytest.approx(0.5 / 2)  # sample deviation of 1, 1, 0, 1 is 1/2
    assert found.together[0] == 1.0
    assert tally([{"a"}], ["a"]).each["a"] == (1.0, None)


def test_the_command_measures_the_same_twice(
    tmp_path: Path, random_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_gl(*_: object) -> None:
        raise EnvironmentMissingError("drawing needs OpenGL")

    monkeypatch.setattr("sim.render.render_strip", no_gl)
    data = tmp_path / "data.hdf5"
    states = np.tile(INITIAL_POSITION, (40, 1))
    states[10:, 22] = -0.75  # the demonstrations open the microwave, which no arm at rest does again
    with h5py.File(data, "w") as file:
        file["observations"], file["actions"] = states.astype(np.float32), np.zeros((40, 9), np.float32)
        file["terminals"] = np.arange(40) % 20 == 19
    reports = []
    for name in ("one", "two"):
        command = ["skills", str(random_run), "--data", str(data), "--episodes", "2", "--out", str(tmp_path / name)]
        assert cli.main([*command, "--replays", "1", "--seed", "4", "--threads", "1"]) == 0
        reports.append(json.loads((tmp_path / name / "report.json").read_text()))
        assert (tmp_path / name / "report.png").stat().st_size > 5000
    printed = capsys.readouterr().out
    assert "2 held-out episodes" in printed and "no prior.png: drawing needs OpenGL" in printed
    one, two = reports
    assert one["achieved"] == two["achieved"] and one["held_out"] == two["held_out"]
    assert one["held_out"]["windows"] == 22 and one["achieved"]["prior"]["episodes"] == 2
    assert one["achieved"]["demonstrations"]["each"]["microwave"] == [1.0, None]
    assert one["achieved"]["replayed"]["each"]["light switch"] == [0.0, None]


def test_impossible_numbers_are_refused(random_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["skills", str(random_run), "--data", "nowhere", "--replays", "0"]) == 2
    assert "replays and episodes must be at least 1, got 0 and 40" in capsys.readouterr().err
