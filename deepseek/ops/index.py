"""Reading and adding at computed places: take, take_along_axis (gather) and scatter_add.

Indices may be negative, counting from the end. A compiled kernel cannot raise, so an index that is
still out of range is moved to the nearest element.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deepseek.errors import DTypeError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor, record
from deepseek.ir import scalar
from deepseek.ir.dtype import int64
from deepseek.ir.op import Kind, Sample, Scatter
from deepseek.ir.scalar import ONE, TRUE, ZERO, Expr, as_expr, call, cast
from deepseek.ir.shape import Size, TensorType, same, tensor_type
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
from deepseek.ops.elementwise import maximum, minimum, where

__all__ = ["gather", "scatter_add", "take", "take_along_axis"]

Index = tuple[Expr, ...]
Types = tuple[TensorType, ...]


def in_range(i: Expr, size: Size) -> Expr:
    """An index as an element's place: negative ones from the end, then clamped."""
    n = as_expr(size)
    i = cast(i, int64)
    wrapped = scalar.where(call("lt", i, ZERO), scalar.add(i, n), i)
    return scalar.maximum(ZERO, scalar.minimum(wrapped, scalar.sub(n, ONE)))


def in_range_tensor(i: Tensor, size: Size) -> Tensor:
    """The same for a tensor of int64 indices."""
    n = filled((), size, int64)
    return minimum(maximum(where(i < 0, i + n, i), 0), n - 1)


def _in_range_reference(i: Any, size: int) -> Any:
    i = np.asarray(i).astype(np.int64)
    return np.clip(np.where(i < 0, i + size, i), 0, size - 1)


def _indices(name: str, indices: Any) -> Tensor:
    out = as_tensor(indices, name)
    if not out.dtype.is_integer:
        raise op_error(DTypeError, name, f"indices {describe(out)}", "integer indices", user_line())
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
    return np.take(x, _in_range_reference(indices, x.shape[axis]), axis=axis)


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
        Sample(((4, 3), np.array([9, -9])), {"axis": -1}),
        Sample(((4, 3), np.zeros((0,), np.int64)), {"axis": 0}),
    ],
    method="take",
    onnx=forms.take,
)
def take(x: Tensor, indices: Any, /, *, axis: int | None = None) -> Tensor:
    """The elements or slices at the given indices of an axis; `indices` replaces that axis."""
    x, indices = as_tensor(x, "take"), _indices("take", indices)
    if axis is None:
        if x.ndim != 1:
            raise op_error(
                ShapeError,
                "take",
                f"{describe(x)} and no axis",
                "an axis",
                user_line(),
                "pass axis=...",
            )
        axis = 0
    out: Tensor = record(op_of(take), x, indices, axis=axis_of("take", x, axis))
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
    return np.take_along_axis(x, _in_range_reference(indices, x.shape[axis]), axis=axis)


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
        Sample(((4, 2, 3), np.array([[[3, 0, 2], [1, 1, 9]]], np.int32)), {"axis": 0}),
        Sample(((3, 5), np.array([[2]])), {"axis": -1}),
        Sample(((3, 5), np.zeros((3, 0), np.int64)), {"axis": 1}),
    ],
    onnx=forms.take_along,
)
def take_along_axis(x: Tensor, indices: Any, /, *, axis: int = -1) -> Tensor:
    """out[..., i, ...] = x[..., indices[..., i, ...], ...] on an axis; the others broadcast."""
    x, indices = as_tensor(x, "take_along_axis"), _indices("take_along_axis", indices)
    axis = axis_of("take_along_axis", x, axis)
    x, indices = _aligned(x, indices, axis)
    out: Tensor = record(op_of(take_along_axis), x, indices, axis=axis)
    return out


def _aligned(x: Tensor, indices: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Both with their axes of size 1, save the given one, expanded to the other's size."""
    a, b = list(shape_of(x)), list(shape_of(indices))
    if len(a) == len(b):
        for i in range(len(a)):
            if i != axis and is_size(a[i], 1):
                a[i] = b[i]
            elif i != axis and is_size(b[i], 1):
                b[i] = a[i]
    else:
        return x, indices
    return expanded(x, tuple(a)), expanded(indices, tuple(b))


def gather(x: Tensor, /, dim: int, index: Any) -> Tensor:
    """PyTorch's name for `take_along_axis`."""
    return take_along_axis(x, index, axis=dim)


# ------------------------------------------------------------------------------------- scatter_add


def _scatter_infer(x: TensorType, indices: TensorType, updates: TensorType, *, axis: int) -> Types:
    others = [
        (a, b) for i, (a, b) in enumerate(zip(x.shape, updates.shape, strict=False)) if i != axis
    ]
    alike = indices.rank == updates.rank and all(map(same, indices.shape, updates.shape))
    if x.rank != updates.rank or not alike or not all(same(a, b) for a, b in others):
        raise op_error(
            ShapeError, "scatter_add", (x, indices, updates),
            f"indices and updates of one shape, which differs from the first at axis {axis} only",
            user_line(),
        )  # fmt: skip
    _refuse_empty("scatter_add", x, indices, axis)
    return (x,)


def _scatter_meaning(
    index: Index, read: Any, inputs: Types, out: TensorType, *, axis: int
) -> Scatter:
    at = in_range(read(1, index), out.shape[axis])
    return Scatter((*index[:axis], at, *index[axis + 1 :]), TRUE, read(2, index))


def _scatter_reference(x: Any, indices: Any, updates: Any, *, axis: int) -> Any:
    out = x.copy()
    at: list[Any] = list(np.indices(updates.shape, sparse=True))
    at[axis] = _in_range_reference(indices, x.shape[axis])
    np.add.at(out, tuple(at), updates)
    return out


def _scatter_vjp(
    g: Tensor, y: Tensor, x: Tensor, indices: Tensor, updates: Tensor, *, axis: int
) -> tuple[Any, ...]:
    return g, None, take_along_axis(g, indices, axis=axis)


@primitive(
    Kind.SCATTER,
    infer=_scatter_infer,
    meaning=_scatter_meaning,
    reference=_scatter_reference,
    vjp=_scatter_vjp,
    takes=NUMERIC,
    samples=lambda: [
        Sample(((5, 3), 0, np.array([[4, 0, 4], [4, 1, -1]]), (2, 3))),
        Sample(((2, 4), 1, np.array([[1, 1, 1, 9, 0], [0, 3, 0, 3, 0]]), (2, 5))),
        Sample(((3,), 0, np.zeros((0,), np.int64), (0,))),
    ],
    tolerance=16,
    method="scatter_add",
    onnx=forms.scatter_add,
)
def scatter_add(x: Tensor, /, dim: int, index: Any, src: Tensor) -> Tensor:
    """x, and src[..., i, ...] added at index[..., i, ...] of axis `dim`; repeats add up."""
    x, index = as_tensor(x, "scatter_add"), _indices("scatter_add", index)
    axis = axis_of("scatter_add", x, dim)
    carried = x.dtype.accumulator
    updates = converted(as_tensor(src, "scatter_add"), carried)
    out: Tensor = record(op_of(scatter_add), converted(x, carried), index, updates, axis=axis)
    return converted(out, x.dtype)


for _name, _method in {"gather": gather}.items():
    setattr(Tensor, _name, _method)
