"""`x[key]` and `x[key] = value`, with NumPy's meaning of keys.

A key is a slice and a reshape, and advanced indices of what these give (`keys`): integers become a
take or a scatter, masks their indices or, in assignments, a choice. A tensor is a value: an
assignment makes the handle show a new one, and no other tensor changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor, state
from deepseek.ir.dtype import int64
from deepseek.ir.shape import Shape, numel, same
from deepseek.ops.define import (
    as_tensor,
    axis_of,
    converted,
    describe,
    expanded,
    filled,
    is_size,
    minus,
    shape_of,
)
from deepseek.ops.elementwise import maximum, minimum, stop_gradient, where
from deepseek.ops.index import scatter_add, take
from deepseek.ops.keys import Key, parse
from deepseek.ops.methods import attribute, method
from deepseek.ops.scattering import scatter
from deepseek.ops.slicing import slice_, slice_update
from deepseek.ops.view import broadcast_arrays, moveaxis, permute_dims

__all__ = ["getitem", "index_put", "select", "select_scatter", "setitem", "slice_scatter"]


# ----------------------------------------------------------------------------------------- reading


def _sliced(x: Tensor, key: Key) -> Tensor:
    whole = key.sliced == shape_of(x) and not any(s != 1 for s in key.step)
    if not whole:
        x = slice_(x, start=key.start, step=key.step, shape=key.sliced)
    return x.reshape(key.shape)


def getitem(x: Tensor, key: Any) -> Tensor:
    """x[key] for ints, slices, ..., None, integer tensors or lists, and masks, as in NumPy.

    How many elements a mask picks depends on its values, so a mask that is computed inside
    `@ds.jit` raises ArgumentError. Raises ShapeError for an integer out of range, in a tensor too
    where its elements are there already or DS_EAGER or DS_VERIFY is on. Otherwise what is read
    there is some element of x, and an assignment changes nothing.

    >>> x = ds.arange(12).reshape(3, 4)
    >>> x[1:, ds.asarray([0, 3])].tolist()
    [[4, 7], [8, 11]]
    >>> x[x % 5 == 0].tolist()
    [0, 5, 10]
    """
    parsed = parse(x, key, "getitem")
    out = _sliced(x, parsed)
    return _taken(out, parsed) if parsed.arrays else out


class Advanced:
    """The integer indices of a key as one index of the axes they are for, merged into one."""

    def __init__(self, x: Tensor, key: Key) -> None:
        """x is what the slice and the reshape of the key gave."""
        places: list[Tensor] = broadcast_arrays(*(i for _, i in key.arrays))
        self.axes = [a for a, _ in key.arrays if a is not None]
        self.shape = shape_of(places[0])
        source = shape_of(x)
        self.sizes = tuple(source[a] for a in self.axes)
        given = [p for (a, _), p in zip(key.arrays, places, strict=True) if a is not None]
        self.index = given[0] if len(given) == 1 else self._together(given) if given else None
        self.rest = [a for a in range(x.ndim) if a not in self.axes]
        self.at = 0 if key.front else key.at

    def _together(self, places: list[Tensor]) -> Tensor:
        """Indices of several axes as one; beyond all elements where one of them is out of range."""
        index = outside = filled((), 0, int64)
        for place, size in zip(places, self.sizes, strict=True):
            n = filled((), size, int64)
            at = where(place < 0, place + n, place)
            index = index * n + at
            outside = outside | converted((at < 0) | (at >= n), int64)
        return where(outside != 0, filled((), numel(self.sizes), int64), index)

    def merged(self, x: Tensor) -> Tensor:
        """x with its indexed axes merged into one, which stands where the index's axes will."""
        first, last = self.rest[: self.at], self.rest[self.at :]
        x = permute_dims(x, [*first, *self.axes, *last])
        sizes = shape_of(x)
        end = self.at + len(self.axes)
        return x.reshape((*sizes[: self.at], numel(self.sizes), *sizes[end:]))

    def apart(self, x: Tensor) -> Tensor:
        """The inverse of `merged`."""
        first, last = self.rest[: self.at], self.rest[self.at :]
        sizes = shape_of(x)
        x = x.reshape((*sizes[: self.at], *self.sizes, *sizes[self.at + 1 :]))
        order = [*first, *self.axes, *last]
        return permute_dims(x, [order.index(a) for a in range(len(order))])


def _taken(x: Tensor, key: Key) -> Tensor:
    """x indexed by integer tensors, which broadcast."""
    given = Advanced(x, key)
    if given.index is None:  # truth values only
        sizes = shape_of(x)
        before, after = sizes[: given.at], sizes[given.at :]
        return x.reshape((*before, 1, *after)).broadcast_to((*before, *given.shape, *after))
    return take(given.merged(x), given.index, axis=given.at)


# -------------------------------------------------------------------------------------- assignment


def refuse_leaf(x: Tensor, what: str) -> None:
    """Raises where a change would lose the place gradients arrive at, as in PyTorch."""
    if x.requires_grad and x.is_leaf and state.grad:
        raise op_error(
            ArgumentError, what, f"{describe(x)}, a leaf that requires gradients",
            "a tensor that does not, or was computed", user_line(),
            "change it under ds.no_grad(), or compute a new tensor",
        )  # fmt: skip


def assigned(x: Tensor, value: Tensor) -> Tensor:
    """x showing another value; a leaf that requires gradients stays one."""
    if x.requires_grad and x.is_leaf:
        value = stop_gradient(value)  # gradients arrive here and go no further
        value._value.requires_grad = True
    return x._rebind(value._value)


def setitem(x: Tensor, key: Any, value: Any) -> None:
    """x[key] = value, converted to x's dtype and broadcast, for keys as in `getitem`.

    The handle shows a new value. The last of several values for one element stays. The mask of an
    assignment may be computed inside `@ds.jit`, if the key holds no other tensor; the number of
    values is not checked there, and where they are too few the last one is repeated.

    >>> x = ds.zeros(2, 3)
    >>> x[:, ds.asarray([2, 0])] = ds.asarray([1.0, 2.0])
    >>> x[x == 0] = -1
    >>> x.tolist()
    [[2.0, -1.0, 1.0], [2.0, -1.0, 1.0]]
    """
    refuse_leaf(x, "setitem")
    assigned(x, updated(x, key, value, "setitem"))


def updated(x: Tensor, key: Any, value: Any, op: str, accumulate: bool = False) -> Tensor:
    """x with x[key] replaced by, or with `accumulate` increased by, a value."""
    parsed = parse(x, key, op, keep_masks=not accumulate)
    if parsed.masks and (len(parsed.masks) > 1 or parsed.arrays):
        parsed = parse(x, key, op)
    v = converted(as_tensor(value, op, x.dtype), x.dtype)
    if not parsed.arrays and not parsed.masks:
        v = _fitted(v, parsed.shape, op).reshape(parsed.sliced)
        if accumulate:
            v = v + slice_(x, start=parsed.start, step=parsed.step, shape=parsed.sliced)
        return slice_update(x, v, start=parsed.start, step=parsed.step)
    part = _sliced(x, parsed)
    change = _chosen if parsed.masks else _added if accumulate else _replaced
    part = change(part, parsed, v, op).reshape(parsed.sliced)
    if parsed.sliced == shape_of(x) and not any(s != 1 for s in parsed.step):
        return part
    return slice_update(x, part, start=parsed.start, step=parsed.step)


def _fitted(v: Tensor, shape: Shape, op: str) -> Tensor:
    """A value broadcast to a shape, less what axes of size 1 it has in front."""
    v = _without_leading(v, len(shape))
    try:
        return v.broadcast_to(shape)
    except ShapeError:
        raise op_error(
            ShapeError, op, f"a value {describe(v)}", f"one that broadcasts to {shape}",
            user_line(),
        ) from None  # fmt: skip


def _without_leading(v: Tensor, rank: int) -> Tensor:
    sizes = list(shape_of(v))
    while len(sizes) > rank and is_size(sizes[0], 1):
        del sizes[0]
    return v.reshape(tuple(sizes))


def _replaced(x: Tensor, key: Key, v: Tensor, op: str, change: Any = scatter) -> Tensor:
    """x with the elements at integer indices replaced."""
    given = Advanced(x, key)
    rest = [shape_of(x)[a] for a in given.rest]
    before, after = rest[: given.at], rest[given.at :]
    v = _fitted(v, (*before, *given.shape, *after), op)
    total = numel(given.shape)
    if is_size(total, 0):
        return x
    if given.index is None:
        return v.reshape(shape_of(x)) if change is scatter else x + v.reshape(shape_of(x))
    rows = (*before, total, *after)
    column = (*(1,) * len(before), total, *(1,) * len(after))
    index = expanded(given.index.reshape(column), rows)
    return given.apart(change(given.merged(x), given.at, index, v.reshape(rows)))


def _added(x: Tensor, key: Key, v: Tensor, op: str) -> Tensor:
    """x with values added at integer indices; repeats add up."""
    return _replaced(x, key, v, op, scatter_add)


def _chosen(x: Tensor, key: Key, v: Tensor, op: str) -> Tensor:
    """x with the elements where a mask holds replaced, in a size that does not depend on it."""
    ((axis, mask),) = key.masks
    at = 0 if key.front else axis
    rank = x.ndim - mask.ndim
    v = _without_leading(v, rank + 1)
    behind = rank - at  # axes of the result after that of the true elements
    spot = v.ndim - behind - 1
    if spot < 0:
        missing = (1,) * (behind - v.ndim)
        v = v.reshape((*(1,) * mask.ndim, *missing, *shape_of(v)))
    elif is_size(shape_of(v)[spot], 1):
        sizes = shape_of(v)
        v = v.reshape((*sizes[:spot], *(1,) * mask.ndim, *sizes[spot + 1 :]))
    else:
        if state.trace is None:
            _refuse_other_count(mask, v, spot, op)
        if is_size(shape_of(v)[spot], 0):
            return x
        order = converted(mask.reshape((-1,)), int64).cumulative_sum(axis=0) - 1
        last = minus(shape_of(v)[spot], 1)
        place = minimum(maximum(order, 0), filled((), last, int64))
        v = take(v, place.reshape(shape_of(mask)), axis=spot)
    lead = max(spot, 0)
    v = v.reshape((1,) * (at - lead) + shape_of(v)) if at > lead else v
    if at != axis:
        v = moveaxis(v, range(mask.ndim), range(axis, axis + mask.ndim))
    wide = mask.reshape((*(1,) * axis, *shape_of(mask), *(1,) * (rank - axis)))
    return where(wide, _fitted(v, shape_of(x), op), x)


def _refuse_other_count(mask: Tensor, v: Tensor, axis: int, op: str) -> None:
    count = int(np.count_nonzero(mask.numpy()))
    if count != shape_of(v)[axis]:
        raise op_error(
            ShapeError, op, f"a value {describe(v)} for {count} true elements of the mask",
            "one value, or one for each of them", user_line(),
        )  # fmt: skip


# --------------------------------------------------------------------------------- without a change


@method("index_put")
def index_put(
    x: Tensor, /, indices: Sequence[Any], values: Any, accumulate: bool = False
) -> Tensor:
    """x with x[*indices] replaced by, or with `accumulate` increased by, values; repeats add up.

    >>> at = (ds.asarray([0, 0]), ds.asarray([1, 1]))
    >>> ds.index_put(ds.zeros(2, 2), at, ds.ones(2), accumulate=True).tolist()
    [[0.0, 2.0], [0.0, 0.0]]
    """
    key = tuple(slice(None) if i is None else i for i in indices)
    return updated(as_tensor(x, "index_put"), key, values, "index_put", accumulate)


@method("select")
def select(x: Tensor, /, dim: int, index: int) -> Tensor:
    """The slice of x at one index of an axis, which it loses.

    >>> ds.select(ds.asarray([[1, 2], [3, 4]]), 1, -1).tolist()
    [2, 4]
    """
    x = as_tensor(x, "select")
    return getitem(x, _key_at(x, dim, index, "select"))


@method("select_scatter")
def select_scatter(x: Tensor, /, src: Tensor, dim: int, index: int) -> Tensor:
    """x with the slice at one index of an axis replaced by src.

    >>> ds.select_scatter(ds.zeros(2, 2), ds.ones(2), 1, 0).tolist()
    [[1.0, 0.0], [1.0, 0.0]]
    """
    x = as_tensor(x, "select_scatter")
    return _written(x, src, _key_at(x, dim, index, "select_scatter"), "select_scatter")


@method("slice_scatter")
def slice_scatter(
    x: Tensor, /, src: Tensor, dim: int = 0, start: int | None = None, end: int | None = None,
    step: int = 1,
) -> Tensor:  # fmt: skip
    """x with the slice start:end:step of an axis replaced by src.

    >>> ds.slice_scatter(ds.zeros(5), ds.ones(2), 0, 1, 5, 2).tolist()
    [0.0, 1.0, 0.0, 1.0, 0.0]
    """
    x = as_tensor(x, "slice_scatter")
    key = _key_at(x, dim, slice(start, end, step), "slice_scatter")
    return _written(x, src, key, "slice_scatter")


def _key_at(x: Tensor, dim: int, item: Any, op: str) -> tuple[Any, ...]:
    """The key of an item at one axis, everything of the others."""
    return (*(slice(None),) * axis_of(op, x, dim), item)


def _written(x: Tensor, src: Any, key: Any, op: str) -> Tensor:
    """x with x[key] replaced by a tensor of just that shape."""
    shape, source = parse(x, key, op).shape, as_tensor(src, op, x.dtype)
    if len(shape) != source.ndim or not all(map(same, shape, shape_of(source))):
        raise op_error(
            ShapeError, op, (describe(x), describe(source)), f"a source of shape {shape}",
            user_line(),
        )  # fmt: skip
    return updated(x, key, source, op)


attribute("__getitem__", getitem, __name__)
attribute("__setitem__", setitem, __name__)
