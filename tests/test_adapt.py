"""Phase 3 on the toy domain: conditioning, e*, fine-tuning, and going on after a stop."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from toy_domain import STEPS, TASKS, Direction, ToyEnv, meta_models, toy_models

from simpl_core.adapt import Adaptation, FineTuner, adapt_in_simulation, encode_task, meta_trained
from simpl_core.checkpoint import Models
from simpl_core.config import AdaptConfig
from simpl_core.episode import Episode, context_rows, to_skill_steps
from simpl_core.errors import CheckpointError, ConfigError
from simpl_core.rollout import RolloutJob, SkillActor, collect

CONFIG = AdaptConfig(conditioning_episodes=5, episodes=3, batch_size=16, buffer_size=200, reuse=16.0)
SPIRL = dataclasses.replace(
    CONFIG, conditioning_episodes=0, episodes=30, alpha=0.02, learning_rate=3e-3, reuse=96.0, gamma=0.9, tau=0.05
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return meta_models(tmp_path_factory.mktemp("meta"))


def episodes(models: Models, count: int, task: Direction = TASKS[0]) -> list[Episode]:
    policy = meta_trained(models, CONFIG).policy
    actor = SkillActor(models.skill_decoder, models.skill_prior, [policy.with_prior], models.skills_config.horizon)
    rng = np.random.default_rng(0)
    return collect(
        ToyEnv(4), actor, [RolloutJob(task, rng.standard_normal(2).astype(np.float32), i) for i in range(count)]
    )


def test_e_star_is_the_mean_over_all_transitions(models: Models) -> None:
    steps = [to_skill_steps(episode) for episode in episodes(models, 3)]
    rows = torch.from_numpy(np.concatenate([context_rows(each) for each in steps]))
    with torch.no_grad():
        expected = models.task_encoder(rows[None]).mean[0]
    np.testing.assert_array_equal(encode_task(models, steps), expected)
    np.testing.assert_array_equal(encode_task(models, []), np.zeros(2))


def test_fine_tuning_starts_where_meta_training_ended(models: Models) -> None:
    tuner = FineTuner(models, CONFIG, np.array([0.1, 0.2], np.float32), 0)
    state, e = torch.randn(5, 3), torch.randn(5, 2)
    with torch.no_grad():
        torch.testing.assert_close(tuner.act(state, e, models.skill_prior(state)), models.skill_policy(state, e))
    assert tuner.alpha == pytest.approx(models.alpha_2, rel=1e-5)
    changed = FineTuner(models, dataclasses.replace(CONFIG, alpha=0.7), np.zeros(2, np.float32), 0)
    assert changed.alpha == pytest.approx(0.7)


def test_a_restored_fine_tuner_goes_on_bit_for_bit_through_safetensors(models: Models) -> None:
    """As the learner process does after `kill -9`: state to bytes and back, another seed, the same future."""
    steps = [to_skill_steps(episode) for episode in episodes(models, 8)]
    tuner = FineTuner(models, CONFIG, np.array([0.1, 0.2], np.float32), 5)
    for each in steps[:6]:
        tuner.add(each)
    tuner.update(3)
    stored = save({name: tensor.contiguous() for name, tensor in tuner.state_dict().items()})
    other = FineTuner(models, CONFIG, np.zeros(2, np.float32), 77)
    other.load_state_dict(load(stored))
    for each in (tuner, other):
        each.add(steps[6])
        metrics = each.update(4)
    assert metrics.keys() >= {"policy/kl", "critic/value"}
    one, two = tuner.state_dict(), other.state_dict()
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_fresh_fine_tuner_can_be_stored_and_restored(models: Models) -> None:
    tuner = FineTuner(models, CONFIG, np.zeros(2, np.float32), 5)
    other = FineTuner(models, CONFIG, np.ones(2, np.float32), 6)
    other.load_state_dict(tuner.state_dict())
    assert torch.equal(other.embedding, tuner.embedding) and other.stored == 0


def test_conditioning_draws_a_fresh_embedding_for_each_episode(models: Models) -> None:
    run = Adaptation("simpl", models, CONFIG, TASKS[0], seed=0)
    jobs = run.next_jobs(3)
    assert len(jobs) == 5 and len({job.seed for job in jobs}) == 5 and {job.policy for job in jobs} == {3}
    assert {job.label for job in jobs} == {"conditioning"}
    embeddings = np.stack([job.embedding for job in jobs])
    assert len(np.unique(embeddings, axis=0)) == 5


@pytest.mark.parametrize(("use", "stored"), [(True, 20 + 4), (False, 4)])
def test_conditioning_episodes_enter_the_buffer_if_told_to(models: Models, use: bool, stored: int) -> None:
    run = Adaptation("simpl", models, dataclasses.replace(CONFIG, use_conditioning=use), TASKS[0], seed=0)
    made = episodes(models, 6)
    for episode in made[:5]:
        assert run.add(episode) == {}
    (job,) = run.next_jobs(0)
    assert job.label == "finetune"
    np.testing.assert_array_equal(job.embedding, encode_task(models, [to_skill_steps(x) for x in made[:5]]))
    metrics = run.add(made[5])
    assert run.state_dict()["agent.replay.added"].item() == stored
    assert bool(metrics) == use  # without them there is no batch of 16 yet


def test_fine_tuning_cools_the_skills_down_in_a_line(models: Models) -> None:
    run = Adaptation("simpl", models, dataclasses.replace(CONFIG, temperature=0.2, cool_over=2), TASKS[0], seed=0)
    assert {job.temperature for job in run.next_jobs(0)} == {1.0}
    temperatures = []
    for episode in episodes(models, 8):
        run.add(episode)
        temperatures += [job.temperature for job in run.next_jobs(0)]
    np.testing.assert_allclose(temperatures[-3:], [1.0, 0.6, 0.2])


def test_runs_side_by_side_are_the_runs_alone(models: Models) -> None:
    def make() -> list[Adaptation]:
        return [Adaptation("simpl", models, CONFIG, task, seed) for task in TASKS[:2] for seed in (0, 1)]

    together, alone = make(), make()
    rounds: list[int] = []
    adapt_in_simulation(
        ToyEnv(3, noise=0.02), models, together, lambda: rounds.append(sum(len(run.scores) for run in together))
    )
    for run in alone:
        adapt_in_simulation(ToyEnv(1, noise=0.02), models, [run])
    assert rounds == [5, 10, 15, 20, 24, 28, 32]
    for one, two in zip(together, alone, strict=True):
        assert one.done and len(one.scores) == 8 and one.scores == two.scores
        ours, theirs = one.state_dict(), two.state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert len({tuple(run.scores) for run in together}) > 1


@pytest.mark.parametrize("seed", [0, 1])
def test_spirl_learns_a_task_from_the_skill_prior_alone(seed: int) -> None:
    """The skill prior earns 8 P(N(0, 1) > 0.5) = 2.5; thirty episodes later the task is nearly done.

    Without the bound seed 0 may lose the task again and the critics of seed 1 diverge, as rounding will have it.
    """
    config = dataclasses.replace(SPIRL, bound_targets=True)
    run = Adaptation("spirl", toy_models(), config, Direction(0.7), seed)
    adapt_in_simulation(ToyEnv(1), toy_models(), [run])
    assert np.mean(run.scores[-10:]) > 0.75 * STEPS


def test_errors(models: Models) -> None:
    with pytest.raises(ConfigError, match="no method 'maml'; there are simpl, spirl"):
        Adaptation("maml", models, CONFIG, TASKS[0], 0)
    with pytest.raises(CheckpointError, match="skills only"):
        Adaptation("simpl", toy_models(), CONFIG, TASKS[0], 0)
    with pytest.raises(ConfigError, match="no meta-trained alpha"):
        Adaptation("spirl", models, CONFIG, TASKS[0], 0)
