"""Layers on the last axis, and small ones without parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError
from deepseek.frontend.devices import checked_device, moved
from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import dtype_of, float32
from deepseek.nn import functional as F
from deepseek.nn import init
from deepseek.nn.module import Module
from deepseek.nn.parameter import Parameter, computed_full
from deepseek.nn.simple import Function
from deepseek.ops.axes import unflatten

__all__ = ["Bilinear", "Flatten", "Identity", "Linear", "Unflatten"]


def new_parameter(shape: tuple[int, ...], dtype: Any = None, device: Any = None) -> Parameter:
    """A float32 parameter unless said otherwise, whose values are still to be set.

    Raises ArgumentError unless the sizes are integers of 0 or more.
    """
    place = checked_device(device)
    for size in shape:
        if not isinstance(size, (int, np.integer)) or size < 0:
            raise ArgumentError(
                f"a parameter of shape {shape}: got {size!r}; wanted integers of 0 or more"
            )
    made = computed_full(shape, 0.0, float32 if dtype is None else dtype_of(dtype))
    return Parameter(moved(made, place))


class Identity(Module):
    """Gives back its first argument; takes and ignores all others, also when it is made.

    >>> ds.nn.Identity()(ds.asarray([1, 2]))
    tensor([1, 2])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, x: Any) -> Any:
        return x


class Linear(Module):
    """y = x @ weight.T + bias, weight (out_features, in_features), x (..., in_features).

    Raises ShapeError for an x of other width.

    >>> layer = ds.nn.Linear(3, 2)
    >>> layer(ds.ones(5, 3)).shape, layer.weight.shape, layer
    ((5, 2), (2, 3), Linear(in_features=3, out_features=2, bias=True))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = new_parameter((out_features, in_features), dtype, device)
        self.bias = new_parameter((out_features,), dtype, device) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias evenly over [-1 / sqrt(in_features), 1 / sqrt(in_features))."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features) if self.in_features else 0.0
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )


class Bilinear(Module):
    """y[k] = x1 @ weight[k] @ x2 + bias[k], weight (out_features, in1_features, in2_features).

    >>> ds.nn.Bilinear(2, 3, 4)(ds.ones((5, 2)), ds.ones((5, 3))).shape
    (5, 4)
    """

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if in1_features < 1:
            raise ArgumentError(f"Bilinear: got in1_features={in1_features}; wanted 1 or more")
        self.in1_features = in1_features
        self.in2_features = in2_features
        self.out_features = out_features
        self.weight = new_parameter((out_features, in1_features, in2_features), dtype, device)
        self.bias = new_parameter((out_features,), dtype, device) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias evenly over [-1 / sqrt(in1_features), 1 / sqrt(in1_features))."""
        bound = 1 / math.sqrt(self.in1_features)
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        return F.bilinear(x1, x2, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in1_features={self.in1_features}, in2_features={self.in2_features}, "
            f"out_features={self.out_features}, bias={self.bias is not None}"
        )


class Flatten(Function):
    """Makes the axes start_dim..end_dim one."""

    function = F.flatten
    start_dim: int = 1
    end_dim: int = -1


class Unflatten(Function):
    """Splits the axis `dim` into axes of the sizes `unflattened_size`, of which one may be -1.

    >>> ds.nn.Unflatten(1, (2, -1))(ds.zeros((3, 8))).shape
    (3, 2, 4)
    """

    dim: int
    unflattened_size: Sequence[int]

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return unflatten(x, self.dim, tuple(self.unflattened_size))
