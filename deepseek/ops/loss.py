"""Losses of classes and probabilities as composites: PyTorch's names, signatures and reductions.

They are summed in float32 where the input is narrower, and rounded once at the end. What losses
have in common, the reduction, is here too.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import int64
from deepseek.ir.op import Sample
from deepseek.ir.shape import same, same_shape
from deepseek.ops import forms_nn
from deepseek.ops.activation import floating, log_softmax, widened
from deepseek.ops.create import places_along
from deepseek.ops.define import composite, converted, describe, filled, shape_of
from deepseek.ops.elementwise import maximum, where
from deepseek.ops.index import known_elements
from deepseek.ops.reductions import element_count, over_count
from deepseek.ops.transcendental import log, logaddexp

__all__ = ["binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy", "nll_loss"]

REDUCTIONS = ("mean", "sum", "none")
IGNORED = -100  # the target that counts nothing, unless another is chosen
Loss = Callable[..., Tensor]


def refusing_classes(loss: Loss) -> Loss:
    """The loss, which first looks at targets whose elements are there: each has to be a class.

    Out of range is an error. A compiled kernel cannot raise: there such a target is no class, and
    the loss of its sample 0.
    """
    parameters = [*inspect.signature(loss).parameters]
    ignores = "ignore_index" in parameters
    at = parameters.index("ignore_index") - 2 if ignores else len(parameters)

    @functools.wraps(loss)
    def checked(input: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: A002
        if isinstance(target, Tensor) and target.dtype.is_integer:
            given = args[at] if len(args) > at else kwargs.get("ignore_index", IGNORED)
            _refuse_classes(loss.__name__, input, target, given if ignores else None)
        return loss(input, target, *args, **kwargs)

    return checked


def _refuse_classes(name: str, scores: Any, target: Tensor, ignored: int | None) -> None:
    """Raises ShapeError for the first target that is known to be no class and is not ignored."""
    values = known_elements(target)
    if values is None or not values.size or not scores.ndim:
        return
    classes = shape_of(scores)[min(scores.ndim - 1, 1)]
    if not isinstance(classes, int) or (values.min() >= 0 and values.max() < classes):
        return
    wrong = values[((values < 0) | (values >= classes)) & (values != ignored)]
    if wrong.size:
        got, wanted = f"target {wrong.flat[0]} of {classes} classes", f"0 <= target < {classes}"
        also = "" if ignored is None else f", or {ignored}, which counts nothing"
        raise op_error(ShapeError, name, got, wanted + also, user_line())


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


def reduced_reference(losses: Any, reduction: str) -> Any:
    """`reduced_loss` in NumPy."""
    return losses if reduction == "none" else getattr(np, reduction)(losses)


def reduction_samples(*args: Any, **kwargs: Any) -> list[Sample]:
    """One sample for each reduction."""
    return [Sample(args, kwargs | {"reduction": r}) for r in REDUCTIONS]


def wide_floats(*tensors: Tensor) -> list[Tensor]:
    """The tensors in the dtypes that losses of them are summed in."""
    return [widened(floating(t)) for t in tensors]


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
    column = converted(target, int64).reshape((*got[:axis], 1, *got[axis:]))
    return column == places_along(scores, axis)


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


@refusing_classes
@composite(
    reference=_nll_reference,
    samples=_nll_samples,
    tolerance=32,
    precision="high",
    onnx=forms_nn.class_loss("NegativeLogLikelihoodLoss"),
)
def nll_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = IGNORED,  # noqa: A002
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Minus the log-probability of each target class; the mean is by the sum of weights.

    `input` (batch, classes, ...) are log-probabilities, `target` (batch, ...) classes, of which
    `ignore_index` counts nothing; `weight` (classes). Raises ShapeError where they do not fit, and
    for a target known to be none of the classes.

    >>> ds.nll_loss(ds.asarray([[-1.0, -2.0], [-3.0, -4.0]]), ds.asarray([0, 1]))
    tensor(2.5)
    """
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
        return reduced_reference(losses, reduction)
    return _nll_reference(logs, target, weight, ignore_index, reduction, label_smoothing)


@refusing_classes
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
    input: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = IGNORED,  # noqa: A002
    reduction: str = "mean", label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """The cross entropy of softmax(input) and target, class indices or probabilities.

    `input` (batch, classes, ...) are logits, `target` (batch, ...) classes, of which `ignore_index`
    counts nothing, or probabilities of the input's shape. Raises ShapeError for others, and for a
    target known to be none of the classes. ArgumentError for a smoothing outside of [0, 1], or an
    ignore_index beside probabilities.

    >>> ds.cross_entropy(ds.asarray([[0.0, -200.0], [3.0, 203.0]]), ds.asarray([0, 0]))
    tensor(100.)
    """
    axis = min(input.ndim - 1, 1)
    if target.dtype.is_float and not same_shape(shape_of(target), shape_of(input)):
        raise op_error(
            ShapeError, "cross_entropy", (describe(input), describe(target)),
            "integer class indices, or probabilities of the input's shape", user_line(),
        )  # fmt: skip
    if not 0 <= label_smoothing <= 1:
        got = f"label_smoothing={label_smoothing}"
        raise op_error(ArgumentError, "cross_entropy", got, "a share from 0 to 1", user_line())
    if ignore_index >= 0 and not target.dtype.is_integer:
        raise op_error(
            ArgumentError, "cross_entropy", f"ignore_index={ignore_index} and {describe(target)}",
            "integer class indices, of which one can be left out", user_line(),
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


# --------------------------------------------------------------------------------- binary classes


def _weighed(losses: Tensor, weight: Tensor | None) -> Tensor:
    return losses if weight is None else losses * widened(weight)


def _bce_reference(input: Any, target: Any, weight: Any, reduction: str) -> Any:  # noqa: A002
    logs = [np.maximum(np.log(p), -100) for p in (input, 1 - input)]
    losses = -(target * logs[0] + (1 - target) * logs[1])
    return reduced_reference(losses if weight is None else losses * weight, reduction)


def _log_above(x: Tensor) -> Tensor:
    """log(x), but -100 where it is less; the gradient there is 0."""
    return where(x <= 0, -100, maximum(log(where(x <= 0, 1, x)), -100))


@composite(
    reference=_bce_reference,
    samples=lambda: [
        *(Sample(s.args, s.kwargs, low=0.1, high=0.9) for s in reduction_samples((3, 7), (3, 7))),
        Sample(((2, 3, 5), (2, 3, 5), (3, 1)), low=0.1, high=0.9),
        Sample(
            (np.array([0.0, 0.0, 1.0, 1.0, np.nan], np.float32), np.eye(5, dtype=np.float32)[1])
        ),
    ],
    tolerance=64,
    precision="high",
)
def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean",  # noqa: A002
) -> Tensor:  # fmt: skip
    """-target * log(input) - (1 - target) * log(1 - input), the logarithms not below -100.

    `input` are probabilities, `target` numbers in [0, 1] of the same shape; `weight` weighs each.
    Raises ShapeError for others.

    >>> ds.binary_cross_entropy(ds.asarray([0.0, 0.0]), ds.asarray([0.0, 1.0]))
    tensor(50.)
    """
    if not same_shape(shape_of(input), shape_of(target)):
        raise op_error(
            ShapeError, "binary_cross_entropy", (describe(input), f"target {describe(target)}"),
            "a target of the input's shape", user_line(),
        )  # fmt: skip
    x, y = wide_floats(input, target)
    losses = -(y * _log_above(x) + (1 - y) * _log_above(1 - x))
    name = "binary_cross_entropy"
    return converted(reduced_loss(_weighed(losses, weight), reduction, name), input.dtype)


def _bce_logits_reference(
    input: Any,
    target: Any,
    weight: Any,
    reduction: str,
    pos_weight: Any,  # noqa: A002
) -> Any:
    positive = 1 if pos_weight is None else pos_weight
    losses = target * positive * np.logaddexp(0, -input) + (1 - target) * np.logaddexp(0, input)
    return reduced_reference(losses if weight is None else losses * weight, reduction)


@composite(
    reference=_bce_logits_reference,
    samples=lambda: [
        *reduction_samples((3, 7), (3, 7)),
        Sample(((2, 3, 5), (2, 3, 5), (3, 1)), {"reduction": "none"}),
        Sample(((4, 5), (4, 5), None, "mean", (5,))),
        Sample((np.array([-200.0, 200.0, 0.0], np.float32), np.ones(3, np.float32))),
    ],
    tolerance=32,
    precision="high",
)
def binary_cross_entropy_with_logits(
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean",  # noqa: A002
    pos_weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """-target * log(p) - (1 - target) * log(1 - p) with p = sigmoid(input).

    `weight` weighs each element, `pos_weight` the first of the two parts.

    >>> ds.binary_cross_entropy_with_logits(ds.asarray([-200.0, 200.0]), ds.asarray([1.0, 1.0]))
    tensor(100.)
    """
    x, y = wide_floats(input, target)
    softplus = logaddexp(-x, 0)  # -log(p)
    if pos_weight is not None:
        softplus = (1 + (widened(pos_weight) - 1) * y) * softplus
    losses = _weighed((1 - y) * x + softplus, weight)
    name = "binary_cross_entropy_with_logits"
    return converted(reduced_loss(losses, reduction, name), floating(input).dtype)
