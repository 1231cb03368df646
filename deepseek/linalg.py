"""`ds.linalg`: linear algebra under the names of the array API and of torch.linalg.

Products are contractions and fuse; decompositions run on the host (`decompositions`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import int64
from deepseek.ir.shape import numel
from deepseek.ops.contract import matmul
from deepseek.ops.create import eye, tril, triu
from deepseek.ops.decompositions import cholesky, det, eigh, pinv, qr, slogdet, svd
from deepseek.ops.define import FLOATS, as_tensor, axes_of, describe, promoted, shape_of
from deepseek.ops.diagonals import diagonal as _diagonal
from deepseek.ops.diagonals import trace
from deepseek.ops.elementwise import where
from deepseek.ops.host import inv, matrix_exp, solve
from deepseek.ops.products import cross, matrix_chain, outer, tensordot, vecdot
from deepseek.ops.vector_norms import matrix_norm as _matrix_norm
from deepseek.ops.vector_norms import vector_norm
from deepseek.ops.view import expand_dims, matrix_transpose, moveaxis

__all__ = [
    "cholesky", "cholesky_solve", "cond", "cross", "det", "diagonal", "eigh", "eigvalsh", "inv",
    "lstsq", "matmul", "matrix_exp", "matrix_norm", "matrix_power", "matrix_rank",
    "matrix_transpose", "multi_dot", "norm", "outer", "pinv", "qr", "slogdet", "solve",
    "solve_triangular", "svd", "svdvals", "tensordot", "tensorinv", "tensorsolve", "trace",
    "vecdot", "vector_norm",
]  # fmt: skip


class Lstsq(NamedTuple):
    """What `lstsq` gives."""

    solution: Tensor
    residuals: Tensor
    rank: Tensor
    singular_values: Tensor


def diagonal(x: Tensor, /, *, offset: int = 0) -> Tensor:
    """The diagonals of the matrices on the last two axes.

    >>> ds.linalg.diagonal(ds.asarray([[[1, 2], [3, 4]]])).tolist()
    [[1, 4]]
    """
    return _diagonal(x, offset, -2, -1)


def svdvals(x: Tensor, /) -> Tensor:
    """The singular values of each matrix, descending.

    >>> ds.linalg.svdvals(ds.asarray([[0.0, 2.0], [1.0, 0.0]])).tolist()
    [2.0, 1.0]
    """
    return svd(x, full_matrices=False).S


def eigvalsh(x: Tensor, /) -> Tensor:
    """The eigenvalues of symmetric matrices, ascending.

    >>> ds.linalg.eigvalsh(ds.asarray([[2.0, 0.0], [0.0, 1.0]])).tolist()
    [1.0, 2.0]
    """
    return eigh(x).eigenvalues


def matrix_rank(x: Tensor, /, *, rtol: float | None = None) -> Tensor:
    """How many singular values are larger than `rtol` times the largest.

    By default that is the larger size times the dtype's epsilon.

    >>> int(ds.linalg.matrix_rank(ds.asarray([[1.0, 2.0], [2.0, 4.0]])))
    1
    """
    (x,) = promoted("matrix_rank", (x,), FLOATS)
    values = svdvals(x)
    if rtol is None:
        rtol = max(int(s) for s in x.shape[-2:]) * _epsilon(x)
    if not values.shape[-1]:
        return values.sum(axis=-1, dtype=int64)
    return (values > values.max(axis=-1, keepdims=True) * rtol).sum(axis=-1)


def _epsilon(x: Tensor) -> float:
    return float(2.0 ** -{"float32": 23, "float64": 52}[x.dtype.accumulator.name])


def matrix_power(x: Tensor, n: int, /) -> Tensor:
    """Each square matrix multiplied n times with itself; its inverse for negative n.

    Raises ShapeError unless they are square.

    >>> ds.linalg.matrix_power(ds.asarray([[1, 1], [0, 1]]), 5).tolist()
    [[1, 5], [0, 1]]
    """
    x = as_tensor(x, "matrix_power")
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise op_error(
            ShapeError, "matrix_power", describe(x), "square matrices [..., n, n]", user_line()
        )
    base, left = (inv(x), -n) if n < 0 else (x, n)
    out: Tensor | None = None
    while left:
        if left % 2:
            out = base if out is None else matmul(out, base)
        left //= 2
        base = matmul(base, base) if left else base
    identity = eye(int(x.shape[-1]), dtype=x.dtype)
    return identity.broadcast_to(shape_of(x)) if out is None else out


def multi_dot(arrays: Sequence[Tensor], /) -> Tensor:
    """The product of several matrices in the order with the fewest multiplications.

    The first and the last may be vectors: a row and a column.

    >>> ds.linalg.multi_dot([ds.ones(1, 2), ds.ones(2, 3), ds.ones(3)]).tolist()
    [6.0]
    """
    return matrix_chain("multi_dot", tuple(arrays))


def lstsq(a: Tensor, b: Tensor, /, *, rtol: float | None = None) -> Lstsq:
    """The x of least norm with the least |a @ x - b|, for each matrix and column of b.

    (solution, residuals, rank, singular values) by the Moore-Penrose inverse; the residuals are the
    squared distances of each column, empty unless a has full column rank by its sizes. Raises
    ShapeError unless a is [..., m, n] and b [..., m, k].

    >>> a, b = ds.asarray([[1.0], [1.0]]), ds.asarray([[1.0], [3.0]])
    >>> found = ds.linalg.lstsq(a, b)
    >>> round(float(found.solution), 4), round(float(found.residuals), 4)
    (2.0, 2.0)
    """
    a, b = promoted("lstsq", (a, b), FLOATS)
    column = b.ndim == 1
    right = expand_dims(b, -1) if column else b
    if a.ndim < 2 or a.shape[-2] != right.shape[-2]:
        raise op_error(
            ShapeError, "lstsq", (describe(a), describe(b)), "[..., m, n] and [..., m, k]",
            user_line(),
        )  # fmt: skip
    solution = matmul(pinv(a, rtol=rtol), right)
    distance = matmul(a, solution) - right
    residuals = (distance * distance).sum(axis=-2)
    if a.shape[-2] <= a.shape[-1]:
        residuals = residuals[..., :0]
    out = solution.squeeze(-1) if column else solution
    return Lstsq(out, residuals, matrix_rank(a, rtol=rtol), svdvals(a))


def solve_triangular(
    a: Tensor, b: Tensor, /, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Tensor:
    """x with a @ x == b, or x @ a == b, where only one triangle of a counts.

    With `unitriangular` the diagonal counts as ones.

    >>> a = ds.asarray([[2.0, 9.0], [1.0, 1.0]])
    >>> ds.linalg.solve_triangular(a, ds.asarray([[2.0], [3.0]]), upper=False).tolist()
    [[1.0], [2.0]]
    """
    a, b = promoted("solve_triangular", (a, b), FLOATS)
    half = triu(a) if upper else tril(a)
    if unitriangular:
        one = eye(int(a.shape[-1]), dtype=a.dtype)
        half = where(one == 1, one, half)
    return solve(half, b) if left else solve(half.mT, b.mT).mT


def cholesky_solve(b: Tensor, factor: Tensor, /, *, upper: bool = False) -> Tensor:
    """x with a @ x == b, from the factor that `cholesky` gives for a.

    >>> factor = ds.linalg.cholesky(ds.asarray([[4.0, 2.0], [2.0, 5.0]]))
    >>> ds.linalg.cholesky_solve(ds.asarray([[8.0], [12.0]]), factor).tolist()
    [[1.0], [2.0]]
    """
    lower = factor.mT if upper else factor
    return solve_triangular(lower.mT, solve_triangular(lower, b, upper=False), upper=True)


def tensorinv(a: Tensor, /, ind: int = 2) -> Tensor:
    """The inverse of a as a map from its last axes to its first `ind`; x = tensordot(inverse, b).

    Raises ShapeError unless the sizes of both parts multiply to one number.

    >>> ds.linalg.tensorinv(2 * ds.eye(4).reshape(2, 2, 4), ind=2).shape
    (4, 2, 2)
    """
    first, last = shape_of(a)[:ind], shape_of(a)[ind:]
    if ind < 1 or numel(first) != numel(last):
        raise op_error(
            ShapeError, "tensorinv", f"{describe(a)} and ind={ind}",
            "first and other axes of as many elements", user_line(),
        )  # fmt: skip
    return inv(a.reshape((numel(first), numel(last)))).reshape((*last, *first))


def tensorsolve(a: Tensor, b: Tensor, /, *, axes: Sequence[int] | None = None) -> Tensor:
    """x with tensordot(a, x, x.ndim) == b; `axes` of a are moved behind the others first.

    Raises ShapeError where the numbers of elements do not fit.

    >>> ds.linalg.tensorsolve(2 * ds.eye(4).reshape(2, 2, 4), ds.ones(2, 2)).tolist()
    [0.5, 0.5, 0.5, 0.5]
    """
    if axes is not None:
        a = moveaxis(a, tuple(axes), tuple(range(a.ndim - len(axes), a.ndim)))
    first, rest = shape_of(a)[: b.ndim], shape_of(a)[b.ndim :]
    if not numel(first) == numel(rest) == numel(shape_of(b)):
        raise op_error(
            ShapeError, "tensorsolve", (describe(a), describe(b)),
            "first and other axes of a, each with as many elements as b", user_line(),
        )  # fmt: skip
    count = numel(rest)
    return solve(a.reshape((count, count)), b.reshape((count,))).reshape(rest)


# ------------------------------------------------------------------------------------------ norms


def matrix_norm(
    x: Tensor,
    /,
    *,
    keepdims: bool = False,
    ord: Any = "fro",
    axis: Any = (-2, -1),  # noqa: A002
) -> Tensor:
    """A norm of the matrices on two axes.

    `ord` is "fro", "nuc" (the sum of singular values), 2 or -2 (the largest or smallest of them), 1
    or -1 (the largest or smallest sum of a column's sizes), infinite for rows'. Raises
    ArgumentError for others. ShapeError unless there are two axes.

    >>> float(ds.linalg.matrix_norm(ds.asarray([[3.0, 0.0], [0.0, -4.0]]), ord="nuc"))
    7.0
    """
    (x,) = promoted("matrix_norm", (x,), FLOATS)
    if ord not in ("nuc", 2, -2):
        return _matrix_norm(x, ord, axis, keepdims)
    if len(axes_of("matrix_norm", x, axis)) != 2:
        raise op_error(ShapeError, "matrix_norm", f"axis={axis}", "two axes", user_line())
    values = svdvals(moveaxis(x, tuple(axis), (-2, -1)))
    out = values.sum(axis=-1) if ord == "nuc" else values.max(axis=-1)
    out = values.min(axis=-1) if ord == -2 else out
    return expand_dims(out, axes_of("matrix_norm", x, axis)) if keepdims else out


def norm(
    x: Tensor,
    /,
    ord: Any = None,
    axis: Any = None,
    keepdims: bool = False,  # noqa: A002
) -> Tensor:
    """A norm of vectors along one axis or of matrices on two, as NumPy's and torch.linalg's.

    Without `ord` that of all elements of the axes (all by default) as one vector. Raises
    ArgumentError for an ord that is none of its axes.

    >>> float(ds.linalg.norm(ds.asarray([[3.0, 4.0]])))
    5.0
    """
    if ord is None:
        return vector_norm(x, 2.0, axis, keepdims)
    axes = tuple(range(x.ndim)) if axis is None else axis
    pair = not isinstance(axes, int) and len(axes) == 2
    if pair:
        return matrix_norm(x, ord=ord, axis=axes, keepdims=keepdims)
    if isinstance(ord, str):
        raise op_error(
            ArgumentError, "norm", f"ord={ord!r} for axis={axis}", "two axes, or a number",
            user_line(),
        )  # fmt: skip
    return vector_norm(x, ord, axis, keepdims)


def cond(x: Tensor, /, p: Any = None) -> Tensor:
    """How far errors may grow: |a| * |inverse of a| in a matrix norm, the 2-norm by default.

    >>> float(ds.linalg.cond(ds.asarray([[4.0, 0.0], [0.0, 1.0]])))
    4.0
    """
    (x,) = promoted("cond", (x,), FLOATS)
    if p in (None, 2, -2):
        values = svdvals(x)
        ratio: Tensor = values[..., 0] / values[..., -1]
        return 1 / ratio if p == -2 else ratio
    out: Tensor = matrix_norm(x, ord=p) * matrix_norm(inv(x), ord=p)
    return out
