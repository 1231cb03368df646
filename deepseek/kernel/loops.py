"""Loop nests: what reduce, prefix and scatter regions become, and what nests are built of.

Each builder asks the evaluator for the scalars to store, merges neighbouring axes that every index
treats as one, and wraps loops around: grid outside, vectors inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from deepseek.ir import scalar
from deepseek.ir.access import Index, axes_of, linear, row_index, row_position
from deepseek.ir.graph import Node, Value
from deepseek.ir.op import Folding, Kind
from deepseek.ir.scalar import Expr
from deepseek.ir.shape import Shape, exprs
from deepseek.kernel.evaluate import Evaluator, working
from deepseek.kernel.ir import (
    GRID,
    SERIAL,
    SHARED,
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

COLUMNS = 512  # columns of a grid task that reduces along rows
COLUMNS_READ_AGAIN = 256  # the same where its elements are read several times
LANES = 32  # virtual lanes of a fold: fixed, so that sums do not depend on the machine
SWEPT = 8  # rows that a sweep over columns takes at a time
SMALL_FOLD = 32  # a fold of at most this many elements runs in one lane, rows being the lanes


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
    length = scalar.var("length", low=2)
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


# ----------------------------------------------------------------------------------------- reduce


def reduction_levels(nodes: Sequence[Node]) -> list[list[Node]]:
    """REDUCE nodes by how many others must be finished before."""
    depth: dict[Value, int] = {}
    levels: list[list[Node]] = []
    for node in nodes:
        below = max((depth.get(v, 0) for v in node.inputs), default=0)
        if node.op.kind is Kind.REDUCE:
            if below == len(levels):
                levels.append([])
            levels[below].append(node)
            below += 1
        for value in node.outputs:
            depth[value] = below
    return levels


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


def reduce_region(
    ev: Evaluator, shape: Shape, folded: tuple[int, ...], outputs: dict[Value, Buffer]
) -> Nest:
    """Folds over some axes, level by level, then the stores."""
    spans = spans_of(shape, folded)
    kept = [s for s in spans if not s.folded]
    count = scalar.product(exprs(shape)[i] for i in folded)
    small = is_small(count, SMALL_FOLD) and bool(kept) and not is_small(kept[-1].extent, 3)
    plan = _Reduction(ev, shape, folded, outputs, spans, count)
    return plan.rows() if not kept or spans[-1].folded and not small else plan.columns()


@dataclass
class _Reduction:
    ev: Evaluator
    shape: Shape
    folded: tuple[int, ...]
    outputs: dict[Value, Buffer]
    spans: list[Span]
    count: Expr

    def __post_init__(self) -> None:
        self.domain = axes_of(self.shape)
        self.row = row_index(self.domain, self.folded)
        sizes = tuple(s for i, s in enumerate(self.shape) if i in self.folded)
        self.position = linear(tuple(self.domain[i] for i in self.folded), sizes)

    def carries(
        self, nodes: Sequence[Node], number: int
    ) -> tuple[list[Carry], list[tuple[Value, Expr]]]:
        """The carries of one level's reductions, and their results in terms of them."""
        carries: list[Carry] = []
        results: list[tuple[Value, Expr]] = []
        for node in nodes:
            folding, mine, other = folding_of(node, number + len(carries))
            element = self.ev.at(node.inputs[0], self.domain)
            carries += carries_of(folding, mine, other, element, self.position)
            for value, result in zip(
                node.outputs, folding.finish(tuple(mine), self.count), strict=True
            ):
                results.append((value, scalar.cast(result, working(value.type.dtype))))
        return carries, results

    def is_per_element(self, value: Value) -> bool:
        return exprs(value.type.shape) == exprs(self.shape) and value not in self.ev.known

    def stores(self) -> tuple[list[Store], list[Store]]:
        """(once per row, once per element)."""
        per_row: list[Store] = []
        per_element: list[Store] = []
        for value, buffer in self.outputs.items():
            if self.is_per_element(value):
                offset = linear(self.domain, self.shape)
                per_element.append(store_to(buffer, offset, self.ev.at(value, self.domain)))
            else:
                place = row_position(value.type, self.shape, self.domain, self.folded)
                assert place is not None
                at = self.row if value in self.ev.known else place
                offset = linear(place, value.type.shape)
                per_row.append(store_to(buffer, offset, self.ev.at(value, at)))
        return per_row, per_element

    def rows(self) -> Nest:
        """One grid task per row; lanes along the last folded axis."""
        levels: list[list[Carry]] = []
        for nodes in reduction_levels(self.ev.body.nodes):
            carries, results = self.carries(nodes, sum(map(len, levels)))
            self.ev.known.update({value: (self.row, result) for value, result in results})
            levels.append(carries)
        per_row, per_element = self.stores()
        roots = [c.step for carries in levels for c in carries]
        roots += [s.value for s in per_row + per_element]
        spans, change = coalesce(self.spans, roots, [s.index for s in per_row + per_element])
        lengths: dict[Expr, Expr] = {}
        if len(spans) == 1 and not per_element:
            spans, change, lengths = with_length(spans[0], change)
        inside = [s for s in spans if s.folded]
        body: list[Stmt] = [fold_over(inside, carries, change) for carries in levels]
        if per_element:
            body += nest(inside, together([substituted(s, change) for s in per_element]))
        body += together([substituted(s, change) for s in per_row])
        return Nest(grid([s for s in spans if not s.folded], tuple(body)), lengths=lengths)

    def columns(self) -> Nest:
        """Lanes along the last kept axis; each level's results pass through scratch, one per
        column.
        """
        *outer, last = [s for s in self.spans if not s.folded]
        inside = [s for s in self.spans if s.folded]
        levels = reduction_levels(self.ev.body.nodes)
        again = len(levels) > 1 or any(map(self.is_per_element, self.outputs))
        width = COLUMNS_READ_AGAIN if again else COLUMNS
        block, column, split = blocks(last, width)
        body: list[Stmt] = []
        scratch: list[Buffer] = []
        number = 0
        for nodes in levels:
            carries, results = self.carries(nodes, number)
            number += len(carries)
            carries = [replace(c, step=scalar.substitute(c.step, split)) for c in carries]
            sums, finished, held = folded_columns(inside, column, carries, width)
            scratch += held
            stores: list[Stmt] = []
            for value, result in results:
                buffer = Buffer(f"t{len(scratch)}", result.dtype, SHARED, scalar.const(width))
                scratch.append(buffer)
                result = scalar.substitute(result, split | finished)
                stores.append(Store(buffer.name, column.var, result))
                kept = scalar.load(buffer.name, buffer.dtype, column.var)
                self.ev.known[value] = (self.row, kept)
            if held:
                body += [*sums, *nest([column], tuple(stores))]
            else:
                body += nest([column], (*sums, *stores))
        per_row, per_element = self.stores()
        if per_element:
            each = together([substituted(s, split) for s in per_element])
            body += nest([*inside, column], each)
        if per_row:
            body += nest([column], together([substituted(s, split) for s in per_row]))
        return Nest(grid([*outer, block], tuple(body)), scratch)


def folded_columns(
    inside: list[Span], column: Span, carries: list[Carry], width: int
) -> tuple[list[Stmt], dict[Expr, Expr], list[Buffer]]:
    """Folds of a block of columns: the statements, what the results are, and their scratch.

    Long columns are swept in the order they lie in memory, a few rows at a time, while the carries
    wait in scratch; no scratch means that the statements belong inside the loop over the columns.
    """
    if not inside or is_small(inside[-1].extent, SWEPT):
        return [fold_over(inside, carries, {}, vector=False)], {}, []
    held = [Buffer(f"{c.var.name}w", c.var.dtype, SHARED, scalar.const(width)) for c in carries]
    waiting = [scalar.load(b.name, b.dtype, column.var) for b in held]
    begin = [Store(b.name, column.var, c.init) for b, c in zip(held, carries, strict=True)]
    *outer, last = inside
    block, rows, split = blocks(last, SWEPT)
    part = [
        replace(c, init=w, step=scalar.substitute(c.step, split))
        for c, w in zip(carries, waiting, strict=True)
    ]
    fold = fold_over([rows], part, {}, vector=False)
    kept = [Store(b.name, column.var, c.var) for b, c in zip(held, carries, strict=True)]
    sweep = nest([*outer, block, column], (fold, *kept))
    finished = {c.var: w for c, w in zip(carries, waiting, strict=True)}
    return [*nest([column], tuple(begin)), *sweep], finished, held


def fold_over(
    spans: Sequence[Span], carries: list[Carry], change: dict[Expr, Expr], vector: bool = True
) -> Fold:
    """A Fold over the axes, the last one in lanes unless it is very short."""
    changed = tuple(replace(c, step=scalar.substitute(c.step, change)) for c in carries)
    if not spans:
        spans = [Span(scalar.var("one", low=0, extent=1), scalar.ONE, True)]
    vector = vector and not is_small(spans[-1].extent, 7)
    axes = [Axis(s.var, s.extent, SERIAL) for s in spans[:-1]]
    axes.append(Axis(spans[-1].var, spans[-1].extent, VECTOR if vector else SERIAL))
    return Fold(tuple(axes), changed, lanes=LANES if vector else 1)


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
    block, column, split = blocks(copies[-1], COLUMNS)
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
