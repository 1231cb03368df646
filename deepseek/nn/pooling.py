"""The largest, the mean or the p-norm of windows, over one, two or three axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deepseek.frontend.tensor import Tensor
from deepseek.nn import functional as F
from deepseek.nn.simple import Function

__all__ = [
    "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d", "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d", "AdaptiveMaxPool3d", "AvgPool1d", "AvgPool2d", "AvgPool3d",
    "FractionalMaxPool2d", "FractionalMaxPool3d", "LPPool1d", "LPPool2d", "LPPool3d", "MaxPool1d",
    "MaxPool2d", "MaxPool3d", "MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d",
]  # fmt: skip

Spread = int | Sequence[int]


class _Windows(Function):
    """Windows follow each other without a gap unless `stride` says otherwise."""

    kernel_size: Spread
    stride: Spread | None = None

    def settle(self) -> None:
        if self.stride is None:
            self.stride = self.kernel_size


class _MaxPool(_Windows):
    """The largest element of each window; padding counts as -inf."""

    kernel_size: Spread
    stride: Spread | None = None
    padding: Spread = 0
    dilation: Spread = 1
    return_indices: bool = False
    ceil_mode: bool = False


class _AvgPool(_Windows):
    """The mean of each window; padding counts as zeros if `count_include_pad`."""

    kernel_size: Spread
    stride: Spread | None = None
    padding: Spread = 0
    ceil_mode: bool = False
    count_include_pad: bool = True

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class _DividedPool(_AvgPool):
    """The sum of each window over its size, or over `divisor_override`."""

    kernel_size: Spread
    stride: Spread | None = None
    padding: Spread = 0
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int | None = None


class _LPPool(_Windows):
    """The p-norm of each window, p being `norm_type`."""

    norm_type: float
    kernel_size: Spread
    stride: Spread | None = None
    ceil_mode: bool = False


class _MaxUnpool(_Windows):
    """Elements back where max pooling found them (`return_indices`), zeros around them."""

    kernel_size: Spread
    stride: Spread | None = None
    padding: Spread = 0

    def forward(self, x: Tensor, indices: Tensor, output_size: Any = None) -> Any:  # type: ignore[override]
        return type(self).function(
            x, indices, self.kernel_size, self.stride, self.padding, output_size
        )


class _AdaptiveAvgPool(Function):
    """The means of `output_size` parts as equal as can be; 1 is the mean of all."""

    output_size: Any


class _AdaptiveMaxPool(Function):
    """The largest elements of `output_size` parts as equal as can be."""

    output_size: Any
    return_indices: bool = False


class _FractionalMaxPool(Function):
    """Max pooling of windows that lie at random, so as to give `output_size` (Graham 2014)."""

    kernel_size: Spread
    output_size: Any = None
    output_ratio: Any = None
    return_indices: bool = False


class MaxPool1d(_MaxPool):
    """Max pooling of (batch, channels, length)."""

    function = F.max_pool1d


class MaxPool2d(_MaxPool):
    """Max pooling of (batch, channels, height, width)."""

    function = F.max_pool2d


class MaxPool3d(_MaxPool):
    """Max pooling of (batch, channels, depth, height, width)."""

    function = F.max_pool3d


class AvgPool1d(_AvgPool):
    """Mean pooling of (batch, channels, length)."""

    function = F.avg_pool1d


class AvgPool2d(_DividedPool):
    """Mean pooling of (batch, channels, height, width)."""

    function = F.avg_pool2d


class AvgPool3d(_DividedPool):
    """Mean pooling of (batch, channels, depth, height, width)."""

    function = F.avg_pool3d


class LPPool1d(_LPPool):
    """p-norm pooling of (batch, channels, length)."""

    function = F.lp_pool1d


class LPPool2d(_LPPool):
    """p-norm pooling of (batch, channels, height, width)."""

    function = F.lp_pool2d


class LPPool3d(_LPPool):
    """p-norm pooling of (batch, channels, depth, height, width)."""

    function = F.lp_pool3d


class MaxUnpool1d(_MaxUnpool):
    """The reverse of max pooling of (batch, channels, length)."""

    function = F.max_unpool1d


class MaxUnpool2d(_MaxUnpool):
    """The reverse of max pooling of (batch, channels, height, width)."""

    function = F.max_unpool2d


class MaxUnpool3d(_MaxUnpool):
    """The reverse of max pooling of (batch, channels, depth, height, width)."""

    function = F.max_unpool3d


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """Adaptive mean pooling of (batch, channels, length)."""

    function = F.adaptive_avg_pool1d


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """Adaptive mean pooling of (batch, channels, height, width)."""

    function = F.adaptive_avg_pool2d


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """Adaptive mean pooling of (batch, channels, depth, height, width)."""

    function = F.adaptive_avg_pool3d


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """Adaptive max pooling of (batch, channels, length)."""

    function = F.adaptive_max_pool1d


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """Adaptive max pooling of (batch, channels, height, width)."""

    function = F.adaptive_max_pool2d


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """Adaptive max pooling of (batch, channels, depth, height, width)."""

    function = F.adaptive_max_pool3d


class FractionalMaxPool2d(_FractionalMaxPool):
    """Fractional max pooling of (batch, channels, height, width)."""

    function = F.fractional_max_pool2d


class FractionalMaxPool3d(_FractionalMaxPool):
    """Fractional max pooling of (batch, channels, depth, height, width)."""

    function = F.fractional_max_pool3d
