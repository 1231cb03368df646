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
    """a == b; false where either is NaN.

    >>> ds.equal(ds.asarray([1, 2]), ds.asarray([1, 3]))
    tensor([ True, False])
    """
    return call("eq", a, b)


@elementwise(takes=ALL, reference=np.not_equal, method=("__ne__", "not_equal"))
def not_equal(a: Expr, b: Expr) -> Expr:
    """a != b; true where either is NaN.

    >>> ds.not_equal(ds.asarray([1.0, np.nan]), ds.asarray([1.0, np.nan]))
    tensor([False,  True])
    """
    return call("ne", a, b)


@elementwise(takes=ALL, reference=np.less, method=("__lt__", "less"), onnx="Less")
def less(a: Expr, b: Expr) -> Expr:
    """a < b.

    >>> ds.less(ds.asarray([1, 2, 3]), 2)
    tensor([ True, False, False])
    """
    return call("lt", a, b)


@elementwise(
    takes=ALL, reference=np.less_equal, method=("__le__", "less_equal"), onnx="LessOrEqual"
)
def less_equal(a: Expr, b: Expr) -> Expr:
    """a <= b.

    >>> ds.less_equal(ds.asarray([1, 2, 3]), 2)
    tensor([ True,  True, False])
    """
    return call("le", a, b)


@elementwise(takes=ALL, reference=np.greater, method=("__gt__", "greater"), onnx="Greater")
def greater(a: Expr, b: Expr) -> Expr:
    """a > b.

    >>> ds.greater(ds.asarray([1, 2, 3]), 2)
    tensor([False, False,  True])
    """
    return call("lt", b, a)


@elementwise(
    takes=ALL, reference=np.greater_equal, method=("__ge__", "greater_equal"), onnx="GreaterOrEqual"
)
def greater_equal(a: Expr, b: Expr) -> Expr:
    """a >= b.

    >>> ds.greater_equal(ds.asarray([1, 2, 3]), 2)
    tensor([False,  True,  True])
    """
    return call("le", b, a)
