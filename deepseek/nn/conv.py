"""Convolution and transposed convolution over one, two or three axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from deepseek.errors import ArgumentError, ShapeError, op_error, unknown, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.nn import functional as F
from deepseek.nn import init
from deepseek.nn.basic import new_parameter
from deepseek.nn.module import Module

__all__ = [
    "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d",
]  # fmt: skip

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")

Spread = int | Sequence[int]


def spread(value: Spread, rank: int) -> tuple[int, ...]:
    """One number for each axis."""
    return (value,) * rank if isinstance(value, int) else tuple(value)


class _Conv(Module):
    """Cross-correlation with weight (out, in / groups, *kernel_size), plus a bias for each channel.

    Padding is numbers, or "same" or "valid"; `padding_mode` says what with.
    """

    rank: ClassVar[int]
    function: ClassVar[Callable[..., Tensor]]

    settings = ("stride", "padding", "dilation", "groups", "padding_mode", "kernel_size")
    padding_modes: ClassVar[tuple[str, ...]] = PADDING_MODES
    paddings: ClassVar[tuple[str, ...]] = ("same", "valid")

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
        if padding_mode not in self.padding_modes:
            raise unknown("padding_mode", padding_mode, self.padding_modes)
        if isinstance(padding, str):
            self._refuse_words(padding, spread(stride, self.rank))
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = spread(kernel_size, self.rank)
        self.stride = spread(stride, self.rank)
        self.padding = padding if isinstance(padding, str) else spread(padding, self.rank)
        self.dilation = spread(dilation, self.rank)
        self.groups = groups
        self.padding_mode = padding_mode
        self.weight = new_parameter(self.weight_shape(), dtype, device)
        self.bias = new_parameter((out_channels,), dtype, device) if bias else None
        self.reset_parameters()

    def _refuse_words(self, padding: str, stride: tuple[int, ...]) -> None:
        """Raises for paddings that are no numbers and mean nothing here."""
        if padding not in self.paddings:
            raise ArgumentError(
                f"{type(self).__name__}: got padding={padding!r}; wanted "
                + ", ".join([*map(repr, self.paddings), "a number, or one for each axis"])
            )
        if padding == "same" and any(s != 1 for s in stride):
            raise ArgumentError(
                f"{type(self).__name__}: got padding='same' and stride={stride}; wanted stride 1\n"
                "  help: give the padding in numbers"
            )

    def weight_shape(self) -> tuple[int, ...]:
        """(out_channels, in_channels / groups, *kernel_size)."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    def reset_parameters(self) -> None:
        """Draw weight and bias evenly over [-b, b), b = 1 / sqrt(inputs of one output)."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in, _ = init.fans(self.weight)
            bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self.amounts(), mode=self.padding_mode), 0
        convolve = type(self).function
        return convolve(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def amounts(self) -> tuple[int, ...]:
        """The padding as `F.pad` takes it: before and after each axis, from the last one on."""
        out: list[int] = []
        for axis in reversed(range(self.rank)):
            if isinstance(self.padding, str):
                total = self.dilation[axis] * (self.kernel_size[axis] - 1)
                total = total if self.padding == "same" else 0
                out += [total // 2, total - total // 2]
            else:
                out += [self.padding[axis]] * 2
        return tuple(out)

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
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode!r}"
        return text if self.bias is not None else text + ", bias=False"


class Conv1d(_Conv):
    """Convolution of (batch, channels, length); see `Conv2d`."""

    rank = 1
    function = F.conv1d


class Conv2d(_Conv):
    """Convolution of (batch, channels, height, width), or of one image (channels, height, width).

    `padding` may be "same" or "valid"; `padding_mode` is "zeros", "reflect", "replicate" or
    "circular". Raises ArgumentError for groups that do not divide the channels, ShapeError for an
    input that does not fit.

    >>> ds.nn.Conv2d(3, 8, kernel_size=3, stride=2, padding=1)(ds.zeros(4, 3, 32, 32)).shape
    (4, 8, 16, 16)
    """

    rank = 2
    function = F.conv2d


class Conv3d(_Conv):
    """Convolution of (batch, channels, depth, height, width); see `Conv2d`."""

    rank = 3
    function = F.conv3d


class _ConvTranspose(_Conv):
    """The gradient of a convolution with respect to its input, weight (in, out / groups,
    *kernel_size), plus a bias for each channel.

    `output_padding` makes the result longer where a stride leaves its size open; `output_size`,
    given to the call, says the size itself.
    """

    settings = ("output_padding",)
    padding_modes = ("zeros",)
    paddings = ()

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Spread,
        stride: Spread = 1,
        padding: Spread = 0,
        output_padding: Spread = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Spread = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups,
                         bias, padding_mode, device, dtype)  # fmt: skip
        self.output_padding = spread(output_padding, self.rank)

    def weight_shape(self) -> tuple[int, ...]:
        return (self.in_channels, self.out_channels // self.groups, *self.kernel_size)

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        extra = self.output_padding
        if output_size is not None:
            extra = self.missing(x, tuple(output_size)[-self.rank :])
        return type(self).function(
            x, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )

    def missing(self, x: Tensor, wanted: tuple[int, ...]) -> tuple[int, ...]:
        """The output padding that gives the wanted sizes. Raises ShapeError."""
        out = []
        for axis, size in enumerate(wanted):
            step, width = self.stride[axis], self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            least = (x.shape[axis - self.rank] - 1) * step - 2 * int(self.padding[axis]) + width
            if not least <= size < least + step:
                raise op_error(
                    ShapeError, type(self).__name__, f"output_size {wanted}",
                    f"{least} to {least + step - 1} on axis {axis - self.rank}", user_line(),
                )  # fmt: skip
            out.append(size - least)
        return tuple(out)

    def extra_repr(self) -> str:
        text = super().extra_repr()
        if self.output_padding != (0,) * self.rank:
            text += f", output_padding={self.output_padding}"
        return text


class ConvTranspose1d(_ConvTranspose):
    """Transposed convolution of (batch, channels, length); see `ConvTranspose2d`."""

    rank = 1
    function = F.conv_transpose1d


class ConvTranspose2d(_ConvTranspose):
    """Transposed convolution of (batch, channels, height, width): the adjoint of `Conv2d`.

    `output_padding` is added at the end of the result, to tell apart the sizes that a strided
    convolution makes one.

    >>> ds.nn.ConvTranspose2d(8, 3, 3, stride=2, padding=1)(ds.zeros(4, 8, 16, 16)).shape
    (4, 3, 31, 31)
    """

    rank = 2
    function = F.conv_transpose2d


class ConvTranspose3d(_ConvTranspose):
    """Transposed convolution of (batch, channels, depth, height, width); see `ConvTranspose2d`."""

    rank = 3
    function = F.conv_transpose3d
