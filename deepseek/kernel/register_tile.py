"""How a contraction in the packed form is tiled: micro-tile, panels of a task, what is packed.

In flow a Problem; out flows the Schedule that costs the fewest cycles, by rates that were measured
for tiles whose operands are near. Numbers of threads play no part but as a mixture.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deepseek.kernel.problem import (
    PACKED,
    SUPPOSED,
    Problem,
    Schedule,
    Sizes,
    depth_of,
    filled,
    run_of,
    size_of,
)

FMAS = 2  # multiply-adds of whole vectors in a cycle
LOADS = 2  # loads of whole vectors in a cycle
CHAINS = 16  # sums that are under way at once where multiply-adds need not wait for each other
STREAMS = 8  # rows that are read side by side as fast as one
TILE_CYCLES = 60  # what a micro-tile takes beside its sums
SECOND_TILE = 1.01  # a rest has to gain so much: it takes as much text again
TASK_CYCLES = 4000  # what starting a task costs
# Numbers of threads that a schedule should suit, with weights: what a task packs, others pack too.
THREADS = ((1, 4), (2, 2), (4, 2), (16, 2))
PANEL_ELEMENTS = 1 << 18  # of the left operand that a task keeps packed
SUM_ELEMENTS = 1 << 22  # that wait in a task's scratch for the next panels of their sums
FAR = 1 << 18  # elements that hardly stay in a core's own caches
FAR_CYCLES = 4  # to fetch one place of a panel from further out
NEAR = 512  # elements that a few lines of a cache hold
SET_ELEMENTS = 1 << 15  # after so many, addresses fall into the same sets of a core's caches
WAYS = 16  # that such a set has


@dataclass(frozen=True)
class _Columns:
    """A way to lay micro-tiles over the columns."""

    tile: tuple[int, ...]
    vectors: int
    rest: int  # columns of the last micro-tiles along the last axis; 0: as many as the others
    count: float  # micro-tiles, not rounded up along axes of unknown size; without those of a rest
    rests: float  # micro-tiles of a rest
    in_place: bool
    pack: float  # cycles to pack one place of the sum, for all columns
    turned: bool


def register_tile(p: Problem) -> Schedule:
    """The cheapest schedule in the packed form."""
    best: tuple[float, _Columns, tuple[int, ...]] | None = None
    for columns in _column_tiles(p):
        for rows in _row_tiles(p, columns.vectors):
            cost = _cost(p, columns, rows)
            if best is None or cost < best[0]:
                best = cost, columns, rows
    assert best is not None
    _, columns, rows = best
    split, block, panel = depth_of(p.folded)
    width = columns.vectors * p.machine.lanes
    row_panels, column_panels = _task(p, columns, rows, panel)
    return Schedule(
        PACKED, rows, columns.tile, width, p.machine.lanes, row_panels, column_panels, split, block,
        columns.turned, columns.rest, _left_in_place(p, rows), columns.in_place,
    )  # fmt: skip


# ------------------------------------------------------------------------------------ micro-tiles


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
    """The best layouts for each number of vectors, packed and in place."""
    lanes = p.machine.lanes
    for vectors in range(1, 5):
        found = []
        for tile in _tiles(p.columns, vectors * lanes):
            if math.prod(tile) > (vectors - 1) * lanes:
                columns = _packed_columns(p, tile, vectors)
                full = columns.count * vectors * lanes + columns.rests * filled(columns.rest, lanes)
                slack = 0.1 * (columns.count if math.prod(tile) < vectors * lanes else 0)
                found.append((full * 8 / lanes / FMAS + 0.3 * columns.pack + slack, columns))
        yield from (c for _, c in sorted(found, key=lambda f: f[0])[:2])
        if _right_in_place(p):
            yield _columns_in_place(p, vectors)


def _packed_columns(p: Problem, tile: tuple[int, ...], vectors: int) -> _Columns:
    lanes = p.machine.lanes
    count, rests, rest = _count(p.columns, tile), 0.0, 0
    size = p.columns[-1] if p.columns else None
    if size is not None and max(tile[:-1], default=1) == 1 and tile[-1] == vectors * lanes:
        rest = size % tile[-1]
        if filled(rest, lanes) == tile[-1]:
            rest = 0
    if rest and size is not None:
        rests = count / math.ceil(size / tile[-1])
        count -= rests
    cycles, turned = _pack_right(p, tile, vectors)
    pack = count * cycles
    if rest:
        pack += rests * _pack_right(p, (*tile[:-1], rest), filled(rest, lanes) // lanes)[0]
    return _Columns(tile, vectors, rest, count, rests, False, pack, turned)


def _columns_in_place(p: Problem, vectors: int) -> _Columns:
    size = p.columns[-1]
    assert size is not None
    last = min(size, vectors * p.machine.lanes)
    others = _count(p.columns[:-1], [1] * (len(p.columns) - 1))
    rest = size % last
    tile = (*[1] * (len(p.columns) - 1), last)
    return _Columns(
        tile, math.ceil(last / p.machine.lanes), rest, others * (size // last),
        others * (rest > 0), True, 0.0, False,
    )  # fmt: skip


def _right_in_place(p: Problem) -> bool:
    """Whether a micro-tile may read the right operand where it lies."""
    if not p.right_plain or p.right_along_columns != 1 or None in p.columns:
        return False
    return len(p.folded) == 1 and _spread(p.right_along_folded, p.folded)


def _left_in_place(p: Problem, rows: Sequence[int]) -> bool:
    """The same for the left one, which has its places along the last axis only."""
    if not p.left_plain or not p.rows or None in p.rows or max(rows[:-1], default=1) > 1:
        return False
    if p.left_along_rows is None or p.left_along_folded is None or len(p.folded) != 1:
        return False
    return p.left_along_folded == 1 or _spread(p.left_along_folded, p.folded)


def _spread(stride: int | None, folded: Sizes) -> bool:
    """Whether what a sum reads with a stride does not fall into a few sets of the caches."""
    if stride is None:
        return False
    sets = SET_ELEMENTS // math.gcd(stride, SET_ELEMENTS)
    return size_of(folded) <= sets * WAYS


def _row_tiles(p: Problem, vectors: int) -> Iterator[tuple[int, ...]]:
    """The best layout for each height."""
    most = min((p.machine.registers - vectors - 1) // vectors, 28)
    best: dict[int, tuple[float, tuple[int, ...]]] = {}
    for tile in _tiles(p.rows, most) if p.rows else [()]:
        height = math.prod(tile)
        found = _count(p.rows, tile), tile
        best[height] = min(best.get(height, found), found)
    yield from (tile for _, tile in best.values())


# ------------------------------------------------------------------------------------------ costs


def _cost(p: Problem, columns: _Columns, rows: tuple[int, ...]) -> float:
    """Cycles of all micro-tiles and of packing both operands once."""
    depth = size_of(p.folded)
    height, lanes = math.prod(rows), p.machine.lanes
    tiles = columns.count * _tile_cost(columns, height, columns.vectors, depth)
    if columns.rest:
        vectors = filled(columns.rest, lanes) // lanes
        tiles += columns.rests * _tile_cost(columns, height, vectors, depth)
        tiles *= SECOND_TILE
    pack = depth * columns.pack
    if columns.in_place and depth * size_of(p.columns) > FAR:
        pack += FAR_CYCLES * depth * (columns.count + columns.rests)
    if not _left_in_place(p, rows):
        pack += size_of(p.rows) * depth * _pack_left(p)
    return _count(p.rows, rows) * tiles + pack


def _tile_cost(columns: _Columns, height: int, vectors: int, depth: int) -> float:
    runs = math.prod(columns.tile[:-1]) * vectors
    return depth * _step(height, vectors, columns.in_place) + TILE_CYCLES + 3 * height * runs


def _step(height: int, vectors: int, in_place: bool) -> float:
    """Cycles of one place of the sum: vectors that are read in place lie on two lines."""
    multiplied = height * vectors
    loaded = height + vectors * (2 if in_place else 1)
    waiting = 0.13 * max(0, CHAINS - multiplied) + 0.06 * max(0, height - STREAMS)
    return max(multiplied / FMAS, loaded / LOADS) + waiting + 0.3 + 0.1 * vectors * in_place


def _pack_right(p: Problem, tile: tuple[int, ...], vectors: int) -> tuple[float, bool]:
    """Cycles to pack one place of one panel, and whether that is done by turning."""
    lanes = p.machine.lanes
    places = math.prod(tile)
    slower = 1.6 if p.right_guarded else 1.0
    near = p.right_along_columns is not None and p.right_along_columns * tile[-1] <= NEAR
    straight = 1 + 0.7 * places + 1.2 * (places // tile[-1] if near else places)
    if p.right_along_columns == 1:
        straight = 1 + 3.5 * slower * math.prod(tile[:-1]) * math.ceil(tile[-1] / lanes)
    run = run_of(p.folded)
    most = max(tile, default=1)
    whole = places // most * filled(most, lanes)
    if p.right_along_folded != 1 or run == 1 or whole > vectors * lanes:
        return straight, False
    turned = 1 + 0.35 * slower * whole * filled(run, lanes) / run
    return min((straight, False), (turned, True))


def _pack_left(p: Problem) -> float:
    """Cycles to pack one element."""
    return 0.35 if p.left_along_folded == 1 else 0.8


# ------------------------------------------------------------------------------------------ tasks


def _task(p: Problem, columns: _Columns, rows: tuple[int, ...], panel: int) -> tuple[int, int]:
    """(row panels, column panels) of a task: what is fast for few threads and for many.

    A larger task packs less, a smaller one is easier to share out. The number of threads must not
    decide, so that a few numbers of them are taken into account.
    """
    depth = size_of(p.folded)
    height = math.prod(rows)
    row_count = math.ceil(_count(p.rows, rows))
    column_count = math.ceil(columns.count + columns.rests)
    batch = size_of(p.batch)
    in_place = _left_in_place(p, rows)
    most = row_count if in_place else max(1, PANEL_ELEMENTS // (height * panel))
    pack_left = 0.0 if in_place else height * depth * _pack_left(p)
    pack_right = depth * columns.pack / column_count
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
