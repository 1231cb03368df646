"""Loop nests: what they are built of, and what prefix and scatter regions become.

Each builder asks the evaluator for the scalars to store, merges neighbouring axes that every index
treats as one, and wraps loops around: grid outside, vectors inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from deepseek.ir import scalar
from deepseek.ir.access import Index, axes_of, linear
from deepseek.ir.graph import Node, Value
from deepseek.ir.op import Folding, Kind
from deepseek.ir.scalar import Expr
from deepseek.ir.shape import Shape, exprs
from deepseek.kernel.evaluate import Evaluator, working
from deepseek.kernel.ir import (
    GRID,
    SERIAL,
    VECTOR,
    Axis,
    Buffer,
    Carry,
    Fold,
    Let,
    Loop,
    Stmt,
    Store,
)

SCATTERED = 256  # columns of a grid task that scatters rows


@dataclass
class Nest:
    """A kernel's body, its scratch buffers, and the run-time lengths it takes with their
    expressions.
    """

    body: tuple[Stmt, ...]
    scratch: list[Buffer] = field(default_factory=list)
    lengths: dict[Expr, Expr] = field(default_factory=dict)


@dataclass(frozen=True)
class Span:
    """One merged axis of a loop nest."""

    var: Expr
    extent: Expr
    folded: bool = False


def spans_of(shape: Shape, folded: Sequence[int] = ()) -> list[Span]:
    """The axes of a domain that have more than one element."""
    return [
        Span(x, size, i in folded)
        for i, (x, size) in enumerate(zip(axes_of(shape), exprs(shape), strict=True))
        if size is not scalar.ONE
    ]


def coalesce(
    spans: list[Span], roots: list[Expr], offsets: list[Expr]
) -> tuple[list[Span], dict[Expr, Expr]]:
    """Merge neighbouring axes that are one run in every index; returns the new axes and a
    substitution.

    `roots` are the scalars computed (their loads count), `offsets` the indices stored to.
    """
    indices = [*offsets, *load_indices(roots)]
    elsewhere = variables_outside_indices(roots)
    merged: dict[Expr, Expr] = {}
    out: list[Span] = []
    for span in spans:
        last = out[-1] if out else None
        if (
            last is not None
            and last.folded == span.folded
            and mergeable(last, span, indices, elsewhere)
        ):
            extent = scalar.mul(last.extent, span.extent)
            both = scalar.var(f"{last.var.name}_{span.var.name}", low=0, extent=extent)
            step = {last.var: scalar.ZERO, span.var: both}
            merged = {k: scalar.substitute(v, step) for k, v in merged.items()} | step
            indices = [scalar.substitute(i, step) for i in indices]
            out[-1] = Span(both, extent, span.folded)
        else:
            out.append(span)
    return out, merged


def load_indices(roots: Sequence[Expr]) -> list[Expr]:
    return [e.args[0] for e in scalar.walk(roots) if e.fn == "load"]


def variables_outside_indices(roots: Sequence[Expr]) -> set[Expr]:
    """The variables that values and guards use other than to say where to load from."""
    found: set[Expr] = set()
    seen: set[Expr] = set()
    stack = list(roots)
    while stack:
        e = stack.pop()
        if e in seen:
            continue
        seen.add(e)
        if e.fn == "var":
            found.add(e)
        stack.extend(e.args[1:] if e.fn == "load" else e.args)
    return found


def mergeable(outer: Span, inner: Span, indices: Sequence[Expr], elsewhere: set[Expr]) -> bool:
    """Whether every index steps through (outer, inner) as through one axis."""
    if outer.var in elsewhere or inner.var in elsewhere:
        return False
    for index in indices:
        a = scalar.coefficient(index, outer.var)
        b = scalar.coefficient(index, inner.var)
        if a is None or b is None or a is not scalar.mul(b, inner.extent):
            return False
    return True


def with_length(
    span: Span, change: dict[Expr, Expr]
) -> tuple[list[Span], dict[Expr, Expr], dict[Expr, Expr]]:
    """A lone axis whose extent is a run-time argument: the axis, the substitution, the argument."""
    length = scalar.size_var("length")
    flat = Span(scalar.var("i", low=0, extent=length), length, span.folded)
    step = {span.var: flat.var}
    changed = {k: scalar.substitute(v, step) for k, v in change.items()} | step
    return [flat], changed, {length: span.extent}


def nest(spans: Sequence[Span], body: tuple[Stmt, ...], vector: bool = True) -> tuple[Stmt, ...]:
    """Serial loops with the last one a vector."""
    kind = VECTOR if vector else SERIAL
    for span in reversed(spans):
        body = (Loop(Axis(span.var, span.extent, kind), body),)
        kind = SERIAL
    return body


def grid(spans: Sequence[Span], body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    for span in reversed(spans):
        body = (Loop(Axis(span.var, span.extent, GRID), body),)
    return body


def blocks(span: Span, size: int) -> tuple[Span, Span, dict[Expr, Expr]]:
    """Split an axis into (block, inside) and the substitution for its variable."""
    count = ceil_div(span.extent, size)
    block = scalar.var(f"{span.var.name}b", low=0, extent=count)
    start = scalar.mul(block, scalar.const(size))
    length = scalar.minimum(scalar.const(size), scalar.sub(span.extent, start))
    inside = scalar.var(f"{span.var.name}i", low=0, extent=length)
    return Span(block, count), Span(inside, length), {span.var: scalar.add(start, inside)}


def ceil_div(a: Expr, by: int) -> Expr:
    return scalar.floordiv(scalar.add(a, scalar.const(by - 1)), scalar.const(by))


def is_small(extent: Expr, most: int) -> bool:
    high = scalar.bounds(extent)[1]
    return high is not None and high <= most


def substituted(store: Store, change: dict[Expr, Expr]) -> Store:
    return replace(
        store,
        index=scalar.substitute(store.index, change),
        value=scalar.substitute(store.value, change),
        guard=scalar.substitute(store.guard, change),
    )


def together(stores: Sequence[Store]) -> tuple[Stmt, ...]:
    """Stores of one iteration: all values are read before any is written, as in-place use needs."""
    if len(stores) < 2:
        return tuple(stores)
    named = [scalar.var(f"v{i}", s.value.dtype) for i, s in enumerate(stores)]
    lets = [Let(v, s.value) for v, s in zip(named, stores, strict=True)]
    return (*lets, *(replace(s, value=v) for v, s in zip(named, stores, strict=True)))


def store_to(buffer: Buffer, offset: Expr, value: Expr) -> Store:
    return Store(buffer.name, offset, scalar.cast(value, buffer.dtype))


# ---------------------------------------------------------------------------------------- folding


def folding_of(node: Node, number: int) -> tuple[Folding, list[Expr], list[Expr]]:
    """A node's folding, with fresh variables for its carries and for the later part of a merge."""
    assert node.op.meaning is not None
    folding: Folding = node.op.meaning(node.inputs[0].type.dtype, **node.attrs)
    mine = [scalar.var(f"c{number}_{i}", e.dtype) for i, e in enumerate(folding.init)]
    other = [scalar.var(f"o{number}_{i}", e.dtype) for i, e in enumerate(folding.init)]
    return folding, mine, other


def carries_of(
    folding: Folding, mine: list[Expr], other: list[Expr], element: Expr, position: Expr
) -> list[Carry]:
    steps = folding.step(tuple(mine), element, position)
    merges = folding.merge(tuple(mine), tuple(other))
    return [
        Carry(v, init, step, o, merge)
        for v, init, step, o, merge in zip(mine, folding.init, steps, other, merges, strict=True)
    ]


# ----------------------------------------------------------------------------------------- prefix


def prefix_region(
    ev: Evaluator, shape: Shape, folded: tuple[int, ...], outputs: dict[Value, Buffer]
) -> Nest:
    """A serial fold that stores at each element; rows are the grid."""
    domain = axes_of(shape)
    spans = spans_of(shape, folded)
    position = domain[folded[0]]
    carries: list[Carry] = []
    for number, node in enumerate(n for n in ev.body.nodes if n.op.kind is Kind.PREFIX):
        folding, mine, other = folding_of(node, number)
        carries += carries_of(folding, mine, other, ev.at(node.inputs[0], domain), position)
        count = scalar.add(position, scalar.ONE)
        for value, result in zip(node.outputs, folding.finish(tuple(mine), count), strict=True):
            ev.known[value] = (domain, scalar.cast(result, working(value.type.dtype)))
    offset = linear(domain, shape)
    stores = tuple(store_to(b, offset, ev.at(v, domain)) for v, b in outputs.items())
    inside = [s for s in spans if s.folded] or [
        Span(scalar.var("one", low=0, extent=1), scalar.ONE)
    ]
    axes = tuple(Axis(s.var, s.extent) for s in inside)
    fold = Fold(axes, tuple(carries), prefix=stores)
    return Nest(grid([s for s in spans if not s.folded], (fold,)))


# ---------------------------------------------------------------------------------------- scatter


def scatter_region(ev: Evaluator, node: Node, buffer: Buffer) -> Nest:
    """Copy the first input, then apply the updates in order.

    Where the last axis of an update goes to the last axis of the output, tasks split that axis;
    otherwise one task does it all. Either way the order of additions is fixed.
    """
    out = node.outputs[0].type
    update_shape = node.inputs[-1].type.shape
    index = axes_of(update_shape, "u")
    types = [v.type for v in node.inputs]

    def read(k: int, position: Index, guard: Expr = scalar.TRUE) -> Expr:
        return ev.at(node.inputs[k], tuple(position), guard)

    assert node.op.meaning is not None
    scatter = node.op.meaning(index, read, types, out, **node.attrs)
    offset = linear(tuple(scatter.target), out.shape)
    value = scatter.value
    if scatter.combine != "set":
        value = scalar.call(scatter.combine, widened_load(buffer, offset), value)
    update = Store(buffer.name, offset, scalar.cast(value, buffer.dtype), scatter.guard)
    target = axes_of(out.shape)
    copy = store_to(buffer, linear(target, out.shape), ev.at(node.inputs[0], target))
    copies, updates = spans_of(out.shape), spans_of(update_shape)
    updates = [replace(s, var=index_var) for s, index_var in zip(
        updates, [v for v in index if v.fn == "var"], strict=True)]  # fmt: skip
    shared = bool(updates and copies) and scatter.target[-1] is updates[-1].var
    if not (shared and scalar_free(scatter.target[:-1], updates[-1].var)
            and updates[-1].extent is copies[-1].extent):  # fmt: skip
        return Nest((*nest(copies, (copy,)), *nest(updates, (update,), vector=False)))
    block, column, split = blocks(copies[-1], SCATTERED)
    start = {updates[-1].var: split[copies[-1].var]}
    body = (
        *nest([*copies[:-1], column], (substituted(copy, split),)),
        *nest([*updates[:-1], column], (substituted(update, start),)),
    )
    return Nest(grid([block], body))


def widened_load(buffer: Buffer, offset: Expr) -> Expr:
    return scalar.cast(scalar.load(buffer.name, buffer.dtype, offset), working(buffer.dtype))


def scalar_free(parts: Sequence[Expr], variable: Expr) -> bool:
    return all(scalar.free_of(p, variable) for p in parts)
