"""Functions of bits, element by element: integers in, and truth values where they have a meaning.

Arguments promote and broadcast as in `elementwise`. Negative numbers are in two's complement.
"""

from __future__ import annotations

import numpy as np

from deepseek.ir import scalar
from deepseek.ir.scalar import Expr, call, const
from deepseek.ops.define import BOOLEAN, INTEGERS, elementwise

__all__ = [
    "bitwise_and", "bitwise_invert", "bitwise_left_shift", "bitwise_or", "bitwise_right_shift",
    "bitwise_xor",
]  # fmt: skip


@elementwise(
    takes=BOOLEAN + INTEGERS, reference=np.bitwise_and,
    method=("__and__", "__rand__", "bitwise_and"),
)  # fmt: skip
def bitwise_and(a: Expr, b: Expr) -> Expr:
    """a & b, bit by bit.

    >>> ds.bitwise_and(ds.asarray([12, 7]), 10)
    tensor([8, 2])
    """
    return call("bitand", a, b)


@elementwise(
    takes=BOOLEAN + INTEGERS, reference=np.bitwise_or, method=("__or__", "__ror__", "bitwise_or")
)
def bitwise_or(a: Expr, b: Expr) -> Expr:
    """a | b, bit by bit.

    >>> ds.bitwise_or(ds.asarray([12, 7]), 10)
    tensor([14, 15])
    """
    return call("bitor", a, b)


@elementwise(
    takes=BOOLEAN + INTEGERS, reference=np.bitwise_xor,
    method=("__xor__", "__rxor__", "bitwise_xor"),
)  # fmt: skip
def bitwise_xor(a: Expr, b: Expr) -> Expr:
    """a ^ b, bit by bit.

    >>> ds.bitwise_xor(ds.asarray([12, 7]), 10)
    tensor([ 6, 13])
    """
    return call("bitxor", a, b)


@elementwise(
    takes=BOOLEAN + INTEGERS, reference=np.bitwise_not, method=("__invert__", "bitwise_invert")
)
def bitwise_invert(x: Expr) -> Expr:
    """~x, bit by bit.

    >>> ds.bitwise_invert(ds.asarray([0, 7])), ds.bitwise_invert(ds.asarray([True]))
    (tensor([-1, -8]), tensor([False]))
    """
    if x.dtype.is_bool:
        return scalar.not_(x)
    return call("bitxor", x, const(-1, x.dtype))


@elementwise(
    takes=INTEGERS, reference=np.left_shift, domain=(0, 6),
    method=("__lshift__", "__rlshift__", "bitwise_left_shift"),
)  # fmt: skip
def bitwise_left_shift(a: Expr, b: Expr) -> Expr:
    """a * 2**b, wrapping; 0 <= b < bits.

    >>> ds.bitwise_left_shift(ds.asarray([1, 3]), 2)
    tensor([ 4, 12])
    """
    return call("shl", a, b)


@elementwise(
    takes=INTEGERS, reference=np.right_shift, domain=(0, 6),
    method=("__rshift__", "__rrshift__", "bitwise_right_shift"),
)  # fmt: skip
def bitwise_right_shift(a: Expr, b: Expr) -> Expr:
    """floor(a / 2**b); 0 <= b < bits.

    >>> ds.bitwise_right_shift(ds.asarray([5, -5]), 1)
    tensor([ 2, -3])
    """
    return call("shr", a, b)
