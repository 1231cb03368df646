"""Contractions: what contract regions become.

In flow an evaluator for the region's body; out flows a loop nest in one of three forms (see `schedule`).
Whatever follows the contraction in the region is computed where a sum is stored.
"""

from __future__ import annotations

from dataclasses import replace

from deepseek.ir import scalar
from deepseek.ir.graph import Value
from deepseek.ir.scalar import TRUE, Expr
from deepseek.ir.shape import Shape
from deepseek.kernel import schedule
from deepseek.kernel.equation import Equation, equation_of, guarded, guarded_variables, stride
from deepseek.kernel.evaluate import Evaluator
from deepseek.kernel.ir import (
    SERIAL,
    VECTOR,
    Axis,
    Buffer,
    Carry,
    Fold,
    Loop,
    Stmt,
    Store,
)
from deepseek.kernel.loops import Nest, Span, blocks, ceil_div, grid, is_small, substituted
from deepseek.kernel.packed import packed_nest
from deepseek.kernel.schedule import Problem, Schedule, Sizes

ROW_LANES = 32  # virtual lanes of a sum along memory: fixed, so that sums do not depend on the machine
COLUMN_BLOCK = 256  # columns of a task


def contract_region(
    ev: Evaluator, shape: Shape, outputs: dict[Value, Buffer], lanes: int = 16
) -> Nest:
    """The nest of a region with one contraction; `lanes` is the target's float32 vector width."""
    equation = equation_of(ev, shape, outputs)
    plan = schedule.schedule_of(problem_of(equation, lanes))
    return nest_of(equation, plan)


def nest_of(equation: Equation, plan: Schedule) -> Nest:
    """The nest of an equation under a schedule."""
    if plan.form == schedule.PACKED:
        return packed_nest(equation, plan)
    if plan.form == schedule.COLUMNS:
        return columns_nest(equation, plan)
    return rows_nest(equation, plan)


def problem_of(equation: Equation, lanes: int) -> Problem:
    """What the schedule is chosen from."""
    dtype = equation.dtype

    def along(e: Expr, spans: list[Span]) -> int | None:
        return stride(e, spans[-1].var) if spans else 0

    return Problem(
        sizes_of(equation.batch),
        sizes_of(equation.rows),
        sizes_of(equation.columns),
        sizes_of(equation.folded),
        schedule.machine_of(lanes, dtype.itemsize),
        dtype.is_float or dtype.bits == 32,
        along(equation.left, equation.folded),
        along(equation.right, equation.folded),
        along(equation.right, equation.columns),
        bool(guarded_variables(equation.left)),
        bool(guarded_variables(equation.right)),
    )


def sizes_of(spans: list[Span]) -> Sizes:
    return tuple(s.extent.value if s.extent.fn == "const" else None for s in spans)


# ------------------------------------------------------------------- register tiles without packing


def columns_nest(equation: Equation, plan: Schedule) -> Nest:
    """Lanes along the last output axis; each lane sums in order, several rows at once."""
    *around, last = [*equation.batch, *equation.columns] or [None]
    lane = split = None
    if last is not None:
        block, lane, split = _block(last)
        around += block
    outer, places = _tile(equation.rows, plan.row_tile[-1] if equation.rows else 1)
    carries: list[Carry] = []
    stores: list[Store] = []
    for number, (change, guard) in enumerate(places):
        change = change | (split or {})
        carries.append(_sum(equation, change, guard, number))
        stores += _stores(equation, change, guard, carries[-1].var)
    axes = [Axis(s.var, s.extent, SERIAL) for s in equation.folded] or [_once()]
    body: tuple[Stmt, ...] = (Fold(tuple(axes), tuple(carries)), *stores)
    if lane is not None:
        body = (Loop(Axis(lane.var, lane.extent, VECTOR), body),)
    return Nest(grid([*around, *outer], body))


def _block(span: Span) -> tuple[list[Span], Span, dict[Expr, Expr]]:
    """A span in blocks of lanes, none where one block is enough."""
    if is_small(span.extent, COLUMN_BLOCK):
        return [], span, {}
    block, inside, split = blocks(span, COLUMN_BLOCK)
    return [block], inside, split


def rows_nest(equation: Equation, plan: Schedule) -> Nest:
    """Lanes along the last summed axis: a tile of rows x columns shares what it loads."""
    outer, row_places = _tile(equation.rows, plan.row_tile[-1] if equation.rows else 1)
    more, column_places = _tile(equation.columns, plan.column_tile[-1] if equation.columns else 1)
    carries: list[Carry] = []
    stores: list[Store] = []
    for row, row_guard in row_places:
        for column, column_guard in column_places:
            change, guard = row | column, scalar.and_(row_guard, column_guard)
            carry = _sum(equation, change, (row_guard, column_guard), len(carries))
            carries.append(carry)
            stores += _stores(equation, change, guard, carry.var)
    axes = [Axis(s.var, s.extent, SERIAL) for s in equation.folded[:-1]]
    last = equation.folded[-1]
    axes.append(Axis(last.var, last.extent, VECTOR))
    fold = Fold(tuple(axes), tuple(carries), lanes=ROW_LANES)
    return Nest(grid([*equation.batch, *outer, *more], (fold, *stores)))


def _tile(spans: list[Span], count: int) -> tuple[list[Span], list[tuple[dict[Expr, Expr], Expr]]]:
    """The axes around a tile along the last of `spans`, and each place in it with its guard."""
    if not spans:
        return [], [({}, TRUE)]
    *outer, last = spans
    if count == 1:
        return spans, [({}, TRUE)]
    number = scalar.var(f"{last.var.name}t", low=0, extent=ceil_div(last.extent, count))
    places: list[tuple[dict[Expr, Expr], Expr]] = []
    for i in range(count):
        at = scalar.add(scalar.mul(number, scalar.const(count)), scalar.const(i))
        places.append(({last.var: at}, scalar.call("lt", at, last.extent)))
    return [*outer, Span(number, ceil_div(last.extent, count))], places


def _once() -> Axis:
    one = scalar.var("one", low=0, extent=1)
    return Axis(one, scalar.ONE, SERIAL)


def _sum(
    equation: Equation, change: dict[Expr, Expr], guard: Expr | tuple[Expr, Expr], number: int
) -> Carry:
    """One sum of a tile; an operand is read where its own part of the guard holds."""
    guards = guard if isinstance(guard, tuple) else (guard, TRUE)
    left, right = (
        guarded(scalar.substitute(e, change), g)
        for e, g in zip((equation.left, equation.right), guards, strict=True)
    )
    dtype = equation.dtype
    mine, other = (scalar.var(f"{letter}{number}", dtype) for letter in "st")
    return Carry(
        mine,
        scalar.const(0, dtype),
        multiply_add(left, right, mine),
        other,
        scalar.call("add", mine, other),
    )


def multiply_add(a: Expr, b: Expr, c: Expr) -> Expr:
    """a * b + c, rounded once where the type rounds."""
    if a.dtype.is_float:
        return scalar.call("fma", a, b, c)
    return scalar.call("add", scalar.call("mul", a, b), c)


def _stores(
    equation: Equation, change: dict[Expr, Expr], guard: Expr, total: Expr
) -> list[Store]:
    out = []
    for store in equation.stores:
        moved = substituted(store, change | {equation.total: total})
        value = guarded(moved.value, guard)
        out.append(replace(moved, value=value, guard=scalar.and_(moved.guard, guard)))
    return out


