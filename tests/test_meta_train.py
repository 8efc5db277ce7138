"""Meta-training as a whole on the toy domain: it learns, it can be killed, what it leaves behind is complete."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toy_domain import HORIZON, META, SKILL, STATE, STEPS, TASKS, Direction, ToyEnv, toy_models, toy_skills_run

from simpl_core import meta_train
from simpl_core.checkpoint import load_models
from simpl_core.episode import Episode
from simpl_core.errors import CheckpointError, ConfigError
from simpl_core.meta_train import MetaTrainer


def train(folder: Path, name: str, make_env=lambda: ToyEnv(4, noise=0.01), **changes: object) -> Path:
    skills = folder / "skills"
    if not skills.exists():
        toy_skills_run(skills)
    config = dataclasses.replace(META, **changes)
    return meta_train.run(config, skills, make_env, TASKS, folder / name, seed=3)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "weights.safetensors")


def assert_same_weights(one: Path, two: Path) -> None:
    ours, theirs = weights(one), weights(two)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def test_warm_up_fills_contexts_first_and_then_replay() -> None:
    """Contexts need 16 skills, an episode has 4; replay needs 16 too. Contexts hear of prior episodes only."""
    trainer = MetaTrainer(META, toy_models(), ToyEnv(4), TASKS, seed=0)
    rounds = 0
    while any(trainer.missing):
        trainer.warm_up_round()
        rounds += 1
        if rounds <= 4:
            assert trainer.agent.replay.sizes.tolist() == [0] * 4
    assert rounds == 8
    assert trainer.agent.contexts.sizes.tolist() == trainer.agent.replay.sizes.tolist() == [16] * 4


def test_an_epoch_adds_prior_episodes_to_both_buffers_and_posterior_ones_to_replay() -> None:
    env = ToyEnv(4)
    trainer = MetaTrainer(META, toy_models(), env, TASKS, seed=0)
    while any(trainer.missing):
        trainer.warm_up_round()
    env.resets.clear()
    metrics = trainer.train_epoch()
    assert trainer.agent.contexts.sizes.tolist() == [20] * 4
    assert trainer.agent.replay.sizes.tolist() == [24] * 4
    assert len(env.resets) == 8 and len({seed for _, _, seed in env.resets}) == 8
    assert {"return/prior", "return/posterior", "policy/alpha_2", "seconds/gradient"} <= metrics.keys()
    per_task = [value for name, value in metrics.items() if name.startswith("return_posterior/")]
    assert len(per_task) == 4 and np.mean(per_task) == pytest.approx(metrics["return/posterior"])


@pytest.mark.parametrize(("transitions", "steps"), [(4 * 2 * 28, 28), (1, 1)])
def test_steps_per_epoch(transitions: int, steps: int) -> None:
    """reuse 16 x 224 transitions / 8 tasks a step / batch 16 = 28; never less than one."""
    trainer = MetaTrainer(META, toy_models(), ToyEnv(1), TASKS)
    assert trainer.steps_for(transitions) == steps


def test_conditioning_pays_after_meta_training() -> None:
    """Four directions; a policy that does not know the task cannot please all. After training, e from the task's
    context must earn much more than e from the prior, and more than the skill prior does (about 2.5 of 8 steps)."""
    free = {"alpha_2": 0.01, "delta_2": 20.0}
    config = dataclasses.replace(META, batch_size=32, context_large=32, reuse=96.0, gamma=0.9, **free)
    trainer = MetaTrainer(config, toy_models(), ToyEnv(4), TASKS, seed=1)
    while any(trainer.missing):
        trainer.warm_up_round()
    history = [trainer.train_epoch() for _ in range(36)][-10:]
    before, after = (np.mean([metrics[f"return/{kind}"] for metrics in history]) for kind in ("prior", "posterior"))
    assert after > 0.5 * STEPS
    assert after > before + 1.0


def test_a_run_leaves_everything_the_next_stage_needs(tmp_path: Path) -> None:
    env = ToyEnv(4)
    run = train(tmp_path, "meta", lambda: env)
    models = load_models(run)
    assert models.task_encoder is not None and models.alpha_2 is not None and models.meta_config == META
    assert env.closed
    skills = weights(tmp_path / "skills")
    assert all(torch.equal(weights(run)[name], tensor) for name, tensor in skills.items())
    provenance = json.loads((run / "provenance.json").read_text())
    assert provenance["epochs"] == 4 and provenance["tasks"] == [str(task) for task in TASKS]
    steps = {line.split(",")[0] for line in (run / "metrics.csv").read_text().splitlines()[1:]}
    assert steps == {"1", "2", "3", "4"}


def test_the_result_depends_on_the_seed_and_not_on_slots(tmp_path: Path) -> None:
    assert_same_weights(train(tmp_path, "one"), train(tmp_path, "two", lambda: ToyEnv(3, noise=0.01)))


class DyingEnv(ToyEnv):
    """Stops the run at its n-th reset."""

    def __init__(self, resets: int, how: type[BaseException]) -> None:
        super().__init__(4, noise=0.01)
        self.left, self.how = resets, how

    def reset(self, slot, task, seed):
        self.left -= 1
        if self.left < 0:
            raise self.how
        return super().reset(slot, task, seed)


class Killed(BaseException):
    """As SIGKILL: nobody gets to save anything."""


# 32 episodes of warm-up, then 8 an epoch: within the warm-up, the first epoch, and between two episodes of the third.
@pytest.mark.parametrize("resets", [9, 34, 53])
@pytest.mark.parametrize("how", [KeyboardInterrupt, Killed])
def test_a_stopped_run_goes_on_to_the_same_result(tmp_path: Path, resets: int, how: type[BaseException]) -> None:
    whole = train(tmp_path, "whole")
    with pytest.raises(how):
        train(tmp_path, "stopped", lambda: DyingEnv(resets, how))
    resumed = train(tmp_path, "stopped")
    assert_same_weights(whole, resumed)

    def rows(run: Path) -> list[str]:
        lines = (run / "metrics.csv").read_text().splitlines()
        return [line for line in lines if "seconds" not in line and "memory" not in line]  # of the machine, not the run

    assert rows(whole) == rows(resumed)


def test_an_interrupt_within_the_warm_up_saves_its_rounds(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "run", lambda: DyingEnv(31, KeyboardInterrupt))
    env = ToyEnv(4, noise=0.01)
    train(tmp_path, "run", lambda: env)
    assert len(env.resets) < 64 - 16, "of the warm-up's 32 episodes only those of the round that was cut short"


def test_an_interrupt_saves_what_is_done(tmp_path: Path) -> None:
    """Saved on the way out: the resumed run makes only the episodes that are missing."""
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "run", lambda: DyingEnv(50, KeyboardInterrupt), checkpoint_every=100)
    env = ToyEnv(4, noise=0.01)
    train(tmp_path, "run", lambda: env, checkpoint_every=100)
    # 32 + 4 x 8 in all, of which two whole epochs were made.
    assert len(env.resets) == 64 - 48


def test_a_folder_with_another_run_is_refused(tmp_path: Path) -> None:
    train(tmp_path, "meta")
    with pytest.raises(CheckpointError, match="other meta"):
        train(tmp_path, "meta", gamma=0.5)


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="context_large 300 and batch_size 16 must fit"):
        train(tmp_path, "meta", context_large=300)
    with pytest.raises(ConfigError, match="tasks_mixed are some of tasks_large 6, got 7"):
        train(tmp_path, "meta", tasks_mixed=7)
    with pytest.raises(ConfigError, match=r"own_fraction is a part of each batch, from 0 to 1, got 1\.5"):
        train(tmp_path, "meta", own_fraction=1.5)
    with pytest.raises(ConfigError, match="at least one task"):
        MetaTrainer(META, toy_models(), ToyEnv(1), [])
    with pytest.raises(CheckpointError, match="not a finished run"):
        meta_train.run(META, tmp_path / "nothing", lambda: ToyEnv(1), TASKS, tmp_path / "out")


class JudgingEnv(ToyEnv):
    """The toy domain, that can say what another task would have paid."""

    def judge(self, episode: Episode, task: Direction) -> Episode:
        paid = (episode.actions @ task.vector > 0.5).astype(np.float32)
        return episode.rejudged(task, paid, terminated=False)


def test_shared_episodes_reach_all_contexts_and_the_replay_of_tasks_they_serve_no_worse() -> None:
    """Four episodes of four skills fill all contexts in one round; replay takes the other tasks' good ones."""
    trainer = MetaTrainer(dataclasses.replace(META, share_episodes=True), toy_models(), JudgingEnv(4), TASKS, seed=0)
    trainer.warm_up_round()
    contexts, replay = trainer.agent.contexts, trainer.agent.replay
    assert contexts.sizes.tolist() == [16] * 4
    assert replay.sizes.tolist() == [0] * 4
    reward = STATE + SKILL
    skills = [contexts.rows(task)[:, STATE:reward] for task in range(4)]
    for task, direction in enumerate(TASKS):
        pays = HORIZON * (skills[task].numpy() @ direction.vector > 0.5)
        np.testing.assert_array_equal(contexts.rows(task)[:, reward], pays)
        assert torch.equal(skills[task].sort(0).values, skills[0].sort(0).values)
    before = replay.sizes.tolist()
    trainer.train_epoch()
    assert contexts.sizes.tolist() == [32] * 4
    assert all(8 <= size - old < 32 for size, old in zip(replay.sizes.tolist(), before, strict=True))


def test_sharing_needs_an_environment_that_judges() -> None:
    with pytest.raises(ConfigError, match="ToyEnv does not"):
        MetaTrainer(dataclasses.replace(META, share_episodes=True), toy_models(), ToyEnv(4), TASKS)
