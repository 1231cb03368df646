"""Statistics and norms that are made of the plain reductions."""

from __future__ import annotations

import numpy as np

from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import float32
from deepseek.ir.op import Sample
from deepseek.ops import forms_nn
from deepseek.ops.define import axes_of, composite, converted, method, shape_of
from deepseek.ops.elementwise import stop_gradient, where
from deepseek.ops.reduce import Axis, var, without

__all__ = ["logsumexp", "std"]


@method("std")
def std(x: Tensor, /, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """The standard deviation, the square root of `var`.

    >>> ds.std(ds.asarray([1.0, 3.0])), ds.std(ds.asarray([1.0, 3.0]), correction=1)
    (tensor(1.), tensor(1.4142))
    """
    out: Tensor = var(x, axis, correction, keepdims).sqrt()
    return out


@composite(
    reference=lambda x, axis, keepdims: np.logaddexp.reduce(x, axis=axis, keepdims=keepdims),
    samples=lambda: [
        Sample(((3, 37),), {"axis": 1}),
        Sample(((5, 3, 7),), {"axis": 1, "keepdims": True}),
        Sample((np.array([[-np.inf, -np.inf], [0.0, 1000.0]], np.float32),), {"axis": 1}),
    ],
    tolerance=32,
    method="logsumexp",
    precision="high",
    onnx=forms_nn.reduced("ReduceLogSumExp"),
)
def logsumexp(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """log(sum(exp(x))) over some axes, without overflow.

    >>> ds.logsumexp(ds.asarray([1000.0, 1000.0]))
    tensor(1000.6932)
    """
    axes = axes_of("logsumexp", x, axis)
    x = x if x.dtype.is_float else converted(x, float32)
    wide = converted(x, x.dtype.accumulator)
    largest = stop_gradient(wide.max(axis=axes, keepdims=True))
    shift = where(largest.isfinite(), largest, 0)
    total = (wide - shift).exp().sum(axis=axes, keepdims=True).log() + shift
    source = shape_of(x)
    return converted(total if keepdims else total.reshape(without(source, axes)), x.dtype)
