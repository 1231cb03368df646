"""Comparisons, element by element: numbers of any two dtypes in, truth values out.

Arguments promote and broadcast as in `elementwise`; nothing is equal to NaN, above it or below it.
"""

from __future__ import annotations

import numpy as np

from deepseek.ir.scalar import Expr, call
from deepseek.ops.define import ALL, elementwise

__all__ = ["equal", "greater", "greater_equal", "less", "less_equal", "not_equal"]


@elementwise(takes=ALL, reference=np.equal, method=("__eq__", "equal"), onnx="Equal")
def equal(a: Expr, b: Expr) -> Expr:
    """a == b."""
    return call("eq", a, b)


@elementwise(takes=ALL, reference=np.not_equal, method=("__ne__", "not_equal"))
def not_equal(a: Expr, b: Expr) -> Expr:
    """a != b; true where either is NaN."""
    return call("ne", a, b)


@elementwise(takes=ALL, reference=np.less, method=("__lt__", "less"), onnx="Less")
def less(a: Expr, b: Expr) -> Expr:
    """a < b."""
    return call("lt", a, b)


@elementwise(
    takes=ALL, reference=np.less_equal, method=("__le__", "less_equal"), onnx="LessOrEqual"
)
def less_equal(a: Expr, b: Expr) -> Expr:
    """a <= b."""
    return call("le", a, b)


@elementwise(takes=ALL, reference=np.greater, method=("__gt__", "greater"), onnx="Greater")
def greater(a: Expr, b: Expr) -> Expr:
    """a > b."""
    return call("lt", b, a)


@elementwise(
    takes=ALL, reference=np.greater_equal, method=("__ge__", "greater_equal"), onnx="GreaterOrEqual"
)
def greater_equal(a: Expr, b: Expr) -> Expr:
    """a >= b."""
    return call("le", b, a)
