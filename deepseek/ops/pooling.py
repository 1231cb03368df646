"""Pooling: windows over the last axes, reduced. PyTorch's names and arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor, record
from deepseek.ir.op import Sample
from deepseek.ops import forms_nn
from deepseek.ops.activation import widened
from deepseek.ops.conv import spatial
from deepseek.ops.create import arange, full
from deepseek.ops.define import composite, converted, describe, op_of, shape_of
from deepseek.ops.elementwise import where
from deepseek.ops.reduce import argmax, lowest
from deepseek.ops.slicing import padded
from deepseek.ops.window import windows

__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "avg_pool",
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool", "max_pool1d", "max_pool2d",
    "max_pool3d",
]  # fmt: skip

Ints = tuple[int, ...]
Spread = int | Sequence[int]


def _framed(x: Tensor, padding: Ints, value: float) -> Tensor:
    """x with so much of a value around its last axes."""
    lead = (0,) * (x.ndim - len(padding))
    return padded(x, lead + padding, lead + padding, value=value)


def _last(n: int) -> Ints:
    return tuple(range(-n, 0))


def _windows_of(
    x: Any, kernel_size: Ints, stride: Ints, padding: Ints, dilation: Ints, value: Any
) -> Any:
    """Every window of a NumPy array, one after another on a new last axis."""
    n = len(kernel_size)
    frame = [(0, 0)] * (x.ndim - n) + [(p, p) for p in padding]
    x = np.pad(x, frame, constant_values=value)
    counts = [
        (s - d * (k - 1) - 1) // step + 1
        for s, k, step, d in zip(x.shape[-n:], kernel_size, stride, dilation, strict=True)
    ]
    parts = []
    for k in np.ndindex(*kernel_size):
        at = tuple(
            slice(i * d, i * d + (c - 1) * s + 1, s)
            for i, d, c, s in zip(k, dilation, counts, stride, strict=True)
        )
        parts.append(x[(..., *at)])
    return np.stack(parts, axis=-1)


def _sample(shape: Ints, kernel_size: Ints, stride: Ints, padding: Ints, **rest: Any) -> Sample:
    return Sample(
        (shape,), {"kernel_size": kernel_size, "stride": stride, "padding": padding} | rest
    )


def _max_reference(x: Any, kernel_size: Ints, stride: Ints, padding: Ints, dilation: Ints) -> Any:
    value = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    return np.max(_windows_of(x, kernel_size, stride, padding, dilation, value), axis=-1)


@composite(
    reference=_max_reference,
    samples=lambda: [
        _sample((2, 3, 9), (3,), (2,), (1,), dilation=(1,)),
        _sample((2, 3, 8, 7), (2, 2), (2, 2), (0, 0), dilation=(1, 1)),
        _sample((1, 2, 9, 8), (3, 2), (1, 2), (1, 1), dilation=(2, 1)),
        _sample((2, 4, 5, 4), (2,) * 3, (2,) * 3, (1,) * 3, dilation=(1,) * 3),
    ],
    onnx=forms_nn.pool("MaxPool", dilations="dilation"),
)
def max_pool(x: Tensor, kernel_size: Ints, stride: Ints, padding: Ints, dilation: Ints) -> Tensor:
    """The largest element of each window over the last axes; the gradient is the first's."""
    n = len(kernel_size)
    seen = windows(_framed(x, padding, lowest(x.dtype)), kernel_size, stride, dilation)
    best: Tensor = record(op_of(argmax), seen, axes=tuple(range(seen.ndim - n, seen.ndim)))
    places = arange(math.prod(kernel_size)).reshape(kernel_size)
    chosen = best.reshape((*shape_of(best), *(1,) * n)) == places
    return where(chosen, seen, 0).sum(axis=_last(n), dtype=x.dtype)


def _avg_reference(
    x: Any, kernel_size: Ints, stride: Ints, padding: Ints, count_include_pad: bool
) -> Any:
    ones = (1,) * len(kernel_size)
    total = np.sum(_windows_of(x, kernel_size, stride, padding, ones, 0), axis=-1)
    inside = np.ones_like(x)
    value = 1 if count_include_pad else 0
    return total / np.sum(_windows_of(inside, kernel_size, stride, padding, ones, value), axis=-1)


@composite(
    reference=_avg_reference,
    samples=lambda: [
        _sample((2, 3, 9), (3,), (2,), (1,), count_include_pad=True),
        _sample((2, 3, 8, 7), (2, 3), (2, 1), (1, 1), count_include_pad=False),
        _sample((2, 4, 5, 4), (2,) * 3, (2,) * 3, (0,) * 3, count_include_pad=True),
    ],
    tolerance=16,
    onnx=forms_nn.pool("AveragePool", count_include_pad="count_include_pad"),
)
def avg_pool(
    x: Tensor, kernel_size: Ints, stride: Ints, padding: Ints, count_include_pad: bool
) -> Tensor:
    """The mean of each window over the last axes, with or without the padding in it."""
    n = len(kernel_size)
    wide = widened(x)
    total = windows(_framed(wide, padding, 0), kernel_size, stride).sum(axis=_last(n))
    if count_include_pad or not any(padding):
        return converted(total / int(np.prod(kernel_size)), x.dtype)
    inside = full(shape_of(x)[-n:], 1, dtype=wide.dtype)
    counts = windows(_framed(inside, padding, 0), kernel_size, stride).sum(axis=_last(n))
    return converted(total / counts, x.dtype)


def _checked(op: str, rank: int, x: Tensor, ceil_mode: bool) -> None:
    if x.ndim not in (rank + 1, rank + 2):
        raise op_error(ShapeError, op, describe(x), f"(batch, channels, {rank} sizes)", user_line())
    if ceil_mode:
        raise op_error(
            ArgumentError, op, "ceil_mode=True", "ceil_mode=False", user_line(),
            "pad the input so that the last window is whole",
        )  # fmt: skip


def _padding(op: str, padding: Spread, window: Ints) -> Ints:
    pads = spatial(op, "padding", padding, len(window), 0)
    if any(2 * p > k for p, k in zip(pads, window, strict=True)):
        raise op_error(
            ArgumentError,
            op,
            f"padding={padding}",
            f"at most half of the window {window}",
            user_line(),
        )
    return pads


def _max_pool(
    op: str, rank: int, x: Tensor, kernel_size: Spread, stride: Spread | None, padding: Spread,
    dilation: Spread, ceil_mode: bool,
) -> Tensor:  # fmt: skip
    _checked(op, rank, x, ceil_mode)
    window = spatial(op, "kernel_size", kernel_size, rank)
    steps = window if stride is None else spatial(op, "stride", stride, rank)
    pads = _padding(op, padding, window)
    return max_pool(x, window, steps, pads, spatial(op, "dilation", dilation, rank))


def _avg_pool(
    op: str, rank: int, x: Tensor, kernel_size: Spread, stride: Spread | None, padding: Spread,
    ceil_mode: bool, count_include_pad: bool,
) -> Tensor:  # fmt: skip
    _checked(op, rank, x, ceil_mode)
    window = spatial(op, "kernel_size", kernel_size, rank)
    steps = window if stride is None else spatial(op, "stride", stride, rank)
    return avg_pool(x, window, steps, _padding(op, padding, window), bool(count_include_pad))


def max_pool1d(
    x: Tensor, kernel_size: Spread, stride: Spread | None = None, padding: Spread = 0,
    dilation: Spread = 1, ceil_mode: bool = False,
) -> Tensor:  # fmt: skip
    """The largest element of each window of (batch, channels, length)."""
    return _max_pool("max_pool1d", 1, x, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool2d(
    x: Tensor, kernel_size: Spread, stride: Spread | None = None, padding: Spread = 0,
    dilation: Spread = 1, ceil_mode: bool = False,
) -> Tensor:  # fmt: skip
    """The largest element of each window of (batch, channels, height, width)."""
    return _max_pool("max_pool2d", 2, x, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool3d(
    x: Tensor, kernel_size: Spread, stride: Spread | None = None, padding: Spread = 0,
    dilation: Spread = 1, ceil_mode: bool = False,
) -> Tensor:  # fmt: skip
    """The largest element of each window of (batch, channels, depth, height, width)."""
    return _max_pool("max_pool3d", 3, x, kernel_size, stride, padding, dilation, ceil_mode)


def avg_pool1d(
    x: Tensor, kernel_size: Spread, stride: Spread | None = None, padding: Spread = 0,
    ceil_mode: bool = False, count_include_pad: bool = True,
) -> Tensor:  # fmt: skip
    """The mean of each window of (batch, channels, length)."""
    return _avg_pool("avg_pool1d", 1, x, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool2d(
    x: Tensor, kernel_size: Spread, stride: Spread | None = None, padding: Spread = 0,
    ceil_mode: bool = False, count_include_pad: bool = True,
) -> Tensor:  # fmt: skip
    """The mean of each window of (batch, channels, height, width)."""
    return _avg_pool("avg_pool2d", 2, x, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool3d(
    x: Tensor, kernel_size: Spread, stride: Spread | None = None, padding: Spread = 0,
    ceil_mode: bool = False, count_include_pad: bool = True,
) -> Tensor:  # fmt: skip
    """The mean of each window of (batch, channels, depth, height, width)."""
    return _avg_pool("avg_pool3d", 3, x, kernel_size, stride, padding, ceil_mode, count_include_pad)


def _adaptive(op: str, rank: int, x: Tensor, output_size: Spread) -> Tensor:
    _checked(op, rank, x, False)
    sizes = spatial(op, "output_size", output_size, rank)
    if all(s == 1 for s in sizes):
        return x.mean(axis=_last(rank), keepdims=True)
    given = x.shape[-rank:]
    if any(n % s for n, s in zip(given, sizes, strict=True)):
        raise op_error(
            ArgumentError, op, f"{describe(x)} and output_size {sizes}",
            "sizes that divide the input's", user_line(),
        )  # fmt: skip
    window = tuple(int(n) // s for n, s in zip(given, sizes, strict=True))
    return avg_pool(x, window, window, (0,) * rank, True)


def adaptive_avg_pool1d(x: Tensor, output_size: Spread) -> Tensor:
    """The means of `output_size` equal parts of (batch, channels, length)."""
    return _adaptive("adaptive_avg_pool1d", 1, x, output_size)


def adaptive_avg_pool2d(x: Tensor, output_size: Spread) -> Tensor:
    """The means of `output_size` equal parts of (batch, channels, height, width)."""
    return _adaptive("adaptive_avg_pool2d", 2, x, output_size)


def adaptive_avg_pool3d(x: Tensor, output_size: Spread) -> Tensor:
    """The means of `output_size` equal parts of (batch, channels, depth, height, width)."""
    return _adaptive("adaptive_avg_pool3d", 3, x, output_size)
