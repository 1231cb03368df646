"""Losses with margins as composites: PyTorch's names, signatures and reductions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import bool_, int64
from deepseek.ir.op import Sample
from deepseek.ir.shape import same_shape
from deepseek.ops.activation import floating, logsigmoid
from deepseek.ops.create import places_along
from deepseek.ops.define import composite, converted, describe, filled, shape_of
from deepseek.ops.distances import pairwise_distance
from deepseek.ops.elementwise import logical_and, logical_not, maximum, minimum, where
from deepseek.ops.index import take_along_axis
from deepseek.ops.loss import (
    reduced_loss,
    reduced_reference,
    reduction_samples,
    refusing_classes,
    wide_floats,
)
from deepseek.ops.transcendental import logaddexp, sqrt

__all__ = [
    "cosine_embedding_loss", "hinge_embedding_loss", "margin_ranking_loss", "multi_margin_loss",
    "multilabel_margin_loss", "multilabel_soft_margin_loss", "soft_margin_loss",
    "triplet_margin_loss", "triplet_margin_with_distance_loss",
]  # fmt: skip

SIGNS = np.array([1, -1, -1, 1, -1])


def _positive(x: Any) -> Any:
    return np.maximum(x, 0)


# ----------------------------------------------------------------------- pairs, told apart by sign


def _hinge_reference(input: Any, target: Any, margin: float, reduction: str) -> Any:  # noqa: A002
    losses = np.where(target == 1, input, _positive(margin - input))
    return reduced_reference(losses, reduction)


@composite(
    reference=_hinge_reference,
    samples=lambda: [
        *reduction_samples((3, 5), SIGNS),
        Sample(((5,), SIGNS.astype(np.int8)), {"margin": 0.5}),
    ],
    tolerance=32,
    precision="high",
)
def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    reduction: str = "mean",  # noqa: A002
) -> Tensor:
    """The input where target is 1, max(margin - input, 0) where it is -1.

    >>> ds.hinge_embedding_loss(ds.asarray([2.0, 0.5]), ds.asarray([1, -1]), reduction="none")
    tensor([2. , 0.5])
    """
    (x,) = wide_floats(input)
    losses = where(target != 1, maximum(margin - x, 0), 0) + where(target != -1, x, 0)
    return converted(reduced_loss(losses, reduction, "hinge_embedding_loss"), floating(input).dtype)


def _ranking_reference(input1: Any, input2: Any, target: Any, margin: float, reduction: str) -> Any:
    return reduced_reference(_positive(-target * (input1 - input2) + margin), reduction)


@composite(
    reference=_ranking_reference,
    samples=lambda: [
        *reduction_samples((3, 5), (3, 5), SIGNS),
        Sample(((3, 5), (5,), (3, 1)), {"margin": 0.5}),
    ],
    tolerance=32,
    precision="high",
)
def margin_ranking_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """max(-target * (input1 - input2) + margin, 0): target says which one is to be larger.

    >>> ds.margin_ranking_loss(ds.asarray([1.0]), ds.asarray([3.0]), ds.asarray([1.0]))
    tensor(2.)
    """
    a, b, y = wide_floats(input1, input2, target)
    losses = maximum(margin - y * (a - b), 0)
    return converted(reduced_loss(losses, reduction, "margin_ranking_loss"), floating(input1).dtype)


@composite(
    reference=lambda input, target, reduction: reduced_reference(
        np.logaddexp(0, -target * input), reduction
    ),
    samples=lambda: reduction_samples((3, 5), SIGNS),
    tolerance=32,
    precision="high",
)
def soft_margin_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:  # noqa: A002
    """log(1 + exp(-target * input)), the target being 1 or -1.

    >>> ds.soft_margin_loss(ds.asarray([-200.0, 200.0]), ds.asarray([1.0, 1.0]))
    tensor(100.)
    """
    x, y = wide_floats(input, target)
    losses = logaddexp(-y * x, 0)
    return converted(reduced_loss(losses, reduction, "soft_margin_loss"), floating(input).dtype)


def _cosine_reference(input1: Any, input2: Any, target: Any, margin: float, reduction: str) -> Any:
    lengths = [np.sum(x * x, axis=-1) + 1e-12 for x in (input1, input2)]
    cosine = np.sum(input1 * input2, axis=-1) / np.sqrt(lengths[0] * lengths[1])
    losses = np.where(target == 1, 1 - cosine, _positive(cosine - margin))
    return reduced_reference(losses, reduction)


@composite(
    reference=_cosine_reference,
    samples=lambda: [
        *reduction_samples((5, 7), (5, 7), SIGNS),
        Sample(((7,), (7,), np.array(1)), {"margin": 0.5}),
    ],
    tolerance=64,
    precision="high",
)
def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """1 - cosine(input1, input2) where target is 1, max(cosine - margin, 0) where it is -1.

    The inputs are vectors (batch, d) or (d), `target` has their shape without the last axis. Raises
    ShapeError for others.

    >>> x = ds.asarray([[1.0, 0.0], [1.0, 0.0]])
    >>> ds.cosine_embedding_loss(x, x, ds.asarray([1, -1]), reduction="none")
    tensor([0., 1.])
    """
    if not same_shape(shape_of(target), shape_of(input1)[:-1]):
        raise op_error(
            ShapeError, "cosine_embedding_loss", (describe(input1), f"target {describe(target)}"),
            "a target for each vector", user_line(),
        )  # fmt: skip
    a, b = wide_floats(input1, input2)
    lengths = ((a * a).sum(axis=-1) + 1e-12) * ((b * b).sum(axis=-1) + 1e-12)
    cosine = (a * b).sum(axis=-1) / sqrt(lengths)
    apart = where(target == -1, maximum(cosine - margin, 0), 0)
    losses = where(target == 1, 1 - cosine, apart)
    dtype = floating(input1).dtype
    return converted(reduced_loss(losses, reduction, "cosine_embedding_loss"), dtype)


# ----------------------------------------------------------------------------- one of many classes


def _multi_reference(
    input: Any,
    target: Any,
    p: int,
    margin: float,
    weight: Any,
    reduction: str,  # noqa: A002
) -> Any:
    rows, targets = np.atleast_2d(input), np.atleast_1d(target)
    losses = np.zeros(len(rows), input.dtype)
    for n, (row, y) in enumerate(zip(rows, targets, strict=True)):
        for i in range(row.size):
            if i != y:
                cost = _positive(margin - row[y] + row[i]) ** p
                losses[n] += cost * (1 if weight is None else weight[y]) / row.size
    return reduced_reference(losses.reshape(target.shape), reduction)


@refusing_classes
@composite(
    reference=_multi_reference,
    samples=lambda: [
        *reduction_samples((4, 7), np.array([0, 6, 3, 3])),
        Sample(((4, 3), np.array([0, 2, 1, 0]), 2, 0.5, (3,))),
        Sample(((5,), np.array(2))),
    ],
    tolerance=64,
    precision="high",
)
def multi_margin_loss(
    input: Tensor, target: Tensor, p: int = 1, margin: float = 1.0,  # noqa: A002
    weight: Tensor | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """The mean over classes i of max(margin - input[target] + input[i], 0)**p, i != target.

    `input` is (batch, classes) or (classes), `target` holds classes, `weight` weighs those. Raises
    ArgumentError for a p other than 1 and 2.

    >>> ds.multi_margin_loss(ds.asarray([[0.0, 3.0]]), ds.asarray([0]))
    tensor(2.)
    """
    _refuse_classes("multi_margin_loss", input, target, shape_of(input)[:-1])
    if p not in (1, 2):
        raise op_error(ArgumentError, "multi_margin_loss", f"p={p}", "1 or 2", user_line())
    (x,) = wide_floats(input)
    column = converted(target, int64).reshape((*shape_of(target), 1))
    costs = maximum(margin - take_along_axis(x, column, axis=-1) + x, 0)
    if weight is not None:
        (shares,) = wide_floats(weight)
        chosen = shares.take(column.reshape(shape_of(target)), axis=0)
        weighed = chosen.reshape((*shape_of(target), 1))
        costs = costs**p * weighed
    else:
        costs = costs**p
    others = where(column == places_along(x, x.ndim - 1), 0, costs)
    losses = others.sum(axis=-1) / filled((), shape_of(x)[-1], x.dtype)
    return converted(reduced_loss(losses, reduction, "multi_margin_loss"), floating(input).dtype)


def _refuse_classes(op: str, scores: Tensor, target: Tensor, wanted: Any) -> None:
    """Raises unless scores are a matrix or a vector, and the target integers of a shape."""
    fits = scores.ndim in (1, 2) and same_shape(shape_of(target), wanted)
    if not fits or not target.dtype.is_integer:
        raise op_error(
            ShapeError, op, (describe(scores), f"target {describe(target)}"),
            f"(batch, classes) or (classes), and integers {wanted}", user_line(),
        )  # fmt: skip


# ------------------------------------------------------------------------------- several classes


def _multilabel_reference(input: Any, target: Any, reduction: str) -> Any:  # noqa: A002
    losses = []
    for row, labels in zip(np.atleast_2d(input), np.atleast_2d(target), strict=True):
        end = [*labels, -1].index(-1)
        inside = set(labels[:end].tolist())
        outside = [i for i in range(row.size) if i not in inside]
        hinge = [_positive(1 - row[y] + row[i]) for y in labels[:end] for i in outside]
        losses.append(np.sum(hinge, dtype=row.dtype) / row.size)
    return reduced_reference(np.array(losses).reshape(input.shape[:-1]), reduction)


@composite(
    reference=_multilabel_reference,
    samples=lambda: [
        *reduction_samples((3, 4), np.array([[3, 0, -1, 1], [-1, 0, 0, 0], [0, 1, 2, 3]])),
        Sample(((5,), np.array([2, 4, -1, -1, 0]))),
    ],
    tolerance=64,
    precision="high",
)
def multilabel_margin_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:  # noqa: A002
    """The hinge of every class that is in the target over every one that is not, by classes.

    `input` and `target` are (batch, classes) or (classes); each row of the target lists classes up
    to the first -1.

    >>> ds.multilabel_margin_loss(ds.asarray([0.0, 1.0]), ds.asarray([0, -1]))
    tensor(1.)
    """
    _refuse_classes("multilabel_margin_loss", input, target, shape_of(input))
    (x,) = wide_floats(input)
    labels = converted(target, int64)
    listed = converted(converted(labels < 0, int64).cumulative_sum(axis=-1) == 0, bool_)
    column = labels.reshape((*shape_of(labels), 1))
    live = listed.reshape((*shape_of(labels), 1))
    inside = logical_and(column == places_along(x, x.ndim - 1), live).any(axis=-2, keepdims=True)
    wanted = take_along_axis(x, maximum(labels, 0), axis=-1).reshape(shape_of(column))
    costs = maximum(1 - wanted + x.reshape((*shape_of(x)[:-1], 1, shape_of(x)[-1])), 0)
    counted = where(logical_and(live, logical_not(inside)), costs, 0)
    losses = counted.sum(axis=(-2, -1)) / filled((), shape_of(x)[-1], x.dtype)
    dtype = floating(input).dtype
    return converted(reduced_loss(losses, reduction, "multilabel_margin_loss"), dtype)


def _multilabel_soft_reference(input: Any, target: Any, weight: Any, reduction: str) -> Any:  # noqa: A002
    costs = target * np.logaddexp(0, -input) + (1 - target) * np.logaddexp(0, input)
    losses = np.mean(costs if weight is None else costs * weight, axis=-1)
    return reduced_reference(losses, reduction)


@composite(
    reference=_multilabel_soft_reference,
    samples=lambda: [*reduction_samples((3, 7), (3, 7)), Sample(((3, 7), (3, 7), (7,)))],
    tolerance=32,
    precision="high",
)
def multilabel_soft_margin_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",  # noqa: A002
) -> Tensor:
    """The binary cross entropy of sigmoid(input) and target, averaged over classes (last axis).

    >>> ds.multilabel_soft_margin_loss(ds.asarray([[-200.0, 200.0]]), ds.asarray([[1.0, 1.0]]))
    tensor(100.)
    """
    x, y = wide_floats(input, target)
    costs = -(y * logsigmoid(x) + (1 - y) * logsigmoid(-x))
    if weight is not None:
        costs = costs * wide_floats(weight)[0]
    losses = costs.mean(axis=-1)
    dtype = floating(input).dtype
    return converted(reduced_loss(losses, reduction, "multilabel_soft_margin_loss"), dtype)


# ----------------------------------------------------------------------------------------- triplets


def _triplet_reference(
    anchor: Any, positive: Any, negative: Any, margin: float, p: float, eps: float, swap: bool,
    reduction: str,
) -> Any:  # fmt: skip
    def distance(a: Any, b: Any) -> Any:
        return np.linalg.norm(a - b + eps, p, axis=-1)

    far = distance(anchor, negative)
    if swap:
        far = np.minimum(far, distance(positive, negative))
    return reduced_reference(_positive(margin + distance(anchor, positive) - far), reduction)


@composite(
    reference=_triplet_reference,
    samples=lambda: [
        *reduction_samples((3, 7), (3, 7), (3, 7)),
        Sample(((3, 7), (3, 7), (3, 7)), {"swap": True, "p": 1.0, "margin": 3.0}),
    ],
    tolerance=64,
    precision="high",
)
def triplet_margin_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 1.0, p: float = 2.0,
    eps: float = 1e-6, swap: bool = False, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """max(margin + |anchor - positive| - |anchor - negative|, 0), by p-norms of the last axis.

    `swap` takes |positive - negative| where that is less (Balntas et al., 2016). Raises
    ArgumentError unless the margin is above 0.

    >>> a = ds.asarray([[0.0, 0.0]])
    >>> ds.triplet_margin_loss(a, a + 3, a + 3)
    tensor(1.)
    """
    return _triplet(
        lambda a, b: pairwise_distance(a, b, p, eps), anchor, positive, negative, margin, swap,
        reduction, "triplet_margin_loss",
    )  # fmt: skip


def _triplet(
    distance: Callable[[Tensor, Tensor], Tensor], anchor: Tensor, positive: Tensor,
    negative: Tensor, margin: float, swap: bool, reduction: str, op: str,
) -> Tensor:  # fmt: skip
    if not margin > 0:
        raise op_error(ArgumentError, op, f"margin={margin}", "a margin above 0", user_line())
    far = distance(anchor, negative)
    if swap:
        far = minimum(far, distance(positive, negative))
    return reduced_loss(maximum(margin + distance(anchor, positive) - far, 0), reduction, op)


def triplet_margin_with_distance_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, *,
    distance_function: Callable[[Tensor, Tensor], Tensor] | None = None, margin: float = 1.0,
    swap: bool = False, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """`triplet_margin_loss` by any function of two tensors, `pairwise_distance` by default.

    >>> a = ds.asarray([[0.0, 0.0]])
    >>> far = lambda x, y: ds.abs(x - y).sum(axis=-1)
    >>> ds.triplet_margin_with_distance_loss(a, a, a + 1, distance_function=far, margin=4.0)
    tensor(2.)
    """
    name = "triplet_margin_with_distance_loss"
    distance = distance_function or pairwise_distance
    return _triplet(distance, anchor, positive, negative, margin, swap, reduction, name)
