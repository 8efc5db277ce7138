"""A run on disk: weights.safetensors, config.json, provenance.json, metrics.csv. No pickled classes.

Network tensors are stored under the network's name (`skill_decoder.net.0.weight`), and `config.json` holds the
configuration of each stage that made them, so that `load_models` can rebuild the networks alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from simpl_core.config import MetaConfig, SkillsConfig, from_dict
from simpl_core.errors import CheckpointError, ConfigError
from simpl_core.networks import (
    CriticEnsemble,
    Decoder,
    OpenLoopDecoder,
    SkillDecoder,
    SkillEncoder,
    SkillPolicy,
    SkillPrior,
    TaskEncoder,
)

WEIGHTS, CONFIG, PROVENANCE = "weights.safetensors", "config.json", "provenance.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a run folder holds; `config` has one entry per stage plus `state` for scalars such as alpha_2."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Models:
    """Networks of a run, in evaluation mode and on the CPU; those of phase 2 are None in a run of phase 1.

    `device` is where an agent that learns on from them computes.
    """

    skills_config: SkillsConfig
    action_dim: int
    skill_encoder: SkillEncoder
    skill_decoder: Decoder
    skill_prior: SkillPrior
    meta_config: MetaConfig | None = None
    skill_policy: SkillPolicy | None = None
    critics: CriticEnsemble | None = None
    target_critics: CriticEnsemble | None = None
    task_encoder: TaskEncoder | None = None
    alpha_1: float | None = None
    alpha_2: float | None = None
    device: str = "cpu"


class SkillNetworks(NamedTuple):
    """What phase 1 learns."""

    encoder: SkillEncoder
    decoder: Decoder
    prior: SkillPrior


def skill_networks(config: SkillsConfig, action_dim: int) -> SkillNetworks:
    """Fresh networks of the configured kind and sizes.

    Raises:
        ConfigError: no such kind of decoder.
    """
    state, z, hidden = config.state_dim, config.z_dim, config.hidden
    encoder = SkillEncoder(state, action_dim, z, hidden)
    decoder: Decoder
    if config.decoder == "closed":
        decoder = SkillDecoder(state, action_dim, z, hidden, config.decoder_middle)
    elif config.decoder == "open":
        decoder = OpenLoopDecoder(action_dim, z, hidden, config.horizon)
    else:
        raise ConfigError(f"no decoder {config.decoder!r}; there are closed, open")
    return SkillNetworks(encoder, decoder, SkillPrior(state, z, hidden, config.prior_middle))


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` so that a reader, or a kill, sees the old file or the new one and nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Tensors as safetensors, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, temporary)
    temporary.replace(path)


def save_checkpoint(
    folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], provenance: Mapping[str, Any]
) -> None:
    """Write a run's weights, configuration and provenance; the weights come last, as they make a run complete."""
    write_atomically(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    write_atomically(folder / PROVENANCE, (json.dumps(provenance, indent=2) + "\n").encode())
    save_tensors(folder / WEIGHTS, tensors)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a run folder.

    Raises:
        CheckpointError: a file is missing or cannot be read.
    """
    missing = [name for name in (WEIGHTS, CONFIG, PROVENANCE) if not (folder / name).is_file()]
    if missing:
        found = ", ".join(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "no such folder"
        raise CheckpointError(f"{folder} is not a finished run: {', '.join(missing)} missing (there: {found})")
    try:
        config = json.loads((folder / CONFIG).read_text())
        provenance = json.loads((folder / PROVENANCE).read_text())
        tensors = load_file(folder / WEIGHTS)
    except (json.JSONDecodeError, SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder} cannot be read: {error}") from error
    return Checkpoint(tensors, config, provenance)


def named_tensors(**networks: nn.Module) -> dict[str, Tensor]:
    """Tensors of several networks under `<network>.<parameter>`."""
    return {f"{name}.{key}": value for name, net in networks.items() for key, value in net.state_dict().items()}


def load_models(folder: Path, device: str = "cpu") -> Models:
    """Rebuild the networks of a run of phase 1 or 2, for agents that compute on `device`.

    Raises:
        CheckpointError: the folder is no run, or its weights do not fit its configuration.
    """
    return build_models(load_checkpoint(folder), str(folder), device)


def build_models(checkpoint: Checkpoint, origin: str, device: str = "cpu") -> Models:
    """Networks from a checkpoint; `origin` names it in errors (see `load_models`)."""
    if "skills" not in checkpoint.config:
        raise CheckpointError(f"{origin}: config.json has no 'skills' entry, only {', '.join(checkpoint.config)}")
    skills = from_dict(SkillsConfig, checkpoint.config["skills"])
    action_dim = int(checkpoint.config["action_dim"])
    networks = skill_networks(skills, action_dim)

    def restore(name: str, network: Network) -> Network:
        return _restore(network, name, checkpoint.tensors, origin)

    encoder = restore("skill_encoder", networks.encoder)
    decoder = restore("skill_decoder", networks.decoder)
    prior = restore("skill_prior", networks.prior)
    if "meta" not in checkpoint.config:
        return Models(skills, action_dim, encoder, decoder, prior, device=device)
    meta = from_dict(MetaConfig, checkpoint.config["meta"])
    state, z = skills.state_dim, skills.z_dim
    sizes = (state, z, meta.e_dim, meta.hidden, meta.layers)
    policy = restore("skill_policy", SkillPolicy(SkillPrior(state, z, skills.hidden, skills.prior_middle), *sizes))
    _check_one_prior(policy.prior, prior, origin)
    return Models(
        skills,
        action_dim,
        encoder,
        decoder,
        prior,
        meta,
        policy,
        restore("critics", CriticEnsemble(*sizes, meta.critics)),
        restore("target_critics", CriticEnsemble(*sizes, meta.critics)),
        restore("task_encoder", TaskEncoder(state, z, meta.e_dim, meta.encoder_hidden)),
        float(checkpoint.config["state"]["alpha_1"]),
        float(checkpoint.config["state"]["alpha_2"]),
        device,
    )


def _check_one_prior(of_policy: SkillPrior, prior: SkillPrior, origin: str) -> None:
    """Rollouts ask the prior once for all policies, so the one that a policy was trained around must be that one."""
    own, others = prior.state_dict(), of_policy.state_dict()
    changed = [name for name in own if not torch.equal(own[name], others[name])]
    if changed:
        raise CheckpointError(
            f"{origin}: skill_policy was trained around another prior than skill_prior: {len(changed)} of {len(own)} "
            f"tensors differ, the first of them {changed[0]}; they come from different runs"
        )


Network = TypeVar("Network", bound=nn.Module)


def _restore(network: Network, name: str, tensors: Mapping[str, Tensor], origin: str) -> Network:
    prefix = f"{name}."
    own = {key[len(prefix) :]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    try:
        network.load_state_dict(own)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{origin}: weights of {name} do not fit the configuration: {reason}") from error
    return network.eval()
