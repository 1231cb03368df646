"""Which form the loops of a contraction take.

In flow a Problem; out flows a Schedule. It depends on the sizes and on the vector width alone,
never on the number of threads, so that results do not either.

    packed    a register tile over panels of both operands, packed in scratch or read in place
    columns   lanes along the last output axis, few rows straight on the operands
    sweep     the same for a few rows and a large right operand, read in the order it lies
    rows      lanes along the last summed axis, for operands that both lie along it
"""

from __future__ import annotations

import math

from deepseek.kernel.problem import (
    COLUMNS,
    PACKED,
    ROWS,
    SWEEP,
    Problem,
    Schedule,
    Sizes,
    filled,
    run_of,
    size_of,
)
from deepseek.kernel.register_tile import register_tile

SWEPT = 8  # places of the sum for which a right operand in memory is read at once
FAR = 1 << 17  # elements that hardly stay in the nearest caches
MOST_SUMS = 16  # that lanes along the summed axis make at once


def schedule_of(p: Problem) -> Schedule:
    """The cheapest schedule."""
    form = _form(p)
    if form == PACKED:
        return register_tile(p)
    if form == COLUMNS:
        return Schedule(form, _last(p.rows, _column_rows(p)), (1,) * len(p.columns))
    if form == SWEEP:
        return Schedule(form, _whole(p.rows), (1,) * len(p.columns), _swept(p), block=SWEPT)
    if size_of(p.rows) * size_of(p.columns) <= MOST_SUMS:
        return Schedule(form, _whole(p.rows), _whole(p.columns))
    if size_of(p.rows) == 1:
        return Schedule(form, _whole(p.rows), (1,) * len(p.columns))  # in the order of memory
    return Schedule(
        form, _last(p.rows, _divisor(p.rows, 4)), _last(p.columns, _divisor(p.columns, 4))
    )


def _whole(sizes: Sizes) -> tuple[int, ...]:
    return tuple(s or 1 for s in sizes)


def _form(p: Problem) -> str:
    m, n, k = size_of(p.rows), size_of(p.columns), size_of(p.folded)
    if not m * n * k:
        return COLUMNS
    long = run_of(p.folded) >= 8
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
    if p.right_along_columns == 1 and (m <= 4 or k <= 4):
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


def _swept(p: Problem) -> int:
    """The columns of a sweep's task: equal shares, whole vectors."""
    columns = size_of(p.columns)
    usual = 1024 if columns >= 4096 else 512
    return filled(math.ceil(columns / max(1, round(columns / usual))), p.machine.lanes)


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
