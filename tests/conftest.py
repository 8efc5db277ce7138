"""What several tests share: a real bundle of kitchen size with random weights."""

from __future__ import annotations

import copy
import dataclasses
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

# Networks of a test are so small that a second thread only waits: beside busy neighbours twenty times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def make_random_run(folder: Path, seed: int = 0, e_dim: int = 6) -> Path:
    """A checkpoint of phase 2 with random networks of the kitchen's sizes (torch is imported here only)."""
    import torch
    from torch import nn

    from simpl_core.checkpoint import named_tensors, save_checkpoint
    from simpl_core.config import MetaConfig, SkillsConfig
    from simpl_core.networks import (
        CriticEnsemble,
        SkillDecoder,
        SkillEncoder,
        SkillPolicy,
        SkillPrior,
        TaskEncoder,
    )

    skills, meta, action = SkillsConfig(), MetaConfig(e_dim=e_dim), 9
    state, z = skills.state_dim, skills.z_dim
    sizes = (state, z, meta.e_dim, meta.hidden, meta.layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        prior = SkillPrior(state, z, skills.hidden, skills.prior_middle)
        decoder = SkillDecoder(state, action, z, skills.hidden, skills.decoder_middle)
        for module in (*prior.modules(), *decoder.modules()):
            if isinstance(module, nn.BatchNorm1d) and isinstance(module.running_var, torch.Tensor):
                # As after training: statistics other than 0 and 1 would hide a mistake in folding them.
                nn.init.normal_(module.running_mean, std=0.3)
                nn.init.uniform_(module.running_var, 0.2, 1.5)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
        networks: dict[str, nn.Module] = {
            "skill_encoder": SkillEncoder(state, action, z, skills.hidden),
            "skill_decoder": decoder,
            "skill_prior": prior,
            "skill_policy": SkillPolicy(copy.deepcopy(prior), *sizes),
            "critics": CriticEnsemble(*sizes, meta.critics),
            "target_critics": CriticEnsemble(*sizes, meta.critics),
            "task_encoder": TaskEncoder(state, z, meta.e_dim, meta.encoder_hidden),
        }
    config = {
        "skills": dataclasses.asdict(skills),
        "meta": dataclasses.asdict(meta),
        "action_dim": action,
        "state": {"alpha_1": 0.05, "alpha_2": 0.03},
    }
    provenance = {"command": "random weights for tests", "seed": seed}
    save_checkpoint(folder, named_tensors(**networks), config, provenance)
    return folder


def make_random_bundle(folder: Path, seed: int = 0) -> Path:
    """A verified bundle at `folder` from `make_random_run`; its checkpoint goes beside it."""
    from export.to_onnx import export_bundle

    run = make_random_run(folder.with_name(f"{folder.name}_run"), seed)
    return export_bundle(run, folder)


@pytest.fixture(scope="session")
def random_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a meta-trained run with random weights; do not write there."""
    return make_random_run(tmp_path_factory.mktemp("random_run"))


@pytest.fixture(scope="session")
def random_bundle(random_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bundle exported from `random_run`; do not write there."""
    from export.to_onnx import export_bundle

    return export_bundle(random_run, tmp_path_factory.mktemp("random_bundle") / "bundle")


@pytest.fixture(scope="session")
def bundle_factory() -> Callable[[Path, int], Path]:
    """`make_random_bundle(folder, seed)` for tests that need a bundle of their own."""
    return make_random_bundle


@pytest.fixture(autouse=True)
def threads_of_a_command_end_with_its_test() -> Iterator[None]:
    """Commands run within a test set PyTorch's threads for the whole process; see OMP_NUM_THREADS above."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


if __name__ == "__main__":
    sys.stdout.write(f"{make_random_bundle(Path(sys.argv[1]))}\n")


@pytest.fixture
def franka_kitchen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """gymnasium-robotics' own kitchen without sensor noise, made to work with MuJoCo 4.

    It compares numpy's integers with MuJoCo's enumerations, which are no integers any more.
    """
    import gymnasium
    import mujoco

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations of other environments of that package
        import gymnasium_robotics

        gymnasium.register_envs(gymnasium_robotics)
        kinds = {name: int(kind) for name, kind in mujoco.mjtJoint.__members__.items()}
        with_integers = SimpleNamespace(**{**vars(mujoco), "mjtJoint": SimpleNamespace(**kinds)})
        monkeypatch.setattr(gymnasium_robotics.utils.mujoco_utils, "mujoco", with_integers)
        noise = {"robot_noise_ratio": 0.0, "object_noise_ratio": 0.0}
        env = gymnasium.make("FrankaKitchen-v1", disable_env_checker=True, **noise)
    yield env
    env.close()
