"""Both kinds of skill decoder: the one interface, when each looks at the state, and what may be done with them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_rollout import assert_same, constant_policy, some_jobs
from test_skills import CONFIG, demonstrations
from toy_domain import HORIZON, STEPS, TASKS, ToyEnv, unit_prior

from simpl_core import skills
from simpl_core.checkpoint import load_checkpoint, load_models, named_tensors, save_checkpoint, skill_networks
from simpl_core.config import SkillsConfig
from simpl_core.errors import BundleError, ConfigError
from simpl_core.networks import OpenLoopDecoder, SkillDecoder, SkillPolicy, SkillPrior
from simpl_core.resume import load_resume
from simpl_core.rollout import RolloutJob, SkillActor, collect
from simpl_core.windows import WindowSampler


class Script:
    """An open-loop decoder whose actions tell the state it saw and how long ago: (x, steps since)."""

    def __init__(self) -> None:
        self.looks = 0

    def eval(self) -> Script:
        return self

    def decode(self, states: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        self.looks += 1
        steps = torch.arange(HORIZON) / 10
        return torch.stack([states[:, :1, 0].expand(-1, HORIZON), steps.expand(len(states), -1)], dim=-1)


def test_a_closed_loop_decoder_answers_each_state() -> None:
    torch.manual_seed(0)
    decoder = SkillDecoder(3, 2, 4, 16, 1).eval()
    states, z = torch.randn(5, 7, 3), torch.randn(5, 4)
    answer = decoder.decode(states, z)
    assert answer.shape == (5, 7, 2)
    for step in range(7):
        torch.testing.assert_close(answer[:, step], decoder(states[:, step], z))


def test_an_open_loop_decoder_says_all_actions_from_the_skill_alone() -> None:
    torch.manual_seed(0)
    decoder = OpenLoopDecoder(2, 4, 16, 10).eval()
    z = torch.randn(5, 4)
    answer = decoder.decode(torch.randn(5, 1, 3), z)
    assert answer.shape == (5, 10, 2)
    torch.testing.assert_close(decoder.decode(torch.randn(5, 10, 3), z), answer)
    assert (decoder(z + 0.1) - answer).abs().amax((0, 2)).min() > 1e-4  # every step depends on the skill
    assert (answer[:, 1:] - answer[:, :-1]).abs().max() > 1e-4  # and on the time


def test_an_actor_plays_what_was_decoded_when_the_skill_began() -> None:
    script = Script()
    actor = SkillActor(script, unit_prior(), [constant_policy(0.0)], HORIZON)  # type: ignore[arg-type]
    first, second = collect(ToyEnv(2), actor, [RolloutJob(TASKS[0], seed=s) for s in (0, 1)])
    assert script.looks == STEPS // HORIZON  # once a skill, for both slots at once
    for episode in (first, second):
        seen = episode.observations[episode.skill_starts, 0]
        np.testing.assert_allclose(episode.actions[:, 0], np.repeat(seen, HORIZON), atol=1e-6)
        np.testing.assert_allclose(episode.actions[:, 1], np.tile(np.arange(HORIZON) / 10, STEPS // HORIZON))


@pytest.mark.parametrize("slots", [1, 5, 23])
def test_slots_do_not_change_open_loop_episodes(slots: int) -> None:
    torch.manual_seed(0)
    policy = SkillPolicy(SkillPrior(3, 2, 128), 3, 2, 2, 128, 5)
    actor = SkillActor(OpenLoopDecoder(2, 2, 128, HORIZON), policy.prior, [policy.with_prior], HORIZON)
    jobs = some_jobs(12)
    alone = [collect(ToyEnv(1, noise=0.1), actor, [job])[0] for job in jobs]
    for one, two in zip(alone, collect(ToyEnv(slots, noise=0.1), actor, jobs), strict=True):
        assert_same(one, two)


def test_open_loop_skills_are_learned_and_loaded(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, decoder="open", recovery=2.0, prior_iterations=0)
    run = skills.run(config, demonstrations(), tmp_path, skills.SkillsStart(seed=1))
    assert load_checkpoint(run).provenance["held_out"]["held_out/reconstruction"] < 0.005  # 0.0625 without a skill
    models = load_models(run)
    assert isinstance(models.skill_decoder, OpenLoopDecoder) and models.skill_decoder.horizon == CONFIG.horizon


def test_recovery_is_for_decoders_that_see_the_state() -> None:
    noise = np.array([0.3, 0.1])
    config = dataclasses.replace(CONFIG, decoder="open", recovery=2.0, sensor_noise=1.0)
    windows = WindowSampler(demonstrations(), config, 0, noise, 0.25).sample(64, torch.Generator().manual_seed(0))
    assert torch.equal(windows.wanted, windows.actions)


def test_runs_from_before_there_was_a_choice_are_closed_loop(
    tmp_path: Path, random_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = load_checkpoint(random_run)
    del checkpoint.config["skills"]["decoder"]
    save_checkpoint(tmp_path / "old", checkpoint.tensors, checkpoint.config, {})
    assert isinstance(load_models(tmp_path / "old").skill_decoder, SkillDecoder)
    # An unfinished one goes on, too: its state names the settings of then.
    settings = {key: value for key, value in dataclasses.asdict(CONFIG).items() if key not in ("decoder", "precision")}
    identity = {"stage": "skills", "seed": 3, "data": "0" * 64, "skills": settings}
    with monkeypatch.context() as patch:
        patch.setattr(skills._Run, "update", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            skills.run(CONFIG, demonstrations(), tmp_path / "new", skills.SkillsStart(seed=3))
    assert load_resume(tmp_path / "new", identity) is not None


def _interrupted(_: skills._Run) -> dict[str, torch.Tensor]:
    raise KeyboardInterrupt


def test_an_unknown_decoder_is_refused() -> None:
    with pytest.raises(ConfigError, match="no decoder 'ajar'; there are closed, open"):
        skill_networks(SkillsConfig(decoder="ajar"), 9)  # type: ignore[arg-type]


def test_open_loop_skills_are_not_exported(tmp_path: Path, random_run: Path) -> None:
    from export.to_onnx import export_bundle

    checkpoint = load_checkpoint(random_run)
    config = json.loads(json.dumps(checkpoint.config))
    config["skills"]["decoder"] = "open"
    decoder = skill_networks(SkillsConfig(decoder="open"), 9).decoder
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.startswith("skill_decoder.")}
    save_checkpoint(tmp_path / "run", tensors | named_tensors(skill_decoder=decoder), config, {})
    with pytest.raises(BundleError, match="these are open-loop"):
        export_bundle(tmp_path / "run", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
