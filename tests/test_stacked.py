"""Stacked MLPs compute what the modules compute one after the other, and their saved states are the modules'."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from simpl_core.learner import adam, load_optimiser_tensors, optimiser_tensors
from simpl_core.networks import MLP, CriticEnsemble
from simpl_core.stacked import (
    Stack,
    StackedMLP,
    critic_stack,
    load_stacked_optimiser_tensors,
    stacked_optimiser_tensors,
)

STATE, E, Z, ROWS = 5, 3, 2, 17


def two() -> tuple[CriticEnsemble, CriticEnsemble, Stack]:
    """Critics, the same again, and the stack of the latter."""
    torch.manual_seed(0)
    plain = CriticEnsemble(STATE, Z, E, 16, 3, count=3)
    stacked = copy.deepcopy(plain)
    return plain, stacked, critic_stack(stacked)


def inputs(seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state, e, z = (torch.randn(ROWS, size, generator=generator) for size in (STATE, E, Z))
    return state, e, z.requires_grad_(True)


def test_values_and_gradients_are_those_of_the_modules() -> None:
    plain, stacked, stack = two()
    (state, e, z), (*_, other_z) = inputs(), inputs()
    wanted, values = plain(state, e, z), stack(state, e, other_z).squeeze(-1)
    torch.testing.assert_close(values, wanted)
    torch.testing.assert_close(stacked(state, e, other_z), wanted)
    weighted = torch.arange(wanted.numel(), dtype=torch.float32).view_as(wanted).sin()
    (wanted * weighted).sum().backward()
    (values * weighted).sum().backward()
    torch.testing.assert_close(other_z.grad, z.grad)
    for ours, theirs in zip(stacked.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_second_gradient_takes_the_place_of_the_first_without_a_copy() -> None:
    _, _, stack = two()
    state, e, z = inputs()
    for factor in (1.0, 2.0):
        stack.weights.grad = None
        (factor * stack(state, e, z).sum()).backward()
        assert stack.weights.grad is not None and stack.weights.grad.data_ptr() == stack.gradient.data_ptr()
    found = stack.gradient.clone()
    stack.weights.grad = None
    stack(state, e, z).sum().backward()
    torch.testing.assert_close(found, 2.0 * stack.gradient)


def test_weights_that_are_not_to_learn_get_no_gradient() -> None:
    _, _, stack = two()
    state, e, z = inputs()
    stack(state, e, z, learn=False).sum().backward()
    assert z.grad is not None and stack.weights.grad is None and not stack.gradient.any()


def test_the_modules_show_what_the_stack_learns_and_the_other_way_round() -> None:
    plain, stacked, stack = two()
    shapes = {name: tensor.shape for name, tensor in plain.state_dict().items()}
    assert {name: tensor.shape for name, tensor in stacked.state_dict().items()} == shapes
    with torch.no_grad():
        stack.weights.mul_(2.0)
    for ours, theirs in zip(stacked.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, 2.0 * theirs)
    stacked.load_state_dict(plain.state_dict())
    torch.testing.assert_close(stack(*inputs()).squeeze(-1), plain(*inputs()))
    torch.testing.assert_close(stack.join(list(plain.parameters())), stack.weights.detach())


def test_adam_and_its_saved_state_are_those_of_the_modules() -> None:
    plain, stacked, stack = two()
    apart, together = adam(plain.parameters(), 1e-2), adam([stack.weights], 1e-2)

    def step(seed: int) -> None:
        for optimiser, ask in ((apart, plain), (together, stack)):
            optimiser.zero_grad()
            ask(*inputs(seed)).square().mean().backward()
            optimiser.step()

    assert stacked_optimiser_tensors(together, stack) == {}
    load_stacked_optimiser_tensors(together, stack, {})
    for seed in range(3):
        step(seed)
    wanted, found = optimiser_tensors(apart), stacked_optimiser_tensors(together, stack)
    assert wanted.keys() == found.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor)
    load_stacked_optimiser_tensors(together, stack, wanted)  # as saved before there were stacks
    load_optimiser_tensors(apart, found)
    step(3)
    for ours, theirs in zip(stacked.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_targets_follow() -> None:
    _, _, stack = two()
    torch.manual_seed(1)
    target = critic_stack(CriticEnsemble(STATE, Z, E, 16, 3, count=3))
    wanted = 0.9 * target.weights.detach() + 0.1 * stack.weights.detach()
    target.follow(stack, 0.1)
    torch.testing.assert_close(target.weights.detach(), wanted)


@pytest.mark.parametrize("rows", [1, 2, 64])
def test_a_stacked_mlp_is_the_mlp(rows: int) -> None:
    torch.manual_seed(0)
    plain = MLP(STATE, 16, 2, 4)
    stacked, x = StackedMLP(copy.deepcopy(plain)), torch.randn(rows, STATE)
    torch.testing.assert_close(stacked(x), plain(x))
    assert stacked.state_dict().keys() == plain.state_dict().keys()


def test_a_deep_copy_is_a_plain_mlp_that_computes_in_whatever_it_is_turned_into() -> None:
    """As the export of a fine-tuned policy does, which compares a graph with what its weights mean in float64."""
    torch.manual_seed(0)
    stacked, x = StackedMLP(MLP(STATE, 16, 2, 4)), torch.randn(ROWS, STATE)
    copied, wanted = copy.deepcopy(stacked).double(), stacked(x).detach()
    torch.testing.assert_close(copied(x.double()).float(), wanted)
    with torch.no_grad():
        stacked.stack.weights.zero_()
    torch.testing.assert_close(copied(x.double()).float(), wanted)
    assert not stacked(x).any()
