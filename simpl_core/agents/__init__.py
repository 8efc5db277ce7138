"""One file, one flat class per algorithm, all with the same verbs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from simpl_core.distributions import DiagonalGaussian


class Agent(Protocol):
    """What every algorithm offers; how experience enters differs between one task and many."""

    def act(self, state: Tensor, e: Tensor, prior: DiagonalGaussian) -> DiagonalGaussian:
        """pi(z | s, e): `state` (B, S), `e` (B, E), p(z | s) -> Gaussian over z (B, Z), without gradient."""

    def update(self, steps: int) -> dict[str, float]:
        """`steps` gradient steps on the experience so far; returns metrics averaged over them."""

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that learning on needs, as flat named tensors."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict`'s answer, bit for bit."""
