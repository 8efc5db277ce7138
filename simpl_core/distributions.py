"""Diagonal Gaussians: the only distribution the papers use for skills `z` and task embeddings `e`."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


class DiagonalGaussian(NamedTuple):
    """N(mean, diag(scale^2)) over the last axis; `mean` and `scale` are (..., D), `scale` > 0."""

    mean: Tensor
    scale: Tensor

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """Reparameterised sample (..., D): mean + scale * noise, noise ~ N(0, I) unless given."""
        return self.mean + self.scale * (torch.randn_like(self.mean) if noise is None else noise)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of `value` (..., D), summed over D: (...)."""
        standardised = (value - self.mean) / self.scale
        return (-0.5 * standardised.square() - self.scale.log() - _HALF_LOG_2PI).sum(-1)

    def kl(self, other: DiagonalGaussian) -> Tensor:
        """KL(self || other), closed form, summed over D: (...)."""
        ratio = (self.scale / other.scale).square()
        distance = ((self.mean - other.mean) / other.scale).square()
        return 0.5 * (ratio + distance - 1.0 - ratio.log()).sum(-1)

    def to(self, device: torch.device | str) -> DiagonalGaussian:
        """The same distribution on `device`."""
        return DiagonalGaussian(self.mean.to(device), self.scale.to(device))

    def detach(self) -> DiagonalGaussian:
        """The same distribution, cut from the graph."""
        return DiagonalGaussian(self.mean.detach(), self.scale.detach())


def standard_normal_like(mean: Tensor) -> DiagonalGaussian:
    """N(0, I) of the shape, type and device of `mean` (..., D)."""
    return DiagonalGaussian(torch.zeros_like(mean), torch.ones_like(mean))


def inverse_softplus(value: Tensor) -> Tensor:
    """The x with softplus(x) = value > 0, stable for small and large values."""
    return value + torch.log(-torch.expm1(-value))
