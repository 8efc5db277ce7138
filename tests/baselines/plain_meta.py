"""One gradient step of SiMPL's meta-training, task by task, straight from the equations of EQUATIONS.md.

Every task of a step is sampled, encoded and judged alone in a Python loop, the prior answers anew, Adam goes parameter
by parameter. Only the random numbers are drawn in the project's order, so that both can be compared.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from baselines.plain_networks import Encoder, Gaussian, Policy, Weight, follow, kl, like, log_density, values
from torch import Tensor


class Draws(NamedTuple):
    """Random numbers of a step, one row a task."""

    tasks: list[int]
    contexts: list[Tensor]  # uniform (n,) each
    rows: Tensor  # uniform (tasks, rows of the replay)
    own: Tensor  # uniform (tasks, rows of own episodes)
    e: Tensor  # normal (tasks, batch, E)
    next_z: Tensor  # normal (tasks, batch, Z)
    z: Tensor  # normal (tasks, batch, Z)


class Transitions(NamedTuple):
    """Of one task, (n, ...)."""

    states: Tensor
    z: Tensor
    rewards: Tensor
    dones: Tensor
    next_states: Tensor


class PlainMeta:
    """Starts as a copy of a `SimplAgent`: its weights, buffers and random state."""

    def __init__(self, agent: object) -> None:
        config = self.config = agent.config
        self.state_dim, self.z_dim = agent.policy.prior.state_dim, agent.policy.prior.z_dim
        width = self.width = 2 * self.state_dim + self.z_dim + 2
        self.policy = Policy(copy.deepcopy(agent.policy.prior), agent.policy.residual)
        self.critics = [like(critic) for critic in agent.critics.critics]
        self.targets = [like(critic) for critic in agent.target_critics.critics]
        self.encoder = Encoder(width, config.encoder_hidden, config.e_dim)
        self.encoder.load_state_dict(agent.encoder.state_dict())
        rate, count = config.learning_rate, agent.replay.sizes.numel()
        self.policy_optimiser = torch.optim.Adam(self.policy.residual.parameters(), lr=rate)
        self.critic_optimiser = torch.optim.Adam([p for c in self.critics for p in c.parameters()], lr=rate)
        self.encoder_optimiser = torch.optim.Adam(self.encoder.parameters(), lr=rate)
        self.alphas = [Weight(agent.alpha_1, rate), Weight(agent.alpha_2, rate)]
        self.weight_small, self.weight_large = Weight(agent._weight_small, rate), Weight(agent._weight_large, rate)
        self.replay = [agent.replay.rows(task)[:, :width].clone() for task in range(count)]
        self.own = [agent.own.rows(task)[:, :width].clone() for task in range(count)]
        self.contexts = [agent.contexts.rows(task).clone() for task in range(count)]
        self.generator = torch.Generator()
        self.generator.set_state(agent._generator.get_state())

    def step(self) -> dict[str, float]:
        """One step; what it measured, under the names of the project's metrics."""
        draws = self.draw()
        count, small = len(draws.tasks), self.config.tasks_small
        posteriors = [self.encoder(self.context(i, draws)) for i in range(count)]
        unit = torch.zeros(self.config.e_dim), torch.ones(self.config.e_dim)
        divergences = [kl(posterior, unit) for posterior in posteriors]
        batches = [self.transitions(i, draws) for i in range(count)]
        e = [mean + scale * draws.e[i] for i, (mean, scale) in enumerate(posteriors)]
        alphas = [float(self.alphas[i >= small].values) for i in range(count)]
        metrics, taken = self.critic_step(draws, batches, e, alphas, divergences)
        self.weight_small.update([(0, divergence) for divergence in divergences[:small]])
        self.weight_large.update([(draws.tasks[i], divergences[i]) for i in range(small, count)])
        metrics |= self.policy_step(draws, batches, [x.detach() for x in e], alphas, taken)
        scales = torch.stack([scale for _, scale in posteriors[small:]])
        return metrics | {
            "encoder/kl_small": float(torch.stack(divergences[:small]).detach().mean()),
            "encoder/kl_large": float(torch.stack(divergences[small:]).detach().mean()),
            "encoder/scale_large": float(scales.detach().mean()),
            "policy/alpha_1": float(self.alphas[0].values),
            "policy/alpha_2": float(self.alphas[1].values),
        }

    def draw(self) -> Draws:
        c, generator = self.config, self.generator
        count = c.tasks_small + c.tasks_large
        pure = c.tasks_large - c.tasks_mixed

        def uniform(tasks: int, rows: int) -> Tensor:
            return torch.rand(tasks, rows, generator=generator, dtype=torch.float64)

        tasks = torch.randint(len(self.replay), (count,), generator=generator).tolist()
        contexts = [*uniform(c.tasks_small, c.context_small), *uniform(pure, c.context_large)]
        if c.tasks_mixed:
            contexts += [*uniform(c.tasks_mixed, c.context_large)]
        own = round(c.own_fraction * c.batch_size)
        rows = uniform(count, c.batch_size - own)
        own_rows = uniform(count, own) if own else torch.empty(count, 0, dtype=torch.float64)
        e = torch.randn(count, c.batch_size, c.e_dim, generator=generator)
        flat = count * c.batch_size
        next_z, z = (torch.randn(flat, self.z_dim, generator=generator).view(count, -1, self.z_dim) for _ in range(2))
        return Draws(tasks, contexts, rows, own_rows, e, next_z, z)

    def context(self, i: int, draws: Draws) -> Tensor:
        """Of the i-th task drawn, (n, D); the last `tasks_mixed` tasks have contexts of all episodes."""
        c, task = self.config, draws.tasks[i]
        mixed = i >= c.tasks_small + c.tasks_large - c.tasks_mixed
        source = (self.replay if mixed else self.contexts)[task]
        rows = source[(draws.contexts[i] * len(source)).long()]
        if i < c.tasks_small or c.context_kept == 0:
            return rows
        rewarded = rows[:, self.state_dim + self.z_dim] > 0.0
        return torch.cat([rows[rewarded], rows[~rewarded]])[: c.context_kept]

    def transitions(self, i: int, draws: Draws) -> Transitions:
        task = draws.tasks[i]
        sources = (self.replay[task], draws.rows[i]), (self.own[task], draws.own[i])
        rows = torch.cat([source[(uniform * len(source)).long()] for source, uniform in sources])
        states, z, rewards, dones, following = rows.split([self.state_dim, self.z_dim, 1, 1, self.state_dim], dim=1)
        return Transitions(states, z, rewards.squeeze(1), dones.squeeze(1), following)

    def critic_step(
        self,
        draws: Draws,
        batches: list[Transitions],
        e: list[Tensor],
        alphas: list[float],
        divergences: list[Tensor],
    ) -> tuple[dict[str, float], list[Tensor]]:
        """Metrics, and per task what the critics said of the batch's skills before the step: min over critics."""
        c, count = self.config, len(batches)
        small, large = float(self.weight_small.values), self.weight_large.values
        weights = [small if i < c.tasks_small else float(large[task]) for i, task in enumerate(draws.tasks)]
        errors, said, wanted = [], [], []
        for i, batch in enumerate(batches):
            target = self.target(batch, e[i].detach(), draws.next_z[i], alphas[i])
            answers = values(self.critics, batch.states, e[i], batch.z)
            errors.append(sum(((answer - target) ** 2).mean() for answer in answers) / len(answers))
            said.append(torch.stack(answers).detach())
            wanted.append(target)
        error = sum(errors) / count
        loss = error + sum(weight * kl for weight, kl in zip(weights, divergences, strict=True)) / count
        self.critic_optimiser.zero_grad()
        self.encoder_optimiser.zero_grad()
        loss.backward()
        self.critic_optimiser.step()
        self.encoder_optimiser.step()
        follow(self.targets, self.critics, c.tau)
        metrics = {
            "critic/loss": float(error.detach()),
            "critic/value": float(torch.stack(said).mean()),
            "critic/target_spread": float(torch.cat(wanted).std()),
            "encoder/weight_small": small,
            "encoder/weight_large": float(large.mean()),
        }
        return metrics, [answers.min(0).values for answers in said]

    @torch.no_grad()
    def target(self, batch: Transitions, e: Tensor, noise: Tensor, alpha: float) -> Tensor:
        following, prior = self.policy(batch.next_states, e)
        next_z = following[0] + following[1] * noise
        value = torch.stack(values(self.targets, batch.next_states, e, next_z)).min(0).values
        soft = value - alpha * torch.clamp(kl(following, prior), max=self.config.kl_clip)
        return batch.rewards + (1.0 - batch.dones) * self.config.gamma * soft

    def policy_step(
        self, draws: Draws, batches: list[Transitions], e: list[Tensor], alphas: list[float], taken: list[Tensor]
    ) -> dict[str, float]:
        c, count = self.config, len(batches)
        losses, imitations, divergences, scales = [], [], [], []
        for i, batch in enumerate(batches):
            policy: Gaussian
            policy, prior = self.policy(batch.states, e[i])
            z = policy[0] + policy[1] * draws.z[i]
            value = torch.stack(values(self.critics, batch.states, e[i], z)).min(0).values
            divergence = kl(policy, prior)
            losses.append((alphas[i] * divergence - value).mean())
            if c.imitate > 0.0 and i >= c.tasks_small:
                better = torch.clamp(taken[i] - value, min=0.0).detach()
                imitations.append(-(log_density(policy, batch.z) * better).mean())
            divergences.append(divergence.detach())
            scales.append(policy[1].detach())
        loss = sum(losses) / count
        if imitations:
            loss = loss + c.imitate * sum(imitations) / len(imitations)
        self.policy_optimiser.zero_grad()
        loss.backward()
        self.policy_optimiser.step()
        groups = divergences[: c.tasks_small], divergences[c.tasks_small :]
        for weight, group in zip(self.alphas, groups, strict=True):
            weight.update([(0, divergence) for divergence in group])
        return {
            "policy/loss": float(loss.detach()),
            "policy/kl_small": float(torch.cat(groups[0]).mean()),
            "policy/kl_large": float(torch.cat(groups[1]).mean()),
            "policy/scale": float(torch.stack(scales).mean()),
        }
