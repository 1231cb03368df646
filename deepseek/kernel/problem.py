"""What the schedule of a contraction is chosen from, and what it says.

In flow the sizes of its axes and how its operands lie in memory; out flow sums over them that the
choice of a form and of a register tile have in common.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

PACKED, COLUMNS, SWEEP, ROWS = "packed", "columns", "sweep", "rows"

Sizes = tuple[int | None, ...]  # None: known at run time only

DEPTH = 1600  # the longest sum whose panels are packed at once
THREADED = 32  # lanes that no vector has: those of a warp
SUPPOSED = 512  # what a size is taken for that is known at run time only


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
    constant).

    An operand is `plain` if it is an element of memory, of the accumulators' type, whatever the
    axes' places are.
    """

    batch: Sizes
    rows: Sizes
    columns: Sizes
    folded: Sizes
    machine: Machine
    fused: bool  # whether the element type has multiply-add panels
    left_along_rows: int | None = None
    left_along_folded: int | None = None
    right_along_folded: int | None = None
    right_along_columns: int | None = None
    left_guarded: bool = False
    right_guarded: bool = False
    left_plain: bool = False
    right_plain: bool = False


@dataclass(frozen=True)
class Schedule:
    """`row_tile` and `column_tile` say how many places of each axis a micro-tile has.

    packed: a micro-tile has `width` columns, of which the tile uses the first; with a `rest`, the
    last one along the last axis has so many columns. An operand is packed or read in place. A task
    makes `row_panels` x `column_panels` micro-tiles; sums run over pieces of `block` places of
    folded axis `split` and all of the axes after it; `turned` see `layout`.
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
    rest: int = 0
    left_in_place: bool = False
    right_in_place: bool = False

    @property
    def rest_width(self) -> int:
        return filled(self.rest, self.lanes)

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
        last = filled(self.column_tile[most], self.lanes)
        return [*(t for t in tile if t[0] != most), (most, last)]

    @property
    def height(self) -> int:
        return math.prod(self.row_tile)


def machine_of(lanes: int, itemsize: int) -> Machine:
    """The machine for accumulators of a size, from its number of float32 lanes.

    Where vectors are shortest, products are no part of an addition and need a register.
    """
    registers = 32 if lanes >= 16 else 16 if lanes >= 8 else 15
    return Machine(max(1, lanes * 4 // itemsize), registers, has_threads(lanes))


def has_threads(lanes: int) -> bool:
    """Whether a target with so many float32 lanes has threads for lanes, as GPUs do."""
    return lanes >= THREADED


def size_of(sizes: Sizes) -> int:
    """The product of some sizes, as far as they are known."""
    return math.prod(SUPPOSED if s is None else s for s in sizes)


def depth_of(folded: Sizes) -> tuple[int, int, int]:
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


def run_of(folded: Sizes) -> int:
    """Places along the last summed axis that a panel has."""
    if not folded:
        return 1
    split, block, _ = depth_of(folded)
    size = folded[-1]
    return block if split == len(folded) - 1 or size is None else size


def filled(places: int, lanes: int) -> int:
    """Places, rounded up to whole vectors."""
    return math.ceil(places / lanes) * lanes
