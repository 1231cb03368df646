"""Where a node reads what: index maps composed through views.

Both fusion ("may these two share a loop?") and lowering ("what is this value at that index?") ask
the same question; it is answered here, by running the ops' scalar meanings on symbolic indices.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deepseek.ir import scalar
from deepseek.ir.graph import CONSTANT, Node, Value
from deepseek.ir.op import Kind
from deepseek.ir.scalar import TRUE, Expr
from deepseek.ir.shape import Shape, TensorType, exprs

Index = tuple[Expr, ...]
Read = Callable[..., Expr]
_fresh = itertools.count()


@dataclass(frozen=True)
class Access:
    """`value` is read at `index` (in the reader's index variables) where `guard` holds."""

    value: Value
    index: Index
    guard: Expr


def axes_of(shape: Shape, prefix: str = "d") -> Index:
    """One index variable per axis; an axis of size 1 has the constant index 0."""
    sizes = exprs(shape)
    return tuple(
        scalar.ZERO if size is scalar.ONE else scalar.var(f"{prefix}{i}", low=0, extent=size)
        for i, size in enumerate(sizes)
    )


def linear(index: Index, shape: Shape) -> Expr:
    """The row-major offset of an index, in elements."""
    offset = scalar.ZERO
    for position, size in zip(index, exprs(shape), strict=True):
        offset = scalar.add(scalar.mul(offset, size), position)
    return offset


def point_value(node: Node, index: Index, read: Read, dtype_of: Any = None) -> Expr:
    """The scalar a pointwise node computes at an index; `read(k, index, guard)` is input k."""
    op = node.op
    assert op.meaning is not None
    if op.kind is Kind.ELEMENTWISE:
        operands = [read(k, index, TRUE) for k in range(len(node.inputs))]
        result: Expr = op.meaning(*operands, **node.attrs)
        return result
    out = node.outputs[0].type
    if op.kind is Kind.CREATE:
        result = op.meaning(index, out, **node.attrs)
        return result
    types = [v.type for v in node.inputs]
    result = op.meaning(index, read, types, out, **node.attrs)
    return result


def inlined(value: Value) -> bool:
    """Whether a value is recomputed where it is read instead of being stored.

    Views and created values cost nothing; what has one element is computed outside the loops.
    """
    kind = value.node.op.kind
    if kind in (Kind.VIEW, Kind.CREATE):
        return True
    if value.node.op is CONSTANT:
        return value.type.numel == 1
    return kind is Kind.ELEMENTWISE and value.type.numel == 1


def accesses(node: Node, index: Index, inline: Callable[[Value], bool] = inlined) -> list[Access]:
    """Every stored value that a pointwise node reads at `index`, looking through inlined ones."""
    found: list[Access] = []
    memo: dict[tuple[Value, Index, Expr], Expr] = {}

    def value_at(value: Value, at: Index, guard: Expr) -> Expr:
        key = (value, at, guard)
        if key not in memo:
            memo[key] = scalar.var(f"?{next(_fresh)}", value.type.dtype)
            if inline(value) and value.node.op is not CONSTANT:
                visit(value.node, at, guard)
            else:
                found.append(Access(value, at, guard))
        return memo[key]

    def visit(n: Node, at: Index, outer: Expr) -> Expr:
        def read(k: int, position: Index, guard: Expr = TRUE) -> Expr:
            return value_at(n.inputs[k], tuple(position), scalar.and_(outer, guard))

        return point_value(n, at, read)

    if node.op.kind.pointwise:
        visit(node, index, TRUE)
    else:
        for v in node.inputs:
            value_at(v, axes_of(v.type.shape, "e"), TRUE)
    return found


def read_at(value: Value, index: Index) -> list[Access]:
    """Every stored value behind one (perhaps inlined) value read at `index`."""
    if not inlined(value) or value.node.op is CONSTANT:
        return [Access(value, index, TRUE)]
    return accesses(value.node, index)


def is_alias(node: Node) -> bool:
    """Whether a view reads its first input only, and has its elements in the same row-major order.
    """
    if node.op.kind is not Kind.VIEW or not node.inputs:
        return False
    source, out = node.inputs[0].type, node.outputs[0].type
    index = axes_of(out.shape)
    reads: list[tuple[Index, Expr]] = []

    def read(k: int, position: Index, guard: Expr = TRUE) -> Expr:
        reads.append((tuple(position), guard if k == 0 else scalar.FALSE))
        return scalar.var("?", source.dtype)

    result = point_value(node, index, read)
    if len(reads) != 1 or result.fn != "var" or reads[0][1] is not TRUE:
        return False
    same_count = scalar.as_expr(source.numel) is scalar.as_expr(out.numel)
    return same_count and linear(reads[0][0], source.shape) is linear(index, out.shape)


def is_late(node: Node) -> bool:
    """Whether a node is its first input, but not before the others are there."""
    return len(node.inputs) > 1 and is_alias(node)


def row_index(domain: Index, folded: tuple[int, ...]) -> Index:
    """The index of a reduction's result, in its domain's variables."""
    return tuple(x for i, x in enumerate(domain) if i not in folded)


def row_position(
    type_: TensorType, domain_shape: Shape, domain: Index, folded: tuple[int, ...]
) -> Index | None:
    """Where a value of the kept shape, perhaps with more axes of size 1, is computed, or None."""
    kept = [
        (s, x)
        for i, (s, x) in enumerate(zip(exprs(domain_shape), domain, strict=True))
        if i not in folded and s is not scalar.ONE
    ]
    index: list[Expr] = []
    for size in exprs(type_.shape):
        if size is scalar.ONE:
            index.append(scalar.ZERO)
            continue
        if not kept or kept[0][0] is not size:
            return None
        index.append(kept.pop(0)[1])
    return tuple(index) if not kept else None
