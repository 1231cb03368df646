"""Scalar functions as ONNX operators: the names of those there are, and a few nodes for the others.

Each function of SPECIAL takes the exporter's builder, the dtype of its arguments and their names,
and gives the name of the result. Meanings are those of `ir.expr.FUNCTIONS`, zero divisors and all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from deepseek.ir.dtype import DType, bool_, int64, uint64
from deepseek.ir.scalar import Expr, walk
from deepseek.onnx.versions import OPSETS, first

DIRECT = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "abs": "Abs", "exp": "Exp",
    "log": "Log", "sqrt": "Sqrt", "sin": "Sin", "cos": "Cos", "tanh": "Tanh", "atan": "Atan",
    "erf": "Erf", "pow": "Pow", "floor": "Floor", "ceil": "Ceil", "round": "Round",
    "eq": "Equal", "where": "Where",
}  # fmt: skip
"""Scalar functions that are ONNX operators."""


LATER = {"bitcast": "BitCast"}
"""Scalar functions that the builder writes with operators that came late."""


def since_of(meaning: Expr) -> int:
    """The opset from which a scalar expression can be said."""
    needed = [first(LATER[part.fn]) for part in walk([meaning]) if part.fn in LATER]
    return max((n for n in needed if n is not None), default=OPSETS.start)


def _neg(b: Any, dtype: DType, x: str) -> str:
    if dtype.kind == "u":
        return str(b.node("Sub", b.number(0, dtype), x))
    return str(b.node("Neg", x))


def _not_equal(b: Any, dtype: DType, x: str, y: str) -> str:
    return str(b.node("Not", b.node("Equal", x, y)))


# Truth values have an order in the grammar and none in ONNX.


def _less(b: Any, dtype: DType, x: str, y: str) -> str:
    if dtype is bool_:
        return str(b.node("And", b.node("Not", x), y))
    return str(b.node("Less", x, y))


def _less_equal(b: Any, dtype: DType, x: str, y: str) -> str:
    if dtype is bool_:
        return str(b.node("Or", b.node("Not", x), y))
    return str(b.node("LessOrEqual", x, y))


def _extreme(operator: str, better: str) -> Callable[..., str]:
    def form(b: Any, dtype: DType, x: str, y: str) -> str:
        if dtype.is_integer and dtype.bits == 64:  # as in ops.forms.of_32_bits
            return str(b.node("Where", b.node(better, x, y), x, y))
        return str(b.node(operator, x, y))

    return form


def _bits(logical: str) -> Callable[..., str]:
    def form(b: Any, dtype: DType, x: str, y: str) -> str:
        return str(b.node(logical if dtype is bool_ else f"Bitwise{logical}", x, y))

    return form


def _checked(b: Any, dtype: DType, y: str) -> tuple[str | None, str, str]:
    """(where the divisor is 0 if it may be, 0, a divisor that is not)."""
    zero = b.number(0, dtype)
    if y in b.known and b.known[y].all():
        return None, zero, y
    none = b.node("Equal", y, zero)
    return none, zero, b.node("Where", none, b.number(1, dtype), y)


def _float_rest(b: Any, dtype: DType, x: str, y: str) -> tuple[str, str]:
    """The remainder with x's sign, exact, and whether it has to move up by y to have y's."""
    rest, zero = b.node("Mod", x, y, fmod=1), b.number(0, dtype)
    signs = b.node("Xor", b.node("Less", rest, zero), b.node("Less", y, zero))
    return rest, b.node("And", signs, b.node("Not", b.node("Equal", rest, zero)))


def _mod(b: Any, dtype: DType, x: str, y: str) -> str:
    if dtype.is_float:
        rest, below = _float_rest(b, dtype, x, y)
        return str(b.node("Where", below, b.node("Add", rest, y), rest))
    none, zero, divisor = _checked(b, dtype, y)
    rest = b.node("Mod", x, divisor)
    return str(rest if none is None else b.node("Where", none, zero, rest))


def _floordiv(b: Any, dtype: DType, x: str, y: str) -> str:
    if dtype.is_float:
        rest, below = _float_rest(b, dtype, x, y)
        whole = b.node("Round", b.node("Div", b.node("Sub", x, rest), y))
        quotient = b.node("Where", below, b.node("Sub", whole, b.number(1, dtype)), whole)
        by_zero = b.node("Equal", y, b.number(0, dtype))
        return str(b.node("Where", by_zero, b.node("Div", x, y), quotient))
    none, zero, divisor = _checked(b, dtype, y)
    # ONNX rounds towards zero; what the remainder takes off leaves a whole multiple.
    whole = b.node("Sub", x, b.node("Mod", x, divisor))
    quotient = b.node("Div", whole, divisor)
    return str(quotient if none is None else b.node("Where", none, zero, quotient))


def _shift(direction: str) -> Callable[..., str]:
    """In 64 bits, where all runtimes can; left the upper ones fall off at the end."""

    def form(b: Any, dtype: DType, x: str, y: str) -> str:
        signed = dtype.kind == "i"
        wide, by = b.cast(x, int64 if signed else uint64), b.cast(b.cast(y, int64), uint64)

        def moved(value: str) -> str:
            return str(b.node("BitShift", b.cast(value, uint64), by, direction=direction))

        if not signed or direction == "LEFT":
            return str(b.cast(moved(wide), dtype))
        ones = b.number(-1, int64)  # they come in where the sign is set
        turned = b.node("Sub", ones, b.cast(moved(b.node("Sub", ones, wide)), int64))
        below = b.node("Less", wide, b.number(0, int64))
        return str(b.cast(b.node("Where", below, turned, b.cast(moved(wide), int64)), dtype))

    return form


def _fma(b: Any, dtype: DType, x: str, y: str, z: str) -> str:
    return str(b.node("Add", b.node("Mul", x, y), z))


def _expm1(b: Any, dtype: DType, x: str) -> str:
    # tanh(x/2) * (exp(x) + 1) keeps its digits near 0, where exp(x) - 1 loses them.
    half = b.node("Tanh", b.node("Mul", x, b.number(0.5, dtype)))
    return str(b.node("Mul", half, b.node("Add", b.node("Exp", x), b.number(1, dtype))))


def _log1p(b: Any, dtype: DType, x: str) -> str:
    # Scaled by how much of x the sum kept, so that no digits are lost near 0.
    one = b.number(1, dtype)
    total = b.node("Add", one, x)
    kept = b.node("Sub", total, one)
    some = b.node("Not", b.node("Equal", kept, b.number(0, dtype)))
    finite = b.node("And", some, b.node("Less", total, b.number(np.inf, dtype)))
    share = b.node("Div", x, b.node("Where", finite, kept, one))
    scaled = b.node("Mul", b.node("Log", total), share)
    return str(b.node("Where", finite, scaled, b.node("Where", some, total, x)))


def _trunc(b: Any, dtype: DType, x: str) -> str:
    return str(b.node("Mul", b.node("Sign", x), b.node("Floor", b.node("Abs", x))))


SPECIAL: dict[str, Callable[..., str]] = {
    "neg": _neg, "ne": _not_equal, "lt": _less, "le": _less_equal, "mod": _mod,
    "floordiv": _floordiv, "bitand": _bits("And"), "bitor": _bits("Or"), "bitxor": _bits("Xor"),
    "shl": _shift("LEFT"), "shr": _shift("RIGHT"), "fma": _fma, "expm1": _expm1,
    "log1p": _log1p, "trunc": _trunc, "minimum": _extreme("Min", "Less"),
    "maximum": _extreme("Max", "Greater"),
}  # fmt: skip
