"""The papers' networks as their equations say them: what `simpl bench` computes beside the project's own.

Nothing of `simpl_core` is used. Parameters bear the same names, so that both can start from the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


def mlp(sizes: list[int]) -> nn.Sequential:
    """Linear layers of these sizes with ReLU between them."""
    layers: list[nn.Module] = []
    for width, following in pairwise(sizes):
        layers += [nn.Linear(width, following), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def like(network: nn.Sequential) -> nn.Sequential:
    """An MLP of the same sizes and weights."""
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    copy = mlp([linear[0].in_features, *(layer.out_features for layer in linear)])
    copy.load_state_dict(network.state_dict())
    return copy


class Attention(nn.Module):
    """softmax(Q K^T / sqrt(dim)) V in several heads, then two residuals (Lee et al. 2019, Eq. 6, no LayerNorm)."""

    def __init__(self, query_dim: int, key_dim: int, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.dim = heads, dim
        self.query, self.output = nn.Linear(query_dim, dim), nn.Linear(dim, dim)
        self.key, self.value = nn.Linear(key_dim, dim), nn.Linear(key_dim, dim)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        projected = self.query(queries)
        query, key, value = (self.split(x) for x in (projected, self.key(keys), self.value(keys)))
        weights = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(self.dim), dim=-1)
        x = projected + (weights @ value).transpose(-2, -3).flatten(-2)
        return x + functional.relu(self.output(x))

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(-2, -3)


class InducedAttention(nn.Module):
    """ISAB (Lee et al. 2019, Eq. 9 and 10)."""

    def __init__(self, in_dim: int, dim: int, heads: int, inducing: int) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.empty(inducing, dim))
        self.gather, self.spread = Attention(dim, in_dim, dim, heads), Attention(in_dim, dim, dim, heads)

    def forward(self, members: Tensor) -> Tensor:
        return self.spread(members, self.gather(self.points, members))


class Encoder(nn.Module):
    """q(e | c) for one context (N, D): two ISAB, pooling by one seed, a head (SiMPL appendix E.1.2)."""

    def __init__(self, in_dim: int, dim: int, e_dim: int, heads: int = 4, inducing: int = 32) -> None:
        super().__init__()
        self.first = InducedAttention(in_dim, dim, heads, inducing)
        self.second = InducedAttention(dim, dim, heads, inducing)
        self.seed, self.pool = nn.Parameter(torch.empty(1, dim)), Attention(dim, dim, dim, heads)
        self.head = mlp([dim, dim, 2 * e_dim])

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.pool(self.seed, self.second(self.first(context)))
        mean, scale = self.head(pooled)[0].chunk(2)
        return mean, 0.001 + functional.softplus(math.log(math.e - 1.0) + scale)


class Policy(nn.Module):
    """pi(z | s, e), a residual to the frozen prior, which answers anew every time (SiMPL appendix E.1.3)."""

    def __init__(self, prior: nn.Module, residual: nn.Sequential) -> None:
        super().__init__()
        self.prior, self.residual = prior, like(residual)

    def forward(self, states: Tensor, e: Tensor) -> tuple[Gaussian, Gaussian]:
        with torch.no_grad():
            prior_mean, prior_scale = self.prior(states)
        mean, scale = self.residual(torch.cat([states, e], dim=-1)).chunk(2, dim=-1)
        raw = torch.log(torch.expm1(prior_scale))
        return (prior_mean + mean, 0.001 + functional.softplus(raw + scale)), (prior_mean, prior_scale)


Gaussian = tuple[Tensor, Tensor]
"""Mean and scale."""


def kl(p: Gaussian, q: Gaussian) -> Tensor:
    """KL(p || q) of diagonal Gaussians, summed over the last axis."""
    (mean, scale), (other_mean, other_scale) = p, q
    quadratic = (scale**2 + (mean - other_mean) ** 2) / (2.0 * other_scale**2)
    return (torch.log(other_scale / scale) + quadratic - 0.5).sum(-1)


def log_density(p: Gaussian, value: Tensor) -> Tensor:
    """log p(value), summed over the last axis."""
    mean, scale = p
    return (-((value - mean) ** 2) / (2.0 * scale**2) - torch.log(scale) - 0.5 * math.log(2.0 * math.pi)).sum(-1)


def values(critics: Iterable[nn.Module], states: Tensor, e: Tensor, z: Tensor) -> list[Tensor]:
    """Q_i(s, e, z), one critic after the other."""
    return [critic(torch.cat([states, e, z], dim=-1)).squeeze(-1) for critic in critics]


class Weight:
    """softplus(p), moved by dual descent on a divergence: Adam on p's loss, weight (target - KL)."""

    def __init__(self, dual: object, rate: float, only_grow: bool = True) -> None:
        """Start where `dual`, the project's own, is."""
        self.parameter = nn.Parameter(dual.state_dict()["parameters"].clone())
        self.target, self.only_grow = dual._target, only_grow
        self.optimiser = torch.optim.Adam([self.parameter], lr=rate)

    @property
    def values(self) -> Tensor:
        return functional.softplus(self.parameter.detach())

    def update(self, terms: list[tuple[int, Tensor]]) -> None:
        """`terms`: whose weight, and a divergence (any shape)."""
        weights, count = functional.softplus(self.parameter), sum(kl.numel() for _, kl in terms)
        loss = sum((weights[which] * (self.target - kl.detach())).sum() for which, kl in terms) / count
        self.optimiser.zero_grad()
        loss.backward()
        if self.only_grow:
            self.parameter.grad.clamp_(max=0.0)
        self.optimiser.step()


def follow(targets: Iterable[nn.Module], sources: Iterable[nn.Module], tau: float) -> None:
    """Polyak averaging, parameter by parameter."""
    with torch.no_grad():
        for target, source in zip(targets, sources, strict=True):
            for slow, fast in zip(target.parameters(), source.parameters(), strict=True):
                slow.mul_(1.0 - tau).add_(tau * fast)
