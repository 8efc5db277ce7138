"""The learner on real networks: models from whole episodes, and no difference made by being killed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from export.bundle import Bundle
from simpl.core import learner_session
from simpl.core.learner_session import LearnerSession
from simpl.core.model_store import ModelStore, ModelUpdate
from simpl.core.transition import Transition
from simpl_core.adapt import FineTuner
from simpl_core.config import ADAPT_PRESETS
from simpl_core.errors import BundleError, CheckpointError

ROBOT = "6f1f3a86-2f2c-4a51-9d5e-5f0a4cb6a1de"
STEPS = 80  # 8 skills: eight episodes fill a batch of preset `small`
CONFIG = replace(ADAPT_PRESETS["small"], reuse=8.0)  # one gradient step an episode


@pytest.fixture(scope="module")
def bundle(random_bundle: Path) -> Bundle:
    return Bundle.open(random_bundle)


@pytest.fixture
def session(bundle: Bundle, tmp_path: Path) -> Iterator[LearnerSession]:
    made = LearnerSession(bundle, tmp_path / "learner", CONFIG, seed=0)
    yield made
    made.close()


def episode(number: int, phase: str, steps: int = STEPS) -> list[Transition]:
    """The transitions of an episode; everything follows from its number."""
    rng = np.random.default_rng(number)
    e = rng.standard_normal(6) if phase == "conditioning" else np.arange(6)
    states = rng.standard_normal((steps + 1, 30)).astype(np.float32)
    made = []
    for step in range(steps):
        if step % 10 == 0:
            z = rng.standard_normal(10).astype(np.float32)
        made.append(
            Transition(
                robot_uuid=ROBOT,
                epoch=1,
                seq=(number - 1) * STEPS + step + 1,
                stamp=80_000_000 * step,
                episode=number,
                step=step,
                phase=phase,
                task="microwave",
                model_version="v",
                skill_start=step % 10 == 0,
                z=z,
                e=e.astype(np.float32),
                observation=states[step],
                next_observation=states[step + 1],
                action=rng.uniform(-1, 1, 9).astype(np.float32),
                velocity_wanted=np.zeros(9),
                velocity_executed=np.zeros(9),
                guard_flags=0,
                reward=float(step == 40),
                reward_source="object_states",
                terminated=False,
                truncated=step == STEPS - 1,
            )
        )
    return made


def feed(session: LearnerSession, number: int, phase: str, steps: int = STEPS) -> ModelUpdate | None:
    for transition in episode(number, phase, steps):
        assert session.receive(transition)
    return session.train(0.0)


def condition(session: LearnerSession) -> None:
    for number in range(1, 9):
        assert feed(session, number, "conditioning") is None


def weights(update: ModelUpdate | None) -> bytes:
    assert update is not None
    return update.files["skill_policy.onnx"]


def test_models_come_after_conditioning_and_fit_a_robot(
    session: LearnerSession, bundle: Bundle, tmp_path: Path
) -> None:
    condition(session)
    update = feed(session, 9, "evaluation")
    assert update is not None and update.trained_on == 9 * STEPS
    assert session.progress.gradient_steps == 1  # conditioning fills the buffer, but only new episodes are paid for
    assert session.status()["considered_seq"] == 9 * STEPS
    store = ModelStore(tmp_path / "models", bundle, ROBOT)
    assert store.offer(update) is not None
    second = feed(session, 10, "finetune")
    assert second is not None and weights(second) != weights(update)
    assert store.offer(second) is not None
    assert second.parent_version == bundle.model_version


def test_too_little_experience_is_said_not_trained(session: LearnerSession) -> None:
    feed(session, 1, "conditioning")
    assert feed(session, 2, "finetune") is None
    assert session.status()["considered_seq"] == 2 * STEPS
    assert session.progress.gradient_steps == 0
    for number in range(3, 9):
        update = feed(session, number, "finetune")
    assert update is not None
    assert session.progress.gradient_steps == 7  # what was due is made up for


def test_final_episodes_and_unfinished_ones_are_kept_but_not_learned_from(session: LearnerSession) -> None:
    condition(session)
    assert feed(session, 9, "finetune", steps=STEPS - 1) is None
    assert feed(session, 10, "final") is None
    assert session.store.stored == 10 * STEPS - 1
    assert session.progress.episodes == []
    assert feed(session, 11, "finetune") is not None
    assert [number for _, _, number in session.progress.episodes] == [*range(1, 9), 11]


def test_episodes_that_piled_up_make_one_model(session: LearnerSession) -> None:
    condition(session)
    for number in (9, 10, 11):
        for transition in episode(number, "finetune"):
            session.receive(transition)
    assert session.train(0.0) is not None
    assert session.train(0.0) is None
    assert session.progress.updates == 1 and session.progress.gradient_steps == 3


def test_a_killed_learner_goes_on_as_if_nothing_had_been(
    session: LearnerSession, bundle: Bundle, tmp_path: Path
) -> None:
    # Killed after an update, and with half an episode received.
    other = LearnerSession(bundle, tmp_path / "other", CONFIG, seed=0)
    for one in (session, other):
        condition(one)
        first = feed(one, 9, "finetune")
    for transition in episode(10, "finetune")[:30]:
        other.receive(transition)
    other.acknowledge()
    other.store.close()  # what is on disk is all that is left
    again = LearnerSession(bundle, tmp_path / "other", CONFIG, seed=0)
    newest = again.newest_model()
    assert newest is not None and weights(newest) == weights(first)
    assert again.train(0.0) is None
    for transition in episode(10, "finetune"):
        again.receive(transition)  # sent again from the start: thirty are duplicates
    assert again.store.duplicates == 30
    assert weights(again.train(0.0)) == weights(feed(session, 10, "finetune"))
    again.close()


def test_a_checkpoint_older_than_the_store_is_caught_up_with(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "learner"
    before = LearnerSession(bundle, folder, CONFIG, seed=0)
    condition(before)
    feed(before, 9, "finetune")
    shutil.copy(folder / "checkpoint.safetensors", tmp_path / "older")
    wanted = weights(feed(before, 10, "finetune"))
    before.store.close()
    shutil.copy(tmp_path / "older", folder / "checkpoint.safetensors")  # killed before the second one was written
    after = LearnerSession(bundle, folder, CONFIG, seed=0)
    assert weights(after.train(0.0)) == wanted
    assert after.progress.updates == 2
    after.close()


@pytest.mark.parametrize("damage", ["one tensor less", "other sizes", "no safetensors"])
def test_a_checkpoint_that_does_not_fit_is_refused_with_what_to_do(damage: str, bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "learner"
    before = LearnerSession(bundle, folder, CONFIG, seed=0)
    condition(before)
    feed(before, 9, "finetune")
    before.store.close()
    path = folder / "checkpoint.safetensors"
    with safe_open(path, framework="pt") as file:
        said, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if damage == "one tensor less":
        del tensors["best_return"]
    elif damage == "other sizes":
        name = next(name for name in tensors if name.startswith("critics"))
        tensors[name] = tensors[name].flatten()[:-1]
    save_file(tensors, path, said)
    if damage == "no safetensors":
        path.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="remove it to train anew from the store"):
        LearnerSession(bundle, folder, CONFIG, seed=0)


def test_killed_before_the_first_checkpoint(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "learner"
    before = LearnerSession(bundle, folder, CONFIG, seed=0)
    condition(before)
    wanted = weights(feed(before, 9, "finetune"))
    before.store.close()
    (folder / "checkpoint.safetensors").unlink()
    after = LearnerSession(bundle, folder, CONFIG, seed=0)
    assert weights(after.train(0.0)) == wanted
    after.close()


def test_a_stop_comes_between_two_gradient_steps_and_the_next_start_makes_the_update_again(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, reuse=80.0)  # ten gradient steps an episode
    whole, stopped = (LearnerSession(bundle, tmp_path / name, config, seed=0) for name in ("whole", "stopped"))
    condition(whole)
    condition(stopped)
    wanted = weights(feed(whole, 9, "finetune"))
    assert whole.progress.gradient_steps == 10
    whole.close()

    update, taken = FineTuner.update, []

    def step(tuner: FineTuner, steps: int) -> dict[str, float]:
        taken.append(steps)
        if len(taken) == 3:
            stopped.stopping.set()  # as on a signal, from the main thread
        return update(tuner, steps)

    monkeypatch.setattr(FineTuner, "update", step)
    assert feed(stopped, 9, "finetune") is None
    assert taken == [1, 1, 1]
    assert stopped.status()["considered_seq"] < 9 * STEPS  # or a robot would not wait for the model any more
    stopped.close()
    monkeypatch.undo()
    again = LearnerSession(bundle, tmp_path / "stopped", config, seed=0)
    assert weights(again.train(0.0)) == wanted
    again.close()


def test_training_that_goes_astray_is_taken_back(session: LearnerSession, monkeypatch: pytest.MonkeyPatch) -> None:
    condition(session)
    feed(session, 9, "finetune")

    def refuse(*_: object, **__: object) -> Bundle:
        raise BundleError("not finite")

    monkeypatch.setattr(learner_session, "update_policy", refuse)
    with pytest.raises(BundleError, match="not finite"):
        feed(session, 10, "finetune")
    monkeypatch.undo()
    newest = session.newest_model()
    assert newest is not None and newest.trained_on == 9 * STEPS
    update = feed(session, 11, "finetune")
    assert update is not None and update.trained_on == 11 * STEPS
    assert session._tuner is not None and session._tuner.stored == 11 * STEPS // 10
