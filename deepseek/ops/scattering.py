"""Writing at computed places: scatter and what follows from it, and choices by a mask.

Indices are checked as in `index`. Of several updates of one element the last one stays, as in
NumPy; where updates are combined, they are so in their order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, DTypeError, ShapeError, op_error, unknown, user_line
from deepseek.frontend.tensor import Tensor, record, state
from deepseek.ir.dtype import int64
from deepseek.ir.op import Kind, Sample
from deepseek.ir.shape import Shape
from deepseek.ops import forms
from deepseek.ops.create import arange, full, ones
from deepseek.ops.define import (
    ALL,
    as_tensor,
    axis_of,
    composite,
    converted,
    describe,
    expanded,
    filled,
    is_size,
    minus,
    op_of,
    primitive,
    shape_of,
)
from deepseek.ops.elementwise import maximum, minimum, where
from deepseek.ops.index import (
    cropped,
    indices_of,
    scatter_add,
    scatter_infer,
    scatter_meaning,
    scatter_reference,
    take,
    take_along_axis,
    updates_for,
)
from deepseek.ops.methods import attribute, method
from deepseek.ops.reductions import highest, lowest
from deepseek.ops.view import broadcast_arrays

__all__ = [
    "index_add", "index_copy", "index_fill", "index_reduce", "index_select", "masked_fill",
    "masked_scatter", "masked_select", "put", "scatter", "scatter_elements",
    "scatter_reduce",
]  # fmt: skip


def _last_writers(index: Tensor, axis: int, like: Tensor) -> Tensor:
    """Of updates that go to one place, which is the one that stays there."""
    count = shape_of(index)[axis]
    column = tuple(count if i == axis else 1 for i in range(index.ndim))
    numbers = expanded(arange(count).reshape(column), shape_of(index))
    nobody = expanded(filled((), -1, int64), shape_of(like))
    won = _recorded(nobody, index, numbers, axis, "set")
    reached = cropped(won, shape_of(index), axis)
    return take_along_axis(reached, index, axis=axis) == numbers


def _scatter_vjp(
    g: Tensor, y: Tensor, x: Tensor, indices: Tensor, updates: Tensor, *, axis: int, combine: str
) -> tuple[Any, ...]:
    def at(t: Tensor) -> Tensor:
        reached = cropped(t, shape_of(indices), axis)
        return take_along_axis(reached, indices, axis=axis)

    def onto(t: Tensor, u: Tensor, how: str) -> Tensor:
        return _recorded(t, indices, u, axis, how)

    none = expanded(filled((), 0, g.dtype), shape_of(indices))
    if combine == "set":
        return onto(g, none, "set"), None, where(_last_writers(indices, axis, x), at(g), 0)
    if combine == "mul":
        # The product of all others: of all that are not 0, where no other is.
        zeros = onto(converted(x == 0, g.dtype), converted(updates == 0, g.dtype), "add")
        rest = onto(where(x == 0, 1, x), where(updates == 0, 1, updates), "mul")

        def others(t: Tensor, zeros: Tensor, rest: Tensor) -> Tensor:
            alone = where(zeros == 1, rest, 0)
            return where(t == 0, alone, where(zeros == 0, rest / where(t == 0, 1, t), 0))

        return g * others(x, zeros, rest), None, at(g) * others(updates, at(zeros), at(rest))
    # Elements that share the extreme share its gradient.
    mine, theirs = converted(x == y, g.dtype), converted(updates == at(y), g.dtype)
    shared = g / onto(mine, theirs, "add")
    return shared * mine, None, at(shared) * theirs


def _recorded(x: Tensor, index: Tensor, updates: Tensor, axis: int, combine: str) -> Tensor:
    if combine == "add":
        return scatter_add(x, axis, index, updates)
    out: Tensor = record(op_of(scatter_elements), x, index, updates, axis=axis, combine=combine)
    return out


def _scatter_samples() -> list[Sample]:
    rows, columns = np.array([[4, 0, 4], [4, 1, -1]]), np.array([[1, 3, 1], [0, -3, 0]])
    out = [Sample(((5, 3), 0, rows, (2, 3)), {"combine": "set"})]
    for combine in ("set", "mul", "maximum", "minimum"):
        out.append(Sample(((2, 4), 1, columns, (2, 3)), {"combine": combine}))
        out.append(Sample(((5, 4, 2), 0, rows[..., None], (2, 3, 1)), {"combine": combine}))
    return [*out, Sample(((3,), 0, np.zeros((0,), np.int64), (0,)), {"combine": "set"})]


@primitive(
    Kind.SCATTER,
    infer=scatter_infer("scatter_elements"),
    meaning=scatter_meaning,
    reference=scatter_reference,
    vjp=_scatter_vjp,
    takes=ALL,
    samples=_scatter_samples,
    tolerance=16,
    onnx=forms.scatter,
)
def scatter_elements(x: Tensor, /, dim: int, index: Any, src: Any, *, combine: str) -> Tensor:
    """x with src set at, multiplied into, or compared with the places of an index, in order.

    `combine` is "set", "mul", "minimum" or "maximum": else ArgumentError.

    >>> ds.scatter_elements(ds.ones(3), 0, [2, 2], ds.asarray([5.0, 7.0]), combine="mul")
    tensor([ 1.,  1., 35.])
    """
    if combine not in COMBINATIONS:
        raise unknown("combine", combine, COMBINATIONS)
    x = as_tensor(x, "scatter")
    axis = axis_of("scatter", x, dim)
    index, updates = updates_for("scatter", x, axis, index, src)
    if combine == "set":
        return _recorded(x, index, converted(updates, x.dtype), axis, combine)
    carried = x.dtype.accumulator
    wide = _recorded(converted(x, carried), index, converted(updates, carried), axis, combine)
    return converted(wide, x.dtype)


COMBINATIONS = ("set", "mul", "maximum", "minimum")
_REDUCTIONS = {
    None: "set", "add": "add", "sum": "add", "multiply": "mul", "prod": "mul", "amax": "maximum",
    "amin": "minimum",
}  # fmt: skip


def scatter(x: Tensor, /, dim: int, index: Any, src: Any, *, reduce: str | None = None) -> Tensor:
    """x with src[..., i, ...], or one number, put at index[..., i, ...] of axis `dim`.

    The last of several updates of one element stays. `reduce` says how an update is combined with
    what is there instead: "add" ("sum"), "multiply" ("prod"), "amax" or "amin". Raises
    ArgumentError for others, ShapeError for an index known to be out of range.

    >>> ds.scatter(ds.zeros(4), 0, ds.asarray([3, 1]), ds.asarray([5.0, 6.0])).tolist()
    [0.0, 6.0, 0.0, 5.0]
    """
    if reduce not in _REDUCTIONS:
        raise op_error(
            ArgumentError, "scatter", f"reduce={reduce!r}",
            f"one of {', '.join(map(repr, _REDUCTIONS))}", user_line(),
        )  # fmt: skip
    if reduce in ("add", "sum"):
        return scatter_add(x, dim, index, src)
    return scatter_elements(x, dim, index, src, combine=_REDUCTIONS[reduce])


# ------------------------------------------------------------------------- one index for each slice


def _rows(name: str, x: Tensor, dim: int, index: Any) -> tuple[int, Tensor]:
    """The axis, and an index of one axis for it."""
    axis = axis_of(name, x, dim)
    index = indices_of(name, index, shape_of(x)[axis])
    if index.ndim > 1:
        raise op_error(
            ShapeError, name, f"an index {describe(index)}", "an index of one axis", user_line()
        )
    return axis, index.reshape((-1,))


def _spread(index: Tensor, axis: int, shape: Shape) -> Tensor:
    """An index for each element from an index for each slice of an axis."""
    column = tuple(-1 if i == axis else 1 for i in range(len(shape)))
    count = shape_of(index)[0]
    return expanded(index.reshape(column), (*shape[:axis], count, *shape[axis + 1 :]))


@method("index_select")
def index_select(x: Tensor, /, dim: int, index: Any) -> Tensor:
    """The slices of x at the given indices of an axis.

    >>> ds.index_select(ds.asarray([[1, 2], [3, 4]]), 1, ds.asarray([1, 1])).tolist()
    [[2, 2], [4, 4]]
    """
    x = as_tensor(x, "index_select")
    axis, index = _rows("index_select", x, dim, index)
    if not x.ndim:
        return x
    return take(x, index, axis=axis)


@method("index_add")
def index_add(x: Tensor, /, dim: int, index: Any, source: Tensor, *, alpha: float = 1) -> Tensor:
    """x with alpha * source[..., i, ...] added to the slice index[i] of an axis; repeats add up.

    >>> ds.index_add(ds.zeros(3), 0, ds.asarray([2, 2]), ds.ones(2)).tolist()
    [0.0, 0.0, 2.0]
    """
    x, source = as_tensor(x, "index_add"), as_tensor(source, "index_add")
    axis, index = _rows("index_add", x, dim, index)
    source = source if is_number(alpha, 1) else source * alpha
    return scatter_add(x, axis, _spread(index, axis, shape_of(x)), source)


def is_number(x: Any, value: float) -> bool:
    """Whether x is this very Python number."""
    return isinstance(x, (int, float)) and x == value


@method("index_copy")
def index_copy(x: Tensor, /, dim: int, index: Any, source: Tensor) -> Tensor:
    """x with the slices index[i] of an axis replaced by source[..., i, ...]; the last one stays.

    >>> ds.index_copy(ds.zeros(3), 0, ds.asarray([2, 0]), ds.asarray([5.0, 6.0])).tolist()
    [6.0, 0.0, 5.0]
    """
    x = as_tensor(x, "index_copy")
    axis, index = _rows("index_copy", x, dim, index)
    return scatter(x, axis, _spread(index, axis, shape_of(x)), source)


@method("index_fill")
def index_fill(x: Tensor, /, dim: int, index: Any, value: Any) -> Tensor:
    """x with every element of the slices index[i] of an axis replaced by one value.

    >>> ds.index_fill(ds.zeros(2, 2), 1, ds.asarray([0]), 7).tolist()
    [[7.0, 0.0], [7.0, 0.0]]
    """
    x = as_tensor(x, "index_fill")
    axis, index = _rows("index_fill", x, dim, index)
    return scatter(x, axis, _spread(index, axis, shape_of(x)), value)


@method("index_reduce")
def index_reduce(
    x: Tensor, /, dim: int, index: Any, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """`scatter_reduce` with one index for each slice of an axis.

    >>> ds.index_reduce(ds.ones(2), 0, ds.asarray([1, 1]), ds.asarray([3.0, 4.0]), "prod").tolist()
    [1.0, 12.0]
    """
    x = as_tensor(x, "index_reduce")
    axis, index = _rows("index_reduce", x, dim, index)
    places = _spread(index, axis, shape_of(x))
    return scatter_reduce(x, axis, places, source, reduce, include_self=include_self)


@method("scatter_reduce")
def scatter_reduce(
    x: Tensor, /, dim: int, index: Any, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """x with elements that updates go to replaced by the sum, product, mean or extreme of these.

    `reduce` is "sum", "prod", "mean", "amax" or "amin"; with `include_self` (PyTorch's default) x's
    own element counts among them. Raises ArgumentError for other names.

    >>> x, at, new = ds.zeros(2), ds.asarray([0, 0, 1]), ds.asarray([1.0, 3.0, 5.0])
    >>> ds.scatter_reduce(x, 0, at, new, "mean", include_self=False).tolist()
    [2.0, 5.0]
    """
    neutral = {"sum": 0, "mean": 0, "prod": 1, "amax": None, "amin": None}
    if reduce not in neutral:
        raise op_error(
            ArgumentError, "scatter_reduce", f"reduce={reduce!r}",
            f"one of {', '.join(map(repr, neutral))}", user_line(),
        )  # fmt: skip
    x = as_tensor(x, "scatter_reduce")
    axis = axis_of("scatter_reduce", x, dim)
    index, updates = updates_for("scatter_reduce", x, axis, index, src)
    if not include_self:
        limit = lowest(x.dtype) if reduce == "amax" else highest(x.dtype)
        start = limit if neutral[reduce] is None else neutral[reduce]
        x = scatter_elements(x, axis, index, start, combine="set")
    if reduce == "sum":
        return scatter_add(x, axis, index, updates)
    if reduce != "mean":
        return scatter_elements(x, axis, index, updates, combine=_REDUCTIONS[reduce])
    own = full(shape_of(x), int(include_self), dtype=int64)
    counts = maximum(scatter_add(own, axis, index, ones(*shape_of(index), dtype=int64)), 1)
    total = scatter_add(x, axis, index, updates)
    if x.dtype.is_integer:
        return converted(total // counts, x.dtype)
    return total / converted(counts, x.dtype)


@method("put")
def put(x: Tensor, /, index: Any, source: Any, accumulate: bool = False) -> Tensor:
    """x with the elements at the indices of x flattened replaced by, or increased by, source's.

    >>> ds.put(ds.zeros(2, 2), ds.asarray([3, 0]), ds.asarray([5.0, 6.0])).tolist()
    [[6.0, 0.0], [0.0, 5.0]]
    """
    x = as_tensor(x, "put")
    flat = x.reshape((-1,))
    places = indices_of("put", index, shape_of(flat)[0]).reshape((-1,))
    updates = as_tensor(source, "put", x.dtype)
    updates = updates.reshape((-1,)) if updates.ndim else updates
    change = scatter_add if accumulate else scatter
    return change(flat, 0, places, updates).reshape(shape_of(x))


# ----------------------------------------------------------------------------------------- by masks


@method("masked_fill")
def masked_fill(x: Tensor, /, mask: Any, value: Any) -> Tensor:
    """x with one value where the mask holds; both broadcast. The result has x's dtype.

    >>> x = ds.asarray([1.0, 2.0, 3.0])
    >>> ds.masked_fill(x, x > 1, 0.0).tolist()
    [1.0, 0.0, 0.0]
    """
    x, mask = as_tensor(x, "masked_fill"), mask_of("masked_fill", mask)
    return where(mask, converted(as_tensor(value, "masked_fill", x.dtype), x.dtype), x)


def mask_of(name: str, mask: Any) -> Tensor:
    """A mask as a tensor. Raises DTypeError unless it is boolean."""
    out = as_tensor(mask, name)
    if not out.dtype.is_bool:
        raise op_error(DTypeError, name, f"a mask {describe(out)}", "truth values", user_line())
    return out


def places_where(mask: Any, name: str) -> tuple[Any, ...]:
    """Where a mask holds: a NumPy array for each of its axes. Needs its values."""
    if isinstance(mask, Tensor):
        if state.trace is not None:
            raise op_error(
                ArgumentError, name, f"a mask {describe(mask)} inside a compiled function",
                "a result whose size does not depend on values", user_line(),
                "keep all elements with ds.where(mask, x, 0), or select outside of it",
            )  # fmt: skip
        mask = mask.numpy()
    return np.nonzero(np.atleast_1d(mask))


@method("masked_select")
def masked_select(x: Tensor, /, mask: Any) -> Tensor:
    """The elements of x where the mask holds, on one axis; both broadcast.

    How many there are depends on values, so this needs them: inside `@ds.jit` or another trace it
    raises ArgumentError.

    >>> x = ds.asarray([[1, 5], [7, 2]])
    >>> ds.masked_select(x, x > 2).tolist()
    [5, 7]
    """
    x, mask = broadcast_arrays(as_tensor(x, "masked_select"), mask_of("masked_select", mask))
    (places,) = places_where(mask.reshape((-1,)), "masked_select")
    return take(x.reshape((-1,)), places, axis=0)


def _masked_scatter_reference(x: Any, mask: Any, source: Any) -> Any:
    out = np.array(np.broadcast_to(x, np.broadcast_shapes(x.shape, mask.shape)))
    where_ = np.broadcast_to(mask, out.shape)
    out[where_] = source.reshape(-1)[: where_.sum()]
    return out


@composite(
    reference=_masked_scatter_reference,
    samples=lambda: [
        Sample(((3, 5), np.arange(15).reshape(3, 5) % 3 > 0, (12,))),
        Sample(((2, 3, 4), np.array([True, False, True, True]), (4, 5))),
        Sample(((4,), np.zeros((4,), bool), (0,))),
        Sample(((0, 3), np.ones((0, 3), bool), (2,))),
    ],
    takes=ALL,
    method="masked_scatter",
)
def masked_scatter(x: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """x with its elements where the mask holds replaced by those of source, in order.

    The mask broadcasts with x. Where source has too few elements its last one is repeated, since
    their number may depend on values that are not known yet; what is left over is not used.

    >>> x = ds.zeros(2, 2)
    >>> ds.masked_scatter(x, ds.asarray([[True, False], [False, True]]), ds.asarray([5.0, 6.0]))
    tensor([[5., 0.],
            [0., 6.]])
    """
    x, mask = broadcast_arrays(x, mask_of("masked_scatter", mask))
    flat = source.reshape((-1,))
    if is_size(shape_of(flat)[0], 0):
        return x
    order = converted(mask.reshape((-1,)), int64).cumulative_sum(axis=0) - 1
    place = minimum(maximum(order, 0), filled((), minus(shape_of(flat)[0], 1), int64))
    return where(mask, take(flat, place, axis=0).reshape(shape_of(x)), x)


attribute("scatter", scatter, __name__)
