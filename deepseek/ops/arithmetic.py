"""Further arithmetic: divisions by rounding mode, NaN-skipping extremes, interpolation, divisors.

What is a scalar function of floats is elementwise here; the rest are composites. PyTorch's names
where the array API has none.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import float64
from deepseek.ir.op import Sample
from deepseek.ir.scalar import Expr, call, const
from deepseek.ops.control import while_loop
from deepseek.ops.define import (
    FLOATS,
    INTEGERS,
    as_tensor,
    broadcasted,
    composite,
    converted,
    elementwise,
    elementwise_samples,
    promoted,
)
from deepseek.ops.elementwise import (
    abs,
    divide,
    floor_divide,
    multiply,
    pow_,
    remainder,
    subtract,
    where,
)
from deepseek.ops.methods import method
from deepseek.ops.scalar_forms import (
    both,
    equal,
    function,
    is_nan,
    larger,
    less,
    number,
    size,
    smaller,
)
from deepseek.ops.scalar_forms import where as choose
from deepseek.ops.transcendental import trunc

__all__ = [
    "addcdiv", "addcmul", "div", "float_power", "fmax", "fmin", "fmod", "gcd", "heaviside", "lcm",
    "lerp",
]  # fmt: skip

EDGES = np.array([-np.inf, -2.5, -0.0, 0.0, 0.5, 7.0, np.inf, np.nan], np.float32)
_modulo = function("mod")


def edge_pairs(domain: tuple[float, float] = (-2.0, 2.0)) -> list[Sample]:
    """The plain samples of two arguments, and all pairs of infinities, NaN and signed zeros."""
    return [*elementwise_samples(2, domain), Sample((EDGES, EDGES.reshape((-1, 1))))]


# ----------------------------------------------------------------------------------------- division


def _fmod_reference(a: Any, b: Any) -> Any:
    if a.dtype.kind == "f":
        return np.fmod(a, b)
    return np.where(b == 0, 0, np.fmod(a, np.where(b == 0, 1, b)))


@elementwise(
    reference=_fmod_reference, method="fmod", samples=lambda: edge_pairs((0.5, 9.0)),
    vjp=lambda g, y, a, b: (g, -g * trunc(a / b)),
)  # fmt: skip
def fmod(a: Expr, b: Expr) -> Expr:
    """What division rounded towards 0 leaves: 0 or of the sign of a, exact.

    Integers modulo zero give 0.

    >>> ds.fmod(ds.asarray([5.5, -5.5]), 2)
    tensor([ 1.5, -1.5])
    """
    if a.dtype.kind == "u":
        return _modulo(a, b)
    rest = _modulo(a, b)
    # The remainder has the sign of b: it moves by b where that of a is another one.
    apart = both(call("ne", rest, const(0, a.dtype)), call("ne", less(rest, 0), less(a, 0)))
    if a.dtype.is_integer:
        return choose(apart, call("sub", rest, b), rest)
    rest = _modulo(size(a), size(b))
    return choose(less(a, 0), call("neg", rest), rest)


@method("div")
def div(a: Tensor | float, b: Tensor | float, /, *, rounding_mode: str | None = None) -> Tensor:
    """a / b: exact, rounded towards 0 ("trunc") or down ("floor").

    Raises ArgumentError for other modes.

    >>> ds.div(ds.asarray([-7.0]), 2, rounding_mode="trunc")
    tensor([-3.])
    """
    if rounding_mode is None:
        return divide(a, b)
    if rounding_mode == "floor":
        return floor_divide(a, b)
    if rounding_mode != "trunc":
        raise op_error(
            ArgumentError, "div", f"rounding_mode={rounding_mode!r}", "None, 'trunc' or 'floor'",
            user_line(),
        )  # fmt: skip
    a, b = promoted("div", (a, b), INTEGERS + FLOATS)
    if a.dtype.is_float:
        return trunc(divide(a, b))
    return floor_divide(subtract(a, fmod(a, b)), b)


# ----------------------------------------------------------------------------------------- extremes


def _fmax_vjp(g: Tensor, y: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    from_a = (y == a) | (b != b)
    return where(from_a, g, 0), where(from_a, 0, g)


@elementwise(reference=np.fmax, vjp=_fmax_vjp, method="fmax", samples=edge_pairs)
def fmax(a: Expr, b: Expr) -> Expr:
    """The larger of two; the other one where one is NaN.

    >>> ds.fmax(ds.asarray([1.0, np.nan]), ds.asarray([2.0, 3.0]))
    tensor([2., 3.])
    """
    return choose(is_nan(a), b, choose(is_nan(b), a, larger(a, b)))


@elementwise(reference=np.fmin, vjp=_fmax_vjp, method="fmin", samples=edge_pairs)
def fmin(a: Expr, b: Expr) -> Expr:
    """The smaller of two; the other one where one is NaN.

    >>> ds.fmin(ds.asarray([1.0, np.nan]), ds.asarray([2.0, 3.0]))
    tensor([1., 3.])
    """
    return choose(is_nan(a), b, choose(is_nan(b), a, smaller(a, b)))


@elementwise(reference=np.heaviside, takes=FLOATS, method="heaviside", samples=edge_pairs)
def heaviside(x: Expr, values: Expr) -> Expr:
    """0 below 0, 1 above, `values` at 0; NaN for NaN.

    >>> ds.heaviside(ds.asarray([-1.0, 0.0, 2.0]), 0.5)
    tensor([0. , 0.5, 1. ])
    """
    step = choose(less(x, 0), number(0, x), 1)
    return choose(is_nan(x), x, choose(equal(x, 0), values, step))


# ------------------------------------------------------------------------------------ interpolation


@composite(
    reference=lambda start, end, weight: start + weight * (end - start),
    samples=lambda: [
        Sample(((3, 37), (3, 37), (3, 37))),
        Sample(((2, 3, 5), (5,), 0.75)),
        Sample(((0, 3), (0, 3), 0.25)),
    ],
    tolerance=16,
    method="lerp",
)
def lerp(start: Tensor, end: Tensor, weight: Tensor | float) -> Tensor:
    """start + weight * (end - start), which is `end` itself for weight 1.

    >>> ds.lerp(ds.asarray([0.0, 4.0]), ds.asarray([8.0, 8.0]), 0.25)
    tensor([2., 5.])
    """
    start, end = promoted("lerp", (start, end), FLOATS)
    gap = end - start
    near: Tensor = start + weight * gap
    far: Tensor = end - (1 - weight) * gap
    if not isinstance(weight, Tensor):
        return near if weight < 0.5 else far
    return where(abs(weight) < 0.5, near, far)


def _three() -> list[Sample]:
    return [
        Sample(((3, 37),) * 3, low=0.5, high=2.0),
        Sample(((2, 3, 5), (5,), (3, 1)), {"value": 0.5}, low=0.5, high=2.0),
        Sample(((0, 3),) * 3),
    ]


@composite(
    reference=lambda input, tensor1, tensor2, value: input + value * tensor1 * tensor2,
    samples=_three,
    method="addcmul",
)
def addcmul(
    input: Tensor,
    tensor1: Tensor,
    tensor2: Tensor,
    *,
    value: float = 1,  # noqa: A002
) -> Tensor:
    """input + value * tensor1 * tensor2.

    >>> ds.addcmul(ds.asarray([1.0]), ds.asarray([2.0]), ds.asarray([3.0]), value=0.5)
    tensor([4.])
    """
    product = multiply(tensor1, tensor2)
    return input + (product if value == 1 else product * value)


@composite(
    reference=lambda input, tensor1, tensor2, value: input + value * tensor1 / tensor2,
    samples=_three,
    method="addcdiv",
)
def addcdiv(
    input: Tensor,
    tensor1: Tensor,
    tensor2: Tensor,
    *,
    value: float = 1,  # noqa: A002
) -> Tensor:
    """input + value * tensor1 / tensor2.

    >>> ds.addcdiv(ds.asarray([1.0]), ds.asarray([3.0]), ds.asarray([2.0]), value=2)
    tensor([4.])
    """
    ratio = divide(tensor1, tensor2)
    return input + (ratio if value == 1 else ratio * value)


@method("float_power")
def float_power(a: Tensor | float, b: Tensor | float, /) -> Tensor:
    """a to the power b in float64.

    >>> ds.float_power(ds.asarray([2, 3]), -1)
    tensor([0.5       , 0.33333333], dtype=float64)
    """
    base, exponent = (as_tensor(v, "float_power") for v in (a, b))
    return pow_(converted(base, float64), converted(exponent, float64))


# ----------------------------------------------------------------------------------------- integers


def _integer_pairs() -> list[Sample]:
    a = np.array([0, 12, -18, 7, 0, 2**31 - 1, -(2**31)], np.int32)
    b = np.array([0, 18, 12, -3, 5, 3, 6], np.int32)
    return [Sample(((3, 7), (3, 7))), Sample(((2, 3, 1), (5,))), Sample((a, b)), Sample(((0,), ()))]


@composite(
    reference=lambda a, b: np.gcd(a, b), samples=_integer_pairs, takes=INTEGERS, method="gcd"
)
def gcd(a: Tensor, b: Tensor) -> Tensor:
    """The greatest common divisor of integers, by Euclid's algorithm; of two zeros 0.

    >>> ds.gcd(ds.asarray([12, 0]), ds.asarray([18, 5]))
    tensor([6, 5])
    """
    a, b = broadcasted("gcd", promoted("gcd", (a, b), INTEGERS))

    def step(state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        high, low = state
        return where(low == 0, high, low), remainder(high, low)

    found, _ = while_loop(lambda state: (state[1] != 0).any(), step, (abs(a), abs(b)))
    out: Tensor = found
    return out


@composite(
    reference=lambda a, b: np.lcm(a, b), samples=_integer_pairs, takes=INTEGERS, method="lcm"
)
def lcm(a: Tensor, b: Tensor) -> Tensor:
    """The least common multiple of integers; 0 where one of them is 0.

    >>> ds.lcm(ds.asarray([4, 0]), ds.asarray([6, 5]))
    tensor([12,  0])
    """
    a, b = promoted("lcm", (a, b), INTEGERS)
    return abs(multiply(floor_divide(abs(a), gcd(a, b)), b))
