"""Phase 1 on demonstrations small enough to learn by heart, and its resumption after a stop."""

import dataclasses
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from simpl_core import equations, skills
from simpl_core.checkpoint import load_checkpoint, load_models
from simpl_core.config import SkillsConfig
from simpl_core.dataset import Demonstrations
from simpl_core.distributions import DiagonalGaussian
from simpl_core.errors import CheckpointError, ConfigError
from simpl_core.windows import Windows, WindowSampler

CONFIG = SkillsConfig(
    horizon=5,
    state_dim=2,
    z_dim=2,
    hidden=32,
    decoder_middle=1,
    prior_middle=1,
    beta=1e-3,
    batch_size=64,
    iterations=400,
    prior_iterations=150,
    prior_batch_size=64,
    learning_rate=3e-3,
    final_rate_fraction=0.1,
    held_out_fraction=0.2,
    log_every=50,
    checkpoint_every=50,
)


def demonstrations(episodes: int = 20, steps: int = 30) -> Demonstrations:
    """A point that moves left or right for a whole episode: one bit of skill that the state does not tell at first."""
    rng = np.random.default_rng(0)
    directions = rng.choice([-1.0, 1.0], episodes)
    actions = np.repeat(directions, steps)[:, None] * np.array([0.5, 0.0])
    positions = np.concatenate([np.cumsum(np.full(steps, d)) / steps for d in directions])
    states = np.stack([np.abs(positions), np.ones_like(positions)], axis=1)
    bounds = np.arange(episodes + 1) * steps
    return Demonstrations(states.astype(np.float32), actions.astype(np.float32), bounds, "0" * 64, "made up")


def test_losses_by_hand() -> None:
    actions, predicted = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    assert equations.skill_reconstruction(actions, predicted).item() == pytest.approx((0.5 * 1 + 0.5 * 4) / 2)
    posterior = DiagonalGaussian(torch.tensor([[1.0, 0.0]]), torch.ones(1, 2))
    assert equations.skill_regularisation(posterior).item() == pytest.approx(0.5 / 2)
    prior = DiagonalGaussian(torch.zeros(1, 2), torch.ones(1, 2))
    expected = 0.5 * 1.0 + 2 * 0.9189385332
    assert equations.prior_negative_log_likelihood(prior, posterior.mean).item() == pytest.approx(expected)
    assert equations.prior_divergence(posterior, prior).item() == pytest.approx(0.5)


@pytest.mark.parametrize("kind", ["nll", "kl"])
def test_the_prior_teaches_the_encoder_nothing(kind: str) -> None:
    config = SkillsConfig(**{**CONFIG.__dict__, "prior_loss": kind})
    model = skills.SkillModel(config, 2)
    shapes = ((8, 5, 2), (8, 5, 2), (8, 2), (8, 5, 2), (8, 5, 2))
    windows = Windows(*(torch.randn(shape) for shape in shapes))
    model.losses(windows, torch.randn(8, 2))["prior"].backward()
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    assert any(parameter.grad is not None for parameter in model.prior.parameters())


def test_recovery_holds_the_demonstrated_course() -> None:
    """However far off the course, where the joint is plus the wanted motion is where the demonstration went."""
    noise, stride = np.array([0.3, 0.1]), 0.25
    config = dataclasses.replace(CONFIG, sensor_noise=1.0, recovery=2.0)
    sampler = WindowSampler(demonstrations(), config, 0, noise, stride)
    windows = sampler.sample(64, torch.Generator().manual_seed(0))
    error = (windows.visited - windows.states).abs().amax((0, 1))
    assert (error > torch.tensor([0.5, 0.15])).all() and (error <= torch.tensor([0.6, 0.2])).all()
    assert ((windows.sensed - windows.states[:, 0]).abs() <= torch.tensor([0.3, 0.1])).all()
    course = windows.states + stride * windows.actions
    torch.testing.assert_close(windows.visited + stride * windows.wanted, course)
    assert torch.equal(sampler.at(sampler.held_out).wanted, sampler.at(sampler.held_out).actions)
    with pytest.raises(ConfigError, match="recovery=2.0 needs actions that move joint targets"):
        WindowSampler(demonstrations(), config, 0, noise)


def test_skills_are_learned(tmp_path: Path) -> None:
    data = demonstrations()
    skills.run(CONFIG, data, tmp_path, skills.SkillsStart(seed=1))
    models = load_models(tmp_path)
    windows = WindowSampler(data, CONFIG, 1)
    held_out = windows.at(windows.held_out)
    with torch.no_grad():
        z = models.skill_encoder(held_out.states, held_out.actions).mean
        steps = held_out.states.shape[1]
        predicted = models.skill_decoder(held_out.states.flatten(0, 1), z.repeat_interleave(steps, 0))
        drawn = models.skill_prior(held_out.states[:, 0]).sample()
        acted = models.skill_decoder(held_out.states[:, 0], drawn)[:, 0]
    assert (predicted - held_out.actions.flatten(0, 1)).square().mean() < 0.01  # 0.125 without a skill
    # Rollouts of the prior must go both ways, though no state tells which: that is what a skill space is for.
    assert 0.2 < (acted > 0).float().mean() < 0.8


def test_a_stopped_run_ends_where_an_unstopped_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_checkpoint(skills.run(CONFIG, demonstrations(), tmp_path / "whole", skills.SkillsStart(seed=3)))
    for stop in (120, 510):  # in the joint part and in the prior's own
        parts = tmp_path / f"parts{stop}"
        with monkeypatch.context() as patch:
            patch.setattr(skills._Run, "update", _stopping_at(stop))
            with pytest.raises(KeyboardInterrupt):
                skills.run(CONFIG, demonstrations(), parts, skills.SkillsStart(seed=3))
        resumed = load_checkpoint(skills.run(CONFIG, demonstrations(), parts, skills.SkillsStart(seed=3)))
        for name, tensor in whole.tensors.items():
            torch.testing.assert_close(resumed.tensors[name], tensor, rtol=0, atol=0)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Whoever started the tests in the background had them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_within_a_step_waits_for_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_checkpoint(skills.run(CONFIG, demonstrations(), tmp_path / "whole", skills.SkillsStart(seed=3)))
    made, original = 0, skills.SkillTrainer.update

    def update(self: skills.SkillTrainer, *arguments: Any) -> dict[str, torch.Tensor]:
        nonlocal made
        made += 1
        if made == 18:
            signal.raise_signal(signal.SIGINT)
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(skills.SkillTrainer, "update", update)
        with pytest.raises(KeyboardInterrupt):
            skills.run(CONFIG, demonstrations(), tmp_path / "parts", skills.SkillsStart(seed=3))
    assert made == 18 and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = load_checkpoint(skills.run(CONFIG, demonstrations(), tmp_path / "parts", skills.SkillsStart(seed=3)))
    for name, tensor in whole.tensors.items():
        torch.testing.assert_close(resumed.tensors[name], tensor, rtol=0, atol=0)


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    skills.run(CONFIG, demonstrations(), tmp_path, skills.SkillsStart(seed=3))

    def left() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}

    before = left()
    skills.run(CONFIG, demonstrations(), tmp_path, skills.SkillsStart(seed=3))
    longer = dataclasses.replace(CONFIG, iterations=CONFIG.iterations + 1)
    for config, seed, words in ((CONFIG, 4, "finished run with other seed"), (longer, 3, "with other skills")):
        with pytest.raises(CheckpointError, match=words):
            skills.run(config, demonstrations(), tmp_path, skills.SkillsStart(seed=seed))
    assert left() == before


def _stopping_at(stop: int) -> Callable[[skills._Run], dict[str, torch.Tensor]]:
    original = skills._Run.update

    def update(self: skills._Run) -> dict[str, torch.Tensor]:
        if self.step == stop:
            raise KeyboardInterrupt
        return original(self)

    return update


def test_a_folder_with_another_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(skills._Run, "update", _stopping_at(60))
        with pytest.raises(KeyboardInterrupt):
            skills.run(CONFIG, demonstrations(), tmp_path, skills.SkillsStart(seed=3))
    with pytest.raises(CheckpointError, match="unfinished run with other seed"):
        skills.run(CONFIG, demonstrations(), tmp_path, skills.SkillsStart(seed=4))


def test_training_on_from_an_earlier_run(tmp_path: Path) -> None:
    parent = skills.run(CONFIG, demonstrations(), tmp_path / "parent", skills.SkillsStart(seed=3))
    short = dataclasses.replace(CONFIG, iterations=1, prior_iterations=0, learning_rate=1e-9)
    child = skills.run(short, demonstrations(), tmp_path / "child", skills.SkillsStart(seed=4, parent=parent))
    before, after = load_checkpoint(parent), load_checkpoint(child)
    weight = "skill_decoder.net.0.weight"
    torch.testing.assert_close(after.tensors[weight], before.tensors[weight])
    assert after.provenance["parent"] == before.provenance
    wider = dataclasses.replace(CONFIG, hidden=48)
    with pytest.raises(CheckpointError, match="of other sizes"):
        skills.run(wider, demonstrations(), tmp_path / "wider", skills.SkillsStart(parent=parent))
