"""Order statistics: median, quantiles and mode, each by one sort. NaN in, NaN out, unless skipped.

In flow floats or integers, out flow values in x's dtype (quantiles of integers in float32), and
int64 places where PyTorch's functions give them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import float64, int64
from deepseek.ir.op import Sample
from deepseek.ops.activation import floating, widened
from deepseek.ops.create import places_along
from deepseek.ops.define import (
    NUMERIC,
    as_tensor,
    axis_of,
    composite,
    converted,
    filled,
    is_size,
    shape_of,
)
from deepseek.ops.elementwise import maximum, minimum, where
from deepseek.ops.index import take_along_axis
from deepseek.ops.methods import method
from deepseek.ops.ordering import sort_
from deepseek.ops.prefix import cummax
from deepseek.ops.transcendental import floor
from deepseek.ops.view import stack

__all__ = ["median", "mode", "nanmedian", "nanquantile", "quantile"]

WAYS = ("linear", "lower", "higher", "nearest", "midpoint")


def _numbers(x: Tensor, axis: int) -> Tensor:
    """How many elements along an axis are not NaN."""
    return (x == x).sum(axis=axis, keepdims=True)


def _row(x: Tensor, dim: int | None) -> tuple[Tensor, int]:
    """x and an axis of it, flattened where there is none."""
    flat = x.reshape((-1,)) if dim is None or not x.ndim else x
    return flat, axis_of("median", flat, -1 if dim is None else dim)


# ------------------------------------------------------------------------------------------ medians


def _median_reference(x: Any, axis: int, skip: bool) -> Any:
    rows = np.moveaxis(x, axis, -1)
    count = np.sum(rows == rows, axis=-1, keepdims=True)
    order = np.argsort(rows, axis=-1, kind="stable")
    place = np.maximum(count - 1, 0) // 2
    if not skip:
        place = np.where(count < rows.shape[-1], count, (rows.shape[-1] - 1) // 2)
    at = np.take_along_axis(order, place, -1)
    return np.take_along_axis(rows, at, -1)[..., 0], at[..., 0]


def _median_samples() -> list[Sample]:
    gaps = np.array([[3, np.nan, 1, 2], [0, 4, 3, 1], [np.nan] * 4], np.float32)
    ties = np.array([[1, 3, 3, 0], [2, 2, 2, 2]])
    ways: list[dict[str, Any]] = [{"axis": 1, "skip": s} for s in (False, True)]
    shapes: list[Any] = [(3, 8), (2, 5, 3), gaps, ties]
    return [Sample((x,), kwargs) for x in shapes for kwargs in ways]


@composite(reference=_median_reference, samples=_median_samples, takes=NUMERIC)
def median_(x: Tensor, axis: int, skip: bool) -> tuple[Tensor, Tensor]:
    """(values, places) of the medians along an axis."""
    values, order = sort_(x, axis=axis)
    count = _numbers(x, axis)
    if skip:
        place = maximum(count - 1, 0) // 2
    else:
        size = filled((), shape_of(x)[axis], int64)
        place = where(count < size, count, (size - 1) // 2)  # NaN are at the end
    value, at = (take_along_axis(t, place, axis=axis).squeeze(axis) for t in (values, order))
    return value, at


def _medians(op: str, x: Tensor, dim: int | None, keepdim: bool, skip: bool) -> Any:
    x = as_tensor(x, op)
    if not x.size:
        raise op_error(ArgumentError, op, "no elements", "one at least", user_line())
    flat, axis = _row(x, dim)
    value, at = median_(flat, axis, skip)
    if dim is None:
        return value
    return _kept(x, axis, value, at) if keepdim else (value, at)


def _kept(x: Tensor, axis: int, *found: Tensor) -> tuple[Tensor, ...]:
    """Results with the axis of x that they lack, where x has axes."""
    return tuple(t.unsqueeze(axis) for t in found) if x.ndim else found


@method("median")
def median(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The middle element, the lower one of two; along an axis (values, indices).

    NaN where there is one. Raises ArgumentError for no elements.

    >>> ds.median(ds.asarray([3.0, 1.0, 2.0, 9.0]))
    tensor(2.)
    """
    return _medians("median", x, dim, keepdim, skip=False)


@method("nanmedian")
def nanmedian(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The `median` of what is not NaN.

    >>> ds.nanmedian(ds.asarray([3.0, np.nan, 2.0]))
    tensor(2.)
    """
    return _medians("nanmedian", x, dim, keepdim, skip=True)


# ---------------------------------------------------------------------------------------- quantiles


def _quantile_reference(x: Any, q: Any, axis: int, way: str, skip: bool) -> Any:
    of: Any = np.nanquantile if skip else np.quantile
    return of(x, q, axis=axis, method=way)


def _quantile_samples() -> list[Sample]:
    levels = (0.0, 0.3, 0.5, 1.0)
    gaps = np.array([[3, np.nan, 1, 2], [0, 4, 3, 1]], np.float32)
    plain = {"q": levels, "axis": 1, "way": "linear", "skip": False}
    out = [Sample(((3, 7),), plain | {"way": w}) for w in WAYS if w != "nearest"]
    out.append(Sample(((2, 5, 3),), plain | {"q": 0.25}))
    return out + [Sample((gaps,), plain | {"skip": s}) for s in (False, True)]


@composite(reference=_quantile_reference, samples=_quantile_samples, tolerance=16)
def quantile_(
    x: Tensor, q: Tensor | float | tuple[float, ...], axis: int, way: str, skip: bool
) -> Tensor:
    """The quantiles q of x along an axis; the axis of q comes first."""
    if not isinstance(q, Tensor):
        each = [filled((), float(v), float64) for v in (q if isinstance(q, tuple) else (q,))]
        q = stack(each) if isinstance(q, tuple) else each[0]
    wide = widened(x)
    values = sort_(wide, axis=axis)[0]
    count = _numbers(wide, axis)
    size = filled((), shape_of(x)[axis], int64)
    last = maximum(count - 1, 0) if skip else size - 1
    # One place for each level and row: the axis of levels in front.
    levels = q.reshape((-1,) + (1,) * x.ndim)
    at = converted(levels, float64) * converted(last, float64)
    if way == "nearest":
        at = at.round()
    low = converted(floor(at), int64)
    high = minimum(low + 1, last)
    share = converted(at - floor(at), wide.dtype)
    rows = values.reshape((1, *shape_of(values)))
    below, above = (take_along_axis(rows, p, axis=axis + 1) for p in (low, high))
    if way == "midpoint":
        share = where(share == 0, 0, 0.5)
    elif way in ("lower", "higher"):
        share = where(share == 0, 0, 0 if way == "lower" else 1)
    # The ends as they are: between infinities the distance is NaN.
    between = below + where(share == 0, 0, above - below) * share
    out = where(share == 0, below, where(share == 1, above, between))
    if not skip:
        out = where(count < size, float("nan"), out)
    lead = shape_of(q)
    kept = [s for i, s in enumerate(shape_of(x)) if i != axis]
    return converted(out.reshape((*lead, *kept)), x.dtype)


def _quantiles(
    op: str, x: Tensor, q: Any, dim: int | None, keepdim: bool, way: str, skip: bool
) -> Tensor:
    x = floating(as_tensor(x, op))
    if way not in WAYS:
        raise op_error(
            ArgumentError, op, f"interpolation={way!r}", f"one of {', '.join(WAYS)}", user_line()
        )
    if not isinstance(q, Tensor):
        values = np.asarray(q, np.float64)
        if values.ndim > 1 or not np.all((values >= 0) & (values <= 1)):
            raise op_error(ArgumentError, op, f"q={q}", "probabilities", user_line())
        q = tuple(values.tolist()) if values.ndim else float(values)
    flat, axis = _row(x, dim)
    if is_size(shape_of(flat)[axis], 0):
        raise op_error(ArgumentError, op, "no elements", "one at least", user_line())
    out: Tensor = quantile_(flat, q, axis, way, skip)
    if not keepdim:
        return out
    lead = shape_of(out)[: out.ndim - flat.ndim + 1]
    return out.reshape((*lead, *(1 if dim is None or i == axis else s
                                 for i, s in enumerate(shape_of(x)))))  # fmt: skip


@method("quantile")
def quantile(
    x: Tensor, q: Tensor | float | Sequence[float], dim: int | None = None, keepdim: bool = False,
    *, interpolation: str = "linear",
) -> Tensor:  # fmt: skip
    """The quantiles q of x's elements, or along an axis; of several q the first axis.

    Between two elements by `interpolation`: "linear", "lower", "higher", "nearest", "midpoint".
    NaN where there is one. Raises ArgumentError for no elements or a q beyond [0, 1].

    >>> ds.quantile(ds.asarray([1.0, 2.0, 4.0]), [0.5, 0.75])
    tensor([2., 3.])
    """
    return _quantiles("quantile", x, q, dim, keepdim, interpolation, skip=False)


@method("nanquantile")
def nanquantile(
    x: Tensor, q: Tensor | float | Sequence[float], dim: int | None = None, keepdim: bool = False,
    *, interpolation: str = "linear",
) -> Tensor:  # fmt: skip
    """The `quantile` of what is not NaN.

    >>> ds.nanquantile(ds.asarray([1.0, np.nan, 3.0]), 0.5)
    tensor(2.)
    """
    return _quantiles("nanquantile", x, q, dim, keepdim, interpolation, skip=True)


# --------------------------------------------------------------------------------------------- mode


def _mode_reference(x: Any, axis: int) -> Any:
    rows = np.moveaxis(x, axis, -1)
    values = np.empty(rows.shape[:-1], x.dtype)
    places = np.empty(rows.shape[:-1], np.int64)
    for at in np.ndindex(values.shape):
        found, counts = np.unique(rows[at], return_counts=True)
        values[at] = found[np.argmax(counts)]
        places[at] = np.flatnonzero(rows[at] == values[at])[-1]
    return values, places


@composite(
    reference=_mode_reference,
    samples=lambda: [
        Sample((np.array([[3, 1, 3, 1, 0], [7, 2, 5, 4, 4]]),), {"axis": 1}),
        Sample(((4, 3),), {"axis": 0}),
        Sample((np.array([7, 1, 7]),), {"axis": 0}),
    ],
    takes=NUMERIC,
)
def mode_(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """(values, places) of the most frequent elements along an axis."""
    values, order = sort_(x, axis=axis)
    place = places_along(x, axis)
    before = take_along_axis(values, maximum(place - 1, 0).broadcast_to(shape_of(x)), axis=axis)
    begins = where(values != before, place, 0)
    start = cummax(begins, axis)[0]
    longest = (place - start).argmax(axis=axis, keepdims=True)
    value = take_along_axis(values, longest, axis=axis).squeeze(axis)
    return value, take_along_axis(order, longest, axis=axis).squeeze(axis)


@method("mode")
def mode(x: Tensor, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, ...]:
    """(values, indices): the most frequent element along an axis, the least one of several.

    The indices are of its last occurrence. Raises ArgumentError for no elements.

    >>> ds.mode(ds.asarray([2, 1, 2, 1, 5]))
    (tensor(1), tensor(3))
    """
    x = as_tensor(x, "mode")
    if not x.size:
        raise op_error(ArgumentError, "mode", "no elements", "one at least", user_line())
    flat, axis = _row(x, dim)
    value, at = mode_(flat, axis)
    return _kept(x, axis, value, at) if keepdim else (value, at)
