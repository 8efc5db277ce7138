"""MLPs of the same sizes computed as one: a small gradient step spends most of its time on calls, not on arithmetic.

All their weights lie in one vector. The modules' parameters are views into it, so that names and shapes in saved states
stay what they are, and Adam and target averaging are one call. Forward and backward are one node of autograd.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from simpl_core.learner import load_optimiser_tensors, optimiser_tensors
from simpl_core.networks import MLP, CriticEnsemble


class Stack:
    """MLPs that are asked together, in products of three dimensions (which of them, row, feature).

    A backward pass overwrites the last one's gradient instead of adding to it.

    Attributes:
        count: of MLPs.
        weights: of all, (N,); what an optimiser is given.
        gradient: of the last loss in `weights`, (N,); the modules' parameters have views of it as theirs.
    """

    def __init__(self, mlps: Sequence[MLP]) -> None:
        """Move the parameters of `mlps`, which have the same sizes, into one vector; they become views into it."""
        self.count = len(mlps)
        self._shapes = [tuple(layer.weight.shape) for layer in mlps[0] if isinstance(layer, nn.Linear)]
        parameters = [parameter for mlp in mlps for parameter in mlp.parameters()]
        self.weights = nn.Parameter(nn.utils.parameters_to_vector(parameters).detach())
        self.gradient = torch.zeros_like(self.weights.detach())
        self.layers, self.gradients = self._layers(self.weights.detach()), self._layers(self.gradient)
        for parameter, own, slope in zip(parameters, self.split(self.weights), self.split(self.gradient), strict=True):
            parameter.data = own.copy_(parameter.detach())
            parameter.grad = slope

    def __call__(self, *parts: Tensor, learn: bool = True) -> Tensor:
        """Ask all for rows of `parts` (B, ...) side by side -> (count, B, out).

        Gradients reach the last part, and the weights if they are to `learn`; never the other parts.
        """
        weights = self.weights if learn else self.weights.detach()
        answers: Tensor = _Chain.apply(weights, parts[-1], parts[:-1], self)  # type: ignore[no-untyped-call]
        return answers

    @torch.no_grad()
    def follow(self, others: Stack, tau: float) -> None:
        """Polyak averaging, weights <- (1 - tau) weights + tau those of `others`."""
        self.weights.lerp_(others.weights, tau)

    def split(self, vector: Tensor) -> list[Tensor]:
        """Views into `vector`, which is laid out as the weights are, in order and shapes of the modules' parameters."""
        layers = self._layers(vector.detach())
        return [part for i in range(self.count) for weight, bias in layers for part in (weight[i], bias[i, 0])]

    @torch.no_grad()
    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The vector of which `split` makes `parts`."""
        vector = torch.empty_like(self.weights.detach())
        for view, part in zip(self.split(vector), parts, strict=True):
            view.copy_(part)
        return vector

    def _layers(self, vector: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Views of weights (count, out, in) and biases (count, 1, out) of each layer."""
        sizes = [self.count * size for out, width in self._shapes for size in (out * width, out)]
        parts = iter(torch.split(vector, sizes))
        shaped = ((self.count, out, width) for out, width in self._shapes)
        return [(next(parts).view(shape), next(parts).view(shape[0], 1, shape[1])) for shape in shaped]


class _Chain(torch.autograd.Function):
    """Linear layers with ReLU between them."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, last: Tensor, others: tuple[Tensor, ...], stack: Stack) -> Tensor:
        del weights  # is what `stack.layers` show; given so that autograd knows who learns
        x = torch.cat([*others, last], dim=-1).expand(stack.count, -1, -1)
        seen: list[Tensor] = []
        for weight, bias in stack.layers:
            if seen:
                x = x.relu_()
            seen.append(x)
            x = torch.baddbmm(bias, x, weight.mT)
        ctx.stack, ctx.seen, ctx.width = stack, seen, last.shape[-1]
        return x

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        stack, (learns, asked, *_) = ctx.stack, ctx.needs_input_grad
        for depth in reversed(range(len(ctx.seen))):
            x, weight = ctx.seen[depth], stack.layers[depth][0]
            if learns:
                torch.bmm(slope.mT, x, out=stack.gradients[depth][0])
                torch.sum(slope, 1, keepdim=True, out=stack.gradients[depth][1])
            if depth > 0:
                slope = torch.bmm(slope, weight)
                torch.ops.aten.threshold_backward.grad_input(slope, x, 0, grad_input=slope)
        to_last = torch.bmm(slope, weight[..., -ctx.width :]).sum(0) if asked else None
        # Another name for the same memory: autograd keeps what nobody else holds, and would copy what somebody does.
        return stack.gradient.detach() if learns else None, to_last, None, None


def critic_stack(critics: CriticEnsemble) -> Stack:
    """The critics as one; asked for (state, e, z) it says values (count, B, 1)."""
    return Stack([cast(MLP, critic) for critic in critics.critics])


class StackedMLP(MLP):
    """An MLP computed as a stack of one. A deep copy of it is a plain MLP, whose kind and device may be changed."""

    def __init__(self, mlp: MLP) -> None:
        """Take over the layers of `mlp`."""
        nn.Sequential.__init__(self, *mlp)
        self.stack = Stack([self])

    def forward(self, x: Tensor) -> Tensor:
        """`x` (B, in) -> (B, out)."""
        return self.stack(x).squeeze(0)

    def __deepcopy__(self, memo: dict[int, Any]) -> MLP:
        """Copies of the views would share no memory with a copy of the stack, which is what is computed with."""
        copied = MLP.__new__(MLP)
        nn.Sequential.__init__(copied, *(copy.deepcopy(layer, memo) for layer in self))
        copied.train(self.training)
        return copied


def stacked_optimiser_tensors(optimiser: torch.optim.Optimizer, stack: Stack) -> dict[str, Tensor]:
    """State of an Adam on the stack's weights, under the names it has in an Adam on the modules' parameters."""
    tensors: dict[str, Tensor] = {}
    for key, tensor in optimiser_tensors(optimiser).items():
        name = key.removeprefix("0.")
        parts = stack.split(tensor) if tensor.dim() else [tensor] * len(stack.split(stack.weights))
        tensors |= {f"{index}.{name}": part.clone() for index, part in enumerate(parts)}
    return tensors


def load_stacked_optimiser_tensors(
    optimiser: torch.optim.Optimizer, stack: Stack, tensors: Mapping[str, Tensor]
) -> None:
    """The inverse of `stacked_optimiser_tensors`."""
    whole = {}
    for name in {key.split(".", 1)[1] for key in tensors}:
        parts = [tensors[f"{index}.{name}"] for index in range(len(stack.split(stack.weights)))]
        whole[f"0.{name}"] = stack.join(parts) if parts[0].dim() else parts[0]  # all have taken the same steps
    load_optimiser_tensors(optimiser, whole)
