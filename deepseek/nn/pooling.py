"""The largest or the mean element of windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from deepseek.frontend.tensor import Tensor
from deepseek.nn import functional as F
from deepseek.nn.module import Module

__all__ = [
    "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d", "AvgPool1d", "AvgPool2d",
    "AvgPool3d", "MaxPool1d", "MaxPool2d", "MaxPool3d",
]  # fmt: skip

Spread = int | Sequence[int]


class _MaxPool(Module):
    """The largest element of each window; padding counts as -inf."""

    function: ClassVar[Callable[..., Tensor]]

    settings = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")

    def __init__(
        self,
        kernel_size: Spread,
        stride: Spread | None = None,
        padding: Spread = 0,
        dilation: Spread = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.ceil_mode = ceil_mode

    def forward(self, x: Tensor) -> Tensor:
        pool = type(self).function
        return pool(
            x, self.kernel_size, self.stride, self.padding, self.dilation, ceil_mode=self.ceil_mode
        )

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPool):
    """Max pooling of (batch, channels, length)."""

    function = F.max_pool1d


class MaxPool2d(_MaxPool):
    """Max pooling of (batch, channels, height, width)."""

    function = F.max_pool2d


class MaxPool3d(_MaxPool):
    """Max pooling of (batch, channels, depth, height, width)."""

    function = F.max_pool3d


class _AvgPool(Module):
    """The mean of each window; padding counts as zeros if `count_include_pad`."""

    function: ClassVar[Callable[..., Tensor]]

    settings = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")

    def __init__(
        self,
        kernel_size: Spread,
        stride: Spread | None = None,
        padding: Spread = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad

    def forward(self, x: Tensor) -> Tensor:
        pool = type(self).function
        return pool(
            x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool1d(_AvgPool):
    """Mean pooling of (batch, channels, length)."""

    function = F.avg_pool1d


class AvgPool2d(_AvgPool):
    """Mean pooling of (batch, channels, height, width)."""

    function = F.avg_pool2d


class AvgPool3d(_AvgPool):
    """Mean pooling of (batch, channels, depth, height, width)."""

    function = F.avg_pool3d


class _AdaptiveAvgPool(Module):
    """The means of `output_size` equal parts; 1 is the mean of all."""

    function: ClassVar[Callable[..., Tensor]]

    settings = ("output_size",)

    def __init__(self, output_size: Spread) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        return type(self).function(x, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """Adaptive mean pooling of (batch, channels, length)."""

    function = F.adaptive_avg_pool1d


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """Adaptive mean pooling of (batch, channels, height, width)."""

    function = F.adaptive_avg_pool2d


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """Adaptive mean pooling of (batch, channels, depth, height, width)."""

    function = F.adaptive_avg_pool3d
