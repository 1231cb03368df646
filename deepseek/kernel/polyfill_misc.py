"""atan, remainders, and powers of integers."""

from __future__ import annotations

import math

from deepseek.ir.dtype import float32, float64
from deepseek.ir.scalar import Expr, call, cast, const, make
from deepseek.kernel.polyfill_form import (
    FORMS,
    Form,
    add,
    both,
    div,
    eq,
    exact_product,
    fma,
    horner,
    lt,
    mul,
    neg,
    sub,
    where,
)

_HALF_PI_REST = -4.371139000186241e-08  # pi / 2 less its float32


def atan(form: Form, x: Expr) -> Expr:
    """Of |x|, brought below 1 (float32) or tan(pi / 8) (float64) by one division."""
    size = call("abs", x)
    zero = form.c(0.0)
    if form.dtype is float32:
        large = lt(form.one, size)
        t = where(large, neg(div(form.one, size)), size)
        start = where(large, form.c(math.pi / 2), zero)
        start_rest = where(large, form.c(_HALF_PI_REST), zero)
    else:
        small = lt(size, form.c(math.tan(math.pi / 8)))
        middle = lt(size, form.c(math.tan(3 * math.pi / 8)))
        above = where(small, size, where(middle, sub(size, form.one), form.c(-1.0)))
        below = where(small, form.one, where(middle, add(size, form.one), size))
        t = div(above, below)
        start = where(small, zero, where(middle, form.c(math.pi / 4), form.c(math.pi / 2)))
        start_rest = zero
    z = mul(t, t)
    angle = add(start, add(t, fma(mul(t, z), horner(form, z, form.atan), start_rest)))
    sign = call("bitand", form.ubits(x), form.u(form.sign_bit))
    return form.number(call("bitxor", form.ubits(angle), sign))


# ------------------------------------------------------------------------------------- remainders


def _truncated(form: Form, a: Expr, b: Expr) -> tuple[Expr, Expr]:
    """(quotient rounded towards zero, remainder with a's sign)."""
    zero = form.c(0.0)
    quotient = call("trunc", div(a, b))
    product, rest = exact_product(form, quotient, b)
    remainder = sub(sub(a, product), rest)
    # The quotient may have been rounded up to the next integer.
    over = lt(mul(remainder, a), zero)
    step = where(lt(mul(a, b), zero), form.c(-1.0), form.one)
    remainder = where(over, add(remainder, mul(step, b)), remainder)
    quotient = where(over, sub(quotient, step), quotient)
    remainder = where(eq(quotient, zero), a, remainder)
    return quotient, remainder


def _rounded_down(form: Form, a: Expr, b: Expr) -> tuple[Expr, Expr]:
    quotient, remainder = _truncated(form, a, b)
    zero = form.c(0.0)
    differ = call("ne", lt(remainder, zero), lt(b, zero))
    below = both(call("ne", remainder, zero), differ)
    return (
        where(below, sub(quotient, form.one), quotient),
        where(below, add(remainder, b), remainder),
    )


def _in_float64(form: Form, a: Expr, b: Expr) -> tuple[Expr, Expr]:
    wide = FORMS[float64].with_fused(form.fused)
    quotient, remainder = _rounded_down(wide, cast(a, float64), cast(b, float64))
    return cast(quotient, form.dtype), cast(remainder, form.dtype)


def mod(form: Form, a: Expr, b: Expr) -> Expr:
    # Dividing by zero has no remainder.
    return where(eq(b, form.c(0.0)), form.c(math.nan), _in_float64(form, a, b)[1])


def floordiv(form: Form, a: Expr, b: Expr) -> Expr:
    quotient, remainder = _in_float64(form, a, b)
    quotient = where(eq(remainder, remainder), quotient, remainder)
    return where(eq(b, form.c(0.0)), div(a, b), quotient)


def integer_power(x: Expr, y: Expr) -> Expr:
    """x**y modulo the type's range, for y >= 0, bit by bit of the exponent."""
    dtype = x.dtype
    one, zero = const(1, dtype), const(0, dtype)
    result = one
    base = x
    for bit in range(dtype.bits - (dtype.kind == "i")):
        wanted = call("ne", call("bitand", y, const(1 << bit, dtype)), zero)
        # Made as they are: sums of products would write x**(2**62) out.
        result = where(wanted, make("mul", (result, base), dtype), result)
        base = make("mul", (base, base), dtype)
    return result
