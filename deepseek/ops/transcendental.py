"""Elementary functions and rounding, elementwise on floats.

The body of each function is its scalar meaning. Integers are taken as float32, but where they are
their own result.
"""

from __future__ import annotations

import builtins
import math
from typing import Any

import numpy as np

from deepseek.frontend.tensor import Tensor
from deepseek.ir import scalar
from deepseek.ir.op import Sample
from deepseek.ir.scalar import Expr, call, const
from deepseek.ops import forms_math
from deepseek.ops.define import ALL, FLOATS, elementwise, elementwise_samples
from deepseek.ops.methods import method

__all__ = [
    "ceil", "cos", "erf", "exp", "expm1", "floor", "isfinite", "isinf", "isnan", "isneginf",
    "isposinf", "log", "log1p", "logaddexp", "round", "rsqrt", "sigmoid", "sin", "sqrt", "tanh",
    "trunc",
]  # fmt: skip


@elementwise(
    takes=FLOATS, precision="high", reference=np.exp, vjp=lambda g, y, x: (g * y,), method="exp",
    onnx="Exp",
)  # fmt: skip
def exp(x: Expr) -> Expr:
    """e to the power x.

    >>> ds.exp(ds.asarray([0, 1]))
    tensor([1.    , 2.7183])
    """
    return call("exp", x)


@elementwise(
    takes=FLOATS, precision="high", reference=np.log, vjp=lambda g, y, x: (g / x,), method="log",
    onnx="Log", domain=(0.1, 9.0),
)  # fmt: skip
def log(x: Expr) -> Expr:
    """The natural logarithm; -inf at 0, NaN below.

    >>> ds.log(ds.asarray([1.0, 0.0, -1.0]))
    tensor([  0., -inf,  nan])
    """
    return call("log", x)


@elementwise(
    takes=FLOATS, precision="high", reference=np.expm1, vjp=lambda g, y, x: (g * exp(x),),
    method="expm1",
)  # fmt: skip
def expm1(x: Expr) -> Expr:
    """exp(x) - 1, accurate near 0.

    >>> ds.expm1(ds.asarray([0.0, 1e-10]))
    tensor([0.e+00, 1.e-10])
    """
    return call("expm1", x)


@elementwise(
    takes=FLOATS, precision="high", reference=np.log1p, vjp=lambda g, y, x: (g / (x + 1),),
    method="log1p", domain=(-0.9, 9.0),
)  # fmt: skip
def log1p(x: Expr) -> Expr:
    """log(1 + x), accurate near 0.

    >>> ds.log1p(ds.asarray([0.0, 1e-10]))
    tensor([0.e+00, 1.e-10])
    """
    return call("log1p", x)


def _logaddexp_samples() -> list[Sample]:
    edges = np.array([-np.inf, np.inf, 0.0, -90.0, 800.0, np.nan], np.float32)
    return [*elementwise_samples(2, (-2.0, 2.0)), Sample((edges, edges.reshape(6, 1)))]


@elementwise(
    takes=FLOATS, precision="high", reference=np.logaddexp, samples=_logaddexp_samples,
    vjp=lambda g, y, a, b: (g * sigmoid(a - b), g * sigmoid(b - a)), method="logaddexp",
)  # fmt: skip
def logaddexp(a: Expr, b: Expr) -> Expr:
    """log(exp(a) + exp(b)), without overflow.

    >>> ds.logaddexp(ds.asarray([-np.inf, 1000.0]), ds.asarray([2.0, 0.0]))
    tensor([   2., 1000.])
    """
    distance = call("neg", call("abs", call("sub", a, b)))
    sum_ = call("add", call("maximum", a, b), call("log1p", call("exp", distance)))
    # Of two equal infinities the distance is none.
    return call("where", call("eq", a, b), call("add", a, const(math.log(2), a.dtype)), sum_)


@elementwise(
    takes=FLOATS, reference=np.sqrt, vjp=lambda g, y, x: (0.5 * g / y,), method="sqrt",
    onnx="Sqrt", domain=(0.1, 9.0),
)  # fmt: skip
def sqrt(x: Expr) -> Expr:
    """The square root; NaN below 0.

    >>> ds.sqrt(ds.asarray([4.0, 2.0, -1.0]))
    tensor([2.    , 1.4142,    nan])
    """
    return call("sqrt", x)


@elementwise(
    takes=FLOATS, reference=lambda x: 1 / np.sqrt(x), vjp=lambda g, y, x: (-0.5 * g * y / x,),
    method="rsqrt", precision="high", domain=(0.1, 9.0),
)  # fmt: skip
def rsqrt(x: Expr) -> Expr:
    """1 / sqrt(x).

    >>> ds.rsqrt(ds.asarray([4.0, 0.0]))
    tensor([0.5, inf])
    """
    return call("div", const(1, x.dtype), call("sqrt", x))


@elementwise(
    takes=FLOATS, reference=np.sin, vjp=lambda g, y, x: (g * cos(x),), method="sin", onnx="Sin"
)  # fmt: skip
def sin(x: Expr) -> Expr:
    """The sine of x radians.

    >>> ds.sin(ds.asarray([0.0, np.pi / 2]))
    tensor([0., 1.])
    """
    return call("sin", x)


@elementwise(
    takes=FLOATS, reference=np.cos, vjp=lambda g, y, x: (-g * sin(x),), method="cos", onnx="Cos"
)  # fmt: skip
def cos(x: Expr) -> Expr:
    """The cosine of x radians.

    >>> ds.cos(ds.asarray([0.0, np.pi]))
    tensor([ 1., -1.])
    """
    return call("cos", x)


@elementwise(
    takes=FLOATS, reference=np.tanh, vjp=lambda g, y, x: (g * (1 - y * y),), method="tanh",
    onnx="Tanh",
)  # fmt: skip
def tanh(x: Expr) -> Expr:
    """The hyperbolic tangent.

    >>> ds.tanh(ds.asarray([0.0, 1.0]))
    tensor([0.    , 0.7616])
    """
    return call("tanh", x)


@elementwise(
    takes=FLOATS,
    reference=scalar.FUNCTIONS["erf"].meaning,
    vjp=lambda g, y, x: (g * 1.1283791670955126 * exp(-x * x),),
    method="erf",
    onnx="Erf",
)
def erf(x: Expr) -> Expr:
    """The error function, 2/sqrt(pi) times the integral of exp(-t*t) from 0 to x.

    >>> ds.erf(ds.asarray([-np.inf, 0.0, 1.0]))
    tensor([-1.    ,  0.    ,  0.8427])
    """
    return call("erf", x)


def _sigmoid_reference(x: Any) -> Any:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(x.dtype)


@elementwise(
    takes=FLOATS, reference=_sigmoid_reference,
    vjp=lambda g, y, x: (g * y * (1 - y),), method="sigmoid", onnx="Sigmoid",
)  # fmt: skip
def sigmoid(x: Expr) -> Expr:
    """1 / (1 + exp(-x)), the logistic function.

    >>> ds.sigmoid(ds.asarray([-np.inf, 0.0, 2.0]))
    tensor([0.    , 0.5   , 0.8808])
    """
    return call(
        "div", const(1, x.dtype), call("add", const(1, x.dtype), call("exp", call("neg", x)))
    )


# ------------------------------------------------------------------------------------- rounding


def _of_floats(name: str, x: Expr) -> Expr:
    """A rounding function; integers are whole."""
    return call(name, x) if x.dtype.is_float else x


def _rounding_reference(function: Any) -> Any:
    return lambda x: function(x) if np.asarray(x).dtype.kind not in "iu" else np.asarray(x)


@elementwise(
    reference=_rounding_reference(np.floor), vjp=lambda g, y, x: (None,), method="floor",
    onnx=forms_math.of_floats("Floor"),
)  # fmt: skip
def floor(x: Expr) -> Expr:
    """The largest integer not above x.

    >>> ds.floor(ds.asarray([2.7, -2.7]))
    tensor([ 2., -3.])
    """
    return _of_floats("floor", x)


@elementwise(
    reference=_rounding_reference(np.ceil), vjp=lambda g, y, x: (None,), method="ceil",
    onnx=forms_math.of_floats("Ceil"),
)  # fmt: skip
def ceil(x: Expr) -> Expr:
    """The smallest integer not below x.

    >>> ds.ceil(ds.asarray([2.7, -2.7]))
    tensor([ 3., -2.])
    """
    return _of_floats("ceil", x)


@elementwise(
    reference=_rounding_reference(np.trunc), vjp=lambda g, y, x: (None,), method=("trunc", "fix")
)
def trunc(x: Expr) -> Expr:
    """x without its fraction.

    >>> ds.trunc(ds.asarray([2.7, -2.7]))
    tensor([ 2., -2.])
    """
    return _of_floats("trunc", x)


@elementwise(
    reference=_rounding_reference(np.rint), vjp=lambda g, y, x: (None,),
    onnx=forms_math.of_floats("Round"),
)  # fmt: skip
def round_(x: Expr) -> Expr:
    """The nearest integer, halves to even."""
    return _of_floats("round", x)


@method("round")
def round(x: Tensor, /, decimals: int = 0) -> Tensor:  # noqa: A001
    """The nearest integer, or the nearest number with so many decimals; halves to even.

    Fewer than 0 decimals round to tens, hundreds and so on.

    >>> ds.round(ds.asarray([0.5, 1.5, -2.5])), ds.round(ds.asarray([3.14159]), decimals=2)
    (tensor([ 0.,  2., -2.]), tensor([3.14]))
    """
    if not decimals:
        return round_(x)
    unit = 10.0 ** builtins.abs(decimals)
    return round_(x * unit) / unit if decimals > 0 else round_(x / unit) * unit


# ----------------------------------------------------------------------------- kinds of numbers


@elementwise(takes=ALL, reference=np.isnan, method="isnan", onnx=forms_math.of_floats("IsNaN"))
def isnan(x: Expr) -> Expr:
    """Whether x is not a number.

    >>> ds.isnan(ds.asarray([np.nan, np.inf, 1.0]))
    tensor([ True, False, False])
    """
    return call("ne", x, x) if x.dtype.is_float else scalar.FALSE


@elementwise(takes=ALL, reference=np.isfinite, method="isfinite")
def isfinite(x: Expr) -> Expr:
    """Whether x is neither infinite nor NaN.

    >>> ds.isfinite(ds.asarray([np.nan, np.inf, 1.0]))
    tensor([False, False,  True])
    """
    return call("eq", call("sub", x, x), const(0, x.dtype)) if x.dtype.is_float else scalar.TRUE


def _is_infinite(x: Expr, sign: float) -> Expr:
    return call("eq", x, const(sign * math.inf, x.dtype)) if x.dtype.is_float else scalar.FALSE


@elementwise(takes=ALL, reference=np.isinf, method="isinf", onnx=forms_math.of_floats("IsInf"))
def isinf(x: Expr) -> Expr:
    """Whether x is an infinity.

    >>> ds.isinf(ds.asarray([np.nan, np.inf, 1.0]))
    tensor([False,  True, False])
    """
    return _is_infinite(call("abs", x), 1) if x.dtype.is_float else scalar.FALSE


@elementwise(takes=ALL, reference=lambda x: x == np.inf, method="isposinf")
def isposinf(x: Expr) -> Expr:
    """Whether x is positive infinity.

    >>> ds.isposinf(ds.asarray([-np.inf, np.inf]))
    tensor([False,  True])
    """
    return _is_infinite(x, 1)


@elementwise(takes=ALL, reference=lambda x: x == -np.inf, method="isneginf")
def isneginf(x: Expr) -> Expr:
    """Whether x is negative infinity.

    >>> ds.isneginf(ds.asarray([-np.inf, np.inf]))
    tensor([ True, False])
    """
    return _is_infinite(x, -1)
