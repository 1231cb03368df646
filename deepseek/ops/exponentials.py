"""Exponentials, logarithms and roots to other bases, elementwise on floats.

The body of each is its scalar meaning; integers are taken as float32. Errors are below 2 units of
the last place in float32 and 4 in float64; logarithms of powers of their base are exact.
"""

from __future__ import annotations

import math

import numpy as np

from deepseek.ir.op import Sample
from deepseek.ir.scalar import Expr, cast
from deepseek.ops import forms_math
from deepseek.ops.define import FLOATS, elementwise
from deepseek.ops.scalar_forms import (
    add,
    at_most,
    div,
    either,
    equal,
    exp,
    fma,
    in_float64,
    in_working,
    integer_of,
    is_nan,
    larger,
    less,
    log,
    log1p,
    mul,
    nearest,
    neg,
    number,
    scaled,
    size,
    smaller,
    split,
    sub,
)
from deepseek.ops.scalar_forms import where as choose
from deepseek.ops.transcendental import sigmoid
from deepseek.ops.trigonometry import edge_samples

__all__ = ["cbrt", "exp2", "log10", "log2", "logaddexp2", "reciprocal"]

LN2, LN10 = math.log(2), math.log(10)


@elementwise(
    takes=FLOATS, precision="high", reference=np.exp2, vjp=lambda g, y, x: (g * y * LN2,),
    method="exp2", samples=edge_samples, onnx=forms_math.power_of_two,
)  # fmt: skip
@in_working
def exp2(x: Expr) -> Expr:
    """2 to the power x.

    >>> ds.exp2(ds.asarray([-1.0, 0.0, 10.0]))
    tensor([5.000e-01, 1.000e+00, 1.024e+03])
    """
    limit = {32: 160.0, 64: 1100.0}[x.dtype.bits]  # everything beyond is 0 or infinite
    inside = larger(smaller(x, limit), -limit)
    whole = nearest(inside)
    power = exp(mul(sub(inside, whole), LN2))
    return scaled(power, cast(whole, integer_of(x.dtype)))


def _logarithm(x: Expr, unit: float, head: float, tail: float) -> Expr:
    """log(x) * unit by the exponent and the rest of x.

    The exponent's unit is head + tail. The head has few bits, so that its multiples are exact.
    """
    m, e = split(x)
    exponent = cast(e, x.dtype)
    small = fma(exponent, number(tail, x), mul(log(m), unit))
    usual = fma(exponent, number(head, x), small)
    finite = choose(either(equal(x, math.inf), is_nan(x)), x, usual)
    at_zero = choose(equal(x, 0), number(-math.inf, x), math.nan)
    return choose(at_most(x, 0), at_zero, finite)


@elementwise(
    takes=FLOATS, precision="high", reference=np.log2, vjp=lambda g, y, x: (g / (x * LN2),),
    method="log2", onnx=forms_math.logarithm(2), samples=lambda: edge_samples(domain=(0.1, 9.0)),
)  # fmt: skip
@in_float64
def log2(x: Expr) -> Expr:
    """The logarithm to base 2; -inf at 0, NaN below.

    >>> ds.log2(ds.asarray([0.0, 1.0, 1024.0]))
    tensor([-inf,   0.,  10.])
    """
    return _logarithm(x, 1 / LN2, 1.0, 0.0)


@elementwise(
    takes=FLOATS, precision="high", reference=np.log10, vjp=lambda g, y, x: (g / (x * LN10),),
    method="log10", onnx=forms_math.logarithm(10), samples=lambda: edge_samples(domain=(0.1, 9.0)),
)  # fmt: skip
@in_float64
def log10(x: Expr) -> Expr:
    """The logarithm to base 10; -inf at 0, NaN below.

    >>> ds.log10(ds.asarray([0.0, 1.0, 1000.0]))
    tensor([-inf,   0.,   3.])
    """
    return _logarithm(x, 1 / LN10, 0.3010299956640665, -8.532344317057107e-14)


def _logaddexp2_samples() -> list[Sample]:
    wide = np.array([-np.inf, np.inf, 0.0, -90.0, 2000.0, np.nan], np.float32)
    return [*edge_samples(2), Sample((wide, wide.reshape((6, 1))))]


@elementwise(
    takes=FLOATS, precision="high", reference=np.logaddexp2, samples=_logaddexp2_samples,
    vjp=lambda g, y, a, b: (g * sigmoid((a - b) * LN2), g * sigmoid((b - a) * LN2)),
    method="logaddexp2",
)  # fmt: skip
def logaddexp2(a: Expr, b: Expr) -> Expr:
    """log2(2**a + 2**b), without overflow.

    >>> ds.logaddexp2(ds.asarray([3.0, 2000.0]), ds.asarray([3.0, 0.0]))
    tensor([   4., 2000.])
    """
    rest = log1p(exp(mul(neg(size(sub(a, b))), LN2)))
    return choose(equal(a, b), add(a, 1), add(larger(a, b), mul(rest, 1 / LN2)))


@elementwise(
    takes=FLOATS, reference=np.cbrt, samples=lambda: edge_samples()[:3], method="cbrt",
    vjp=lambda g, y, x: (g / (3 * y * y),),
)  # fmt: skip
@in_float64
def cbrt(x: Expr) -> Expr:
    """The cube root, negative below 0.

    >>> ds.cbrt(ds.asarray([-8.0, 0.0, 27.0]))
    tensor([-2.,  0.,  3.])
    """
    a = size(x)
    tiny = less(a, 2.0**-900)
    a = choose(tiny, mul(a, 2.0**300), a)
    root = exp(mul(log(a), 1 / 3))
    # One of Newton's steps: half of the digits are right.
    root = sub(root, div(sub(mul(mul(root, root), root), a), mul(3, mul(root, root))))
    root = choose(tiny, mul(root, 2.0**-100), root)
    plain = either(equal(x, 0), either(equal(a, math.inf), is_nan(x)))
    return choose(plain, x, choose(less(x, 0), neg(root), root))


@elementwise(
    takes=FLOATS, precision="high", reference=np.reciprocal, vjp=lambda g, y, x: (-g * y * y,),
    method="reciprocal", onnx="Reciprocal", samples=lambda: edge_samples(domain=(0.5, 2.0)),
)  # fmt: skip
def reciprocal(x: Expr) -> Expr:
    """1 / x; infinite at 0.

    >>> ds.reciprocal(ds.asarray([2.0, -4.0]))
    tensor([ 0.5 , -0.25])
    """
    return div(1, x)
