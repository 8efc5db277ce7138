"""Prior-regularised soft actor-critic over skills: SPiRL (Pertsch et al. 2020, Alg. 1), and SiMPL's phase 3 (Eq. 5).

One task, one embedding: SPiRL has none, SiMPL fine-tunes with e* fixed. They differ in where they start from, which
`Start` says.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from simpl_core import equations
from simpl_core.buffer import ReplayBuffer, RowLayout, SkillBatch
from simpl_core.config import AdaptConfig
from simpl_core.distributions import DiagonalGaussian
from simpl_core.episode import Float32, SkillSteps
from simpl_core.errors import ConfigError
from simpl_core.learner import (
    DualWeights,
    adam,
    descend,
    mean_metrics,
    network_tensors,
    part,
    prefixed,
)
from simpl_core.networks import CriticEnsemble, SkillPolicy, SkillPrior
from simpl_core.stacked import StackedMLP, critic_stack, load_stacked_optimiser_tensors, stacked_optimiser_tensors


class Start(NamedTuple):
    """What learning starts from; the agent trains copies."""

    policy: SkillPolicy
    critics: CriticEnsemble
    alpha: float


def start_from_prior(prior: SkillPrior, *, hidden: int, layers: int, critics: int, alpha: float, seed: int) -> Start:
    """SPiRL: the policy is the prior (its residual's last layer is zero) and the critics know nothing."""
    torch.manual_seed(seed)
    sizes = (prior.state_dim, prior.z_dim, 0, hidden, layers)
    policy = SkillPolicy(copy.deepcopy(prior), *sizes)
    for parameter in policy.residual[-1].parameters():
        nn.init.zeros_(parameter)
    return Start(policy, CriticEnsemble(*sizes, critics), alpha)


class SpirlAgent:
    """Learns one task from its skill transitions; all noise is drawn on the CPU from the agent's own generator."""

    def __init__(
        self, start: Start, config: AdaptConfig, embedding: Float32, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        """`embedding` is e* (E,), of size 0 for a policy without one.

        Raises:
            ConfigError: the embedding is of another size than the policy's.
        """
        if embedding.shape != (start.policy.e_dim,):
            raise ConfigError(f"the policy takes an embedding of shape ({start.policy.e_dim},), got {embedding.shape}")
        self.config, self.device = config, torch.device(device)
        self.embedding = torch.from_numpy(np.array(embedding, np.float32)).to(device)
        self.policy = copy.deepcopy(start.policy).to(device)
        self.policy.residual = residual = StackedMLP(self.policy.residual)
        self.critics = copy.deepcopy(start.critics).to(device)
        self.target_critics = copy.deepcopy(self.critics)
        self._residual, self._values = residual.stack, critic_stack(self.critics)
        self._targets = critic_stack(self.target_critics)
        self._policy_optimiser = adam([self._residual.weights], config.learning_rate)
        self._critic_optimiser = adam([self._values.weights], config.learning_rate)
        self._alpha = DualWeights(
            start.alpha, config.delta, config.alpha_rate, only_grow=config.alpha_only_grows, device=device
        )
        self._layout = RowLayout(self.policy.prior.state_dim, self.policy.prior.z_dim)
        self._replay = ReplayBuffer(1, config.buffer_size, self._layout.width, device)
        self._best_return = torch.tensor(-math.inf, device=device)
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def stored(self) -> int:
        """Skill transitions in the buffer."""
        return int(self._replay.sizes)

    @property
    def alpha(self) -> float:
        """Weight of the KL to the skill prior."""
        return float(self._alpha.values)

    @torch.no_grad()
    def act(self, state: Tensor, e: Tensor, prior: DiagonalGaussian) -> DiagonalGaussian:
        """pi(z | s, e): `state` (B, S), `e` (B, E), p(z | s), all on the CPU -> Gaussian over z (B, Z) on the CPU."""
        return self.policy.with_prior(state.to(self.device), e.to(self.device), prior.to(self.device)).to("cpu")

    @torch.no_grad()
    def add(self, steps: SkillSteps) -> None:
        """Keep an episode's skill transitions."""
        states, following = (torch.from_numpy(x).to(self.device) for x in (steps.states, steps.next_states))
        prior, next_prior = self.policy.prior(states), self.policy.prior(following)
        answers = (x.to("cpu") for x in (prior, next_prior))
        self._replay.append(0, self._layout.pack(steps, *answers))
        earned = equations.returns_to_go(torch.from_numpy(steps.rewards), self.config.gamma)
        self._best_return = torch.maximum(self._best_return, earned.amax().to(self.device))

    def steps_for(self, new_transitions: int) -> int:
        """Gradient steps that `new_transitions` allow; none before the buffer holds a batch."""
        if self.stored < self.config.batch_size or new_transitions < 1:
            return 0
        return max(1, int(self.config.reuse * new_transitions / self.config.batch_size))

    def update(self, steps: int) -> dict[str, float]:
        """`steps` gradient steps of policy, critics and alpha; returns metrics averaged over them."""
        return mean_metrics([self._step() for _ in range(steps)])

    def _step(self) -> dict[str, Tensor]:
        rows = self._replay.sample(torch.zeros(1, dtype=torch.int64), self.config.batch_size, self._generator)
        batch = self._layout.unpack(rows.squeeze(0))
        e = self.embedding.expand(self.config.batch_size, -1)
        alpha = self._alpha.values
        return self._update_critics(batch, e, alpha) | self._update_policy(batch, e, alpha)

    def _update_critics(self, batch: SkillBatch, e: Tensor, alpha: Tensor) -> dict[str, Tensor]:
        config = self.config
        with torch.no_grad():
            following = self.policy.with_prior(batch.next_states, e, batch.next_prior)
            next_z = following.sample(self._noise(*following.mean.shape))
            target = equations.soft_target(
                batch.rewards,
                batch.dones,
                config.gamma,
                self._targets(batch.next_states, e, next_z).squeeze(-1),
                following.kl(batch.next_prior),
                alpha,
                config.kl_clip,
            )
            if config.bound_targets:
                target = equations.bounded_target(target, self._best_return)
        values = self._values(batch.states, e, batch.z).squeeze(-1)
        loss = equations.critic_loss(values, target)
        # Each published critic descends its own loss, whose gradient the mean over critics would divide by their
        # number; Adam does not see that factor.
        descend(loss, self._critic_optimiser)
        self._targets.follow(self._values, config.tau)
        return {"critic/loss": loss.detach(), "critic/value": values.detach().mean()}

    def _update_policy(self, batch: SkillBatch, e: Tensor, alpha: Tensor) -> dict[str, Tensor]:
        policy = self.policy.with_prior(batch.states, e, batch.prior)
        z = policy.sample(self._noise(*policy.mean.shape))
        kl = policy.kl(batch.prior)
        values = self._values(batch.states, e, z, learn=False).squeeze(-1)
        loss = equations.skill_policy_loss(values, kl, alpha)
        descend(loss, self._policy_optimiser)
        self._alpha.update(kl)
        return {
            "policy/loss": loss.detach(),
            "policy/kl": kl.detach().mean(),
            "policy/scale": policy.scale.detach().mean(),
            "policy/alpha": alpha.mean(),
        }

    def _noise(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator).to(self.device)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that learning on needs as flat tensors (fit for safetensors)."""
        return {
            "generator": self._generator.get_state(),
            "embedding": self.embedding.clone(),
            **prefixed("skill_policy", network_tensors(self.policy)),
            **prefixed("critics", network_tensors(self.critics)),
            **prefixed("target_critics", network_tensors(self.target_critics)),
            **prefixed("policy_optimiser", stacked_optimiser_tensors(self._policy_optimiser, self._residual)),
            **prefixed("critic_optimiser", stacked_optimiser_tensors(self._critic_optimiser, self._values)),
            **prefixed("alpha", self._alpha.state_dict()),
            **prefixed("replay", self._replay.state_dict()),
            "best_return": self._best_return.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict`'s answer, bit for bit."""
        self.embedding = state["embedding"].to(self.device)
        self.policy.load_state_dict(part("skill_policy", state))
        self.critics.load_state_dict(part("critics", state))
        self.target_critics.load_state_dict(part("target_critics", state))
        load_stacked_optimiser_tensors(self._policy_optimiser, self._residual, part("policy_optimiser", state))
        load_stacked_optimiser_tensors(self._critic_optimiser, self._values, part("critic_optimiser", state))
        self._alpha.load_state_dict(part("alpha", state))
        self._replay.load_state_dict(part("replay", state))
        self._best_return = state["best_return"].to(self.device)
        self._generator.set_state(state["generator"].cpu())
