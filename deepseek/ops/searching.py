"""Places in order: binary search, buckets, membership, and counts of them.

In flow values and sorted sequences, out flow int64 places or counts. NaN counts as the largest.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, DTypeError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor, state
from deepseek.ir.dtype import float32, int64
from deepseek.ir.op import Sample
from deepseek.ir.shape import same
from deepseek.ops.control import scan
from deepseek.ops.create import arange, full, linspace, zeros
from deepseek.ops.define import (
    ALL,
    NUMERIC,
    as_tensor,
    composite,
    converted,
    describe,
    filled,
    is_size,
    minus,
    promoted,
    shape_of,
)
from deepseek.ops.elementwise import logical_not, minimum, where
from deepseek.ops.index import scatter_add, take, take_along_axis
from deepseek.ops.methods import method
from deepseek.ops.reductions import max as largest
from deepseek.ops.reductions import min as smallest
from deepseek.ops.transcendental import floor

__all__ = ["bincount", "bucketize", "histc", "histogram", "isin", "searchsorted"]


def count_now(op: str, number: Tensor, remedy: str) -> int:
    """A result's size that depends on values: computed at once. Raises inside a trace."""
    if state.trace is not None:
        raise op_error(
            ArgumentError, op, "a result whose size depends on values, inside a compiled function",
            "a size that is known before", user_line(), remedy,
        )  # fmt: skip
    return int(number)


# ------------------------------------------------------------------------------------ binary search


def _search_reference(x1: Any, x2: Any, right: bool) -> Any:
    if x1.ndim == 1:
        return np.searchsorted(x1, x2, side="right" if right else "left")
    found = [_search_reference(row, values, right) for row, values in zip(x1, x2, strict=True)]
    return np.stack(found)


def _search_samples() -> list[Sample]:
    line = np.array([1, 3, 3, 5, 8])
    rows = np.sort(np.arange(14).reshape(2, 7) % 5, axis=1)
    ends = np.array([0.0, 1.0, np.inf, np.nan], np.float32)
    probes = np.array([-np.inf, 0.0, 0.5, 1.0, np.inf, np.nan], np.float32)
    return [
        *(Sample((line, np.array([[0, 3, 4], [5, 8, 9]])), {"right": r}) for r in (False, True)),
        Sample((rows, np.array([[0, 2, 4], [1, 3, 5]])), {"right": False}),
        *(Sample((ends, probes), {"right": r}) for r in (False, True)),
        Sample((np.zeros((0,), np.float32), probes), {"right": False}),
    ]


@composite(reference=_search_reference, samples=_search_samples, takes=NUMERIC)
def searchsorted_(x1: Tensor, x2: Tensor, right: bool) -> Tensor:
    """Where the values of x2 go in the ordered rows of x1, after equal ones or before."""
    count = shape_of(x1)[-1]
    bits = count.bit_length() if isinstance(count, int) else 40
    if not bits:
        return full(shape_of(x2), 0, dtype=int64)
    number = filled((), count, int64)

    def before(a: Tensor, b: Tensor) -> Tensor:
        less = a < b
        return less | ((b != b) & (a == a)) if a.dtype.is_float else less

    def step(place: Tensor, width: Tensor) -> tuple[Tensor, None]:
        probe = place + (width - 1)
        inside = minimum(probe, number - 1)
        row = take_along_axis if x1.ndim > 1 else take
        element = row(x1, inside, axis=-1)
        goes = logical_not(before(x2, element)) if right else before(element, x2)
        return where(goes & (probe < number), place + width, place), None

    widths = filled((), 1, int64) << (bits - 1 - arange(bits))
    place, _ = scan(step, full(shape_of(x2), 0, dtype=int64), widths)
    out: Tensor = place
    return out


def searchsorted(
    x1: Tensor, x2: Tensor | float, /, *, side: str | None = None, sorter: Tensor | None = None,
    right: bool = False,
) -> Tensor:  # fmt: skip
    """The places (int64) in x1 where the values of x2 keep it in order.

    x1 is in order along its last axis, or `sorter` says which order that would be. With several
    axes, x2 has the same ones but for the last. Before equal elements for `side` "left", after them
    for "right" (or `right`). Raises ShapeError where the axes differ. ArgumentError for other
    sides.

    >>> ds.searchsorted(ds.asarray([1, 3, 5]), ds.asarray([3, 4, 9]), side="right")
    tensor([2, 2, 3])
    """
    if side not in (None, "left", "right") or side == "left" and right:
        raise op_error(
            ArgumentError, "searchsorted", f"side={side!r} and right={right}",
            "'left' or 'right'", user_line(),
        )  # fmt: skip
    x1, x2 = promoted("searchsorted", (x1, x2), NUMERIC)
    lead, wanted = shape_of(x1)[:-1], shape_of(x2)[:-1]
    alike = len(lead) == len(wanted) and all(map(same, lead, wanted))
    if not x1.ndim or x1.ndim > 1 and not alike:
        raise op_error(
            ShapeError, "searchsorted", (describe(x1), describe(x2)),
            "a vector, or rows for the values' rows", user_line(),
        )  # fmt: skip
    if sorter is not None:
        x1 = take_along_axis(x1, sorter, axis=-1)
    return searchsorted_(x1, x2, right=right or side == "right")


def bucketize(x: Tensor, boundaries: Tensor, *, right: bool = False) -> Tensor:
    """The number (int64) of the bucket between ordered boundaries that each element is in.

    A bucket includes its upper boundary, or with `right` its lower one. Raises ShapeError unless
    the boundaries are a vector.

    >>> ds.bucketize(ds.asarray([1.0, 2.5, 9.0]), ds.asarray([1.0, 2.0, 3.0]))
    tensor([0, 2, 3])
    """
    if as_tensor(boundaries, "bucketize").ndim != 1:
        got = f"boundaries {describe(boundaries)}"
        raise op_error(ShapeError, "bucketize", got, "a vector", user_line())
    return searchsorted(boundaries, x, right=right)


@composite(
    reference=lambda x, test, invert: np.isin(x, test, invert=invert),
    samples=lambda: [
        Sample((np.arange(12).reshape(3, 4), np.array([3, 1, 3, 40])), {"invert": False}),
        Sample((np.arange(5), np.array([[3], [1]])), {"invert": True}),
        Sample((np.array([0.0, 1.0, np.nan], np.float32), np.array([2.0, 1.0], np.float32)),
               {"invert": False}),
        Sample((np.arange(5), np.zeros((0,), np.int64)), {"invert": False}),
    ],
    takes=ALL,
)  # fmt: skip
def isin_(x: Tensor, test: Tensor, invert: bool) -> Tensor:
    """Whether each element of x equals one of test."""
    x, test = promoted("isin", (x, test), ALL)
    flat = test.reshape((-1,))
    if is_size(shape_of(flat)[0], 0):
        return full(shape_of(x), invert)
    if x.dtype.is_bool:
        x, flat = converted(x, int64), converted(flat, int64)
    ordered = flat.sort()
    last = filled((), minus(shape_of(flat)[0], 1), int64)
    place = minimum(searchsorted_(ordered, x, right=False), last)
    found: Tensor = take(ordered, place, axis=0) == x
    return logical_not(found) if invert else found


def isin(
    elements: Tensor | float, test_elements: Tensor | float, *, assume_unique: bool = False,
    invert: bool = False,
) -> Tensor:  # fmt: skip
    """Whether each element is (with `invert`: is not) equal to one of the test elements.

    >>> ds.isin(ds.asarray([1, 2, 3]), ds.asarray([3, 1]))
    tensor([ True, False,  True])
    """
    x, test = as_tensor(elements, "isin"), as_tensor(test_elements, "isin")
    return isin_(x, test, invert=bool(invert))


# ------------------------------------------------------------------------------------------- counts


@method("bincount")
def bincount(
    x: Tensor, weights: Tensor | None = None, minlength: int = 0, *, size: int | None = None
) -> Tensor:
    """How often each of 0, 1, ... occurs in a vector of integers, or the sums of their weights.

    The result has max(x) + 1 elements, `minlength` at least; that depends on values, so inside
    `@ds.jit` give a `size`: larger elements then are not counted. Raises DTypeError for what is no
    vector of integers, ArgumentError for elements below 0.

    >>> ds.bincount(ds.asarray([0, 2, 2]), minlength=4)
    tensor([1, 0, 2, 0])
    """
    if x.ndim != 1 or not x.dtype.is_integer:
        raise op_error(DTypeError, "bincount", describe(x), "a vector of integers", user_line())
    if size is None:
        some = not is_size(shape_of(x)[0], 0)
        need = "pass size=..., the number of counts"
        count = count_now("bincount", largest(x), need) + 1 if some else 0
        if some and count_now("bincount", smallest(x), need) < 0:
            raise op_error(ArgumentError, "bincount", "elements below 0", "none", user_line())
        size = max(count, minlength)
    return _counted(x, size, weights)


def _counted(places: Tensor, size: int, weights: Tensor | None = None) -> Tensor:
    """The sums of weights (or of ones) at places; those beyond the size are left out."""
    ones = full(shape_of(places), 1) if weights is None else weights
    inside = (places >= 0) & (places < size)
    at = where(inside, converted(places, int64), size)
    return scatter_add(zeros(size + 1, dtype=ones.dtype), 0, at, ones).narrow(0, 0, size)


def histc(x: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:  # noqa: A002
    """How many elements are in each of `bins` equal parts of [min, max], in x's dtype.

    Where min and max are equal, they are the least and greatest element. Raises ArgumentError for
    no bins, or bounds in the wrong order.

    >>> ds.histc(ds.asarray([0.0, 1.0, 1.5, 4.0]), bins=4)
    tensor([1., 2., 0., 1.])
    """
    if bins < 1 or min > max:
        got = f"bins={bins}, min={min}, max={max}"
        raise op_error(ArgumentError, "histc", got, "bins >= 1 and min <= max", user_line())
    (flat,) = promoted("histc", (x,), NUMERIC)
    flat = flat.reshape((-1,))
    dtype = flat.dtype if flat.dtype.is_float else float32
    wide = converted(flat, dtype.accumulator)
    if is_size(shape_of(flat)[0], 0):
        return zeros(bins, dtype=dtype)
    low, high = (filled((), float(v), wide.dtype) for v in (min, max))
    if min == max:
        low, high = smallest(wide), largest(wide)
        flat_range = low == high  # one value: the parts lie around it
        low, high = where(flat_range, low - 1, low), where(flat_range, high + 1, high)
    place = converted(floor((wide - low) / (high - low) * bins), int64)
    inside = (wide >= low) & (wide <= high)
    counts = _counted(where(inside, minimum(place, bins - 1), bins), bins)
    return converted(counts, dtype)


def histogram(
    x: Tensor, bins: int | Tensor = 10, *, range: tuple[float, float] | None = None,  # noqa: A002
    weight: Tensor | None = None, density: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(counts, edges): the sums of weights (or of ones) in parts of a range, the last one closed.

    `bins` is the number of equal parts of `range` (by default from the least to the greatest
    element), or a vector of ordered edges. A `density` has the integral 1.

    >>> ds.histogram(ds.asarray([1.0, 2.0, 2.5]), ds.asarray([0.0, 2.0, 4.0]))[0]
    tensor([1., 2.])
    """
    (flat,) = promoted("histogram", (x,), NUMERIC)
    flat = converted(flat, flat.dtype if flat.dtype.is_float else float32).reshape((-1,))
    if isinstance(bins, Tensor):
        edges = converted(bins, flat.dtype)
    elif range is not None:
        edges = linspace(float(range[0]), float(range[1]), bins + 1, dtype=flat.dtype)
    elif is_size(shape_of(flat)[0], 0):
        edges = linspace(0.0, 1.0, bins + 1, dtype=flat.dtype)
    else:
        low, high = smallest(flat), largest(flat)
        alone = low == high
        low, high = where(alone, low - 0.5, low), where(alone, high + 0.5, high)
        at = arange(bins + 1, dtype=flat.dtype)
        edges = where(at == bins, high, low + (high - low) * (at / bins))
    parts = edges.shape[0] - 1
    last = edges.narrow(0, parts, 1)
    place = searchsorted(edges, flat, right=True) - 1
    place = where(flat == last, parts - 1, where(flat > last, parts, place))
    ones = full(shape_of(flat), 1, dtype=flat.dtype) if weight is None else weight.reshape((-1,))
    counts = _counted(place, parts, converted(ones, flat.dtype))
    if density:
        widths = edges.narrow(0, 1, parts) - edges.narrow(0, 0, parts)
        counts = counts / widths / counts.sum()
    return counts, edges
