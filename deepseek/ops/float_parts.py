"""The parts of floats: sign, fraction, mantissa and exponent, neighbours; and what is no number.

In flow floats (integers are taken as float32), out flow tensors of the same shape.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import DType, float32, float64, int32
from deepseek.ir.op import Sample
from deepseek.ir.scalar import Expr, bitcast, call, cast, const
from deepseek.ops import forms_math
from deepseek.ops.arithmetic import EDGES, edge_pairs
from deepseek.ops.define import FLOATS, composite, converted, elementwise, elementwise_samples
from deepseek.ops.elementwise import multiply, subtract, where
from deepseek.ops.exponentials import exp2
from deepseek.ops.methods import method
from deepseek.ops.scalar_forms import (
    add,
    at_most,
    both,
    either,
    equal,
    in_working,
    integer_of,
    is_nan,
    less,
    mantissa_bits,
    mul,
    number,
    size,
    with_sign_of,
)
from deepseek.ops.scalar_forms import where as choose
from deepseek.ops.transcendental import floor, trunc

__all__ = ["copysign", "frac", "frexp", "ldexp", "nan_to_num", "nextafter", "signbit"]


@composite(
    reference=lambda x: x - np.trunc(x),
    samples=lambda: [Sample(((3, 37),)), Sample(((0, 3),)), Sample((EDGES,))],
    method="frac",
)
def frac(x: Tensor) -> Tensor:
    """x less its whole part, with its sign.

    >>> ds.frac(ds.asarray([2.5, -2.5]))
    tensor([ 0.5, -0.5])
    """
    return x - trunc(x)


def _copysign_vjp(g: Tensor, y: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, None]:
    return where(a == 0, 0, where(a == y, g, -g)), None


@elementwise(
    takes=FLOATS, reference=np.copysign, vjp=_copysign_vjp, method="copysign", samples=edge_pairs,
    onnx=forms_math.copysign,
)  # fmt: skip
@in_working
def copysign(a: Expr, b: Expr) -> Expr:
    """|a| with the sign of b, also where that is a zero.

    >>> ds.copysign(ds.asarray([1.0, -2.0]), ds.asarray([-0.0, 3.0]))
    tensor([-1.,  2.])
    """
    return with_sign_of(a, b)


@elementwise(
    takes=FLOATS, reference=np.signbit, method="signbit", onnx=forms_math.signbit,
    samples=lambda: [*elementwise_samples(1, (-2.0, 2.0)), Sample((EDGES,))],
)  # fmt: skip
@in_working
def signbit(x: Expr) -> Expr:
    """Whether x is below 0, or -0.0.

    >>> ds.signbit(ds.asarray([-1.0, -0.0, 0.0]))
    tensor([ True,  True, False])
    """
    return less(bitcast(x, integer_of(x.dtype)), 0)


@elementwise(
    takes=(float32, float64), reference=np.nextafter, method="nextafter",
    vjp=lambda g, y, a, b: (g, None),
    samples=lambda: [
        *elementwise_samples(2, (-2.0, 2.0)),
        Sample((EDGES[1:6], np.append(EDGES, 0.5)[:, None])),
    ],
)  # fmt: skip
def nextafter(a: Expr, b: Expr) -> Expr:
    """The float after a on the way to b.

    >>> ds.nextafter(ds.asarray([1.0]), 2.0) - 1
    tensor([1.1920929e-07])
    """
    kind = integer_of(a.dtype)
    bits = bitcast(a, kind)
    away = equal(less(a, b), less(0, a))  # from 0
    step = bitcast(choose(away, add(bits, 1), add(bits, -1)), a.dtype)
    first = bitcast(const(1, kind), a.dtype)
    from_zero = choose(less(b, 0), call("neg", first), first)
    moved = choose(equal(a, 0), from_zero, step)
    return choose(either(is_nan(a), is_nan(b)), add(a, b), choose(equal(a, b), b, moved))


def _fields(x: Expr) -> tuple[Expr, Expr, Expr]:
    """Of a float: its normal multiple, that one's exponent e with |x| in [2**(e-1), 2**e), plain.

    The last says whether x has no such exponent: 0, an infinity or NaN.
    """
    dtype, kind, bits = x.dtype, integer_of(x.dtype), mantissa_bits(x.dtype)
    bias = (1 << (dtype.bits - 2 - bits)) - 1
    tiny = less(size(x), 2.0 ** (1 - bias))
    normal = choose(tiny, mul(x, 2.0 ** (bits + 2)), x)
    field = call("shr", bitcast(size(normal), kind), const(bits, kind))
    exponent = add(field, choose(tiny, const(1 - bias - bits - 2, kind), 1 - bias))
    plain = either(equal(x, 0), either(is_nan(x), at_most(number(math.inf, x), size(x))))
    return normal, exponent, plain


def _mantissa_vjp(g: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor]:
    return (g * where(x == 0, 1, y / where(x == 0, 1, x)),)


FREXP = np.array([0.0, -0.0, 1.0, -8.0, 1e-40, 0.75, np.inf, np.nan], np.float32)


def _frexp_samples() -> list[Sample]:
    return [*elementwise_samples(1, (0.6, 0.9)), Sample((FREXP,))]


@elementwise(
    takes=FLOATS, reference=lambda x: np.frexp(x)[0], vjp=_mantissa_vjp, samples=_frexp_samples
)
@in_working
def frexp_mantissa(x: Expr) -> Expr:
    """The m of x = m * 2**e with 0.5 <= |m| < 1; x itself where there is none."""
    dtype, kind, bits = x.dtype, integer_of(x.dtype), mantissa_bits(x.dtype)
    normal, _, plain = _fields(x)
    exponents = ((1 << (dtype.bits - 1 - bits)) - 1) << bits
    half = int(np.asarray(0.5, dtype.numpy).view(kind.numpy))
    kept = both(bitcast(normal, kind), const(~exponents, kind))
    return choose(plain, x, bitcast(either(kept, const(half, kind)), dtype))


@elementwise(takes=FLOATS, reference=lambda x: np.frexp(x)[1], samples=_frexp_samples)
@in_working
def frexp_exponent(x: Expr) -> Expr:
    """The e of x = m * 2**e with 0.5 <= |m| < 1; 0 where there is none."""
    _, exponent, plain = _fields(x)
    return cast(choose(plain, number(0, exponent), exponent), int32)


@method("frexp")
def frexp(x: Tensor) -> tuple[Tensor, Tensor]:
    """(m, e) with x = m * 2**e, 0.5 <= |m| < 1 and e int32; (x, 0) for 0, infinities and NaN.

    >>> ds.frexp(ds.asarray([3.0, 0.0]))
    (tensor([0.75, 0.  ]), tensor([2, 0], dtype=int32))
    """
    return frexp_mantissa(x), frexp_exponent(x)


@composite(
    reference=lambda x, other: x * np.exp2(other),
    samples=lambda: [Sample(((3, 37), (3, 37))), Sample(((2, 3), np.array([[-3], [4]])))],
    method="ldexp",
)
def ldexp(x: Tensor, other: Tensor) -> Tensor:
    """x * 2**other.

    >>> ds.ldexp(ds.asarray([0.75, 1.0]), ds.asarray([2, -1]))
    tensor([3. , 0.5])
    """
    power = converted(other, x.dtype) if x.dtype.is_float else other
    half = floor(multiply(power, 0.5))  # 2**other may lie out of range where the product does not
    return multiply(multiply(x, exp2(half)), exp2(subtract(power, half)))


def _nan_to_num_reference(x: Any, nan: Any, posinf: Any, neginf: Any) -> Any:
    return np.nan_to_num(x, nan=nan, posinf=posinf, neginf=neginf)


@composite(
    reference=_nan_to_num_reference,
    samples=lambda: [
        Sample(((3, 37),)),
        Sample((EDGES,), {"nan": 2.0, "posinf": 5.0, "neginf": -5.0}),
        Sample(((0, 3),)),
    ],
    method="nan_to_num",
)
def nan_to_num(
    x: Tensor, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    """x with NaN and infinities replaced, the latter by default by the dtype's extreme numbers.

    >>> ds.nan_to_num(ds.asarray([np.nan, np.inf, 1.0]), posinf=9.0)
    tensor([0., 9., 1.])
    """
    if not x.dtype.is_float:
        return x
    most = largest_number(x.dtype)
    high = most if posinf is None else posinf
    low = -most if neginf is None else neginf
    out = where(x == math.inf, high, where(x == -math.inf, low, x))
    return where(x != x, nan, out)


def largest_number(dtype: DType) -> float:
    """The largest finite number of a float dtype."""
    bits = {"bfloat16": 0x7F7F, "float16": 0x7BFF, "float32": 0x7F7FFFFF,
            "float64": 0x7FEFFFFFFFFFFFFF}[dtype.name]  # fmt: skip
    return float(np.asarray(bits, f"u{dtype.itemsize}").view(dtype.numpy))
