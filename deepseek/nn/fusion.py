"""`fuse_layers`: a model for evaluation whose batch norms are folded into the layers before them.

In evaluation mode a batch norm is one multiplication and one addition per channel. Folded into the
weight and bias of the convolution or linear layer in front, it costs nothing; a ReLU behind joins
the operator.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from deepseek.errors import ArgumentError
from deepseek.frontend.tensor import Tensor, no_grad
from deepseek.ir.dtype import float64
from deepseek.nn import functional as F
from deepseek.nn.activation import ReLU
from deepseek.nn.basic import Identity, Linear
from deepseek.nn.container import Sequential
from deepseek.nn.conv import Conv1d, Conv2d, Conv3d
from deepseek.nn.module import CHILDREN, Module, join
from deepseek.nn.normalization import BatchNorm1d, BatchNorm2d, BatchNorm3d
from deepseek.nn.parameter import Parameter
from deepseek.ops import rsqrt

__all__ = ["ConvReLU1d", "ConvReLU2d", "ConvReLU3d", "LinearReLU", "fuse_layers"]


class _ReLUAfter(Module):
    """A layer with the ReLU behind it as one operator; its parameters keep their names."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class LinearReLU(_ReLUAfter, Linear):
    """relu(linear(x))."""


class ConvReLU1d(_ReLUAfter, Conv1d):
    """relu(conv1d(x))."""


class ConvReLU2d(_ReLUAfter, Conv2d):
    """relu(conv2d(x))."""


class ConvReLU3d(_ReLUAfter, Conv3d):
    """relu(conv3d(x))."""


# The batch norm that folds into a layer, and the layer with a ReLU behind it.
FUSED: dict[type[Module], tuple[type[Module], type[Module]]] = {
    Linear: (BatchNorm1d, LinearReLU),
    Conv1d: (BatchNorm1d, ConvReLU1d),
    Conv2d: (BatchNorm2d, ConvReLU2d),
    Conv3d: (BatchNorm3d, ConvReLU3d),
}


def fuse_layers(model: Module, groups: Iterable[Sequence[str]] = ()) -> Module:
    """A copy of a model with every Conv-BN(-ReLU) and Linear-BN(-ReLU) as one layer.

    Neighbours in a Sequential are found; elsewhere, where only `forward` knows what follows what,
    `groups` names them: `[("conv1", "bn1", "relu1"), ...]`. The fused layer takes the first name
    and has the keys `weight` and `bias`; Identity stands in for the others, so that all other keys
    stay as they are.

    Raises ArgumentError in training mode, where a batch norm depends on the batch, and for a group
    that cannot be fused. The model itself is not changed.
    """
    training = [name or type(m).__name__ for name, m in model.named_modules() if m.training]
    if training:
        raise ArgumentError(
            f"fuse_layers: {training[0]} is in training mode: batch norm depends on the batch\n"
            "  help: call model.eval() first"
        )
    found = [*neighbours(model), *(tuple(group) for group in groups)]
    fused = copy.deepcopy(model)
    for names in found:
        replace(fused, names)
    return fused


def neighbours(model: Module) -> Iterator[tuple[str, ...]]:
    """The names of the layers to fuse in every Sequential of a model."""
    for path, module in model.named_modules():
        if not isinstance(module, Sequential):
            continue
        parts = [(join(path, name), part) for name, part in module.named_children()]
        for i in range(len(parts) - 1):
            if not foldable(parts[i][1], parts[i + 1][1]):
                continue
            with_relu = i + 2 < len(parts) and type(parts[i + 2][1]) is ReLU
            yield tuple(name for name, _ in parts[i : i + 2 + with_relu])


def foldable(layer: Module, norm: Module) -> bool:
    """Whether a batch norm folds into the layer in front of it."""
    expected, _ = FUSED.get(type(layer), (None, None))
    plain = not layer._hooks and not norm._hooks
    return plain and expected is type(norm) and norm.running_mean is not None


def replace(model: Module, names: Sequence[str]) -> None:
    """Put the fused layer in the place of the first part, and Identity in those of the others."""
    layer, *rest = (model.get_submodule(name) for name in names)
    if not 1 <= len(rest) <= 2 or not foldable(layer, rest[0]) or type(rest[-1]) not in (
        ReLU,
        type(rest[0]),
    ):
        kinds = ", ".join(type(model.get_submodule(name)).__name__ for name in names)
        raise ArgumentError(
            f"fuse_layers: got a group {tuple(names)} of {kinds}; wanted a Linear or Conv, the "
            "BatchNorm of its rank with running statistics, and perhaps a ReLU"
        )
    put(model, names[0], folded(layer, rest[0], with_relu=len(rest) == 2))
    for name in names[1:]:
        put(model, name, Identity().eval())


def put(model: Module, path: str, part: Module) -> None:
    """Set the part with a dotted name."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, part)


def folded(layer: Any, norm: Any, with_relu: bool) -> Module:
    """One layer that computes norm(layer(x)), or relu of it."""
    with no_grad():
        weight = layer.weight.astype(float64)
        scale = rsqrt(norm.running_var.astype(float64) + norm.eps)
        if norm.weight is not None:
            scale = scale * norm.weight.astype(float64)
        bias = -norm.running_mean.astype(float64) * scale
        if layer.bias is not None:
            bias = bias + layer.bias.astype(float64) * scale
        if norm.bias is not None:
            bias = bias + norm.bias.astype(float64)
        weight = weight * scale.reshape((-1,) + (1,) * (weight.ndim - 1))
        dtype, needs = layer.weight.dtype, layer.weight.requires_grad
        out = copy.copy(layer)
        out.__dict__ |= {"_transient": set()} | {name: {} for name in CHILDREN}
        out.__class__ = FUSED[type(layer)][1] if with_relu else type(layer)
        out.weight = Parameter(weight.astype(dtype), needs)
        out.bias = Parameter(bias.astype(dtype), needs)
    return out
