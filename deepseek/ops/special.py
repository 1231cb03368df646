"""Special functions of probability: error functions, normal distribution, entropies.

The body of each elementwise op is its scalar meaning, in float64 for narrower floats. Errors are
below 2 units of the last place in float32 and 4 in float64. (Gamma and Bessel functions are in
special_gamma.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from deepseek.frontend.tensor import Tensor
from deepseek.ir.op import Sample
from deepseek.ir.scalar import Expr
from deepseek.ops.activation import floating
from deepseek.ops.define import FLOATS, composite, elementwise, elementwise_samples
from deepseek.ops.elementwise import maximum, minimum, where
from deepseek.ops.methods import method
from deepseek.ops.scalar_forms import (
    add,
    both,
    div,
    equal,
    fma,
    function,
    in_float64,
    less,
    mul,
    neg,
    polynomial,
    size,
    smaller,
    sqrt,
    sub,
)
from deepseek.ops.scalar_forms import exp as scalar_exp
from deepseek.ops.scalar_forms import where as choose
from deepseek.ops.special_tables import (
    ERFCX,
    ERFINV_CENTRE,
    ERFINV_END,
    ERFINV_SIDE,
    ERFINV_TAIL,
)
from deepseek.ops.transcendental import exp, log, log1p

__all__ = [
    "entr", "erfc", "erfcx", "erfinv", "log_ndtr", "logit", "ndtr", "ndtri", "xlog1py", "xlogy",
]  # fmt: skip

ROOT_PI = math.sqrt(math.pi)
_log = function("log")
_log1p = function("log1p")


def by_number(function: Callable[[float], float]) -> Callable[[Any], Any]:
    """A reference on arrays from a function of one float."""

    def reference(x: Any) -> Any:
        wide = np.asarray(x, np.float64)
        flat = np.fromiter((function(v) for v in wide.ravel()), np.float64, wide.size)
        return flat.reshape(wide.shape).astype(np.asarray(x).dtype)

    return reference


def with_edges(*edges: float, domain: tuple[float, float] = (-2.0, 2.0)) -> list[Sample]:
    """The plain samples of one argument, and one with the given values and NaN."""
    values = np.array([*edges, math.nan], np.float32)
    return [*elementwise_samples(1, domain), Sample((values,))]


# ---------------------------------------------------------------------------------- error functions


def _exp_of_square(x: Expr, factor: float) -> Expr:
    """exp(factor * x**2) for |x| <= 40 and a power of two, by a square of half the digits."""
    moved = mul(x, 2.0**27 + 1)
    high = sub(moved, sub(moved, x))
    rest = mul(mul(sub(x, high), add(x, high)), factor)
    power = scalar_exp(mul(mul(high, high), factor))
    return mul(power, polynomial(rest, (1.0, 1.0, 1 / 2, 1 / 6)))


def _erf(x: Expr) -> Expr:
    """erf(x) for |x| < 0.7, by its power series."""
    series = [(-1) ** k * 2 / ROOT_PI / (math.factorial(k) * (2 * k + 1)) for k in range(16)]
    return mul(x, polynomial(mul(x, x), series))


def _scaled_erfc(x: Expr) -> Expr:
    """exp(x**2) * erfc(x) for x >= 0."""
    t = sub(1, div(7.5, add(x, 3.75)))
    return div(polynomial(t, ERFCX), fma(x, 2, 1))


@elementwise(
    takes=FLOATS, reference=by_number(math.erfc), method="erfc",
    vjp=lambda g, y, x: (g * (-2 / ROOT_PI) * exp(-x * x),),
    samples=lambda: with_edges(-math.inf, -6.0, 3.0, 9.0, math.inf),
)  # fmt: skip
@in_float64
def erfc(x: Expr) -> Expr:
    """1 - erf(x), with all its digits where that is small.

    >>> ds.erfc(ds.asarray([0.0, np.inf, -np.inf]))
    tensor([1., 0., 2.])
    """
    a = smaller(size(x), 30.0)
    right = mul(_exp_of_square(a, -1), _scaled_erfc(a))
    far = choose(less(x, 0), sub(2, right), right)
    return choose(less(a, 0.5), sub(1, _erf(x)), far)


def _erfcx_of(x: float) -> float:
    if x < 25:
        return math.exp(x * x) * math.erfc(x) if x > -26 else math.inf
    total = 0.0  # a continued fraction
    for k in range(40, 0, -1):
        total = k / 2 / (x + total)
    return 1 / ROOT_PI / (x + total)


@elementwise(
    takes=FLOATS, precision="high", reference=by_number(_erfcx_of), method="erfcx",
    vjp=lambda g, y, x: (g * (2 * x * y - 2 / ROOT_PI),),
    samples=lambda: with_edges(0.0, 3.0, 40.0, 1e30, math.inf),
)  # fmt: skip
@in_float64
def erfcx(x: Expr) -> Expr:
    """exp(x**2) * erfc(x), which falls as 1 / x.

    >>> ds.erfcx(ds.asarray([0.0, np.inf]))
    tensor([1., 0.])
    """
    a = size(x)
    square = _exp_of_square(smaller(a, 30.0), 1)
    right = _scaled_erfc(a)
    far = choose(less(x, 0), sub(mul(2, square), right), right)
    return choose(less(a, 0.5), mul(square, sub(1, _erf(x))), far)


def _erfinv_over_y(w: Expr) -> Expr:
    """erfinv(y) / y by w = -log(1 - y**2)."""
    s = sqrt(w)
    low, high = 1 / 33.5, 1 / 12.5
    centre = polynomial(fma(w, 1 / 3.125, -1), ERFINV_CENTRE)
    side = polynomial(mul(sub(s, 3.25), 1 / 0.75), ERFINV_SIDE)
    tail = polynomial(mul(sub(s, 5.25), 1 / 1.25), ERFINV_TAIL)
    scaled = mul(sub(div(1, add(s, 6)), low), 2 / (high - low))
    end = mul(s, polynomial(sub(scaled, 1), ERFINV_END))
    outer = choose(less(s, 4.0), side, choose(less(s, 6.5), tail, end))
    return choose(less(w, 6.25), centre, outer)


def _erfinv_of(y: float) -> float:
    """By Newton's method on log(erfc), where a start on the left stays there."""
    if not -1 < y < 1:
        return math.copysign(math.inf, y) if abs(y) == 1 else math.nan
    if abs(y) < 0.5:
        x = y
        for _ in range(9):
            x -= (math.erf(x) - y) * ROOT_PI / 2 * math.exp(x * x)
        return x
    rest, x = 1 - abs(y), 0.4
    for _ in range(60):
        left = math.erfc(x)
        x += math.log(left / rest) * left * ROOT_PI / 2 * math.exp(x * x)
    return math.copysign(x, y)


@elementwise(
    takes=FLOATS, reference=by_number(_erfinv_of), method="erfinv",
    vjp=lambda g, y, x: (g * (ROOT_PI / 2) * exp(y * y),),
    samples=lambda: with_edges(-1.0, 0.999, 0.99999, 1.0, 1.5, 1e-30, domain=(-0.9, 0.9)),
)  # fmt: skip
@in_float64
def erfinv(y: Expr) -> Expr:
    """The x with erf(x) = y; infinite at -1 and 1, NaN beyond.

    >>> ds.erfinv(ds.asarray([0.0, 1.0, -1.0]))
    tensor([  0.,  inf, -inf])
    """
    return mul(y, _erfinv_over_y(neg(_log(mul(sub(1, y), add(1, y))))))


# ------------------------------------------------------------------------------ normal distribution


@elementwise(
    takes=FLOATS, reference=by_number(lambda x: math.erfc(-x / math.sqrt(2)) / 2),
    vjp=lambda g, y, x: (g * math.sqrt(0.5 / math.pi) * exp(x * x * -0.5),),
    samples=lambda: with_edges(-math.inf, -9.0, 5.0, math.inf),
)  # fmt: skip
@in_float64
def ndtr(x: Expr) -> Expr:
    """The probability that a standard normal variable is at most x.

    >>> ds.ndtr(ds.asarray([-np.inf, 0.0, np.inf]))
    tensor([0. , 0.5, 1. ])
    """
    a = smaller(size(x), 40.0)
    outer = mul(0.5, mul(_exp_of_square(a, -0.5), _scaled_erfc(mul(a, math.sqrt(0.5)))))
    far = choose(less(x, 0), outer, sub(1, outer))
    return choose(less(a, 0.7), mul(0.5, add(1, _erf(mul(x, math.sqrt(0.5))))), far)


def _log_ndtr_of(x: float) -> float:
    if x > -5:
        return math.log1p(-math.erfc(x / math.sqrt(2)) / 2) if x < math.inf else 0.0
    return math.log(_erfcx_of(-x / math.sqrt(2)) / 2) - x * x / 2 if x > -math.inf else x


@composite(
    reference=by_number(_log_ndtr_of),
    samples=lambda: with_edges(-math.inf, -100.0, -1.0, 5.0, math.inf),
    tolerance=16,
    precision="high",
)
def log_ndtr(x: Tensor) -> Tensor:
    """The logarithm of `ndtr`, also where that is 0.

    >>> ds.log_ndtr(ds.asarray([-1e4, np.inf]))
    tensor([-5.0000012e+07,  0.0000000e+00])
    """
    x = floating(x)
    # Each branch is fed numbers of its own, so that no gradient is NaN.
    low, high = minimum(x, -1), maximum(x, -1)
    left = log(erfcx(low * -math.sqrt(0.5)) * 0.5) - low * low * 0.5
    return where(x < -1, left, log1p(-ndtr(-high)))


def _ndtri_of(p: float) -> float:
    return math.sqrt(2) * _erfinv_of(2 * p - 1)


@elementwise(
    takes=FLOATS, reference=by_number(_ndtri_of), samples=lambda: with_edges(
        0.0, 0.25, 0.75, 1.0, 2.0, domain=(0.1, 0.9)
    ),
    vjp=lambda g, y, p: (g * math.sqrt(2 * math.pi) * exp(y * y / 2),),
)  # fmt: skip
@in_float64
def ndtri(p: Expr) -> Expr:
    """The x with ndtr(x) = p; infinite at 0 and 1, NaN beyond.

    >>> ds.ndtri(ds.asarray([0.0, 0.5, 1.0]))
    tensor([-inf,   0.,  inf])
    """
    w = neg(add(_log(mul(4, p)), _log1p(neg(p))))
    # Its logarithms cancel in the middle, where w is 0 but for rounding.
    y = sub(mul(2, p), 1)
    middle = neg(_log(mul(sub(1, y), add(1, y))))
    w = choose(less(size(y), 0.9), middle, w)
    return mul(mul(y, math.sqrt(2)), _erfinv_over_y(w))


# ---------------------------------------------------------------------------------------- entropies


def _xlogy_reference(x: Any, y: Any) -> Any:
    return np.where((x == 0) & ~np.isnan(y), 0, x * np.log(y))


def _pair_samples() -> list[Sample]:
    edges = np.array([0.0, 1.0, -1.0, np.inf, np.nan], np.float32)
    return [*elementwise_samples(2, (0.1, 2.0)), Sample((edges, edges.reshape((5, 1))))]


def _xlogy_vjp(g: Tensor, out: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return g * where((x == 0) & (y <= 0), 0, log(y)), g * x / y


@elementwise(
    takes=FLOATS, precision="high", reference=_xlogy_reference, vjp=_xlogy_vjp, method="xlogy",
    samples=_pair_samples,
)  # fmt: skip
def xlogy(x: Expr, y: Expr) -> Expr:
    """x * log(y), 0 where x is 0.

    >>> ds.xlogy(ds.asarray([0.0, 2.0]), ds.asarray([0.0, 1.0]))
    tensor([0., 0.])
    """
    nothing = both(equal(x, 0), equal(y, y))
    return choose(nothing, 0, mul(x, _log(y)))


def _xlog1py_vjp(g: Tensor, out: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return g * where((x == 0) & (y <= -1), 0, log1p(y)), g * x / (1 + y)


@elementwise(
    takes=FLOATS, precision="high", vjp=_xlog1py_vjp, samples=_pair_samples,
    reference=lambda x, y: np.where((x == 0) & ~np.isnan(y), 0, x * np.log1p(y)),
)  # fmt: skip
def xlog1py(x: Expr, y: Expr) -> Expr:
    """x * log(1 + y), 0 where x is 0.

    >>> ds.xlog1py(ds.asarray([0.0, 2.0]), ds.asarray([-1.0, 0.0]))
    tensor([0., 0.])
    """
    nothing = both(equal(x, 0), equal(y, y))
    return choose(nothing, 0, mul(x, _log1p(y)))


def _entr_reference(x: Any) -> Any:
    return np.where(x > 0, -x * np.log(x), np.where(x == 0, 0, np.where(x < 0, -np.inf, x)))


@elementwise(
    takes=FLOATS, precision="high", reference=_entr_reference,
    vjp=lambda g, y, x: (g * (-log(x) - 1),),
    samples=lambda: with_edges(-1.0, 0.0, math.inf, domain=(0.1, 2.0)),
)  # fmt: skip
def entr(x: Expr) -> Expr:
    """-x * log(x), the summand of entropy: 0 at 0, -inf below.

    >>> ds.entr(ds.asarray([-1.0, 0.0, 1.0]))
    tensor([-inf,   0.,  -0.])
    """
    inside = choose(equal(x, 0), 0, neg(mul(x, _log(x))))
    return choose(less(x, 0), -math.inf, inside)


@elementwise(
    takes=FLOATS, precision="high", reference=lambda x: np.log(x) - np.log1p(-x),
    vjp=lambda g, y, x: (g / (x * (1 - x)),), tolerance=8,
    samples=lambda: with_edges(0.0, 1.0, 2.0, domain=(0.1, 0.9)),
)  # fmt: skip
def logit_(x: Expr) -> Expr:
    """log(x / (1 - x))."""
    low, rest = less(x, 0.25), sub(1, x)
    odds = div(choose(low, x, sub(add(x, x), 1)), rest)
    return choose(low, _log(odds), _log1p(odds))


@method("logit")
def logit(x: Tensor, eps: float | None = None) -> Tensor:
    """log(x / (1 - x)), the inverse of sigmoid, of x limited to [eps, 1 - eps].

    >>> ds.logit(ds.asarray([0.0, 0.5, 1.0])), ds.logit(ds.asarray([0.0]), 0.5)
    (tensor([-inf,   0.,  inf]), tensor([0.]))
    """
    return logit_(x if eps is None else minimum(maximum(x, eps), 1 - eps))
