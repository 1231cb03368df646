"""Pointwise regions: one value per domain index.

In flow an evaluator and the outputs of a region; out flows a Nest. Where one axis is left after
merging, its length is an argument and sizes share the kernel. Operands that lie across the output,
as in a transposed copy, are read a tile at a time along their own memory and turned in scratch.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

from deepseek.ir import scalar
from deepseek.ir.access import axes_of, linear
from deepseek.ir.dtype import bool_, int64
from deepseek.ir.graph import Value
from deepseek.ir.scalar import ONE, Expr, const
from deepseek.ir.shape import Shape
from deepseek.kernel import polyfill
from deepseek.kernel.evaluate import Evaluator
from deepseek.kernel.ir import SHARED, UNROLL, VECTOR, Axis, Buffer, Loop, Stmt, Store
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
from deepseek.kernel.schedule import has_threads

BLOCK = 4096  # elements of a one-dimensional grid task
TILE_ALONG = 128  # of a tile, places along the memory of the operands that are turned
TILE_ACROSS = 64  # and along the output's
THREADS_ALONG = 64  # instead of the former, where lanes are threads: two tiles fit shared memory
ROW = 64  # elements of a row that are a task of its own where lanes are threads
NARROW = 8  # an axis of fewer places fills no tile
MOST_PIECES = 5  # that an axis is cut into
MOST_TEXT = 256  # instructions of an element, written out for all pieces or places


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
        return _turned(spans, across, stores, lanes)
    if len(stores) == 1 and _is_written_out(spans[-1], stores[0]):
        return _interleaved(spans, stores[0])
    wide = 1 if len(spans) == 2 or not is_small(spans[0].extent, 15) else 2
    pieces = _pieces(spans[-1], stores)
    if has_threads(lanes):  # conditions cost them little, and rows are tasks
        wide = len(spans) - 1 if not is_small(spans[-1].extent, ROW) else max(1, len(spans) - 2)
        pieces = [(spans[-1], {})]
    body: list[Stmt] = []
    for piece, change in pieces:
        part = together([substituted(s, change) for s in stores])
        body += nest([*spans[wide:-1], piece], part)
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


def _turned(spans: list[Span], along: Span, stores: list[Store], lanes: int) -> Nest:
    """Tiles: what lies along `along` is copied to scratch with its axes exchanged, then all is
    computed along the output."""
    last = spans[-1]
    threads = has_threads(lanes)
    length = THREADS_ALONG if threads else TILE_ALONG
    # Threads along a tile's columns would meet in one bank of memory, were rows not of odd length.
    pitch = const(TILE_ACROSS + threads)
    along_block, row, along_split = blocks(along, length)
    last_block, column, last_split = blocks(last, TILE_ACROSS)
    split = along_split | last_split
    scratch: list[Buffer] = []
    body: list[Stmt] = []
    held: dict[Expr, Expr] = {}
    for number, e in enumerate(_lying(along, last, stores)):
        buffer = Buffer(f"t{number}", e.dtype, SHARED, scalar.mul(const(length), pitch))
        scratch.append(buffer)
        body.append(_turn(e, buffer, row, last, last_block, split, pitch, lanes))
        place = scalar.add(scalar.mul(row.var, pitch), column.var)
        held[scalar.substitute(e, split)] = scalar.load(buffer.name, e.dtype, place)
    kept = []
    for store in stores:
        moved = substituted(store, split)
        kept.append(replace(moved, value=scalar.substitute(moved.value, held)))
    inner = nest([row, column], together(kept))
    tasks = [along_block if s is along else last_block if s is last else s for s in spans]
    return Nest(grid(tasks, (*body, *inner)), scratch)


def _turn(
    e: Expr, buffer: Buffer, row: Span, last: Span, block: Span, split: dict[Expr, Expr],
    pitch: Expr, lanes: int,
) -> Stmt:  # fmt: skip
    """Squares of lanes x lanes: vectors along the operand's memory, whole vectors stored."""
    lanes = max(1, lanes * 4 // max(4, e.dtype.itemsize))
    square = scalar.var("sq", low=0, extent=TILE_ACROSS // lanes)
    inside = scalar.var("sl", low=0, extent=lanes)
    across = scalar.add(scalar.mul(square, const(lanes)), inside)
    place = scalar.add(scalar.mul(block.var, const(TILE_ACROSS)), across)
    index, *rest = (scalar.substitute(a, split | {last.var: place}) for a in e.args)
    guard = scalar.call("lt", place, last.extent)
    if rest:
        guard = scalar.and_(guard, rest[0])
    value = scalar.load(e.name, e.dtype, index, guard, rest[1] if rest else None)
    at = scalar.add(scalar.mul(row.var, pitch), across)
    body: Stmt = Loop(Axis(inside, const(lanes), UNROLL), (Store(buffer.name, at, value),))
    body = Loop(Axis(row.var, row.extent, VECTOR), (body,))
    return Loop(Axis(square, const(TILE_ACROSS // lanes)), (body,))
