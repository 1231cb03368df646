"""Diagonals: two views that are each other's adjoint, and what follows from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepseek.errors import ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor, record
from deepseek.ir import scalar
from deepseek.ir.dtype import bool_
from deepseek.ir.op import Kind, Sample
from deepseek.ir.scalar import Expr, call, const
from deepseek.ir.shape import Size, TensorType, is_true, same, tensor_type
from deepseek.ops.define import (
    as_tensor,
    axis_of,
    converted,
    describe,
    filled,
    minus,
    op_of,
    plus,
    primitive,
    shape_of,
)
from deepseek.ops.elementwise import where
from deepseek.ops.methods import method
from deepseek.ops.view import moveaxis

__all__ = ["diag", "diag_embed", "diagflat", "diagonal", "diagonal_scatter", "trace"]

Index = tuple[Expr, ...]
Types = tuple[TensorType, ...]


def _start(offset: int) -> tuple[int, int]:
    """Where a diagonal begins: row and column."""
    return max(-offset, 0), max(offset, 0)


def _length(rows: Size, columns: Size, offset: int) -> Size:
    """How many elements a diagonal has."""
    down, right = _start(offset)
    height, width = minus(rows, down), minus(columns, right)
    if isinstance(height, int) and isinstance(width, int):
        return max(min(height, width), 0)
    least = height if is_true(call("le", scalar.as_expr(height), scalar.as_expr(width))) else width
    return least if is_true(call("le", scalar.ZERO, scalar.as_expr(least))) else 0


def _diagonal_meaning(
    index: Index, read: Any, inputs: Types, out: TensorType, *, offset: int
) -> Expr:
    down, right = _start(offset)
    i = index[-1]
    return read(0, (*index[:-1], scalar.add(i, const(down)), scalar.add(i, const(right))))  # type: ignore[no-any-return]


def _diagonal_vjp(g: Tensor, y: Tensor, x: Tensor, *, offset: int) -> tuple[Tensor]:
    rows, columns = shape_of(x)[-2:]
    return (record(op_of(diag_embed), g, offset=offset, rows=rows, columns=columns),)


@primitive(
    Kind.VIEW,
    infer=lambda x, *, offset: (
        tensor_type(x.dtype, (*x.shape[:-2], _length(x.shape[-2], x.shape[-1], offset))),
    ),
    meaning=_diagonal_meaning,
    reference=lambda x, *, offset: np.diagonal(x, offset, -2, -1),
    vjp=_diagonal_vjp,
    samples=lambda: [
        Sample(((3, 5),)),
        Sample(((2, 4, 3),), {"offset": -1, "dim1": 1, "dim2": 2}),
        Sample(((5, 2, 4),), {"offset": 2, "dim1": -1, "dim2": 0}),
        Sample(((2, 3),), {"offset": 5}),
        Sample(((0, 3),)),
    ],
    method="diagonal",
)
def diagonal(x: Tensor, /, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The elements x[..., i, i + offset] of two axes, on a new last axis.

    Raises ShapeError unless these are two of x's axes. (`ds.linalg.diagonal` takes the last two.)

    >>> ds.diagonal(ds.asarray([[1, 2, 3], [4, 5, 6]]), 1).tolist()
    [2, 6]
    """
    x = as_tensor(x, "diagonal")
    first, second = axis_of("diagonal", x, dim1), axis_of("diagonal", x, dim2)
    if first == second:
        raise op_error(
            ShapeError, "diagonal", f"{describe(x)} with dim1={dim1} and dim2={dim2}", "two axes",
            user_line(),
        )  # fmt: skip
    last = moveaxis(x, (first, second), (-2, -1))
    out: Tensor = record(op_of(diagonal), last, offset=int(offset))
    return out


def _embed_meaning(
    index: Index, read: Any, inputs: Types, out: TensorType, *, offset: int, rows: Size,
    columns: Size,
) -> Expr:  # fmt: skip
    down, right = _start(offset)
    i = scalar.sub(index[-2], const(down))
    on = call("eq", i, scalar.sub(index[-1], const(right)))
    length = scalar.as_expr(inputs[0].shape[-1])
    inside = scalar.and_(on, call("le", scalar.ZERO, i), call("lt", i, length))
    return read(0, (*index[:-2], i), inside)  # type: ignore[no-any-return]


def _embed_reference(x: Any, *, offset: int, rows: int, columns: int) -> Any:
    out = np.zeros((*x.shape[:-1], rows, columns), x.dtype)
    down, right = _start(offset)
    i = np.arange(x.shape[-1])
    out[..., i + down, i + right] = x
    return out


@primitive(
    Kind.VIEW,
    infer=lambda x, *, offset, rows, columns: (
        tensor_type(x.dtype, (*x.shape[:-1], rows, columns)),
    ),
    meaning=_embed_meaning,
    reference=_embed_reference,
    vjp=lambda g, y, x, *, offset, rows, columns: (diagonal(g, offset, -2, -1),),
    samples=lambda: [
        Sample(((3,),)),
        Sample(((2, 3),), {"offset": 1}),
        Sample(((2, 3),), {"offset": -2, "dim1": 0, "dim2": 2}),
        Sample(((2, 0),), {"offset": 1}),
    ],
    method="diag_embed",
)
def diag_embed(x: Tensor, /, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Square matrices with the elements of x's last axis on a diagonal, 0 elsewhere.

    `dim1` and `dim2` say where the matrices' axes stand in the result. Raises ShapeError unless
    they are two axes, and for a number.

    >>> ds.diag_embed(ds.asarray([1, 2]), 1).tolist()
    [[0, 1, 0], [0, 0, 2], [0, 0, 0]]
    """
    x = as_tensor(x, "diag_embed")
    if not x.ndim:
        raise op_error(ShapeError, "diag_embed", describe(x), "at least one axis", user_line())
    size = plus(shape_of(x)[-1], abs(int(offset)))
    out: Tensor = record(op_of(diag_embed), x, offset=int(offset), rows=size, columns=size)
    places = [axis_of("diag_embed", x, d, x.ndim + 1) for d in (dim1, dim2)]
    if places[0] == places[1]:
        raise op_error(
            ShapeError, "diag_embed", f"dim1={dim1} and dim2={dim2}", "two axes", user_line()
        )
    return moveaxis(out, (-2, -1), places)


@method("diag")
def diag(x: Tensor, /, k: int = 0) -> Tensor:
    """The matrix with a vector on a diagonal, or a matrix's diagonal. Raises ShapeError for others.

    >>> ds.diag(ds.asarray([1, 2])).tolist()
    [[1, 0], [0, 2]]
    """
    x = as_tensor(x, "diag")
    if x.ndim not in (1, 2):
        raise op_error(ShapeError, "diag", describe(x), "a vector or a matrix", user_line())
    return diag_embed(x, k) if x.ndim == 1 else diagonal(x, k)


@method("diagflat")
def diagflat(x: Tensor, /, offset: int = 0) -> Tensor:
    """The matrix with all elements of x on a diagonal.

    >>> ds.diagflat(ds.asarray([[1, 2]])).tolist()
    [[1, 0], [0, 2]]
    """
    return diag_embed(as_tensor(x, "diagflat").reshape((-1,)), offset)


@method("trace")
def trace(x: Tensor, /, *, offset: int = 0, dtype: Any = None) -> Tensor:
    """The sum along a diagonal of the last two axes, in 64 bits for integers.

    >>> float(ds.trace(ds.asarray([[1.0, 2.0], [3.0, 4.0]])))
    5.0
    """
    return diagonal(x, offset, -2, -1).sum(axis=-1, dtype=dtype)


@method("diagonal_scatter")
def diagonal_scatter(
    x: Tensor, /, src: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Tensor:
    """x with a diagonal of two axes replaced by src, whose last axis goes along it.

    Raises ShapeError for a src of another shape.

    >>> ds.diagonal_scatter(ds.zeros(2, 2), ds.ones(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    x = as_tensor(x, "diagonal_scatter")
    src = converted(as_tensor(src, "diagonal_scatter", x.dtype), x.dtype)
    wanted = shape_of(diagonal(x, offset, dim1, dim2))
    if src.ndim != len(wanted) or not all(map(same, shape_of(src), wanted)):
        raise op_error(
            ShapeError, "diagonal_scatter", (describe(x), describe(src)),
            f"a source of shape {wanted}", user_line(),
        )  # fmt: skip
    last = moveaxis(x, (dim1, dim2), (-2, -1))
    rows, columns = shape_of(last)[-2:]

    def placed(t: Tensor) -> Tensor:
        return record(op_of(diag_embed), t, offset=int(offset), rows=rows, columns=columns)  # type: ignore[no-any-return]

    on = placed(filled((), True, bool_).broadcast_to(wanted))
    return moveaxis(where(on, placed(src), last), (-2, -1), (dim1, dim2))
