"""Smooth activations as composites: PyTorch's names and signatures, each an expansion in other ops.

Gradients, type rules and every backend follow from the expansions, so they are written to be stable
and to have a cheap derivative. 16-bit floats are widened to float32 inside and rounded once at the
end.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import float32
from deepseek.ir.op import Sample
from deepseek.ir.scalar import FUNCTIONS
from deepseek.ops import forms, forms_math, forms_nn
from deepseek.ops.create import places_along
from deepseek.ops.define import axis_of, composite, converted, describe, shape_of
from deepseek.ops.elementwise import abs, maximum, stop_gradient, where
from deepseek.ops.random import Generator, gumbel
from deepseek.ops.transcendental import logaddexp, sigmoid, tanh

__all__ = [
    "gelu", "glu", "gumbel_softmax", "log_softmax", "logsigmoid", "mish", "relu", "silu", "softmax",
    "softmin", "softplus", "softsign", "tanhshrink",
]  # fmt: skip


def widened(x: Tensor) -> Tensor:
    """x in the dtype that sums of it are carried in."""
    return converted(x, x.dtype.accumulator)


def floating(x: Tensor) -> Tensor:
    """x, or its integers as float32."""
    return x if x.dtype.is_float else converted(x, float32)


def plain_samples(**kwargs: Any) -> list[Sample]:
    return [Sample(((3, 37),), kwargs), Sample(((2, 3, 5),), kwargs), Sample(((0, 3),), kwargs)]


EDGES = np.array([-np.inf, -200.0, -1.0, -0.5, -0.0, 0.5, 1.0, 3.0, 6.0, 200.0, np.inf, np.nan])


def edge_samples(**kwargs: Any) -> list[Sample]:
    """Samples with infinities, NaN, and the places where piecewise functions bend."""
    return [*plain_samples(**kwargs), Sample((EDGES.astype(np.float32),), kwargs)]


@composite(
    reference=lambda x: np.maximum(x, 0),
    samples=edge_samples,
    method="relu",
    onnx=forms_math.of_floats("Relu"),
)
def relu(x: Tensor) -> Tensor:
    """max(x, 0); its derivative at 0 is 0.

    >>> ds.relu(ds.asarray([-1.0, 0.0, 2.0]))
    tensor([0., 0., 2.])
    """
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
    """x times the probability that a normal variable is below x (Hendrycks and Gimpel 2016).

    approximate="tanh" gives its approximation; anything but that and "none" is an ArgumentError.

    >>> ds.gelu(ds.asarray([-1.0, 0.0, 2.0]))
    tensor([-0.1587,  0.    ,  1.9545])
    """
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
    """x * sigmoid(x), also called swish (Hendrycks and Gimpel, 2016).

    >>> ds.silu(ds.asarray([0.0, 100.0]))
    tensor([  0., 100.])
    """
    x = floating(x)
    wide = widened(x)
    return converted(wide * wide.sigmoid(), x.dtype)


@composite(
    reference=lambda x: x * np.tanh(np.logaddexp(0, x)), samples=plain_samples, tolerance=16,
    onnx="Mish",
)  # fmt: skip
def mish(x: Tensor) -> Tensor:
    """x * tanh(softplus(x)) (Misra, 2019).

    >>> ds.mish(ds.asarray([0.0, 100.0]))
    tensor([  0., 100.])
    """
    x = floating(x)
    wide = widened(x)
    return converted(wide * tanh(logaddexp(wide, 0)), x.dtype)


@composite(
    reference=lambda x, beta, threshold: np.where(
        x * beta > threshold, x, np.logaddexp(0, x * beta) / beta
    ),
    samples=lambda: [*edge_samples(), *plain_samples(beta=2.0, threshold=1.0)],
    precision="high",
    onnx=forms_nn.softplus,
)
def softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta * x)) / beta, and x itself where beta * x is above the threshold.

    >>> ds.softplus(ds.asarray([-200.0, 30.0]))
    tensor([ 0., 30.])
    """
    x = floating(x)
    scaled = widened(x) * beta
    return where(scaled > threshold, x, converted(logaddexp(scaled, 0) / beta, x.dtype))


@composite(
    reference=lambda x: -np.logaddexp(0, -x), samples=edge_samples, precision="high",
    onnx=forms_nn.logsigmoid,
)  # fmt: skip
def logsigmoid(x: Tensor) -> Tensor:
    """log(sigmoid(x)), without overflow.

    >>> ds.logsigmoid(ds.asarray([-200.0, 200.0]))
    tensor([-200.,   -0.])
    """
    x = floating(x)
    return -logaddexp(-x, 0)


@composite(reference=lambda x: x / (1 + np.abs(x)), samples=plain_samples, onnx="Softsign")
def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|).

    >>> ds.softsign(ds.asarray([-1.0, 0.0, 3.0]))
    tensor([-0.5 ,  0.  ,  0.75])
    """
    return x / (1 + abs(x))


@composite(reference=lambda x: x - np.tanh(x), samples=plain_samples)
def tanhshrink(x: Tensor) -> Tensor:
    """x - tanh(x).

    >>> ds.tanhshrink(ds.asarray([0.0, 100.0]))
    tensor([ 0., 99.])
    """
    x = floating(x)
    wide = widened(x)
    return converted(wide - tanh(wide), x.dtype)


def _glu_reference(x: Any, dim: int) -> Any:
    a, b = np.split(x, 2, axis=dim)
    return a / (1 + np.exp(-b))


@composite(
    reference=_glu_reference,
    samples=lambda: [Sample(((3, 14),)), Sample(((2, 4, 5),), {"dim": 1}), Sample(((0, 6),))],
)
def glu(x: Tensor, dim: int = -1) -> Tensor:
    """a * sigmoid(b), where a and b are the halves of x along an axis (Dauphin et al., 2017).

    Raises ShapeError where the axis has an odd size.

    >>> ds.glu(ds.asarray([3.0, 5.0, 0.0, 100.0]))
    tensor([1.5, 5. ])
    """
    axis = axis_of("glu", x, dim)
    size = x.shape[axis]
    if size % 2:
        raise op_error(ShapeError, "glu", describe(x), f"an even size on axis {axis}", user_line())
    return x.narrow(axis, 0, size // 2) * sigmoid(x.narrow(axis, size // 2, size // 2))


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
        Sample(((2, 0),), {"dim": 1}),
        Sample((np.array([[1e4, 1e4, 0], [-np.inf, 0, 1]], np.float32),), {"dim": 1}),
    ]


def _shifted(x: Tensor, axis: int) -> Tensor:
    """x less its largest element on an axis, which gradients need not see."""
    wide = widened(x)
    if shape_of(x)[axis] == 0:  # which has no largest
        return wide
    return wide - stop_gradient(wide.max(axis=axis, keepdims=True))


@composite(reference=_softmax_reference, samples=_softmax_samples, tolerance=16, precision="high",
           method="softmax", onnx=forms.renamed("Softmax", axis="dim"))  # fmt: skip
def softmax(x: Tensor, dim: int) -> Tensor:
    """exp(x) / sum(exp(x)) along an axis.

    >>> ds.softmax(ds.asarray([1000.0, 1000.0, -1000.0]), 0)
    tensor([0.5, 0.5, 0. ])
    """
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
    """The logarithm of softmax.

    >>> ds.log_softmax(ds.asarray([0.0, 0.0]), 0)
    tensor([-0.6931, -0.6931])
    """
    axis = axis_of("log_softmax", x, dim)
    x = floating(x)
    shifted = _shifted(x, axis)
    return converted(shifted - shifted.exp().sum(axis=axis, keepdims=True).log(), x.dtype)


@composite(
    reference=lambda x, dim: _softmax_reference(-x, dim), samples=_softmax_samples, tolerance=16,
    precision="high",
)  # fmt: skip
def softmin(x: Tensor, dim: int) -> Tensor:
    """softmax(-x) along an axis.

    >>> ds.softmin(ds.asarray([0.0, 0.0, 1000.0]), 0)
    tensor([0.5, 0.5, 0. ])
    """
    return softmax(-x, dim)


def gumbel_softmax(
    logits: Tensor, tau: float = 1.0, hard: bool = False, dim: int = -1, *,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """A sample of the Gumbel-softmax distribution along an axis (Jang et al., 2017).

    `hard` gives one-hot vectors, whose gradient is that of the soft sample.

    >>> ds.gumbel_softmax(ds.asarray([0.0, 100.0]), hard=True)
    tensor([0., 1.])
    """
    noise = gumbel(shape_of(logits), dtype=floating(logits).dtype, generator=generator)
    soft = softmax((logits + noise) / tau, dim)
    if not hard:
        return soft
    axis = axis_of("gumbel_softmax", logits, dim)
    chosen = places_along(soft, axis) == soft.argmax(axis=axis, keepdims=True)
    return converted(chosen, soft.dtype) + (soft - stop_gradient(soft))
