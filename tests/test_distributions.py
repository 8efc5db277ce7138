"""Diagonal Gaussians against PyTorch's own distributions and against sampling."""

import torch
from torch.distributions import Independent, Normal, kl_divergence

from simpl_core.distributions import DiagonalGaussian, inverse_softplus, standard_normal_like


def gaussian(seed: int) -> DiagonalGaussian:
    generator = torch.Generator().manual_seed(seed)
    return DiagonalGaussian(torch.randn(4, 3, generator=generator), torch.rand(4, 3, generator=generator) + 0.1)


def reference(distribution: DiagonalGaussian) -> Independent:
    return Independent(Normal(distribution.mean, distribution.scale), 1)


def test_log_prob_and_kl_agree_with_torch() -> None:
    a, b = gaussian(0), gaussian(1)
    torch.testing.assert_close(a.log_prob(b.mean), reference(a).log_prob(b.mean))
    torch.testing.assert_close(a.kl(b), kl_divergence(reference(a), reference(b)))


def test_kl_by_hand() -> None:
    narrow = DiagonalGaussian(torch.tensor([[1.0]]), torch.tensor([[0.5]]))
    # 1/2 (0.25 + 1 - 1 - ln 0.25) against N(0, 1)
    expected = 0.5 * (0.25 + 1.0 - 1.0 + 1.3862943611)
    torch.testing.assert_close(narrow.kl(standard_normal_like(narrow.mean)), torch.tensor([expected]))


def test_sample_is_reparameterised() -> None:
    mean = torch.zeros(2, 3, requires_grad=True)
    scale = torch.ones(2, 3, requires_grad=True)
    noise = torch.full((2, 3), 2.0)
    DiagonalGaussian(mean, scale).sample(noise).sum().backward()
    torch.testing.assert_close(mean.grad, torch.ones(2, 3))
    torch.testing.assert_close(scale.grad, noise)


def test_inverse_softplus_is_an_inverse_for_small_and_large_values() -> None:
    values = torch.tensor([1e-4, 1e-2, 0.5, 3.0, 40.0], dtype=torch.float64)
    torch.testing.assert_close(torch.nn.functional.softplus(inverse_softplus(values)), values)
