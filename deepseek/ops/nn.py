"""Linear maps, embeddings and dropout as composites: PyTorch's names and signatures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, DTypeError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor, state
from deepseek.ir.dtype import int64, uint32
from deepseek.ir.op import Sample
from deepseek.ir.shape import same
from deepseek.ops import forms_nn
from deepseek.ops.create import arange
from deepseek.ops.define import (
    composite,
    converted,
    describe,
    filled,
    shape_of,
)
from deepseek.ops.elementwise import stop_gradient, where
from deepseek.ops.index import indices_of, take
from deepseek.ops.random import Generator, next_draw, philox_reference, random_bits

__all__ = ["dropout", "embedding", "linear", "one_hot"]


def _linear_reference(x: Any, weight: Any, bias: Any) -> Any:
    out = np.einsum("...k,nk->...n", x, weight)
    return out if bias is None else out + bias


@composite(
    reference=_linear_reference,
    samples=lambda: [
        Sample(((3, 5), (7, 5), (7,))),
        Sample(((2, 3, 5), (4, 5))),
        Sample(((5,), (2, 5), (2,))),
        Sample(((0, 5), (2, 5), (2,))),
    ],
    tolerance=32,
    precision="low",
    onnx=forms_nn.linear,
)
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias, the weight being (out, in). Raises ShapeError where sizes do not fit.

    >>> ds.linear(ds.asarray([[1, 2]]), ds.asarray([[1, 0], [1, 1]]), ds.asarray([0, 10]))
    tensor([[ 1, 13]])
    """
    if weight.ndim != 2 or not x.ndim or not same(shape_of(x)[-1], shape_of(weight)[1]):
        raise op_error(
            ShapeError, "linear", (describe(x), f"weight {describe(weight)}"),
            "(..., in) and a weight (out, in)", user_line(),
        )  # fmt: skip
    out: Tensor = x @ weight.mT
    return out if bias is None else out + bias


def _embedding_reference(input: Any, weight: Any, padding_idx: Any) -> Any:  # noqa: A002
    return weight[input]


@composite(
    reference=_embedding_reference,
    samples=lambda: [
        Sample((np.array([[1, 4, 1], [0, 0, 2]]), (5, 3))),
        Sample((np.array([3, 0, 3], np.int32), (4, 6)), {"padding_idx": 0}),
        Sample((np.zeros((0,), np.int64), (4, 6))),
    ],
    onnx=forms_nn.embedding,
)
def embedding_(input: Tensor, weight: Tensor, padding_idx: int | None = None) -> Tensor:  # noqa: A002
    """The rows of weight at indices that were looked at."""
    rows = take(weight, input, axis=0)
    if padding_idx is None:
        return rows
    padding = (input == padding_idx).reshape((*shape_of(input), 1))
    return where(padding, stop_gradient(rows), rows)


def embedding(input: Any, weight: Tensor, padding_idx: int | None = None) -> Tensor:  # noqa: A002
    """The rows of weight at the given indices; the row `padding_idx` gets no gradient.

    Raises DTypeError unless the indices are integers, ShapeError for one known to be out of range.

    >>> ds.embedding(ds.asarray([[2, 0]]), ds.asarray([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]))
    tensor([[[4., 5.],
             [0., 1.]]])
    """
    rows = shape_of(weight)[0] if weight.ndim else 1
    out: Tensor = embedding_(indices_of("embedding", input, rows), weight, padding_idx)
    return out


@composite(
    reference=lambda x, num_classes: np.eye(num_classes, dtype=np.int64)[x],
    samples=lambda: [Sample((np.array([[0, 3], [1, 1]]),), {"num_classes": 4})],
    onnx=forms_nn.one_hot,
)
def one_hot_(x: Tensor, num_classes: int) -> Tensor:
    """For each integer a row of int64 zeros with a one at that place, if there is such a place."""
    column = converted(x, int64).reshape((*shape_of(x), 1))
    return converted(column == arange(num_classes), int64)


def one_hot(x: Tensor, num_classes: int = -1) -> Tensor:
    """For each integer a row of int64 zeros with a one at that place, or none where there is none.

    By default there are as many classes as the largest integer asks for; inside `@ds.jit` they have
    to be given. Raises DTypeError unless x is of integers. ArgumentError where their number is
    missing.

    >>> ds.one_hot(ds.asarray([2, 0]), 3)
    tensor([[0, 0, 1],
            [1, 0, 0]])
    """
    if not x.dtype.is_integer:
        raise op_error(DTypeError, "one_hot", describe(x), "integers", user_line())
    if num_classes == -1:
        if state.trace is not None:
            raise op_error(
                ArgumentError, "one_hot", "no num_classes inside a compiled function",
                "their number, which values do not decide there", user_line(),
                "pass num_classes=...",
            )  # fmt: skip
        num_classes = int(x.max()) + 1
    return one_hot_(x, num_classes)


def _dropout_reference(x: Any, seed: Any, draw: Any, p: float) -> Any:
    if p == 1:
        return np.zeros_like(x)
    low, high = np.uint64(0xFFFFFFFF), np.uint64(32)
    at = np.arange(x.size, dtype=np.uint64)
    number = np.asarray(draw).astype(np.uint64)
    words = np.broadcast_arrays(at, at >> high, number & low, number >> high)
    key = np.array([np.uint64(seed) & low, np.uint64(seed) >> high])
    bits = philox_reference(np.stack(words, axis=-1), key)[..., 0].reshape(x.shape)
    return np.where(bits >= int(p * 2**32), x / x.dtype.type(1 - p), 0)


@composite(
    reference=_dropout_reference,
    samples=lambda: [
        Sample(((3, 37), np.uint64(7), np.int64(1)), {"p": 0.5}),
        Sample(((4, 5), np.uint64(7), np.int64(2)), {"p": 0.1}),
        Sample(((4, 5), np.uint64(7), np.int64(3)), {"p": 1.0}),
    ],
)
def dropout_(x: Tensor, seed: Tensor, draw: Tensor, p: float) -> Tensor:
    """x with each element dropped where the bits of (seed, draw) say so, the others scaled up."""
    if p == 1:
        return x * 0
    bits = random_bits(seed, draw, shape_of(x))
    return where(bits >= filled((), int(p * 2**32), uint32), x * (1 / (1 - p)), 0)


def dropout(
    x: Tensor, p: float = 0.5, training: bool = True, *, generator: Generator | None = None
) -> Tensor:
    """x, in training with elements set to 0 with probability p and the rest divided by 1 - p.

    Raises ArgumentError unless 0 <= p <= 1.

    >>> x = ds.ones(1000)
    >>> dropped = ds.dropout(x, 0.25)
    >>> sorted(set(dropped.tolist())), ds.dropout(x, 0.25, training=False).sum()
    ([0.0, 1.3333333730697632], tensor(1000.))
    """
    if not 0 <= p <= 1:
        raise op_error(ArgumentError, "dropout", f"p={p}", "a probability", user_line())
    if not training or p == 0:
        return x
    return dropout_(x, *next_draw(generator), float(p))


def axes_after(x: Tensor, first: int) -> Sequence[int]:
    """The axes of x from `first` on."""
    return tuple(range(first, x.ndim))
