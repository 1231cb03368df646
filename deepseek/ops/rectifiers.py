"""Piecewise activations as composites: PyTorch's names, signatures and derivatives at the bends.

In flow float tensors (integers are taken as float32), out flow tensors of the same shape and dtype.
The branch that is not chosen is fed numbers at which it is finite, so that no gradient is NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.op import Sample
from deepseek.ir.shape import same
from deepseek.ops import forms, forms_nn
from deepseek.ops.activation import edge_samples, floating
from deepseek.ops.define import composite, describe, is_size, shape_of
from deepseek.ops.elementwise import abs, maximum, minimum, sign, where
from deepseek.ops.random import Generator, next_draw, uniform_like, uniform_reference
from deepseek.ops.transcendental import expm1

__all__ = [
    "celu", "elu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "prelu",
    "relu6", "rrelu", "selu", "softshrink", "threshold",
]  # fmt: skip

# They keep mean 0 and variance 1 (Klambauer et al., 2017).
SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805


# ---------------------------------------------------------------------------------------- linear


@composite(
    reference=lambda x, threshold, value: np.where(x <= threshold, value, x),
    samples=lambda: edge_samples(threshold=0.5, value=-1.5),
)
def threshold(x: Tensor, threshold: float, value: float) -> Tensor:
    """x where it is above the threshold (or NaN), else `value`.

    >>> ds.threshold(ds.asarray([0.0, 1.0, 2.0]), 1.0, -5.0)
    tensor([-5., -5.,  2.])
    """
    return where(x <= threshold, value, floating(x))


@composite(
    reference=lambda x, min_val, max_val: np.clip(x, min_val, max_val),
    samples=lambda: [*edge_samples(), *edge_samples(min_val=-0.5, max_val=3.0)],
    onnx=forms_nn.clipped("min_val", "max_val"),
)
def hardtanh(x: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """x limited to [min_val, max_val]; its derivative there is 0.

    Raises ArgumentError if they are in the wrong order.

    >>> ds.hardtanh(ds.asarray([-3.0, 0.5, 3.0]))
    tensor([-1. ,  0.5,  1. ])
    """
    if min_val > max_val:
        got = f"min_val={min_val} and max_val={max_val}"
        raise op_error(ArgumentError, "hardtanh", got, "min_val <= max_val", user_line())
    return minimum(max_val, maximum(min_val, floating(x)))


@composite(
    reference=lambda x: np.clip(x, 0, 6), samples=edge_samples, onnx=forms_nn.clipped(0, 6)
)
def relu6(x: Tensor) -> Tensor:
    """min(max(x, 0), 6).

    >>> ds.relu6(ds.asarray([-1.0, 3.0, 8.0]))
    tensor([0., 3., 6.])
    """
    return minimum(6, maximum(0, floating(x)))


@composite(
    reference=lambda x: np.clip(x / 6 + 0.5, 0, 1), samples=edge_samples, onnx=forms_nn.hardsigmoid
)
def hardsigmoid(x: Tensor) -> Tensor:
    """relu6(x + 3) / 6.

    >>> ds.hardsigmoid(ds.asarray([-4.0, 0.0, 4.0]))
    tensor([0. , 0.5, 1. ])
    """
    return relu6(x + 3) / 6


@composite(
    reference=lambda x: x * np.clip(x / 6 + 0.5, 0, 1), samples=edge_samples, onnx="HardSwish"
)
def hardswish(x: Tensor) -> Tensor:
    """x * relu6(x + 3) / 6 (Howard et al., 2019).

    >>> ds.hardswish(ds.asarray([-4.0, 0.0, 4.0]))
    tensor([-0.,  0.,  4.])
    """
    return x * (relu6(x + 3) / 6)


@composite(
    reference=lambda x, lambd: np.where(np.abs(x) <= lambd, 0, x),
    samples=lambda: [*edge_samples(), *edge_samples(lambd=1.0)],
)
def hardshrink(x: Tensor, lambd: float = 0.5) -> Tensor:
    """x where |x| is above lambd, else 0.

    >>> ds.hardshrink(ds.asarray([-1.0, 0.5, 2.0]))
    tensor([-1.,  0.,  2.])
    """
    x = floating(x)
    return where(abs(x) <= lambd, 0, x)


@composite(
    reference=lambda x, lambd: np.sign(x) * np.maximum(np.abs(x) - lambd, 0),
    samples=lambda: [*edge_samples(), *edge_samples(lambd=1.0)],
)
def softshrink(x: Tensor, lambd: float = 0.5) -> Tensor:
    """x brought nearer to 0 by lambd, 0 where it is no farther away than that.

    Raises ArgumentError for lambd below 0.

    >>> ds.softshrink(ds.asarray([-1.0, 0.5, 2.0]))
    tensor([-0.5,  0. ,  1.5])
    """
    if lambd < 0:
        raise op_error(ArgumentError, "softshrink", f"lambd={lambd}", "lambd >= 0", user_line())
    x = floating(x)
    return where(abs(x) <= lambd, 0, x - sign(x) * lambd)


# ------------------------------------------------------------------------------- leaky rectifiers


def _leaky_reference(x: Any, negative_slope: Any) -> Any:
    return np.maximum(x, 0) + negative_slope * np.minimum(x, 0)


@composite(
    reference=_leaky_reference,
    samples=lambda: [*edge_samples(), *edge_samples(negative_slope=0.25)],
    onnx=forms.renamed("LeakyRelu", alpha="negative_slope"),
)
def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """x where it is above 0, else negative_slope * x.

    >>> ds.leaky_relu(ds.asarray([-4.0, 4.0]), 0.5)
    tensor([-2.,  4.])
    """
    x = floating(x)
    return where(x > 0, x, x * negative_slope)


def _prelu_reference(x: Any, weight: Any) -> Any:
    return _leaky_reference(x, weight.reshape((-1,) + (1,) * (x.ndim - 2)))


@composite(
    reference=_prelu_reference,
    samples=lambda: [
        Sample(((3, 37), (37,))),
        Sample(((2, 3, 5), (3,))),
        Sample(((2, 3, 5, 1), (1,))),
        Sample(((0, 3), (3,))),
    ],
    precision="low",
    onnx=forms_nn.prelu,
)
def prelu(x: Tensor, weight: Tensor) -> Tensor:
    """x where it is above 0, else weight * x: one weight, or one for each channel (axis 1 of x).

    Raises ShapeError for other numbers of weights.

    >>> ds.prelu(ds.asarray([[-4.0, -4.0]]), ds.asarray([0.5, 0.25]))
    tensor([[-2., -1.]])
    """
    channels = shape_of(x)[1] if x.ndim > 1 else 1
    count = weight._value.type.numel
    if weight.ndim > 1 or not is_size(count, 1) and not same(count, channels):
        raise op_error(
            ShapeError, "prelu", (describe(x), f"weight {describe(weight)}"),
            f"a weight of 1 or {channels} elements", user_line(),
        )  # fmt: skip
    slope = weight.reshape((-1,) + (1,) * (x.ndim - 2)) if x.ndim > 1 else weight.reshape(())
    return where(x > 0, x, x * slope)


def _rrelu_reference(x: Any, seed: Any, draw: Any, lower: float, upper: float) -> Any:
    slope = lower + (upper - lower) * uniform_reference(seed, draw, x.shape)
    return _leaky_reference(x, slope)


@composite(
    reference=_rrelu_reference,
    samples=lambda: [
        Sample(((3, 37), np.uint64(7), np.int64(1)), {"lower": 0.125, "upper": 0.5}),
        Sample(((0, 3), np.uint64(7), np.int64(1)), {"lower": 0.0, "upper": 1.0}),
    ],
)
def rrelu_(x: Tensor, seed: Tensor, draw: Tensor, lower: float, upper: float) -> Tensor:
    """x where it is above 0, else x times a slope that the bits of (seed, draw) choose."""
    x = floating(x)
    slope = uniform_like(x, seed, draw) * (upper - lower) + lower
    return where(x > 0, x, x * slope)


def rrelu(
    x: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, *,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """x where it is above 0, else x times a slope drawn from [lower, upper) (Xu et al., 2015).

    Outside training the slope is (lower + upper) / 2. Raises ArgumentError if they are in the wrong
    order.

    >>> ds.rrelu(ds.asarray([-4.0, 4.0]), 0.25, 0.75)
    tensor([-2.,  4.])
    """
    if not lower <= upper:
        got = f"lower={lower} and upper={upper}"
        raise op_error(ArgumentError, "rrelu", got, "lower <= upper", user_line())
    if not training:
        return leaky_relu(x, (lower + upper) / 2)
    return rrelu_(x, *next_draw(generator), float(lower), float(upper))


# ---------------------------------------------------------------------- exponential rectifiers


def _exponential(x: Tensor, scale: float, alpha: float, rate: float) -> Tensor:
    """scale * x where x is above 0, else alpha * (exp(rate * x) - 1)."""
    x = floating(x)
    return where(x > 0, x * scale, expm1(minimum(x, 0) * rate) * alpha)


def _exponential_reference(x: Any, scale: float, alpha: float, rate: float) -> Any:
    return scale * np.maximum(x, 0) + alpha * np.expm1(rate * np.minimum(x, 0))


@composite(
    reference=lambda x, alpha: _exponential_reference(x, 1, alpha, 1),
    samples=lambda: [*edge_samples(), *edge_samples(alpha=0.5)],
    onnx=forms.renamed("Elu", alpha="alpha"),
)
def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x where it is above 0, else alpha * (exp(x) - 1) (Clevert et al., 2015).

    >>> ds.elu(ds.asarray([-100.0, 2.0]))
    tensor([-1.,  2.])
    """
    return _exponential(x, 1.0, alpha, 1.0)


@composite(
    reference=lambda x: _exponential_reference(x, SELU_SCALE, SELU_SCALE * SELU_ALPHA, 1),
    samples=edge_samples,
    onnx="Selu",
)
def selu(x: Tensor) -> Tensor:
    """elu with the alpha and scale that keep mean 0 and variance 1 (Klambauer et al., 2017).

    >>> ds.selu(ds.asarray([-100.0, 0.0]))
    tensor([-1.7580993,  0.       ])
    """
    return _exponential(x, SELU_SCALE, SELU_SCALE * SELU_ALPHA, 1.0)


@composite(
    reference=lambda x, alpha: _exponential_reference(x, 1, alpha, 1 / alpha),
    samples=lambda: [*edge_samples(), *edge_samples(alpha=0.5)],
    onnx=forms.renamed("Celu", alpha="alpha"),
)
def celu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x where it is above 0, else alpha * (exp(x / alpha) - 1) (Barron, 2017).

    Raises ArgumentError for an alpha of 0.

    >>> ds.celu(ds.asarray([-100.0, 2.0]), 0.5)
    tensor([-0.5,  2. ])
    """
    if alpha == 0:
        raise op_error(ArgumentError, "celu", "alpha=0", "another alpha", user_line())
    return _exponential(x, 1.0, alpha, 1 / alpha)
