"""What every agent's update is made of: optimiser steps, target networks, dual variables, state as flat tensors."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from simpl_core import equations
from simpl_core.config import Precision
from simpl_core.distributions import inverse_softplus
from simpl_core.errors import ConfigError


def adam(parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Adam:
    """Adam with one fused kernel a step."""
    return torch.optim.Adam(list(parameters), lr=rate, fused=True)


def arithmetic(precision: Precision, device: torch.device | str) -> torch.autocast:
    """Networks asked within compute with `precision` between their first and last layers; their weights are float32."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16")


def descend(loss: Tensor, *optimisers: torch.optim.Optimizer) -> None:
    """One step of each optimiser down the gradient of `loss`; no gradient is worked out for any other weight."""
    parameters = [weight for optimiser in optimisers for group in optimiser.param_groups for weight in group["params"]]
    for optimiser in optimisers:
        optimiser.zero_grad()
    loss.backward(inputs=parameters)  # type: ignore[no-untyped-call]
    for optimiser in optimisers:
        optimiser.step()


@torch.no_grad()
def move_targets(targets: nn.Module, sources: nn.Module, tau: float) -> None:
    """Polyak averaging, target <- (1 - tau) target + tau source, of all parameters at once."""
    torch._foreach_lerp_(list(targets.parameters()), list(sources.parameters()), tau)


class DualWeights:
    """Weights softplus(p) of divergences, moved by dual descent with an Adam of their own."""

    def __init__(
        self,
        initial: float,
        target: float,
        rate: float,
        *,
        count: int = 1,
        only_grow: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        """`count` weights that start at `initial` and have the same target divergence `target` [nat]."""
        start = inverse_softplus(torch.full((count,), float(initial), dtype=torch.float64))
        self._parameters = nn.Parameter(start.float().to(device))
        self._target, self._only_grow = target, only_grow
        self._optimiser = adam([self._parameters], rate)

    @property
    def values(self) -> Tensor:
        """The weights (count,), without gradient."""
        return functional.softplus(self._parameters.detach())

    def update(self, kl: Tensor, which: Tensor | None = None) -> None:
        """One step on divergences `kl` (B,); `which` (B,) says whose they are where there are several weights."""
        weights = functional.softplus(self._parameters)
        self._optimiser.zero_grad()
        loss = equations.dual_loss(weights if which is None else weights[which], self._target, kl)
        loss.backward()  # type: ignore[no-untyped-call]
        if self._only_grow and self._parameters.grad is not None:
            self._parameters.grad.clamp_(max=0.0)
        self._optimiser.step()

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and Adam's moments."""
        return {"parameters": self._parameters.detach().clone(), **prefixed("adam", optimiser_tensors(self._optimiser))}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict`'s answer."""
        with torch.no_grad():
            self._parameters.copy_(state["parameters"])
        load_optimiser_tensors(self._optimiser, part("adam", state))


def prefixed(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` under `<name>.<key>`."""
    return {f"{name}.{key}": tensor for key, tensor in tensors.items()}


def part(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of `tensors` under `<name>.`, without that prefix."""
    return {key[len(name) + 1 :]: tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}


def network_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Copies of a network's tensors, so that training on does not change them."""
    return {key: tensor.detach().clone() for key, tensor in network.state_dict().items()}


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Copies of an optimiser's moments and step counts as `<parameter index>.<name>`."""
    state = optimiser.state_dict()["state"]
    return {f"{index}.{name}": tensor.detach().clone() for index, own in state.items() for name, tensor in own.items()}


def load_optimiser_tensors(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `optimiser_tensors`; rates and the like stay as the optimiser was built with."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor.clone()
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def mean_metrics(history: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Averages over steps; tensors are read only here, so a step never waits for its own metrics."""
    if not history:
        return {}
    return {name: float(torch.stack([step[name] for step in history]).mean()) for name in history[0]}


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """`count` intra-op threads within the block.

    Rollouts take one: the physics has threads of its own, which waiting OpenMP threads would rob, and with one
    thread a row's result does not depend on how many rows are computed with it.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def use_device(name: str) -> str:
    """The device `name` (cpu, cuda, cuda:1), made to compute in full precision, as a processor does.

    Raises:
        ConfigError: it is not there; the message says what is.
    """
    there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if name not in there and not (name == "cuda" and len(there) > 1):
        why = "" if torch.version.cuda else f"; this PyTorch, {torch.__version__}, is built without CUDA"
        raise ConfigError(f"no device {name!r} here; there is {', '.join(there)}{why}")
    torch.backends.cudnn.allow_tf32 = False  # PyTorch's default for LSTMs, unlike for matrix products
    return name


def keep_freed_memory() -> None:
    """Ask glibc to keep freed memory: large activations else go back to the kernel and fault in anew each step."""
    if not sys.platform.startswith("linux"):
        return
    m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)
