"""What a contraction region computes, as loop templates see it.

In flow the region's evaluator, shape and outputs; out flows an Equation: axes sorted by which
operand they index, each operand as one scalar expression with its loads, and the stores of
everything that follows the sum. Views around the operands are looked through, and axes that every
index treats as one are merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from deepseek.ir import scalar
from deepseek.ir.access import Index, axes_of, linear
from deepseek.ir.dtype import DTYPES, DType
from deepseek.ir.graph import Node, Value
from deepseek.ir.op import Kind, Operand
from deepseek.ir.scalar import TRUE, Expr
from deepseek.ir.shape import Shape, exprs
from deepseek.kernel import congruence
from deepseek.kernel.evaluate import Evaluator, working
from deepseek.kernel.ir import Buffer, Store
from deepseek.kernel.loops import (
    Span,
    coalesce,
    is_small,
    load_indices,
    mergeable,
    store_to,
    substituted,
)

MOST_REMAINDERS = 8  # that an axis of remainders has


@dataclass
class Equation:
    """stores(sum over folded of left * right), for all batch, rows and columns.

    `left` depends on batch, rows and folded, `right` on batch, columns and folded; both have the
    dtype of `total`, the variable that stands for the sum in the stores.
    """

    batch: list[Span]
    rows: list[Span]
    columns: list[Span]
    folded: list[Span]
    left: Expr
    right: Expr
    total: Expr
    stores: list[Store]

    @property
    def dtype(self) -> DType:
        return self.total.dtype


def accumulator(dtype: DType) -> DType:
    """The type a contraction sums in: small integers wrap around in 32 bits just as well."""
    if dtype.is_integer and dtype.bits < 32:
        return DTYPES["uint32" if dtype.kind == "u" else "int32"]
    return dtype.accumulator


def equation_of(ev: Evaluator, shape: Shape, outputs: dict[Value, Buffer]) -> Equation:
    """The equation of a region with one contraction."""
    node = next(n for n in ev.body.nodes if n.op.kind is Kind.CONTRACT)
    out = node.outputs[0]
    assert node.op.meaning is not None
    contraction = node.op.meaning([v.type for v in node.inputs], out.type, **node.attrs)
    index = axes_of(shape)
    rename = dict(zip(contraction.axes, index, strict=True))
    rename |= {k: scalar.ZERO for k in contraction.folded if k.attr[2] is scalar.ONE}
    total = scalar.var("total", accumulator(out.type.dtype))
    operands = [
        _operand(ev, node, number, operand, rename, total.dtype)
        for number, operand in enumerate((contraction.left, contraction.right))
    ]
    ev.known[out] = (index, scalar.cast(total, working(out.type.dtype)))
    offset = linear(index, shape)
    stores = [store_to(buffer, offset, ev.at(value, index)) for value, buffer in outputs.items()]
    kept = [
        Span(x, size) for x, size in zip(index, exprs(shape), strict=True) if size is not scalar.ONE
    ]
    folded = [Span(k, k.attr[2], True) for k in contraction.folded if k.attr[2] is not scalar.ONE]
    return _sorted(kept, folded, operands, total, stores)


def _operand(
    ev: Evaluator, node: Node, number: int, operand: Operand, rename: dict[Expr, Expr], dtype: DType
) -> Expr:
    index: Index = tuple(scalar.substitute(x, rename) for x in operand.index)
    guard = scalar.substitute(operand.guard, rename)
    return scalar.cast(ev.at(node.inputs[number], index, guard), dtype)


def _sorted(
    kept: list[Span], folded: list[Span], operands: list[Expr], total: Expr, stores: list[Store]
) -> Equation:
    """Split and merge axes, decide which operand is left, and sort the axes."""
    kept, folded, operands, stores = solved(kept, folded, operands, stores)
    kept, change = split_axes(kept, operands)
    operands = [scalar.substitute(e, change) for e in operands]
    stores = [substituted(s, change) for s in stores]
    folded, change = split_axes(folded, operands)
    operands = [scalar.substitute(e, change) for e in operands]
    found = _groups(kept, operands)
    if found[1] and (not found[2] or kept.index(found[1][-1]) > kept.index(found[2][-1])):
        operands.reverse()  # vector lanes run along columns, and along the output's last axis
        found = _groups(kept, operands)
    for number, group in enumerate([*found, folded]):
        roots = [*operands, *(e for s in stores for e in (s.value, s.guard))]
        merged, change = coalesce(group, roots, [s.index for s in stores])
        if number == len(found):
            folded = merged
        else:
            found[number] = merged
        operands = [scalar.substitute(e, change) for e in operands]
        stores = [substituted(s, change) for s in stores]
    batch, rows, columns = found
    left, right = operands
    return Equation(batch, rows, columns, folded, left, right, total, stores)


def _groups(kept: list[Span], operands: list[Expr]) -> list[list[Span]]:
    """The axes of both operands, of the left one, of the right one.

    An axis whose remainders decide whether something is read is taken as one of both.
    """
    groups: list[list[Span]] = [[], [], []]
    for span in kept:
        left, right = (reads(e, span) for e in operands)
        both = left and right or is_remainder(span, operands)
        groups[0 if both else 2 if right else 1].append(span)
    return groups


def is_remainder(span: Span, operands: list[Expr]) -> bool:
    """Whether something is read for some remainders only, which this axis runs over."""
    return is_small(span.extent, MOST_REMAINDERS) and any(
        node.fn == "eq" and not scalar.free_of(node, span.var) for node in scalar.walk(operands)
    )


def solved(
    kept: list[Span], folded: list[Span], operands: list[Expr], stores: list[Store]
) -> tuple[list[Span], list[Span], list[Expr], list[Store]]:
    """The same sums without guards that hold for every s-th element only."""
    while True:
        step = congruence.solve(kept, folded, operands)
        if step is None:
            return kept, folded, operands, stores
        kept, folded = step.kept, step.folded
        for number, e in enumerate(operands):
            split = any(not scalar.free_of(e, v) for v in step.changes[0])
            inside = scalar.and_(step.folded_inside, step.kept_inside if split else TRUE)
            operands[number] = zero_outside(step.apply(e), inside)
        stores = [
            replace(
                s,
                index=step.apply(s.index),
                value=guarded(step.apply(s.value), step.kept_inside),
                guard=scalar.and_(step.apply(s.guard), step.kept_inside),
            )
            for s in stores
        ]


def reads(e: Expr, span: Span) -> bool:
    return not scalar.free_of(e, span.var)


# ---------------------------------------------------------------------------------- splitting axes


def split_axes(spans: list[Span], roots: list[Expr]) -> tuple[list[Span], dict[Expr, Expr]]:
    """Split axes of constant size so that divisions of them by constants go away.

    A view of merged axes, or a group of channels, reads at `i // 4` and `i % 4`: as (i // 4, i % 4)
    the axis is two, and all indices are affine again.
    """
    change: dict[Expr, Expr] = {}
    while True:
        step = _split_one(spans, roots)
        if step is None:
            return spans, change
        spans, moved = step
        roots = [scalar.substitute(e, moved) for e in roots]
        change = {k: scalar.substitute(v, moved) for k, v in change.items()} | moved


def _split_one(spans: list[Span], roots: list[Expr]) -> tuple[list[Span], dict[Expr, Expr]] | None:
    for node in scalar.walk(roots):
        if node.fn not in ("floordiv", "mod") or node.args[1].fn != "const":
            continue
        by = node.args[1].value
        for number, span in enumerate(spans):
            size = span.extent
            if node.args[0] is not span.var or size.fn != "const" or size.value % by:
                continue
            name = span.var.name
            outer = scalar.var(f"{name}o", low=0, extent=size.value // by)
            inner = scalar.var(f"{name}e", low=0, extent=by)
            parts = [
                Span(outer, scalar.const(size.value // by), span.folded),
                Span(inner, scalar.const(by), span.folded),
            ]
            whole = scalar.add(scalar.mul(outer, scalar.const(by)), inner)
            return [*spans[:number], *parts, *spans[number + 1 :]], {span.var: whole}
    return None


# ----------------------------------------------------------------------------------- joining axes


def joined(equation: Equation) -> Equation:
    """The same with the last two column axes as one, where memory is stepped through as one.

    Conditions may tell them apart, as the edges of a picture do: these ask for quotients and
    remainders of the axis instead.
    """
    if len(equation.columns) < 2:
        return equation
    outer, inner = equation.columns[-2:]
    after = [e for s in equation.stores for e in (s.value, s.guard)]
    indices = load_indices([equation.left, equation.right, *after])
    indices += [s.index for s in equation.stores]
    if inner.extent.fn != "const" or not mergeable(outer, inner, indices, set()):
        return equation
    extent = scalar.mul(outer.extent, inner.extent)
    both = scalar.var(f"{outer.var.name}_{inner.var.name}", low=0, extent=extent)
    inside = {outer.var: scalar.ZERO, inner.var: both}
    elsewhere = {
        outer.var: scalar.floordiv(both, inner.extent),
        inner.var: scalar.mod(both, inner.extent),
    }
    stores = [
        replace(
            s,
            index=scalar.substitute(s.index, inside),
            value=_joined(s.value, inside, elsewhere),
            guard=_joined(s.guard, inside, elsewhere),
        )
        for s in equation.stores
    ]
    return replace(
        equation,
        columns=[*equation.columns[:-2], Span(both, extent)],
        right=_joined(equation.right, inside, elsewhere),
        stores=stores,
    )


def _joined(e: Expr, inside: dict[Expr, Expr], elsewhere: dict[Expr, Expr]) -> Expr:
    """`e` with variables replaced, in other ways inside indices and outside."""
    done: dict[Expr, Expr] = {}
    for node in scalar.walk([e]):
        args = tuple([done[a] for a in node.args])
        if node.fn == "load":
            index = scalar.substitute(node.args[0], inside)
            done[node] = scalar.load(node.name, node.dtype, index, *args[1:])
        elif node in elsewhere:
            done[node] = elsewhere[node]
        else:
            done[node] = node if args == node.args else scalar.rebuild(node, args)
    return done[e]


# ----------------------------------------------------------------------------------------- reading


def stride(e: Expr, var: Expr) -> int | None:
    """How far apart in memory neighbours along an axis are read; None if that varies."""
    found: set[int] = set()
    for node in scalar.walk([e]):
        if node.fn != "load" or scalar.free_of(node.args[0], var):
            continue
        step = scalar.coefficient(node.args[0], var)
        if step is None or step.fn != "const":
            return None
        found.add(step.value)
    return found.pop() if len(found) == 1 else 0 if not found else None


def is_plain(e: Expr, dtype: DType) -> bool:
    """Whether an operand is an element of memory, read without a condition or a conversion."""
    return e.fn == "load" and len(e.args) == 1 and e.dtype is dtype


def guarded_variables(e: Expr) -> set[Expr]:
    """The variables that decide whether something is read."""
    return {
        v
        for node in scalar.walk([e])
        if node.fn == "where" or node.fn == "load" and len(node.args) > 1
        for v in scalar.variables(node.args[1 if node.fn == "load" else 0])
    }


def guarded(e: Expr, guard: Expr) -> Expr:
    """`e` with every load made only where the guard holds."""
    if guard is scalar.TRUE:
        return e
    done: dict[Expr, Expr] = {}
    for node in scalar.walk([e]):
        args = tuple([done[a] for a in node.args])
        if node.fn == "load":
            both = scalar.and_(guard, args[1]) if len(args) > 1 else guard
            otherwise = args[2] if len(args) > 1 else None
            done[node] = scalar.load(node.name, node.dtype, args[0], both, otherwise)
        else:
            done[node] = node if args == node.args else scalar.rebuild(node, args)
    return done[e]


def zero_outside(e: Expr, guard: Expr) -> Expr:
    """`e` where the guard holds, else 0, with nothing read."""
    read = guarded(e, guard)
    plain = e.args[0] if e.fn == "cast" else e
    if guard is TRUE or plain.fn == "load":
        return read
    return scalar.where(guard, read, scalar.const(0, e.dtype))


def offset_in(positions: Sequence[Expr], extents: Sequence[Expr | int]) -> Expr:
    """The row-major number of a position in a box."""
    at = scalar.ZERO
    for position, extent in zip(positions, extents, strict=True):
        at = scalar.add(scalar.mul(at, scalar.as_expr(extent)), position)
    return at
