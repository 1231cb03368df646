"""Distances and similarities of vectors as composites: PyTorch's names and signatures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from deepseek.errors import ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.op import Sample
from deepseek.ir.shape import same
from deepseek.ops.activation import floating, widened
from deepseek.ops.define import axis_of, composite, converted, describe, result_dtype, shape_of
from deepseek.ops.elementwise import abs, maximum
from deepseek.ops.grids import triu_indices
from deepseek.ops.index import take
from deepseek.ops.vector_norms import vector_norm
from deepseek.ops.view import broadcast_arrays

__all__ = ["cdist", "cosine_similarity", "normalize", "pairwise_distance", "pdist"]


def _norm_reference(x: Any, p: float, axis: int) -> Any:
    return np.linalg.norm(x, p, axis=axis) if x.shape[axis] else np.sum(x, axis=axis)


# ------------------------------------------------------------------------------------- row by row


def _normalize_reference(x: Any, p: float, dim: int, eps: float) -> Any:
    return x / np.maximum(np.expand_dims(_norm_reference(x, p, dim), dim), eps)


@composite(
    reference=_normalize_reference,
    samples=lambda: [
        Sample(((3, 37),)),
        Sample(((2, 3, 5),), {"p": 1.0, "dim": -1}),
        Sample(((2, 3, 5),), {"p": math.inf, "dim": 0}),
        Sample((np.array([[0.0, 0.0], [3.0, np.inf]], np.float32),), {"dim": 1}),
        Sample(((0, 3),)),
    ],
    tolerance=16,
    precision="high",
)
def normalize(x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """x over its p-norm along an axis, or over eps where that is greater.

    >>> ds.normalize(ds.asarray([3.0, 4.0]), dim=0)
    tensor([0.6, 0.8])
    """
    x = floating(x)
    wide = widened(x)
    axis = axis_of("normalize", x, dim)
    return converted(wide / maximum(vector_norm(wide, p, axis, keepdims=True), eps), x.dtype)


def _cosine_reference(x1: Any, x2: Any, dim: int, eps: float) -> Any:
    x1, x2 = np.broadcast_arrays(x1, x2)
    lengths = [np.maximum(np.sqrt(np.sum(x * x, axis=dim)), eps) for x in (x1, x2)]
    return np.sum(x1 * x2, axis=dim) / (lengths[0] * lengths[1])


@composite(
    reference=_cosine_reference,
    samples=lambda: [
        Sample(((3, 37), (3, 37))),
        Sample(((2, 3, 5), (5,)), {"dim": -1}),
        Sample(((2, 3), np.zeros((2, 3), np.float32)), {"eps": 1e-3}),
        Sample(((2, 3), (2, 1))),
        Sample(((3, 0), (3, 0))),
    ],
    tolerance=16,
    precision="high",
)
def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """The cosine of the angle between vectors along an axis; their lengths count as eps at least.

    The tensors are broadcast first, so that both have as many elements along the axis.

    >>> ds.cosine_similarity(ds.asarray([3.0, 0.0]), ds.asarray([-2.0, 0.0]), dim=0)
    tensor(-1.)
    """
    a, b = floating(x1), floating(x2)
    dtype = result_dtype("cosine_similarity", (a, b))
    a, b = broadcast_arrays(widened(a), widened(b))
    axis = axis_of("cosine_similarity", a, dim)
    lengths = [maximum(vector_norm(v, 2, axis, keepdims=True), eps) for v in (a, b)]
    return converted(((a / lengths[0]) * (b / lengths[1])).sum(axis=axis), dtype)


@composite(
    reference=lambda x1, x2, p, eps, keepdim: (
        np.sum(np.abs(x1 - x2 + eps) ** p, axis=-1, keepdims=keepdim) ** (1 / p)
    ),
    samples=lambda: [
        Sample(((3, 37), (3, 37))),
        Sample(((2, 3, 5), (5,)), {"p": 1.0, "keepdim": True}),
        Sample(((0, 3), (0, 3)), {"p": 3.0, "eps": 1e-3}),
    ],
    tolerance=16,
    precision="high",
)
def pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """The p-norm of x1 - x2 + eps along the last axis.

    >>> ds.pairwise_distance(ds.asarray([3.0, 4.0]), ds.zeros(2), eps=0.0)
    tensor(5.)
    """
    a, b = floating(x1), floating(x2)
    dtype = result_dtype("pairwise_distance", (a, b))
    return converted(vector_norm(widened(a) - widened(b) + eps, p, -1, keepdim), dtype)


# ----------------------------------------------------------------------------------- all with all


def _cdist_reference(x1: Any, x2: Any, p: float) -> Any:
    difference = x1[..., :, None, :] - x2[..., None, :, :]
    return _norm_reference(difference, p, -1)


@composite(
    reference=_cdist_reference,
    samples=lambda: [
        Sample(((3, 5), (7, 5))),
        Sample(((2, 3, 5), (4, 5)), {"p": 1.0}),
        Sample(((3, 5), (2, 4, 5)), {"p": math.inf}),
        Sample(((3, 2), (4, 2)), {"p": 0.0}),
        Sample(((0, 5), (7, 5)), {"p": 3.0}),
    ],
    tolerance=16,
    precision="high",
)
def cdist(x1: Tensor, x2: Tensor, p: float = 2.0) -> Tensor:
    """The p-norm distance of each row of x1 (..., m, d) and each of x2 (..., n, d): (..., m, n).

    Raises ShapeError where the rows differ in length. The gradient at distance 0 is 0.

    >>> ds.cdist(ds.asarray([[0.0, 0.0], [3.0, 0.0]]), ds.asarray([[0.0, 4.0]]))
    tensor([[4.],
            [5.]])
    """
    if min(x1.ndim, x2.ndim) < 2 or not same(shape_of(x1)[-1], shape_of(x2)[-1]):
        raise op_error(
            ShapeError, "cdist", (describe(x1), describe(x2)), "(..., m, d) and (..., n, d)",
            user_line(),
        )  # fmt: skip
    a, b = floating(x1), floating(x2)
    dtype = result_dtype("cdist", (a, b))
    a, b = widened(a), widened(b)
    rows = a.reshape((*shape_of(a)[:-1], 1, shape_of(a)[-1]))
    columns = b.reshape((*shape_of(b)[:-2], 1, *shape_of(b)[-2:]))
    return converted(vector_norm(abs(rows - columns), p, -1), dtype)


def _pdist_reference(x: Any, p: float) -> Any:
    return _cdist_reference(x, x, p)[np.triu_indices(len(x), 1)]


@composite(
    reference=_pdist_reference,
    samples=lambda: [Sample(((5, 3),)), Sample(((4, 7),), {"p": 1.0}), Sample(((1, 3),))],
    tolerance=16,
    precision="high",
)
def pdist(x: Tensor, p: float = 2.0) -> Tensor:
    """The p-norm distances of all pairs of rows of a matrix (n, d): n (n - 1) / 2 of them.

    Raises ShapeError for other than matrices.

    >>> ds.pdist(ds.asarray([[0.0], [1.0], [3.0]]))
    tensor([1., 3., 2.])
    """
    if x.ndim != 2:
        raise op_error(ShapeError, "pdist", describe(x), "a matrix (n, d)", user_line())
    first, second = triu_indices(x.shape[0], x.shape[0], 1)
    x = floating(x)
    wide = widened(x)
    difference = take(wide, first, axis=0) - take(wide, second, axis=0)
    return converted(vector_norm(difference, p, -1), x.dtype)
