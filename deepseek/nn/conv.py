"""Convolution over one, two or three axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from deepseek.errors import ArgumentError, unknown
from deepseek.frontend.tensor import Tensor
from deepseek.nn import functional as F
from deepseek.nn import init
from deepseek.nn.basic import new_parameter
from deepseek.nn.module import Module

__all__ = ["Conv1d", "Conv2d", "Conv3d"]

Spread = int | Sequence[int]


def spread(value: Spread, rank: int) -> tuple[int, ...]:
    """One number for each axis."""
    return (value,) * rank if isinstance(value, int) else tuple(value)


class _Conv(Module):
    """Cross-correlation with weight (out, in / groups, *kernel_size), plus a bias for each channel.

    Padding is with zeros: numbers, or "same" or "valid".
    """

    rank: ClassVar[int]
    function: ClassVar[Callable[..., Tensor]]

    settings = ("stride", "padding", "dilation", "groups")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Spread,
        stride: Spread = 1,
        padding: Spread | str = 0,
        dilation: Spread = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ArgumentError(
                f"{name}: got in_channels={in_channels}, out_channels={out_channels}, "
                f"groups={groups}; wanted channels that are multiples of groups"
            )
        if padding_mode != "zeros":
            raise unknown("padding_mode", padding_mode, ["zeros"])
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = spread(kernel_size, self.rank)
        self.stride = spread(stride, self.rank)
        self.padding = padding if isinstance(padding, str) else spread(padding, self.rank)
        self.dilation = spread(dilation, self.rank)
        self.groups = groups
        self.padding_mode = padding_mode
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = new_parameter(shape, dtype, device)
        self.bias = new_parameter((out_channels,), dtype, device) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias evenly over [-b, b), b = 1 / sqrt(inputs of one output)."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in, _ = init.fans(self.weight)
            bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        convolve = type(self).function
        return convolve(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )

    def extra_repr(self) -> str:
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}"
        )
        if self.padding != (0,) * self.rank:
            text += f", padding={self.padding!r}"
        if self.dilation != (1,) * self.rank:
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        return text if self.bias is not None else text + ", bias=False"


class Conv1d(_Conv):
    """Convolution of (batch, channels, length)."""

    rank = 1
    function = F.conv1d


class Conv2d(_Conv):
    """Convolution of (batch, channels, height, width)."""

    rank = 2
    function = F.conv2d


class Conv3d(_Conv):
    """Convolution of (batch, channels, depth, height, width)."""

    rank = 3
    function = F.conv3d
