"""Products of vectors, matrices and tensors under the names of the array API, NumPy and PyTorch.

All of them are a matmul or a contraction of labelled axes, with what is added to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deepseek.errors import DTypeError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.op import Sample
from deepseek.ir.shape import same
from deepseek.ops.contract import matmul
from deepseek.ops.contracting import einsum, elements, product
from deepseek.ops.define import (
    NUMERIC,
    as_tensor,
    axes_of,
    axis_of,
    broadcasted,
    composite,
    describe,
    promoted,
    shape_of,
)
from deepseek.ops.methods import method
from deepseek.ops.splitting import unstack
from deepseek.ops.view import stack

__all__ = [
    "addbmm", "addmm", "addmv", "addr", "baddbmm", "bilinear", "bmm", "chain_matmul", "cross",
    "dot", "ger", "inner", "mm", "mv", "outer", "tensordot", "vdot", "vecdot",
]  # fmt: skip


def _of_rank(name: str, *pairs: tuple[Any, int]) -> list[Tensor]:
    """Tensors of one dtype, each with as many axes as told. Raises ShapeError."""
    tensors = promoted(name, [x for x, _ in pairs], NUMERIC)
    ranks = [rank for _, rank in pairs]
    if any(x.ndim != rank for x, rank in zip(tensors, ranks, strict=True)):
        wanted = ", ".join(("a vector", "a matrix", "a stack of matrices")[r - 1] for r in ranks)
        raise op_error(ShapeError, name, [describe(x) for x in tensors], wanted, user_line())
    return tensors


# ---------------------------------------------------------------------------------------- vectors


@method("dot")
def dot(a: Tensor, b: Tensor, /) -> Tensor:
    """The sum of products over a's last axis and b's last but one, or b's only one (NumPy's `dot`).

    Raises ShapeError where they differ.

    >>> float(ds.dot(ds.asarray([1.0, 2.0]), ds.asarray([3.0, 4.0])))
    11.0
    """
    a, b = promoted("dot", (a, b), NUMERIC)
    if not a.ndim or not b.ndim:
        return a * b
    return tensordot(a, b, axes=((-1,), (-1 if b.ndim == 1 else -2,)))


@method("vdot")
def vdot(a: Tensor, b: Tensor, /) -> Tensor:
    """The sum of products of two vectors; of other tensors flattened.

    >>> int(ds.vdot(ds.asarray([[1, 2]]), ds.asarray([[3, 4]])))
    11
    """
    return dot(as_tensor(a, "vdot").reshape((-1,)), as_tensor(b, "vdot").reshape((-1,)))


def vecdot(a: Tensor, b: Tensor, /, *, axis: int = -1) -> Tensor:
    """The sum of products along an axis, after broadcasting.

    The axis is counted from the last; a count from the first is one of the broadcast tensors'.
    Raises ShapeError where the sizes on it differ.

    >>> ds.vecdot(ds.asarray([[1, 2], [3, 4]]), ds.asarray([1, 10])).tolist()
    [21, 43]
    """
    a, b = broadcasted("vecdot", promoted("vecdot", (a, b), NUMERIC))
    at = axis_of("vecdot", a, axis)
    labels = tuple(range(a.ndim))
    return product((a, labels), (b, labels), [k for k in labels if k != at], final=True)[0]


@method("inner")
def inner(a: Tensor, b: Tensor, /) -> Tensor:
    """The sum of products over the last axes of both. Raises ShapeError where they differ.

    >>> ds.inner(ds.asarray([[1, 2], [3, 4]]), ds.asarray([1, 10])).tolist()
    [21, 43]
    """
    a, b = promoted("inner", (a, b), NUMERIC)
    if not a.ndim or not b.ndim:
        return a * b
    return tensordot(a, b, axes=((-1,), (-1,)))


@method("outer", "ger")
def outer(a: Tensor, b: Tensor, /) -> Tensor:
    """Every product of an element of one vector and one of another.

    >>> ds.outer(ds.asarray([1, 2]), ds.asarray([3, 4])).tolist()
    [[3, 4], [6, 8]]
    """
    a, b = _of_rank("outer", (a, 1), (b, 1))
    return a.reshape((-1, 1)) * b


def ger(a: Tensor, b: Tensor, /) -> Tensor:
    """PyTorch's other name for `outer`.

    >>> ds.ger(ds.asarray([1, 2]), ds.asarray([3, 4])).tolist()
    [[3, 4], [6, 8]]
    """
    return outer(a, b)


def _cross_reference(x: Any, y: Any, axis: int) -> Any:
    return np.cross(x, y, axis=axis)


@composite(
    reference=_cross_reference,
    samples=lambda: [
        Sample(((5, 3), (5, 3))),
        Sample(((3, 4), (3, 1)), {"axis": 0}),
        Sample(((2, 3, 4), (3, 1)), {"axis": -2}),
        Sample(((0, 3), (3,))),
    ],
    takes=NUMERIC,
    method="cross",
)
def cross(x: Tensor, y: Tensor, axis: int = -1) -> Tensor:
    """The vector product along an axis of size 3; the others broadcast.

    Raises ShapeError for other sizes.

    >>> ds.cross(ds.asarray([1, 0, 0]), ds.asarray([0, 1, 0])).tolist()
    [0, 0, 1]
    """
    given = x, y
    x, y = broadcasted("cross", promoted("cross", given, NUMERIC))
    at = axis_of("cross", x, axis)
    if any(shape_of(v)[axis_of("cross", v, axis)] != 3 for v in given):
        x, y = given
        raise op_error(
            ShapeError, "cross", (describe(x), describe(y)), f"size 3 on axis {axis}", user_line()
        )
    (a, b, c), (d, e, f) = unstack(x, axis=at), unstack(y, axis=at)
    return stack([b * f - c * e, c * d - a * f, a * e - b * d], axis=at)


# ---------------------------------------------------------------------------------------- tensors


def tensordot(a: Tensor, b: Tensor, /, *, axes: Any = 2, dims: Any = None) -> Tensor:
    """The sum of products over axes of a and as many of b.

    `axes` are two sequences of axes, or a number: the last so many of a and the first of b. What
    is left of a's axes comes first, then what is left of b's. Raises ShapeError where sizes differ.

    >>> a, b = ds.arange(6).reshape(2, 3), ds.arange(3)
    >>> ds.tensordot(a, b, axes=1).tolist()
    [5, 14]
    """
    a, b = promoted("tensordot", (a, b), NUMERIC)
    given = axes if dims is None else dims
    if isinstance(given, int):
        if not 0 <= given <= min(a.ndim, b.ndim):
            raise op_error(
                ShapeError, "tensordot", f"{describe(a)}, {describe(b)} and axes={given}",
                "a number of axes that both have", user_line(),
            )  # fmt: skip
        given = range(a.ndim - given, a.ndim), range(given)
    of_a, of_b = ([x] if isinstance(x, int) else list(x) for x in given)
    first = [axis_of("tensordot", a, x) for x in of_a]
    second = [axis_of("tensordot", b, x) for x in of_b]
    axes_of("tensordot", a, first)
    axes_of("tensordot", b, second)
    if len(first) != len(second) or not all(
        same(shape_of(a)[i], shape_of(b)[j]) for i, j in zip(first, second, strict=True)
    ):
        raise op_error(
            ShapeError, "tensordot", f"{describe(a)}, {describe(b)} and axes={given}",
            "pairs of axes of one size", user_line(),
        )  # fmt: skip
    left = [("a", i) for i in range(a.ndim)]
    right = [("b", j) for j in range(b.ndim)]
    for i, j in zip(first, second, strict=True):
        right[j] = left[i]
    summed = [left[i] for i in first]
    keep = [k for k in (*left, *right) if k not in summed]
    return product((a, tuple(left)), (b, tuple(right)), keep, final=True)[0]


# --------------------------------------------------------------------------------------- matrices


@method("mm")
def mm(a: Tensor, b: Tensor, /) -> Tensor:
    """The product of two matrices; nothing broadcasts.

    >>> ds.mm(ds.asarray([[1, 2]]), ds.asarray([[3], [4]])).tolist()
    [[11]]
    """
    return matmul(*_of_rank("mm", (a, 2), (b, 2)))


@method("mv")
def mv(a: Tensor, v: Tensor, /) -> Tensor:
    """The product of a matrix and a vector.

    >>> ds.mv(ds.asarray([[1, 2], [3, 4]]), ds.asarray([1, 10])).tolist()
    [21, 43]
    """
    return matmul(*_of_rank("mv", (a, 2), (v, 1)))


@method("bmm")
def bmm(a: Tensor, b: Tensor, /) -> Tensor:
    """The products of matrices of two stacks of one length. Raises ShapeError where they differ.

    >>> ds.bmm(ds.ones(2, 1, 3), ds.ones(2, 3, 1)).tolist()
    [[[3.0]], [[3.0]]]
    """
    a, b = _of_rank("bmm", (a, 3), (b, 3))
    if not same(shape_of(a)[0], shape_of(b)[0]):
        raise op_error(
            ShapeError, "bmm", (describe(a), describe(b)), "stacks of one length", user_line()
        )
    return matmul(a, b)


def _added(name: str, x: Any, made: Tensor, beta: float, alpha: float) -> Tensor:
    """beta * x + alpha * made. Where beta is 0, x is not looked at, and may be NaN."""
    x = as_tensor(x, name, made.dtype)
    if not made.dtype.is_float and any(isinstance(k, float) and k % 1 for k in (alpha, beta)):
        raise op_error(
            DTypeError, name, f"alpha={alpha} and beta={beta} for {made.dtype}", "integers",
            user_line(),
        )  # fmt: skip
    whole = broadcasted(name, [x, made])
    if shape_of(whole[1]) is not shape_of(made) and shape_of(whole[1]) != shape_of(made):
        raise op_error(
            ShapeError, name, f"{describe(x)} and a product {describe(made)}",
            "a tensor that broadcasts to the product", user_line(),
        )  # fmt: skip
    scaled = made if alpha == 1 else made * alpha
    return scaled if beta == 0 else scaled + (whole[0] if beta == 1 else whole[0] * beta)


@method("addmm")
def addmm(
    input: Tensor,
    mat1: Tensor,
    mat2: Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,  # noqa: A002
) -> Tensor:
    """beta * input + alpha * mat1 @ mat2, for matrices. With beta 0 the input is not looked at.

    >>> ds.addmm(ds.ones(2), ds.ones(2, 3), ds.ones(3, 2), beta=2.0).tolist()
    [[5.0, 5.0], [5.0, 5.0]]
    """
    return _added("addmm", input, mm(mat1, mat2), beta, alpha)


@method("addmv")
def addmv(
    input: Tensor,
    mat: Tensor,
    vec: Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,  # noqa: A002
) -> Tensor:
    """beta * input + alpha * mat @ vec, for a matrix and a vector.

    >>> ds.addmv(ds.ones(2), ds.ones(2, 3), ds.ones(3)).tolist()
    [4.0, 4.0]
    """
    return _added("addmv", input, mv(mat, vec), beta, alpha)


@method("addr")
def addr(
    input: Tensor,
    vec1: Tensor,
    vec2: Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,  # noqa: A002
) -> Tensor:
    """beta * input + alpha * outer(vec1, vec2).

    >>> ds.addr(ds.ones(2, 2), ds.asarray([1.0, 2.0]), ds.asarray([3.0, 4.0])).tolist()
    [[4.0, 5.0], [7.0, 9.0]]
    """
    return _added("addr", input, outer(vec1, vec2), beta, alpha)


@method("baddbmm")
def baddbmm(
    input: Tensor,
    batch1: Tensor,
    batch2: Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,  # noqa: A002
) -> Tensor:
    """beta * input + alpha * batch1 @ batch2, for stacks of matrices.

    >>> ds.baddbmm(ds.ones(1), ds.ones(1, 1, 2), ds.ones(1, 2, 1)).tolist()
    [[[3.0]]]
    """
    return _added("baddbmm", input, bmm(batch1, batch2), beta, alpha)


@method("addbmm")
def addbmm(
    input: Tensor,
    batch1: Tensor,
    batch2: Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,  # noqa: A002
) -> Tensor:
    """beta * input + alpha * the sum of batch1 @ batch2 over the stacks.

    >>> ds.addbmm(ds.ones(1), ds.ones(4, 1, 2), ds.ones(4, 2, 1)).tolist()
    [[9.0]]
    """
    a, b = _of_rank("addbmm", (batch1, 3), (batch2, 3))
    return _added("addbmm", input, einsum("bij,bjk->ik", a, b), beta, alpha)


def chain_matmul(*matrices: Any) -> Tensor:
    """The product of several matrices, in the order that takes the fewest multiplications.

    The first and the last may be vectors: a row and a column, which the result has no axis for.
    (`ds.linalg.multi_dot` takes them in one list.) The order is chosen by dynamic programming
    (Cormen et al., Introduction to Algorithms, chapter 15.2).

    >>> ds.chain_matmul(ds.ones(1, 2), ds.ones(2, 3), ds.ones(3)).tolist()
    [6.0]
    """
    return matrix_chain("chain_matmul", matrices)


def matrix_chain(name: str, given: Sequence[Any]) -> Tensor:
    """The product of matrices in the best order, on behalf of the op of that name."""
    tensors = promoted(name, tuple(given), NUMERIC) if given else []
    last = len(tensors) - 1
    if not tensors or any(
        t.ndim != 2 and not (t.ndim == 1 and i in (0, last)) for i, t in enumerate(tensors)
    ):
        raise op_error(
            ShapeError, name, [describe(t) for t in tensors],
            "matrices, the first and last of which may be vectors", user_line(),
        )  # fmt: skip
    if len(tensors) == 1:
        return tensors[0]
    row, column = tensors[0].ndim == 1, tensors[-1].ndim == 1
    if row:
        tensors[0] = tensors[0].reshape((1, -1))
    if column:
        tensors[-1] = tensors[-1].reshape((-1, 1))
    out = _chained(tensors)
    sizes = shape_of(out)
    return out.reshape(sizes[int(row) : 2 - int(column)])


def _chained(tensors: list[Tensor]) -> Tensor:
    sizes = [elements(shape_of(t)[:1]) for t in tensors]
    sizes.append(elements(shape_of(tensors[-1])[1:]))
    count = len(tensors)
    cost: dict[tuple[int, int], tuple[float, int]] = {(i, i): (0, i) for i in range(count)}
    for length in range(1, count):
        for i in range(count - length):
            j = i + length
            cost[i, j] = min(
                (cost[i, k][0] + cost[k + 1, j][0] + sizes[i] * sizes[k + 1] * sizes[j + 1], k)
                for k in range(i, j)
            )

    def multiplied(i: int, j: int) -> Tensor:
        if i == j:
            return tensors[i]
        k = cost[i, j][1]
        return matmul(multiplied(i, k), multiplied(k + 1, j))

    return multiplied(0, count - 1)


def _bilinear_reference(x1: Any, x2: Any, weight: Any, bias: Any) -> Any:
    out = np.einsum("...i,kij,...j->...k", x1, weight, x2)
    return out if bias is None else out + bias


@composite(
    reference=_bilinear_reference,
    samples=lambda: [
        Sample(((5, 3), (5, 4), (6, 3, 4), (6,))),
        Sample(((2, 5, 3), (2, 5, 2), (1, 3, 2)), {"bias": None}),
        Sample(((3,), (4,), (2, 3, 4), (2,))),
        Sample(((0, 3), (0, 4), (2, 3, 4), (2,))),
    ],
    tolerance=32,
)
def bilinear(x1: Tensor, x2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """out[..., k] = sum over i and j of x1[..., i] * weight[k, i, j] * x2[..., j], plus a bias.

    Raises ShapeError where the sizes do not fit.

    >>> ds.bilinear(ds.ones(1, 2), ds.ones(1, 3), ds.ones(4, 2, 3)).tolist()
    [[6.0, 6.0, 6.0, 6.0]]
    """
    fits = weight.ndim == 3 and x1.ndim and x2.ndim
    if not fits or not all(map(same, shape_of(weight)[1:], (shape_of(x1)[-1], shape_of(x2)[-1]))):
        raise op_error(
            ShapeError, "bilinear", (describe(x1), describe(x2), f"weight {describe(weight)}"),
            "(..., n), (..., m) and a weight (out, n, m)", user_line(),
        )  # fmt: skip
    out = einsum("...ki,...i->...k", einsum("kij,...j->...ki", weight, x2), x1)
    return out if bias is None else out + bias
