"""Results whose size depends on values: the places that are not zero, and what is unique.

How many there are is computed at once; inside `@ds.jit` that is an error that asks for a `size`,
with which everything here is an ordinary part of the graph.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from deepseek.errors import ArgumentError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import int64
from deepseek.ops.create import arange, full, zeros
from deepseek.ops.define import as_tensor, axis_of, converted, describe, filled, is_size, shape_of
from deepseek.ops.elementwise import maximum, minimum, where
from deepseek.ops.index import scatter_add, take
from deepseek.ops.methods import method
from deepseek.ops.ordering import sort_
from deepseek.ops.searching import count_now
from deepseek.ops.view import concat, moveaxis, stack

__all__ = [
    "argwhere", "flatnonzero", "nonzero", "unique", "unique_all", "unique_consecutive",
    "unique_counts", "unique_inverse", "unique_values",
]  # fmt: skip


# ------------------------------------------------------------------------------------------ nonzero


def _places(op: str, x: Tensor, size: int | None, fill_value: int) -> tuple[Tensor, Tensor]:
    """(places in the flattened x that are not 0, how many of them are filled up)."""
    there = x if x.dtype.is_bool else x != 0
    flat = there.reshape((-1,))
    if is_size(shape_of(flat)[0], 0):
        return full((size or 0,), fill_value, dtype=int64), full((size or 0,), True)
    rank = converted(flat, int64).cumulative_sum(axis=0)
    total = rank.narrow(0, flat.shape[0] - 1, 1)
    if size is None:
        size = count_now(op, total.reshape(()), "pass size=..., or choose with ds.where")
    # Each place goes to the slot of its rank, all others to one more slot that is dropped.
    slot = where(flat, minimum(rank - 1, size), size)
    found = scatter_add(zeros(size + 1, dtype=int64), 0, slot, arange(flat.shape[0]))
    spare = arange(size) >= total
    return where(spare, fill_value, found.narrow(0, 0, size)), spare


def flatnonzero(x: Tensor, /, *, size: int | None = None, fill_value: int = 0) -> Tensor:
    """The places (int64) in the flattened x of what is not 0.

    With a `size`, so many: the first ones, and `fill_value` where there are fewer.

    >>> ds.flatnonzero(ds.asarray([0, 3, 0, 1])), ds.flatnonzero(ds.asarray([0, 3]), size=2)
    (tensor([1, 3]), tensor([1, 0]))
    """
    return _places("flatnonzero", as_tensor(x, "flatnonzero"), size, fill_value)[0]


@method("nonzero")
def nonzero(x: Tensor, /, *, size: int | None = None, fill_value: int = 0) -> tuple[Tensor, ...]:
    """For each axis the indices (int64) of what is not 0, row by row.

    With a `size`, so many: the first ones, and `fill_value` where there are fewer.

    >>> ds.nonzero(ds.asarray([[0, 3], [1, 0]]))
    (tensor([0, 1]), tensor([1, 0]))
    """
    return tuple(_indices("nonzero", as_tensor(x, "nonzero"), size, fill_value))


@method("argwhere")
def argwhere(x: Tensor, /, *, size: int | None = None, fill_value: int = 0) -> Tensor:
    """(n, axes): the indices (int64) of what is not 0, row by row; see `nonzero`.

    >>> ds.argwhere(ds.asarray([[0, 3], [1, 0]]))
    tensor([[0, 1],
            [1, 0]])
    """
    x = as_tensor(x, "argwhere")
    found = _indices("argwhere", x, size, fill_value)
    if found:
        return stack(found, axis=1)
    return zeros(_places("argwhere", x, size, 0)[0].shape[0], 0, dtype=int64)


def _indices(op: str, x: Tensor, size: int | None, fill_value: int) -> list[Tensor]:
    place, spare = _places(op, x, size, 0)
    out = []
    for extent in reversed(shape_of(x)):
        n = maximum(filled((), extent, int64), 1)
        out.append(where(spare, fill_value, place % n))
        place = place // n
    return out[::-1]


# ------------------------------------------------------------------------------------------- unique


class UniqueAll(NamedTuple):
    """What `unique_all` gives."""

    values: Tensor
    indices: Tensor
    inverse_indices: Tensor
    counts: Tensor


class UniqueCounts(NamedTuple):
    """What `unique_counts` gives."""

    values: Tensor
    counts: Tensor


class UniqueInverse(NamedTuple):
    """What `unique_inverse` gives."""

    values: Tensor
    inverse_indices: Tensor


def _grouped(
    op: str, begins: Tensor, order: Tensor | None, size: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """(where each run begins, which run each element of the input is in, how long the runs are).

    `begins` says which elements begin a run, `order` where those came from. Spare runs have the
    last one's beginning and the length 0.
    """
    n = begins.shape[0]
    run = converted(begins, int64).cumulative_sum(axis=0) - 1
    if size is None:
        total = run.narrow(0, n - 1, 1).reshape(()) + 1
        size = count_now(op, total, "pass size=..., the number of unique elements to expect")
    slot = minimum(run, size)
    empty = zeros(size + 1, dtype=int64)
    start = scatter_add(empty, 0, where(begins, slot, size), arange(n)).narrow(0, 0, size)
    counts = scatter_add(empty, 0, slot, full((n,), 1)).narrow(0, 0, size)
    inverse = slot if order is None else scatter_add(zeros(n, dtype=int64), 0, order, slot)
    return start, inverse, counts


def _unique(op: str, x: Tensor, size: int | None, fill_value: Any) -> UniqueAll:
    x = as_tensor(x, op)
    flat = x.reshape((-1,))
    if is_size(shape_of(flat)[0], 0):
        none = zeros(size or 0, dtype=int64)
        filler = 0 if fill_value is None else fill_value
        values = full((size or 0,), filler, dtype=x.dtype)
        return UniqueAll(values, none, zeros(shape_of(x), dtype=int64), none)
    ordered, order = sort_(flat)
    start, inverse, counts = _grouped(op, _differs(ordered), order, size)
    values, indices = take(ordered, start, axis=0), take(order, start, axis=0)
    spare = counts == 0
    if fill_value is None:
        fill_value = ordered.narrow(0, 0, 1)  # the least element
    values = where(spare, fill_value, values) if size is not None else values
    return UniqueAll(values, indices, inverse.reshape(shape_of(x)), counts)


def _differs(rows: Tensor) -> Tensor:
    """Whether a row differs from the one before; the first one does."""
    n = rows.shape[0]
    changed = rows.narrow(0, 1, n - 1) != rows.narrow(0, 0, n - 1)
    if rows.ndim > 1:
        changed = changed.any(axis=tuple(range(1, rows.ndim)))
    return concat([full((1,), True), changed])


def unique_all(x: Tensor, /, *, size: int | None = None, fill_value: Any = None) -> UniqueAll:
    """(values, indices, inverse_indices, counts) of x's unique elements, in order.

    `indices` are of first occurrences in the flattened x, `inverse_indices` bring x back. Each NaN
    is unique. With a `size`, so many: the first ones, and `fill_value` (by default the least
    element) with the count 0 where there are fewer.

    >>> values, indices, inverse, counts = ds.unique_all(ds.asarray([3, 1, 3]))
    >>> values, indices, inverse, counts
    (tensor([1, 3]), tensor([1, 0]), tensor([1, 0, 1]), tensor([1, 2]))
    """
    return _unique("unique_all", x, size, fill_value)


def unique_counts(x: Tensor, /, *, size: int | None = None, fill_value: Any = None) -> UniqueCounts:
    """(values, counts) of x's unique elements: see `unique_all`.

    >>> ds.unique_counts(ds.asarray([3, 1, 3])).counts
    tensor([1, 2])
    """
    found = _unique("unique_counts", x, size, fill_value)
    return UniqueCounts(found.values, found.counts)


def unique_inverse(
    x: Tensor, /, *, size: int | None = None, fill_value: Any = None
) -> UniqueInverse:
    """(values, inverse_indices) of x's unique elements: see `unique_all`.

    >>> ds.unique_inverse(ds.asarray([3, 1, 3])).inverse_indices
    tensor([1, 0, 1])
    """
    found = _unique("unique_inverse", x, size, fill_value)
    return UniqueInverse(found.values, found.inverse_indices)


def unique_values(x: Tensor, /, *, size: int | None = None, fill_value: Any = None) -> Tensor:
    """x's unique elements, in order: see `unique_all`.

    >>> ds.unique_values(ds.asarray([3, 1, 3])), ds.unique_values(ds.asarray([3, 1, 3]), size=3)
    (tensor([1, 3]), tensor([1, 3, 1]))
    """
    return _unique("unique_values", x, size, fill_value).values


def _answer(
    values: Tensor, inverse: Tensor, counts: Tensor, return_inverse: bool, return_counts: bool
) -> Any:
    asked = [values]
    asked += [inverse] if return_inverse else []
    asked += [counts] if return_counts else []
    return tuple(asked) if len(asked) > 1 else values


@method("unique")
def unique(
    x: Tensor, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False,  # noqa: A002
    dim: int | None = None, *, size: int | None = None,
) -> Any:  # fmt: skip
    """x's unique elements in order, or its unique slices along an axis.

    With `return_inverse` and `return_counts` a tuple: the elements, which of them each of x is, how
    often each occurs. `size` as in `unique_all`. Raises ArgumentError for slices without elements.

    >>> ds.unique(ds.asarray([[1, 2], [0, 5], [1, 2]]), dim=0, return_counts=True)
    (tensor([[0, 5],
            [1, 2]]), tensor([1, 2]))
    """
    x = as_tensor(x, "unique")
    if dim is None:
        found = _unique("unique", x, size, None)
        return _answer(
            found.values, found.inverse_indices, found.counts, return_inverse, return_counts
        )
    axis = axis_of("unique", x, dim)
    rows = moveaxis(x, axis, 0)
    n = rows.shape[0]
    if not n:
        none = zeros(0, dtype=int64)
        return _answer(x, none, none, return_inverse, return_counts)
    if not rows.size:
        raise op_error(
            ArgumentError, "unique", f"{describe(x)} and axis {axis}", "elements in the slices",
            user_line(),
        )  # fmt: skip
    flat = rows.reshape((n, -1))
    # Stable sorts from the last column to the first.
    order = arange(n)
    for column in reversed(range(flat.shape[1])):
        keys = take(flat.narrow(1, column, 1).reshape((n,)), order, axis=0)
        order = take(order, sort_(keys)[1], axis=0)
    ordered = take(rows, order, axis=0)
    start, inverse, counts = _grouped("unique", _differs(ordered), order, size)
    values = moveaxis(take(ordered, start, axis=0), 0, axis)
    return _answer(values, inverse, counts, return_inverse, return_counts)


@method("unique_consecutive")
def unique_consecutive(
    x: Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None,
    *, size: int | None = None,
) -> Any:  # fmt: skip
    """The first of each run of equal elements, or of equal slices along an axis; see `unique`.

    >>> ds.unique_consecutive(ds.asarray([1, 1, 3, 1]), return_counts=True)
    (tensor([1, 3, 1]), tensor([2, 1, 1]))
    """
    x = as_tensor(x, "unique_consecutive")
    axis = None if dim is None else axis_of("unique_consecutive", x, dim)
    rows = x.reshape((-1,)) if axis is None else moveaxis(x, axis, 0)
    if is_size(shape_of(rows)[0], 0):
        none = zeros(0, dtype=int64)
        return _answer(rows if axis is None else x, none, none, return_inverse, return_counts)
    start, inverse, counts = _grouped("unique_consecutive", _differs(rows), None, size)
    values = take(rows, start, axis=0)
    if axis is None:
        inverse = inverse.reshape(shape_of(x))
    else:
        values = moveaxis(values, 0, axis)
    return _answer(values, inverse, counts, return_inverse, return_counts)
