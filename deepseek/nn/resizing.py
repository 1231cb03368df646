"""Modules that change sizes: resampling, channels traded for places, patches side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from deepseek.frontend.tensor import Tensor
from deepseek.nn import functional as F
from deepseek.nn.module import Module
from deepseek.nn.simple import Function

__all__ = [
    "ChannelShuffle", "Fold", "PixelShuffle", "PixelUnshuffle", "Unfold", "Upsample",
    "UpsamplingBilinear2d", "UpsamplingNearest2d",
]  # fmt: skip

Sizes = int | Sequence[int] | None
Factors = float | Sequence[float] | None


class Upsample(Module):
    """x (batch, channels, ...) resampled to a size, or by a factor; see `F.interpolate`.

    `mode` is "nearest", "linear", "bilinear", "bicubic" or "trilinear".

    >>> ds.nn.Upsample(scale_factor=2)(ds.zeros((1, 3, 4, 5))).shape
    (1, 3, 8, 10)
    """

    settings = ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor")

    def __init__(
        self, size: Sizes = None, scale_factor: Factors = None, mode: str = "nearest",
        align_corners: bool | None = None, recompute_scale_factor: bool | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.size = size
        one = scale_factor is None or isinstance(scale_factor, (int, float))
        self.scale_factor: Factors
        if one:
            self.scale_factor = float(scale_factor) if scale_factor else None  # type: ignore[arg-type]
        else:
            self.scale_factor = tuple(float(f) for f in scale_factor)  # type: ignore[union-attr]
        self.mode = mode
        self.align_corners = align_corners
        self.recompute_scale_factor = recompute_scale_factor

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(
            x, self.size, self.scale_factor, self.mode, self.align_corners,
            recompute_scale_factor=self.recompute_scale_factor,
        )  # fmt: skip

    def extra_repr(self) -> str:
        by = "size" if self.scale_factor is None else "scale_factor"
        return f"{by}={getattr(self, by)!r}, mode={self.mode!r}"


class _Upsampling2d(Upsample):
    """Upsample in one mode."""

    fixed: ClassVar[tuple[str, bool | None]]

    def __init__(self, size: Sizes = None, scale_factor: Factors = None) -> None:
        mode, align_corners = self.fixed
        super().__init__(size, scale_factor, mode, align_corners)


class UpsamplingNearest2d(_Upsampling2d):
    """The nearest pixel of (batch, channels, height, width) at each new place; see `Upsample`."""

    fixed = ("nearest", None)


class UpsamplingBilinear2d(_Upsampling2d):
    """Linear interpolation of (batch, channels, height, width), corners aligned; see `Upsample`."""

    fixed = ("bilinear", True)


class PixelShuffle(Function):
    """(..., c r**2, h, w) as (..., c, h r, w r), r being the upscale_factor (Shi 2016)."""

    function = F.pixel_shuffle
    upscale_factor: int


class PixelUnshuffle(Function):
    """(..., c, h r, w r) as (..., c r**2, h, w), r being the downscale_factor."""

    function = F.pixel_unshuffle
    downscale_factor: int


class ChannelShuffle(Function):
    """Channels dealt out anew, one of each group after the other (Zhang 2017)."""

    function = F.channel_shuffle
    groups: int


class Unfold(Function):
    """The windows of (batch, channels, height, width) as (batch, channels * window, windows)."""

    function = F.unfold
    kernel_size: int | Sequence[int]
    dilation: int | Sequence[int] = 1
    padding: int | Sequence[int] = 0
    stride: int | Sequence[int] = 1


class Fold(Function):
    """The windows that `Unfold` makes, summed where they lay in an image of `output_size`."""

    function = F.fold
    output_size: int | Sequence[int]
    kernel_size: int | Sequence[int]
    dilation: int | Sequence[int] = 1
    padding: int | Sequence[int] = 0
    stride: int | Sequence[int] = 1
