"""Run folders: what is missing or damaged is said by name."""

from pathlib import Path

import pytest
import torch
from conftest import make_random_run

from simpl_core.checkpoint import build_models, load_checkpoint, load_models, save_checkpoint
from simpl_core.config import META_PRESETS, SKILLS_PRESETS, SkillsConfig, from_dict, preset
from simpl_core.errors import CheckpointError, ConfigError


def test_round_trip(tmp_path: Path) -> None:
    tensors = {"a.b": torch.arange(6.0).view(2, 3).t()}
    save_checkpoint(tmp_path, tensors, {"skills": {"beta": 1.0}}, {"seed": 3})
    loaded = load_checkpoint(tmp_path)
    torch.testing.assert_close(loaded.tensors["a.b"], tensors["a.b"])
    assert loaded.config == {"skills": {"beta": 1.0}}
    assert loaded.provenance == {"seed": 3}


def test_missing_folder_and_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        load_checkpoint(tmp_path / "nowhere")
    save_checkpoint(tmp_path, {"a": torch.zeros(1)}, {}, {})
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json missing"):
        load_checkpoint(tmp_path)


def test_damaged_weights(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"a": torch.zeros(100)}, {}, {})
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path)


def test_weights_of_other_sizes(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"skill_encoder.embed.weight": torch.zeros(2, 2)}, {"skills": {}, "action_dim": 9}, {})
    with pytest.raises(CheckpointError, match="skill_encoder do not fit the configuration"):
        load_models(tmp_path)


def test_configuration_refuses_what_it_does_not_know() -> None:
    assert preset(SKILLS_PRESETS, "small", beta=1.0).beta == 1.0
    with pytest.raises(ConfigError, match="no preset 'smal'; there are official, fast, small"):
        preset(META_PRESETS, "smal")
    with pytest.raises(ConfigError, match="has no betta"):
        from_dict(SkillsConfig, {"betta": 1.0})


def test_a_policy_around_another_prior_is_refused(tmp_path: Path) -> None:
    """A folder put together from two runs: rollouts would ask one prior, and the policy was trained around another."""
    folder = make_random_run(tmp_path / "run", seed=0)
    checkpoint = load_checkpoint(folder)
    build_models(checkpoint, "run")
    name = next(key for key in checkpoint.tensors if key.startswith("skill_policy.prior.") and key.endswith("weight"))
    checkpoint.tensors[name][0] += 1e-3
    with pytest.raises(CheckpointError, match=f"another prior.*{name.removeprefix('skill_policy.prior.')}"):
        build_models(checkpoint, "run")
