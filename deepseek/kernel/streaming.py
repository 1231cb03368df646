"""Which outputs a kernel should write past the caches.

In flow the types of what a kernel reads and writes; out flows the condition, over its sizes, under
which all of it together is more than caches hold. What was written is then gone before anybody
reads it, and fetching its lines before they are overwritten is a third of the traffic of a copy.
Small outputs, as a reduction's, stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from deepseek.ir import scalar
from deepseek.ir.scalar import Expr
from deepseek.ir.shape import TensorType, exprs

CACHED_BYTES = 1 << 25  # what a last-level cache holds for one program, about
HEAVY = 64  # instructions for an element that take longer than any way of writing it


def streamed(
    types: Iterable[TensorType], output: TensorType, lengths: Mapping[Expr, Expr]
) -> Expr:
    """The condition for an output of a kernel that touches values of these types.

    `lengths` are the run-time lengths the kernel takes, with their expressions. Such a kernel
    serves many sizes: what has another size is left out of account.
    """
    total = scalar.ZERO
    for type_ in types:
        total = scalar.add(total, _bytes(type_, lengths))
    whole = scalar.call("le", scalar.const(CACHED_BYTES), total)
    part = scalar.call("le", scalar.const(CACHED_BYTES // 16), _bytes(output, lengths))
    return scalar.and_(whole, part)


def _bytes(type_: TensorType, lengths: Mapping[Expr, Expr]) -> Expr:
    elements = scalar.product(exprs(type_.shape))
    if lengths:
        named = [length for length, size in lengths.items() if size is elements]
        elements = named[0] if named else scalar.ZERO
    return scalar.mul(elements, scalar.const(type_.dtype.itemsize))
