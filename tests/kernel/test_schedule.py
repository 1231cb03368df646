"""Schedules: what they promise for any sizes, and the forms that well-known shapes get."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from deepseek.kernel.problem import (
    COLUMNS,
    DEPTH,
    PACKED,
    ROWS,
    SWEEP,
    Problem,
    Schedule,
    Sizes,
    machine_of,
)
from deepseek.kernel.register_tile import SUM_ELEMENTS
from deepseek.kernel.schedule import schedule_of


def matmul(m: int | None, k: int | None, n: int | None, lanes: int = 16, **more: Any) -> Problem:
    """The problem of a row-major (m, k) by a row-major (k, n)."""

    def sizes(*given: int | None) -> Sizes:
        return tuple(s for s in given if s != 1)

    machine = machine_of(lanes, 4)
    plain = {"left_along_folded": 1, "right_along_folded": n, "right_along_columns": 1}
    return Problem((), sizes(m), sizes(n), sizes(k), machine, True, **(plain | more))


def pieces(size: int | None, tile: int) -> int:
    return math.ceil((size or 1000) / tile)


SIZES = [2, 3, 7, 16, 31, 64, 100, 333, 1000, 5000, None]


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_a_register_tile_fits_the_registers(lanes: int) -> None:
    for m in SIZES:
        for n in SIZES:
            for k in (8, 300, 3000, None):
                p = matmul(m, k, n, lanes, right_along_columns=None)
                plan = schedule_of(p)
                assert plan.form == PACKED
                vectors = plan.width // p.machine.lanes
                assert plan.height * vectors + vectors + 1 <= p.machine.registers
                assert math.prod(n for _, n in plan.layout) <= plan.width
                assert plan.width % p.machine.lanes == 0
                assert 1 <= plan.block <= DEPTH


def test_a_few_columns_are_summed_along_memory() -> None:
    assert schedule_of(matmul(2000, 2000, 3)).form == ROWS
    assert schedule_of(matmul(2000, 2000, 3, right_along_columns=None)).form == PACKED


@pytest.mark.parametrize("m, n", [(1000, 1000), (64, 5000), (5000, 100), (2000, 300)])
def test_large_products_have_tasks_to_share_out(m: int, n: int) -> None:
    plan = schedule_of(matmul(m, 1000, n))
    rows = pieces(m, plan.height * plan.row_panels)
    columns = pieces(n, plan.column_tile[-1] * plan.column_panels)
    assert plan.form == PACKED
    assert rows * columns >= 4


@pytest.mark.parametrize("k", [None, 25, 10_000])
def test_sums_that_wait_for_more_panels_fit_into_memory(k: int | None) -> None:
    images = None, None, None  # a batch of pictures, as the columns of a convolution
    plan = schedule_of(Problem((), (None,), images, (None, k), machine_of(16, 4), True))
    assert plan.form == PACKED
    panels = plan.row_panels * plan.column_panels
    assert plan.height * plan.width * panels <= SUM_ELEMENTS


@pytest.mark.parametrize("batch, rows, columns", [(0, 64, 300), (3, 0, 300), (3, 64, 0)])
def test_empty_products_have_a_schedule(batch: int, rows: int, columns: int) -> None:
    schedule_of(Problem((batch,), (rows,), (columns,), (None,), machine_of(16, 4), True))


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_little_of_a_tile_is_wasted(lanes: int) -> None:
    """Beside what the last vector of a row has too many."""
    rng = random.Random(0)
    for _ in range(100):
        m, k, n = (rng.randint(*size) for size in ((40, 1000), (20, 700), (17, 1000)))
        plan = schedule_of(matmul(m, k, n, lanes, left_plain=True, right_plain=True))
        rest = plan.rest if plan.rest else plan.column_tile[-1]
        last = math.ceil(rest / lanes) * lanes
        columns = (pieces(n, plan.column_tile[-1]) - 1) * plan.width + last
        made = pieces(m, plan.height) * plan.height * columns
        needed = m * math.ceil(n / lanes) * lanes
        assert plan.form == PACKED
        assert made <= 1.15 * needed, (m, k, n, plan, made / needed)


FORMS = [
    (matmul(1, 1000, 1000), SWEEP),
    (matmul(1, 1000, 1000, right_along_folded=1, right_along_columns=1000), ROWS),
    (matmul(4, 1000, 1000, right_along_folded=1, right_along_columns=1000), ROWS),
    (matmul(64, 64, 64), PACKED),
    (matmul(64, 64, 64, right_along_folded=1, right_along_columns=64), PACKED),
    (matmul(500, 2, 500), COLUMNS),
    (matmul(1024, 1024, 1024), PACKED),
    (matmul(None, 768, 768), PACKED),
    (matmul(5, 0, 5), COLUMNS),
]


@pytest.mark.parametrize("problem, form", FORMS)
def test_forms(problem: Problem, form: str) -> None:
    assert schedule_of(problem).form == form


def test_types_without_multiply_add_panels_are_not_packed() -> None:
    p = matmul(500, 500, 500)
    assert schedule_of(Problem(p.batch, p.rows, p.columns, p.folded, p.machine, False)).form == (
        COLUMNS
    )


def test_an_operand_along_the_sum_is_turned() -> None:
    plan = schedule_of(matmul(512, 512, 512, right_along_folded=1, right_along_columns=512))
    assert plan.turned
    assert not schedule_of(matmul(512, 512, 512)).turned


def test_layouts_put_the_turned_axis_last_and_fill_it_up() -> None:
    plan = Schedule(PACKED, (4,), (3, 14, 1), 48, 16, turned=True)
    assert plan.layout == [(0, 3), (2, 1), (1, 16)]
    assert Schedule(PACKED, (4,), (3, 14, 1), 48, 16).layout == [(0, 3), (1, 14), (2, 1)]
