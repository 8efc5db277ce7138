"""The policy on a robot does what the networks say, on the skills' clock."""

from __future__ import annotations

import dataclasses
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export.bundle import Bundle
from export.runtime import PolicyRunner, SkillAction
from simpl_core.checkpoint import Models, load_models
from simpl_core.errors import InferenceError, SimplError
from simpl_core.rollout import RolloutJob, SkillActor, collect

E = np.linspace(-1.0, 1.0, 6, dtype=np.float32)


@pytest.fixture(scope="module")
def bundle(random_bundle: Path) -> Bundle:
    return Bundle.open(random_bundle)


@pytest.fixture(scope="module")
def models(random_run: Path) -> Models:
    return load_models(random_run)


@pytest.fixture
def runner(bundle: Bundle) -> PolicyRunner:
    return PolicyRunner(bundle)


def observations(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 30)).astype(np.float32)


def episode(runner: PolicyRunner, states: np.ndarray, seed: int, temperature: float = 1.0) -> list[SkillAction]:
    runner.begin_episode(E, seed, temperature)
    return [runner.act(state) for state in states]


def by_torch(models: Models, states: np.ndarray, seed: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """The same episode written down plainly: actions (T, 9) and skills (T, 10)."""
    rng, actions, skills = np.random.default_rng([seed, 1]), [], []
    with torch.no_grad():
        for step, state in enumerate(torch.from_numpy(states)):
            if step % 10 == 0:
                mean, scale = models.skill_policy(state[None], torch.from_numpy(E)[None])
                noise = np.float32(temperature) * rng.standard_normal(10, dtype=np.float32)
                z = mean + scale * torch.from_numpy(noise)
            actions.append(models.skill_decoder(state[None], z)[0].clamp(-1.0, 1.0).numpy())
            skills.append(z[0].numpy())
    return np.stack(actions), np.stack(skills)


@pytest.mark.parametrize("temperature", [1.0, 0.4, 0.0])
def test_an_episode_equals_the_networks_step_by_step(runner, models, temperature):
    states = observations(35)
    ours = episode(runner, states, seed=5, temperature=temperature)
    actions, skills = by_torch(models, states, 5, temperature)
    np.testing.assert_allclose([step.action for step in ours], actions, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose([step.z for step in ours], skills, rtol=1e-5, atol=1e-5)


def test_a_skill_lasts_h_steps_and_a_new_episode_starts_a_new_one(runner):
    steps = episode(runner, observations(23), seed=0)
    assert [k for k, step in enumerate(steps) if step.skill_start] == [0, 10, 20]
    assert [step.skill_step for step in steps] == [*range(10), *range(10), 0, 1, 2]
    for begin, end in ((0, 10), (10, 20), (20, 23)):
        assert len({step.z.tobytes() for step in steps[begin:end]}) == 1
    assert len({step.z.tobytes() for step in steps}) == 3
    assert episode(runner, observations(1), seed=0)[0].skill_start


def test_noise_comes_from_the_seed_alone(runner, bundle):
    states = observations(12)
    first = episode(runner, states, seed=1)
    again = episode(PolicyRunner(bundle), states, seed=1)
    other = episode(runner, states, seed=2)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.action, b.action)
    assert not np.array_equal(first[0].z, other[0].z)
    mean = episode(runner, states, seed=1, temperature=0.0)
    np.testing.assert_array_equal(mean[0].z, episode(runner, states, seed=2, temperature=0.0)[0].z)


def test_actions_stay_within_the_limits(runner):
    steps = episode(runner, 300.0 * observations(30), seed=0)
    actions = np.stack([step.action for step in steps])
    assert actions.dtype == np.float32
    assert actions.min() == -1.0
    assert actions.max() == 1.0


def test_what_was_handed_out_does_not_change_later(runner):
    steps = episode(runner, observations(30), seed=0)
    kept = [(step.action.copy(), step.z.copy()) for step in steps]
    episode(runner, observations(30, seed=9), seed=3)
    for step, (action, z) in zip(steps, kept, strict=True):
        np.testing.assert_array_equal(step.action, action)
        np.testing.assert_array_equal(step.z, z)


def test_two_runners_of_one_bundle_do_not_mix(bundle):
    states = observations(25)
    alone = episode(PolicyRunner(bundle), states, seed=4)
    one, two = PolicyRunner(bundle), PolicyRunner(bundle)
    one.begin_episode(E, 4)
    two.begin_episode(-E, 8)
    for state, wanted in zip(states, alone, strict=True):
        two.act(-state)
        np.testing.assert_array_equal(one.act(state).action, wanted.action)


@settings(max_examples=30, deadline=None)
@given(at=st.integers(0, 29), bad=st.sampled_from([np.nan, np.inf, -np.inf, 1e39]), step=st.integers(0, 11))
def test_a_reading_that_is_no_number_is_refused_and_does_not_move_the_clock(at, bad, step, bundle):
    states = observations(12)
    wanted = episode(PolicyRunner(bundle), states, seed=0)
    runner = PolicyRunner(bundle)
    runner.begin_episode(E, 0)
    for k, state in enumerate(states):
        if k == step:
            broken = state.astype(np.float64)
            broken[at] = bad
            with (
                np.errstate(over="ignore"),
                pytest.raises(InferenceError, match=rf"observation is not finite at \[{at}\]"),
            ):
                runner.act(broken)
        np.testing.assert_array_equal(runner.act(state).action, wanted[k].action)


@pytest.mark.parametrize(("model", "output"), [("_policy", "mean"), ("_policy", "scale"), ("_decoder", "action")])
def test_an_answer_that_is_no_number_is_refused(model, output, runner, monkeypatch):
    """Verified models do not give one on any reading we know of; the arm must not depend on that."""
    network = getattr(runner, model)
    run = network.run

    def run_and_spoil() -> None:
        run()
        network.outputs[output][0, 3] = np.nan

    monkeypatch.setattr(network, "run", run_and_spoil)
    runner.begin_episode(E, 0)
    with pytest.raises(InferenceError, match="answers with numbers that are not finite"):
        runner.act(np.zeros(30))


class _Pendulums:
    """Thirty damped coordinates pushed by nine actions: an environment whose states depend on what is done."""

    num_slots, observation_size, action_size = 3, 30, 9
    _push = np.random.default_rng(0).normal(size=(9, 30)).astype(np.float32)

    def __init__(self) -> None:
        self._states = np.zeros((3, 30), np.float32)
        self._times = np.zeros(3, np.int64)

    def reset(self, slot: int, task: object, seed: int) -> np.ndarray:
        self._states[slot] = np.random.default_rng(seed).normal(size=30)
        self._times[slot] = 0
        return self._states[slot].copy()

    def step(self, slots: np.ndarray, actions: np.ndarray) -> SimpleNamespace:
        self._states[slots] = 0.9 * self._states[slots] + 0.2 * actions @ self._push
        self._times[slots] += 1
        none = np.zeros(len(slots), bool)
        return SimpleNamespace(
            observations=self._states[slots].copy(),
            rewards=np.zeros(len(slots), np.float32),
            terminated=none,
            truncated=self._times[slots] >= 35,
        )

    def close(self) -> None:
        pass


@pytest.mark.parametrize("temperature", [1.0, 0.4, 0.0])
def test_the_robot_does_what_the_simulation_did(temperature, runner, models):
    """A rollout in training and the runtime on the robot: same seed, same skills, same actions."""
    actor = SkillActor(models.skill_decoder, models.skill_prior, [models.skill_policy.with_prior], horizon=10)
    jobs = [RolloutJob(None, E, seed, temperature) for seed in range(4)]
    for job, made in zip(jobs, collect(_Pendulums(), actor, jobs), strict=True):
        env = _Pendulums()
        state = env.reset(0, None, job.seed)
        runner.begin_episode(E, job.seed, temperature)
        for step in range(35):
            np.testing.assert_allclose(state, made.observations[step], atol=1e-4)
            answer = runner.act(state)
            np.testing.assert_allclose(answer.action, made.actions[step], atol=1e-4)
            if answer.skill_start:
                np.testing.assert_allclose(answer.z, made.skills[step // 10], atol=1e-4)
            state = env.step(np.array([0]), answer.action[None]).observations[0]


def test_wrong_use_is_named(runner):
    with pytest.raises(InferenceError, match="before begin_episode"):
        runner.act(np.zeros(30))
    with pytest.raises(InferenceError, match=r"task embedding must have shape \(6,\); got \(5,\)"):
        runner.begin_episode(np.zeros(5), 0)
    with pytest.raises(InferenceError, match="task embedding is not finite"):
        runner.begin_episode(np.full(6, np.nan), 0)
    with pytest.raises(InferenceError, match="seed is -1"):
        runner.begin_episode(E, -1)
    runner.begin_episode(E, 0)
    with pytest.raises(InferenceError, match=r"observation must have shape \(30,\); got \(1, 30\)"):
        runner.act(np.zeros((1, 30)))
    assert issubclass(InferenceError, SimplError)


@pytest.mark.parametrize("rows", [1, 2, 33, 560])
def test_encoding_takes_any_number_of_transitions(runner, models, rows):
    context = np.random.default_rng(rows).normal(size=(rows, 72)).astype(np.float32)
    mean, scale = runner.encode(context)
    with torch.no_grad():
        wanted = models.task_encoder(torch.from_numpy(context)[None])
    np.testing.assert_allclose(mean, wanted.mean[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scale, wanted.scale[0], rtol=1e-5, atol=1e-5)


def test_the_encoder_reads_no_more_transitions_than_it_was_trained_on(bundle, runner):
    context = np.random.default_rng(0).normal(size=(40, 72)).astype(np.float32)
    context[:, 40] = 0.0
    context[[3, 21], 40] = 1.0  # rewards
    manifest = dataclasses.replace(bundle.manifest, context_kept=5)
    condensing = PolicyRunner(dataclasses.replace(bundle, manifest=manifest))
    wanted = runner.encode(context[[3, 21, 0, 19, 39]])  # these two, then three of the 38 others, evenly
    np.testing.assert_array_equal(condensing.encode(context).mean, wanted.mean)
    assert not np.array_equal(runner.encode(context).mean, wanted.mean)


def test_a_context_of_no_use_is_refused(runner):
    for context in (np.zeros((0, 72)), np.zeros((3, 71)), np.zeros(72)):
        with pytest.raises(InferenceError, match=r"must be \(N >= 1, 72\)"):
            runner.encode(context)
    with pytest.raises(InferenceError, match="not finite"):
        runner.encode(np.full((3, 72), np.nan))


def test_warming_up_leaves_no_episode_behind(runner):
    runner.begin_episode(E, 0)
    runner.warm_up()
    with pytest.raises(InferenceError, match="before begin_episode"):
        runner.act(np.zeros(30))


def test_memory_does_not_grow(runner):
    states = observations(100)
    runner.begin_episode(E, 0)
    for state in states:
        runner.act(state)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(30):
            for state in states:
                runner.act(state)
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert after - before < 10_000
