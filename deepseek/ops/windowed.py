"""Windows reduced: the records behind pooling, over any number of last axes.

Windows are views of a tensor framed by values that do not matter. In ceil mode a last window may
reach beyond the padding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from deepseek.errors import ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor, record
from deepseek.ir import scalar
from deepseek.ir.dtype import int64
from deepseek.ir.graph import Node
from deepseek.ir.op import Sample
from deepseek.ir.scalar import as_expr
from deepseek.ir.shape import Size, is_true, numel
from deepseek.ops import forms, forms_nn
from deepseek.ops.activation import widened
from deepseek.ops.create import arange, full
from deepseek.ops.define import (
    ALL,
    composite,
    converted,
    describe,
    filled,
    minus,
    op_of,
    plus,
    quotient,
    shape_of,
    times,
)
from deepseek.ops.elementwise import stop_gradient, where
from deepseek.ops.index import scatter_add
from deepseek.ops.reductions import argmax, lowest
from deepseek.ops.scattering import scatter
from deepseek.ops.slicing import padded
from deepseek.ops.transcendental import isfinite
from deepseek.ops.window import windows

__all__ = ["avg_pool", "max_pool", "max_pool_indices", "max_unpool"]

Ints = tuple[int, ...]
Sizes = tuple[Size, ...]


def last(n: int) -> Ints:
    """The last n axes."""
    return tuple(range(-n, 0))


# -------------------------------------------------------------------------------- regular windows


def _beyond(size: Size, window: int, stride: int, padding: int, dilation: int) -> Size:
    """How far the last window reaches beyond the padding in ceil mode.

    It has to begin inside the input or the padding before it, as in PyTorch.
    """
    room = minus(plus(size, 2 * padding), dilation * (window - 1) + 1)
    steps = quotient(plus(room, stride - 1), stride)
    begins = scalar.call("le", as_expr(plus(size, padding)), as_expr(times(steps, stride)))
    if is_true(begins):
        steps = minus(steps, 1)
    over = minus(times(steps, stride), room)
    return max(over, 0) if isinstance(over, int) else over


def _framed(
    x: Tensor, window: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: bool,
    value: float,
) -> Tensor:  # fmt: skip
    """x with padding of a value around its last axes, and what ceil mode needs after that."""
    lead = (0,) * (x.ndim - len(padding))
    after: tuple[Size, ...] = padding
    if ceil_mode:
        sizes = shape_of(x)[len(lead) :]
        over = map(_beyond, sizes, window, stride, padding, dilation)
        after = tuple(plus(p, o) for p, o in zip(padding, over, strict=True))
    return padded(x, (*lead, *padding), (*lead, *after), value=value)


def _windows_of(
    x: Any, window: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: bool, value: Any
) -> Any:
    """Every window of a NumPy array, one after another on a new last axis."""
    n = len(window)
    counts = []
    for s, k, step, p, d in zip(x.shape[-n:], window, stride, padding, dilation, strict=True):
        places = (s + 2 * p - d * (k - 1) - 1) / step
        count = (math.ceil(places) if ceil_mode else math.floor(places)) + 1
        counts.append(count - (ceil_mode and (count - 1) * step >= s + p))
    frame = [(0, 0)] * (x.ndim - n) + [(p, p + max(window) * max(dilation)) for p in padding]
    x = np.pad(x, frame, constant_values=value)
    parts = []
    for within in np.ndindex(*window):
        at = tuple(
            slice(i * d, i * d + (c - 1) * s + 1, s)
            for i, d, c, s in zip(within, dilation, counts, stride, strict=True)
        )
        parts.append(x[(..., *at)])
    return np.stack(parts, axis=-1)


def _sample(shape: Ints, kernel_size: Ints, stride: Ints, padding: Ints, **rest: Any) -> Sample:
    return Sample(
        (shape,), {"kernel_size": kernel_size, "stride": stride, "padding": padding} | rest
    )


def _max_reference(
    x: Any, kernel_size: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: bool
) -> Any:
    value = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    found = _windows_of(x, kernel_size, stride, padding, dilation, ceil_mode, value)
    return np.max(found, axis=-1)


def _max_samples() -> list[Sample]:
    return [
        _sample((2, 3, 9), (3,), (2,), (1,), dilation=(1,)),
        _sample((2, 3, 8, 7), (2, 2), (2, 2), (0, 0), dilation=(1, 1)),
        _sample((1, 2, 9, 8), (3, 2), (1, 2), (1, 1), dilation=(2, 1)),
        _sample((2, 4, 5, 4), (2,) * 3, (2,) * 3, (1,) * 3, dilation=(1,) * 3),
        _sample((1, 2, 8, 7), (3, 2), (3, 2), (1, 0), dilation=(1, 1), ceil_mode=True),
        _sample((1, 1, 6), (2,), (3,), (1,), dilation=(1,), ceil_mode=True),
    ]


def _max_windows(
    x: Tensor, window: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: bool
) -> tuple[Tensor, Tensor]:
    """Every window, and where in it the first largest element is."""
    frame = _framed(x, window, stride, padding, dilation, ceil_mode, lowest(x.dtype))
    seen = windows(frame, window, stride, dilation)
    axes = tuple(range(seen.ndim - len(window), seen.ndim))
    return seen, record(op_of(argmax), seen, axes=axes)


@composite(
    reference=_max_reference,
    samples=_max_samples,
    onnx=forms_nn.pool("MaxPool", dilations="dilation", ceil_mode="ceil_mode"),
)
def max_pool(
    x: Tensor, kernel_size: Ints, stride: Ints, padding: Ints, dilation: Ints,
    ceil_mode: bool = False,
) -> Tensor:  # fmt: skip
    """The largest element of each window over the last axes; the gradient is the first's.

    >>> ds.max_pool(ds.arange(6.0), (2,), (2,), (0,), (1,)).tolist()
    [1.0, 3.0, 5.0]
    """
    n = len(kernel_size)
    seen, best = _max_windows(x, kernel_size, stride, padding, dilation, ceil_mode)
    places = arange(math.prod(kernel_size)).reshape(kernel_size)
    chosen = best.reshape((*shape_of(best), *(1,) * n)) == places
    return where(chosen, seen, 0).sum(axis=last(n), dtype=x.dtype)


def _indices_reference(
    x: Any, kernel_size: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: bool
) -> Any:
    n = len(kernel_size)
    given = (kernel_size, stride, padding, dilation, ceil_mode)
    numbers = np.arange(math.prod(x.shape[-n:])).reshape(x.shape[-n:])
    best = np.argmax(_windows_of(x, *given, -np.inf), axis=-1)
    found = np.broadcast_to(_windows_of(numbers, *given, -1), (*best.shape, math.prod(kernel_size)))
    return np.take_along_axis(found, best[..., None], axis=-1)[..., 0]


@composite(
    reference=_indices_reference,
    samples=_max_samples,
    onnx=forms_nn.pool("MaxPool", where=True, dilations="dilation", ceil_mode="ceil_mode"),
)
def max_pool_indices(
    x: Tensor, kernel_size: Ints, stride: Ints, padding: Ints, dilation: Ints,
    ceil_mode: bool = False,
) -> Tensor:  # fmt: skip
    """Where the largest element of each window is in the last axes of x flattened (int64).

    >>> ds.max_pool_indices(ds.asarray([3.0, 1.0, 0.0, 2.0]), (2,), (2,), (0,), (1,)).tolist()
    [0, 3]
    """
    _, best = _max_windows(x, kernel_size, stride, padding, dilation, ceil_mode)
    counts = shape_of(best)[-len(kernel_size) :]
    starts = [arange(c) * s - p for c, s, p in zip(counts, stride, padding, strict=True)]
    return flat_place(best, starts, kernel_size, shape_of(x)[-len(kernel_size) :], dilation)


def flat_place(
    best: Tensor, starts: Sequence[Tensor], window: Sequence[Size], sizes: Sizes, dilation: Ints
) -> Tensor:
    """The flat place of element `best` of a window that starts at `starts` on each axis."""
    n = len(window)
    place: Tensor | None = None
    for axis in range(n):
        inner = filled((), numel(tuple(window[axis + 1 :])), int64)
        within = best // inner % filled((), window[axis], int64)
        start = starts[axis].reshape((*shape_of(starts[axis]), *(1,) * (n - axis - 1)))
        at = start + within * dilation[axis]
        place = at if place is None else place * filled((), sizes[axis], int64) + at
    assert place is not None
    return place


def _avg_reference(
    x: Any, kernel_size: Ints, stride: Ints, padding: Ints, count_include_pad: bool,
    ceil_mode: bool, divisor_override: int | None,
) -> Any:  # fmt: skip
    ones = (1,) * len(kernel_size)
    total = np.sum(_windows_of(x, kernel_size, stride, padding, ones, ceil_mode, 0), axis=-1)
    if divisor_override:
        return total / divisor_override
    frame = [(0, 0)] * (x.ndim - len(padding)) + [(p, p) for p in padding]
    outer, none = (0,) * len(padding), math.prod(kernel_size) * 0
    counted = np.pad(np.ones_like(x), frame, constant_values=float(count_include_pad))
    parts = _windows_of(counted, kernel_size, stride, outer, ones, True, none)
    counts = np.sum(parts, axis=-1)[tuple(slice(n) for n in total.shape)]
    return total / counts


@forms.form("AveragePool")
def _avg_form(b: Any, node: Node, x: str) -> Any:
    """AveragePool, which has no divisor of its own."""
    if node.attrs["divisor_override"] is not None:
        return None
    write = forms_nn.pool(
        "AveragePool", count_include_pad="count_include_pad", ceil_mode="ceil_mode"
    )
    return write(b, node, x)


@composite(
    reference=_avg_reference,
    samples=lambda: [
        _sample((2, 3, 9), (3,), (2,), (1,), count_include_pad=True),
        _sample((2, 3, 8, 7), (2, 3), (2, 1), (1, 1), count_include_pad=False),
        _sample((2, 4, 5, 4), (2,) * 3, (2,) * 3, (0,) * 3, count_include_pad=True),
        _sample((1, 2, 8, 7), (3, 2), (3, 2), (1, 0), count_include_pad=True, ceil_mode=True),
        _sample((1, 2, 8, 7), (3, 2), (3, 2), (1, 1), count_include_pad=False, ceil_mode=True),
        _sample((1, 2, 6), (3,), (1,), (1,), count_include_pad=True, divisor_override=2),
    ],
    tolerance=16,
    onnx=_avg_form,
)
def avg_pool(
    x: Tensor, kernel_size: Ints, stride: Ints, padding: Ints, count_include_pad: bool,
    ceil_mode: bool = False, divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    """The mean of each window over the last axes, with or without the padding in it.

    >>> ds.avg_pool(ds.arange(6.0), (2,), (2,), (0,), True).tolist()
    [0.5, 2.5, 4.5]
    """
    n = len(kernel_size)
    wide, ones = widened(x), (1,) * n

    def sums(t: Tensor) -> Tensor:
        frame = _framed(t, kernel_size, stride, padding, ones, ceil_mode, 0)
        return windows(frame, kernel_size, stride).sum(axis=last(n))

    total = sums(wide)
    whole = not ceil_mode and (count_include_pad or not any(padding))
    if whole or divisor_override is not None:
        return converted(total / (divisor_override or math.prod(kernel_size)), x.dtype)
    inside = full(shape_of(x)[-n:], 1, dtype=wide.dtype)
    if not count_include_pad:
        return converted(total / sums(inside), x.dtype)
    inside = padded(inside, padding, padding, value=1)
    over = [minus(t, s) for t, s in zip(
        shape_of(_framed(wide, kernel_size, stride, padding, ones, ceil_mode, 0))[-n:],
        shape_of(inside), strict=True)]  # fmt: skip
    counted = windows(padded(inside, (0,) * n, tuple(over)), kernel_size, stride)
    return converted(total / counted.sum(axis=last(n)), x.dtype)


def _unpool_reference(x: Any, indices: Any, output_size: Ints) -> Any:
    n = len(output_size)
    out = np.zeros((*x.shape[:-n], math.prod(output_size)), x.dtype)
    rows = (*x.shape[:-n], -1)
    np.put_along_axis(out, indices.reshape(rows), x.reshape(rows), axis=-1)
    return out.reshape(*x.shape[:-n], *output_size)


@composite(
    reference=_unpool_reference,
    samples=lambda: [
        Sample(((2, 3), np.array([[0, 3, 5], [1, 2, 4]])), {"output_size": (6,)}),
        Sample(((1, 2, 2), np.array([[[0, 3], [9, 11]]])), {"output_size": (3, 4)}),
    ],
    takes=ALL,
)
def max_unpool(x: Tensor, indices: Tensor, output_size: Ints) -> Tensor:
    """Zeros, but for x's elements at the places that max pooling found them at.

    An element that several windows shared gets its place's whole gradient in each, as in PyTorch.
    Raises ShapeError unless both have one shape.

    >>> ds.max_unpool(ds.asarray([5.0, 6.0]), ds.asarray([1, 2]), (4,)).tolist()
    [0.0, 5.0, 6.0, 0.0]
    """
    n = len(output_size)
    lead = shape_of(x)[:-n]
    if shape_of(x) != shape_of(indices):
        raise op_error(
            ShapeError, "max_unpool", (describe(x), f"indices {describe(indices)}"), "one shape",
            user_line(),
        )  # fmt: skip
    count = numel(shape_of(x)[len(lead) :])
    zeros = filled((), 0, x.dtype).broadcast_to((*lead, math.prod(output_size)))
    places, values = indices.reshape((*lead, count)), x.reshape((*lead, count))
    still = stop_gradient(values)
    out = scatter(zeros, -1, places, still)
    if x.dtype.is_float:
        # Adds zeros, whose gradient comes from every place, also where windows shared one.
        moved = where(isfinite(still), values - still, 0)
        out = scatter_add(out, -1, places, moved)
    return out.reshape((*lead, *output_size))
