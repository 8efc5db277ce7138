"""Every network of the papers: MLPs, the skill model of SPiRL, the set transformer of SiMPL, the critics.

Sizes come from the configuration; nothing here knows a task, a simulator or an optimiser.
`z` is a skill, `e` a task embedding, `s` a state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from simpl_core.distributions import DiagonalGaussian, inverse_softplus

MIN_SCALE = 1e-3
LOG_SCALE_RANGE = (-10.0, 2.0)
# softplus(UNIT_SCALE_OFFSET) = 1, so that a fresh task encoder answers with a scale near 1 (SiMPL's code).
UNIT_SCALE_OFFSET = math.log(math.expm1(1.0))


def in_single_precision(module: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """`module(*inputs)` in float32, also within an autocast that lowers the precision of what is around it."""
    kind = inputs[0].device.type
    if not torch.is_autocast_enabled(kind):
        return module(*inputs)
    with torch.autocast(kind, enabled=False):
        return module(*(x.float() for x in inputs))


class MLP(nn.Sequential):
    """`layers` hidden layers of `hidden` ReLU units, then a linear output."""

    def __init__(self, in_dim: int, hidden: int, layers: int, out_dim: int) -> None:
        """Linear layers with PyTorch's default initialisation."""
        widths = [in_dim] + [hidden] * layers
        modules: list[nn.Module] = []
        for width, following in pairwise(widths):
            modules += [nn.Linear(width, following), nn.ReLU()]
        super().__init__(*modules, nn.Linear(widths[-1], out_dim))

    @property
    def first(self) -> nn.Linear:
        """The layer that reads the input."""
        return cast(nn.Linear, self[0])

    def forward(self, x: Tensor) -> Tensor:
        """`x` (..., in_dim) -> (..., out_dim); see `_between`."""
        return _between(self, x)


class SkillMLP(nn.Sequential):
    """SPiRL's predictor: Linear, LeakyReLU, `middle` x [Linear without bias, BatchNorm, LeakyReLU], Linear."""

    def __init__(self, in_dim: int, hidden: int, middle: int, out_dim: int) -> None:
        """LeakyReLU slope 0.2 throughout (SPiRL's code)."""
        modules: list[nn.Module] = [nn.Linear(in_dim, hidden), nn.LeakyReLU(0.2)]
        for _ in range(middle):
            modules += [nn.Linear(hidden, hidden, bias=False), nn.BatchNorm1d(hidden), nn.LeakyReLU(0.2)]
        super().__init__(*modules, nn.Linear(hidden, out_dim))

    def forward(self, x: Tensor) -> Tensor:
        """`x` (B, in_dim) -> (B, out_dim); see `_between`."""
        return _between(self, x)

    def direct(self) -> Callable[[Tensor], Tensor]:
        """The same in evaluation mode, bit for bit, as a chain of functions with the weights of this moment.

        Modules that call modules, each working out anew what does not change, take more time than the arithmetic of
        a few rows.
        """
        steps = [_direct(layer) for layer in self]

        def answer(x: Tensor) -> Tensor:
            for step in steps:
                x = step(x)
            return x

        return answer


@torch.no_grad()
def _direct(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """A layer in evaluation mode as one call without gradient; what follows a Linear one overwrites its answer."""
    if isinstance(layer, nn.Linear):
        weight, bias = layer.weight.t().contiguous(), cast(Tensor | None, layer.bias)
        if bias is None:
            return lambda x: torch.mm(x, weight)
        offset = bias.clone()
        return lambda x: torch.addmm(offset, x, weight)
    if isinstance(layer, nn.BatchNorm1d):
        alone = partial(functional.batch_norm, running_var=layer.running_var, weight=layer.weight, eps=layer.eps)
        zeros = torch.zeros(1, layer.num_features)
        offset = alone(zeros, layer.running_mean, bias=layer.bias)
        factor = alone(zeros + 1.0, zeros[0])
        return lambda x: torch.addcmul(offset, x, factor, out=x)
    slope = cast(nn.LeakyReLU, layer).negative_slope
    return lambda x: functional.leaky_relu(x, slope, inplace=True)


def _between(layers: nn.Sequential, x: Tensor) -> Tensor:
    """The layers one after the other; the first and the last stay in single precision where autocast lowers the others.

    The first reads states, whose coordinates 8 bits would round to centimetres, the last says values and means.
    """
    ends = {0, len(layers) - 1}  # one and the same where nothing is hidden
    for index, layer in enumerate(layers):
        x = in_single_precision(layer, x) if index in ends else layer(x)
    return x


class SkillEncoder(nn.Module):
    """q(z | s_0:H, a_0:H-1): per-step linear layer, LSTM, Gaussian head on the last output (SPiRL Sec. 3.2)."""

    def __init__(self, state_dim: int, action_dim: int, z_dim: int, hidden: int) -> None:
        """Sizes of state, action, skill and hidden layer."""
        super().__init__()
        self.embed = nn.Linear(action_dim + state_dim, hidden)
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 2 * z_dim)

    def forward(self, states: Tensor, actions: Tensor) -> DiagonalGaussian:
        """`states` (B, H, S), `actions` (B, H, A) -> Gaussian over z (B, Z)."""
        outputs, _ = self.lstm(in_single_precision(self.embed, torch.cat([actions, states], dim=-1)))
        return clamped_gaussian(in_single_precision(self.head, outputs[:, -1]))


class SkillDecoder(nn.Module):
    """Closed-loop low-level policy pi(a | s, z), run at every control step (SiMPL Sec. 4.1); deterministic."""

    def __init__(self, state_dim: int, action_dim: int, z_dim: int, hidden: int, middle: int = 5) -> None:
        """Sizes of state, action, skill; width and number of the middle layers."""
        super().__init__()
        self.net = SkillMLP(state_dim + z_dim, hidden, middle, action_dim)

    def forward(self, state: Tensor, z: Tensor) -> Tensor:
        """`state` (B, S), `z` (B, Z) -> action (B, A), not squashed; whoever executes it clips to [-1, 1]."""
        action: Tensor = self.net(torch.cat([state, z], dim=-1))
        return action

    def decode(self, states: Tensor, z: Tensor) -> Tensor:
        """Actions (B, T, A) of skill `z` (B, Z) in each of `states` (B, T, S)."""
        steps = states.shape[1]
        actions: Tensor = self(states.flatten(0, 1), z.repeat_interleave(steps, 0))
        return actions.view(-1, steps, actions.shape[-1])


class OpenLoopDecoder(nn.Module):
    """SPiRL's first kind of decoder (Sec. 3.2): an LSTM unrolled on z says all H actions, whatever the states become.

    z enters at every step; SPiRL's code also feeds the last action back, which the LSTM's own output carries here.
    """

    def __init__(self, action_dim: int, z_dim: int, hidden: int, horizon: int) -> None:
        """Sizes of action and skill; width; H."""
        super().__init__()
        self.horizon = horizon
        self.embed = nn.Linear(z_dim, hidden)
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True)
        self.head = nn.Linear(hidden, action_dim)

    def forward(self, z: Tensor) -> Tensor:
        """`z` (B, Z) -> actions (B, H, A), not squashed."""
        embedded = in_single_precision(self.embed, z)
        outputs, _ = self.lstm(embedded.unsqueeze(1).expand(-1, self.horizon, -1))
        return in_single_precision(self.head, outputs)

    def decode(self, states: Tensor, z: Tensor) -> Tensor:
        """All actions (B, H, A) of skill `z` (B, Z); `states` (B, T, S) are not looked at."""
        del states
        actions: Tensor = self(z)
        return actions


Decoder: TypeAlias = SkillDecoder | OpenLoopDecoder
"""Both offer `decode`: given one state it says the actions until the next look at one, 1 (closed loop) or H (open)."""


class SkillPrior(nn.Module):
    """p(z | s): which skills the demonstrations use in a state (SPiRL Sec. 3.2)."""

    def __init__(self, state_dim: int, z_dim: int, hidden: int, middle: int = 6) -> None:
        """Sizes of state and skill; width and number of the middle layers."""
        super().__init__()
        self.state_dim, self.z_dim = state_dim, z_dim
        self.net = SkillMLP(state_dim, hidden, middle, 2 * z_dim)

    def forward(self, state: Tensor) -> DiagonalGaussian:
        """`state` (B, S) -> Gaussian over z (B, Z)."""
        return clamped_gaussian(self.net(state))

    def direct(self) -> Callable[[Tensor], DiagonalGaussian]:
        """The same in evaluation mode, bit for bit, with the weights of this moment (see `SkillMLP.direct`)."""
        answer = self.net.direct()
        return lambda state: clamped_gaussian(answer(state))


class SkillPolicy(nn.Module):
    """pi(z | s, e): a residual to the frozen skill prior (SiMPL appendix E.1.3).

    mean = mu_p(s) + f_mu(s, e); scale = 0.001 + softplus(softplus^-1(sigma_p(s)) + f_sigma(s, e)).
    """

    def __init__(self, prior: SkillPrior, state_dim: int, z_dim: int, e_dim: int, hidden: int, layers: int) -> None:
        """`prior` is kept frozen and in evaluation mode; `e_dim` 0 gives SPiRL's unconditioned policy."""
        super().__init__()
        self.e_dim = e_dim
        self.prior = prior.requires_grad_(False).eval()
        self.residual = MLP(state_dim + e_dim, hidden, layers, 2 * z_dim)

    def train(self, mode: bool = True) -> SkillPolicy:
        """Training mode for the residual only: the prior's BatchNorm statistics stay as they are."""
        super().train(mode)
        self.prior.eval()
        return self

    def forward(self, state: Tensor, e: Tensor) -> DiagonalGaussian:
        """`state` (B, S), `e` (B, E) -> Gaussian over z (B, Z)."""
        return self.with_prior(state, e, self.prior(state))

    def with_prior(self, state: Tensor, e: Tensor, prior: DiagonalGaussian) -> DiagonalGaussian:
        """The same with the prior's answer at `state` at hand (it never changes, so it can be stored)."""
        mean, scale = self.residual(torch.cat([state, e], dim=-1)).chunk(2, dim=-1)
        return DiagonalGaussian(
            prior.mean + mean, MIN_SCALE + functional.softplus(inverse_softplus(prior.scale) + scale)
        )


class CriticEnsemble(nn.Module):
    """Q_i(s, e, z), i = 1..count, independent MLPs."""

    def __init__(self, state_dim: int, z_dim: int, e_dim: int, hidden: int, layers: int, count: int = 2) -> None:
        """Sizes of state, skill, embedding; width and number of hidden layers; number of critics."""
        super().__init__()
        self.critics = nn.ModuleList(MLP(state_dim + e_dim + z_dim, hidden, layers, 1) for _ in range(count))

    def forward(self, state: Tensor, e: Tensor, z: Tensor) -> Tensor:
        """`state` (B, S), `e` (B, E), `z` (B, Z) -> values (count, B)."""
        inputs = torch.cat([state, e, z], dim=-1)
        return torch.stack([critic(inputs).squeeze(-1) for critic in self.critics])


class Attention(nn.Module):
    """MAB(Q, K): multi-head attention with projected residual, then a residual ReLU layer; no LayerNorm.

    The softmax temperature is sqrt(dim), not sqrt(dim / heads), as in SiMPL's code.
    """

    def __init__(self, query_dim: int, key_dim: int, dim: int, heads: int) -> None:
        """Sizes of queries, keys and output; number of heads."""
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(query_dim, dim)
        self.key = nn.Linear(key_dim, dim)
        self.value = nn.Linear(key_dim, dim)
        self.output = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """`queries` (B, M, Dq) attend to `keys` (B, N, Dk) -> (B, M, dim)."""
        projected = self.query(queries)
        query, key, value = (self._split(x) for x in (projected, self.key(keys), self.value(keys)))
        mixed = functional.scaled_dot_product_attention(query, key, value, scale=1.0 / math.sqrt(projected.shape[-1]))
        return self._finish(projected + mixed.transpose(1, 2).flatten(2))

    def summarise(self, queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        """A few learned `queries` (M, Dq), the same for every set, attend to many `keys` (B, N, Dk) -> (B, M, dim).

        Key and value maps are folded into the queries, so no (B, N, dim) projection is made; a key's bias shifts
        all scores of a query alike and drops out of the softmax. `mask` (B, N): True where a key counts.
        """
        projected = self.query(queries)  # (M, dim)
        count, dim = projected.shape
        query = projected.view(count, self.heads, -1).transpose(0, 1)  # (h, M, d)
        folded = query @ self.key.weight.view(self.heads, dim // self.heads, -1)  # (h, M, Dk)
        scores = folded.flatten(0, 1) @ keys.transpose(1, 2) / math.sqrt(dim)  # (B, h M, N)
        if mask is not None:
            scores = scores.masked_fill(~mask.unsqueeze(1), -torch.inf)
        pooled = (scores.softmax(-1) @ keys).view(-1, self.heads, count, keys.shape[-1])  # (B, h, M, Dk)
        value = self.value.weight.view(self.heads, dim // self.heads, -1).transpose(1, 2)  # (h, Dk, d)
        mixed = (pooled @ value).transpose(1, 2).flatten(2) + self.value.bias
        return self._finish(projected + mixed)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def _finish(self, x: Tensor) -> Tensor:
        outcome: Tensor = x + functional.relu(self.output(x))
        return outcome


class InducedSetAttention(nn.Module):
    """ISAB: attention between the members of a set through `inducing` learned points (Lee et al. 2019)."""

    def __init__(self, in_dim: int, dim: int, heads: int, inducing: int) -> None:
        """Sizes of members and output; heads; number of inducing points."""
        super().__init__()
        self.points = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, inducing, dim)).squeeze(0))
        self.gather = Attention(dim, in_dim, dim, heads)
        self.spread = Attention(in_dim, dim, dim, heads)

    def forward(self, members: Tensor, mask: Tensor | None) -> Tensor:
        """`members` (B, N, D), `mask` (B, N) or None -> (B, N, dim)."""
        spread: Tensor = self.spread(members, self.gather.summarise(self.points, members, mask))
        return spread


class TaskEncoder(nn.Module):
    """q(e | c): set transformer over skill transitions [s, z, r, done, s'] (SiMPL appendix E.1.2)."""

    def __init__(self, state_dim: int, z_dim: int, e_dim: int, hidden: int, heads: int = 4, inducing: int = 32) -> None:
        """Two ISAB layers, pooling by one seed, a two-layer head."""
        super().__init__()
        self.first = InducedSetAttention(2 * state_dim + z_dim + 2, hidden, heads, inducing)
        self.second = InducedSetAttention(hidden, hidden, heads, inducing)
        self.seed = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, hidden)))
        self.pool = Attention(hidden, hidden, hidden, heads)
        self.head = MLP(hidden, hidden, 1, 2 * e_dim)

    def forward(self, context: Tensor, mask: Tensor | None = None) -> DiagonalGaussian:
        """`context` (B, N, 2S + Z + 2), `mask` (B, N) True where a row counts -> Gaussian over e (B, E)."""
        members = self.second(self.first(context, mask), mask)
        mean, scale = self.head(self.pool.summarise(self.seed, members, mask).squeeze(1)).chunk(2, dim=-1)
        return DiagonalGaussian(mean, MIN_SCALE + functional.softplus(UNIT_SCALE_OFFSET + scale))


def clamped_gaussian(parameters: Tensor) -> DiagonalGaussian:
    """Mean and log-scale side by side (..., 2D), the latter clamped to [-10, 2], as a Gaussian (SPiRL's code)."""
    mean, log_scale = parameters.chunk(2, dim=-1)
    return DiagonalGaussian(mean, log_scale.clamp(*LOG_SCALE_RANGE).exp())
