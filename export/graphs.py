"""The networks as ONNX graphs, written out node by node.

Built by hand rather than traced: the graphs are small, a fine-tuned policy becomes a model in milliseconds,
and what depends on weights alone (BatchNorm, the set transformer's learned queries) is folded here, once.
Every graph is compared with the network it came from (see `export.to_onnx`), so a slip cannot go unseen.

Weights are kept in float32 as trained, the arithmetic is float64: a BatchNorm of a trained SkillMLP takes a large mean
from a small signal, so that in float32 PyTorch's own answers to one row and to a batch of rows differ by more than
1e-5. In float64 the rounding is gone, and what is left of a difference is a mistake.

What a control loop waits for can be written `fast`: the layers in float32, a quarter of the time. Each BatchNorm is
then folded into its layer, in float64, and rounded once; and such a layer is summed in two halves, since most of the
rounding is in the sum, and less in two short ones. `export.to_onnx` takes this form where it agrees all the same.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from export.manifest import Signature
from simpl_core.errors import BundleError
from simpl_core.networks import (
    LOG_SCALE_RANGE,
    MIN_SCALE,
    UNIT_SCALE_OFFSET,
    Attention,
    InducedSetAttention,
    SkillDecoder,
    SkillPolicy,
    SkillPrior,
    TaskEncoder,
)

OPSET = 17
IR_VERSION = 8
"""The oldest file format that has opset 17, so that older runtimes on robots read it."""

HIDDEN_SCORE = -1e30
"""Attention score of a masked row: its weight comes out as exactly 0, yet the constant itself is finite."""


class _Layer(NamedTuple):
    """A linear layer with the BatchNorm and the activation behind it.

    Attributes:
        weight: (in, out), float64.
        bias: (out,), float64.
        halves: parts of the sum over its inputs.
        slope: of negative numbers behind it; 1 where there is no activation.
    """

    weight: Tensor
    bias: Tensor
    halves: int = 1
    slope: float = 1.0


class _Graph:
    """Collects nodes and weights; values are known by name, as in ONNX.

    Args:
        fast: layers compute in float32.
    """

    def __init__(self, fast: bool = False) -> None:
        self.fast = fast
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """A node with one output, called `name` or by a fresh name."""
        return self.add_many(operator, inputs, [name or self._fresh(operator)], **attributes)[0]

    def add_many(self, operator: str, inputs: tuple[str, ...], outputs: list[str], **attributes: Any) -> list[str]:
        """A node with several outputs."""
        self.nodes.append(helper.make_node(operator, list(inputs), outputs, **attributes))
        return outputs

    def constant(self, value: Tensor | float | list[int]) -> str:
        """A tensor or number as float64, a list of integers as int64; float32 tensors are stored as such."""
        array = np.ascontiguousarray(value.detach().cpu().numpy() if isinstance(value, Tensor) else value)
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return self.double(name) if array.dtype == np.float32 else name

    def double(self, x: str) -> str:
        """A float32 input or weight in float64; onnxruntime does this to weights once, on loading."""
        return self.add("Cast", x, to=onnx.TensorProto.DOUBLE)

    def single(self, x: str | Tensor) -> str:
        """A float64 value, or weight, in float32."""
        if isinstance(x, str):
            return self.add("Cast", x, to=onnx.TensorProto.FLOAT)
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(x.detach().float().numpy()), name))
        return name

    def split(self, x: str, axis: int = -1) -> list[str]:
        """Two equal halves."""
        return self.add_many("Split", (x,), [self._fresh("Half"), self._fresh("Half") + "b"], axis=axis)

    def reshape(self, x: str, shape: list[int]) -> str:
        """`shape` as ONNX reads it: 0 keeps a size, -1 takes what is left."""
        return self.add("Reshape", x, self.constant(shape))

    def linear(self, x: str, layer: nn.Linear) -> str:
        """Rows (..., in) -> (..., out) for any number of leading axes."""
        product = self.add("MatMul", x, self.constant(layer.weight.T))
        return product if layer.bias is None else self.add("Add", product, self.constant(layer.bias))

    def model(self, name: str, signature: Signature) -> bytes:
        """The finished model."""

        def value(key: str, shape: tuple[int | None, ...]) -> onnx.ValueInfoProto:
            kind = onnx.TensorProto.BOOL if key == "mask" else onnx.TensorProto.FLOAT
            labels = [("B", "N")[axis] if size is None else size for axis, size in enumerate(shape)]
            return helper.make_tensor_value_info(key, kind, labels)

        graph = helper.make_graph(
            self.nodes,
            name,
            [value(key, shape) for key, shape in signature.inputs.items()],
            [value(key, shape) for key, shape in signature.outputs.items()],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="simpl")
        model.ir_version = IR_VERSION
        return bytes(model.SerializeToString(deterministic=True))

    def _fresh(self, operator: str) -> str:
        return f"{operator.lower()}{len(self.nodes)}"


def skill_decoder_graph(decoder: SkillDecoder, signature: Signature, *, fast: bool = False) -> bytes:
    """pi(a | s, z); `fast` as above."""
    graph = _Graph(fast)
    inputs = graph.add("Concat", graph.double("state"), graph.double("z"), axis=-1)
    return _named(graph, {"action": _sequential(graph, inputs, decoder.net)}).model("skill_decoder", signature)


def skill_prior_graph(prior: SkillPrior, signature: Signature) -> bytes:
    """p(z | s)."""
    graph = _Graph()
    mean, scale = _prior(graph, prior, graph.double("state"))
    return _named(graph, {"mean": mean, "scale": scale}).model("skill_prior", signature)


def skill_policy_graph(policy: SkillPolicy, signature: Signature, *, fast: bool = False) -> bytes:
    """pi(z | s, e), the frozen prior inside; `fast` as above."""
    graph = _Graph(fast)
    state = graph.double("state")
    prior_mean, prior_scale = _prior(graph, policy.prior, state)
    inputs = graph.add("Concat", state, graph.double("e"), axis=-1)
    mean, raw = graph.split(_sequential(graph, inputs, policy.residual))
    # softplus^-1(x) = x + log(1 - exp(-x)); float64 keeps enough digits at the smallest x, exp(-10).
    decay = graph.add("Exp", graph.add("Neg", prior_scale))
    rest = graph.add("Log", graph.add("Sub", graph.constant(1.0), decay))
    scale = _positive(graph, graph.add("Add", graph.add("Add", prior_scale, rest), raw))
    return _named(graph, {"mean": graph.add("Add", prior_mean, mean), "scale": scale}).model("skill_policy", signature)


def task_encoder_graph(encoder: TaskEncoder, signature: Signature) -> bytes:
    """q(e | c) for any number of rows."""
    graph = _Graph()
    hidden = graph.add("Unsqueeze", graph.add("Not", "mask"), graph.constant([1]))  # (B, 1, N)
    members = _induced(graph, encoder.first, graph.double("transitions"), hidden)
    members = _induced(graph, encoder.second, members, hidden)
    pooled = _summarise(graph, encoder.pool, encoder.seed, members, hidden)  # (B, 1, dim)
    flat = graph.add("Squeeze", pooled, graph.constant([1]))
    mean, raw = graph.split(_sequential(graph, flat, encoder.head))
    scale = _positive(graph, graph.add("Add", raw, graph.constant(UNIT_SCALE_OFFSET)))
    return _named(graph, {"mean": mean, "scale": scale}).model("task_encoder", signature)


def _named(graph: _Graph, outputs: dict[str, str]) -> _Graph:
    for name, value in outputs.items():
        graph.add("Cast", value, name=name, to=onnx.TensorProto.FLOAT)
    return graph


def _sequential(graph: _Graph, x: str, network: nn.Sequential) -> str:
    """An MLP with BatchNorm, in evaluation mode; float64 in and out."""
    if graph.fast:
        return _in_float32(graph, x, network)
    for module in network:
        if isinstance(module, nn.Linear):
            x = graph.linear(x, module)
        elif isinstance(module, nn.BatchNorm1d):
            gain, shift = _affine(module)
            x = graph.add("Add", graph.add("Mul", x, graph.constant(gain)), graph.constant(shift))
        elif isinstance(module, nn.LeakyReLU):
            # Slopes are below 1; onnxruntime's own LeakyRelu is float32 only.
            x = graph.add("Max", x, graph.add("Mul", x, graph.constant(module.negative_slope)))
        elif isinstance(module, nn.ReLU):
            x = graph.add("Relu", x)
        else:
            raise _unknown(module)
    return x


def _in_float32(graph: _Graph, x: str, network: nn.Sequential) -> str:
    """As `_sequential`."""
    x = graph.single(x)
    for weight, bias, halves, slope in _layers(network):
        shift, weights = graph.single(bias), [graph.single(part) for part in weight.chunk(halves)]
        if halves == 2:
            one, other = graph.split(x)
            x = graph.add("Add", graph.add("Gemm", one, weights[0], shift), graph.add("MatMul", other, weights[1]))
        else:
            x = graph.add("Gemm", x, weights[0], shift)
        if slope != 1.0:
            x = graph.add("LeakyRelu", x, alpha=slope)
    return graph.double(x)


def _layers(network: nn.Sequential) -> list[_Layer]:
    layers: list[_Layer] = []
    for module in network:
        if isinstance(module, nn.Linear):
            bias = torch.zeros(module.out_features).double() if module.bias is None else module.bias.double()
            layers.append(_Layer(module.weight.T.double(), bias))
        elif isinstance(module, nn.BatchNorm1d):
            (gain, shift), (weight, bias, *_) = _affine(module), layers[-1]
            layers[-1] = _Layer(weight * gain, bias * gain + shift, 2 if len(weight) % 2 == 0 else 1)
        elif isinstance(module, nn.LeakyReLU | nn.ReLU):
            slope = module.negative_slope if isinstance(module, nn.LeakyReLU) else 0.0
            layers[-1] = layers[-1]._replace(slope=slope)
        else:
            raise _unknown(module)
    return layers


def _unknown(module: nn.Module) -> BundleError:
    return BundleError(f"no ONNX form is known for a {type(module).__name__} layer")


def _affine(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """BatchNorm in evaluation mode as gain and shift, float64."""
    if norm.running_mean is None or norm.running_var is None:
        raise BundleError("a BatchNorm layer without running statistics cannot be exported")
    gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return gain, norm.bias.double() - norm.running_mean.double() * gain


def _prior(graph: _Graph, prior: SkillPrior, state: str) -> tuple[str, str]:
    mean, log_scale = graph.split(_sequential(graph, state, prior.net))
    lowest, highest = (graph.constant(bound) for bound in LOG_SCALE_RANGE)
    return mean, graph.add("Exp", graph.add("Clip", log_scale, lowest, highest))


def _positive(graph: _Graph, x: str) -> str:
    """MIN_SCALE + softplus(x) = MIN_SCALE + max(x, 0) + log(1 + exp(-|x|)); the operator is float32 only."""
    decay = graph.add("Exp", graph.add("Neg", graph.add("Abs", x)))
    softplus = graph.add("Add", graph.add("Relu", x), graph.add("Log", graph.add("Add", decay, graph.constant(1.0))))
    return graph.add("Add", softplus, graph.constant(MIN_SCALE))


def _induced(graph: _Graph, layer: InducedSetAttention, members: str, hidden: str) -> str:
    """ISAB: (B, N, D) -> (B, N, dim)."""
    summary = _summarise(graph, layer.gather, layer.points, members, hidden)
    return _attend(graph, layer.spread, members, summary)


def _attend(graph: _Graph, layer: Attention, queries: str, keys: str) -> str:
    """`Attention.forward`."""
    dim, heads = layer.query.out_features, layer.heads

    def split_heads(x: str, *order: int) -> str:
        return graph.add("Transpose", graph.reshape(x, [0, 0, heads, dim // heads]), perm=order)

    projected = graph.linear(queries, layer.query)
    query = split_heads(projected, 0, 2, 1, 3)
    key = split_heads(graph.linear(keys, layer.key), 0, 2, 3, 1)
    value = split_heads(graph.linear(keys, layer.value), 0, 2, 1, 3)
    scores = graph.add("Mul", graph.add("MatMul", query, key), graph.constant(1.0 / math.sqrt(dim)))
    mixed = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), value)
    joined = graph.reshape(graph.add("Transpose", mixed, perm=[0, 2, 1, 3]), [0, 0, dim])
    return _finish(graph, layer, graph.add("Add", projected, joined))


def _summarise(graph: _Graph, layer: Attention, queries: Tensor, keys: str, hidden: str) -> str:
    """`Attention.summarise`; its queries are weights, so they are multiplied out here."""
    dim, heads, count = layer.query.out_features, layer.heads, len(queries)
    projected = functional.linear(queries.double(), layer.query.weight.double(), layer.query.bias.double())
    query = projected.view(count, heads, -1).transpose(0, 1)
    folded = (query @ layer.key.weight.double().view(heads, dim // heads, -1)).flatten(0, 1) / math.sqrt(dim)
    scores = graph.add("MatMul", graph.constant(folded), graph.add("Transpose", keys, perm=[0, 2, 1]))  # (B, h M, N)
    scores = graph.add("Where", hidden, graph.constant(HIDDEN_SCORE), scores)
    pooled = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), keys)  # (B, h M, Dk)
    pooled = graph.reshape(pooled, [0, heads, count, layer.value.in_features])
    value = layer.value.weight.view(heads, dim // heads, -1).transpose(1, 2)
    mixed = graph.add("Transpose", graph.add("MatMul", pooled, graph.constant(value)), perm=[0, 2, 1, 3])
    joined = graph.reshape(mixed, [0, count, dim])
    return _finish(graph, layer, graph.add("Add", joined, graph.constant(projected + layer.value.bias.double())))


def _finish(graph: _Graph, layer: Attention, x: str) -> str:
    return graph.add("Add", x, graph.add("Relu", graph.linear(x, layer.output)))
