"""How scalar functions that work on bits are written in ONNX, which has none of those of floats."""

from __future__ import annotations

import math
from typing import Any

from deepseek.ir.dtype import DType, bool_
from deepseek.ir.graph import Node
from deepseek.ops.forms import Form, form, types_of


def of_floats(operator: str) -> Form:
    """The operator, for floats; others are written by their meaning."""

    @form(operator)
    def write(b: Any, node: Node, x: str) -> Any:
        return b.node(operator, x) if types_of(node)[0].dtype.is_float else None

    return write


def of_truths(operator: str) -> Form:
    """The operator, for truth values; others are written by their meaning."""

    @form(operator)
    def write(b: Any, node: Node, *inputs: str) -> Any:
        plain = types_of(node)[0].dtype is bool_
        return b.node(operator, *b.operands(node, inputs)) if plain else None

    return write


def logarithm(base: float) -> Form:
    """The natural logarithm over that of the base."""

    @form("Log")
    def write(b: Any, node: Node, x: str) -> Any:
        return b.node("Div", b.node("Log", x), b.number(math.log(base), types_of(node)[0].dtype))

    return write


def _negative(b: Any, x: str, dtype: DType) -> Any:
    """Whether x is below 0, or -0.0."""
    zero, one = b.number(0, dtype), b.number(1, dtype)
    nothing = b.node("Equal", x, zero)
    return b.node("Less", b.node("Where", nothing, b.node("Div", one, x), x), zero)


@form("Less")
def signbit(b: Any, node: Node, x: str) -> Any:
    return _negative(b, x, types_of(node)[0].dtype)


@form("Where")
def copysign(b: Any, node: Node, x: str, sign: str) -> Any:
    x, sign = b.operands(node, (x, sign))
    size = b.node("Abs", x)
    return b.node("Where", _negative(b, sign, types_of(node)[1].dtype), b.node("Neg", size), size)


@form("Pow")
def power_of_two(b: Any, node: Node, x: str) -> Any:
    return b.node("Pow", b.number(2, types_of(node)[0].dtype), x)
