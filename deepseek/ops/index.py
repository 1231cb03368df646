"""Reading and adding at computed places: take, take_along_axis (gather) and scatter_add.

Indices may be negative, counting from the end. One that is out of range is an error where it is
known when it is given: in a list or array, and in a tensor whose elements are there already; under
DS_EAGER or DS_VERIFY in every tensor, and always on the `reference` backend. A compiled kernel
cannot raise: there such an index reads the nearest element, and writes nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deepseek.config import options
from deepseek.errors import DTypeError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor, record, state
from deepseek.ir import scalar
from deepseek.ir.dtype import int64
from deepseek.ir.op import Kind, Sample, Scatter
from deepseek.ir.scalar import ONE, ZERO, Expr, as_expr, call, cast
from deepseek.ir.shape import Shape, Size, TensorType, is_true, same, tensor_type
from deepseek.ops import forms
from deepseek.ops.define import (
    NUMERIC,
    as_tensor,
    axis_of,
    converted,
    describe,
    expanded,
    filled,
    is_size,
    op_of,
    primitive,
    shape_of,
)
from deepseek.ops.methods import attribute

__all__ = ["gather", "scatter_add", "take", "take_along_axis"]

Index = tuple[Expr, ...]
Types = tuple[TensorType, ...]


def from_front(i: Expr, size: Size) -> Expr:
    """An index as an int64 that counts from the front."""
    i = cast(i, int64)
    return scalar.where(call("lt", i, ZERO), scalar.add(i, as_expr(size)), i)


def nearest(i: Expr, size: Size) -> Expr:
    """The nearest place on an axis."""
    return scalar.maximum(ZERO, scalar.minimum(i, scalar.sub(as_expr(size), ONE)))


def in_range(i: Expr, size: Size) -> Expr:
    """An index as an element's place: negative ones from the end, then clamped."""
    return nearest(from_front(i, size), size)


def known_elements(x: Tensor) -> Any:
    """A tensor's elements where they are there already; None where looking would wait for them.

    Under DS_EAGER and DS_VERIFY it waits. What a trace works on has no elements.
    """
    if state.trace is not None:
        return None
    there = x._value.data is not None or options.eager or options.verify
    return x.numpy() if there else None


def refuse_out_of_range(name: str, values: Any, size: Size) -> None:
    """Raises ShapeError for the first of some indices that an axis does not have."""
    if not isinstance(size, int) or not values.size:
        return
    if values.max() < size and values.min() >= -size:
        return
    wrong = values[(values < -size) | (values >= size)]
    raise op_error(
        ShapeError, name, f"index {wrong.flat[0]} for an axis of size {size}",
        f"-{size} <= index < {size}", user_line(),
    )  # fmt: skip


def indices_of(name: str, indices: Any, size: Size) -> Tensor:
    """Indices for an axis of the given size as a tensor. Raises for what is not, as far as known.

    Lists and arrays are looked at, and tensors whose elements are there.
    """
    if isinstance(indices, (list, tuple)):
        indices = np.asarray(indices, None if len(indices) else np.int64)
    out = as_tensor(indices, name)
    if not out.dtype.is_integer:
        raise op_error(DTypeError, name, f"indices {describe(out)}", "integer indices", user_line())
    given = isinstance(indices, (int, np.ndarray, np.generic))
    values = np.asarray(indices) if given else known_elements(out)
    if values is not None:
        refuse_out_of_range(name, values, size)
    return out


def _refuse_empty(name: str, x: TensorType, indices: TensorType, axis: int) -> None:
    if is_size(x.shape[axis], 0) and not is_size(indices.numel, 0):
        raise op_error(
            ShapeError, name, f"{x} and indices {indices}", f"elements on axis {axis}", user_line()
        )


# ------------------------------------------------------------------------------------------- take


def _take_infer(x: TensorType, indices: TensorType, *, axis: int) -> Types:
    _refuse_empty("take", x, indices, axis)
    return (tensor_type(x.dtype, x.shape[:axis] + indices.shape + x.shape[axis + 1 :]),)


def _take_meaning(index: Index, read: Any, inputs: Types, out: TensorType, *, axis: int) -> Expr:
    x, indices = inputs
    end = axis + indices.rank
    at = in_range(read(1, index[axis:end]), x.shape[axis])
    return read(0, (*index[:axis], at, *index[end:]))  # type: ignore[no-any-return]


def _take_reference(x: Any, indices: Any, *, axis: int) -> Any:
    if not np.size(indices):
        return np.zeros(x.shape[:axis] + indices.shape + x.shape[axis + 1 :], x.dtype)
    return np.take(x, np.asarray(indices, np.int64), axis=axis)


def _take_vjp(g: Tensor, y: Tensor, x: Tensor, indices: Tensor, *, axis: int) -> tuple[Any, ...]:
    source = shape_of(x)
    count = indices._value.type.numel
    updates = g.reshape((*source[:axis], count, *source[axis + 1 :]))
    column = (1,) * axis + (count,) + (1,) * (x.ndim - axis - 1)
    rows = expanded(indices.reshape(column), shape_of(updates))
    zeros = expanded(filled((), 0, x.dtype), source)
    return scatter_add(zeros, axis, rows, updates), None


@primitive(
    Kind.INDEX,
    infer=_take_infer,
    meaning=_take_meaning,
    reference=_take_reference,
    vjp=_take_vjp,
    samples=lambda: [
        Sample(((5, 3), np.array([4, 0, 4, 2])), {"axis": 0}),
        Sample(((3, 7, 2), np.array([[1, -1], [6, 0]], np.int32)), {"axis": 1}),
        Sample(((6,), np.array(2, np.uint8))),
        Sample(((4, 3), np.array([2, -3])), {"axis": -1}),
        Sample(((4, 3), np.zeros((0,), np.int64)), {"axis": 0}),
    ],
    method="take",
    onnx=forms.take,
)
def take(x: Tensor, indices: Any, /, *, axis: int | None = None) -> Tensor:
    """The elements or slices at the given indices of an axis; without an axis, of x flattened.

    The axes of `indices` take that axis's place. Raises ShapeError for an index known to be out of
    range, DTypeError unless the indices are integers.

    >>> ds.take(ds.asarray([[1, 2], [3, 4], [5, 6]]), ds.asarray([2, 0]), axis=0).tolist()
    [[5, 6], [1, 2]]
    """
    x = as_tensor(x, "take")
    if axis is None:
        x, axis = x.reshape((-1,)), 0
    axis = axis_of("take", x, axis)
    places = indices_of("take", indices, shape_of(x)[axis])
    out: Tensor = record(op_of(take), x, places, axis=axis)
    return out


# --------------------------------------------------------------------------------- take_along_axis


def _along_infer(x: TensorType, indices: TensorType, *, axis: int) -> Types:
    others = [
        (a, b) for i, (a, b) in enumerate(zip(x.shape, indices.shape, strict=False)) if i != axis
    ]
    if x.rank != indices.rank or not all(same(a, b) for a, b in others):
        raise op_error(
            ShapeError, "take_along_axis", f"{x} and indices {indices}",
            f"shapes that differ at axis {axis} only", user_line(),
        )  # fmt: skip
    _refuse_empty("take_along_axis", x, indices, axis)
    return (tensor_type(x.dtype, indices.shape),)


def _along_meaning(index: Index, read: Any, inputs: Types, out: TensorType, *, axis: int) -> Expr:
    at = in_range(read(1, index), inputs[0].shape[axis])
    return read(0, (*index[:axis], at, *index[axis + 1 :]))  # type: ignore[no-any-return]


def _along_reference(x: Any, indices: Any, *, axis: int) -> Any:
    if not np.size(indices):
        return np.zeros(indices.shape, x.dtype)
    return np.take_along_axis(x, np.asarray(indices, np.int64), axis=axis)


def _along_vjp(g: Tensor, y: Tensor, x: Tensor, indices: Tensor, *, axis: int) -> tuple[Any, ...]:
    zeros = expanded(filled((), 0, x.dtype), shape_of(x))
    return scatter_add(zeros, axis, indices, g), None


@primitive(
    Kind.INDEX,
    infer=_along_infer,
    meaning=_along_meaning,
    reference=_along_reference,
    vjp=_along_vjp,
    samples=lambda: [
        Sample(((3, 5), np.array([[4, 0], [1, 1], [-1, 2]])), {"axis": 1}),
        Sample(((4, 2, 3), np.array([[[3, 0, 2], [1, 1, -4]]], np.int32)), {"axis": 0}),
        Sample(((3, 5), np.array([[2]])), {"axis": -1}),
        Sample(((3, 5), np.zeros((3, 0), np.int64)), {"axis": 1}),
    ],
    onnx=forms.take_along,
)
def take_along_axis(x: Tensor, indices: Any, /, *, axis: int = -1) -> Tensor:
    """out[..., i, ...] = x[..., indices[..., i, ...], ...] on an axis; the others broadcast.

    Raises ShapeError where they do not, and for an index known to be out of range.

    >>> x = ds.asarray([[3, 1, 2], [6, 5, 4]])
    >>> ds.take_along_axis(x, ds.argsort(x)).tolist()
    [[1, 2, 3], [4, 5, 6]]
    """
    x = as_tensor(x, "take_along_axis")
    axis = axis_of("take_along_axis", x, axis)
    places = indices_of("take_along_axis", indices, shape_of(x)[axis])
    x, places = _aligned(x, places, axis)
    out: Tensor = record(op_of(take_along_axis), x, places, axis=axis)
    return out


def _aligned(x: Tensor, indices: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Both with their axes of size 1, save the given one, expanded to the other's size."""
    a, b = list(shape_of(x)), list(shape_of(indices))
    if len(a) == len(b):
        for i in range(len(a)):
            if i == axis or a[i] is b[i]:
                continue
            if is_size(a[i], 1):
                a[i] = b[i]
            elif is_size(b[i], 1):
                b[i] = a[i]
    else:
        return x, indices
    return expanded(x, tuple(a)), expanded(indices, tuple(b))


def gather(x: Tensor, /, dim: int, index: Any) -> Tensor:
    """PyTorch's `take_along_axis`: an index smaller than x on other axes leaves the rest of x out.

    Raises ShapeError unless both have as many axes.

    >>> ds.gather(ds.asarray([[1, 2], [3, 4]]), 1, ds.asarray([[1, 0]])).tolist()
    [[2, 1]]
    """
    x = as_tensor(x, "gather")
    axis = axis_of("gather", x, dim)
    index = indices_of("gather", index, shape_of(x)[axis])
    if x.ndim != index.ndim:
        raise op_error(
            ShapeError, "gather", (describe(x), f"indices {describe(index)}"),
            "as many axes in both", user_line(),
        )  # fmt: skip
    return take_along_axis(cropped(x, shape_of(index), axis), index, axis=axis)


# ------------------------------------------------------------------------------------- scatter_add


def _fits(x: TensorType, updates: TensorType, axis: int) -> bool:
    """Whether updates have the rank of x and are not larger on other axes."""
    if x.rank != updates.rank:
        return False
    pairs = zip(x.shape, updates.shape, strict=True)
    return all(i == axis or at_most(b, a) for i, (a, b) in enumerate(pairs))


def at_most(a: Size, b: Size) -> bool:
    """Whether a <= b; asks the active trace where symbols leave it open."""
    return a is b or is_true(call("le", as_expr(a), as_expr(b)))


def cropped(x: Tensor, shape: Shape, axis: int | None = None) -> Tensor:
    """The first elements of x on each axis (save one) where it is larger than a shape."""
    for i, size in enumerate(shape):
        if i != axis and not same(shape_of(x)[i], size) and at_most(size, shape_of(x)[i]):
            x = x.narrow(i, 0, size)
    return x


def scatter_infer(name: str) -> Any:
    def infer(
        x: TensorType, indices: TensorType, updates: TensorType, *, axis: int, combine: str = "add"
    ) -> Types:
        alike = indices.rank == updates.rank and all(map(same, indices.shape, updates.shape))
        if not alike or not _fits(x, updates, axis):
            raise op_error(
                ShapeError, name, (x, indices, updates),
                "indices and updates of one shape, at most as large as the first save on axis "
                f"{axis}", user_line(),
            )  # fmt: skip
        _refuse_empty(name, x, indices, axis)
        return (x,)

    return infer


def scatter_meaning(
    index: Index, read: Any, inputs: Types, out: TensorType, *, axis: int, combine: str = "add"
) -> Scatter:
    size = out.shape[axis]
    place = from_front(read(1, index), size)
    at = nearest(place, size)
    return Scatter(
        (*index[:axis], at, *index[axis + 1 :]), call("eq", at, place), read(2, index), combine
    )


_UFUNCS: dict[str, Any] = {
    "add": np.add, "mul": np.multiply, "maximum": np.maximum, "minimum": np.minimum,
}  # fmt: skip


def scatter_reference(
    x: Any, indices: Any, updates: Any, *, axis: int, combine: str = "add"
) -> Any:
    out = x.copy()
    at: list[Any] = list(np.indices(updates.shape, sparse=True))
    at[axis] = np.asarray(indices, np.int64)
    if combine == "set":
        out[tuple(at)] = updates
    else:
        _UFUNCS[combine].at(out, tuple(at), updates)
    return out


def _scatter_add_vjp(
    g: Tensor, y: Tensor, x: Tensor, indices: Tensor, updates: Tensor, *, axis: int
) -> tuple[Any, ...]:
    reached = cropped(g, shape_of(indices), axis)
    return g, None, take_along_axis(reached, indices, axis=axis)


@primitive(
    Kind.SCATTER,
    infer=scatter_infer("scatter_add"),
    meaning=scatter_meaning,
    reference=scatter_reference,
    vjp=_scatter_add_vjp,
    takes=NUMERIC,
    samples=lambda: [
        Sample(((5, 3), 0, np.array([[4, 0, 4], [4, 1, -1]]), (2, 3))),
        Sample(((2, 4), 1, np.array([[1, 1, 1, -4, 0], [0, 3, 0, 3, 0]]), (2, 5))),
        Sample(((5, 3), 0, np.array([[4, 0], [4, 1]]), (2, 2))),
        Sample(((3,), 0, np.zeros((0,), np.int64), (0,))),
    ],
    tolerance=16,
    method="scatter_add",
    onnx=forms.scatter,
)
def scatter_add(x: Tensor, /, dim: int, index: Any, src: Tensor) -> Tensor:
    """x, and src[..., i, ...] added at index[..., i, ...] of axis `dim`; repeats add up.

    The index may be smaller than x on other axes, and than src on any: the rest is left alone.
    Raises ShapeError for an index known to be out of range; what a compiled kernel would add there
    is added nowhere.

    >>> ds.scatter_add(ds.zeros(3), 0, ds.asarray([2, 0, 2]), ds.ones(3)).tolist()
    [1.0, 0.0, 2.0]
    """
    x = as_tensor(x, "scatter_add")
    axis = axis_of("scatter_add", x, dim)
    index, updates = updates_for("scatter_add", x, axis, index, src)
    carried = x.dtype.accumulator
    out: Tensor = record(
        op_of(scatter_add), converted(x, carried), index, converted(updates, carried), axis=axis
    )
    return converted(out, x.dtype)


def updates_for(name: str, x: Tensor, axis: int, index: Any, src: Any) -> tuple[Tensor, Tensor]:
    """Index and updates as tensors of the index's shape; a number is an update for each index."""
    index = indices_of(name, index, shape_of(x)[axis])
    updates = as_tensor(src, name, x.dtype)
    if not updates.ndim:
        return index, expanded(updates, shape_of(index))
    same_rank = updates.ndim == index.ndim
    return index, cropped(updates, shape_of(index)) if same_rank else updates


attribute("gather", gather, __name__)
