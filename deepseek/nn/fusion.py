"""`fuse_layers`: a model for evaluation with norms folded into the layers before them, and
activations joined to them.

In evaluation mode a norm by running statistics is one multiplication and one addition per channel.
Folded into the weight and bias of the convolution or linear layer in front, it costs nothing; an
activation behind joins the operator.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from deepseek.errors import ArgumentError
from deepseek.frontend.tensor import Tensor, no_grad
from deepseek.ir.dtype import float64
from deepseek.nn.activation import ELEMENTWISE
from deepseek.nn.basic import Identity, Linear
from deepseek.nn.container import Sequential
from deepseek.nn.conv import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from deepseek.nn.module import CHILDREN, Module, join
from deepseek.nn.normalization import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
)
from deepseek.nn.parameter import Parameter
from deepseek.ops import rsqrt

__all__ = [
    "ConvActivation1d", "ConvActivation2d", "ConvActivation3d", "ConvTransposeActivation1d",
    "ConvTransposeActivation2d", "ConvTransposeActivation3d", "LinearActivation", "fuse_layers",
]  # fmt: skip


class _Activated(Module):
    """A layer with the activation behind it as one operator; its parameters keep their names."""

    def forward(self, *args: Any) -> Tensor:
        return self.activation(super().forward(*args))  # type: ignore[no-any-return]


class LinearActivation(_Activated, Linear):
    """activation(linear(x)); see `fuse_layers`, which makes it."""


class ConvActivation1d(_Activated, Conv1d):
    """activation(conv1d(x)); see `fuse_layers`, which makes it."""


class ConvActivation2d(_Activated, Conv2d):
    """activation(conv2d(x)); see `fuse_layers`, which makes it."""


class ConvActivation3d(_Activated, Conv3d):
    """activation(conv3d(x)); see `fuse_layers`, which makes it."""


class ConvTransposeActivation1d(_Activated, ConvTranspose1d):
    """activation(conv_transpose1d(x)); see `fuse_layers`, which makes it."""


class ConvTransposeActivation2d(_Activated, ConvTranspose2d):
    """activation(conv_transpose2d(x)); see `fuse_layers`, which makes it."""


class ConvTransposeActivation3d(_Activated, ConvTranspose3d):
    """activation(conv_transpose3d(x)); see `fuse_layers`, which makes it."""


# For each layer: the norms that fold into it, and the layer with an activation behind it.
FUSED: dict[type[Module], tuple[tuple[type[Module], ...], type[Module]]] = {
    Linear: ((BatchNorm1d,), LinearActivation),
    Conv1d: ((BatchNorm1d, InstanceNorm1d), ConvActivation1d),
    Conv2d: ((BatchNorm2d, InstanceNorm2d), ConvActivation2d),
    Conv3d: ((BatchNorm3d, InstanceNorm3d), ConvActivation3d),
    ConvTranspose1d: ((BatchNorm1d, InstanceNorm1d), ConvTransposeActivation1d),
    ConvTranspose2d: ((BatchNorm2d, InstanceNorm2d), ConvTransposeActivation2d),
    ConvTranspose3d: ((BatchNorm3d, InstanceNorm3d), ConvTransposeActivation3d),
}


def fuse_layers(model: Module, groups: Iterable[Sequence[str]] = ()) -> Module:
    """A copy of a model with every layer, norm and activation that follow each other as one layer.

    Layers are Linear, convolutions and transposed convolutions; norms are batch and instance norms
    with running statistics; activations work element by element. Neighbours in a Sequential are
    found; elsewhere, where only `forward` knows what follows what, `groups` names them:
    `[("conv1", "bn1", "relu1"), ...]`. The fused layer takes the first name and has the keys
    `weight` and `bias`; Identity stands in for the others, so that all other keys stay as they are.

    Raises ArgumentError in training mode, where a norm depends on the batch, and for a group that
    cannot be fused. The model itself is not changed. Parts with hooks are left alone.

    >>> net = ds.nn.Sequential(ds.nn.Conv2d(1, 4, 3), ds.nn.BatchNorm2d(4), ds.nn.ReLU()).eval()
    >>> [type(part).__name__ for part in ds.nn.fuse_layers(net)]
    ['ConvActivation2d', 'Identity', 'Identity']
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
        if isinstance(module, Sequential):
            parts = [(join(path, name), part) for name, part in module.named_children()]
            for i in range(len(parts)):
                for length in (3, 2):
                    group = parts[i : i + length]
                    if len(group) == length and matched([part for _, part in group]):
                        yield tuple(name for name, _ in group)
                        break


def matched(parts: Sequence[Module]) -> bool:
    """Whether the parts are a layer, then a norm or an activation or both."""
    layer, *rest = parts
    if type(layer) not in FUSED or any(part._hooks for part in parts):
        return False
    norms, _ = FUSED[type(layer)]
    if rest and type(rest[0]) in norms and rest[0].running_mean is not None:
        rest = rest[1:]
    return len(parts) > 1 and (not rest or len(rest) == 1 and type(rest[0]) in ELEMENTWISE)


def replace(model: Module, names: Sequence[str]) -> None:
    """Put the fused layer in the place of the first part, and Identity in those of the others."""
    parts = [model.get_submodule(name) for name in names]
    if not parts or not matched(parts):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise ArgumentError(
            f"fuse_layers: got a group {tuple(names)} of {kinds}; wanted a Linear or Conv, the "
            "BatchNorm of its rank with running statistics, an activation that works element by "
            "element, or both, and no hooks"
        )
    put(model, names[0], joined(parts[0], parts[1:]))
    for name in names[1:]:
        put(model, name, Identity().eval())


def put(model: Module, path: str, part: Module) -> None:
    """Set the part with a dotted name."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, part)


def joined(layer: Any, behind: Sequence[Any]) -> Module:
    """One layer that computes what the layer and those behind it do."""
    activation = behind[-1] if type(behind[-1]) in ELEMENTWISE else None
    norm = behind[0] if behind[0] is not activation else None
    out = copy.copy(layer)
    out.__dict__ |= {"_transient": set()} | {name: {} for name in CHILDREN}
    out.weight, out.bias = (layer.weight, layer.bias) if norm is None else folded(layer, norm)
    if activation is not None:
        out.__class__ = FUSED[type(layer)][1]
        out.activation = activation
    return out


def folded(layer: Any, norm: Any) -> tuple[Parameter, Parameter]:
    """The weight and bias of a layer that computes norm(layer(x))."""
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
        dtype, needs = layer.weight.dtype, layer.weight.requires_grad
        weight = (weight * per_output(layer, scale)).astype(dtype)
        return Parameter(weight, needs), Parameter(bias.astype(dtype), needs)


def per_output(layer: Any, scale: Tensor) -> Tensor:
    """A number for each output, as a factor of the weight."""
    shape = layer.weight.shape
    if not isinstance(layer, (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)):
        return scale.reshape((-1,) + (1,) * (len(shape) - 1))
    # Inputs lie on the first axis, group after group; each group has its own outputs.
    by_group = scale.reshape((layer.groups, 1, shape[1]))
    spread = by_group.broadcast_to((layer.groups, shape[0] // layer.groups, shape[1]))
    return spread.reshape((*shape[:2], *(1,) * (len(shape) - 2)))
