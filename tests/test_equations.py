"""Reinforcement learning's equations against numbers worked out by hand, closed forms and finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from simpl_core import equations
from simpl_core.distributions import DiagonalGaussian


def test_soft_target_by_hand() -> None:
    # First row: twins 2 and 3, KL 1.5 below the clip: 1 + 0.9 (2 - 0.1 * 1.5) = 2.665.
    # Second: done, so the reward alone. Third: KL 50 clipped to 6: 0 + 0.9 (-1 - 0.5 * 6) = -3.6.
    target = equations.soft_target(
        rewards=torch.tensor([1.0, 4.0, 0.0]),
        dones=torch.tensor([0.0, 1.0, 0.0]),
        gamma=0.9,
        next_values=torch.tensor([[2.0, 9.0, -1.0], [3.0, 8.0, 5.0]]),
        next_kl=torch.tensor([1.5, 1.0, 50.0]),
        alpha=torch.tensor([0.1, 0.1, 0.5]),
        kl_clip=6.0,
    )
    torch.testing.assert_close(target, torch.tensor([2.665, 4.0, -3.6]))


def test_soft_target_is_finite_where_policy_equals_prior() -> None:
    zero = torch.zeros(1)
    target = equations.soft_target(zero, zero, 0.5, torch.full((2, 1), 4.0), zero, torch.ones(1), 20.0)
    assert target.item() == 2.0


def test_a_target_stays_below_its_ceiling() -> None:
    assert equations.bounded_target(torch.tensor([3.0, 0.5, -9.0]), torch.tensor(2.0)).tolist() == [2.0, 0.5, -9.0]


def test_returns_to_go_by_hand() -> None:
    # from the end: 1; 0 + 0.5 * 1; 2 + 0.5 * 0.5; 0 + 0.5 * 2.25
    assert equations.returns_to_go(torch.tensor([0.0, 2.0, 0.0, 1.0]), 0.5).tolist() == [1.125, 2.25, 0.5, 1.0]
    assert equations.returns_to_go(torch.tensor([0.0, 2.0]), 0.0).tolist() == [0.0, 2.0]


def test_critic_loss_averages_over_critics_and_batch() -> None:
    # errors 1, -1 and 2, 0: (1 + 1 + 4 + 0) / 4
    loss = equations.critic_loss(torch.tensor([[2.0, 0.0], [3.0, 1.0]]), torch.tensor([1.0, 1.0]))
    assert loss.item() == 1.5


def test_critic_loss_gradient_by_finite_differences() -> None:
    values = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    target = torch.randn(5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: equations.critic_loss(v, target), values)


def test_skill_policy_loss_by_hand() -> None:
    # (0.5 * 2 - min(1, 3)) = 0 and (0.1 * 10 - min(4, -2)) = 3, mean 1.5
    loss = equations.skill_policy_loss(
        torch.tensor([[1.0, 4.0], [3.0, -2.0]]), torch.tensor([2.0, 10.0]), torch.tensor([0.5, 0.1])
    )
    assert loss.item() == 1.5


def test_skill_policy_loss_gradient_through_sample_and_divergence() -> None:
    """The whole path from the policy's parameters, by finite differences: what the policy descends."""
    noise = torch.randn(4, 3, dtype=torch.float64)
    prior = DiagonalGaussian(torch.zeros(4, 3, dtype=torch.float64), torch.full((4, 3), 0.7, dtype=torch.float64))
    alpha = torch.tensor([0.3, 0.1, 0.2, 0.05], dtype=torch.float64)

    def loss(mean: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
        policy = DiagonalGaussian(mean, log_scale.exp())
        z = policy.sample(noise)
        values = torch.stack([z.square().sum(-1), z.sin().sum(-1) + 1.0])
        return equations.skill_policy_loss(values, policy.kl(prior), alpha)

    inputs = [torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(loss, inputs)


def test_imitation_loss_by_hand() -> None:
    # -(-2 * 0.5) and -(-7 * 0), mean 0.5; the advantage takes no gradient
    log_prob, advantage = torch.tensor([-2.0, -7.0]), torch.tensor([0.5, -3.0], requires_grad=True)
    log_prob.requires_grad_(True)
    loss = equations.imitation_loss(log_prob, advantage)
    loss.backward()
    assert loss.item() == 0.5
    assert advantage.grad is None and log_prob.grad is not None and log_prob.grad.tolist() == [-0.25, 0.0]


def test_policy_without_values_goes_back_to_the_prior() -> None:
    """With constant values the minimiser of Eq. 4 is the prior itself."""
    mean = torch.tensor([[2.0, -1.0]], requires_grad=True)
    log_scale = torch.tensor([[0.5, -0.5]], requires_grad=True)
    prior = DiagonalGaussian(torch.tensor([[0.3, 0.6]]), torch.tensor([[0.5, 1.5]]))
    optimiser = torch.optim.Adam([mean, log_scale], lr=0.05)
    for _ in range(600):
        optimiser.zero_grad()
        kl = DiagonalGaussian(mean, log_scale.exp()).kl(prior)
        equations.skill_policy_loss(torch.zeros(2, 1), kl, torch.ones(1)).backward()
        optimiser.step()
    torch.testing.assert_close(mean.detach(), prior.mean, atol=1e-3, rtol=0)
    torch.testing.assert_close(log_scale.exp().detach(), prior.scale, atol=1e-3, rtol=0)


def test_weighted_divergence_by_hand() -> None:
    assert equations.weighted_divergence(torch.tensor([2.0, 4.0]), torch.tensor([0.5, 0.25])).item() == 1.0


@pytest.mark.parametrize(("kl", "sign"), [(3.0, -1.0), (1.0, 1.0)])
def test_dual_loss_raises_the_weight_above_its_target_only(kl: float, sign: float) -> None:
    parameter = torch.tensor(0.2, requires_grad=True)
    divergence = torch.full((4,), kl, requires_grad=True)
    weight = torch.nn.functional.softplus(parameter)
    loss = equations.dual_loss(weight, 2.0, divergence)
    loss.backward()
    # d/dp softplus(p) (2 - kl) = sigmoid(p) (2 - kl); nothing reaches the divergence.
    assert parameter.grad.item() == pytest.approx(sign / (1 + math.exp(-0.2)))
    assert loss.item() == pytest.approx(sign * math.log1p(math.exp(0.2)))
    assert divergence.grad is None
