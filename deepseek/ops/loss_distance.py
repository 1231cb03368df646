"""Losses of predicted numbers as composites: PyTorch's names, signatures and reductions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.op import Sample
from deepseek.ir.shape import same, same_shape
from deepseek.ops.activation import floating
from deepseek.ops.define import composite, converted, describe, filled, is_size, shape_of
from deepseek.ops.elementwise import abs, stop_gradient, where
from deepseek.ops.loss import reduced_loss, reduced_reference, reduction_samples, wide_floats
from deepseek.ops.transcendental import exp, log

__all__ = [
    "gaussian_nll_loss", "huber_loss", "kl_div", "l1_loss", "mse_loss", "poisson_nll_loss",
    "smooth_l1_loss",
]  # fmt: skip


def _difference_loss(
    op: str, of: Callable[[Tensor], Tensor], input: Tensor, target: Tensor,  # noqa: A002
    reduction: str, weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """A function of |input - target|, weighed and reduced."""
    x, y = wide_floats(input, target)
    losses = of(abs(x - y))
    if weight is not None:
        (weight,) = wide_floats(weight)
        losses = losses * weight
        weight = weight.broadcast_to(shape_of(losses))
    return converted(reduced_loss(losses, reduction, op, weight), floating(input).dtype)


def _difference_reference(
    of: Callable[[Any], Any],
    input: Any,
    target: Any,
    reduction: str,
    weight: Any = None,  # noqa: A002
) -> Any:
    losses = of(np.abs(input - target))
    if weight is None:
        return reduced_reference(losses, reduction)
    total = losses * weight
    if reduction == "mean":
        return np.sum(total) / np.sum(np.broadcast_to(weight, losses.shape))
    return reduced_reference(total, reduction)


def _samples(**kwargs: Any) -> list[Sample]:
    return [
        *reduction_samples((3, 7), (3, 7), **kwargs),
        Sample(((5, 1), (3,)), kwargs),
        Sample(((0, 3), (0, 3)), {"reduction": "sum"} | kwargs),
    ]


def _weighed_samples() -> list[Sample]:
    weight = np.linspace(0.5, 2, 7).astype(np.float32)
    return [*_samples(), *reduction_samples((3, 7), (3, 7), weight=weight)]


@composite(
    reference=lambda input, target, reduction, weight: _difference_reference(
        np.square, input, target, reduction, weight
    ),
    samples=_samples,
    tolerance=32,
    precision="high",
)
def mse_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    weight: Tensor | None = None,  # noqa: A002
) -> Tensor:
    """The squared difference of input and target: each, their mean or their sum.

    With a weight for each, the mean is by the sum of weights.

    >>> ds.mse_loss(ds.asarray([1.0, 2.0]), ds.asarray([1.0, 4.0]))
    tensor(2.)
    """
    return _difference_loss("mse_loss", lambda d: d * d, input, target, reduction, weight)


@composite(
    reference=lambda input, target, reduction, weight: _difference_reference(
        np.abs, input, target, reduction, weight
    ),
    samples=_samples,
    tolerance=32,
    precision="high",
)
def l1_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    weight: Tensor | None = None,  # noqa: A002
) -> Tensor:
    """|input - target|: each, their mean or their sum.

    With a weight for each, the mean is by the sum of weights.

    >>> ds.l1_loss(ds.asarray([1.0, 2.0]), ds.asarray([1.0, 4.0]))
    tensor(1.)
    """
    return _difference_loss("l1_loss", lambda d: d, input, target, reduction, weight)


def _smooth_reference(input: Any, target: Any, reduction: str, beta: float) -> Any:  # noqa: A002
    def of(d: Any) -> Any:
        return np.where(d < beta, 0.5 * d * d / (beta or 1), d - 0.5 * beta)

    return _difference_reference(of, input, target, reduction)


@composite(
    reference=_smooth_reference,
    samples=lambda: [*_samples(), *_samples(beta=0.5), *_samples(beta=0.0)],
    tolerance=32,
    precision="high",
)
def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    beta: float = 1.0,  # noqa: A002
) -> Tensor:
    """The difference d of input and target, below beta as d**2 / (2 beta), beyond as d - beta / 2.

    Raises ArgumentError for beta below 0.

    >>> ds.smooth_l1_loss(ds.asarray([0.0, 2.0]), ds.asarray([0.5, 0.0]), reduction="none")
    tensor([0.125, 1.5  ])
    """
    if beta < 0:
        raise op_error(ArgumentError, "smooth_l1_loss", f"beta={beta}", "beta >= 0", user_line())

    def of(d: Tensor) -> Tensor:
        return where(d < beta, d * d * (0.5 / beta), d - 0.5 * beta) if beta else d

    return _difference_loss("smooth_l1_loss", of, input, target, reduction)


def _huber_reference(
    input: Any,
    target: Any,
    reduction: str,
    delta: float,
    weight: Any,  # noqa: A002
) -> Any:
    def of(d: Any) -> Any:
        return np.where(d < delta, 0.5 * d * d, delta * (d - 0.5 * delta))

    return _difference_reference(of, input, target, reduction, weight)


@composite(
    reference=_huber_reference,
    samples=lambda: [*_samples(), *_samples(delta=0.5)],
    tolerance=32,
    precision="high",
)
def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0,  # noqa: A002
    weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The difference d of input and target, below delta as d**2 / 2, beyond as a line.

    Raises ArgumentError unless delta is above 0.

    >>> ds.huber_loss(ds.asarray([0.0, 4.0]), ds.asarray([1.0, 0.0]), "none", delta=2.0)
    tensor([0.5, 6. ])
    """
    if delta <= 0:
        raise op_error(ArgumentError, "huber_loss", f"delta={delta}", "delta > 0", user_line())

    def of(d: Tensor) -> Tensor:
        return where(d < delta, d * d * 0.5, (d - 0.5 * delta) * delta)

    return _difference_loss("huber_loss", of, input, target, reduction, weight)


# ---------------------------------------------------------------------------------- distributions


EDGES = np.array([0.0, -1.0, np.nan, np.inf], np.float32)


def _kl_reference(input: Any, target: Any, reduction: str, log_target: bool) -> Any:  # noqa: A002
    target, logs = (np.exp(target), target) if log_target else (target, np.log(target))
    losses = np.where(target == 0, 0, target * logs) - target * input
    if reduction == "batchmean":
        return np.sum(losses) / input.shape[0]
    return reduced_reference(losses, reduction)


@composite(
    reference=_kl_reference,
    samples=lambda: [
        *(Sample(s.args, s.kwargs, low=0.1, high=0.9) for s in reduction_samples((3, 7), (3, 7))),
        Sample(((3, 7), (3, 7)), {"reduction": "batchmean", "log_target": True}),
        Sample((EDGES, np.array([0.0, 1.0, 0.0, 0.5], np.float32)), {"reduction": "none"}),
    ],
    tolerance=64,
    precision="high",
)
def kl_div(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    log_target: bool = False,  # noqa: A002
) -> Tensor:
    """target * (log(target) - input): `input` and, with `log_target`, `target` are logarithms.

    The reduction "batchmean" divides the sum by the size of the first axis, which makes it the
    Kullback-Leibler divergence.

    >>> ds.kl_div(ds.asarray([[-1.0, -2.0]]), ds.asarray([[0.0, 1.0]]), reduction="batchmean")
    tensor(2.)
    """
    x, y = wide_floats(input, target)
    if log_target:
        losses = exp(y) * (y - x)
    else:
        losses = where(y == 0, 0, y * log(where(y == 0, 1, y))) - y * x
    dtype = floating(input).dtype
    if reduction == "batchmean" and losses.ndim == 0:
        return converted(losses, dtype)  # a batch of one
    if reduction == "batchmean":
        return converted(losses.sum() / filled((), shape_of(input)[0], losses.dtype), dtype)
    return converted(reduced_loss(losses, reduction, "kl_div"), dtype)


def _poisson_reference(
    input: Any,
    target: Any,
    log_input: bool,
    full: bool,
    eps: float,
    reduction: str,  # noqa: A002
) -> Any:
    losses = np.exp(input) - target * input if log_input else input - target * np.log(input + eps)
    if full:
        stirling = target * np.log(target) - target + 0.5 * np.log(2 * np.pi * target)
        losses = losses + np.where(target > 1, stirling, 0)
    return reduced_reference(losses, reduction)


@composite(
    reference=_poisson_reference,
    samples=lambda: [
        *reduction_samples((3, 7), (3, 7)),
        Sample(((3, 7), (3, 7)), {"log_input": False, "full": True}, low=0.1, high=4),
        Sample(((3, 7), (3, 7)), {"full": True, "reduction": "none"}, low=0.1, high=4),
    ],
    tolerance=64,
    precision="high",
)
def poisson_nll_loss(
    input: Tensor, target: Tensor, log_input: bool = True, full: bool = False,  # noqa: A002
    eps: float = 1e-8, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Minus the log-likelihood of counts under Poisson distributions of mean exp(input).

    Of mean `input` without `log_input`. `full` adds Stirling's formula for log(target!).

    >>> ds.poisson_nll_loss(ds.asarray([0.0, 0.0]), ds.asarray([2.0, 5.0]))
    tensor(1.)
    """
    x, y = wide_floats(input, target)
    losses = exp(x) - y * x if log_input else x - y * log(x + eps)
    if full:
        some = where(y > 1, y, 1)
        stirling = some * log(some) - some + 0.5 * log(some * (2 * math.pi))
        losses = losses + where(y > 1, stirling, 0)
    return converted(reduced_loss(losses, reduction, "poisson_nll_loss"), floating(input).dtype)


def _gaussian_reference(
    input: Any,
    target: Any,
    var: Any,
    full: bool,
    eps: float,
    reduction: str,  # noqa: A002
) -> Any:
    var = np.maximum(var[..., None] if var.ndim < input.ndim else var, eps)
    losses = 0.5 * (np.log(var) + np.square(input - target) / var)
    return reduced_reference(losses + 0.5 * np.log(2 * np.pi) * full, reduction)


def _gaussian_samples() -> list[Sample]:
    options: list[tuple[Any, dict[str, Any]]] = [
        ((3, 7), {"reduction": "none"}), ((3, 1), {"full": True}),
        ((3,), {"reduction": "sum"}), (EDGES[[0, 2, 3]], {"reduction": "none", "eps": 0.5}),
    ]  # fmt: skip
    return [Sample(((3, 7), (3, 7), v), kwargs, low=0.1, high=2) for v, kwargs in options]


@composite(reference=_gaussian_reference, samples=_gaussian_samples, tolerance=64, precision="high")
def gaussian_nll_loss(
    input: Tensor, target: Tensor, var: Tensor, full: bool = False, eps: float = 1e-6,  # noqa: A002
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Minus the log-likelihood of target under normal distributions of mean `input`.

    Variances are at least eps; `var` has the input's shape (with 1 where it broadcasts), or one
    element for each row of it.
    `full` adds the constant log(2 pi) / 2. Raises ShapeError for another `var`.

    >>> ds.gaussian_nll_loss(ds.asarray([1.0, 2.0]), ds.asarray([1.0, 4.0]), ds.ones(2))
    tensor(1.)
    """
    x, y, variance = wide_floats(input, target, var)
    rows = shape_of(input)[:-1]
    if same_shape(shape_of(var), rows) and input.ndim:
        variance = variance.reshape((*rows, 1))
    elif var.ndim and not (
        var.ndim == input.ndim
        and all(
            v is s or is_size(v, 1) or same(v, s)
            for v, s in zip(shape_of(var), shape_of(input), strict=True)
        )
    ):
        raise op_error(
            ShapeError, "gaussian_nll_loss", (describe(input), f"var {describe(var)}"),
            "a var of the input's shape, or of its rows", user_line(),
        )  # fmt: skip
    # The limit is no reason for the variance to stay where it is: gradients pass it.
    least = variance - stop_gradient(variance) + eps
    variance = where(variance < eps, least, variance)
    distance = x - y
    losses = 0.5 * (log(variance) + distance * distance / variance)
    if full:
        losses = losses + 0.5 * math.log(2 * math.pi)
    return converted(reduced_loss(losses, reduction, "gaussian_nll_loss"), floating(input).dtype)
