"""The packed form of a contraction: panels in scratch, a register tile over them.

In flow an Equation and its Schedule; out flows a Nest. Its grid is batch x row pieces x column
pieces; a task packs its rows once, then panel by panel of columns, and for each pair of panels runs
the register tile and computes whatever is stored. Sums longer than a panel wait in scratch between
panels.

    a   row panels     place i, k at i * row + k (along memory), or at k * height + i
    b   one column panel     k * width + j
    c   unfinished sums (only where the sum has several panels)
    acc the register tile    i * width + j
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from deepseek.ir import scalar
from deepseek.ir.scalar import ONE, TRUE, ZERO, Expr, const
from deepseek.kernel.equation import Equation, guarded, guarded_variables, offset_in, stride
from deepseek.kernel.ir import (
    REGISTER,
    SERIAL,
    SHARED,
    UNROLL,
    VECTOR,
    Axis,
    Buffer,
    Let,
    Loop,
    Mma,
    Stmt,
    Store,
)
from deepseek.kernel.loops import Nest, Span, coalesce, grid, substituted
from deepseek.kernel.schedule import Schedule

LINE = 16  # elements that rows of a panel are padded to
UNROLLED = 16  # runs of a panel's columns that are written out


def packed_nest(equation: Equation, plan: Schedule) -> Nest:
    """The nest of an equation under a packed schedule."""
    return _Packed(equation, plan).nest()


@dataclass(frozen=True)
class Tiling:
    """One side's axes cut into panels of `tile` places, numbered along the last axis first."""

    name: str
    spans: list[Span]
    tile: tuple[int, ...]

    def counts(self) -> list[Expr]:
        return [_pieces(s.extent, t) for s, t in zip(self.spans, self.tile, strict=True)]

    def total(self) -> Expr:
        return scalar.product(self.counts())

    def start(self, panel: Expr) -> tuple[list[Let], list[Expr]]:
        """Where a panel begins on each axis."""
        lets: list[Let] = []
        places: list[Expr] = []
        rest = panel
        for number in range(len(self.spans) - 1, -1, -1):
            count = self.counts()[number]
            at = rest if number == 0 else scalar.mod(rest, count)
            rest = ZERO if number == 0 else scalar.floordiv(rest, count)
            if count is ONE:
                places.insert(0, ZERO)
                continue
            coordinate = scalar.var(f"{self.name}p{number}", low=0, extent=count)
            lets.append(Let(coordinate, at))
            places.insert(0, scalar.mul(coordinate, const(self.tile[number])))
        return lets, places

    def inside(self, start: Sequence[Expr], whole: bool) -> list[Span]:
        """The places of a panel: all of the tile, or only those that the axes have."""
        spans = []
        for number, (s, t, at) in enumerate(zip(self.spans, self.tile, start, strict=True)):
            extent = const(t)
            if not whole and not _divides(s.extent, t):
                extent = scalar.minimum(extent, scalar.sub(s.extent, at))
            var = scalar.var(f"{self.name}q{number}", low=0, extent=extent)
            spans.append(Span(var if t > 1 else ZERO, extent))
        return spans

    def at(self, start: Sequence[Expr], inside: Sequence[Span]) -> dict[Expr, Expr]:
        """The axes' variables at a place of a panel."""
        return {
            s.var: scalar.add(a, q.var) for s, a, q in zip(self.spans, start, inside, strict=True)
        }

    def guard(self, where: dict[Expr, Expr]) -> Expr:
        """Whether a place of a panel is one of the axes."""
        parts = [
            scalar.call("lt", where[s.var], s.extent)
            for s, t in zip(self.spans, self.tile, strict=True)
            if not _divides(s.extent, t)
        ]
        return scalar.and_(*parts)


@dataclass(frozen=True)
class Depth:
    """The part of the folded axes that one panel sums over."""

    lets: list[Let]
    change: dict[Expr, Expr]  # the folded variables there
    spans: list[Span]  # the places of a panel
    number: Expr  # of the part
    count: Expr  # of parts

    @property
    def length(self) -> Expr:
        return scalar.product(s.extent for s in self.spans)

    @property
    def position(self) -> Expr:
        return offset_in([s.var for s in self.spans], [s.extent for s in self.spans])


class _Packed:
    def __init__(self, equation: Equation, plan: Schedule) -> None:
        self.equation = equation
        self.plan = plan
        self.rows = Tiling("m", equation.rows, plan.row_tile)
        self.columns = Tiling("n", equation.columns, plan.column_tile)
        self.depth = self._depth()
        inner = [s.extent.value for s in equation.folded[plan.split + 1 :]]
        self.longest = plan.block * math.prod(inner)
        self.by_rows = self._along_memory()
        if self.by_rows:
            lines = -(-self.longest // LINE)
            self.row = LINE * (lines + 1 - lines % 2)  # rows begin in different sets of a cache
        else:
            self.row = 1
        self.layout = plan.layout
        self.panel = plan.height * (self.row if self.by_rows else self.longest)
        self.dtype = equation.dtype

    def _depth(self) -> Depth:
        folded, plan = self.equation.folded, self.plan
        if not folded:
            return Depth([], {}, [], ZERO, ONE)
        outer, split, inner = folded[: plan.split], folded[plan.split], folded[plan.split + 1 :]
        pieces = _pieces(split.extent, plan.block)
        count = scalar.product([*(s.extent for s in outer), pieces])
        number = ZERO if count is ONE else scalar.var("kb", low=0, extent=count)
        lets: list[Let] = []
        change: dict[Expr, Expr] = {}
        piece = ZERO if pieces is ONE else scalar.mod(number, pieces) if outer else number
        rest = scalar.floordiv(number, pieces)
        for s in reversed(outer):
            lets.append(Let(s.var, rest if s is outer[0] else scalar.mod(rest, s.extent)))
            rest = scalar.floordiv(rest, s.extent)
        if pieces is not ONE and outer:
            bound = scalar.var("ks", low=0, extent=pieces)
            lets.append(Let(bound, piece))
            piece = bound
        start = scalar.mul(piece, const(plan.block))
        length = const(plan.block)
        if not _divides(split.extent, plan.block):
            length = scalar.minimum(length, scalar.sub(split.extent, start))
        place = ZERO if length is ONE else scalar.var("ki", low=0, extent=length)
        change[split.var] = scalar.add(start, place)
        return Depth(lets, change, [Span(place, length), *inner], number, count)

    def _along_memory(self) -> bool:
        """Whether the left panels are better copied row by row."""
        equation = self.equation
        folded = equation.folded
        if not folded or stride(equation.left, folded[-1].var) != 1:
            return False
        rows = equation.rows
        return not rows or stride(equation.left, rows[-1].var) != 1

    def _column(self, inside: Sequence[Span]) -> Expr:
        """The number of a column in its panel."""
        return offset_in([inside[axis].var for axis, _ in self.layout], [n for _, n in self.layout])

    # ----------------------------------------------------------------------------------- the nest

    def nest(self) -> Nest:
        plan = self.plan
        mt, row_pieces, row_count = self._task("mt", self.rows, plan.row_panels)
        nt, column_pieces, column_count = self._task("nt", self.columns, plan.column_panels)
        row_panel = scalar.var("pm", low=0, extent=row_count)
        column_panel = scalar.var("pn", low=0, extent=column_count)
        m_panel = scalar.add(scalar.mul(mt, const(plan.row_panels)), row_panel)
        n_panel = scalar.add(scalar.mul(nt, const(plan.column_panels)), column_panel)
        m_lets, m_start = self.rows.start(m_panel)
        n_lets, n_start = self.columns.start(n_panel)

        slot = scalar.add(scalar.mul(column_panel, const(plan.row_panels)), row_panel)
        tile = self._tile(row_panel, slot, m_start, n_start)
        body: tuple[Stmt, ...] = (
            Loop(Axis(row_panel, row_count), (*m_lets, *self._pack_left(row_panel, m_start))),
            Loop(
                Axis(column_panel, column_count),
                (
                    *n_lets,
                    *self._pack_right(n_start),
                    Loop(Axis(row_panel, row_count), (*m_lets, *tile)),
                ),
            ),
        )
        depth = self.depth
        body = (*depth.lets, *body)
        if depth.count is not ONE:
            body = (Loop(Axis(depth.number, depth.count), body),)
        body = (*self._clear_right(), *body)
        tasks = [s for s in (Span(mt, row_pieces), Span(nt, column_pieces)) if s.extent is not ONE]
        return Nest(grid([*self.equation.batch, *tasks], body), self._scratch())

    def _task(self, name: str, tiling: Tiling, panels: int) -> tuple[Expr, Expr, Expr]:
        """A grid axis over a side's panels: its variable, its extent, and the panels of a task."""
        total = tiling.total()
        pieces = _pieces(total, panels)
        task = ZERO if pieces is ONE else scalar.var(name, low=0, extent=pieces)
        left = scalar.sub(total, scalar.mul(task, const(panels)))
        count = const(panels) if _divides(total, panels) else scalar.minimum(const(panels), left)
        return task, pieces, count

    def _scratch(self) -> list[Buffer]:
        plan, dtype = self.plan, self.dtype
        tile = plan.height * plan.width
        out = [
            Buffer("a", dtype, SHARED, const(self.panel * plan.row_panels)),
            Buffer("b", dtype, SHARED, const(self.longest * plan.width)),
            Buffer("acc", dtype, REGISTER, const(tile)),
        ]
        if self.depth.count is not ONE:
            size = tile * plan.row_panels * plan.column_panels
            out.append(Buffer("c", dtype, SHARED, const(size)))
        return out

    # ------------------------------------------------------------------------------------ packing

    def _pack_left(self, panel: Expr, start: list[Expr]) -> tuple[Stmt, ...]:
        inside = self.rows.inside(start, whole=True)
        where = self.rows.at(start, inside)
        value = scalar.substitute(self.equation.left, where | self.depth.change)
        value = guarded(value, self.rows.guard(where))
        i = offset_in([q.var for q in inside], [q.extent for q in inside])
        base = scalar.mul(panel, const(self.panel))
        if self.by_rows:
            at = scalar.add(scalar.add(base, scalar.mul(i, const(self.row))), self.depth.position)
            places = [s for s in self.depth.spans if s.extent is not ONE]
            depth, change = coalesce(places, [value], [at])
            store = substituted(Store("a", at, value), change)
            return _loops([*inside, *depth], store, VECTOR)
        k = scalar.mul(self.depth.position, const(self.plan.height))
        at = scalar.add(scalar.add(base, k), i)
        return _loops([*self.depth.spans, *inside], Store("a", at, value), VECTOR)

    def _pack_right(self, start: list[Expr]) -> tuple[Stmt, ...]:
        if self.plan.turned:
            return self._turn_right(start)
        inside = self.columns.inside(start, whole=True)
        where = self.columns.at(start, inside)
        value = scalar.substitute(self.equation.right, where | self.depth.change)
        value = guarded(value, self.columns.guard(where))
        k = scalar.mul(self.depth.position, const(self.plan.width))
        at = scalar.add(k, self._column(inside))
        # What decides whether something is read goes outside: it is computed once for all others.
        deciding = guarded_variables(value)
        depth = sorted(self.depth.spans, key=lambda s: s.var not in deciding)
        written_out = math.prod(q.extent.value for q in inside[:-1]) <= UNROLLED
        kind = UNROLL if written_out else SERIAL
        body: tuple[Stmt, ...] = (Store("b", at, value),)
        runs = [q for q in inside if q.extent is not ONE]
        for number, q in enumerate(reversed(runs)):
            body = (Loop(Axis(q.var, q.extent, kind if number else VECTOR), body),)
        return _around(depth, body)

    def _turn_right(self, start: list[Expr]) -> tuple[Stmt, ...]:
        """Lanes along the last summed axis, `lanes` columns written out."""
        lanes = self.plan.lanes
        inside = self.columns.inside(start, whole=True)
        axis, places = self.layout[-1]
        squares = places // lanes
        square = ZERO if squares == 1 else scalar.var("nh", low=0, extent=squares)
        column = scalar.var("nl", low=0, extent=lanes)
        number = scalar.add(scalar.mul(square, const(lanes)), column)
        inside[axis] = Span(number, const(places))
        where = self.columns.at(start, inside)
        span = self.columns.spans[axis]
        guard = scalar.and_(
            self.columns.guard(where), scalar.call("lt", where[span.var], span.extent)
        )
        value = scalar.substitute(self.equation.right, where | self.depth.change)
        k = scalar.mul(self.depth.position, const(self.plan.width))
        store = Store("b", scalar.add(k, self._column(inside)), guarded(value, guard))
        body: tuple[Stmt, ...] = (Loop(Axis(column, const(lanes), UNROLL), (store,)),)
        *outer, last = self.depth.spans
        body = (Loop(Axis(last.var, last.extent, VECTOR), body),)
        others = [q for number, q in enumerate(inside) if number != axis]
        return _around([*outer, *others, Span(square, const(squares))], body)

    def _clear_right(self) -> tuple[Stmt, ...]:
        """Columns that the tile does not use are summed all the same: they hold zeros."""
        if math.prod(size for _, size in self.layout) == self.plan.width:
            return ()
        size = self.longest * self.plan.width
        at = scalar.var("e", low=0, extent=size)
        return (Loop(Axis(at, const(size), VECTOR), (Store("b", at, const(0, self.dtype)),)),)

    # ----------------------------------------------------------------------------- a register tile

    def _tile(
        self, panel: Expr, slot: Expr, m_start: list[Expr], n_start: list[Expr]
    ) -> tuple[Stmt, ...]:
        plan, depth = self.plan, self.depth
        size = plan.height * plan.width
        e = scalar.var("e", low=0, extent=size)
        kept = scalar.add(scalar.mul(slot, const(size)), e)
        first: Expr = const(0, self.dtype)
        last = TRUE
        save: tuple[Stmt, ...] = ()
        if depth.count is not ONE:
            later = scalar.call("lt", ZERO, depth.number)
            first = scalar.load("c", self.dtype, kept, later)
            last = scalar.call("eq", depth.number, scalar.sub(depth.count, ONE))
            done = Store("c", kept, scalar.load("acc", self.dtype, e), scalar.not_(last))
            save = (Loop(Axis(e, const(size), VECTOR), (done,)),)
        mma = Mma(
            "acc", "a", scalar.mul(panel, const(self.panel)), "b", ZERO, depth.length,
            plan.height, plan.width, self.row, 1 if self.by_rows else plan.height,
        )  # fmt: skip
        begin = Loop(Axis(e, const(size), VECTOR), (Store("acc", e, first),))
        return (begin, mma, *save, *self._finish(m_start, n_start, last))

    def _finish(self, m_start: list[Expr], n_start: list[Expr], last: Expr) -> tuple[Stmt, ...]:
        """Store what the register tile's sums become, after the last part of the sum."""
        rows = self.rows.inside(m_start, whole=False)
        columns = self.columns.inside(n_start, whole=False)
        change = self.rows.at(m_start, rows) | self.columns.at(n_start, columns)
        i = offset_in([q.var for q in rows], self.plan.row_tile)
        at = scalar.add(scalar.mul(i, const(self.plan.width)), self._column(columns))
        change[self.equation.total] = scalar.load("acc", self.dtype, at)
        stores = tuple(substituted(s, change) for s in self.equation.stores)
        body: tuple[Stmt, ...] = stores
        kind = VECTOR
        for q in reversed([*rows, *columns]):
            if q.extent is not ONE:
                body = (Loop(Axis(q.var, q.extent, kind), body),)
                kind = SERIAL
        if last is TRUE:
            return body
        once = scalar.var("once", low=0, extent=scalar.where(last, ONE, ZERO))
        return (Loop(Axis(once, once.attr[2]), body),)


def _pieces(extent: Expr, by: int) -> Expr:
    return scalar.floordiv(scalar.add(extent, const(by - 1)), const(by))


def _divides(extent: Expr, by: int) -> bool:
    return scalar.mod(extent, const(by)) is ZERO


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
