"""The packed form of a contraction: a register tile over panels of both operands.

In flow an Equation and its Schedule; out flows a Nest. Its grid is batch x row pieces x column
pieces; a task packs its rows once, then panel by panel of columns, and for each pair of panels runs
the register tile and computes whatever is stored. An operand that lies in memory as the register
tile reads it is not packed. Sums longer than a panel wait in scratch between panels.

    a    row panels     place i, k at i * row + k (along memory), or at k * height + i
    b    one column panel     k * width + j
    c    unfinished sums (only where the sum has several panels)
    acc  the register tile    i * width + j; the last columns have one of their own
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from deepseek.ir import scalar
from deepseek.ir.dtype import int64
from deepseek.ir.scalar import ONE, TRUE, ZERO, Expr, const
from deepseek.kernel.equation import (
    Equation,
    guarded,
    guarded_variables,
    is_plain,
    offset_in,
    stride,
)
from deepseek.kernel.ir import (
    REGISTER,
    SERIAL,
    SHARED,
    UNROLL,
    VECTOR,
    Axis,
    Buffer,
    Loop,
    Mma,
    Stmt,
    Store,
)
from deepseek.kernel.loops import Nest, Span, ceil_div, coalesce, grid, substituted
from deepseek.kernel.problem import Schedule
from deepseek.kernel.tiling import Panel, Tiling, depth_of, divides

LINE = 16  # elements that rows of a panel are padded to
UNROLLED = 16  # runs of a panel's columns that are written out
SIMPLE = 4  # scalars of a store that is written out for each row of a register tile
MOST_RUNS = 32  # that are written out so


def packed_nest(equation: Equation, plan: Schedule) -> Nest:
    """The nest of an equation under a packed schedule."""
    return _Packed(equation, plan).nest()


@dataclass(frozen=True)
class Part:
    """A register tile over some of the columns: all panels but the last ones, or the last ones.

    `packed` is the panel as it is copied, `own` the columns that there are.
    """

    acc: str
    width: int
    layout: list[tuple[int, int]]
    packed: Panel
    own: Panel
    when: Expr  # whether a panel is one of these

    def column(self, places: Sequence[Expr]) -> Expr:
        """The number of a column in its panel."""
        return offset_in([places[axis] for axis, _ in self.layout], [n for _, n in self.layout])


@dataclass(frozen=True)
class Reading:
    """How a register tile reads an operand: the first element, and steps along its two sides."""

    buffer: str
    at: Expr
    across: int  # from row to row
    along: int  # from one place of the sum to the next


class _Packed:
    def __init__(self, equation: Equation, plan: Schedule) -> None:
        self.equation = equation
        self.plan = plan
        self.rows = Tiling("m", equation.rows, plan.row_tile)
        self.columns = Tiling("n", equation.columns, plan.column_tile, plan.rest)
        self.depth = depth_of(equation.folded, plan.split, plan.block)
        inner = [s.extent.value for s in equation.folded[plan.split + 1 :]]
        self.longest = plan.block * math.prod(inner)
        self.by_rows = self._along_memory()
        if self.by_rows:
            lines = -(-self.longest // LINE)
            self.row = LINE * (lines + 1 - lines % 2)  # rows begin in different sets of a cache
        else:
            self.row = 1
        self.panel = plan.height * (self.row if self.by_rows else self.longest)
        self.dtype = equation.dtype

    def _along_memory(self) -> bool:
        """Whether the left panels are better copied row by row."""
        equation = self.equation
        folded = equation.folded
        if not folded or stride(equation.left, folded[-1].var) != 1:
            return False
        rows = equation.rows
        return not rows or stride(equation.left, rows[-1].var) != 1

    # ----------------------------------------------------------------------------------- the nest

    def nest(self) -> Nest:
        plan = self.plan
        mt, row_pieces, row_count = self._task("mt", self.rows, plan.row_panels)
        nt, column_pieces, column_count = self._task("nt", self.columns, plan.column_panels)
        row_panel = scalar.var("pm", low=0, extent=row_count)
        column_panel = scalar.var("pn", low=0, extent=column_count)
        m_panel = scalar.add(scalar.mul(mt, const(plan.row_panels)), row_panel)
        n_panel = scalar.add(scalar.mul(nt, const(plan.column_panels)), column_panel)
        m_lets, m_at = self.rows.coordinates(m_panel)
        n_lets, n_at = self.columns.coordinates(n_panel)
        rows = self.rows.overlapping(m_at)
        parts = self._parts(n_at)

        slot = scalar.add(scalar.mul(column_panel, const(plan.row_panels)), row_panel)
        products: list[Stmt] = []
        for part in parts:
            tile = self._tile(part, row_panel, slot, rows)
            body: tuple[Stmt, ...] = (Loop(Axis(row_panel, row_count), (*m_lets, *tile)),)
            if not plan.right_in_place:
                body = (*self._pack_right(part), *body)
            products += _when(part.when, body, f"once_{part.acc}")
        body = (Loop(Axis(column_panel, column_count), (*n_lets, *products)),)
        if not plan.left_in_place:
            pack = (*m_lets, *self._pack_left(row_panel, rows))
            body = (Loop(Axis(row_panel, row_count), pack), *body)
        depth = self.depth
        body = (*depth.lets, *body)
        if depth.count is not ONE:
            body = (Loop(Axis(depth.number, depth.count), body),)
        if not plan.right_in_place:
            body = (*self._clear_right(parts[0]), *body)
        tasks = [s for s in (Span(mt, row_pieces), Span(nt, column_pieces)) if s.extent is not ONE]
        return Nest(grid([*self.equation.batch, *tasks], body), self._scratch(parts))

    def _parts(self, coordinates: list[Expr]) -> list[Part]:
        plan, columns = self.plan, self.columns
        panel = columns.panel(coordinates)
        main = Part("acc", plan.width, plan.layout, panel, panel, TRUE)
        if not plan.rest:
            return [main]
        last = columns.is_last(coordinates)
        filled = columns.last(coordinates, plan.rest_width)
        layout = list(enumerate(filled.tile))
        own = columns.last(coordinates, plan.rest)
        rest = Part("rest", plan.rest_width, layout, filled, own, last)
        return [replace(main, when=scalar.not_(last)), rest]

    def _task(self, name: str, tiling: Tiling, panels: int) -> tuple[Expr, Expr, Expr]:
        """A grid axis over a side's panels: its variable, its extent, and the panels of a task."""
        total = tiling.total()
        pieces = ceil_div(total, panels)
        task = ZERO if pieces is ONE else scalar.var(name, low=0, extent=pieces)
        left = scalar.sub(total, scalar.mul(task, const(panels)))
        count = const(panels) if divides(total, panels) else scalar.minimum(const(panels), left)
        return task, pieces, count

    def _scratch(self, parts: list[Part]) -> list[Buffer]:
        plan, dtype = self.plan, self.dtype
        out = [Buffer(part.acc, dtype, REGISTER, const(plan.height * part.width)) for part in parts]
        if not plan.left_in_place:
            out.append(Buffer("a", dtype, SHARED, const(self.panel * plan.row_panels)))
        if not plan.right_in_place:
            out.append(Buffer("b", dtype, SHARED, const(self.longest * plan.width)))
        if self.depth.count is not ONE:
            size = plan.height * plan.width * plan.row_panels * plan.column_panels
            out.append(Buffer("c", dtype, SHARED, const(size)))
        return out

    # ------------------------------------------------------------------------------------ packing

    def _pack_left(self, panel: Expr, rows: Panel) -> tuple[Stmt, ...]:
        places = rows.places()
        where = rows.at([q.var for q in places])
        value = scalar.substitute(self.equation.left, where | self.depth.change)
        value = guarded(value, rows.guard(where))
        i = offset_in([q.var for q in places], [q.extent for q in places])
        base = scalar.mul(panel, const(self.panel))
        if self.by_rows:
            at = scalar.add(scalar.add(base, scalar.mul(i, const(self.row))), self.depth.position)
            runs = [s for s in self.depth.spans if s.extent is not ONE]
            depth, change = coalesce(runs, [value], [at])
            store = substituted(Store("a", at, value), change)
            return _loops([*places, *depth], store, VECTOR)
        k = scalar.mul(self.depth.position, const(self.plan.height))
        at = scalar.add(scalar.add(base, k), i)
        return _loops([*self.depth.spans, *places], Store("a", at, value), VECTOR)

    def _pack_right(self, part: Part) -> tuple[Stmt, ...]:
        if self.plan.turned:
            return self._turn_right(part)
        places = part.packed.places()
        where = part.packed.at([q.var for q in places])
        value = scalar.substitute(self.equation.right, where | self.depth.change)
        value = guarded(value, part.packed.guard(where))
        k = scalar.mul(self.depth.position, const(part.width))
        at = scalar.add(k, part.column([q.var for q in places]))
        # What decides whether something is read goes outside: it is computed once for all others.
        deciding = guarded_variables(value)
        depth = sorted(self.depth.spans, key=lambda s: s.var not in deciding)
        written_out = math.prod(q.extent.value for q in places[:-1]) <= UNROLLED
        kind = UNROLL if written_out else SERIAL
        body: tuple[Stmt, ...] = (Store("b", at, value),)
        runs = [q for q in places if q.extent is not ONE]
        for number, q in enumerate(reversed(runs)):
            body = (Loop(Axis(q.var, q.extent, kind if number else VECTOR), body),)
        return _around(depth, body)

    def _turn_right(self, part: Part) -> tuple[Stmt, ...]:
        """Lanes along the last summed axis, `lanes` columns written out."""
        lanes = self.plan.lanes
        places = part.packed.places()
        axis, filled = part.layout[-1]
        squares = filled // lanes
        square = ZERO if squares == 1 else scalar.var("nh", low=0, extent=squares)
        column = scalar.var("nl", low=0, extent=lanes)
        number = scalar.add(scalar.mul(square, const(lanes)), column)
        places[axis] = Span(number, const(filled))
        where = part.packed.at([q.var for q in places])
        span = self.columns.spans[axis]
        guard = scalar.and_(
            part.packed.guard(where), scalar.call("lt", where[span.var], span.extent)
        )
        value = scalar.substitute(self.equation.right, where | self.depth.change)
        k = scalar.mul(self.depth.position, const(part.width))
        at = scalar.add(k, part.column([q.var for q in places]))
        store = Store("b", at, guarded(value, guard))
        body: tuple[Stmt, ...] = (Loop(Axis(column, const(lanes), UNROLL), (store,)),)
        *outer, last = self.depth.spans
        body = (Loop(Axis(last.var, last.extent, VECTOR), body),)
        others = [q for number, q in enumerate(places) if number != axis]
        return _around([*outer, *others, Span(square, const(squares))], body)

    def _clear_right(self, part: Part) -> tuple[Stmt, ...]:
        """Columns that the tile does not use are summed all the same: they hold zeros."""
        if math.prod(size for _, size in part.layout) == part.width:
            return ()
        size = self.longest * part.width
        at = scalar.var("e", low=0, extent=size)
        return (Loop(Axis(at, const(size), VECTOR), (Store("b", at, const(0, self.dtype)),)),)

    # ----------------------------------------------------------------------------- a register tile

    def _tile(self, part: Part, row_panel: Expr, slot: Expr, rows: Panel) -> tuple[Stmt, ...]:
        plan, depth = self.plan, self.depth
        size = plan.height * part.width
        e = scalar.var("e", low=0, extent=size)
        kept = scalar.add(scalar.mul(slot, const(plan.height * plan.width)), e)
        first: Expr = const(0, self.dtype)
        last = TRUE
        save: tuple[Stmt, ...] = ()
        if depth.count is not ONE:
            later = scalar.call("lt", ZERO, depth.number)
            first = scalar.load("c", self.dtype, kept, later)
            last = scalar.call("eq", depth.number, scalar.sub(depth.count, ONE))
            done = Store("c", kept, scalar.load(part.acc, self.dtype, e), scalar.not_(last))
            save = (Loop(Axis(e, const(size), VECTOR), (done,)),)
        left, right = self._left(row_panel, rows), self._right(part)
        used = math.prod(part.own.tile) if plan.right_in_place else part.width
        mma = Mma(
            part.acc, left.buffer, left.at, right.buffer, right.at, depth.length,
            plan.height, used, left.across, left.along, right.along, part.width,
        )  # fmt: skip
        begin = Loop(Axis(e, const(size), VECTOR), (Store(part.acc, e, first),))
        return (begin, mma, *save, *self._finish(part, rows, last))

    def _left(self, row_panel: Expr, rows: Panel) -> Reading:
        if self.plan.left_in_place:
            return self._in_place(self.equation.left, rows)
        at = scalar.mul(row_panel, const(self.panel))
        return Reading("a", at, self.row, 1 if self.by_rows else self.plan.height)

    def _right(self, part: Part) -> Reading:
        if self.plan.right_in_place:
            return self._in_place(self.equation.right, part.own)
        return Reading("b", ZERO, 1, part.width)

    def _in_place(self, operand: Expr, panel: Panel) -> Reading:
        """An operand that is a plain load, at a panel's first place."""
        assert is_plain(operand, self.dtype)
        zeros: dict[Expr, Expr] = {s.var: ZERO for s in self.depth.spans if s.var is not ZERO}
        where = panel.at([ZERO] * len(panel.tile)) | self.depth.change
        at = scalar.substitute(scalar.substitute(operand.args[0], where), zeros)
        across = stride(operand, panel.spans[-1].var)
        along = stride(operand, self.equation.folded[-1].var)
        assert across is not None and along is not None
        return Reading(operand.name, at, across, along)

    def _finish(self, part: Part, rows: Panel, last: Expr) -> tuple[Stmt, ...]:
        """Store what the register tile's sums become, after the last part of the sum.

        Simple stores are written out row by row, so that sums need not leave the registers.
        """
        simple = self._is_simple(part, rows)
        columns = part.own.stored()
        inside = [(q, q.var) for q in rows.places()] if simple else rows.stored()
        row_places, column_places = [p for _, p in inside], [p for _, p in columns]
        change = rows.at(row_places) | part.own.at(column_places)
        i = offset_in(row_places, self.plan.row_tile)
        at = scalar.add(scalar.mul(i, const(part.width)), part.column(column_places))
        change[self.equation.total] = scalar.load(part.acc, self.dtype, at)
        stores = [substituted(s, change) for s in self.equation.stores]
        if simple and not all(_repeatable(s) for s in stores):
            stores = [_guarded(s, rows.own(row_places)) for s in stores]
        body: tuple[Stmt, ...] = tuple(stores)
        kind = VECTOR
        for q, _ in reversed([*inside, *columns]):
            if q.extent is not ONE:
                body = (Loop(Axis(q.var, q.extent, kind), body),)
                kind = UNROLL if simple else SERIAL
        return _when(last, body, "once")

    def _is_simple(self, part: Part, rows: Panel) -> bool:
        """Whether little is computed where sums are stored, and all places of a tile are there."""
        columns = part.own
        whole = rows.whole and all(
            columns.whole or divides(s.extent, t)
            for s, t in zip(columns.spans, columns.tile, strict=True)
        )
        light = all(_size(s.value) <= SIMPLE for s in self.equation.stores)
        return whole and light and self.plan.height * math.prod(columns.tile[:-1]) <= MOST_RUNS


def _guarded(store: Store, guard: Expr) -> Store:
    value = guarded(store.value, guard)
    return replace(store, value=value, guard=scalar.and_(store.guard, guard))


def _repeatable(store: Store) -> bool:
    """Whether storing once more stores the same: nothing is read that may lie where it goes."""
    loads = (e for e in scalar.walk([store.value]) if e.fn == "load")
    return all(e.args[0] is not store.index for e in loads)


def _size(e: Expr) -> int:
    """The scalars that an expression consists of, indices left out."""
    return sum(node.dtype is not int64 for node in scalar.walk([e]))


def _when(condition: Expr, body: tuple[Stmt, ...], name: str) -> tuple[Stmt, ...]:
    if condition is TRUE:
        return body
    once = scalar.var(name, low=0, extent=scalar.where(condition, ONE, ZERO))
    return (Loop(Axis(once, once.attr[2]), body),)


def _around(spans: Sequence[Span], body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    for span in reversed(spans):
        if span.extent is not ONE:
            body = (Loop(Axis(span.var, span.extent), body),)
    return body


def _loops(spans: Sequence[Span], store: Store, kind: str) -> tuple[Stmt, ...]:
    """The store inside the loops, the last of the given kind."""
    body: tuple[Stmt, ...] = (store,)
    for span in reversed(spans):
        if span.extent is not ONE:
            body = (Loop(Axis(span.var, span.extent, kind), body),)
            kind = SERIAL
    return body
