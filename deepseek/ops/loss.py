"""Losses as composites: PyTorch's names and signatures, each one expansion in other ops.

They are summed in float32 where the input is narrower, and rounded once at the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import int64
from deepseek.ir.op import Sample
from deepseek.ir.shape import same, same_shape
from deepseek.ops import forms_nn
from deepseek.ops.activation import log_softmax, widened
from deepseek.ops.create import arange
from deepseek.ops.define import (
    composite,
    converted,
    describe,
    filled,
    shape_of,
)
from deepseek.ops.elementwise import maximum, where
from deepseek.ops.reduce import element_count, over_count
from deepseek.ops.transcendental import exp, log1p

__all__ = [
    "binary_cross_entropy_with_logits", "cross_entropy", "l1_loss", "mse_loss", "nll_loss",
]  # fmt: skip

REDUCTIONS = ("mean", "sum", "none")


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


def l1_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:  # noqa: A002
    """|input - target|: each, their mean or their sum."""
    difference = abs(widened(input) - widened(target))
    return reduced_loss(difference, reduction, "l1_loss").astype(input.dtype)


def binary_cross_entropy_with_logits(
    input: Tensor,  # noqa: A002
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """-target * log(p) - (1 - target) * log(1 - p) with p = sigmoid(input).

    `weight` weighs each element, `pos_weight` the first of the two parts.
    """
    x, y = widened(input), widened(target)
    # log(1 + exp(-x)) without overflow.
    softplus = log1p(exp(-abs(x))) + maximum(-x, 0.0)
    if pos_weight is not None:
        softplus = (1 + (widened(pos_weight) - 1) * y) * softplus
    losses = (1 - y) * x + softplus
    if weight is not None:
        losses = losses * widened(weight)
    name = "binary_cross_entropy_with_logits"
    return reduced_loss(losses, reduction, name).astype(input.dtype)
