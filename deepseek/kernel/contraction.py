"""Contractions: what contract regions become.

In flow an evaluator for the region's body; out flows a loop nest in one of three forms (see
`schedule`). Whatever follows the contraction in the region is computed where a sum is stored.
"""

from __future__ import annotations

from dataclasses import replace

from deepseek.ir import scalar
from deepseek.ir.graph import Value
from deepseek.ir.scalar import ONE, TRUE, ZERO, Expr
from deepseek.ir.shape import Shape
from deepseek.kernel.equation import (
    Equation,
    equation_of,
    guarded,
    guarded_variables,
    is_plain,
    joined,
    stride,
)
from deepseek.kernel.evaluate import Evaluator
from deepseek.kernel.ir import (
    SERIAL,
    SHARED,
    VECTOR,
    Axis,
    Buffer,
    Carry,
    Fold,
    Loop,
    Prefetch,
    Stmt,
    Store,
)
from deepseek.kernel.loops import Nest, Span, blocks, ceil_div, grid, is_small, substituted
from deepseek.kernel.packed import packed_nest
from deepseek.kernel.problem import COLUMNS, PACKED, SWEEP, Problem, Schedule, Sizes, machine_of
from deepseek.kernel.schedule import schedule_of

AHEAD = 2  # turns of a sweep that memory is asked for early
ROW_LANES = (
    32  # virtual lanes of a sum along memory: fixed, so that sums do not depend on the machine
)
COLUMN_BLOCK = 256  # columns of a task
MOST_WRITTEN_OUT = 27  # places of a window
ENOUGH_TASKS = 63  # with more of them, a task takes a whole axis of columns


def contract_region(
    ev: Evaluator, shape: Shape, outputs: dict[Value, Buffer], lanes: int = 16
) -> Nest:
    """The nest of a region with one contraction; `lanes` is the target's float32 vector width."""
    equation = equation_of(ev, shape, outputs)
    plan = schedule_of(problem_of(equation, lanes))
    if plan.form == PACKED and plan.column_tile and _waste(equation, plan):
        as_one = joined(equation)
        plan_as_one = schedule_of(problem_of(as_one, lanes))
        if plan_as_one.form == PACKED:
            equation, plan = as_one, plan_as_one
    return nest_of(equation, plan)


def _waste(equation: Equation, plan: Schedule) -> bool:
    """Whether vectors along the last column axis are not filled."""
    return scalar.mod(equation.columns[-1].extent, scalar.const(plan.lanes)) is not ZERO


def nest_of(equation: Equation, plan: Schedule) -> Nest:
    """The nest of an equation under a schedule."""
    if plan.form == PACKED:
        return packed_nest(equation, plan)
    if plan.form == COLUMNS:
        return columns_nest(equation, plan)
    if plan.form == SWEEP:
        return sweep_nest(equation, plan)
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
        machine_of(lanes, dtype.itemsize),
        dtype.is_float or dtype.bits == 32,
        along(equation.left, equation.rows),
        along(equation.left, equation.folded),
        along(equation.right, equation.folded),
        along(equation.right, equation.columns),
        bool(guarded_variables(equation.left)),
        bool(guarded_variables(equation.right)),
        is_plain(equation.left, dtype),
        is_plain(equation.right, dtype),
    )


def sizes_of(spans: list[Span]) -> Sizes:
    return tuple(s.extent.value if s.extent.fn == "const" else None for s in spans)


# ------------------------------------------------------------------- register tiles without packing


def columns_nest(equation: Equation, plan: Schedule) -> Nest:
    """Lanes along the last output axis; each lane sums in order, several rows at once."""
    around = [*equation.batch, *equation.columns]
    lane: Span | None = None
    split: dict[Expr, Expr] = {}
    if around:
        block, lane, split = _block(around.pop(), COLUMN_BLOCK)
        around += block
    outer, places = _tile(equation.rows, plan.row_tile)
    folded, window = _window(equation)
    carries: list[Carry] = []
    stores: list[Store] = []
    for number, (change, guard) in enumerate(places):
        change = change | split
        carries.append(_sum(equation, change, (guard, TRUE), number, window))
        stores += _stores(equation, change, guard, carries[-1].var)
    axes = [Axis(s.var, s.extent, SERIAL) for s in folded] or [_once()]
    body: tuple[Stmt, ...] = (Fold(tuple(axes), tuple(carries)), *stores)
    if lane is not None:
        body = (Loop(Axis(lane.var, lane.extent, VECTOR), body),)
    if len(around) > 1 and not is_small(
        scalar.product(s.extent for s in around[:-1]), ENOUGH_TASKS
    ):
        inner = around.pop()  # whatever only the lanes decide is computed once for this loop
        body = (Loop(Axis(inner.var, inner.extent), body),)
    return Nest(grid([*around, *outer], body))


def _block(span: Span, size: int) -> tuple[list[Span], Span, dict[Expr, Expr]]:
    """A span in blocks of lanes, none where one block is enough."""
    if is_small(span.extent, size):
        return [], span, {}
    block, inside, split = blocks(span, size)
    return [block], inside, split


def sweep_nest(equation: Equation, plan: Schedule) -> Nest:
    """Few rows, and a right operand that comes from memory: it is read in the order it lies.

    A task sweeps over a block of columns again and again, each time for a few more places of the
    sum, which waits in scratch.
    """
    *around, last = [*equation.batch, *equation.columns]
    block, lane, split = _block(last, plan.width)
    (span,) = equation.folded
    number = scalar.var("kb", low=0, extent=ceil_div(span.extent, plan.block))
    places: list[dict[Expr, Expr]] = []
    inside: list[Expr] = []
    for i in range(plan.block):
        k = scalar.add(scalar.mul(number, scalar.const(plan.block)), scalar.const(i))
        places.append({span.var: k})
        inside.append(scalar.call("lt", k, span.extent))
    outer, rows = _tile(equation.rows, plan.row_tile)
    following = {number: scalar.add(number, scalar.const(AHEAD))}
    read = [scalar.substitute(equation.right, split | place) for place in places]
    sums: list[Stmt] = [
        Prefetch(e.name, scalar.substitute(e.args[0], following))
        for e in scalar.walk(read)
        if e.fn == "load" and not scalar.free_of(e.args[0], lane.var)
    ]
    stores: list[Store] = []
    for row, (change, guard) in enumerate(rows):
        change = change | split
        at = scalar.add(scalar.const(row * plan.width), lane.var)
        total = scalar.load("s", equation.dtype, at, scalar.call("lt", ZERO, number))
        for place, within in zip(places, inside, strict=True):
            left, right = (
                guarded(scalar.substitute(e, change | place), scalar.and_(guard, within))
                for e in (equation.left, equation.right)
            )
            total = multiply_add(left, right, total)
        sums.append(Store("s", at, total))
        stores += _stores(equation, change, guard, scalar.load("s", equation.dtype, at))
    axis = Axis(lane.var, lane.extent, VECTOR)
    body = (
        Loop(Axis(number, number.attr[2]), (Loop(axis, tuple(sums)),)),
        Loop(axis, tuple(stores)),
    )
    scratch = Buffer("s", equation.dtype, SHARED, scalar.const(len(rows) * plan.width))
    return Nest(grid([*around, *outer, *block], body), [scratch])


def _window(equation: Equation) -> tuple[list[Span], list[dict[Expr, Expr]]]:
    """The summed axes that stay loops, and the places of those that are written out.

    Small axes that decide whether something is read, as a convolution's window does, are written
    out: what they decide is then computed once for all the others.
    """
    folded = list(equation.folded)
    deciding = guarded_variables(equation.left) | guarded_variables(equation.right)
    places: list[dict[Expr, Expr]] = [{}]
    while folded and folded[-1].var in deciding and folded[-1].extent.fn == "const":
        span = folded[-1]
        if len(places) * span.extent.value > MOST_WRITTEN_OUT:
            break
        folded.pop()
        numbers = range(span.extent.value)
        places = [{span.var: scalar.const(i)} | place for i in numbers for place in places]
    return folded, places


def rows_nest(equation: Equation, plan: Schedule) -> Nest:
    """Lanes along the last summed axis: a tile of rows x columns shares what it loads."""
    outer, row_places = _tile(equation.rows, plan.row_tile)
    more, column_places = _tile(equation.columns, plan.column_tile)
    carries: list[Carry] = []
    stores: list[Store] = []
    for row, row_guard in row_places:
        for column, column_guard in column_places:
            change, guard = row | column, scalar.and_(row_guard, column_guard)
            carry = _sum(equation, change, (row_guard, column_guard), len(carries), [{}])
            carries.append(carry)
            stores += _stores(equation, change, guard, carry.var)
    axes = [Axis(s.var, s.extent, SERIAL) for s in equation.folded[:-1]]
    last = equation.folded[-1]
    axes.append(Axis(last.var, last.extent, VECTOR))
    fold = Fold(tuple(axes), tuple(carries), lanes=ROW_LANES)
    return Nest(grid([*equation.batch, *outer, *more], (fold, *stores)))


def _tile(
    spans: list[Span], tile: tuple[int, ...]
) -> tuple[list[Span], list[tuple[dict[Expr, Expr], Expr]]]:
    """The axes around a tile, and each place in the tile with its guard."""
    outer: list[Span] = []
    places: list[tuple[dict[Expr, Expr], Expr]] = [({}, TRUE)]
    for span, count in zip(spans, tile, strict=True):
        if count == 1:
            outer.append(span)
            continue
        pieces = ceil_div(span.extent, count)
        start = ZERO
        if pieces is not ONE:
            number = scalar.var(f"{span.var.name}t", low=0, extent=pieces)
            outer.append(Span(number, pieces))
            start = scalar.mul(number, scalar.const(count))
        at = [scalar.add(start, scalar.const(i)) for i in range(count)]
        places = [
            (change | {span.var: x}, scalar.and_(guard, scalar.call("lt", x, span.extent)))
            for change, guard in places
            for x in at
        ]
    return outer, places


def _once() -> Axis:
    one = scalar.var("one", low=0, extent=1)
    return Axis(one, scalar.ONE, SERIAL)


def _sum(
    equation: Equation,
    change: dict[Expr, Expr],
    guards: tuple[Expr, Expr],
    number: int,
    window: list[dict[Expr, Expr]],
) -> Carry:
    """One sum of a tile, over the places of a window at each step.

    An operand is read where its own guard holds.
    """
    dtype = equation.dtype
    mine, other = (scalar.var(f"{letter}{number}", dtype) for letter in "st")
    step = mine
    for place in window:
        left, right = (
            guarded(scalar.substitute(e, change | place), guard)
            for e, guard in zip((equation.left, equation.right), guards, strict=True)
        )
        step = multiply_add(left, right, step)
    merge = scalar.call("add", mine, other)
    return Carry(mine, scalar.const(0, dtype), step, other, merge)


def multiply_add(a: Expr, b: Expr, c: Expr) -> Expr:
    """a * b + c, rounded once where the type rounds."""
    if a.dtype.is_float:
        return scalar.call("fma", a, b, c)
    return scalar.call("add", scalar.call("mul", a, b), c)


def _stores(equation: Equation, change: dict[Expr, Expr], guard: Expr, total: Expr) -> list[Store]:
    out = []
    for store in equation.stores:
        moved = substituted(store, change | {equation.total: total})
        value = guarded(moved.value, guard)
        out.append(replace(moved, value=value, guard=scalar.and_(moved.guard, guard)))
    return out
