"""A small vocabulary for scalar meanings: functions of expressions that take plain numbers too.

In flow expressions of one dtype, and numbers, which become constants of it; out flows an
expression. `in_float64` is for rare functions: narrower floats are computed in float64 and rounded
once, which leaves half a unit of the last place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from deepseek.ir import scalar
from deepseek.ir.dtype import DType, float32, float64, int32, int64
from deepseek.ir.scalar import Expr, bitcast, cast, const

Number = Expr | float
Meaning = Callable[..., Expr]


def function(name: str) -> Meaning:
    """A scalar function whose arguments may be numbers."""

    def call(*args: Number) -> Expr:
        dtype = next(a.dtype for a in reversed(args) if isinstance(a, Expr))
        return scalar.call(name, *[a if isinstance(a, Expr) else const(a, dtype) for a in args])

    return call


def number(value: float, like: Expr) -> Expr:
    """A constant of an expression's dtype."""
    return const(value, like.dtype)


add, sub, mul, div, neg = (function(name) for name in ("add", "sub", "mul", "div", "neg"))
fma, size, where, sqrt = (function(name) for name in ("fma", "abs", "where", "sqrt"))
equal, less, at_most = (function(name) for name in ("eq", "lt", "le"))
exp, expm1, log, log1p = (function(name) for name in ("exp", "expm1", "log", "log1p"))
larger, smaller, nearest = (function(name) for name in ("maximum", "minimum", "round"))
both, either = function("bitand"), function("bitor")


def is_nan(x: Expr) -> Expr:
    return scalar.call("ne", x, x)


def in_float64(meaning: Meaning) -> Meaning:
    """The meaning on arguments in float64, the result rounded to their own dtype."""

    @functools.wraps(meaning)
    def wide(*args: Expr) -> Expr:
        dtype = args[0].dtype
        return cast(meaning(*(cast(a, float64) for a in args)), dtype)

    return wide


def in_working(meaning: Meaning) -> Meaning:
    """A meaning on bits: 16-bit floats have those of float32, where they are computed."""

    @functools.wraps(meaning)
    def wide(*args: Expr) -> Expr:
        dtype = args[0].dtype
        out = meaning(*(cast(a, dtype.accumulator) for a in args))
        return cast(out, dtype) if out.dtype.is_float else out

    return wide


def is_negative(x: Expr) -> Expr:
    """Whether x is below 0, or -0.0; no NaN is. In arithmetic, which ONNX has too."""
    return either(less(x, 0), less(div(1, x), 0))


def polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    """c[0] + x * (c[1] + x * (...))."""
    total = const(coefficients[-1], x.dtype)
    for c in reversed(coefficients[:-1]):
        total = fma(total, x, c)
    return total


# ------------------------------------------------------------------------------------------ bits


def integer_of(dtype: DType) -> DType:
    """The signed integer type of a float's size."""
    return {float32: int32, float64: int64}[dtype]


def mantissa_bits(dtype: DType) -> int:
    return {float32: 23, float64: 52}[dtype]


def bits_of(x: Expr) -> Expr:
    """The bits of a float, as a signed integer."""
    return bitcast(x, integer_of(x.dtype))


def with_sign_of(magnitude: Expr, x: Expr) -> Expr:
    """|magnitude| with the sign of x, also where that is a zero or NaN."""
    kind = integer_of(x.dtype)
    sign = 1 << (kind.bits - 1)
    low = both(bits_of(magnitude), const(sign - 1, kind))
    return bitcast(either(low, both(bits_of(x), const(sign, kind))), x.dtype)


def power_of_two(exponent: Expr, dtype: DType) -> Expr:
    """2**exponent for an integer (of the float's size) in the range of normal numbers."""
    kind, bits = integer_of(dtype), mantissa_bits(dtype)
    bias = (1 << (dtype.bits - 2 - bits)) - 1
    return bitcast(scalar.call("shl", add(exponent, bias), const(bits, kind)), dtype)


def scaled(x: Expr, exponent: Expr) -> Expr:
    """x * 2**exponent, in two steps, so that neither power leaves the range."""
    half = scalar.call("shr", exponent, const(1, exponent.dtype))
    first = mul(x, power_of_two(half, x.dtype))
    return mul(first, power_of_two(sub(exponent, half), x.dtype))


def split(x: Expr) -> tuple[Expr, Expr]:
    """(m, e) with x = m * 2**e and m between the roots of 1/2 and 2, for a positive number."""
    dtype, kind, bits = x.dtype, integer_of(x.dtype), mantissa_bits(x.dtype)
    lift = bits + 2
    bias = (1 << (dtype.bits - 2 - bits)) - 1
    tiny = less(x, 2.0 ** (1 - bias))
    normal = where(tiny, mul(x, 2.0**lift), x)
    # Adding what is between root 1/2 and 1 carries into the exponent from root 2 on.
    root = const(0.5**0.5, dtype)
    offset = sub(bits_of(const(1.0, dtype)), bits_of(root))
    moved = add(bits_of(normal), offset)
    shifted = scalar.call("shr", moved, const(bits, kind))
    fraction = both(moved, const((1 << bits) - 1, kind))
    m = bitcast(add(fraction, bits_of(root)), dtype)
    e = sub(shifted, where(tiny, const(bias + lift, kind), const(bias, kind)))
    return m, e
