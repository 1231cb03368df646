"""Fold: a batch norm by running statistics, after a convolution, becomes part of its weight and
bias.

With s = gamma / sqrt(variance + eps):  bn(conv(x, w) + b) = conv(x, s * w) + (s * (b - mean) +
beta). The new weight depends on parameters only, so `prepare` computes it once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deepseek.frontend.tensor import Tensor, record
from deepseek.ir.graph import Graph, Node, Value
from deepseek.ir.op import REGISTRY, Op
from deepseek.ir.rewrite import Fuel, Replacement, Rewriter, inline, rule
from deepseek.ops.define import trace_body


def fold_conv_bn(graph: Graph, fuel: Fuel | None = None) -> Graph:
    """The graph with every such pair folded."""
    return Rewriter([bn_of_conv_is_conv]).run(graph, fuel)


@rule("batch_norm")
def bn_of_conv_is_conv(node: Node) -> Replacement:
    if node.attrs["training"]:
        return None
    found = convolution_under(node.inputs[0])
    if found is None:
        return None
    conv, bias = found
    operands = [*conv.inputs, *([bias] if bias is not None else []), *node.inputs[1:]]
    attrs = {"conv": conv, "norm": node.attrs, "biased": bias is not None}
    types = [v.type for v in operands]
    return inline(trace_body(folded, types, attrs), operands, node.line)


def convolution_under(value: Value) -> tuple[Node, Value | None] | None:
    """(convolution, bias per channel or None) that computes a value, if one does."""
    convolution = REGISTRY["convolution"]
    node = value.node
    if node.op is convolution:
        return node, None
    if node.op is not REGISTRY["add"]:
        return None
    for product, other in (node.inputs, node.inputs[::-1]):
        bias = channel_vector(other, product.type.shape[1])
        if product.node.op is convolution and bias is not None:
            return product.node, bias
    return None


def channel_vector(value: Value, channels: Any) -> Value | None:
    """The vector that a value repeats for each channel, if it is one seen through reshape and
    broadcast.
    """
    views: list[Op] = []
    rank = value.type.rank
    while value.node.op in (REGISTRY["broadcast_to"], REGISTRY["reshape"]):
        views.append(value.node.op)
        shape = value.node.inputs[0].type.shape
        # Aligned with the channel axis once broadcast: [C] reshaped to [C, 1, ...].
        if value.node.op is REGISTRY["broadcast_to"] and (
            len(shape) < rank - 1 or shape[len(shape) - rank + 1] != channels
        ):
            return None
        value = value.node.inputs[0]
    one_axis = value.type.shape == (channels,)
    return value if views and one_axis else None


def folded(tensors: Sequence[Tensor], attrs: dict[str, Any]) -> Tensor:
    """The pair as one convolution: x, w, [b], mean, variance, [gamma], [beta]."""
    conv, norm = attrs["conv"], attrs["norm"]
    given = iter(tensors)
    x, w = next(given), next(given)
    b = next(given) if attrs["biased"] else None
    mean, variance = next(given), next(given)
    gamma = None if "weight" in norm else next(given)
    beta = None if "bias" in norm else next(given)
    scale = (variance + norm["eps"]).rsqrt()
    scale = scale if gamma is None else scale * gamma
    shift = (mean * -1 if b is None else b - mean) * scale
    shift = shift if beta is None else shift + beta
    window = (1,) * (x.ndim - 2)
    y = record(conv.op, x, w * scale.reshape((-1, 1, *window)).astype(w.dtype), **conv.attrs)
    return y + shift.reshape((1, -1, *window)).astype(y.dtype)  # type: ignore[no-any-return]
