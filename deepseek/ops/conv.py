"""PyTorch's convolution functions: arguments brought into the form the contractions take.

A transposed convolution is the gradient of a convolution by its input, taken as a function.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.shape import Size, same
from deepseek.ops.contract import convolution, convolution_input_grad
from deepseek.ops.define import FLOATS, describe, minus, plus, promoted, shape_of, times

__all__ = [
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
]  # fmt: skip

Spread = int | Sequence[int]


def spatial(op: str, name: str, given: Any, rank: int, least: int = 1) -> tuple[int, ...]:
    """An argument as one int for each of `rank` axes. Raises ArgumentError."""
    values = (given,) * rank if isinstance(given, int) else tuple(given)
    if len(values) == 1:
        values *= rank
    if len(values) != rank or any(v < least for v in values):
        raise op_error(
            ArgumentError, op, f"{name}={given}", f"an int of at least {least}, or {rank} of them",
            user_line(),
        )  # fmt: skip
    return tuple(int(v) for v in values)


def _pairs(
    op: str,
    padding: Any,
    window: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[tuple[int, int], ...]:
    rank = len(window)
    if padding == "valid":
        return ((0, 0),) * rank
    if padding == "same":
        if any(s != 1 for s in stride):
            raise op_error(
                ArgumentError, op, f"padding='same' and stride {stride}", "stride 1", user_line(),
                "give the padding in numbers",
            )  # fmt: skip
        totals = [d * (k - 1) for k, d in zip(window, dilation, strict=True)]
        return tuple((t // 2, t - t // 2) for t in totals)
    return _numbers(op, padding, rank)


def _numbers(op: str, padding: Any, rank: int) -> tuple[tuple[int, int], ...]:
    """Padding before and after each axis, given as one number, one for each, or pairs."""
    if isinstance(padding, str):
        raise op_error(
            ArgumentError, op, f"padding={padding!r}", "'same', 'valid' or numbers", user_line()
        )
    if not isinstance(padding, int) and padding and not isinstance(padding[0], int):
        pairs = tuple((int(a), int(b)) for a, b in padding)
        if len(pairs) != rank or any(min(p) < 0 for p in pairs):
            raise op_error(
                ArgumentError, op, f"padding={padding}", f"{rank} pairs (before, after) of sizes",
                user_line(),
            )  # fmt: skip
        return pairs
    return tuple((p, p) for p in spatial(op, "padding", padding, rank, 0))


def _convolve(
    op: str, rank: int, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Spread,
    padding: Any, dilation: Spread, groups: int,
) -> Tensor:  # fmt: skip
    x, weight, *rest = promoted(op, (x, weight) if bias is None else (x, weight, bias), FLOATS)
    if weight.ndim != rank + 2 or x.ndim not in (rank + 1, rank + 2):
        raise op_error(
            ShapeError, op, (describe(x), describe(weight)),
            f"(batch, channels, {rank} sizes) and (out, channels / groups, {rank} sizes)",
            user_line(),
        )  # fmt: skip
    window = tuple(int(s) for s in weight.shape[2:])  # has to be known
    steps, spacing = spatial(op, "stride", stride, rank), spatial(op, "dilation", dilation, rank)
    alone = x.ndim == rank + 1
    out = convolution(
        x.reshape((1, *shape_of(x))) if alone else x, weight, stride=steps,
        padding=_pairs(op, padding, window, steps, spacing), dilation=spacing, groups=int(groups),
    )  # fmt: skip
    if rest:
        out = out + rest[0].reshape((-1,) + (1,) * rank)
    return out.reshape(shape_of(out)[1:]) if alone else out


def _convolve_transposed(
    op: str, rank: int, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Spread,
    padding: Any, output_padding: Spread, groups: int, dilation: Spread,
) -> Tensor:  # fmt: skip
    x, weight, *rest = promoted(op, (x, weight) if bias is None else (x, weight, bias), FLOATS)
    alone = x.ndim == rank + 1
    if weight.ndim != rank + 2 or x.ndim not in (rank + 1, rank + 2):
        raise op_error(
            ShapeError, op, (describe(x), describe(weight)),
            f"(batch, channels, {rank} sizes) and (channels, out / groups, {rank} sizes)",
            user_line(),
        )  # fmt: skip
    channels = shape_of(x)[-rank - 1]
    if not same(channels, shape_of(weight)[0]) or weight.shape[0] % groups:
        raise op_error(
            ShapeError, op, f"{describe(x)}, weight {describe(weight)} and {groups} groups",
            "channels that are the weight's first size, and divisible by groups", user_line(),
        )  # fmt: skip
    steps, spacing = spatial(op, "stride", stride, rank), spatial(op, "dilation", dilation, rank)
    pads = _numbers(op, padding, rank)
    more = spatial(op, "output_padding", output_padding, rank, 0)
    if any(m >= max(s, d) for m, s, d in zip(more, steps, spacing, strict=True)):
        raise op_error(
            ArgumentError, op, f"output_padding={output_padding}",
            f"less than the stride {steps} or the dilation {spacing}", user_line(),
        )  # fmt: skip
    size: list[Size] = []
    for n, k, s, d, p, m in zip(
        shape_of(x)[-rank:], shape_of(weight)[2:], steps, spacing, pads, more, strict=True
    ):
        window = times(minus(k, 1), d)
        size.append(plus(plus(times(minus(n, 1), s), window), 1 + m - sum(p)))
    if any(isinstance(n, int) and n < 0 for n in size):
        raise op_error(
            ShapeError, op, f"{describe(x)}, weight {describe(weight)} and padding {padding}",
            "less padding than there is to take away", user_line(),
        )  # fmt: skip
    out = convolution_input_grad(
        x.reshape((1, *shape_of(x))) if alone else x, weight, size=tuple(size), stride=steps,
        padding=pads, dilation=spacing, groups=int(groups),
    )  # fmt: skip
    if rest:
        out = out + rest[0].reshape((-1,) + (1,) * rank)
    return out.reshape(shape_of(out)[1:]) if alone else out


def conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Spread = 1, padding: Any = 0,
    dilation: Spread = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """Cross-correlation of (batch, channels, length) with (out, channels / groups, window).

    `padding` is a number, a pair (before, after) in a list, "same" or "valid".

    >>> ds.conv1d(ds.ones(1, 1, 4), ds.ones(1, 1, 2)).tolist()
    [[[2.0, 2.0, 2.0]]]
    """
    return _convolve("conv1d", 1, x, weight, bias, stride, padding, dilation, groups)


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Spread = 1, padding: Any = 0,
    dilation: Spread = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """Cross-correlation of (batch, channels, height, width) with (out, channels / groups, window).

    `padding` is a number, one for each axis, a pair (before, after) for each, "same" or "valid".

    >>> ds.conv2d(ds.ones(1, 3, 8, 8), ds.ones(4, 3, 3, 3), stride=2, padding=1).shape
    (1, 4, 4, 4)
    """
    return _convolve("conv2d", 2, x, weight, bias, stride, padding, dilation, groups)


def conv3d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Spread = 1, padding: Any = 0,
    dilation: Spread = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """Cross-correlation of (batch, channels, depth, height, width) with (out, channels / groups,
    window).

    `padding` is a number, one for each axis, a pair (before, after) for each, "same" or "valid".

    >>> ds.conv3d(ds.ones(1, 1, 4, 4, 4), ds.ones(2, 1, 3, 3, 3), padding="same").shape
    (1, 2, 4, 4, 4)
    """
    return _convolve("conv3d", 3, x, weight, bias, stride, padding, dilation, groups)


def conv_transpose1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Spread = 1, padding: Any = 0,
    output_padding: Spread = 0, groups: int = 1, dilation: Spread = 1,
) -> Tensor:  # fmt: skip
    """The gradient by its input of a convolution with a weight (channels, out / groups, window).

    x is (batch, channels, length). `padding` is taken away from the result,
    `output_padding`, less than the stride or the dilation, added at its end. Raises ShapeError and
    ArgumentError for what does not fit.

    >>> ds.conv_transpose1d(ds.ones(1, 1, 2), ds.ones(1, 1, 2), stride=2).tolist()
    [[[1.0, 1.0, 1.0, 1.0]]]
    """
    return _convolve_transposed(
        "conv_transpose1d", 1, x, weight, bias, stride, padding, output_padding, groups, dilation
    )


def conv_transpose2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Spread = 1, padding: Any = 0,
    output_padding: Spread = 0, groups: int = 1, dilation: Spread = 1,
) -> Tensor:  # fmt: skip
    """The gradient by its input of a convolution with a weight (channels, out / groups, window).

    x is (batch, channels, height, width). `padding` is taken away from the result,
    `output_padding`, less than the stride or the dilation, added at its end. Raises ShapeError and
    ArgumentError for what does not fit.

    >>> ds.conv_transpose2d(ds.ones(1, 3, 4, 4), ds.ones(3, 2, 2, 2), stride=2).shape
    (1, 2, 8, 8)
    """
    return _convolve_transposed(
        "conv_transpose2d", 2, x, weight, bias, stride, padding, output_padding, groups, dilation
    )


def conv_transpose3d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Spread = 1, padding: Any = 0,
    output_padding: Spread = 0, groups: int = 1, dilation: Spread = 1,
) -> Tensor:  # fmt: skip
    """The gradient by its input of a convolution with a weight (channels, out / groups, window).

    x is (batch, channels, depth, height, width). `padding` is taken away from the result,
    `output_padding`, less than the stride or the dilation, added at its end. Raises ShapeError and
    ArgumentError for what does not fit.

    >>> ds.conv_transpose3d(ds.ones(1, 1, 2, 2, 2), ds.ones(1, 2, 3, 3, 3)).shape
    (1, 2, 4, 4, 4)
    """
    return _convolve_transposed(
        "conv_transpose3d", 3, x, weight, bias, stride, padding, output_padding, groups, dilation
    )
