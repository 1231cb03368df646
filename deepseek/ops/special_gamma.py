"""The gamma function's logarithm and its derivatives, and modified Bessel functions, elementwise.

The body of each is its scalar meaning, in float64 for narrower floats. Errors are below 2 units of
the last place in float32 and 4 in float64; but near the zeros of lgamma below 0, and for digamma
below 4, they are as small only beside the terms that cancel there.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from deepseek.errors import ArgumentError, op_error, user_line
from deepseek.frontend.tensor import Tensor, record
from deepseek.ir.op import Kind, Sample
from deepseek.ir.scalar import Expr
from deepseek.ops.define import FLOATS, elementwise, op_of, primitive, promoted
from deepseek.ops.elementwise import where
from deepseek.ops.methods import method
from deepseek.ops.scalar_forms import (
    add,
    at_most,
    both,
    div,
    equal,
    exp,
    fma,
    function,
    in_float64,
    is_nan,
    less,
    log,
    mul,
    nearest,
    neg,
    number,
    polynomial,
    size,
    sqrt,
    sub,
)
from deepseek.ops.scalar_forms import where as choose
from deepseek.ops.special import by_number, with_edges
from deepseek.ops.special_tables import BESSEL_I0, BESSEL_I1, LGAMMA

__all__ = ["digamma", "i0", "bessel_i1", "lgamma", "polygamma"]

BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510,
             43867 / 798, -174611 / 330)  # fmt: skip
"""The Bernoulli numbers B2, B4, ..."""
_sine, _cosine = function("sin"), function("cos")


# ------------------------------------------------------------------------------------- log of gamma


def _lgamma_of(x: float) -> float:
    if math.isinf(x) or x <= 0 and x == math.floor(x):
        return math.inf
    return math.lgamma(x)


def _turned(x: Expr) -> Expr:
    """The angle pi * x less the nearest multiple of pi."""
    return mul(sub(x, nearest(x)), math.pi)


def _lgamma_near(x: Expr) -> Expr:
    """From 0.5 to 2.5: its zeros times a smooth function."""
    smooth = polynomial(sub(div(5.25, add(x, 1)), 2.5), LGAMMA)
    return mul(mul(sub(x, 1), sub(x, 2)), smooth)


def _lgamma_far(x: Expr) -> Expr:
    """Stirling's series, from 8 on."""
    inverse = div(1, x)
    terms = [b / ((2 * k + 1) * (2 * k + 2)) for k, b in enumerate(BERNOULLI)]
    rest = mul(inverse, polynomial(mul(inverse, inverse), terms))
    main = mul(sub(x, 0.5), sub(log(x), 1))
    return add(main, add(rest, 0.5 * math.log(2 * math.pi) - 0.5))


@elementwise(
    takes=FLOATS, reference=by_number(_lgamma_of), vjp=lambda g, y, x: (g * digamma(x),),
    samples=lambda: with_edges(-math.inf, -3.0, -1.5, -0.25, 0.0, 0.25, 1.0, 2.0, 5.5, 40.0,
                               math.inf, domain=(0.1, 9.0)),
    method="lgamma", tolerance=8,
)  # fmt: skip
@in_float64
def lgamma(x: Expr) -> Expr:
    """The logarithm of |gamma(x)|; infinite at 0 and the negative integers.

    >>> ds.lgamma(ds.asarray([1.0, 2.0, 0.0]))
    tensor([ 0.,  0., inf])
    """
    small = less(size(x), 0.5)
    a = choose(small, x, size(x))
    # gamma(z) = (z - 1) gamma(z - 1) leads below 2.5; |x| < 0.5 goes up by one instead.
    z, product = choose(small, add(x, 1), a), number(1, x)
    for _ in range(6):
        down = both(at_most(2.5, z), less(z, 8.0))
        lower = sub(z, 1)
        product = choose(down, mul(product, lower), product)
        z = choose(down, lower, z)
    factor = log(choose(small, size(x), product))
    near = add(_lgamma_near(z), choose(small, neg(factor), factor))
    positive = choose(less(a, 8.0), near, _lgamma_far(a))
    # gamma(x) gamma(-x) = -pi / (x sin(pi x))
    mirrored = sub(log(div(math.pi, mul(a, size(_sine(_turned(x)))))), positive)
    out = choose(at_most(x, -0.5), mirrored, positive)
    return choose(equal(a, math.inf), math.inf, out)


# ---------------------------------------------------------------------------------------- digamma


def _digamma_of(x: float) -> float:
    """By forty steps up to where four terms of the asymptotic series are enough."""
    if math.isnan(x) or math.isinf(x):
        return x if x > 0 else math.nan
    if x <= 0 and x == math.floor(x):
        return math.copysign(math.inf, -x) if x == 0 else math.nan
    if x < 0:
        return _digamma_of(1 - x) - math.pi / math.tan(math.pi * (x - round(x)))
    start = 40 + x
    rest = -1 / (12 * start**2) + 1 / (120 * start**4) - 1 / (252 * start**6)
    total = math.log(start) - 0.5 / start + rest
    return math.fsum([total, *(-1 / (x + k) for k in range(40))])


@elementwise(
    takes=FLOATS, reference=by_number(_digamma_of), vjp=lambda g, y, x: (g * polygamma(1, x),),
    samples=lambda: with_edges(-math.inf, -3.0, -1.5, -0.25, -0.0, 0.0, 0.25, 1.0, 5.5, 40.0,
                               math.inf, domain=(0.1, 9.0)),
    method="digamma", tolerance=8,
)  # fmt: skip
@in_float64
def digamma(x: Expr) -> Expr:
    """The derivative of lgamma; NaN at the negative integers, infinite at 0.

    >>> ds.digamma(ds.asarray([0.0, -1.0, 1.0]))
    tensor([      -inf,        nan, -0.5772157])
    """
    below = less(x, 0)
    a = choose(below, sub(1, x), x)
    # The sum of 1 / (a + k) is the derivative of a product over the product.
    product, slope = number(1, x), number(0, x)
    for k in range(10):
        slope = fma(slope, add(a, k), product)
        product = mul(product, add(a, k))
    small = less(a, 10.0)
    z = choose(small, add(a, 10), a)
    inverse = div(1, z)
    square = mul(inverse, inverse)
    series = mul(square, polynomial(square, [b / (2 * k + 2) for k, b in enumerate(BERNOULLI[:8])]))
    far = sub(sub(log(z), mul(0.5, inverse)), series)
    upper = choose(small, sub(far, div(slope, product)), far)
    angle = _turned(x)
    mirrored = sub(upper, mul(math.pi, div(_cosine(angle), _sine(angle))))
    mirrored = choose(equal(angle, 0), math.nan, mirrored)
    at_zero = choose(equal(x, 0), div(-1, x), upper)
    return choose(below, mirrored, at_zero)


@cache
def _cotangent_derivative(n: int) -> tuple[float, ...]:
    """The polynomial in c = cot(pi x) of the n-th derivative of cot, by powers of pi."""
    q: list[int] = [0, 1]
    for _ in range(n):
        slope = [k * c for k, c in enumerate(q)][1:]
        q = [0] * (len(slope) + 2)
        for k, c in enumerate(slope):
            q[k] -= c
            q[k + 2] -= c
    return tuple(float(c) for c in q)


def _powers(x: Expr, n: int) -> Expr:
    """x**n for n >= 1."""
    if n == 1:
        return x
    half = _powers(x, n // 2)
    square = mul(half, half)
    return mul(square, x) if n % 2 else square


def _zeta(s: int, x: Expr) -> Expr:
    """The sum of (x + k)**-s over k >= 0 (Hurwitz), by Euler and Maclaurin, for x >= 0."""
    first = 10 + s
    total: Expr | None = None
    for k in reversed(range(first)):
        term = _powers(div(1, add(x, k)), s)
        total = term if total is None else add(total, term)
    inverse = div(1, add(x, first))
    coefficients, rising = [], float(s)
    for j in range(1, 9):
        coefficients.append(BERNOULLI[j - 1] / math.factorial(2 * j) * rising)
        rising *= (s + 2 * j - 1) * (s + 2 * j)
    square = mul(inverse, inverse)
    bracket = add(0.5, mul(inverse, polynomial(square, coefficients)))
    power = _powers(inverse, s - 1)
    tail = add(mul(power, 1 / (s - 1)), mul(mul(power, inverse), bracket))
    assert total is not None
    return add(total, tail)


def _polygamma_meaning(x: Expr, *, n: int) -> Expr:
    scale, sign = float(math.factorial(n)), (-1.0) ** (n + 1)
    below = less(x, 0)
    upper = mul(_zeta(n + 1, choose(below, sub(1, x), x)), sign * scale)
    angle = _turned(x)
    cotangent = div(_cosine(angle), _sine(angle))
    turned = mul(polynomial(cotangent, _cotangent_derivative(n)), math.pi ** (n + 1))
    mirrored = sub(mul(upper, -sign), turned)
    pole = math.inf if n % 2 else math.nan
    mirrored = choose(equal(angle, 0), pole, mirrored)
    return choose(below, mirrored, choose(equal(x, math.inf), 0, upper))


def _polygamma_of(n: int, x: float) -> float:
    if x <= 0 and x == math.floor(x):
        return math.inf if n % 2 else math.nan if x else -math.inf
    s, shift = n + 1, max(0, 60 - int(x)) if x < 60 else 0
    z = x + shift
    tail = z ** (1 - s) / (s - 1) + z**-s / 2 + s * z ** (-s - 1) / 12
    tail -= s * (s + 1) * (s + 2) * z ** (-s - 3) / 720
    terms = [(x + k) ** -s for k in range(shift)]
    return float((-1) ** (n + 1) * math.factorial(n)) * math.fsum([tail, *terms])


def _polygamma_samples() -> list[Sample]:
    edges = np.array([-2.5, -2.0, -0.25, 0.0, 0.25, 3.0, 30.0, np.nan], np.float32)
    orders = (1, 2, 3)
    out = [Sample(((3, 7),), {"n": n}, low=0.5, high=9.0) for n in orders]
    return out + [Sample((edges,), {"n": n}) for n in orders] + [Sample(((0, 3),), {"n": 1})]


@primitive(
    Kind.ELEMENTWISE,
    infer=lambda x, *, n: (x,),
    meaning=lambda x, *, n: in_float64(lambda v: _polygamma_meaning(v, n=n))(x),
    reference=lambda x, *, n: by_number(lambda v: _polygamma_of(n, v))(x),
    vjp=lambda g, y, x, *, n: (g * polygamma(n + 1, x),),
    takes=FLOATS,
    samples=_polygamma_samples,
    tolerance=16,
)
def polygamma_(x: Tensor, /, *, n: int) -> Tensor:
    """The n-th derivative of digamma, n >= 1."""
    (x,) = promoted("polygamma", (x,), FLOATS)
    out: Tensor = record(op_of(polygamma_), x, n=n)
    return out


def polygamma(n: int, x: Tensor, /) -> Tensor:
    """The n-th derivative of digamma. Raises ArgumentError unless n is an int from 0 on.

    >>> ds.polygamma(1, ds.asarray([1.0]))
    tensor([1.644934])
    """
    if not isinstance(n, int) or n < 0:
        raise op_error(ArgumentError, "polygamma", f"n={n!r}", "an int from 0 on", user_line())
    return polygamma_(x, n=n) if n else digamma(x)


@method("polygamma")
def _polygamma(x: Tensor, n: int) -> Tensor:
    """The n-th derivative of digamma."""
    return polygamma(n, x)


# ------------------------------------------------------------------------------------------ Bessel


def _bessel(x: Expr, order: int) -> Expr:
    """Their power series up to 8, all of one sign, and exp(x) / sqrt(x) times a polynomial."""
    near = [1 / (math.factorial(k) * math.factorial(k + order)) for k in range(28)]
    half = mul(x, 0.5)
    series = polynomial(mul(half, half), near)
    inverse = div(1, x)
    table = BESSEL_I1 if order else BESSEL_I0
    root = exp(mul(x, 0.5))
    scaled = div(polynomial(fma(inverse, 16, -1), table), sqrt(x))
    far = choose(equal(x, math.inf), math.inf, mul(mul(root, scaled), root))
    return choose(less(x, 8.0), mul(half, series) if order else series, far)


@elementwise(
    takes=FLOATS, precision="high", reference=lambda x: np.i0(x), method="i0",
    vjp=lambda g, y, x: (g * bessel_i1(x),), samples=lambda: with_edges(-8.0, 0.0, 7.5, 30.0, 80.0),
    tolerance=8,
)  # fmt: skip
@in_float64
def i0(x: Expr) -> Expr:
    """The modified Bessel function of the first kind and order 0.

    >>> ds.i0(ds.asarray([0.0, 1.0]))
    tensor([1.       , 1.2660658])
    """
    return _bessel(size(x), 0)


def _i1_of(x: float) -> float:
    if math.isnan(x):
        return x
    terms = [x / 2]
    for k in range(1, 400):
        terms.append(terms[-1] * (x / 2) ** 2 / (k * (k + 1)))
    return math.fsum(terms)


def _i1_vjp(g: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor]:
    nothing = x == 0
    ratio = where(nothing, 0.5, y / where(nothing, 1, x))
    return (g * (i0(x) - ratio),)


@elementwise(
    takes=FLOATS, precision="high", reference=by_number(_i1_of), method="bessel_i1", vjp=_i1_vjp,
    samples=lambda: with_edges(-8.0, 0.0, 7.5, 30.0, 80.0), tolerance=8,
)  # fmt: skip
@in_float64
def bessel_i1(x: Expr) -> Expr:
    """The modified Bessel function of the first kind and order 1.

    >>> ds.bessel_i1(ds.asarray([0.0, 1.0]))
    tensor([0.       , 0.5651591])
    """
    out = _bessel(size(x), 1)
    return choose(is_nan(x), x, choose(less(x, 0), neg(out), out))
