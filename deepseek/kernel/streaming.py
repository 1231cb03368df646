"""Which outputs a kernel should write past the caches.

In flow the types of what a kernel reads and writes; out flows the condition, over its sizes, under
which all of it together is more than caches hold. What was written is then gone before anybody
reads it, and fetching its lines before they are overwritten is a third of the traffic of a copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from deepseek.ir import scalar
from deepseek.ir.scalar import Expr
from deepseek.ir.shape import TensorType, exprs

CACHED_BYTES = 1 << 25  # what a last-level cache holds for one program, about


def streamed(types: Iterable[TensorType], lengths: Mapping[Expr, Expr]) -> Expr:
    """The condition; `lengths` are the run-time lengths a kernel takes, with their expressions.

    A kernel that takes a length serves many sizes: what has another size is left out of account.
    """
    total = scalar.ZERO
    for type_ in types:
        elements = scalar.product(exprs(type_.shape))
        if lengths:
            named = [length for length, size in lengths.items() if size is elements]
            elements = named[0] if named else scalar.ZERO
        total = scalar.add(total, scalar.mul(elements, scalar.const(type_.dtype.itemsize)))
    return scalar.call("le", scalar.const(CACHED_BYTES), total)
