"""log, log1p and pow.

x = 2**e (1 + f) with 1 + f between the square roots of 1/2 and 2, by integer arithmetic on the
bits. float32 takes a polynomial in f; float64 one in s**2, s = f / (2 + f), which needs a division
but half the terms.
"""

from __future__ import annotations

import math

from deepseek.ir.dtype import float32, float64, int32, int64, uint64
from deepseek.ir.scalar import Expr, bitcast, call, cast
from deepseek.kernel.polyfill_exp import exp_polynomial
from deepseek.kernel.polyfill_form import (
    FORMS,
    LOG2_E,
    Form,
    add,
    at_least,
    at_most,
    both,
    div,
    either,
    eq,
    exact_product,
    exact_sum,
    fma,
    horner,
    lt,
    mul,
    signed_as,
    sub,
    where,
)

# (log(1 + f) - f + f**2 / 2) / f**3: 2**-24.9 relative to log
_CUBIC = (0.3333390951156616, -0.2500133812427521, 0.19963063299655914, -0.1657758504152298,
          0.14914770424365997, -0.14267483353614807, 0.08700425177812576)  # fmt: skip
# (2 atanh(s) / s - 2) / s**2 in s**2: 2**-59.5 relative to log
_ATANH = (0.6666666666666734, 0.39999999999418784, 0.28571428741630545, 0.22222198640143584,
          0.18183561254959732, 0.15314121010021317, 0.14795310376132892)  # fmt: skip
_ROOT_HALF = math.sqrt(0.5)


def log(form: Form, x: Expr) -> Expr:
    e, f = _split(form, x)
    return _special(form, x, _log_of_parts(form, e, f))


def log1p(form: Form, x: Expr) -> Expr:
    """As log of u = 1 + x, but with f made of x itself, so that nothing is lost."""
    u = add(x, form.one)
    ones = form.bits_of(1.0)
    mask = -(1 << form.mantissa)
    exponent = call("bitand", sub(form.bits(u), form.i(form.bits_of(_ROOT_HALF))), form.i(mask))
    scaled = form.number(sub(form.bits(x), exponent))
    power = form.number(call("maximum", sub(form.i(ones), exponent), form.i(0)))
    f = add(scaled, sub(power, form.one))
    e = _exponent(form, bitcast(add(exponent, form.i(ones)), form.unsigned), form.bias)
    return _special(form, u, signed_as(form, _log_of_parts(form, e, f), x))


def _special(form: Form, x: Expr, result: Expr) -> Expr:
    """-inf at 0, NaN below, infinity and NaN as they are."""
    infinity = form.c(math.inf)
    finite = where(lt(x, infinity), result, x)
    at_zero = where(eq(x, form.c(0.0)), form.c(-math.inf), form.c(math.nan))
    return where(lt(form.c(0.0), x), finite, at_zero)


def _exponent(form: Form, shifted_bits: Expr, bias: int | Expr) -> Expr:
    """The exponent field as a number, less the bias: through the low bits of a large number."""
    large = 2.0**form.mantissa
    field = call("shr", shifted_bits, form.u(form.mantissa))
    number = form.number(call("bitor", field, form.u(form.bits_of(large))))
    return sub(number, form.c(large + bias) if isinstance(bias, int) else bias)


def _split(form: Form, x: Expr) -> tuple[Expr, Expr]:
    """(e, f) of a positive number."""
    lift = form.mantissa + 2
    tiny = lt(x, form.c(2.0 ** (1 - form.bias)))
    normal = where(tiny, mul(x, form.c(2.0**lift)), x)
    large = 2.0**form.mantissa + form.bias
    bias = where(tiny, form.c(large + lift), form.c(large))
    root, ones = form.bits_of(_ROOT_HALF), form.bits_of(1.0)
    moved = add(form.ubits(normal), form.u(ones - root))
    fraction = call("bitand", moved, form.u((1 << form.mantissa) - 1))
    f = sub(form.number(add(fraction, form.u(root))), form.one)
    return _exponent(form, moved, bias), f


def _log_of_parts(form: Form, e: Expr, f: Expr) -> Expr:
    """e ln 2 + log(1 + f)."""
    head, tail = (form.c(v) for v in form.ln2)
    square = mul(f, f)
    if form.dtype is float32:
        inner = fma(f, horner(form, f, _CUBIC), form.c(-0.5))
        return fma(e, head, fma(e, tail, fma(square, inner, f)))
    half_square = mul(square, form.c(0.5))
    s = div(f, add(f, form.c(2.0)))
    z = mul(s, s)
    rest = mul(z, horner(form, z, _ATANH))
    small = fma(e, tail, mul(s, add(half_square, rest)))
    return fma(e, head, sub(f, sub(half_square, small)))


# ---------------------------------------------------------------------------------------------- pow


def pow_(form: Form, x: Expr, y: Expr) -> Expr:
    """|x|**y = exp(y log |x|), then the sign and the cases that are neither."""
    size = call("abs", x)
    power = _pow32(form, size, y) if form.dtype is float32 else _pow64(form, size, y)
    whole = eq(call("floor", y), y)
    half = mul(y, form.c(0.5))
    odd = both(whole, call("ne", call("floor", half), half))
    sign = call("bitand", form.ubits(x), form.u(form.sign_bit))
    flip = where(odd, sign, form.u(0))
    signed = form.number(call("bitxor", form.ubits(power), flip))
    nowhere = both(lt(x, form.c(0.0)), both(call("ne", call("floor", y), y), lt(size, _inf(form))))
    result = where(nowhere, form.c(math.nan), signed)
    return where(either(eq(x, form.one), eq(y, form.c(0.0))), form.one, result)


def _inf(form: Form) -> Expr:
    return form.c(math.inf)


def _product_with(form: Form, size: Expr, log_: Expr, y: Expr, product: Expr) -> Expr:
    """y log|x| with the cases that multiplication does not know."""
    infinite = where(eq(size, form.c(0.0)), form.c(-math.inf), form.c(math.inf))
    usual = both(lt(form.c(0.0), size), lt(size, form.c(math.inf)))
    logarithm = where(usual, log_, where(eq(size, size), infinite, size))
    plain = where(usual, product, mul(y, logarithm))
    none = either(eq(logarithm, form.c(0.0)), eq(y, form.c(0.0)))
    return where(none, form.c(0.0), plain)


def _pow32(form: Form, size: Expr, y: Expr) -> Expr:
    """In float64, where the logarithm has the bits that a large exponent asks for."""
    wide = FORMS[float64].with_fused(form.fused)
    x64, y64 = cast(size, float64), cast(y, float64)
    root, ones = wide.bits_of(_ROOT_HALF), wide.bits_of(1.0)
    moved = add(bitcast(x64, uint64), wide.u(ones - root))
    fraction = call("bitand", moved, wide.u((1 << wide.mantissa) - 1))
    m = wide.number(add(fraction, wide.u(root)))
    s = div(sub(m, wide.one), add(m, wide.one))
    z = mul(s, s)
    atanh = fma(mul(s, z), horner(wide, z, _ATANH), add(s, s))
    log2 = fma(atanh, wide.c(LOG2_E), _exponent(wide, moved, wide.bias))
    p = _product_with(wide, x64, log2, y64, mul(y64, log2))
    p = at_least(at_most(p, wide.c(130.0)), wide.c(-152.0))
    magic = wide.c(wide.magic + 2 * form.bias)
    rounded = add(p, magic)
    r = cast(mul(sub(p, sub(rounded, magic)), wide.c(math.log(2))), float32)
    bits = cast(bitcast(rounded, int64), int32)
    half = call("shr", bits, form.i(1))
    result = exp_polynomial(form, r)
    for exponent in (half, sub(bits, half)):
        result = mul(result, form.number(call("shl", exponent, form.i(form.mantissa))))
    return result


_TWO_THIRDS = (0.6666666666666666, 3.700743415417188e-17)
# (2 atanh(s) / s - 2 - 2 z / 3) / z**2 in z = s**2: 2**-66 relative to log
_ATANH_REST = (0.4000000000000618, 0.28571428569101964, 0.22222222644802705, 0.18181775801456324,
               0.153870855686353, 0.13250222132598885, 0.13250476658474172)  # fmt: skip


def _pow64(form: Form, size: Expr, y: Expr) -> Expr:
    """log |x| as a sum of two numbers, twice as long as one."""
    e, f = _split(form, size)
    u, u_rest = exact_sum(form.c(2.0), f)
    s = div(f, u)
    su, su_rest = exact_product(form, s, u)
    s_rest = div(sub(sub(sub(f, su), su_rest), mul(s, u_rest)), u)
    z, z_rest = exact_product(form, s, s)
    z_rest = fma(add(s, s), s_rest, z_rest)
    # t = z (2/3 + z (…)), then s (2 + t)
    series = mul(z, horner(form, z, _ATANH_REST))
    c, c_rest = exact_sum(form.c(_TWO_THIRDS[0]), series)
    c_rest = add(c_rest, form.c(_TWO_THIRDS[1]))
    t, t_rest = exact_product(form, z, c)
    t_rest = add(t_rest, fma(z, c_rest, mul(z_rest, c)))
    w, w_rest = exact_sum(form.c(2.0), t)
    w_rest = add(w_rest, t_rest)
    v, v_rest = exact_product(form, s, w)
    v_rest = add(v_rest, fma(s, w_rest, mul(s_rest, w)))
    head = mul(e, form.c(form.ln2[0]))  # exact: the head has trailing zeros
    # |head| > |v| or head = 0
    high, rest = exact_sum(head, v)
    rest = add(rest, fma(e, form.c(form.ln2[1]), v_rest))
    log_, log_rest = exact_sum(high, rest)
    p, p_rest = exact_product(form, y, log_)
    p_rest = fma(y, log_rest, p_rest)
    p = _product_with(form, size, log_, y, p)
    low, top = form.exp_range
    # Beside a p beyond the range it is no small rest, and would bring the result back into it.
    p_rest = where(lt(call("abs", p_rest), form.c(2.0**-20)), p_rest, form.c(0.0))
    p = at_least(at_most(p, form.c(top)), form.c(low))
    return _exp_of_sum(form, p, p_rest)


def _exp_of_sum(form: Form, p: Expr, p_rest: Expr) -> Expr:
    magic = form.c(form.magic + 2 * form.bias)
    rounded = fma(p, form.c(LOG2_E), magic)
    n = sub(rounded, magic)
    r = fma(n, form.c(-form.ln2[1]), fma(n, form.c(-form.ln2[0]), p))
    bits = form.bits(rounded)
    half = call("shr", bits, form.i(1))
    result = exp_polynomial(form, add(r, p_rest))
    for exponent in (half, sub(bits, half)):
        result = mul(result, form.number(call("shl", exponent, form.i(form.mantissa))))
    return result
