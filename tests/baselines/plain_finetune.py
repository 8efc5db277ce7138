"""One gradient step of phase 3 (SiMPL Sec. 4.3; SPiRL Alg. 1) straight from the equations of EQUATIONS.md.

The prior answers anew, critics go one after the other, Adam and targets parameter by parameter.
"""

from __future__ import annotations

import copy

import torch
from baselines.plain_networks import Policy, Weight, follow, kl, like, values
from torch import Tensor


class PlainFineTuning:
    """Starts as a copy of a `SpirlAgent`: its weights, buffer, embedding and random state."""

    def __init__(self, agent: object) -> None:
        config = self.config = agent.config
        self.state_dim, self.z_dim = agent.policy.prior.state_dim, agent.policy.prior.z_dim
        self.embedding = agent.embedding.clone()
        self.policy = Policy(copy.deepcopy(agent.policy.prior), agent.policy.residual)
        self.critics = [like(critic) for critic in agent.critics.critics]
        self.targets = [like(critic) for critic in agent.target_critics.critics]
        rate = config.learning_rate
        self.policy_optimiser = torch.optim.Adam(self.policy.residual.parameters(), lr=rate)
        self.critic_optimiser = torch.optim.Adam([p for c in self.critics for p in c.parameters()], lr=rate)
        self.alpha = Weight(agent._alpha, config.alpha_rate, config.alpha_only_grows)
        self.rows = agent._replay.rows(0).clone()
        self.generator = torch.Generator()
        self.generator.set_state(agent._generator.get_state())

    def step(self) -> dict[str, float]:
        """One step; what it measured, under the names of the project's metrics."""
        c, generator = self.config, self.generator
        uniform = torch.rand(1, c.batch_size, generator=generator, dtype=torch.float64)[0]
        rows = self.rows[(uniform * len(self.rows)).long()]
        widths = [self.state_dim, self.z_dim, 1, 1, self.state_dim, 4 * self.z_dim]
        states, z, rewards, dones, next_states, _ = rows.split(widths, dim=1)
        e, alpha = self.embedding.expand(c.batch_size, -1), float(self.alpha.values)
        target = self.target(next_states, e, rewards.squeeze(1), dones.squeeze(1), alpha)
        answers = values(self.critics, states, e, z)
        error = sum(((answer - target) ** 2).mean() for answer in answers) / len(answers)
        self.critic_optimiser.zero_grad()
        error.backward()
        self.critic_optimiser.step()
        follow(self.targets, self.critics, c.tau)
        policy, prior = self.policy(states, e)
        mine = policy[0] + policy[1] * torch.randn(c.batch_size, self.z_dim, generator=generator)
        divergence = kl(policy, prior)
        loss = (alpha * divergence - torch.stack(values(self.critics, states, e, mine)).min(0).values).mean()
        self.policy_optimiser.zero_grad()
        loss.backward()
        self.policy_optimiser.step()
        self.alpha.update([(0, divergence)])
        return {
            "critic/loss": float(error.detach()),
            "critic/value": float(torch.stack(answers).detach().mean()),
            "policy/loss": float(loss.detach()),
            "policy/kl": float(divergence.detach().mean()),
            "policy/scale": float(policy[1].detach().mean()),
            "policy/alpha": alpha,
        }

    @torch.no_grad()
    def target(self, next_states: Tensor, e: Tensor, rewards: Tensor, dones: Tensor, alpha: float) -> Tensor:
        following, prior = self.policy(next_states, e)
        noise = torch.randn(*following[0].shape, generator=self.generator)
        value = torch.stack(values(self.targets, next_states, e, following[0] + following[1] * noise)).min(0).values
        soft = value - alpha * torch.clamp(kl(following, prior), max=self.config.kl_clip)
        return rewards + (1.0 - dones) * self.config.gamma * soft
