"""Neural network functions as composites: PyTorch's names and signatures, each one expansion in
other ops.

Gradients, type rules and every backend follow from the expansions, so they are written to be stable
and to have a cheap derivative. 16-bit floats are widened to float32 inside and rounded once at the
end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import float32, int64, uint32
from deepseek.ir.op import Sample
from deepseek.ir.scalar import FUNCTIONS
from deepseek.ir.shape import same, same_shape
from deepseek.ops import forms, forms_nn
from deepseek.ops.create import arange
from deepseek.ops.define import (
    axis_of,
    composite,
    converted,
    describe,
    filled,
    shape_of,
)
from deepseek.ops.elementwise import maximum, stop_gradient, where
from deepseek.ops.index import take
from deepseek.ops.random import Generator, next_draw, philox_reference, random_bits
from deepseek.ops.reduce import element_count, over_count


def widened(x: Tensor) -> Tensor:
    """x in the dtype that sums of it are carried in."""
    return converted(x, x.dtype.accumulator)


def floating(x: Tensor) -> Tensor:
    """x, or its integers as float32."""
    return x if x.dtype.is_float else converted(x, float32)


def plain_samples(**kwargs: Any) -> list[Sample]:
    return [Sample(((3, 37),), kwargs), Sample(((2, 3, 5),), kwargs), Sample(((0, 3),), kwargs)]


# ------------------------------------------------------------------------------------- activations


@composite(
    reference=lambda x: np.maximum(x, 0),
    samples=lambda: [*plain_samples(), Sample((np.array([np.nan, -0.0, 1.0], np.float32),))],
    onnx="Relu",
)
def relu(x: Tensor) -> Tensor:
    """max(x, 0); its derivative at 0 is 0."""
    return maximum(0, x)


def _gelu_reference(x: Any, approximate: str) -> Any:
    if approximate == "tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + FUNCTIONS["erf"].meaning(x / math.sqrt(2)))


@composite(
    reference=_gelu_reference,
    samples=lambda: [*plain_samples(), *plain_samples(approximate="tanh")],
    onnx=forms.renamed("Gelu", approximate="approximate"),
)
def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """x times the probability that a normal variable is below x; "tanh" approximates it."""
    if approximate not in ("none", "tanh"):
        raise op_error(
            ArgumentError, "gelu", f"approximate={approximate!r}", "'none' or 'tanh'", user_line()
        )
    x = floating(x)
    wide = widened(x)
    if approximate == "tanh":
        inner = math.sqrt(2 / math.pi) * (wide + 0.044715 * wide * wide * wide)
        return converted(0.5 * wide * (1 + inner.tanh()), x.dtype)
    return converted(0.5 * wide * (1 + (wide * math.sqrt(0.5)).erf()), x.dtype)


@composite(reference=lambda x: x / (1 + np.exp(-x)), samples=plain_samples)
def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x)."""
    x = floating(x)
    wide = widened(x)
    return converted(wide * wide.sigmoid(), x.dtype)


def _softmax_reference(x: Any, dim: int) -> Any:
    x = x * 1.0  # integers as floats
    e = np.exp(x - np.max(x, axis=dim, keepdims=True, initial=-np.inf))
    return e / np.sum(e, axis=dim, keepdims=True)


def _softmax_samples() -> list[Sample]:
    return [
        Sample(((3, 37),), {"dim": -1}),
        Sample(((2, 3, 5),), {"dim": 1}),
        Sample(((4,),), {"dim": 0}),
        Sample(((0, 5),), {"dim": 1}),
        Sample((np.array([[1e4, 1e4, 0], [-np.inf, 0, 1]], np.float32),), {"dim": 1}),
    ]


def _shifted(x: Tensor, axis: int) -> Tensor:
    """x less its largest element on an axis, which gradients need not see."""
    wide = widened(x)
    return wide - stop_gradient(wide.max(axis=axis, keepdims=True))


@composite(reference=_softmax_reference, samples=_softmax_samples, tolerance=16, precision="high",
           method="softmax", onnx=forms.renamed("Softmax", axis="dim"))  # fmt: skip
def softmax(x: Tensor, dim: int) -> Tensor:
    """exp(x) / sum(exp(x)) along an axis."""
    axis = axis_of("softmax", x, dim)
    x = floating(x)
    e = _shifted(x, axis).exp()
    return converted(e / e.sum(axis=axis, keepdims=True), x.dtype)


def _log_softmax_reference(x: Any, dim: int) -> Any:
    return x - np.logaddexp.reduce(x, axis=dim, keepdims=True)


@composite(
    reference=_log_softmax_reference,
    samples=_softmax_samples,
    tolerance=16,
    precision="high",
    method="log_softmax",
    onnx=forms.renamed("LogSoftmax", axis="dim"),
)
def log_softmax(x: Tensor, dim: int) -> Tensor:
    """The logarithm of softmax."""
    axis = axis_of("log_softmax", x, dim)
    x = floating(x)
    shifted = _shifted(x, axis)
    return converted(shifted - shifted.exp().sum(axis=axis, keepdims=True).log(), x.dtype)


# ------------------------------------------------------------------------------------------ losses


def reduced_loss(losses: Tensor, reduction: str, op: str, weight: Tensor | None = None) -> Tensor:
    """Losses as they are, summed, or averaged (by the sum of weights where there are some)."""
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if reduction != "mean":
        raise op_error(
            ArgumentError, op, f"reduction={reduction!r}", "'none', 'mean' or 'sum'", user_line()
        )
    if weight is not None:
        return losses.sum() / weight.sum()
    axes = tuple(range(losses.ndim))
    return over_count(losses.sum(), element_count(shape_of(losses), axes))


def _reduced_reference(losses: Any, reduction: str) -> Any:
    return losses if reduction == "none" else getattr(np, reduction)(losses)


def _mse_reference(input: Any, target: Any, reduction: str) -> Any:  # noqa: A002
    return _reduced_reference(np.square(input - target), reduction)


@composite(
    reference=_mse_reference,
    samples=lambda: [
        *(Sample(((3, 7), (3, 7)), {"reduction": r}) for r in ("none", "mean", "sum")),
        Sample(((5, 1), (3,))),
    ],
    tolerance=32,
    precision="high",
)
def mse_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:  # noqa: A002
    """The squared difference of input and target: each, their mean or their sum."""
    difference = widened(input) - widened(target)
    return converted(reduced_loss(difference * difference, reduction, "mse_loss"), input.dtype)


def _class_mask(scores: Tensor, target: Tensor, op: str) -> Tensor:
    """Which element on the class axis (1, or 0 for one sample) is each target's."""
    axis = min(scores.ndim - 1, 1)
    wanted = (*shape_of(scores)[:axis], *shape_of(scores)[axis + 1 :])
    got = shape_of(target)
    if not target.dtype.is_integer or len(got) != len(wanted) or not all(map(same, got, wanted)):
        raise op_error(
            ShapeError, op, (describe(scores), f"target {describe(target)}"),
            "(batch, classes, ...) scores and (batch, ...) integer classes", user_line(),
        )  # fmt: skip
    places = arange(shape_of(scores)[axis]).reshape((-1,) + (1,) * (scores.ndim - axis - 1))
    column = converted(target, int64).reshape((*got[:axis], 1, *got[axis:]))
    return column == places


def _nll(
    logs: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    smoothing: float,
    op: str,
) -> tuple[Tensor, Tensor]:
    """Each sample's loss and its weight."""
    axis = min(logs.ndim - 1, 1)
    mask = _class_mask(logs, target, op)
    counted = converted(target != ignore_index, logs.dtype)
    shares = None
    if weight is not None:
        shares = converted(weight, logs.dtype).reshape((-1,) + (1,) * (logs.ndim - axis - 1))
    weighted = logs if shares is None else logs * shares
    losses = -where(mask, weighted, 0).sum(axis=axis)
    if smoothing:
        classes = shape_of(logs)[axis]
        spread = over_count(-weighted.sum(axis=axis) * smoothing, classes)
        losses = losses * (1 - smoothing) + spread
    if shares is not None:
        counted = counted * where(mask, shares, 0).sum(axis=axis)
    return where(target != ignore_index, losses, 0), counted


def _nll_reference(
    input: Any, target: Any, weight: Any, ignore_index: int, reduction: str,  # noqa: A002
    label_smoothing: float = 0.0,
) -> Any:  # fmt: skip
    logs = np.moveaxis(input, min(input.ndim - 1, 1), -1)
    classes = logs.shape[-1]
    weight = np.ones(classes, input.dtype) if weight is None else weight
    kept = target != ignore_index
    losses = np.zeros(target.shape, input.dtype)
    weights = np.zeros(target.shape, input.dtype)
    for at in np.ndindex(target.shape):
        if kept[at]:
            row, hit = logs[at] * weight, target[at]
            smooth = -row.sum() * label_smoothing / classes
            losses[at] = -row[hit] * (1 - label_smoothing) + smooth
            weights[at] = weight[hit]
    total = losses.sum(dtype=input.dtype)
    return losses if reduction == "none" else total if reduction == "sum" else total / weights.sum()


def _nll_samples(**kwargs: Any) -> list[Sample]:
    target = np.array([0, 4, 2, -100, 1])
    image = np.array([[[0, 1], [2, 1]], [[1, 1], [0, -1]]])
    out = [Sample(((5, 7), target), {"reduction": r} | kwargs) for r in ("none", "mean", "sum")]
    out.append(Sample(((2, 3, 2, 2), image), {"ignore_index": -1} | kwargs))
    out.append(Sample(((7,), np.array(3, np.int32)), dict(kwargs)))
    shares = np.linspace(0.5, 2, 7).astype(np.float32)
    out.append(Sample(((5, 7), target, shares), dict(kwargs)))
    return out


@composite(
    reference=_nll_reference,
    samples=_nll_samples,
    tolerance=32,
    precision="high",
    onnx=forms_nn.class_loss("NegativeLogLikelihoodLoss"),
)
def nll_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = -100,  # noqa: A002
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Minus the log-probability of each target class; the mean is by the sum of weights."""
    losses, counted = _nll(widened(input), target, weight, ignore_index, 0.0, "nll_loss")
    return converted(reduced_loss(losses, reduction, "nll_loss", counted), input.dtype)


def _cross_entropy_reference(
    input: Any,
    target: Any,
    weight: Any,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,  # noqa: A002
) -> Any:
    axis = min(input.ndim - 1, 1)
    logs = input - np.logaddexp.reduce(input, axis=axis, keepdims=True)
    if target.dtype.kind not in "iu":
        classes = input.shape[axis]
        target = target * (1 - label_smoothing) + label_smoothing / classes
        losses = -np.sum(logs * target, axis=axis)
        return _reduced_reference(losses, reduction)
    return _nll_reference(logs, target, weight, ignore_index, reduction, label_smoothing)


@composite(
    reference=_cross_entropy_reference,
    samples=lambda: [
        *_nll_samples(),
        *_nll_samples(label_smoothing=0.1),
        Sample(((4, 5), np.full((4, 5), 0.2, np.float32)), {"label_smoothing": 0.1}),
    ],
    tolerance=32,
    precision="high",
    onnx=forms_nn.class_loss("SoftmaxCrossEntropyLoss"),
)
def cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = -100,  # noqa: A002
    reduction: str = "mean", label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """The cross entropy of softmax(input) and target, class indices or probabilities."""
    axis = min(input.ndim - 1, 1)
    if target.dtype.is_float and not same_shape(shape_of(target), shape_of(input)):
        raise op_error(
            ShapeError, "cross_entropy", (describe(input), describe(target)),
            "integer class indices, or probabilities of the input's shape", user_line(),
        )  # fmt: skip
    logs = log_softmax(widened(input), axis)
    if target.dtype.is_integer:
        losses, counted = _nll(logs, target, weight, ignore_index, label_smoothing, "cross_entropy")
        return converted(reduced_loss(losses, reduction, "cross_entropy", counted), input.dtype)
    if weight is not None:
        shares = converted(weight, logs.dtype).reshape((-1,) + (1,) * (input.ndim - axis - 1))
        logs = logs * shares
    wanted = converted(target, logs.dtype)
    if label_smoothing:
        count = filled((), shape_of(input)[axis], logs.dtype)
        wanted = wanted * (1 - label_smoothing) + label_smoothing / count
    losses = -(logs * wanted).sum(axis=axis)
    if reduction == "mean":
        samples = [s for i, s in enumerate(shape_of(input)) if i != axis]
        total = over_count(losses.sum(), element_count(tuple(samples), range(len(samples))))
        return converted(total, input.dtype)
    return converted(reduced_loss(losses, reduction, "cross_entropy"), input.dtype)


# ------------------------------------------------------------------------------- linear, embedding


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
    """x @ weight.T + bias, the weight being (out, in)."""
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
    precision="low",
    onnx=forms_nn.embedding,
)
def embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None) -> Tensor:  # noqa: A002
    """The rows of weight at the given indices; the row `padding_idx` gets no gradient."""
    rows = take(weight, input, axis=0)
    if padding_idx is None:
        return rows
    padding = (input == padding_idx).reshape((*shape_of(input), 1))
    return where(padding, stop_gradient(rows), rows)


@composite(
    reference=lambda x, num_classes: np.eye(num_classes, dtype=np.int64)[x],
    samples=lambda: [Sample((np.array([[0, 3], [1, 1]]),), {"num_classes": 4})],
    onnx=forms_nn.one_hot,
)
def one_hot(x: Tensor, num_classes: int) -> Tensor:
    """For each integer a row of int64 zeros with a one at that place."""
    column = converted(x, int64).reshape((*shape_of(x), 1))
    return converted(column == arange(num_classes), int64)


# ---------------------------------------------------------------------------------------- dropout


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
    """x, in training with elements set to 0 with probability p and the rest divided by 1 - p."""
    if not 0 <= p <= 1:
        raise op_error(ArgumentError, "dropout", f"p={p}", "a probability", user_line())
    if not training or p == 0:
        return x
    return dropout_(x, *next_draw(generator), float(p))


def axes_after(x: Tensor, first: int) -> Sequence[int]:
    """The axes of x from `first` on."""
    return tuple(range(first, x.ndim))
