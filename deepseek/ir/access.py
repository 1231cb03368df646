"""Where a node reads what: index maps composed through views.

Both fusion ("may these two share a loop?") and lowering ("what is this value at that index?") ask
the same question; it is answered here, by running the ops' scalar meanings on symbolic indices.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

from deepseek.ir import scalar
from deepseek.ir.graph import CONSTANT, Node, Value
from deepseek.ir.op import Kind, Op
from deepseek.ir.scalar import TRUE, Expr
from deepseek.ir.shape import Shape, TensorType, exprs

Index = tuple[Expr, ...]
Read = Callable[..., Expr]
_fresh = itertools.count()


class Access(NamedTuple):
    """`value` is read at `index` (in the reader's index variables) where `guard` holds."""

    value: Value
    index: Index  # type: ignore[assignment]  # a tuple has a method of that name
    guard: Expr


@functools.lru_cache(maxsize=1 << 12)
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


class ViewReads(NamedTuple):
    """What a view reads at an index: (input, index, guard) of each, and whether its value is just
    what it read last.
    """

    reads: tuple[tuple[int, Index, Expr], ...]
    plain: bool


def view_reads(node: Node, index: Index) -> ViewReads:
    """What a VIEW node reads at an index; remembered, since layers that are alike ask alike."""
    types = tuple([v.type for v in node.inputs])
    out = node.outputs[0].type
    if out.static and all([t.static for t in types]):  # else each trace has to leave its guards
        try:
            return _static_view_reads(node.op, types, out, tuple(node.attrs.items()), index)
        except TypeError:  # an attribute that cannot be hashed
            pass
    return _view_reads(node.op, types, out, tuple(node.attrs.items()), index)


def _view_reads(
    op: Op, types: tuple[TensorType, ...], out: TensorType, attrs: Any, index: Index
) -> ViewReads:
    assert op.meaning is not None
    reads: list[tuple[int, Index, Expr]] = []

    def read(k: int, position: Index, guard: Expr = TRUE) -> Expr:
        reads.append((k, tuple(position), guard))
        return scalar.var("?", types[k].dtype)

    result = op.meaning(index, read, list(types), out, **dict(attrs))
    return ViewReads(tuple(reads), result.fn == "var")


_static_view_reads = functools.lru_cache(maxsize=1 << 13)(_view_reads)


def accesses(node: Node, index: Index, inline: Callable[[Value], bool] = inlined) -> list[Access]:
    """Every stored value that a pointwise node reads at `index`, looking through inlined ones."""
    found: list[Access] = []
    seen: dict[Access, Expr | None] = {}  # what stands for a value where an index depends on it

    def value_at(access: Access) -> None:
        if access in seen:
            return
        seen[access] = None
        value, at, guard = access
        if inline(value) and value.node.op is not CONSTANT:
            visit(value.node, at, guard)
        else:
            found.append(access)

    def visit(n: Node, at: Index, outer: Expr) -> None:
        if n.op.kind is Kind.ELEMENTWISE:
            for value in n.inputs:
                value_at(Access(value, at, outer))
        elif n.op.kind is Kind.VIEW:
            for k, position, guard in view_reads(n, at).reads:
                value_at(Access(n.inputs[k], position, scalar.and_(outer, guard)))
        elif n.op.kind is not Kind.CREATE:

            def read(k: int, position: Index, guard: Expr = TRUE) -> Expr:
                access = Access(n.inputs[k], tuple(position), scalar.and_(outer, guard))
                value_at(access)
                stands = seen[access]
                if stands is None:
                    name = f"?{next(_fresh)}"
                    stands = seen[access] = scalar.var(name, access.value.type.dtype)
                return stands

            point_value(n, at, read)

    if node.op.kind.pointwise:
        visit(node, index, TRUE)
    else:
        for v in node.inputs:
            value_at(Access(v, axes_of(v.type.shape, "e"), TRUE))
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
    reads, plain = view_reads(node, index)
    if len(reads) != 1 or not plain:
        return False
    ((k, position, guard),) = reads
    if k or guard is not TRUE:
        return False
    same_count = scalar.as_expr(source.numel) is scalar.as_expr(out.numel)
    return same_count and linear(position, source.shape) is linear(index, out.shape)


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
