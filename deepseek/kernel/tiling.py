"""Axes cut into panels, and sums cut into parts.

In flow the axes of one side of a contraction and the places that a micro-tile has along each; out
flow panels: where one begins, which places it has, which of them it is to store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deepseek.ir import scalar
from deepseek.ir.scalar import ONE, ZERO, Expr, const
from deepseek.kernel.equation import offset_in
from deepseek.kernel.ir import Let
from deepseek.kernel.loops import Span, ceil_div


@dataclass(frozen=True)
class Panel:
    """`tile` places along each axis from `start` on.

    The first `shared` of them are another panel's too, which stores them. A panel that is not
    `whole` may have places beyond the end of an axis.
    """

    name: str
    spans: list[Span]
    tile: tuple[int, ...]
    start: list[Expr]
    shared: list[Expr]
    whole: bool = False

    def places(self) -> list[Span]:
        """All places of the tile."""
        spans = []
        for number, t in enumerate(self.tile):
            extent = const(t)
            var = scalar.var(f"{self.name}q{number}", low=0, extent=extent)
            spans.append(Span(var if t > 1 else ZERO, extent))
        return spans

    def stored(self) -> list[tuple[Span, Expr]]:
        """Loops over the places that the panel stores, each with the place in the tile."""
        found = []
        for number, (s, t) in enumerate(zip(self.spans, self.tile, strict=True)):
            shared = self.shared[number]
            extent = scalar.sub(const(t), shared)
            if not self.whole and not divides(s.extent, t):
                extent = scalar.minimum(extent, scalar.sub(s.extent, self.start[number]))
            var = scalar.var(f"{self.name}s{number}", low=0, extent=extent)
            span = Span(var if t > 1 else ZERO, extent)
            found.append((span, scalar.add(shared, span.var)))
        return found

    def at(self, places: Sequence[Expr]) -> dict[Expr, Expr]:
        """The axes' variables at a place of the tile."""
        return {
            s.var: scalar.add(start, place)
            for s, start, place in zip(self.spans, self.start, places, strict=True)
        }

    def guard(self, where: dict[Expr, Expr]) -> Expr:
        """Whether a place of the tile is one of the axes."""
        parts = [
            scalar.call("lt", where[s.var], s.extent)
            for s, t in zip(self.spans, self.tile, strict=True)
            if not self.whole and not divides(s.extent, t)
        ]
        return scalar.and_(*parts)

    def own(self, places: Sequence[Expr]) -> Expr:
        """Whether the panel is to store this place, which is one of the axes."""
        pairs = zip(self.shared, places, strict=True)
        return scalar.and_(*(scalar.call("le", s, p) for s, p in pairs if s is not ZERO))


@dataclass(frozen=True)
class Tiling:
    """One side's axes cut into panels of `tile` places, numbered along the last axis first.

    With a `rest`, the last panel along the last axis has so many places instead.
    """

    name: str
    spans: list[Span]
    tile: tuple[int, ...]
    rest: int = 0

    def counts(self) -> list[Expr]:
        return [ceil_div(s.extent, t) for s, t in zip(self.spans, self.tile, strict=True)]

    def total(self) -> Expr:
        return scalar.product(self.counts())

    def coordinates(self, number: Expr) -> tuple[list[Let], list[Expr]]:
        """Which panel along each axis the numbered one is."""
        lets: list[Let] = []
        found: list[Expr] = []
        left = number
        counts = self.counts()
        for axis in range(len(self.spans) - 1, -1, -1):
            count = counts[axis]
            at = left if axis == 0 else scalar.mod(left, count)
            left = ZERO if axis == 0 else scalar.floordiv(left, count)
            if count is ONE:
                found.insert(0, ZERO)
                continue
            coordinate = scalar.var(f"{self.name}p{axis}", low=0, extent=count)
            lets.append(Let(coordinate, at))
            found.insert(0, coordinate)
        return lets, found

    def starts(self, coordinates: Sequence[Expr]) -> list[Expr]:
        return [scalar.mul(c, const(t)) for c, t in zip(coordinates, self.tile, strict=True)]

    def panel(self, coordinates: Sequence[Expr]) -> Panel:
        """A panel of all the tile's places; its last ones may lie beyond the axes."""
        starts = self.starts(coordinates)
        return Panel(self.name, self.spans, self.tile, starts, [ZERO] * len(starts), self.rest > 0)

    def overlapping(self, coordinates: Sequence[Expr]) -> Panel:
        """The same, but the last panel along an axis of known size ends with the axis."""
        plain = self.panel(coordinates)
        starts, shared = plain.start, plain.shared
        for number, (s, t) in enumerate(zip(self.spans, self.tile, strict=True)):
            if s.extent.fn != "const":
                return plain
            if not divides(s.extent, t):
                usual = starts[number]
                starts[number] = scalar.minimum(usual, scalar.sub(s.extent, const(t)))
                shared[number] = scalar.sub(usual, starts[number])
        return Panel(self.name, self.spans, self.tile, starts, shared, True)

    def last(self, coordinates: Sequence[Expr], places: int) -> Panel:
        """The last panel along the last axis, of so many places."""
        starts = self.starts(coordinates)
        tile = (*self.tile[:-1], places)
        shared = [ZERO] * len(starts)
        return Panel(self.name, self.spans, tile, starts, shared, places == self.rest)

    def is_last(self, coordinates: Sequence[Expr]) -> Expr:
        """Whether a panel is the last one along the last axis."""
        return scalar.call("eq", coordinates[-1], scalar.sub(self.counts()[-1], ONE))


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


def depth_of(folded: list[Span], axis: int, block: int) -> Depth:
    """Parts of `block` places of one folded axis, and of all of the axes after it."""
    if not folded:
        return Depth([], {}, [], ZERO, ONE)
    outer, split, inner = folded[:axis], folded[axis], folded[axis + 1 :]
    pieces = ceil_div(split.extent, block)
    count = scalar.product([*(s.extent for s in outer), pieces])
    number = ZERO if count is ONE else scalar.var("kb", low=0, extent=count)
    lets: list[Let] = []
    piece = ZERO if pieces is ONE else scalar.mod(number, pieces) if outer else number
    rest = scalar.floordiv(number, pieces)
    for s in reversed(outer):
        lets.append(Let(s.var, rest if s is outer[0] else scalar.mod(rest, s.extent)))
        rest = scalar.floordiv(rest, s.extent)
    if pieces is not ONE and outer:
        bound = scalar.var("ks", low=0, extent=pieces)
        lets.append(Let(bound, piece))
        piece = bound
    start = scalar.mul(piece, const(block))
    length = const(block)
    if not divides(split.extent, block):
        length = scalar.minimum(length, scalar.sub(split.extent, start))
    place = ZERO if length is ONE else scalar.var("ki", low=0, extent=length)
    change = {split.var: scalar.add(start, place)}
    return Depth(lets, change, [Span(place, length), *inner], number, count)


def divides(extent: Expr, by: int) -> bool:
    return scalar.mod(extent, const(by)) is ZERO
