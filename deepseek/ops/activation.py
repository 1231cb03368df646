"""Activations as composites: PyTorch's names and signatures, each one expansion in other ops.

Gradients, type rules and every backend follow from the expansions, so they are written to be stable
and to have a cheap derivative. 16-bit floats are widened to float32 inside and rounded once at the
end.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import float32
from deepseek.ir.op import Sample
from deepseek.ir.scalar import FUNCTIONS
from deepseek.ops import forms
from deepseek.ops.define import (
    axis_of,
    composite,
    converted,
)
from deepseek.ops.elementwise import maximum, stop_gradient

__all__ = ["gelu", "log_softmax", "relu", "silu", "softmax"]


def widened(x: Tensor) -> Tensor:
    """x in the dtype that sums of it are carried in."""
    return converted(x, x.dtype.accumulator)


def floating(x: Tensor) -> Tensor:
    """x, or its integers as float32."""
    return x if x.dtype.is_float else converted(x, float32)


def plain_samples(**kwargs: Any) -> list[Sample]:
    return [Sample(((3, 37),), kwargs), Sample(((2, 3, 5),), kwargs), Sample(((0, 3),), kwargs)]

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
