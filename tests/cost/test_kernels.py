"""What the kernels of common functions look like: exact properties that time depends on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import deepseek as ds
from deepseek.ir.scalar import (
    FALSE,
    ONE,
    TRUE,
    add,
    and_,
    bounds,
    call,
    coefficient,
    const,
    minimum,
    mul,
    sub,
    substitute,
    walk,
)
from deepseek.kernel.ahead import AHEAD
from deepseek.kernel.ir import (
    GLOBAL,
    SHARED,
    VECTOR,
    Fold,
    Kernel,
    Loop,
    Prefetch,
    expressions,
    statements,
)
from deepseek.kernel.pointwise import DISTANT_TILE, TILE
from deepseek.kernel.reduction import LANES, LANES_ALONE, LONG, SWEPT
from deepseek.kernel.streaming import CACHED_BYTES


def kernels_of(body: Callable[..., Any], *args: Any) -> tuple[Kernel, ...]:
    """The kernels of a compiled function."""
    return ds.jit(body).entry_for(*args).executable.program.kernels


def hints(kernel: Kernel) -> list[Any]:
    return [b.streamed for b in kernel.buffers if b.written]


@pytest.mark.parametrize(
    "rows, wanted", [(4096, TRUE), (256, FALSE)], ids=["larger than caches", "smaller"]
)
def test_results_that_no_cache_holds_are_streamed(rows, wanted):
    x = ds.zeros((rows, 1024))
    (kernel,) = kernels_of(lambda x: ds.softmax(x, -1), x)
    assert hints(kernel) == [wanted]


def test_kernels_of_any_length_decide_when_they_run():
    """One kernel for all lengths, and the condition is over the length it is given."""
    x, y = ds.zeros((1000,)), ds.ones((1000,))
    (kernel,) = kernels_of(lambda x, y: x * y + 1, x, y)
    (length,) = kernel.sizes
    together = call("le", const(CACHED_BYTES), mul(const(12), length))
    result = call("le", const(CACHED_BYTES // 16), mul(const(4), length))
    assert hints(kernel) == [and_(together, result)]


def test_small_results_of_large_operands_stay_in_the_caches():
    x = ds.zeros((4096, 4096))
    for axis in (0, 1):
        (kernel,) = kernels_of(lambda x, axis=axis: ds.sum(x, axis=axis), x)
        assert hints(kernel) == [FALSE]


def asked_for(kernel: Kernel) -> list[tuple[Any, Any]]:
    """For each Prefetch, its index and the extent of the vector axis that it runs along."""
    found = []
    for stmt in statements(kernel.body):
        if isinstance(stmt, Loop | Fold):
            axis = stmt.axis if isinstance(stmt, Loop) else stmt.axes[-1]
            assert axis.kind == VECTOR or not any(isinstance(s, Prefetch) for s in stmt.body)
            found += [(s.index, axis.extent) for s in stmt.body if isinstance(s, Prefetch)]
    return found


@pytest.mark.parametrize(
    "body",
    [
        lambda x: ds.softmax(x, -1),
        lambda x: ds.layer_norm(x, (1024,)),
        lambda x: x - ds.mean(x, -1, keepdims=True),
    ],
    ids=["softmax", "layer_norm", "centred"],
)
def test_tasks_of_several_passes_ask_for_the_next_row_once(body):
    (kernel,) = kernels_of(body, ds.zeros((512, 1024)))
    row = kernel.grid()[0].var
    ((index, extent),) = asked_for(kernel)
    assert extent is const(1024)
    assert substitute(index, {row: sub(row, ONE)}) in [e.args[0] for e in all_loads(kernel)]
    (small,) = kernels_of(body, ds.zeros((64, 1024)))
    assert not asked_for(small)


def test_one_pass_over_memory_asks_for_nothing():
    x = ds.zeros((512, 1024))
    for body in (lambda x: ds.sum(x, 1), lambda x: x[:, ::-1] * 2, lambda x: x[:, :700] + 1):
        (kernel,) = kernels_of(body, x)
        assert not asked_for(kernel)


def test_rows_from_anywhere_are_asked_for_early():
    """So many rows early that AHEAD bytes are under way, and never beyond the last index."""
    table, rows = ds.zeros((5000, 64)), ds.zeros((300,), dtype=ds.int64)
    (kernel,) = kernels_of(lambda table, rows: ds.take(table, rows, axis=0), table, rows)
    ((index, _),) = asked_for(kernel)
    places = {e.args[0] for e in walk([index]) if e.fn == "load"}
    (row,) = (axis.var for axis in kernel.grid())
    assert places == {minimum(add(row, const(AHEAD // 256)), const(299))}


def test_the_next_row_may_be_anywhere_but_its_place_is_read_from_within():
    table, rows = ds.zeros((5000, 1024)), ds.zeros((300,), dtype=ds.int64)
    (kernel,) = kernels_of(lambda t, i: ds.layer_norm(ds.take(t, i, axis=0), (1024,)), table, rows)
    ((index, _),) = asked_for(kernel)
    places = {e.args[0] for e in walk([index]) if e.fn == "load"}
    (row,) = (axis.var for axis in kernel.grid())
    assert places == {minimum(add(row, ONE), const(299))}


def test_tiles_that_are_turned_ask_for_the_next_one():
    """Each line of it once: as many places as the tile has that is written meanwhile."""
    (kernel,) = kernels_of(lambda x: x.T + 1, ds.zeros((1024, 512)))
    ((index, extent),) = asked_for(kernel)
    assert bounds(extent) == (TILE.across, TILE.across)
    block = kernel.grid()[-1].var
    assert coefficient(index, block) is const(TILE.across * 512)


def test_tiles_of_what_no_cache_holds_are_longer_and_narrower():
    for rows, tile in ((512, TILE), (4096, DISTANT_TILE)):
        (kernel,) = kernels_of(lambda x: x.T + 1, ds.zeros((rows, 1024)))
        assert [b.size for b in kernel.buffers if b.size] == [const(tile.along * tile.across)]
        ((_, extent),) = asked_for(kernel)
        assert bounds(extent)[1] == tile.across


def test_folds_of_one_value_over_long_rows_have_more_lanes():
    lanes = {}
    for columns in (LONG - 1, LONG):
        (kernel,) = kernels_of(lambda x: ds.sum(x, 1), ds.zeros((4, 3, columns))[:, 0])
        lanes[columns] = {s.lanes for s in statements(kernel.body) if isinstance(s, Fold)}
    assert lanes == {LONG - 1: {LANES}, LONG: {LANES_ALONE}}


def all_loads(kernel: Kernel) -> list[Any]:
    roots = [e for s in statements(kernel.body) for e in expressions(s)]
    return [e for e in walk(roots) if e.fn == "load"]


def loads(kernel: Kernel, kind: str) -> list[Any]:
    """The indices that global buffers are read at inside loops of a kind, with the loop's axis."""
    found = []
    for stmt in statements(kernel.body):
        if isinstance(stmt, Loop) and stmt.axis.kind == kind:
            for inner in statements(stmt.body):
                for e in walk(expressions(inner)):
                    if e.fn == "load" and kernel.buffer(e.name).space == GLOBAL:
                        found.append(coefficient(e.args[0], stmt.axis.var))
    return found


@pytest.mark.parametrize(
    "body",
    [
        lambda x: x.T + 1,
        lambda x: ds.permute_dims(ds.reshape(x, (16, 16, 64)), (0, 2, 1)) * 2,
        lambda x: x.T + ds.reshape(x, (64, 256)),
    ],
    ids=["transposed", "inner axes exchanged", "beside one that lies along"],
)
def test_lanes_read_neighbours_where_operands_lie_across(body):
    (kernel,) = kernels_of(body, ds.zeros((256, 64)))
    strides = loads(kernel, VECTOR)
    assert strides and set(strides) == {ONE}


def test_sums_over_rows_are_swept_in_the_order_of_memory():
    (kernel,) = kernels_of(lambda x: ds.sum(x, axis=0), ds.zeros((1000, 600)))
    vector = [s for s in statements(kernel.body) if isinstance(s, Loop) and s.axis.kind == VECTOR]
    sums = [s for s in vector if any(isinstance(inner, Fold) for inner in s.body)]
    (fold,) = [s for s in statements(sums[0].body) if isinstance(s, Fold)]
    assert bounds(fold.axes[-1].extent)[1] == SWEPT


def test_a_costly_value_is_computed_once_for_all_passes_over_a_row():
    for body in (lambda x: ds.softmax(x, -1), lambda x: ds.layer_norm(ds.gelu(x), (600,))):
        (kernel,) = kernels_of(body, ds.zeros((10, 600)))
        uses = [
            e.args[0]
            for s in statements(kernel.body)
            for e in walk(expressions(s))
            if e.fn in ("exp", "erf")
        ]
        assert len(uses) == 1


def test_a_sum_of_zeros_and_one_known_element_reads_that_element():
    """As the log-likelihood of a label: no fold, but one load at the label's place."""

    def loss(x, t):
        return ds.sum(ds.where(ds.expand_dims(t, 1) == ds.arange(600), x * 2, 0.0), axis=1)

    (kernel,) = kernels_of(loss, ds.zeros((10, 600)), ds.zeros((10,), dtype=ds.int64))
    assert not [s for s in statements(kernel.body) if isinstance(s, Fold)]
    assert len(all_loads(kernel)) == 2


@pytest.mark.parametrize(
    "body",
    [lambda m, a, b: m * 0.9 + a @ b, lambda m, a, b: m[0] * 0.9 + ds.sum(a * b, 0)],
    ids=["product", "sum"],
)
def test_what_a_result_alone_reads_is_computed_with_it(body):
    """As a moment's decay with the gradient that it takes in."""
    args = [ds.zeros((64, 64)) for _ in range(3)]
    assert len(kernels_of(body, *args)) == 1


def test_cross_entropy_and_its_gradient_go_over_the_logits_once():
    def loss(x, t):
        return ds.value_and_grad(lambda x: ds.cross_entropy(x, t))(x)

    x, t = ds.zeros((64, 600)), ds.zeros((64,), dtype=ds.int64)
    kernels = kernels_of(loss, x, t)
    large = [k for k in kernels if k.grid() and k.grid()[0].extent is const(64)]
    assert len(kernels) == 3 and len(large) == 1


@pytest.mark.parametrize(
    "body, pieces",
    [
        (lambda x: ds.concat([x, x + 1], axis=1), 2),
        (lambda x: ds.pad(x, (3, 5)), 3),
        (lambda x: ds.concat([x[:, :7] * 2, x[:, 7:]], axis=1), 1),  # may lie on x
    ],
    ids=["concat", "pad", "in place"],
)
def test_loops_are_cut_where_conditions_on_their_axis_turn(body, pieces):
    (kernel,) = kernels_of(body, ds.ones((30, 40)))
    inner = [s for s in statements(kernel.body) if isinstance(s, Loop) and s.axis.kind == VECTOR]
    assert len(inner) == pieces
    conditions = [e for s in statements(kernel.body) for e in walk(expressions(s)) if e.fn == "lt"]
    assert bool(conditions) == (pieces == 1)


@pytest.mark.parametrize(
    "shape, packed",
    [
        ((100, 200, 90), 0),
        ((64, 784, 512), 0),
        ((5000, 150, 83), 150 * 64),
        ((1024, 1024, 1024), 1024 * 64),
    ],
    ids=str,
)
def test_products_copy_a_panel_of_the_right_operand_at_most(shape, packed):
    m, k, n = shape
    (kernel,) = kernels_of(lambda a, b: a @ b, ds.zeros((m, k)), ds.zeros((k, n)))
    assert sum(b.size.value for b in kernel.buffers if b.space == SHARED) <= packed


def test_no_two_tasks_of_a_square_product_copy_the_same_panel():
    """They differ in their columns alone: rows are read where they lie."""
    (kernel,) = kernels_of(lambda a, b: a @ b, ds.zeros((1024, 1024)), ds.zeros((1024, 1024)))
    (b,) = [b for b in kernel.buffers if b.space == SHARED]
    (tasks,) = kernel.grid()
    assert tasks.extent.value * b.size.value == 1024 * 1024
