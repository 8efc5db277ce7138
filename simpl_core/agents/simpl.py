"""SiMPL's meta-training agent (Sec. 4.2): task encoder, skill policy and critics shared by all training tasks.

Each step draws tasks with replacement, some with small contexts and the rest with large ones, and each group has its
own target divergences. The encoder learns from the critics' loss alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from simpl_core import equations
from simpl_core.buffer import ReplayBuffer, RowLayout, SkillBatch, sample_contexts
from simpl_core.config import MetaConfig
from simpl_core.distributions import DiagonalGaussian, standard_normal_like
from simpl_core.episode import SkillSteps, context_rows
from simpl_core.learner import (
    DualWeights,
    adam,
    arithmetic,
    descend,
    load_optimiser_tensors,
    mean_metrics,
    move_targets,
    network_tensors,
    optimiser_tensors,
    part,
    prefixed,
)
from simpl_core.networks import MLP, CriticEnsemble, SkillPolicy, SkillPrior, TaskEncoder


class Contexts(NamedTuple):
    """Tasks of a step with what their contexts say; the first `small` of them have small contexts."""

    tasks: Tensor  # (B,) int64
    small: int
    posterior: DiagonalGaussian  # (B, E)
    kl: Tensor  # (B,) to N(0, I)


class Experience(NamedTuple):
    """An episode for `task`: for critics and policy (`replay`), for contexts (`context`), or both.

    `own` says whether it was made for that task, or for another and judged by this one's rewards.
    """

    task: int
    steps: SkillSteps
    replay: bool
    context: bool
    own: bool = True


class SimplAgent:
    """Meta-training over `tasks` tasks; all noise is drawn on the CPU, so that any device computes the same."""

    def __init__(
        self, config: MetaConfig, prior: SkillPrior, tasks: int, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        """Fresh networks around the frozen skill `prior`, whose sizes tell those of state and skill."""
        torch.manual_seed(seed)
        state_dim, z_dim = prior.state_dim, prior.z_dim
        sizes = (state_dim, z_dim, config.e_dim, config.hidden, config.layers)
        self.config, self.device = config, torch.device(device)
        self.policy = SkillPolicy(copy.deepcopy(prior), *sizes).to(device)
        self.critics = CriticEnsemble(*sizes, config.critics).to(device)
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.encoder = TaskEncoder(state_dim, z_dim, config.e_dim, config.encoder_hidden).to(device)
        self._policy_optimiser = adam(self.policy.residual.parameters(), config.learning_rate)
        self._critic_optimiser = adam(self.critics.parameters(), config.learning_rate)
        self._encoder_optimiser = adam(self.encoder.parameters(), config.learning_rate)

        def dual(initial: float, target: float, count: int = 1) -> DualWeights:
            return DualWeights(initial, target, config.learning_rate, count=count, device=device)

        self.alpha_1 = dual(config.alpha_1, config.delta_1)
        self.alpha_2 = dual(config.alpha_2, config.delta_2)
        self._weight_small = dual(config.encoder_weight_small, config.encoder_target_small)
        self._weight_large = dual(config.encoder_weight_large, config.encoder_target_large, tasks)
        self._layout = RowLayout(state_dim, z_dim)
        self.replay = ReplayBuffer(tasks, config.buffer_size, self._layout.width, device)
        self.own = self.replay  # those of the replay's transitions that come from the task's own episodes
        if config.own_fraction > 0.0:
            self.own = ReplayBuffer(tasks, config.buffer_size, self._layout.width, device)
        self._best_returns = torch.full((tasks,), -math.inf, device=device)
        self.contexts = ReplayBuffer(tasks, config.encoder_buffer_size, self._layout.context_width, device)
        self._generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def act(self, state: Tensor, e: Tensor, prior: DiagonalGaussian) -> DiagonalGaussian:
        """pi(z | s, e): `state` (B, S), `e` (B, E), p(z | s), all on the CPU -> Gaussian over z (B, Z) on the CPU."""
        return self.policy.with_prior(state.to(self.device), e.to(self.device), prior.to(self.device)).to("cpu")

    def add(self, task: int, steps: SkillSteps, *, replay: bool, context: bool) -> None:
        """Keep an episode's `steps` for critics and policy (`replay`), for contexts (`context`), or both."""
        self.add_all([Experience(task, steps, replay, context)])

    @torch.no_grad()
    def add_all(self, experience: Sequence[Experience]) -> None:
        """Keep many episodes; the prior, which the replay keeps beside them, answers all in one batch."""
        for one in experience:
            if one.context:
                self.contexts.append(one.task, torch.from_numpy(context_rows(one.steps)))
        replayed = [one for one in experience if one.replay]
        if not replayed:
            return
        lengths = [len(one.steps.z) for one in replayed]
        states = np.concatenate([x for one in replayed for x in (one.steps.states, one.steps.next_states)])
        prior = self.policy.prior(torch.from_numpy(states).to(self.device))
        twice = [length for length in lengths for _ in range(2)]
        answers = list(map(DiagonalGaussian, prior.mean.cpu().split(twice), prior.scale.cpu().split(twice)))
        for one, here, following in zip(replayed, answers[::2], answers[1::2], strict=True):
            rows = self._layout.pack(one.steps, here, following)
            earned = equations.returns_to_go(torch.from_numpy(one.steps.rewards), self.config.gamma).max()
            self._best_returns[one.task] = torch.maximum(self._best_returns[one.task], earned.to(self.device))
            self.replay.append(one.task, rows)
            if one.own and self.own is not self.replay:
                self.own.append(one.task, rows)

    @torch.no_grad()
    def embed(self, task: int) -> Tensor:
        """A sample e ~ q(e | c), (E,) on the CPU, from a large context of `task`."""
        posterior: DiagonalGaussian = self.encoder(self._large_contexts(self.contexts, torch.tensor([task])))
        return posterior.sample(self._noise(*posterior.mean.shape)).squeeze(0).cpu()

    @torch.no_grad()
    def standardise(self) -> None:
        """Rescale fresh first layers so that they see the states in `contexts` with mean 0 and variance 1."""
        size = self.policy.prior.state_dim
        states = torch.cat([self.contexts.rows(task)[:, :size] for task in range(self.contexts.sizes.numel())])
        mean, scale = states.mean(0), states.std(0).clamp(min=1e-3)
        first, following = slice(0, size), slice(self._layout.context_width - size, self._layout.context_width)
        attention = self.encoder.first
        critics = (cast(MLP, critic) for critic in self.critics.critics)
        readers = [(network.first, [first]) for network in (self.policy.residual, *critics)]
        encoding = (attention.gather.key, attention.gather.value, attention.spread.query)
        readers += [(layer, [first, following]) for layer in encoding]
        for layer, places in readers:
            for place in places:
                layer.weight[:, place].div_(scale)
                layer.bias.sub_(layer.weight[:, place] @ mean)
        self.target_critics.load_state_dict(self.critics.state_dict())

    def update(self, steps: int) -> dict[str, float]:
        """`steps` gradient steps of every network and weight; returns metrics averaged over them."""
        return mean_metrics([self._step() for _ in range(steps)])

    def _step(self) -> dict[str, Tensor]:
        contexts = self._draw_contexts()
        batch, e, alpha = self._draw_transitions(contexts)
        metrics, values = self._update_critics(contexts, batch, e, alpha)
        self._weight_small.update(contexts.kl[: contexts.small])
        self._weight_large.update(contexts.kl[contexts.small :], contexts.tasks[contexts.small :].to(self.device))
        return metrics | self._update_policy(contexts, batch, e.detach(), (alpha, values))

    def _draw_contexts(self) -> Contexts:
        config, generator = self.config, self._generator
        count = config.tasks_small + config.tasks_large
        tasks = torch.randint(self.replay.sizes.numel(), (count,), generator=generator)
        few = self.contexts.sample(tasks[: config.tasks_small], config.context_small, generator)
        split = count - config.tasks_mixed
        many = self._large_contexts(self.contexts, tasks[config.tasks_small : split])
        if config.tasks_mixed:
            many = torch.cat([many, self._large_contexts(self.replay, tasks[split:])])
        small, large = self.encoder(few), self.encoder(many)
        posterior = DiagonalGaussian(torch.cat([small.mean, large.mean]), torch.cat([small.scale, large.scale]))
        kl = posterior.kl(standard_normal_like(posterior.mean))
        return Contexts(tasks, config.tasks_small, posterior, kl)

    def _large_contexts(self, source: ReplayBuffer, tasks: Tensor) -> Tensor:
        sizes = (self.config.context_large, self.config.context_kept)
        return sample_contexts(source, tasks, sizes, self._layout, self._generator)

    def _draw_transitions(self, contexts: Contexts) -> tuple[SkillBatch, Tensor, Tensor]:
        """Transitions of the contexts' tasks, flattened to (B,), with one e sample (B, E) and alpha (B,) each."""
        count, size = len(contexts.tasks), self.config.batch_size
        own = round(self.config.own_fraction * size)
        drawn = [self.replay.sample(contexts.tasks, size - own, self._generator)]
        if own:
            drawn.append(self.own.sample(contexts.tasks, own, self._generator))
        rows = torch.cat(drawn, dim=1).flatten(0, 1)
        posterior = contexts.posterior
        noise = self._noise(count, size, posterior.mean.shape[-1])
        e = DiagonalGaussian(posterior.mean.unsqueeze(1), posterior.scale.unsqueeze(1)).sample(noise).flatten(0, 1)
        split = contexts.small * size
        alpha = torch.cat([self.alpha_1.values.expand(split), self.alpha_2.values.expand(len(rows) - split)])
        return self._layout.unpack(rows), e, alpha

    def _update_critics(
        self, contexts: Contexts, batch: SkillBatch, e: Tensor, alpha: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Metrics, and what the critics said of the batch's skills (count, B)."""
        config = self.config
        with torch.no_grad(), self._arithmetic():
            following = self.policy.with_prior(batch.next_states, e, batch.next_prior)
            next_z = following.sample(self._noise(*following.mean.shape))
            target = equations.soft_target(
                batch.rewards,
                batch.dones,
                config.gamma,
                self.target_critics(batch.next_states, e, next_z),
                following.kl(batch.next_prior),
                alpha,
                config.kl_clip,
            )
            if config.bound_targets:
                best = self._best_returns[contexts.tasks.to(self.device)].repeat_interleave(config.batch_size)
                target = equations.bounded_target(target, best)
            small, large = self._weight_small.values, self._weight_large.values
            weight = torch.cat([small.expand(contexts.small), large[contexts.tasks[contexts.small :].to(self.device)]])
        with self._arithmetic():
            values = self.critics(batch.states, e, batch.z)
        loss = equations.critic_loss(values, target)
        bottleneck = equations.weighted_divergence(contexts.kl, weight)
        descend(loss + bottleneck, self._critic_optimiser, self._encoder_optimiser)
        move_targets(self.target_critics, self.critics, config.tau)
        metrics = {
            "critic/loss": loss.detach(),
            "critic/value": values.detach().mean(),
            "critic/target_spread": target.std(),
            "encoder/kl_small": contexts.kl[: contexts.small].detach().mean(),
            "encoder/kl_large": contexts.kl[contexts.small :].detach().mean(),
            "encoder/scale_large": contexts.posterior.scale[contexts.small :].detach().mean(),
            "encoder/weight_small": small.mean(),
            "encoder/weight_large": large.mean(),
        }
        return metrics, values.detach()

    def _update_policy(
        self, contexts: Contexts, batch: SkillBatch, e: Tensor, weights: tuple[Tensor, Tensor]
    ) -> dict[str, Tensor]:
        alpha, taken = weights
        with self._arithmetic():
            policy = self.policy.with_prior(batch.states, e, batch.prior)
            z = policy.sample(self._noise(*policy.mean.shape))
            values = self.critics(batch.states, e, z)
        kl = policy.kl(batch.prior)
        split = contexts.small * self.config.batch_size
        loss = equations.skill_policy_loss(values, kl, alpha)
        if self.config.imitate > 0.0:  # where the task is known
            advantage = taken.amin(0)[split:] - values.amin(0)[split:]
            loss = loss + self.config.imitate * equations.imitation_loss(policy.log_prob(batch.z)[split:], advantage)
        descend(loss, self._policy_optimiser)
        self.alpha_1.update(kl[:split])
        self.alpha_2.update(kl[split:])
        return {
            "policy/loss": loss.detach(),
            "policy/kl_small": kl[:split].detach().mean(),
            "policy/kl_large": kl[split:].detach().mean(),
            "policy/scale": policy.scale.detach().mean(),
            "policy/alpha_1": self.alpha_1.values.mean(),
            "policy/alpha_2": self.alpha_2.values.mean(),
        }

    def _arithmetic(self) -> torch.autocast:
        return arithmetic(self.config.precision, self.device)

    def _noise(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator).to(self.device)

    def state_dict(self) -> dict[str, Tensor]:
        """Networks, moments, dual weights, buffers and random state as flat tensors."""
        state = {"generator": self._generator.get_state()}
        for name, network in self._networks().items():
            state |= prefixed(name, network_tensors(network))
        for name, optimiser in self._optimisers().items():
            state |= prefixed(name, optimiser_tensors(optimiser))
        for name, stateful in self._stateful().items():
            state |= prefixed(name, stateful.state_dict())
        return state | {"best_returns": self._best_returns.clone()} if self.config.bound_targets else state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict`'s answer, bit for bit."""
        for name, network in self._networks().items():
            network.load_state_dict(part(name, state))
        for name, optimiser in self._optimisers().items():
            load_optimiser_tensors(optimiser, part(name, state))
        for name, stateful in self._stateful().items():
            stateful.load_state_dict(part(name, state))
        if self.config.bound_targets:
            self._best_returns.copy_(state["best_returns"])
        self._generator.set_state(state["generator"])

    def _networks(self) -> dict[str, torch.nn.Module]:
        return {
            "skill_policy": self.policy,
            "critics": self.critics,
            "target_critics": self.target_critics,
            "task_encoder": self.encoder,
        }

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {
            "policy_optimiser": self._policy_optimiser,
            "critic_optimiser": self._critic_optimiser,
            "encoder_optimiser": self._encoder_optimiser,
        }

    def _stateful(self) -> dict[str, DualWeights | ReplayBuffer]:
        stateful: dict[str, DualWeights | ReplayBuffer] = {
            "alpha_1": self.alpha_1,
            "alpha_2": self.alpha_2,
            "weight_small": self._weight_small,
            "weight_large": self._weight_large,
            "replay": self.replay,
            "contexts": self.contexts,
        }
        return stateful if self.own is self.replay else stateful | {"own": self.own}
