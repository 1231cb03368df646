"""Statistics that are made of the plain reductions: deviations, log-sums, sums without NaN."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepseek.errors import DTypeError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import int64
from deepseek.ir.op import Sample
from deepseek.ir.shape import same
from deepseek.ops import forms_nn
from deepseek.ops.activation import floating, widened
from deepseek.ops.define import ALL, axes_of, composite, converted, describe, filled, shape_of
from deepseek.ops.diagonals import diagonal
from deepseek.ops.elementwise import clip, maximum, stop_gradient, where
from deepseek.ops.methods import method
from deepseek.ops.reductions import Axis, mean, var, without
from deepseek.ops.reductions import max as largest
from deepseek.ops.reductions import min as smallest
from deepseek.ops.reductions import sum as total_of
from deepseek.ops.transcendental import exp, isfinite, isnan, log, sqrt

__all__ = [
    "aminmax", "corrcoef", "count_nonzero", "cov", "logsumexp", "nanmean", "nansum", "std",
    "std_mean", "var_mean",
]  # fmt: skip


def _reduction_samples() -> list[Sample]:
    gaps = np.array([[1.0, np.nan, 2.0], [np.nan, np.nan, np.nan]], np.float32)
    return [
        Sample(((3, 37),), {"axis": 1}),
        Sample(((5, 3, 7),), {"axis": (0, 2), "keepdims": True}),
        Sample(((4, 5),), low=0.1),
        Sample((gaps,), {"axis": 1}),
        Sample(((3, 0),), {"axis": 1}),
    ]


# --------------------------------------------------------------------------------------- deviations


@method("std")
def std(x: Tensor, /, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """The standard deviation over some axes (all by default), the square root of `var`.

    >>> ds.std(ds.asarray([1.0, 3.0])), ds.std(ds.asarray([1.0, 2.0, 3.0]), correction=1)
    (tensor(1.), tensor(1.))
    """
    return sqrt(var(x, axis, correction, keepdims))


@method("var_mean")
def var_mean(
    x: Tensor, /, axis: Axis = None, correction: float = 1.0, keepdims: bool = False
) -> tuple[Tensor, Tensor]:
    """(variance, mean) over some axes (all by default).

    >>> ds.var_mean(ds.asarray([1.0, 2.0, 3.0]))
    (tensor(1.), tensor(2.))
    """
    return var(x, axis, correction, keepdims), mean(x, axis, keepdims)


@method("std_mean")
def std_mean(
    x: Tensor, /, axis: Axis = None, correction: float = 1.0, keepdims: bool = False
) -> tuple[Tensor, Tensor]:
    """(standard deviation, mean) over some axes (all by default).

    >>> ds.std_mean(ds.asarray([1.0, 2.0, 3.0]))
    (tensor(1.), tensor(2.))
    """
    return std(x, axis, correction, keepdims), mean(x, axis, keepdims)


@method("aminmax")
def aminmax(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> tuple[Tensor, Tensor]:
    """(smallest, largest) element over some axes (all by default).

    >>> ds.aminmax(ds.asarray([3, 1, 2]))
    (tensor(1), tensor(3))
    """
    return smallest(x, axis, keepdims), largest(x, axis, keepdims)


# ------------------------------------------------------------------------------------- special sums


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
    """log(sum(exp(x))) over some axes (all by default), without overflow.

    >>> ds.logsumexp(ds.asarray([1000.0, -np.inf]))
    tensor(1000.)
    """
    axes = axes_of("logsumexp", x, axis)
    x = floating(x)
    wide = widened(x)
    top = stop_gradient(largest(wide, axes, keepdims=True))
    shift = where(isfinite(top), top, 0)
    summed = exp(wide - shift).sum(axis=axes, keepdims=True)
    nothing = summed == 0  # where every element is -inf, gradients are 0
    total = where(nothing, -np.inf, log(where(nothing, 1, summed)) + shift)
    source = shape_of(x)
    return converted(total if keepdims else total.reshape(without(source, axes)), x.dtype)


@composite(
    reference=lambda x, axis, keepdims: np.nansum(x, axis=axis, keepdims=keepdims),
    samples=_reduction_samples,
    tolerance=32,
    precision="high",
    method="nansum",
)
def nansum(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The sum over some axes (all by default) of what is not NaN.

    >>> ds.nansum(ds.asarray([1.0, np.nan, 2.0]))
    tensor(3.)
    """
    return total_of(where(isnan(x), 0, x), axis, keepdims)


def _nanmean_reference(x: Any, axis: Any, keepdims: bool) -> Any:
    count = np.sum(x == x, axis=axis, keepdims=keepdims)
    return np.nansum(x, axis=axis, keepdims=keepdims) / count.astype(x.dtype)


@composite(
    reference=_nanmean_reference,
    samples=_reduction_samples,
    tolerance=32,
    precision="high",
    method="nanmean",
)
def nanmean(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The mean over some axes (all by default) of what is not NaN; NaN where all is.

    >>> ds.nanmean(ds.asarray([1.0, np.nan, 2.0]))
    tensor(1.5)
    """
    x = floating(x)
    there = ~isnan(x)
    wide = widened(x)
    count = converted(total_of(there, axis, keepdims), wide.dtype)
    return converted(total_of(where(there, wide, 0), axis, keepdims) / count, x.dtype)


@composite(
    reference=lambda x, axis, keepdims: np.count_nonzero(x, axis=axis, keepdims=keepdims),
    samples=lambda: [
        Sample((np.arange(24).reshape(2, 3, 4) % 5,), {"axis": (0, 2)}),
        Sample(((3, 7),), {"axis": 1, "keepdims": True}),
        Sample((np.array([0.0, -0.0, np.nan], np.float32),)),
        Sample(((0, 3),)),
    ],
    takes=ALL,
    method="count_nonzero",
)
def count_nonzero(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """How many elements are not 0 (int64), over some axes (all by default).

    >>> ds.count_nonzero(ds.asarray([0, 3, 0, 1]))
    tensor(2)
    """
    return total_of(x if x.dtype.is_bool else x != 0, axis, keepdims, dtype=int64)


# -------------------------------------------------------------------------------------- covariances


def _cov_reference(x: Any, correction: float, fweights: Any, aweights: Any) -> Any:
    return np.cov(x, ddof=correction, fweights=fweights, aweights=aweights)


@composite(
    reference=_cov_reference,
    samples=lambda: [
        Sample(((3, 7),)),
        Sample(((7,),), {"correction": 0}),
        Sample(((1, 4),)),
        Sample(((2, 4), 1, np.array([1, 2, 0, 3])), low=0.5, high=2.0),
        Sample(((2, 4), 0, np.array([1, 2, 1, 3]), (4,)), low=0.5, high=2.0),
    ],
    tolerance=64,
    precision="high",
    method="cov",
)
def cov(
    x: Tensor, correction: int = 1, fweights: Tensor | None = None, aweights: Tensor | None = None
) -> Tensor:
    """The covariances of the rows of a matrix, whose columns are observations; of one its variance.

    `fweights` say how often each observation counts, `aweights` how much. Over the number of
    observations less the correction. Raises ShapeError for more than two axes or weights that do
    not fit, DTypeError for fweights that are no integers.

    >>> ds.cov(ds.asarray([[1.0, 3.0], [2.0, 6.0]]))
    tensor([[2., 4.],
            [4., 8.]])
    """
    if x.ndim > 2:
        raise op_error(ShapeError, "cov", describe(x), "a matrix or a vector", user_line())
    if fweights is not None and not fweights.dtype.is_integer:
        raise op_error(
            DTypeError, "cov", f"fweights {describe(fweights)}", "integers", user_line(),
            "pass weights that are no counts as aweights",
        )  # fmt: skip
    x = floating(x)
    rows = widened(x).reshape((1, -1)) if x.ndim < 2 else widened(x)
    count = filled((), shape_of(rows)[1], rows.dtype)
    weights = None
    for given in (fweights, aweights):
        if given is not None:
            if given.ndim != 1 or not same(shape_of(given)[0], shape_of(rows)[1]):
                raise op_error(
                    ShapeError, "cov", (describe(x), f"weights {describe(given)}"),
                    "a weight for each observation", user_line(),
                )  # fmt: skip
            weight = converted(given, rows.dtype)
            weights = weight if weights is None else weights * weight
    if weights is None:
        distance = rows - mean(rows, 1, keepdims=True)
        weighed, free = distance, count - correction
    else:
        whole = total_of(weights)
        distance = rows - total_of(rows * weights, 1, keepdims=True) / whole
        weighed, free = distance * weights, whole - correction
        if aweights is not None:
            free = whole - total_of(weights * converted(aweights, rows.dtype)) / whole * correction
    out = (weighed @ distance.mT) / maximum(free, 0)
    return converted(out.reshape(()) if rows.shape[0] == 1 else out, x.dtype)


@composite(
    reference=lambda x: np.corrcoef(x),
    samples=lambda: [Sample(((3, 7),)), Sample(((7,),))],
    tolerance=64,
    precision="high",
    method="corrcoef",
)
def corrcoef(x: Tensor) -> Tensor:
    """The correlation coefficients of the rows of a matrix, whose columns are observations.

    >>> ds.corrcoef(ds.asarray([[1.0, 3.0], [6.0, 2.0]]))
    tensor([[ 1., -1.],
            [-1.,  1.]])
    """
    found = cov(x)
    if not found.ndim:
        return found / found
    scale = sqrt(diagonal(found))
    return clip(found / scale.reshape((-1, 1)) / scale, -1, 1)
