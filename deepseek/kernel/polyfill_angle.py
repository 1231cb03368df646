"""sin and cos: of angles of a usual size in a few steps, and of all others.

Both subtract the nearest multiple of pi (in float64 for both types: close to a multiple of pi,
float32 would lose everything) and need one odd polynomial. Usual angles subtract it in three parts.
The quotient of a larger one has more digits than a float holds: its fraction is computed in
integers, from those digits of 1/pi that matter for the angle's exponent (Payne and Hanek, 1983).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

from deepseek.ir.dtype import float32, float64, int64, uint32, uint64
from deepseek.ir.scalar import Expr, bitcast, call, cast, const
from deepseek.kernel.polyfill_form import (
    FORMS,
    Form,
    add,
    at_least,
    at_most,
    both,
    either,
    fma,
    horner,
    lt,
    mul,
    neg,
    signed_as,
    sub,
    where,
)

# pi in parts of 33, 33 and 53 bits, so that n times the first two is exact.
_PI = (3.1415926534682512, 1.2154201012607932e-10, 4.044532497591901e-21)
_PI_REST = 1.2246467991473532e-16  # pi less its float64


def sin(form: Form, x: Expr) -> Expr:
    """Of a usual angle."""
    wide = FORMS[float64]
    x64 = cast(x, float64)
    magic = wide.c(wide.magic)
    rounded = fma(x64, wide.c(1 / math.pi), magic)
    n = sub(rounded, magic)
    r = x64
    for part in _PI:
        r = fma(n, wide.c(-part), r)
    return _odd_sine(form, r, bitcast(rounded, uint64))


def cos(form: Form, x: Expr) -> Expr:
    """sin(pi (n + 1/2) - x), up to the sign of n's parity, of a usual angle."""
    wide = FORMS[float64]
    x64 = cast(x, float64)
    magic = wide.c(wide.magic)
    rounded = add(fma(x64, wide.c(1 / math.pi), wide.c(-0.5)), magic)
    n = add(sub(rounded, magic), wide.c(0.5))
    r = neg(x64)
    for part in _PI:
        r = fma(n, wide.c(part), r)
    return _odd_sine(form, r, bitcast(rounded, uint64))


def _odd_sine(form: Form, r64: Expr, parity: Expr) -> Expr:
    """sin(r) with the sign of the lowest bit of `parity`."""
    r = cast(r64, form.dtype)
    # Only angles beyond the usual ones need the limits.
    r = at_least(at_most(r, form.c(1.6)), form.c(-1.6))
    z = mul(r, r)
    sine = signed_as(form, fma(mul(r, z), horner(form, z, form.sin), r), r)
    bits = cast(parity, uint32) if form.dtype is float32 else parity
    sign = call("shl", bits, form.u(form.dtype.bits - 1))
    return form.number(call("bitxor", form.ubits(sine), sign))


# --------------------------------------------------------------------------------- larger angles

_LOW = (1 << 32) - 1


def unusual(form: Form, x: Expr) -> Expr:
    """Whether an angle is too large for the parts of pi."""
    return lt(form.c(2.0**30 if form.fused else 2.0**20), call("abs", x))


def sin_of_large(form: Form, x: Expr) -> Expr:
    """Of an unusual angle; NaN of infinity."""
    return _sine_of_large(form, x, False)


def cos_of_large(form: Form, x: Expr) -> Expr:
    """The sine of pi / 2 more."""
    return _sine_of_large(form, call("abs", x), True)


def _sine_of_large(form: Form, x: Expr, ahead: bool) -> Expr:
    x64 = cast(x, float64)
    words = _quotient(form, x64)
    if ahead:
        words[0] = add(words[0], _u(1 << 62))
    # The first word has one bit before the point. Behind it is a fraction from -1/2 to 1/2.
    whole = _right(words[0], 63)
    high, low = (
        either(_left(a, 1), _right(b, 63))
        for a, b in zip(words[:2], [*words[1:], _u(0)], strict=False)
    )
    negative = _right(high, 63)
    parity = call("bitxor", whole, negative)
    flip = sub(_u(0), negative)  # no bits or all: turns a negative fraction into its size
    size = _fraction([call("bitxor", high, flip), call("bitxor", low, flip)])
    wide = FORMS[float64]
    r = fma(size, wide.c(math.pi), mul(size, wide.c(_PI_REST)))
    sign = call("bitxor", _left(negative, 63), both(wide.ubits(x64), _u(wide.sign_bit)))
    sine = _odd_sine(form, wide.number(call("bitxor", wide.ubits(r), sign)), parity)
    return add(sine, sub(x, x))


def _quotient(form: Form, x64: Expr) -> list[Expr]:
    """|x| / pi modulo 2 in words of 64 bits, the first bit being worth 1."""
    bits = both(FORMS[float64].ubits(x64), _u((1 << 63) - 1))
    exponent = _right(bits, 52)
    mantissa = either(both(bits, _u((1 << 52) - 1)), _u(1 << 52))
    if form.dtype is float32:  # 24 bits of mantissa
        mantissa = _right(mantissa, 29)
        digits = _digits(sub(exponent, _u(983)), 2, 5)
        factors = [mantissa]
    else:
        digits = _digits(sub(exponent, _u(1012)), 3, 20)
        factors = [both(mantissa, _u(_LOW)), _right(mantissa, 32)]
    halves = [h for w in reversed(digits) for h in (both(w, _u(_LOW)), _right(w, 32))]
    columns: list[list[Expr]] = [[] for _ in halves]
    for i, factor in enumerate(factors):
        for j, half in enumerate(halves[: len(halves) - i]):
            product = mul(factor, half)
            columns[i + j].append(both(product, _u(_LOW)))
            if i + j + 1 < len(columns):
                columns[i + j + 1].append(_right(product, 32))
    carry, sums = _u(0), []
    for column in columns:
        total = carry
        for part in column:
            total = add(total, part)
        sums.append(both(total, _u(_LOW)))
        carry = _right(total, 32)
    pairs = zip(sums[::2], sums[1::2], strict=True)
    return [either(_left(high, 32), low) for low, high in pairs][::-1]


def _digits(start: Expr, count: int, known: int) -> list[Expr]:
    """So many words of the digits of 1/pi behind 64 zeros, from a bit on; `known` are looked at."""
    words: list[Expr] = [_u(w) for w in _inverse_of_pi(known)]
    place, shift = _right(start, 6), both(start, _u(63))
    step = 1 << (known - count - 1).bit_length() - 1
    while step:
        moved = call("ne", both(place, _u(step)), _u(0))
        kept = min(len(words), count + step)
        words = [
            where(moved, words[i + step], w) if i + step < len(words) else w
            for i, w in enumerate(words[:kept])
        ]
        step //= 2
    rest = sub(_u(63), shift)
    return [
        either(call("shl", a, shift), call("shr", _right(b, 1), rest))
        for a, b in zip(words[:count], words[1 : count + 1], strict=True)
    ]


def _fraction(words: Sequence[Expr]) -> Expr:
    """Words of 64 bits behind the point as a float64, however many zeros are in front."""
    total = FORMS[float64].c(0.0)
    for place in reversed(range(len(words))):
        for part, scale in ((both(words[place], _u(_LOW)), 64), (_right(words[place], 32), 32)):
            number = cast(bitcast(part, int64), float64)
            total = fma(number, FORMS[float64].c(2.0 ** -(64 * place + scale)), total)
    return total


@cache
def _inverse_of_pi(count: int) -> tuple[int, ...]:
    """Words of 64 bits: one of zeros, and the digits of 1/pi."""
    bits = 64 * count
    one = 1 << bits + 64

    def arctan_of_inverse(n: int) -> int:
        power, total, k = one // n, 0, 1
        while power:
            total += power // k if k % 4 == 1 else -(power // k)
            power //= n * n
            k += 2
        return total

    pi = 4 * (4 * arctan_of_inverse(5) - arctan_of_inverse(239))  # Machin, 1706
    digits = (one << bits - 64) // pi
    return tuple(digits >> 64 * i & (1 << 64) - 1 for i in reversed(range(count)))


def _u(value: int) -> Expr:
    return const(value, uint64)


def _left(x: Expr, by: int) -> Expr:
    return call("shl", x, _u(by))


def _right(x: Expr, by: int) -> Expr:
    return call("shr", x, _u(by))
