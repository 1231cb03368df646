"""Norms of vectors and matrices as composites; 16-bit floats are summed in float32.

In flow floats (integers are taken as float32), out flow floats of the same dtype, less some axes.
Where a norm is 0 its gradient is 0.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.op import Sample
from deepseek.ops import forms_nn
from deepseek.ops.activation import floating, widened
from deepseek.ops.define import axes_of, axis_of, composite, converted, describe
from deepseek.ops.elementwise import abs, pow_, subtract, where
from deepseek.ops.methods import method
from deepseek.ops.reductions import Axis
from deepseek.ops.transcendental import sqrt

__all__ = ["dist", "matrix_norm", "norm", "renorm", "vector_norm"]


def _vector_norm_reference(x: Any, ord: float, axis: Any, keepdims: bool) -> Any:  # noqa: A002
    sizes, axis = np.abs(x * 1.0), tuple(range(x.ndim)) if axis is None else axis
    if math.isinf(ord):
        return (np.max if ord > 0 else np.min)(sizes, axis=axis, keepdims=keepdims)
    if ord == 0:
        return np.sum(sizes != 0, axis=axis, keepdims=keepdims, dtype=sizes.dtype)
    return np.sum(sizes**ord, axis=axis, keepdims=keepdims) ** (1 / ord)


@composite(
    reference=_vector_norm_reference,
    samples=lambda: [
        Sample(((3, 37),), {"axis": 1}),
        Sample(((5, 3, 7),), {"axis": (0, 2), "keepdims": True, "ord": 1}),
        Sample(((4, 5),), {"ord": 3}),
        Sample(((4, 5),), {"ord": math.inf, "axis": 0}),
        Sample(((4, 5),), {"ord": -math.inf}),
        Sample((np.array([[0.0, -2.0, 3.0], [0.0, 0.0, 0.0]], np.float32),), {"ord": 0, "axis": 1}),
        Sample(((2, 5),), {"ord": 0.5, "axis": -1}),
        Sample(((3, 0),), {"axis": 1}),
    ],
    tolerance=32,
    precision="high",
    onnx=forms_nn.vector_norm,
)
def vector_norm(
    x: Tensor,
    ord: float = 2.0,
    axis: Axis = None,
    keepdims: bool = False,  # noqa: A002
) -> Tensor:
    """sum(|x|**ord)**(1 / ord) over some axes (all by default).

    Infinite `ord` gives the largest or, below 0, the smallest |x|, 0 the number of elements that
    are not 0.

    >>> ds.vector_norm(ds.asarray([[3.0, 4.0], [0.0, 2.0]]), axis=1)
    tensor([5., 2.])
    """
    x = floating(x)
    wide = widened(x)
    axes = axes_of("vector_norm", x, axis)
    options: dict[str, Any] = {"axis": axes, "keepdims": keepdims}
    if math.isinf(ord):
        out = abs(wide).max(**options) if ord > 0 else abs(wide).min(**options)
    elif ord == 0:
        out = (wide != 0).sum(**options)
    elif ord == 1:
        out = abs(wide).sum(**options)
    else:
        total = (wide * wide if ord == 2 else _powers(abs(wide), float(ord))).sum(**options)
        nothing = total == 0
        some = where(nothing, 1, total)
        root = sqrt(some) if ord == 2 else pow_(some, 1 / ord)
        out = where(nothing, 0 if ord > 0 else math.inf, root)
    return converted(out, x.dtype)


def _powers(sizes: Tensor, ord: float) -> Tensor:  # noqa: A002
    """sizes**ord, with gradient 0 where a size is 0."""
    nothing = sizes == 0
    return where(nothing, 0 if ord > 0 else math.inf, pow_(where(nothing, 1, sizes), ord))


MATRIX_ORDERS = ("fro", 1, -1, math.inf, -math.inf)


def matrix_norm(
    x: Tensor,
    ord: Any = "fro",
    axis: Axis = (-2, -1),
    keepdims: bool = False,  # noqa: A002
) -> Tensor:
    """The norm of each matrix: "fro", or 1, -1 (of columns), inf, -inf (of rows).

    Raises ArgumentError for others, ShapeError unless there are two axes.

    >>> x = ds.asarray([[1.0, -2.0], [3.0, 4.0]])
    >>> ds.matrix_norm(x, 1), ds.matrix_norm(x, np.inf)
    (tensor(6.), tensor(7.))
    """
    if x.ndim < 2 or not isinstance(axis, (tuple, list)) or len(axis) != 2:
        raise op_error(
            ShapeError, "matrix_norm", f"{describe(x)} and axis={axis}", "two axes", user_line()
        )
    if ord not in MATRIX_ORDERS:
        valid = ", ".join(repr(o) for o in MATRIX_ORDERS)
        raise op_error(ArgumentError, "matrix_norm", f"ord={ord!r}", f"one of {valid}", user_line())
    if ord == "fro":
        return vector_norm(x, 2.0, tuple(axis), keepdims)
    rows, columns = (a % x.ndim for a in axis)
    inner, outer = (columns, rows) if math.isinf(ord) else (rows, columns)
    sums = vector_norm(x, 1.0, inner, keepdims=True)
    out: Tensor = (sums.max if ord > 0 else sums.min)(axis=outer, keepdims=True)
    return out if keepdims else out.squeeze((rows, columns))


@method("norm")
def norm(x: Tensor, p: Any = "fro", dim: Axis = None, keepdim: bool = False) -> Tensor:
    """The p-norm of x's elements over some axes (all by default); "fro" is the 2-norm.

    Raises ArgumentError for what is no number.

    >>> ds.norm(ds.asarray([[3.0], [4.0]]))
    tensor(5.)
    """
    if isinstance(p, str) and p != "fro":
        wanted = "'fro' or a number"
        raise op_error(ArgumentError, "norm", f"p={p!r}", wanted, user_line(), "see ds.matrix_norm")
    return vector_norm(x, 2.0 if p in ("fro", None) else p, dim, keepdim)


@method("dist")
def dist(a: Tensor, b: Tensor, p: float = 2.0) -> Tensor:
    """The p-norm of a - b.

    >>> ds.dist(ds.asarray([3.0, 4.0]), ds.zeros(2))
    tensor(5.)
    """
    return vector_norm(subtract(a, b), p)


def _renorm_reference(x: Any, p: float, dim: int, maxnorm: float) -> Any:
    rows = np.moveaxis(x, dim, 0)
    flat = rows.reshape((len(rows), -1))
    size = np.sum(np.abs(flat) ** p, axis=1) ** (1 / p)
    scale = np.where(size > maxnorm, maxnorm / (size + 1e-7), 1).reshape(
        (-1,) + (1,) * (x.ndim - 1)
    )
    return np.moveaxis(rows * scale, 0, dim).astype(x.dtype)


@composite(
    reference=_renorm_reference,
    samples=lambda: [
        Sample(((3, 7), 2.0, 0, 1.5)),
        Sample(((2, 3, 5), 1.0, -2, 4.0)),
        Sample(((2, 3), 2.0, 1, 100.0)),
    ],
    tolerance=32,
    precision="high",
    method="renorm",
)
def renorm(x: Tensor, p: float, dim: int, maxnorm: float) -> Tensor:
    """x with each slice along an axis scaled down so that its p-norm is maxnorm at most.

    >>> ds.renorm(ds.asarray([[3.0, 4.0], [0.5, 0.0]]), 2, 0, 1.0)
    tensor([[0.6, 0.8],
            [0.5, 0. ]])
    """
    x = floating(x)
    axis = axis_of("renorm", x, dim)
    wide = widened(x)
    others = tuple(i for i in range(x.ndim) if i != axis)
    size = vector_norm(wide, p, others, keepdims=True) if others else abs(wide)
    return converted(wide * where(size > maxnorm, maxnorm / (size + 1e-7), 1), x.dtype)
