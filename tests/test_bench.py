"""Benchmarks: the plain implementations beside which ours is timed compute what ours computes."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from baselines.gym_rollouts import GymRollouts
from toy_domain import META, SKILLS

from simpl_core import bench, bench_rollouts
from simpl_core.bench import Comparison, Timing, load_baseline, take_turns
from simpl_core.bench_rollouts import fresh_models, rollout_jobs
from simpl_core.bench_scaling import core_curves
from simpl_core.bench_steps import MetaSetting, compare_finetuning, compare_meta, meta_agent
from simpl_core.cli_bench import BenchTrain
from simpl_core.config import AdaptConfig
from simpl_core.domains import domain
from simpl_core.errors import EnvironmentMissingError
from simpl_core.learner import torch_threads
from simpl_core.rollout import collect

PAPERS = META
OURS = dataclasses.replace(
    META, tasks_mixed=2, context_kept=4, own_fraction=0.25, imitate=0.3, share_episodes=True, critics=3
)
ADAPT = AdaptConfig(batch_size=32, hidden=32, layers=2, learning_rate=3e-3, delta=0.01, kl_clip=0.05)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


# --- the same numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [PAPERS, OURS], ids=["papers", "all our switches"])
def test_a_step_of_meta_training_is_the_plain_one(config) -> None:
    found = compare_meta(MetaSetting("small", SKILLS, config, tasks=5), repeats=1)
    assert found.same, found.differences
    assert found.differences.keys() == {"metrics", "encoder's gradient", "policy's gradient"}
    assert max(found.differences.values()) < 1e-4
    assert found.timings.keys() == {"ours", "plain"} and found.ratios.keys() == {"plain"}


def test_a_step_of_fine_tuning_is_the_plain_one() -> None:
    found = compare_finetuning("small", SKILLS, ADAPT, e_dim=2, repeats=1)
    assert found.same and max(found.differences.values()) < 1e-4, found.differences


@pytest.mark.parametrize(
    "change", [{"gamma": 0.9}, {"kl_clip": 1e-3}, {"tau": 0.5}, {"imitate": 0.0}, {"alpha_2": 0.2}]
)
def test_the_check_sees_another_setting(monkeypatch: pytest.MonkeyPatch, change: dict[str, float]) -> None:
    module = load_baseline("plain_meta")
    setting = MetaSetting("small", SKILLS, OURS, tasks=5)
    other = MetaSetting("small", SKILLS, dataclasses.replace(OURS, **change), tasks=5)
    baseline = module.PlainMeta(meta_agent(other))
    monkeypatch.setattr(module, "PlainMeta", lambda _: baseline)
    assert not compare_meta(setting, repeats=1).same


def test_rollouts_are_those_of_one_gymnasium_environment() -> None:
    where = domain("kitchen")
    env = where.make_env(2, 1, 1.0)
    try:
        models = fresh_models(where, env.action_size)
        jobs = rollout_jobs(where, models, 1)
        episodes = collect(env, bench_rollouts.actor(models), jobs)
    finally:
        env.close()
    module = load_baseline("gym_rollouts")
    found = bench_rollouts.differences(where, models, jobs, episodes, module)
    assert found["observations"] == found["rewards"] == 0.0
    assert 0.0 <= max(found["skills"], found["actions"]) < 1e-5
    episodes[0].rewards[100] = float("nan")
    assert np.isnan(bench_rollouts.differences(where, models, jobs, episodes, module)["rewards"])
    episodes[0].actions[100] += 0.1
    found = bench_rollouts.differences(where, models, jobs, episodes, module)
    assert min(found["observations"], found["actions"]) > bench_rollouts.TOLERANCE


def test_scaling_counts_steps_against_cores() -> None:
    rollouts, steps = core_curves(domain("maze"), slots=2, cores=[1, 2], repeats=1)
    assert (rollouts.unit, steps.unit) == ("environment steps", "gradient steps")
    for curve in (rollouts, steps):
        assert curve.points == [1, 2] and min(*curve.wall, *curve.cpu) > 0.0
    assert torch.get_num_threads() == 1, "as before"


@pytest.mark.parametrize("spread", [False, True])
def test_gymnasiums_loop_asks_for_a_skill_every_h_steps(spread: bool) -> None:
    asked, decoded = [], []

    def skills(states: torch.Tensor, e: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append((len(decoded), e.tolist()))
        return torch.ones(len(states), 2), torch.zeros(len(states), 2)

    def decode(states: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        decoded.append(states.clone())
        return z

    tasks = domain("maze").tasks((), "target")[:2]
    rollouts = GymRollouts("maze", tasks, skills, decode, horizon=4)
    rollouts.open(spread)
    try:
        assert rollouts.play(10, torch.tensor([[1.0], [2.0]])) == 20
    finally:
        rollouts.close()
    assert asked == [(step, [[1.0], [2.0]]) for step in (0, 4, 8)]
    assert torch.stack(decoded)[..., :2].diff(dim=0)[1:].gt(0.0).all(), "pushed along both axes, the balls move so"


# --- turns and reports -----------------------------------------------------------------------------------------------


def test_contenders_take_turns_and_the_median_of_the_ratios_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    now, order = [0.0], []
    monkeypatch.setattr(bench.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(bench, "cpu_seconds", lambda: 2.0 * now[0])
    times = {"ours": iter([50.0, 1.0, 2.0, 40.0]), "plain": iter([50.0, 3.0, 8.0, 40.0])}

    def contender(name: str):
        def work() -> int:
            order.append(name)
            now[0] += next(times[name])
            return 2

        return work

    found = take_turns("setting", "step", {name: contender(name) for name in times}, 3, ({"loss": 0.5}, 0.5))
    assert order == ["ours", "plain"] * 4
    assert found.timings == {"ours": Timing(1.0, 2.0), "plain": Timing(4.0, 8.0)}
    assert found.ratios == {"plain": Timing(3.0, 3.0)}
    assert found.same


def test_a_difference_that_is_not_a_number_is_not_the_same() -> None:
    timings = {"ours": Timing(1.0, 1.0)}
    for difference, same in ((0.1, True), (0.2, False), (float("nan"), False)):
        found = Comparison("setting", "step", timings, {}, {"loss": difference}, 0.1)
        assert found.same == same
        assert ("NOT THE SAME" in bench.describe(found)[-1]) != same


def test_other_numbers_end_in_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    timings = {"ours": Timing(1e-3, 1e-3), "plain": Timing(2e-3, 3e-3)}
    good = Comparison("good", "step", timings, {"plain": Timing(2.0, 3.0)}, {"loss": 0.0}, 0.1)
    assert BenchTrain().report([good]) == 0
    assert BenchTrain(json=True).report([good, dataclasses.replace(good, differences={"loss": 1.0})]) == 1
    text, _, rest = capsys.readouterr().out.partition("{")
    assert "2.00 x   3.00 x" in text
    assert [one["same"] for one in json.loads("{" + rest)["comparisons"]] == [True, False]


def test_cpu_time_counts_the_processes_that_were_started() -> None:
    code = """
import multiprocessing, time
from simpl_core.bench import cpu_seconds

def burn(done):
    while time.process_time() < 0.5: pass
    done.set()
    time.sleep(60)

if __name__ == "__main__":
    done = multiprocessing.Event()
    child = multiprocessing.Process(target=burn, args=(done,), daemon=True)
    child.start()
    done.wait()
    own = time.process_time()
    print(cpu_seconds() - own)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(answer.stdout) >= 0.5


def test_without_a_checkout_the_baselines_are_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "simpl_core" / "bench.py"))
    with pytest.raises(EnvironmentMissingError, match="plain_meta, kept in tests/baselines of a checkout"):
        load_baseline("plain_meta")


def test_the_command_prints_json() -> None:
    command = [sys.executable, "-m", "simpl_core", "bench", "train", "--shapes", "fast", "--quick", "--repeats", "1"]
    answer = subprocess.run([*command, "--threads", "1", "--json"], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    report = json.loads(answer.stdout)
    (found,) = report["comparisons"]
    assert found["same"] and found["ratios"]["plain"]["cpu"] > 0.0 and report["machine"]["threads"] == 1
    assert np.isfinite([time for timing in found["timings"].values() for time in timing.values()]).all()
