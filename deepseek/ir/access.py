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

# Named here, since these are asked for very often and looking into an Enum takes a while.
ELEMENTWISE, VIEW, CREATE = Kind.ELEMENTWISE, Kind.VIEW, Kind.CREATE

Index = tuple[Expr, ...]
Types = tuple[TensorType, ...]
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
    if kind is VIEW or kind is CREATE:
        return True
    return value.type.numel == 1 and (kind is ELEMENTWISE or value.node.op is CONSTANT)


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


def _view_reads(op: Op, types: Types, out: TensorType, attrs: Any, index: Index) -> ViewReads:
    assert op.meaning is not None
    reads: list[tuple[int, Index, Expr]] = []

    def read(k: int, position: Index, guard: Expr = TRUE) -> Expr:
        reads.append((k, tuple(position), guard))
        return scalar.var("?", types[k].dtype)

    result = op.meaning(index, read, list(types), out, **dict(attrs))
    return ViewReads(tuple(reads), result.fn == "var")


_static_view_reads = functools.lru_cache(maxsize=1 << 13)(_view_reads)


Behind = dict[tuple[Value, Index], list[Access]]


def accesses(
    node: Node,
    index: Index,
    inline: Callable[[Value], bool] = inlined,
    behind: Behind | None = None,
) -> list[Access]:
    """Every stored value that a pointwise node reads at `index`, looking through inlined ones.

    `behind` remembers what is behind those, for callers that ask about many nodes of one graph.
    """
    return _Accesses(inline, {} if behind is None else behind).of(node, index)


class _Accesses:
    """One walk from a node through what is inlined."""

    def __init__(self, inline: Callable[[Value], bool], behind: Behind) -> None:
        self.inline = inline
        self.behind = behind
        self.found: list[Access] = []
        self.seen: set[Access] = set()
        self.stands: dict[Access, Expr] = {}  # for a value that an index depends on

    def of(self, node: Node, index: Index) -> list[Access]:
        if node.op.kind.pointwise:
            self.visit(node, index, TRUE)
        else:
            for v in node.inputs:
                self.read(Access(v, axes_of(v.type.shape, "e"), TRUE))
        return self.found

    def read(self, access: Access) -> None:
        if access in self.seen:
            return
        self.seen.add(access)
        value, at, guard = access
        if not self.inline(value) or value.node.op is CONSTANT:
            self.found.append(access)
        elif guard is TRUE:
            for further in self.known_behind(value, at):
                if further not in self.seen:
                    self.seen.add(further)
                    self.found.append(further)
        else:
            self.visit(value.node, at, guard)

    def known_behind(self, value: Value, at: Index) -> list[Access]:
        known = self.behind.get((value, at))
        if known is None:
            walk = _Accesses(self.inline, self.behind)
            known = walk.of(value.node, at)
            if not walk.stands:  # else the index is another one for each reader
                self.behind[value, at] = known
            self.stands.update(walk.stands)
        return known

    def visit(self, node: Node, at: Index, outer: Expr) -> None:
        kind = node.op.kind
        if kind is ELEMENTWISE:
            for value in node.inputs:
                self.read(Access(value, at, outer))
        elif kind is VIEW:
            for k, position, guard in view_reads(node, at).reads:
                self.read(Access(node.inputs[k], position, scalar.and_(outer, guard)))
        elif kind is not CREATE:

            def read(k: int, position: Index, guard: Expr = TRUE) -> Expr:
                access = Access(node.inputs[k], tuple(position), scalar.and_(outer, guard))
                self.read(access)
                if access not in self.stands:
                    name = f"?{next(_fresh)}"
                    self.stands[access] = scalar.var(name, access.value.type.dtype)
                return self.stands[access]

            point_value(node, at, read)


def read_at(value: Value, index: Index, behind: Behind | None = None) -> list[Access]:
    """Every stored value behind one (perhaps inlined) value read at `index`."""
    if not inlined(value) or value.node.op is CONSTANT:
        return [Access(value, index, TRUE)]
    return accesses(value.node, index, behind=behind)


def is_alias(node: Node) -> bool:
    """Whether a view reads its first input only, and has its elements in the same row-major order.
    """
    if node.op.kind is not VIEW or not node.inputs:
        return False
    types = tuple([v.type for v in node.inputs])
    out = node.outputs[0].type
    if out.static and all([t.static for t in types]):
        try:
            return _static_is_alias(node.op, types, out, tuple(node.attrs.items()))
        except TypeError:  # an attribute that cannot be hashed
            pass
    return _is_alias(node.op, types, out, tuple(node.attrs.items()))


def _is_alias(op: Op, types: Types, out: TensorType, attrs: Any) -> bool:
    source, index = types[0], axes_of(out.shape)
    reads, plain = _view_reads(op, types, out, attrs, index)
    if len(reads) != 1 or not plain:
        return False
    ((k, position, guard),) = reads
    if k or guard is not TRUE:
        return False
    same_count = scalar.as_expr(source.numel) is scalar.as_expr(out.numel)
    return same_count and linear(position, source.shape) is linear(index, out.shape)


_static_is_alias = functools.lru_cache(maxsize=1 << 12)(_is_alias)


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
