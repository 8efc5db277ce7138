"""Rollouts: the skill clock, the queue over slots, and episodes that depend on their job alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from toy_domain import HORIZON, STEPS, TASKS, PlaySkill, ToyEnv, unit_prior

from simpl_core.distributions import DiagonalGaussian
from simpl_core.episode import Episode, to_skill_steps
from simpl_core.errors import ConfigError
from simpl_core.networks import OpenLoopDecoder, SkillDecoder, SkillPolicy, SkillPrior
from simpl_core.rollout import RolloutJob, SkillActor, collect


def constant_policy(mean: float, scale: float = 1e-6):
    def policy(state: torch.Tensor, e: torch.Tensor, prior: DiagonalGaussian) -> DiagonalGaussian:
        return DiagonalGaussian(torch.full((len(state), 2), mean), torch.full((len(state), 2), scale))

    return policy


def random_actor(seed: int = 0) -> SkillActor:
    torch.manual_seed(seed)
    policy = SkillPolicy(SkillPrior(3, 2, 128), 3, 2, 2, 128, 5)
    return SkillActor(SkillDecoder(3, 2, 2, 128), policy.prior, [policy.with_prior], HORIZON)


def some_jobs(count: int) -> list[RolloutJob]:
    rng = np.random.default_rng(0)
    return [
        RolloutJob(TASKS[i % 4], rng.standard_normal(2).astype(np.float32), seed=i, label=f"job {i}")
        for i in range(count)
    ]


def assert_same(one: Episode, two: Episode) -> None:
    for name in ("observations", "actions", "rewards", "skills", "skill_starts", "time_stamps"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)
    assert (one.terminated, one.truncated, one.header) == (two.terminated, two.truncated, two.header)


def test_a_new_skill_every_h_steps_and_actions_are_clipped() -> None:
    actor = SkillActor(PlaySkill(), unit_prior(), [constant_policy(3.0)], HORIZON, control_period=0.5)
    (episode,) = collect(ToyEnv(1), actor, [RolloutJob(TASKS[0], seed=4, label="conditioning")])
    assert len(episode) == STEPS and episode.truncated and not episode.terminated
    assert episode.skill_starts.tolist() == [0, 2, 4, 6]
    np.testing.assert_allclose(episode.skills, 3.0, atol=1e-4)
    np.testing.assert_array_equal(episode.actions, 1.0)
    np.testing.assert_allclose(episode.observations[:, 0], 0.1 * np.arange(9), atol=1e-6)
    np.testing.assert_allclose(episode.time_stamps, 0.5 * np.arange(9))
    assert episode.score == STEPS
    assert episode.header == {"task": "angle 0.00", "seed": 4, "phase": "conditioning"}
    assert to_skill_steps(episode).rewards.tolist() == [2, 2, 2, 2]


def test_an_episode_that_ends_early_is_terminated_and_not_truncated() -> None:
    actor = SkillActor(PlaySkill(), unit_prior(), [constant_policy(1.0)], HORIZON)
    (episode,) = collect(ToyEnv(1, ends=True), actor, [RolloutJob(TASKS[0])])
    assert len(episode) == 1 and episode.terminated and not episode.truncated
    assert to_skill_steps(episode).dones.tolist() == [1.0]


@pytest.mark.parametrize("slots", [1, 2, 5, 9, 23])
def test_slots_do_not_change_episodes(slots: int) -> None:
    """Many jobs in any number of slots, against each job alone, bit for bit: noise, skills and arithmetic."""
    jobs, actor = some_jobs(25), random_actor()
    alone = [collect(ToyEnv(1, noise=0.1), actor, [job])[0] for job in jobs]
    together = collect(ToyEnv(slots, noise=0.1, ends=True), actor, jobs)
    together_without_ends = collect(ToyEnv(slots, noise=0.1), actor, jobs)
    for one, two in zip(alone, together_without_ends, strict=True):
        assert_same(one, two)
    assert [episode.header["phase"] for episode in together] == [f"job {i}" for i in range(25)]


def plain_episode(env: ToyEnv, actor: SkillActor, job: RolloutJob) -> Episode:
    """What a job asks for, in a loop over one environment."""
    noise = np.random.default_rng([job.seed, 1])
    observations = [env.reset(0, job.task, job.seed)]
    if job.start is not None:
        observations = [env.place(0, job.start)]
    actions, rewards, skills, planned, ended = [], [], [], [], False
    while not ended:
        state = observations[-1][None]
        if len(actions) % HORIZON == 0:
            if job.skills is None:
                mean, scale = (x[0] for x in actor.skills(state, [job.policy], [job.embedding]))
                skills.append(mean + np.float32(job.temperature) * noise.standard_normal(2, dtype=np.float32) * scale)
            else:
                skills.append(job.skills[len(skills)])
            planned = []
        planned = planned or list(actor.actions(state, skills[-1][None])[0])
        actions.append(planned.pop(0))
        step = env.step(np.array([0]), actions[-1][None])
        observations.append(step.observations[0])
        rewards.append(step.rewards[0])
        played = job.skills is not None and len(actions) == HORIZON * len(job.skills)
        ended = bool(step.terminated[0] or step.truncated[0] or played)
    return Episode(
        np.stack(observations),
        np.stack(actions),
        np.array(rewards, np.float32),
        terminated=bool(step.terminated[0]),
        truncated=not step.terminated[0],
        skills=np.stack(skills),
        skill_starts=HORIZON * np.arange(len(skills)),
        time_stamps=np.arange(len(observations), dtype=float),
        header={"task": str(job.task), "seed": job.seed, "phase": job.label},
    )


@pytest.mark.parametrize("room", [2, 64])
@pytest.mark.parametrize("slots", [1, 4, 19])
@pytest.mark.parametrize("kind", ["closed", "open"])
def test_episodes_are_those_of_a_plain_loop(kind: str, slots: int, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, whatever else a job asks for, with episodes that end at any time and outgrow the room."""
    monkeypatch.setattr("simpl_core.rollout.FIRST_ROOM", room)
    torch.manual_seed(0)
    decoder = SkillDecoder(3, 2, 2, 128) if kind == "closed" else OpenLoopDecoder(2, 2, 128, HORIZON)
    with torch.no_grad():
        for parameter in list(decoder.parameters())[-2:]:
            parameter.mul_(10.0)  # so that tasks are solved, in any step of a skill
    prior = SkillPrior(3, 2, 128)
    policies = [SkillPolicy(prior, 3, 2, 2, 128, 5).with_prior for _ in range(2)]
    actor = SkillActor(decoder, prior, policies, HORIZON)
    rng = np.random.default_rng(1)
    jobs = [dataclasses.replace(job, policy=i % 2, temperature=20.0 * (i % 3)) for i, job in enumerate(some_jobs(40))]
    for i in range(0, 40, 5):
        skills = rng.standard_normal((1 + i // 5 % 4, 2), dtype=np.float32)
        jobs[i] = dataclasses.replace(jobs[i], skills=skills, start=rng.standard_normal(3, dtype=np.float32))
    together = collect(ToyEnv(slots, noise=0.1, ends=True), actor, jobs)
    lengths = {len(episode) for episode in together}
    assert {1, STEPS} < lengths and any(length % HORIZON for length in lengths)
    with torch.no_grad():
        for job, episode in zip(jobs, together, strict=True):
            assert_same(plain_episode(ToyEnv(1, noise=0.1, ends=True), actor, job), episode)


def test_a_finished_slot_takes_the_next_job_at_once() -> None:
    """Slot 0 ends every episode at its first step, slot 1 none; so slot 0 makes all the rest."""
    env = ToyEnv(2, ends=True)
    actor = SkillActor(PlaySkill(), unit_prior(), [constant_policy(1.0), constant_policy(-1.0)], HORIZON)
    jobs = [RolloutJob(TASKS[0]), RolloutJob(TASKS[0], policy=1), *[RolloutJob(TASKS[0])] * 4]
    episodes = collect(env, actor, jobs)
    assert [slot for slot, _, _ in env.resets] == [0, 1, 0, 0, 0, 0]
    assert [len(episode) for episode in episodes] == [1, STEPS, 1, 1, 1, 1]


def test_each_job_is_played_by_its_policy() -> None:
    actor = SkillActor(PlaySkill(), unit_prior(), [constant_policy(0.5), constant_policy(-0.25)], HORIZON)
    first, second = collect(ToyEnv(2), actor, [RolloutJob(TASKS[0], policy=1), RolloutJob(TASKS[0], policy=0)])
    np.testing.assert_allclose(first.skills, -0.25, atol=1e-4)
    np.testing.assert_allclose(second.skills, 0.5, atol=1e-4)


def test_skills_are_drawn_from_the_policy_or_its_mean() -> None:
    actor = SkillActor(PlaySkill(), unit_prior(), [constant_policy(0.5, scale=2.0)], HORIZON)
    jobs = [RolloutJob(TASKS[0], seed=seed) for seed in range(500)]
    drawn = np.concatenate([episode.skills for episode in collect(ToyEnv(50), actor, jobs)])
    # 4,000 numbers: standard errors 0.03 and 0.02.
    assert drawn.mean() == pytest.approx(0.5, abs=0.15) and drawn.std() == pytest.approx(2.0, abs=0.12)
    (calm,) = collect(ToyEnv(1), actor, [RolloutJob(TASKS[0], temperature=0.0)])
    np.testing.assert_array_equal(calm.skills, 0.5)


def test_the_embedding_reaches_the_policy() -> None:
    def policy(state: torch.Tensor, e: torch.Tensor, prior: DiagonalGaussian) -> DiagonalGaussian:
        return DiagonalGaussian(e, torch.full_like(e, 1e-6))

    actor = SkillActor(PlaySkill(), unit_prior(), [policy], HORIZON)
    e = np.array([0.3, -0.7], np.float32)
    (episode,) = collect(ToyEnv(1), actor, [RolloutJob(TASKS[0], e)])
    np.testing.assert_allclose(episode.skills, np.tile(e, (4, 1)), atol=1e-4)


def test_threads_are_given_back_after_rollouts() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        collect(ToyEnv(1), random_actor(), some_jobs(1))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_errors() -> None:
    with pytest.raises(ConfigError, match="at least one slot; this one has 0"):
        collect(ToyEnv(0), random_actor(), some_jobs(1))
    actor = SkillActor(PlaySkill(), unit_prior(), [constant_policy(0.0)], 2)
    with pytest.raises(ConfigError, match=r"not finite in slots \[0\]"):
        collect(ToyEnv(1, noise=float("nan")), actor, some_jobs(1))
