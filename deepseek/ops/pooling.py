"""Pooling under PyTorch's names and with its arguments; `windowed` has the records behind it.

In flow tensors (batch, channels, *sizes), or without a batch; sizes and windows may be one number
for all axes or one for each. Strides are the window's size by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ops.activation import relu
from deepseek.ops.conv import spatial
from deepseek.ops.define import describe
from deepseek.ops.elementwise import abs, pow, sign
from deepseek.ops.windowed import avg_pool, max_pool, max_pool_indices

__all__ = [
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "lp_pool1d", "lp_pool2d", "lp_pool3d",
    "max_pool1d", "max_pool2d", "max_pool3d",
]  # fmt: skip

Ints = tuple[int, ...]
Spread = int | Sequence[int]


def refuse_rank(op: str, rank: int, x: Tensor) -> None:
    if x.ndim not in (rank + 1, rank + 2):
        raise op_error(ShapeError, op, describe(x), f"(batch, channels, {rank} sizes)", user_line())


def window_of(op: str, rank: int, kernel_size: Spread, stride: Spread | None) -> tuple[Ints, Ints]:
    window = spatial(op, "kernel_size", kernel_size, rank)
    none = stride is None or stride == ()
    return window, window if none else spatial(op, "stride", stride, rank)


def padding_of(op: str, padding: Spread, window: Ints) -> Ints:
    pads = spatial(op, "padding", padding, len(window), 0)
    if any(2 * p > k for p, k in zip(pads, window, strict=True)):
        raise op_error(
            ArgumentError, op, f"padding={padding}", f"at most half of the window {window}",
            user_line(),
        )  # fmt: skip
    return pads


# ------------------------------------------------------------------------------ maxima of windows


def _max_pool(
    op: str, rank: int, x: Tensor, kernel_size: Spread, stride: Spread | None, padding: Spread,
    dilation: Spread, ceil_mode: bool, return_indices: bool,
) -> Any:  # fmt: skip
    refuse_rank(op, rank, x)
    window, steps = window_of(op, rank, kernel_size, stride)
    pads, spacing = padding_of(op, padding, window), spatial(op, "dilation", dilation, rank)
    given = (window, steps, pads, spacing, bool(ceil_mode))
    found = max_pool(x, *given)
    return (found, max_pool_indices(x, *given)) if return_indices else found


def max_pool1d(
    x: Tensor, kernel_size: Spread, stride: Spread | None = None, padding: Spread = 0,
    dilation: Spread = 1, ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """The largest element of each window of (batch, channels, length).

    With `ceil_mode` a last window may reach beyond the padding. `return_indices` also gives where
    each element is in the last axes flattened. Raises ArgumentError for padding of more than half a
    window, ShapeError where no window fits.

    >>> ds.max_pool1d(ds.arange(6.0).reshape(1, 1, 6), 2).tolist()
    [[[1.0, 3.0, 5.0]]]
    """
    return _max_pool(
        "max_pool1d", 1, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices
    )


def max_pool2d(
    x: Tensor, kernel_size: Spread, stride: Spread | None = None, padding: Spread = 0,
    dilation: Spread = 1, ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """The largest element of each window of (batch, channels, height, width).

    Options as in `max_pool1d`.

    >>> ds.max_pool2d(ds.ones(1, 1, 5, 5), 2, ceil_mode=True).shape
    (1, 1, 3, 3)
    """
    return _max_pool(
        "max_pool2d", 2, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices
    )


def max_pool3d(
    x: Tensor, kernel_size: Spread, stride: Spread | None = None, padding: Spread = 0,
    dilation: Spread = 1, ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """The largest element of each window of (batch, channels, depth, height, width).

    Options as in `max_pool1d`.

    >>> ds.max_pool3d(ds.ones(1, 1, 4, 4, 4), 2).shape
    (1, 1, 2, 2, 2)
    """
    return _max_pool(
        "max_pool3d", 3, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices
    )


# ------------------------------------------------------------------------------- means of windows


def _avg_pool(
    op: str, rank: int, x: Tensor, kernel_size: Spread, stride: Spread | None, padding: Spread,
    ceil_mode: bool, count_include_pad: bool, divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    refuse_rank(op, rank, x)
    window, steps = window_of(op, rank, kernel_size, stride)
    if divisor_override == 0:
        raise op_error(ArgumentError, op, "divisor_override=0", "another number", user_line())
    return avg_pool(
        x, window, steps, padding_of(op, padding, window), bool(count_include_pad), bool(ceil_mode),
        divisor_override,
    )  # fmt: skip


def avg_pool1d(
    x: Tensor, kernel_size: Spread, stride: Spread | None = None, padding: Spread = 0,
    ceil_mode: bool = False, count_include_pad: bool = True,
) -> Tensor:  # fmt: skip
    """The mean of each window of (batch, channels, length).

    Padding counts as zeros, or with `count_include_pad=False` not at all; what `ceil_mode` adds
    after it never counts.

    >>> ds.avg_pool1d(ds.arange(6.0).reshape(1, 1, 6), 2).tolist()
    [[[0.5, 2.5, 4.5]]]
    """
    return _avg_pool("avg_pool1d", 1, x, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool2d(
    x: Tensor, kernel_size: Spread, stride: Spread | None = None, padding: Spread = 0,
    ceil_mode: bool = False, count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    """The mean of each window of (batch, channels, height, width).

    Options as in `avg_pool1d`; the sum is divided by `divisor_override`, if there is one.

    >>> ds.avg_pool2d(ds.ones(1, 1, 2, 2), 2, divisor_override=1).tolist()
    [[[[4.0]]]]
    """
    return _avg_pool(
        "avg_pool2d", 2, x, kernel_size, stride, padding, ceil_mode, count_include_pad,
        divisor_override,
    )  # fmt: skip


def avg_pool3d(
    x: Tensor, kernel_size: Spread, stride: Spread | None = None, padding: Spread = 0,
    ceil_mode: bool = False, count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    """The mean of each window of (batch, channels, depth, height, width).

    Options as in `avg_pool2d`.

    >>> ds.avg_pool3d(ds.ones(1, 1, 4, 4, 4), 2).shape
    (1, 1, 2, 2, 2)
    """
    return _avg_pool(
        "avg_pool3d", 3, x, kernel_size, stride, padding, ceil_mode, count_include_pad,
        divisor_override,
    )  # fmt: skip


def _lp_pool(
    op: str, rank: int, x: Tensor, norm_type: float, kernel_size: Spread, stride: Spread | None,
    ceil_mode: bool,
) -> Tensor:  # fmt: skip
    refuse_rank(op, rank, x)
    window, steps = window_of(op, rank, kernel_size, stride)
    mean = avg_pool(pow(x, norm_type), window, steps, (0,) * rank, True, bool(ceil_mode))
    count = 1
    for k in window:
        count *= k
    # The sign is that of a sum of odd powers.
    return pow(sign(mean) * relu(abs(mean)) * count, 1.0 / norm_type)


def lp_pool1d(
    x: Tensor, norm_type: float, kernel_size: Spread, stride: Spread | None = None,
    ceil_mode: bool = False,
) -> Tensor:  # fmt: skip
    """sum(x**norm_type)**(1 / norm_type) of each window of (batch, channels, length).

    >>> ds.lp_pool1d(ds.asarray([[[3.0, 4.0]]]), 2, 2).tolist()
    [[[5.0]]]
    """
    return _lp_pool("lp_pool1d", 1, x, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(
    x: Tensor, norm_type: float, kernel_size: Spread, stride: Spread | None = None,
    ceil_mode: bool = False,
) -> Tensor:  # fmt: skip
    """sum(x**norm_type)**(1 / norm_type) of each window of (batch, channels, height, width).

    >>> ds.lp_pool2d(ds.ones(1, 1, 2, 2), 1.0, 2).tolist()
    [[[[4.0]]]]
    """
    return _lp_pool("lp_pool2d", 2, x, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(
    x: Tensor, norm_type: float, kernel_size: Spread, stride: Spread | None = None,
    ceil_mode: bool = False,
) -> Tensor:  # fmt: skip
    """sum(x**norm_type)**(1 / norm_type) of each window of (batch, channels, depth,
    height, width).

    >>> ds.lp_pool3d(ds.ones(1, 1, 4, 4, 4), 2.0, 2).shape
    (1, 1, 2, 2, 2)
    """
    return _lp_pool("lp_pool3d", 3, x, norm_type, kernel_size, stride, ceil_mode)
