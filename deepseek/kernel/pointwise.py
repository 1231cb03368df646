"""Pointwise regions: one value per domain index.

In flow an evaluator and the outputs of a region; out flows a Nest. Where one axis is left after
merging, its length is an argument and sizes share the kernel. Operands that lie across the output,
as in a transposed copy, are read a tile at a time along their own memory and turned in scratch.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import NamedTuple

from deepseek.ir import scalar
from deepseek.ir.access import axes_of, linear
from deepseek.ir.dtype import bool_, int64
from deepseek.ir.graph import Value
from deepseek.ir.scalar import ONE, Expr, const
from deepseek.ir.shape import Shape
from deepseek.kernel import polyfill
from deepseek.kernel.ahead import large_operands, rows_to_come
from deepseek.kernel.evaluate import Evaluator
from deepseek.kernel.ir import SHARED, UNROLL, VECTOR, Axis, Buffer, Loop, Prefetch, Stmt, Store
from deepseek.kernel.loops import (
    Nest,
    Span,
    blocks,
    coalesce,
    grid,
    is_small,
    nest,
    spans_of,
    store_to,
    substituted,
    together,
    with_length,
)
from deepseek.kernel.problem import has_threads
from deepseek.kernel.streaming import CACHED_BYTES

BLOCK = 4096  # elements of a one-dimensional grid task
ROW = 64  # elements of a row that are a task of its own where lanes are threads
NARROW = 8  # an axis of fewer places fills no tile
MOST_PIECES = 5  # that an axis is cut into
MOST_TEXT = 256  # instructions of an element, written out for all pieces or places


class Tile(NamedTuple):
    """Places of a tile along the memory of the operands that are turned, and along the output's.

    In scratch, `pitch` elements lie between one row and the next.
    """

    along: int
    across: int
    pitch: int


TILE = Tile(128, 64, 64)
DISTANT_TILE = Tile(256, 32, 32)  # where both are in memory: fewer pages at once are read from
# Threads along a column of a tile would meet in one bank of memory, were rows not of odd length.
THREADS_TILE = Tile(64, 64, 65)


def pointwise(ev: Evaluator, shape: Shape, outputs: dict[Value, Buffer], lanes: int) -> Nest:
    """The nest; `lanes` is the target's float32 vector width."""
    index = axes_of(shape)
    offset = linear(index, shape)
    stores = [store_to(buffer, offset, ev.at(value, index)) for value, buffer in outputs.items()]
    spans, change = coalesce(spans_of(shape), [s.value for s in stores], [offset])
    stores = [substituted(s, change) for s in stores]
    if not spans:
        return Nest(together(stores))
    if len(spans) == 1:
        return _flat(spans[0], stores)
    across = _crossing(spans, stores)
    if across is not None:
        return _turned(spans, across, stores, lanes, large_operands(ev))
    if len(stores) == 1 and _is_written_out(spans[-1], stores[0]):
        return _interleaved(spans, stores[0])
    wide = 1 if len(spans) == 2 or not is_small(spans[0].extent, 15) else 2
    large = large_operands(ev)
    pieces = _pieces(spans[-1], stores)
    if has_threads(lanes):  # conditions cost them little, rows are tasks, and nothing is asked for
        wide = len(spans) - 1 if not is_small(spans[-1].extent, ROW) else max(1, len(spans) - 2)
        pieces, large = [(spans[-1], {})], frozenset()
    body: list[Stmt] = []
    for piece, change in pieces:
        part = [substituted(s, change) for s in stores]
        hints = rows_to_come([*spans[:-1], piece], [s.value for s in part], large)
        body += nest([*spans[wide:-1], piece], (*hints, *together(part)))
    return Nest(grid(spans[:wide], tuple(body)))


def _flat(span: Span, stores: list[Store]) -> Nest:
    """One axis of any length, in blocks."""
    (flat,), change, lengths = with_length(span, {})
    outer, inner, split = blocks(flat, BLOCK)
    stores = [substituted(substituted(s, change), split) for s in stores]
    return Nest(grid([outer], nest([inner], together(stores))), lengths=lengths)


def _is_written_out(last: Span, store: Store) -> bool:
    """Whether an axis is so short, and what is computed so little, that each place has its text."""
    if last.extent.fn != "const" or not is_small(last.extent, NARROW):
        return False
    places: int = last.extent.value
    return polyfill.instructions([store.value]) * places <= MOST_TEXT


def _interleaved(spans: list[Span], store: Store) -> Nest:
    """A very short last axis is written out, and lanes run along the one before it."""
    *outer, row, last = spans
    block, inside, split = blocks(row, BLOCK // 4)
    body: Stmt = Loop(Axis(last.var, last.extent, UNROLL), (substituted(store, split),))
    return Nest(grid([*outer, block], nest([inside], (body,))))


def _pieces(span: Span, stores: list[Store]) -> list[tuple[Span, dict[Expr, Expr]]]:
    """An axis cut where conditions on it change, as they do where tensors are joined or padded.

    Within a piece they are known, and neighbours are read without them. What may lie on an operand
    stays in one piece.
    """
    nodes = scalar.walk([a for s in stores for a in (s.value, s.guard)])
    places = {s.index for s in stores}
    if span.extent.fn != "const" or any(e.fn == "load" and e.args[0] in places for e in nodes):
        return [(span, {})]
    size: int = span.extent.value
    cuts = {0, size}
    for e in nodes:
        if e.fn in ("lt", "le") and e.args[0].dtype is int64:
            cut = _turning_point(e, span)
            if cut is not None and 0 < cut < size:
                cuts.add(cut)
    text = polyfill.instructions([s.value for s in stores]) * (len(cuts) - 1)
    if not 2 < len(cuts) <= MOST_PIECES + 1 or text > MOST_TEXT:
        return [(span, {})]
    out = []
    for number, (start, end) in enumerate(itertools.pairwise(sorted(cuts))):
        var = scalar.var(f"{span.var.name}p{number}", low=0, extent=end - start)
        out.append((Span(var, const(end - start)), {span.var: scalar.add(const(start), var)}))
    return out


def _turning_point(condition: Expr, span: Span) -> int | None:
    """Where a comparison of an axis with a constant turns, None if it is none."""
    sums = dict(scalar.terms(scalar.sub(*condition.args)))
    constant = sums.pop((), 0)
    if list(sums) != [(span.var,)] or abs(sums[(span.var,)]) != 1:
        return None
    equal_too = condition.fn == "le"
    return -constant + equal_too if sums[(span.var,)] == 1 else constant + 1 - equal_too


def _crossing(spans: list[Span], stores: list[Store]) -> Span | None:
    """The axis along which most operands lie that do not lie along the last one."""
    last = spans[-1]
    if is_small(last.extent, NARROW - 1):
        return None
    counts = {s: len(_lying(s, last, stores)) for s in spans[:-1]}
    best = max(spans[:-1], key=lambda s: counts[s])
    return best if counts[best] and not is_small(best.extent, NARROW - 1) else None


def _lying(along: Span, last: Span, stores: list[Store]) -> list[Expr]:
    """The loads whose neighbours lie along an axis, but far apart along the last one."""
    found = []
    for e in scalar.walk([s.value for s in stores]):
        if e.fn == "load" and e.dtype is not bool_:
            index = e.args[0]
            step = scalar.coefficient(index, last.var)
            near = scalar.coefficient(index, along.var) is ONE
            if near and step is not None and not (step.fn == "const" and abs(step.value) < NARROW):
                found.append(e)
    return found


def _turned(
    spans: list[Span], along: Span, stores: list[Store], lanes: int, large: frozenset[str]
) -> Nest:
    """Tiles: what lies along `along` is copied to scratch with its axes exchanged, then all is
    computed along the output."""
    last = spans[-1]
    elements = scalar.bounds(scalar.product(s.extent for s in spans))[0] or 0
    distant = 2 * elements * stores[0].value.dtype.itemsize >= CACHED_BYTES
    tile = DISTANT_TILE if distant else TILE
    if has_threads(lanes):
        tile, large = THREADS_TILE, frozenset()
    along_block, row, along_split = blocks(along, tile.along)
    last_block, column, last_split = blocks(last, tile.across)
    split = along_split | last_split
    room = const(tile.along * tile.pitch)
    scratch: list[Buffer] = []
    body: list[Stmt] = []
    held: dict[Expr, Expr] = {}
    for number, e in enumerate(_lying(along, last, stores)):
        buffer = Buffer(f"t{number}", e.dtype, SHARED, room)
        scratch.append(buffer)
        body.append(_turn(e, buffer, row, last, last_block, split, tile, lanes))
        place = scalar.add(scalar.mul(row.var, const(tile.pitch)), column.var)
        held[scalar.substitute(e, split)] = scalar.load(buffer.name, e.dtype, place)
    next_block = along_block if is_small(last.extent, tile.across) else last_block
    hints = tuple(
        _next_tile(e, along, last, row, column, split, next_block, tile)
        for e in _lying(along, last, stores) if e.name in large
    )  # fmt: skip
    kept = []
    for store in stores:
        moved = substituted(store, split)
        kept.append(replace(moved, value=scalar.substitute(moved.value, held)))
    inner = nest([row, column], (*hints, *together(kept)))
    tasks = [along_block if s is along else last_block if s is last else s for s in spans]
    return Nest(grid(tasks, (*body, *inner)), scratch)


def _next_tile(
    e: Expr, along: Span, last: Span, row: Span, column: Span, split: dict[Expr, Expr],
    block: Span, tile: Tile,
) -> Prefetch:  # fmt: skip
    """While a tile is written, the next one is asked for: as many of its places as were written."""
    pieces = const(tile.along // tile.across)  # of a line of the operand, each as wide as a row
    piece = scalar.mul(scalar.mod(row.var, pieces), const(tile.across))
    place = {
        row.var: scalar.add(piece, column.var),
        column.var: scalar.floordiv(row.var, pieces),
        block.var: scalar.add(block.var, ONE),
    }
    moved = {s.var: scalar.substitute(split[s.var], place) for s in (along, last)}
    return Prefetch(e.name, scalar.substitute(e.args[0], moved))


def _turn(
    e: Expr, buffer: Buffer, row: Span, last: Span, block: Span, split: dict[Expr, Expr],
    tile: Tile, lanes: int,
) -> Stmt:  # fmt: skip
    """Squares of lanes x lanes: vectors along the operand's memory, whole vectors stored."""
    lanes = max(1, lanes * 4 // max(4, e.dtype.itemsize))
    square = scalar.var("sq", low=0, extent=tile.across // lanes)
    inside = scalar.var("sl", low=0, extent=lanes)
    across = scalar.add(scalar.mul(square, const(lanes)), inside)
    place = scalar.add(scalar.mul(block.var, const(tile.across)), across)
    index, *rest = (scalar.substitute(a, split | {last.var: place}) for a in e.args)
    guard = scalar.call("lt", place, last.extent)
    if rest:
        guard = scalar.and_(guard, rest[0])
    value = scalar.load(e.name, e.dtype, index, guard, rest[1] if rest else None)
    at = scalar.add(scalar.mul(row.var, const(tile.pitch)), across)
    body: Stmt = Loop(Axis(inside, const(lanes), UNROLL), (Store(buffer.name, at, value),))
    body = Loop(Axis(row.var, row.extent, VECTOR), (body,))
    return Loop(Axis(square, const(tile.across // lanes)), (body,))
