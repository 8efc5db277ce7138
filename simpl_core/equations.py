"""Every equation of the papers, once, as a pure tensor function.

Symbols are the papers': `s` state, `a` action, `z` skill, `e` task embedding, `p` skill prior, `pi` skill policy.
EQUATIONS.md maps paper -> function -> test.
"""

from __future__ import annotations

import torch
from torch import Tensor

from simpl_core.distributions import DiagonalGaussian, standard_normal_like

# --- Phase 1: skills -------------------------------------------------------------------------------------------------


def skill_reconstruction(actions: Tensor, predicted: Tensor) -> Tensor:
    """-log pi(a | s, z) of Eq. 3 (SiMPL) for a Gaussian decoder of unit variance, without its constant.

    1/2 (a - a')^2, averaged over batch, time and action. Both arguments (..., A); returns a scalar.
    """
    return 0.5 * (actions - predicted).square().mean()


def skill_regularisation(posterior: DiagonalGaussian) -> Tensor:
    """KL(q(z | s, a) || N(0, I)) of Eq. 3 (SiMPL), averaged over batch and over z. `posterior` (B, Z); a scalar."""
    return posterior.kl(standard_normal_like(posterior.mean)).mean() / posterior.mean.shape[-1]


def prior_negative_log_likelihood(prior: DiagonalGaussian, z: Tensor) -> Tensor:
    """-log p(z | s) with z ~ q detached: SPiRL's code for fitting the prior; equal to KL(q || p) up to H(q).

    `prior` and `z` (B, Z); a scalar. No gradient reaches the skill encoder.
    """
    return -prior.log_prob(z.detach()).mean()


def prior_divergence(posterior: DiagonalGaussian, prior: DiagonalGaussian) -> Tensor:
    """KL([q(z | s, a)] || p(z | s)), [.] cuts the gradient: the prior's objective in SiMPL Sec. 4.1. A scalar."""
    return posterior.detach().kl(prior).mean()


# --- Phases 2 and 3: reinforcement learning over skills --------------------------------------------------------------


def soft_target(
    rewards: Tensor, dones: Tensor, gamma: float, next_values: Tensor, next_kl: Tensor, alpha: Tensor, kl_clip: float
) -> Tensor:
    """Target of the critics for the objective of Eq. 4 (SiMPL); SPiRL Alg. 1.

    y = r + (1 - d) gamma [min_i Q_i(s', e, z') - alpha min(KL(pi(. | s', e) || p(. | s')), kl_clip)]

    `rewards`, `dones`, `next_kl`, `alpha` (B,), `next_values` (count, B) of the target critics; returns (B,). A
    time-out is not done. The published code clips by kl / kl * clip, which is NaN where the divergence is 0.
    """
    soft_values = next_values.amin(0) - alpha * next_kl.clamp(max=kl_clip)
    return rewards + (1.0 - dones) * gamma * soft_values


def bounded_target(target: Tensor, best_return: Tensor) -> Tensor:
    """min(y, max_k G_k): targets (B,) kept to the range of returns (Andrychowicz et al. 2017, Sec. 4.1).

    An error of Q that the policy finds and the target repeats grows no further than the best return, a scalar or (B,).
    """
    return target.clamp(max=best_return)


def returns_to_go(rewards: Tensor, gamma: float) -> Tensor:
    """G_k = r_k + gamma G_(k+1): what the episode with `rewards` (K,) still earned from each step on; (K,)."""
    earned, following = [], 0.0
    for reward in reversed(rewards.tolist()):
        following = reward + gamma * following
        earned.append(following)
    return torch.tensor(earned[::-1], dtype=rewards.dtype)


def critic_loss(values: Tensor, target: Tensor) -> Tensor:
    """Squared Bellman error, averaged over batch and critics (SiMPL appendix E.2).

    `values` (count, B), `target` (B,) without gradient; a scalar.
    """
    return (values - target).square().mean()


def skill_policy_loss(values: Tensor, kl: Tensor, alpha: Tensor) -> Tensor:
    """The negative of Eq. 4 and 5 (SiMPL) for z ~ pi: mean of alpha KL(pi || p) - min_i Q_i(s, e, z).

    `values` (count, B), `kl` and `alpha` (B,); a scalar.
    """
    return (alpha * kl - values.amin(0)).mean()


def imitation_loss(log_prob: Tensor, advantage: Tensor) -> Tensor:
    """Self-imitation (Oh et al. 2018, Eq. 2, on Q): mean of -log pi(z | s, e) max(advantage, 0), z of the replay.

    A policy that follows the gradient of Q from its own samples does not reach skills far from them; those that once
    did better than it does pull it over. `log_prob` and `advantage` (B,), the latter Q(s, e, z) - Q(s, e, z'), z' ~ pi,
    taken without gradient; a scalar.
    """
    return -(log_prob * advantage.detach().clamp(min=0.0)).mean()


def weighted_divergence(kl: Tensor, weight: Tensor) -> Tensor:
    """Information bottleneck of the task encoder (PEARL Eq. 1): mean of weight KL(q(e | c) || N(0, I)).

    `kl` and `weight` (B,), one a context; a scalar.
    """
    return (weight * kl).mean()


def dual_loss(weight: Tensor, target: float, kl: Tensor) -> Tensor:
    """Dual descent for a weight of a divergence with target `target` (SiMPL Sec. 4.2; SPiRL Alg. 1).

    Mean of weight (target - [kl]): its gradient raises the weight while the divergence exceeds the target.
    `weight` broadcasts to `kl` (B,); a scalar.
    """
    return (weight * (target - kl.detach())).mean()
