"""exp and what is made of it: expm1, tanh, erf.

x = n ln 2 + r with |r| <= ln 2 / 2, and a polynomial in r. Adding a magic number rounds x / ln 2 to
n and leaves n in the low bits, from where a shift puts 2**n together.
"""

from __future__ import annotations

from deepseek.ir.scalar import Expr, call
from deepseek.kernel.polyfill_form import (
    LOG2_E,
    Form,
    add,
    at_least,
    at_most,
    div,
    exact_product,
    fma,
    horner,
    lt,
    mul,
    signed_as,
    sub,
    where,
)


def _split(form: Form, x: Expr, offset: int) -> tuple[Expr, Expr, Expr]:
    """(n, a number whose bits end in n + offset, r)."""
    magic = form.c(form.magic + offset)
    rounded = fma(x, form.c(LOG2_E), magic)
    n = sub(rounded, magic)
    head, tail = form.ln2
    r = fma(n, form.c(-tail), fma(n, form.c(-head), x))
    return n, rounded, r


def _reduce(form: Form, x: Expr, offset: int) -> tuple[Expr, Expr]:
    """(bits whose low end is n + offset, r)."""
    _, rounded, r = _split(form, x, offset)
    return form.bits(rounded), r


def _split_in_range(form: Form, x: Expr) -> tuple[Expr, Expr, Expr]:
    low, high = form.exp_range
    return _split(form, at_least(at_most(x, form.c(high)), form.c(low)), 2 * form.bias)


def exp_parts(form: Form, x: Expr) -> tuple[Expr, Expr]:
    """A number near 1 and the exponent of the power of two that it is to be multiplied by."""
    n, _, r = _split_in_range(form, x)
    return exp_polynomial(form, r), n


def exp(form: Form, x: Expr) -> Expr:
    _, rounded, r = _split_in_range(form, x)
    result = exp_polynomial(form, r)
    # Two factors, each in range where 2**n is not: overflow and denormals round by themselves.
    bits = form.bits(rounded)
    half = call("shr", bits, form.i(1))
    for exponent in (half, sub(bits, half)):
        result = mul(result, form.number(call("shl", exponent, form.i(form.mantissa))))
    return result


def exp_polynomial(form: Form, r: Expr) -> Expr:
    return horner(form, r, (1.0, 1.0, *form.exp))


def _expm1_parts(form: Form, x: Expr, offset: int) -> tuple[Expr, Expr]:
    """(2**(n + offset - bias), expm1(r))."""
    bits, r = _reduce(form, x, offset)
    power = form.number(call("shl", bits, form.i(form.mantissa)))
    return power, fma(mul(r, r), horner(form, r, form.expm1), r)


def expm1(form: Form, x: Expr) -> Expr:
    x = at_least(at_most(x, form.c(form.exp_range[1])), form.c(form.expm1_low))
    # 2**n (q + 1) - 1, halved on the way so that 2**n may be the largest power.
    power, q = _expm1_parts(form, x, form.bias - 1)
    half = fma(power, q, sub(power, form.c(0.5)))
    return signed_as(form, add(half, half), x)


def tanh(form: Form, x: Expr) -> Expr:
    """An odd polynomial up to 0.6, 1 - 2 / (exp(2|x|) + 1) beyond."""
    z = mul(x, x)
    size = call("abs", x)
    near = fma(mul(size, z), horner(form, z, form.tanh), size)
    twice = at_most(add(size, size), form.c(form.tanh_high))
    bits, r = _reduce(form, twice, form.bias)
    power = form.number(call("shl", bits, form.i(form.mantissa)))
    below = fma(power, exp_polynomial(form, r), form.one)
    far = sub(form.one, div(form.c(2.0), below))
    return signed_as(form, where(lt(size, form.c(0.6)), near, far), x)


def erf(form: Form, x: Expr) -> Expr:
    """1 - exp(-|x| p(|x|)) with x's sign."""
    size = at_most(call("abs", x), form.c(form.erf_high))
    # The leading term has one rounding: it is nearly all of the result where x is small.
    first = form.c(form.erf[0]).value
    rest = horner(form, size, (form.erf[0] - first, *form.erf[1:]))
    minus = call("neg", size)
    if form.fused:
        exponent = fma(minus, form.c(first), mul(minus, rest))
    else:
        product, product_rest = exact_product(form, minus, form.c(first))
        exponent = add(product, fma(minus, rest, product_rest))
    power, q = _expm1_parts(form, exponent, form.bias)
    return _with_sign(form, fma(power, q, sub(power, form.one)), x)


def _with_sign(form: Form, size: Expr, x: Expr) -> Expr:
    sign = call("bitand", form.ubits(x), form.u(form.sign_bit))
    magnitude = call("bitand", form.ubits(size), form.u(form.sign_bit - 1))
    return form.number(call("bitor", magnitude, sign))
