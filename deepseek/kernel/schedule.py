"""How a contraction is tiled: form, micro-tile, panels of a task, depth of a panel.

In flow the sizes of its axes and how its operands lie in memory; out flows a Schedule. It depends
on the sizes and on the vector width alone, never on the number of threads, so that results do not
either.

    packed    panels of both operands are copied to scratch, a register tile runs over them
    columns   lanes along the last output axis, a register tile straight on the operands
    sweep     the same for a few rows and a large right operand, read in the order it lies
    rows      lanes along the last summed axis, for operands that both lie along it
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PACKED, COLUMNS, SWEEP, ROWS = "packed", "columns", "sweep", "rows"

Sizes = tuple[int | None, ...]  # None: known at run time only

DEPTH = 1600  # the longest sum whose panels are packed at once
SUPPOSED = 512  # what a size is taken for that is known at run time only
FMAS = 2  # multiply-adds of whole vectors in a cycle
TASK_CYCLES = 4000  # what starting a task costs
# Numbers of threads that a schedule should suit, with weights: what a task packs, others pack too.
THREADS = ((1, 4), (2, 2), (4, 2), (16, 2))
PANEL_ELEMENTS = 1 << 18  # of the left operand that a task keeps packed
SUM_ELEMENTS = 1 << 22  # that wait in a task's scratch for the next panels of their sums
DIRECT_ELEMENTS = 1 << 16  # a right operand of at most so many is read in place
SWEPT = 8  # places of the sum for which a right operand in memory is read at once
FAR = 1 << 18  # elements that hardly stay in a core's own caches
NEAR = 512  # elements that a few lines of a cache hold
MOST_SUMS = 16  # that lanes along the summed axis make at once
THREADED = 32  # lanes that no vector has: those of a warp
ALIASES = 4096  # bytes after which addresses fall into the same sets of a cache


@dataclass(frozen=True)
class Machine:
    """What a micro-tile has to fit: lanes of a vector of the accumulators, and registers. Lanes may
    also be threads, which nothing is packed for."""

    lanes: int
    registers: int
    threads: bool = False


@dataclass(frozen=True)
class Problem:
    """Sizes of the axes, outermost first, and the strides along the last ones (None: not
    constant)."""

    batch: Sizes
    rows: Sizes
    columns: Sizes
    folded: Sizes
    machine: Machine
    fused: bool  # whether the element type has multiply-add panels
    left_along_folded: int | None = None
    right_along_folded: int | None = None
    right_along_columns: int | None = None
    left_guarded: bool = False
    right_guarded: bool = False


@dataclass(frozen=True)
class Schedule:
    """`row_tile` and `column_tile` say how many places of each axis a micro-tile has.

    packed: a micro-tile has `width` columns, of which the tile uses the first; a task makes
    `row_panels` x `column_panels` micro-tiles; sums run over pieces of `block` places of folded
    axis `split` and all of the axes after it; `turned` see `layout`.
    sweep: a task has `width` columns, and sums `block` places at a time.
    """

    form: str
    row_tile: tuple[int, ...]
    column_tile: tuple[int, ...]
    width: int = 0
    lanes: int = 16
    row_panels: int = 1
    column_panels: int = 1
    split: int = 0
    block: int = 1
    turned: bool = False

    @property
    def layout(self) -> list[tuple[int, int]]:
        """Where a panel's columns lie: (axis, places), outermost first.

        A turned operand is read along the summed axis and transposed on the way, squares of
        lanes x lanes at a time: the axis with the most places comes last and is filled up.
        """
        tile = list(enumerate(self.column_tile))
        if not self.turned:
            return tile
        most = self.column_tile.index(max(self.column_tile))
        filled = _filled(self.column_tile[most], self.lanes)
        return [*(t for t in tile if t[0] != most), (most, filled)]

    @property
    def height(self) -> int:
        return math.prod(self.row_tile)


def machine_of(lanes: int, itemsize: int) -> Machine:
    """The machine for accumulators of a size, from its number of float32 lanes."""
    registers = 32 if lanes >= 16 else 16
    return Machine(max(1, lanes * 4 // itemsize), registers, has_threads(lanes))


def has_threads(lanes: int) -> bool:
    """Whether a target with so many float32 lanes has threads for lanes, as GPUs do."""
    return lanes >= THREADED


def schedule_of(p: Problem) -> Schedule:
    """The cheapest schedule."""
    form = _form(p)
    if form == COLUMNS:
        return Schedule(form, _last(p.rows, _column_rows(p)), (1,) * len(p.columns))
    if form == SWEEP:
        width = 1024 if _size(p.columns) >= 4096 else 512
        return Schedule(form, _whole(p.rows), (1,) * len(p.columns), width, block=SWEPT)
    if form == ROWS:
        if _size(p.rows) * _size(p.columns) <= MOST_SUMS:
            return Schedule(form, _whole(p.rows), _whole(p.columns))
        return Schedule(
            form, _last(p.rows, _divisor(p.rows, 4)), _last(p.columns, _divisor(p.columns, 4))
        )
    return _packed(p)


def _whole(sizes: Sizes) -> tuple[int, ...]:
    return tuple(s or 1 for s in sizes)


def _form(p: Problem) -> str:
    m, n, k = _size(p.rows), _size(p.columns), _size(p.folded)
    if not m * n * k:
        return COLUMNS
    long = _run(p.folded) >= 8
    if p.machine.threads:
        lies_along = p.left_along_folded == 1 and p.right_along_folded in (0, 1)
        return ROWS if lies_along and long and p.right_along_columns != 1 else COLUMNS
    if not p.columns:
        return ROWS if p.left_along_folded == 1 == p.right_along_folded and long else COLUMNS
    if not p.fused:
        return COLUMNS
    along = p.left_along_folded == 1 and p.right_along_folded in (0, 1)
    if along and long and 1 < n * m <= MOST_SUMS and n < p.machine.lanes:
        return ROWS
    if along and long and p.right_along_columns != 1 and k >= 32 and m <= 8:
        return ROWS
    if p.left_along_folded == 1 and long and k >= 64 and n <= _shuffled(p):
        return ROWS  # the few columns of the right operand are picked out of whole vectors
    if _sweeps(p, m, n, k):
        return SWEEP
    if p.right_along_columns == 1 and (m <= 4 or k <= 4 or _in_place(p, m, n, k)):
        return COLUMNS
    return PACKED


def _shuffled(p: Problem) -> int:
    """The columns that a right operand whose rows are columns may have to be read along the sum."""
    dense = p.right_along_columns == 1 and p.right_along_folded in range(2, 9)
    return max(4, p.machine.lanes // 2) if dense else 0


def _sweeps(p: Problem, m: int, n: int, k: int) -> bool:
    plain = not p.right_guarded and len(p.folded) == 1 and None not in p.rows
    few = m <= p.machine.registers // 4
    return plain and p.right_along_columns == 1 and few and n * k > FAR and n >= 64


def _in_place(p: Problem, m: int, n: int, k: int) -> bool:
    if None in (*p.rows, *p.columns, *p.folded) or p.right_guarded or p.left_guarded:
        return False
    aliases = p.right_along_folded is None or p.right_along_folded * 4 % ALIASES == 0
    return n * k <= DIRECT_ELEMENTS >> 4 * aliases and n >= p.machine.lanes // 2


def _size(sizes: Sizes) -> int:
    return math.prod(SUPPOSED if s is None else s for s in sizes)


def _last(sizes: Sizes, tile: int) -> tuple[int, ...]:
    return (*[1] * (len(sizes) - 1), tile) if sizes else ()


def _divisor(sizes: Sizes, most: int) -> int:
    """The tile of the last axis: one that leaves no rest, where it is nearly as large as can be."""
    size = sizes[-1] if sizes else 1
    if size is None:
        return most
    best = max((t for t in range(1, most + 1) if size % t == 0), default=1)
    return best if best * 2 > min(most, size) else min(most, size)


def _column_rows(p: Problem) -> int:
    return _divisor(p.rows, 8 if p.machine.registers >= 32 else 4)


# ------------------------------------------------------------------------------------------ packed


@dataclass(frozen=True)
class _Columns:
    """A way to lay micro-tiles over the columns."""

    tile: tuple[int, ...]
    vectors: int
    count: float  # micro-tiles, not rounded up along axes of unknown size
    runs: int  # vectors of neighbours that are stored for each row
    pack: float  # cycles to pack one place of the sum
    turned: bool


def _packed(p: Problem) -> Schedule:
    lanes = p.machine.lanes
    depth = _size(p.folded)
    best: tuple[float, _Columns, tuple[int, ...]] | None = None
    for columns in _column_tiles(p):
        for rows in _row_tiles(p, columns.vectors):
            cost = _cost(p, columns, rows, depth)
            if best is None or cost < best[0]:
                best = cost, columns, rows
    assert best is not None
    _, columns, rows = best
    split, block, panel = _depth(p.folded)
    width = columns.vectors * lanes
    row_panels, column_panels = _task(p, columns, rows, depth, panel)
    return Schedule(
        PACKED, rows, columns.tile, width, lanes, row_panels, column_panels, split, block,
        columns.turned,
    )  # fmt: skip


def _depth(folded: Sizes) -> tuple[int, int, int]:
    """(split axis, its block, places of a panel): as many places as DEPTH allows."""
    inner = 1
    for axis in range(len(folded) - 1, -1, -1):
        size = folded[axis]
        if size is None:
            return axis, max(1, DEPTH // inner), inner * max(1, DEPTH // inner)
        if inner * size > DEPTH:
            pieces = math.ceil(inner * size / DEPTH)
            block = math.ceil(size / min(pieces, size))
            return axis, block, inner * block
        inner *= size
    return 0, folded[0] if folded and folded[0] is not None else 1, inner


def _tiles(sizes: Sizes, most: int) -> Iterator[tuple[int, ...]]:
    """Tiles of at most `most` places over the last three axes; the ones further out get 1."""
    inner = [SUPPOSED if s is None else s for s in sizes[-3:]]
    ranges = [range(1, min(most, max(1, s)) + 1) for s in reversed(inner)]
    outer = [1] * (len(sizes) - len(inner))
    if len(ranges) < 2:
        yield from ((*outer, *t) for t in itertools.product(*ranges))
        return
    for last in ranges[0]:
        for middle in ranges[1]:
            if last * middle > most:
                break
            if len(ranges) == 2:
                yield *outer, middle, last
            else:
                yield *outer, min(ranges[2][-1], most // (last * middle)), middle, last


def _count(sizes: Sizes, tile: Sequence[int]) -> float:
    return math.prod(
        SUPPOSED / t + 0.5 if s is None else math.ceil(s / t)
        for s, t in zip(sizes, tile, strict=True)
    )


def _column_tiles(p: Problem) -> Iterator[_Columns]:
    """The best layouts for each number of vectors."""
    lanes = p.machine.lanes
    for vectors in range(1, 5):
        found = []
        for tile in _tiles(p.columns, vectors * lanes):
            if math.prod(tile) <= (vectors - 1) * lanes:
                continue
            count = _count(p.columns, tile)
            pack, turned = _pack_right(p, tile, vectors)
            slack = 0.0 if math.prod(tile) == vectors * lanes else 0.1
            cost = count * (8 * vectors / FMAS + 0.3 * pack + slack)
            found.append((cost, _Columns(tile, vectors, count, _runs(tile, lanes), pack, turned)))
        yield from (c for _, c in sorted(found, key=lambda f: f[0])[:2])


def _row_tiles(p: Problem, vectors: int) -> Iterator[tuple[int, ...]]:
    """The best layout for each height."""
    most = min((p.machine.registers - vectors - 1) // vectors, 16)
    best: dict[int, tuple[float, tuple[int, ...]]] = {}
    for tile in _tiles(p.rows, most) if p.rows else [()]:
        height = math.prod(tile)
        found = _count(p.rows, tile), tile
        best[height] = min(best.get(height, found), found)
    yield from (tile for _, tile in best.values())


def _cost(p: Problem, columns: _Columns, rows: tuple[int, ...], depth: int) -> float:
    """Cycles of all micro-tiles and of packing the right operand once."""
    height, vectors = math.prod(rows), columns.vectors
    row_count = _count(p.rows, rows)
    step = max(height * vectors / FMAS, 5) + 0.05 * height + 0.3 * vectors
    tiles = row_count * columns.count * (depth * step + 5 * height * columns.runs + 30)
    return tiles + columns.count * depth * columns.pack


def _pack_right(p: Problem, tile: tuple[int, ...], vectors: int) -> tuple[float, bool]:
    """Cycles to pack one place of one panel, and whether that is done by turning."""
    lanes = p.machine.lanes
    places = math.prod(tile)
    slower = 1.6 if p.right_guarded else 1.0
    near = p.right_along_columns is not None and p.right_along_columns * tile[-1] <= NEAR
    straight = 1 + 0.7 * places + 1.2 * (places // tile[-1] if near else places)
    if p.right_along_columns == 1:
        straight = 2 + 5 * slower * _runs(tile, lanes)
    run = _run(p.folded)
    most = max(tile, default=1)
    filled = places // most * _filled(most, lanes)
    if p.right_along_folded != 1 or run == 1 or filled > vectors * lanes:
        return straight, False
    turned = 1 + 0.35 * slower * filled * _filled(run, lanes) / run
    return min((straight, False), (turned, True))


def _runs(tile: tuple[int, ...], lanes: int) -> int:
    """Vectors that a tile's neighbours make."""
    return math.prod(tile[:-1]) * math.ceil(tile[-1] / lanes)


def _run(folded: Sizes) -> int:
    """Places along the last summed axis that a panel has."""
    if not folded:
        return 1
    split, block, _ = _depth(folded)
    size = folded[-1]
    return block if split == len(folded) - 1 or size is None else size


def _filled(places: int, lanes: int) -> int:
    return math.ceil(places / lanes) * lanes


def _pack_left(p: Problem) -> float:
    """Cycles to pack one element."""
    return 0.35 if p.left_along_folded == 1 else 0.8


def _task(
    p: Problem, columns: _Columns, rows: tuple[int, ...], depth: int, panel: int
) -> tuple[int, int]:
    """(row panels, column panels) of a task: what is fast for few threads and for many.

    A larger task packs less, a smaller one is easier to share out. The number of threads must not
    decide, so that a few numbers of them are taken into account.
    """
    height = math.prod(rows)
    row_count, column_count = (math.ceil(c) for c in (_count(p.rows, rows), columns.count))
    batch = _size(p.batch)
    most = max(1, PANEL_ELEMENTS // (height * panel))
    pack_left = height * depth * _pack_left(p)
    pack_right = depth * columns.pack
    step = height * columns.vectors / FMAS * depth
    in_parts = panel < depth or None in p.folded
    sums = height * columns.vectors * p.machine.lanes
    best: tuple[float, int, int] | None = None
    for row_panels in _shares(row_count, most):
        most_columns = max(1, SUM_ELEMENTS // (sums * row_panels)) if in_parts else column_count
        for column_panels in _shares(column_count, most_columns):
            row_pieces = math.ceil(row_count / row_panels)
            tasks = max(1, batch * row_pieces * math.ceil(column_count / column_panels))
            one = row_panels * column_panels * step + column_panels * pack_right + TASK_CYCLES
            cost = 0.0
            for threads, weight in THREADS:
                mine = math.ceil(tasks / threads)
                packed = math.ceil(mine * row_pieces * batch / tasks) if panel >= depth else mine
                cost += weight * (mine * one + packed * row_panels * pack_left)
            if best is None or cost < best[0]:
                best = cost, row_panels, column_panels
    assert best is not None
    return best[1], best[2]


def _shares(count: int, most: int) -> list[int]:
    """Sizes of equal shares of so many panels."""
    shares = {math.ceil(count / pieces) for pieces in range(1, min(count, 64) + 1)}
    return sorted((s for s in shares if s <= most), reverse=True) or [min(most, max(1, count))]
