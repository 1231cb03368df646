"""Grids and triangles: the places of elements as tensors, and numbers in even ratios."""

from __future__ import annotations

from typing import Any

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import dtype_of, float32, float64, int64
from deepseek.ops.create import arange, linspace, ones, tril
from deepseek.ops.define import (
    as_tensor,
    converted,
    describe,
    shape_of,
)
from deepseek.ops.elementwise import minimum, pow_, where
from deepseek.ops.transcendental import floor, sqrt
from deepseek.ops.view import stack

__all__ = ["logspace", "meshgrid", "tri", "tril_indices", "triu_indices"]


def logspace(
    start: float, stop: float, /, num: int = 50, *, endpoint: bool = True, base: float = 10.0,
    dtype: Any = None, device: Any = None, requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """base to the power of `num` evenly spaced numbers from start to stop.

    >>> ds.logspace(0, 3, 4)
    tensor([   1.,   10.,  100., 1000.])
    """
    at = linspace(start, stop, num, dtype=float64, endpoint=endpoint, device=device)
    out = converted(pow_(float(base), at), float32 if dtype is None else dtype_of(dtype))
    return out.requires_grad_() if requires_grad else out


def meshgrid(*arrays: Tensor, indexing: str = "xy") -> list[Tensor]:
    """Grids of coordinates from n vectors: one for each, of n axes.

    "ij" gives axis k the length of vector k; "xy" exchanges the first two axes. Raises
    ArgumentError for other indexing, ShapeError for what are no vectors.

    >>> ds.meshgrid(ds.arange(2), ds.arange(3), indexing="ij")[1]
    tensor([[0, 1, 2],
            [0, 1, 2]])
    """
    if indexing not in ("xy", "ij"):
        raise op_error(
            ArgumentError, "meshgrid", f"indexing={indexing!r}", "'xy' or 'ij'", user_line()
        )
    vectors = [as_tensor(a, "meshgrid").reshape((-1,)) for a in arrays]
    wide = [a for a in arrays if as_tensor(a, "meshgrid").ndim > 1]
    if wide:
        raise op_error(ShapeError, "meshgrid", describe(wide[0]), "vectors", user_line())
    order = list(range(len(vectors)))
    if indexing == "xy" and len(order) > 1:
        order[:2] = [1, 0]
    target: list[Any] = [0] * len(order)
    for vector, axis in zip(vectors, order, strict=True):
        target[axis] = shape_of(vector)[0]
    last = len(order) - 1
    return [
        v.reshape((-1,) + (1,) * (last - axis)).broadcast_to(tuple(target))
        for v, axis in zip(vectors, order, strict=True)
    ]


# -------------------------------------------------------------------------------------- triangles


def tri(
    n: int, m: int | None = None, k: int = 0, *, dtype: Any = float32, device: Any = None
) -> Tensor:
    """A matrix (n, m) with ones on and below the k-th diagonal and zeros above.

    >>> ds.tri(2, 3)
    tensor([[1., 0., 0.],
            [1., 1., 0.]])
    """
    return tril(ones(n, n if m is None else m, dtype=dtype, device=device), k)


def tril_indices(row: int, col: int, offset: int = 0, *, dtype: Any = int64) -> Tensor:
    """(2, n): the rows and columns of the elements on and below a diagonal, row by row.

    >>> ds.tril_indices(2, 2)
    tensor([[0, 1, 1],
            [0, 0, 1]])
    """
    return converted(stack(_triangle(row, col, offset)), dtype_of(dtype))


def triu_indices(row: int, col: int, offset: int = 0, *, dtype: Any = int64) -> Tensor:
    """(2, n): the rows and columns of the elements on and above a diagonal, row by row.

    >>> ds.triu_indices(2, 2)
    tensor([[0, 0, 1],
            [0, 1, 1]])
    """
    # Seen from the last element back, an upper triangle is a lower one.
    rows, columns = _triangle(row, col, col - row - offset)
    return converted(stack([row - 1 - rows, col - 1 - columns]).flip(1), dtype_of(dtype))


def _triangle(row: int, col: int, offset: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of a lower triangle: first its rows grow by one each, then they are full."""
    above = max(0, -offset)  # empty rows
    first = min(col, above + 1 + offset)  # elements in the first row that has some
    growing = max(0, min(row - above, col - first + 1))
    full = max(0, row - above - growing)
    head = growing * first + growing * (growing - 1) // 2
    at = arange(head + full * col)
    # at >= first * i + i (i - 1) / 2 solved for i; the root may be rounded up to the next integer.
    b = 2 * first - 1
    root = sqrt(converted(8 * minimum(at, head) + b * b, float64))
    i = converted(floor((root - b) / 2), int64)
    i = where(i * first + i * (i - 1) // 2 > at, i - 1, i)
    rest = at - head
    full_row = rest // max(col, 1)
    rows = where(at < head, i, growing + full_row)
    columns = where(at < head, at - i * first - i * (i - 1) // 2, rest - full_row * col)
    return rows + above, columns
