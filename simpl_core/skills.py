"""Phase 1: skills, a skill decoder and a skill prior from task-agnostic demonstrations.

SiMPL Sec. 4.1 (Eq. 3), with the networks and settings of SPiRL's kitchen models. All noise is drawn on the CPU, so that
any device computes the same.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from simpl_core import equations
from simpl_core.checkpoint import (
    WEIGHTS,
    Checkpoint,
    SkillNetworks,
    load_checkpoint,
    named_tensors,
    save_checkpoint,
    skill_networks,
)
from simpl_core.config import SkillsConfig, from_dict
from simpl_core.dataset import Demonstrations
from simpl_core.distributions import DiagonalGaussian
from simpl_core.errors import CheckpointError
from simpl_core.learner import arithmetic
from simpl_core.metrics import MetricsWriter, progress_bar
from simpl_core.provenance import provenance
from simpl_core.resume import STATE, interrupts_held, load_resume, other_than, save_resume, sole_writer
from simpl_core.windows import Windows, WindowSampler


class SkillModel(nn.Module):
    """The three networks of phase 1 and their common loss."""

    def __init__(self, config: SkillsConfig, action_dim: int) -> None:
        """Fresh networks of the configured sizes."""
        super().__init__()
        self.config = config
        self.encoder, self.decoder, self.prior = skill_networks(config, action_dim)

    def losses(self, windows: Windows, noise: Tensor) -> dict[str, Tensor]:
        """Terms of the loss and their sum `loss`; `noise` (B, Z) draws z from the posterior."""
        with arithmetic(self.config.precision, noise.device):
            posterior = self.encoder(windows.states, windows.actions)
            z = posterior.sample(noise)
            predicted, prior = self.decoder.decode(windows.visited, z), self.prior(windows.sensed)
        reconstruction = equations.skill_reconstruction(windows.wanted, predicted)
        divergence = equations.skill_regularisation(posterior)
        fit = self._prior_loss(prior, posterior, z)
        return {
            "loss": reconstruction + self.config.beta * divergence + fit,
            "reconstruction": reconstruction,
            "divergence": divergence,
            "prior": fit,
        }

    def _prior_loss(self, prior: DiagonalGaussian, posterior: DiagonalGaussian, z: Tensor) -> Tensor:
        if self.config.prior_loss == "kl":
            return equations.prior_divergence(posterior, prior)
        return equations.prior_negative_log_likelihood(prior, z)


class SkillTrainer:
    """Optimiser, schedule and random state around a `SkillModel`; everything a resumed run needs."""

    def __init__(self, config: SkillsConfig, action_dim: int, seed: int, device: torch.device | str = "cpu") -> None:
        """Fresh model and optimiser."""
        torch.manual_seed(seed)
        self.config, self.device = config, torch.device(device)
        self.model = SkillModel(config, action_dim).to(device)
        self.optimiser = torch.optim.RAdam(self.model.parameters(), lr=config.learning_rate, foreach=True)
        self.generator = torch.Generator().manual_seed(seed)
        self.step = 0

    def update(self, sampler: WindowSampler) -> dict[str, Tensor]:
        """One optimiser step on a fresh batch; returns the terms of the loss."""
        windows = sampler.sample(self.config.batch_size, self.generator)
        noise = torch.randn(self.config.batch_size, self.config.z_dim, generator=self.generator).to(self.device)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.config, self.step, self.config.iterations)
        terms = self.model.losses(windows, noise)
        self.optimiser.zero_grad()
        terms["loss"].backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.step += 1
        return terms

    def state_dict(self) -> dict[str, Any]:
        """Model, optimiser, random state and step."""
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`'s answer."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"])
        self.step = int(state["step"])


def learning_rate(config: SkillsConfig, step: int, total: int) -> float:
    """Rate at `step` of `total`: from `learning_rate` along half a cosine to `final_rate_fraction` of it."""
    remaining = 0.5 * (1.0 + math.cos(math.pi * step / total))
    return config.learning_rate * (config.final_rate_fraction + (1.0 - config.final_rate_fraction) * remaining)


def held_out_metrics(model: SkillModel, sampler: WindowSampler, limit: int = 2048) -> dict[str, float]:
    """How the model does on held-out episodes; see `fit`."""
    stride = max(1, len(sampler.held_out) // limit)
    model.eval()
    values = fit(SkillNetworks(model.encoder, model.decoder, model.prior), sampler.at(sampler.held_out[::stride]))
    model.train()
    return {f"held_out/{name}": value for name, value in values.items()}


@torch.no_grad()
def fit(networks: SkillNetworks, windows: Windows) -> dict[str, float]:
    """How networks in evaluation mode fit `windows`.

    Reconstruction error with z at its mean; KL(q || N(0, I)) per skill number; log-likelihood of sampled skills under
    the prior and KL(q || p) [nats per skill], the latter comparable between models whose latent scales differ.
    """
    posterior = networks.encoder(windows.states, windows.actions)
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(0)).to(posterior.mean.device)
    predicted = networks.decoder.decode(windows.states, posterior.mean)
    prior = networks.prior(windows.states[:, 0])
    values = {
        "reconstruction": equations.skill_reconstruction(windows.actions, predicted),
        "divergence": equations.skill_regularisation(posterior),
        "prior_log_likelihood": -equations.prior_negative_log_likelihood(prior, posterior.sample(noise)),
        "prior_divergence": equations.prior_divergence(posterior, prior),
    }
    return {name: float(value) for name, value in values.items()}


class PriorTrainer:
    """Fits the prior alone to the settled encoder: KL(q || p), exact, over every training window.

    Rollouts of the prior improve long after reconstruction has settled, and a step on the prior costs a
    thirtieth of a joint one.
    """

    def __init__(self, model: SkillModel, sampler: WindowSampler, seed: int) -> None:
        """Encode all training windows once; the encoder stays as it is from here on."""
        self.config = model.config
        self.prior = model.prior.train()
        self._sampler = sampler
        self.states, self.posterior = _encode_all(model, sampler)
        self.optimiser = torch.optim.RAdam(self.prior.parameters(), lr=self.config.learning_rate, foreach=True)
        self.generator = torch.Generator().manual_seed(seed)
        self.step = 0

    def update(self) -> dict[str, Tensor]:
        """One optimiser step on a fresh batch; returns the divergence as `prior`."""
        picks = torch.randint(len(self.states), (self.config.prior_batch_size,), generator=self.generator)
        picks = picks.to(self.states.device)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.config, self.step, self.config.prior_iterations)
        posterior = DiagonalGaussian(self.posterior.mean[picks], self.posterior.scale[picks])
        sensed = self._sampler.sense(self.states[picks], self.generator)
        with arithmetic(self.config.precision, sensed.device):
            prior = self.prior(sensed)
        loss = equations.prior_divergence(posterior, prior)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.step += 1
        return {"prior": loss.detach()}

    def state_dict(self) -> dict[str, Any]:
        """Optimiser, random state and step; the prior itself is in the model."""
        return {
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`'s answer."""
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"])
        self.step = int(state["step"])


@torch.no_grad()
def _encode_all(model: SkillModel, sampler: WindowSampler) -> tuple[Tensor, DiagonalGaussian]:
    """First states (W, S) and posteriors (W, Z) of all training windows."""
    chunks = [sampler.at(starts) for starts in torch.split(sampler.training, 4096)]
    posteriors = [model.encoder(chunk.states, chunk.actions) for chunk in chunks]
    posterior = DiagonalGaussian(torch.cat([p.mean for p in posteriors]), torch.cat([p.scale for p in posteriors]))
    return torch.cat([chunk.states[:, 0] for chunk in chunks]), posterior


class SkillsStart(NamedTuple):
    """What a run begins with.

    Attributes:
        seed: of networks, batches and the held-out split.
        sensor_noise: half width of the environment's uniform sensor noise (S,); `config.sensor_noise` scales it.
        parent: folder of an earlier run whose networks are trained on, instead of fresh ones.
        stride: how far an action of 1 moves its joint's target from where the joint is seen; see `WindowSampler`.
        device: what computes.
    """

    seed: int = 0
    sensor_noise: NDArray[np.floating] | None = None
    parent: Path | None = None
    stride: float | None = None
    device: str = "cpu"


def _identity(config: SkillsConfig, seed: object, data: object, lineage: Mapping[str, Any]) -> dict[str, Any]:
    # States saved before there was a choice do not name it.
    later = {("decoder", "closed"), ("precision", "float32")}
    settings = {key: value for key, value in dataclasses.asdict(config).items() if (key, value) not in later}
    return {"stage": "skills", "seed": seed, "data": data, "skills": settings, **lineage}


def _is_finished(out: Path, identity: Mapping[str, Any]) -> bool:
    """Whether `out` holds what the run with `identity` leaves at its end.

    Raises:
        CheckpointError: it holds what another one left.
    """
    if not (out / WEIGHTS).is_file():
        return False
    checkpoint = load_checkpoint(out)
    said = checkpoint.provenance
    lineage = {"parent": said["parent"]} if "parent" in said else {}
    config = from_dict(SkillsConfig, checkpoint.config["skills"])
    changed = other_than(_identity(config, said.get("seed"), said.get("data_sha256"), lineage), identity)
    if changed:
        raise CheckpointError(f"{out} holds a finished run with other {', '.join(changed)}; give another folder")
    return True


class _Run:
    """Joint training, then the prior alone, with one resumable state on disk."""

    def __init__(self, config: SkillsConfig, data: Demonstrations, out: Path, start: SkillsStart) -> None:
        self.config, self.out, self.action_dim = config, out, data.actions.shape[1]
        self.sampler = WindowSampler(data, config, start.seed, start.sensor_noise, start.stride, start.device)
        self.joint = SkillTrainer(config, self.action_dim, start.seed, start.device)
        self.lineage: dict[str, Any] = {}
        if start.parent is not None:
            self.lineage = {"parent": self._adopt(load_checkpoint(start.parent))}
        self.identity = _identity(config, start.seed, data.sha256, self.lineage)
        self.prior: PriorTrainer | None = None
        state = load_resume(out, self.identity)
        self.finished = state is None and _is_finished(out, self.identity)
        if self.finished:
            return
        if state is not None:
            self.joint.load_state_dict(state)
            if "prior" in state:
                self._begin_prior().load_state_dict(state["prior"])
        self.writer = MetricsWriter(out, self.step)

    def _adopt(self, parent: Checkpoint) -> dict[str, Any]:
        """Start from the networks of an earlier run; returns where they come from."""
        own = ("skill_encoder", "skill_decoder", "skill_prior")
        networks = {n.removeprefix("skill_"): t for n, t in parent.tensors.items() if n.split(".")[0] in own}
        try:
            self.joint.model.load_state_dict(networks)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"the networks of the earlier run are of other sizes: {reason}") from error
        return parent.provenance

    @property
    def step(self) -> int:
        return self.joint.step + (self.prior.step if self.prior else 0)

    def _begin_prior(self) -> PriorTrainer:
        self.prior = PriorTrainer(self.joint.model, self.sampler, self.identity["seed"])
        return self.prior

    def update(self) -> dict[str, Tensor]:
        if self.joint.step < self.config.iterations:
            return self.joint.update(self.sampler)
        return (self.prior or self._begin_prior()).update()

    def save(self) -> None:
        prior = {"prior": self.prior.state_dict()} if self.prior else {}
        save_resume(self.out, self.identity, self.joint.state_dict() | prior)

    def train(self) -> None:
        total = self.config.iterations + self.config.prior_iterations
        with interrupts_held() as interrupt, progress_bar(total, "skills", self.step) as bar:
            while self.step < total:
                interrupt()
                terms = {name: value.detach() for name, value in self.update().items()}
                if self.step % self.config.log_every == 0 or self.step == total:
                    values = {name: float(value) for name, value in terms.items()}
                    self.writer.write(self.step, values | held_out_metrics(self.joint.model, self.sampler))
                if self.step % self.config.checkpoint_every == 0:
                    self.save()
                bar.advance(1, f"prior {float(terms['prior']):.2f}" if self.step % 100 == 0 else None)

    def finish(self, origin: dict[str, Any]) -> None:
        judged = held_out_metrics(self.joint.model, self.sampler)
        model = self.joint.model.eval()
        tensors = named_tensors(skill_encoder=model.encoder, skill_decoder=model.decoder, skill_prior=model.prior)
        config = {"skills": dataclasses.asdict(self.config), "action_dim": self.action_dim}
        details = {"seed": self.identity["seed"], "data_sha256": self.identity["data"], "held_out": judged}
        save_checkpoint(self.out, tensors, config, origin | details | self.lineage)
        (self.out / STATE).unlink(missing_ok=True)


def run(config: SkillsConfig, data: Demonstrations, out: Path, start: SkillsStart | None = None) -> Path:
    """Train phase 1 on `data` into the folder `out`; a run that was killed goes on where its last state was saved.

    Returns:
        `out`, holding weights.safetensors, config.json, provenance.json and metrics.csv.

    Raises:
        DatasetError: no episode holds a window.
        CheckpointError: `out` holds a run with other settings, or the parent does not fit.
        KeyboardInterrupt: after the state was saved.
    """
    with sole_writer(out):
        training = _Run(config, data, out, start or SkillsStart())
        if training.finished:
            return out
        began = time.monotonic()
        try:
            training.train()
        except KeyboardInterrupt:
            training.save()
            raise
        finally:
            training.writer.close()
        training.finish(provenance(data=Path(data.origin).name, train_seconds=round(time.monotonic() - began, 1)))
    return out
