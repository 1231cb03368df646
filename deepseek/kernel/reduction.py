"""Reduce regions: folds over some axes, level by level, then the stores.

In flow an evaluator, the domain and its folded axes; out flows a Nest. Where the last axis is
folded a task is a row, with lanes along it; where it is kept a task is a block of columns, which is
their lanes. What is costly and needed by several passes over a row is computed once and waits in
scratch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from deepseek.ir import scalar
from deepseek.ir.access import axes_of, linear, row_index, row_position
from deepseek.ir.dtype import bool_
from deepseek.ir.graph import Node, Value
from deepseek.ir.op import Kind
from deepseek.ir.scalar import Expr
from deepseek.ir.shape import Shape, exprs
from deepseek.kernel import polyfill
from deepseek.kernel.ahead import asking_for_next, large_operands
from deepseek.kernel.evaluate import Evaluator, working
from deepseek.kernel.ir import SERIAL, SHARED, VECTOR, Axis, Buffer, Carry, Fold, Stmt, Store
from deepseek.kernel.loops import (
    Nest,
    Span,
    blocks,
    carries_of,
    coalesce,
    folding_of,
    grid,
    is_small,
    nest,
    spans_of,
    store_to,
    substituted,
    together,
    with_length,
)

COLUMNS = 1024  # columns of a grid task that reduces along rows
COLUMNS_READ_AGAIN = 256  # the same where its elements are read several times
LANES = 32  # virtual lanes of a fold: fixed, so that sums do not depend on the machine
LANES_ALONE = 64  # of one value over a long row: more chains, since each waits for its last step
LONG = 256  # elements
THREADS_LONG = 2048  # elements of a row that keep more threads than a warp's busy
THREADS_LANES, MOST_LANES = 256, 1024  # lanes of such folds where lanes are threads
SWEPT = 8  # rows that a sweep over columns takes at a time
SMALL_FOLD = 32  # a fold of at most this many elements runs in one lane, rows being the lanes
COSTLY = 10  # instructions that are worth a trip to scratch and back
KEPT = 1 << 15  # elements of a row that scratch takes


def reduce_region(
    ev: Evaluator, shape: Shape, folded: tuple[int, ...], outputs: dict[Value, Buffer],
    threads: bool = False,
) -> Nest:  # fmt: skip
    """Folds over some axes, level by level, then the stores. `threads`: lanes are threads."""
    spans = spans_of(shape, folded)
    kept = [s for s in spans if not s.folded]
    count = scalar.product(exprs(shape)[i] for i in folded)
    small = is_small(count, SMALL_FOLD) and bool(kept) and not is_small(kept[-1].extent, 3)
    plan = _Reduction(ev, shape, folded, outputs, spans, count, threads)
    return plan.rows() if not kept or spans[-1].folded and not small else plan.columns()


@dataclass
class _Reduction:
    ev: Evaluator
    shape: Shape
    folded: tuple[int, ...]
    outputs: dict[Value, Buffer]
    spans: list[Span]
    count: Expr
    threads: bool

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
            found = carries_of(folding, mine, other, element, self.position)
            only = self.only_element(found, element)
            if only is None:
                carries += found
            totals = tuple(mine) if only is None else (only,)
            for value, result in zip(
                node.outputs, folding.finish(totals, self.count), strict=True
            ):
                results.append((value, scalar.cast(result, working(value.type.dtype))))
        return carries, results

    def only_element(self, carries: Sequence[Carry], element: Expr) -> Expr | None:
        """The sum itself, where all elements are 0 but one whose place is known."""
        axes = [s for s in self.spans if s.folded]
        if len(axes) != 1 or len(carries) != 1:
            return None
        (carry,), (axis,) = carries, axes
        if carry.init.fn != "const" or carry.init.value != 0:
            return None
        if carry.step is not scalar.call("add", carry.var, element):
            return None
        place, value = one_hot(element, axis.var)
        if place is None:
            return None
        last = scalar.sub(axis.extent, scalar.ONE)
        inside = scalar.maximum(scalar.ZERO, scalar.minimum(place, last))
        there = scalar.call("eq", place, inside)
        found = scalar.substitute(value, {axis.var: inside})
        return scalar.where(there, found, scalar.const(0, found.dtype))

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
        per_element = [substituted(s, change) for s in per_element]
        levels = [
            [replace(c, step=scalar.substitute(c.step, change)) for c in carries]
            for carries in levels
        ]
        kept = kept_in_scratch(inside, levels, per_element)
        held = {e: k.held for e, k in kept.items()}
        body: list[Stmt] = []
        for number, carries in enumerate(levels):
            now = [k.store for k in kept.values() if k.before == number]
            if now:
                body += nest(inside, tuple(now))
            if carries:
                body.append(fold_over(inside, carries, held, lanes=self.lanes(inside, carries)))
        if per_element:
            stores = [replace(s, value=scalar.substitute(s.value, held)) for s in per_element]
            body += nest(inside, together(stores))
        body += together([substituted(s, change) for s in per_row])
        scratch = [k.buffer for k in kept.values()]
        outside = [s for s in spans if not s.folded]
        short = is_small(scalar.product(s.extent for s in inside), KEPT)
        if outside and inside and short and not self.threads:
            body = asking_for_next(body, outside[-1], inside[-1], large_operands(self.ev))
        return Nest(grid(outside, tuple(body)), scratch, lengths)

    def lanes(self, inside: Sequence[Span], carries: Sequence[Carry]) -> int:
        """Virtual lanes of a row's folds: more where they are threads and rows are long."""
        if not self.threads:
            long = bool(inside) and not is_small(inside[-1].extent, LONG - 1)
            return LANES_ALONE if long and len(carries) == 1 else LANES
        if is_small(self.count, THREADS_LONG):
            return LANES
        return THREADS_LANES if any(not s.folded for s in self.spans) else MOST_LANES

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
            sums, finished, held = (
                folded_columns(inside, column, carries, width) if carries else ([], {}, [])
            )
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


def one_hot(e: Expr, axis: Expr) -> tuple[Expr | None, Expr]:
    """The only place along an axis where a value is not 0, and the value there."""
    if e.fn in ("neg", "cast"):
        place, value = one_hot(e.args[0], axis)
        return place, scalar.make(e.fn, (value,), e.dtype)
    if e.fn != "where" or e.args[2].fn != "const" or e.args[2].value != 0:
        return None, e
    condition, value, _ = e.args
    if condition.fn == "eq":
        for place, other in (condition.args, condition.args[::-1]):
            if other is axis and scalar.free_of(place, axis):
                return place, value
    return None, e


@dataclass(frozen=True)
class Kept:
    """A value of each element of a row, stored before a level's fold."""

    value: Expr
    buffer: Buffer
    place: Expr
    before: int

    @property
    def store(self) -> Store:
        return Store(self.buffer.name, self.place, self.value)

    @property
    def held(self) -> Expr:
        return scalar.load(self.buffer.name, self.buffer.dtype, self.place)


def kept_in_scratch(
    inside: Sequence[Span], levels: Sequence[Sequence[Carry]], stores: Sequence[Store]
) -> dict[Expr, Kept]:
    """What several passes over a row would compute again, where it is costly and a row is short."""
    size = scalar.bounds(scalar.product(s.extent for s in inside))[1]
    if size is None or size > KEPT:
        return {}
    passes = [set(scalar.walk([c.step for c in carries])) for carries in levels]
    passes.append(set(scalar.walk([s.value for s in stores])))
    counts = Counter(e for nodes in passes for e in nodes)
    outermost = dict.fromkeys(s.value for s in stores if counts[s.value] > 1)
    for e in counts:
        outermost.update((a, None) for a in e.args if counts[a] > 1 == counts[e])
    place = scalar.ZERO
    for span in inside:
        place = scalar.add(scalar.mul(place, span.extent), span.var)
    kept: dict[Expr, Kept] = {}
    held: dict[Expr, Expr] = {}
    for e in sorted(outermost, key=lambda e: len(scalar.walk([e]))):  # what is inside comes first
        first = next(number for number, nodes in enumerate(passes) if e in nodes)
        carries = {c.var for c in levels[first]} if first < len(levels) else set()
        uses = set(scalar.variables(e))
        value = scalar.substitute(e, held)
        varies = any(s.var in uses for s in inside) and uses.isdisjoint(carries)
        if varies and e.dtype is not bool_ and polyfill.instructions([value]) >= COSTLY:
            buffer = Buffer(f"k{len(kept)}", e.dtype, SHARED, scalar.const(size))
            kept[e] = Kept(value, buffer, place, first)
            held[e] = kept[e].held
    return kept


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
    spans: Sequence[Span], carries: list[Carry], change: dict[Expr, Expr], vector: bool = True,
    lanes: int = LANES,
) -> Fold:  # fmt: skip
    """A Fold over the axes, the last one in lanes unless it is very short."""
    changed = tuple(replace(c, step=scalar.substitute(c.step, change)) for c in carries)
    if not spans:
        spans = [Span(scalar.var("one", low=0, extent=1), scalar.ONE, True)]
    vector = vector and not is_small(spans[-1].extent, 7)
    axes = [Axis(s.var, s.extent, SERIAL) for s in spans[:-1]]
    axes.append(Axis(spans[-1].var, spans[-1].extent, VECTOR if vector else SERIAL))
    return Fold(tuple(axes), changed, lanes=lanes if vector else 1)


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
