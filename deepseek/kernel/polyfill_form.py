"""What the polyfills need to know of a float format, and their small vocabulary.

Polynomials were fitted by Remez exchange in 60 digits, relative to the function, with the leading
coefficients fixed where a value must be exact; each is noted with its largest relative error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from deepseek.ir.dtype import DType, float32, float64, int32, int64, uint32, uint64
from deepseek.ir.scalar import Expr, bitcast, call, const


@dataclass(frozen=True)
class Form:
    """A float format and the constants of its polyfills."""

    dtype: DType
    signed: DType
    unsigned: DType
    mantissa: int  # bits behind the point
    bias: int
    ln2: tuple[float, float]  # head with trailing zeros, so that n * head is exact; tail
    exp_range: tuple[float, float]  # everything beyond is 0 or infinity
    expm1_low: float  # everything below is -1
    tanh_high: float  # tanh of half of it is 1
    erf_high: float  # erf of it is 1
    exp: tuple[float, ...]
    expm1: tuple[float, ...]
    erf: tuple[float, ...]
    tanh: tuple[float, ...]
    sin: tuple[float, ...]
    atan: tuple[float, ...]
    fused: bool = True

    def with_fused(self, fused: bool) -> Form:
        return self if fused == self.fused else replace(self, fused=fused)

    # ------------------------------------------------------------------------------ vocabulary

    def c(self, value: float) -> Expr:
        return const(value, self.dtype)

    def i(self, value: int) -> Expr:
        return const(value, self.signed)

    def u(self, value: int) -> Expr:
        return const(value, self.unsigned)

    def bits(self, x: Expr) -> Expr:
        return bitcast(x, self.signed)

    def ubits(self, x: Expr) -> Expr:
        return bitcast(x, self.unsigned)

    def number(self, bits: Expr) -> Expr:
        return bitcast(bits, self.dtype)

    def bits_of(self, value: float) -> int:
        """The bits of a constant, as an unsigned integer."""
        return int(np.asarray(value, self.dtype.numpy).view(self.unsigned.numpy))

    @property
    def sign_bit(self) -> int:
        return 1 << (self.mantissa + self.exponent_bits)

    @property
    def exponent_bits(self) -> int:
        return self.dtype.bits - 1 - self.mantissa

    @property
    def one(self) -> Expr:
        return self.c(1.0)

    @property
    def magic(self) -> float:
        """Adding it leaves the nearest integer in the low bits."""
        return 1.5 * 2.0**self.mantissa


def add(a: Expr, b: Expr) -> Expr:
    return call("add", a, b)


def sub(a: Expr, b: Expr) -> Expr:
    return call("sub", a, b)


def mul(a: Expr, b: Expr) -> Expr:
    return call("mul", a, b)


def div(a: Expr, b: Expr) -> Expr:
    return call("div", a, b)


def fma(a: Expr, b: Expr, c: Expr) -> Expr:
    return call("fma", a, b, c)


def neg(a: Expr) -> Expr:
    return call("neg", a)


def where(condition: Expr, a: Expr, b: Expr) -> Expr:
    return call("where", condition, a, b)


def lt(a: Expr, b: Expr) -> Expr:
    return call("lt", a, b)


def eq(a: Expr, b: Expr) -> Expr:
    return call("eq", a, b)


def both(a: Expr, b: Expr) -> Expr:
    return call("bitand", a, b)


def either(a: Expr, b: Expr) -> Expr:
    return call("bitor", a, b)


def at_most(x: Expr, limit: Expr) -> Expr:
    """The smaller; NaN stays NaN."""
    return where(lt(limit, x), limit, x)


def at_least(x: Expr, limit: Expr) -> Expr:
    """The larger; NaN stays NaN."""
    return where(lt(x, limit), limit, x)


def signed_as(form: Form, result: Expr, x: Expr) -> Expr:
    """A result that has x's sign unless it is 0: of -0.0 it is -0.0."""
    sign = both(form.ubits(x), form.u(form.sign_bit))
    return form.number(either(form.ubits(result), sign))


def horner(form: Form, x: Expr, coefficients: Sequence[float]) -> Expr:
    """c[0] + x * (c[1] + x * (…))."""
    total = form.c(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = fma(total, x, form.c(c))
    return total


def exact_product(form: Form, a: Expr, b: Expr) -> tuple[Expr, Expr]:
    """a * b as a sum of two numbers."""
    product = mul(a, b)
    if form.fused:
        return product, fma(a, b, neg(product))
    a_high, a_low = _halves(form, a)
    b_high, b_low = _halves(form, b)
    rest = sub(mul(a_high, b_high), product)
    rest = add(add(rest, mul(a_high, b_low)), mul(a_low, b_high))
    return product, add(rest, mul(a_low, b_low))


def _halves(form: Form, a: Expr) -> tuple[Expr, Expr]:
    """a as a sum of two numbers of half the digits."""
    moved = mul(a, form.c(2.0 ** ((form.mantissa + 2) // 2) + 1.0))
    high = sub(moved, sub(moved, a))
    return high, sub(a, high)


def exact_sum(a: Expr, b: Expr) -> tuple[Expr, Expr]:
    """a + b as a sum of two numbers, where |a| >= |b|."""
    total = add(a, b)
    return total, sub(b, sub(total, a))


LOG2_E = 1 / math.log(2)

FORMS: dict[DType, Form] = {
    float32: Form(
        float32, int32, uint32, 23, 127,
        (0.693359375, -0.00021219444005469058), (-104.0, 89.0), -18.0, 20.0, 3.95,
        # (exp(r) - 1 - r) / r**2 on |r| <= ln 2 / 2: 2**-28.3
        (0.4999999403953552, 0.1666651964187622, 0.04166839271783829, 0.008368780836462975,
         0.0013814475387334824),
        # the same relative to expm1: 2**-26.2
        (0.4999999701976776, 0.1666654348373413, 0.04166720062494278, 0.008366580121219158,
         0.0013882507337257266),
        # -log(erfc(x)) / x on [0, 3.95], relative to erf: 2**-27.9
        (1.1283791711115176, 0.6366193954702001, 0.10277772694826126, -0.019152723252773285,
         -0.00016097478510346264, 0.0016675692750141025, -0.0006331176264211535,
         0.00011771637946367264, -9.26432494452456e-06),
        # (tanh(x) - x) / x**3 in x**2, |x| <= 0.6: 2**-28.4
        (-0.33333298563957214, 0.13331924378871918, -0.053783830255270004, 0.020795967429876328,
         -0.005895152222365141),
        # (sin(r) - r) / r**3 in r**2, |r| <= pi / 2: 2**-27.3
        (-0.16666659712791443, 0.00833306647837162, -0.0001980959059437737,
         2.605750751172309e-06),
        # (atan(t) - t) / t**3 in t**2, |t| <= 1: 2**-25.8
        (-0.33333152532577515, 0.19993773102760315, -0.14211055636405945, 0.10666005313396454,
         -0.07552214711904526, 0.04321186989545822, -0.01636793278157711,
         0.002920693252235651),
    ),
    float64: Form(
        float64, int64, uint64, 52, 1023,
        (0.6931471803691238, 1.9082149292705877e-10), (-746.0, 710.0), -38.0, 40.0, 6.0,
        # as above: 2**-64.0
        (0.5, 0.16666666666666682, 0.04166666666666609, 0.008333333333316921,
         0.001388888888911715, 0.00019841269896673215, 2.480158692474528e-05,
         2.7557234565416175e-06, 2.755758271535008e-07, 2.5112142464249076e-08,
         2.082655345576292e-09),
        # 2**-61.7
        (0.5, 0.16666666666666677, 0.041666666666666505, 0.008333333333321606,
         0.0013888888888962806, 0.00019841269886209018, 2.4801587172004417e-05,
         2.7557244103197536e-06, 2.7557402816754473e-07, 2.510908172304069e-08,
         2.0875363748327504e-09),
        # on [0, 6]: 2**-55.4
        (1.1283791670955126, 0.6366197723675906, 0.10277260330132826, -0.019128446993316627,
         -0.00020919485173120236, 0.0016962076560607365, -0.000590132370616272,
         2.590431531842641e-05, 6.442089673290295e-05, -2.9576412492807516e-05,
         3.170684586455038e-06, 3.1318806392062045e-06, -2.0362728974773955e-06,
         5.700143245093697e-07, -1.1374442641286767e-08, -6.587759435878983e-08,
         3.463432574206999e-08, -1.078675569278454e-08, 2.3633389162841814e-09,
         -3.7652339300925253e-10, 4.3070966462570554e-11, -3.368656547275009e-12,
         1.6170235433544496e-13, -3.5971865703356045e-15),
        # 2**-57.8
        (-0.33333333333333126, 0.13333333333299657, -0.05396825394929376, 0.021869488002526263,
         -0.008863226777059731, 0.0035920373766704047, -0.0014552153517706063,
         0.0005871883740601861, -0.00023039675448201607, 7.93138918223034e-05,
         -1.717869822695734e-05),
        # 2**-61.7
        (-0.16666666666666666, 0.008333333333333194, -0.00019841269841209183,
         2.7557319211130723e-06, -2.5052106872187012e-08, 1.605893967423442e-10,
         -7.642990647013398e-13, 2.7211659087256906e-15),
        # |t| <= tan(pi / 8): 2**-59.4
        (-0.333333333333332, 0.19999999999953205, -0.14285714280162135, 0.1111111078192461,
         -0.09090897718389314, 0.07692059591500498, -0.06663097731809009,
         0.058478482888196126, -0.05039139775405375, 0.03806082537656017,
         -0.017903571341276583),
    ),
}  # fmt: skip
