"""The figures of memory plans against the runtime's and against counting by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from making import graph_of, program_of

from deepseek import backends
from deepseek.compiler.caches import compiled_kernels
from deepseek.ir.graph import Graph
from deepseek.ir.scalar import const, size_var
from deepseek.ir.shape import tensor_type
from deepseek.program import ir
from deepseek.program.ir import Copy, Program, Ref, Slot
from deepseek.program.load import load
from deepseek.program.plan_memory import MemoryPlan, memory_plan


def plan_of(graph: Graph, symbols: Any = (), sizes: Any = ()) -> MemoryPlan:
    program = program_of(graph, symbols)
    loaded = load(program, compiled_kernels(backends.load("cpu"), program.kernels))
    return memory_plan(program, loaded, sizes, graph)


def chain(nbytes: int, length: int) -> Program:
    """x -> t1 -> t2 ... -> y, each a copy of the one before."""
    kind = tensor_type(program_of(graph_of(lambda x: x, (1,))).slots[0].type.dtype, (nbytes // 4,))
    slots = [Slot(ir.INPUT, kind, "x"), *[Slot(ir.TEMP, kind, f"t{i}") for i in range(length)]]
    slots.append(Slot(ir.OUTPUT, kind, "y"))
    body = [Copy(Ref(i + 1), Ref(i), const(nbytes), f"copy {i}") for i in range(length + 1)]
    return Program((), tuple(slots), tuple(body), (length + 1,), ())


@pytest.mark.parametrize("length", [1, 2, 5])
def test_chain_of_copies(length: int) -> None:
    program = chain(1024, length)
    plan = memory_plan(program, load(program, []))
    assert plan.keep_everything == 1024 * length
    assert plan.freed_by_count == plan.lower_bound == plan.arena_bytes == 1024 * min(length, 2)
    assert (plan.input_bytes, plan.output_bytes, plan.constant_bytes) == (1024, 1024, 0)
    assert [t.label for t in plan.temps] == [f"t{i}" for i in range(length)]
    assert [(t.first, t.last) for t in plan.temps] == [(i, i + 1) for i in range(length)]
    assert plan.steps == tuple(f"copy {i}" for i in range(length + 1))
    assert max(plan.timeline()) == plan.lower_bound


def test_sizes_are_rounded_as_the_arena_rounds_them() -> None:
    program = chain(100, 3)
    plan = memory_plan(program, load(program, []))
    assert plan.arena_bytes == plan.freed_by_count == 256
    assert plan.keep_everything == 384


def test_recorded_graph_counts_every_op() -> None:
    """A chain of elementwise ops is one launch without temporaries; as recorded it has three."""
    plan = plan_of(graph_of(lambda x: (x.exp().tanh() * x).exp(), (1000,)))
    assert plan.arena_bytes == 0
    assert plan.keep_everything == 3 * 4032
    assert plan.freed_by_count == 2 * 4032


def test_recorded_aliases_and_results_are_not_counted() -> None:
    plan = plan_of(graph_of(lambda x: x.exp().reshape((10, 100)).sum(axis=1), (1000,)))
    assert plan.keep_everything == 4032
    assert plan_of(graph_of(lambda x: x.exp().reshape((10, 100)), (1000,))).keep_everything == 0


def test_lifetimes_do_not_overlap_in_place() -> None:
    def layers(x: Any) -> Any:
        for _ in range(4):
            x = x @ x
            x = x - x.mean(axis=0)
        return x

    plan = plan_of(graph_of(layers, (48, 48)))
    assert len(plan.temps) > 4
    for a in plan.temps:
        assert a.offset % 64 == 0
        assert a.offset + a.nbytes <= plan.arena_bytes
        for b in plan.temps:
            if a.slot < b.slot and a.first <= b.last and b.first <= a.last:
                assert a.offset + a.nbytes <= b.offset or b.offset + b.nbytes <= a.offset
    assert plan.lower_bound <= plan.arena_bytes <= plan.freed_by_count <= plan.keep_everything


def test_plan_follows_the_sizes() -> None:
    n = size_var("n0")
    graph = graph_of(lambda x: x.cumulative_sum(axis=0).flip(0).cumulative_sum(axis=0), (n, 4))
    small, large = plan_of(graph, [n], (8,)), plan_of(graph, [n], (800,))
    assert small.input_bytes == 8 * 16
    assert large.input_bytes == 800 * 16
    assert large.arena_bytes >= 50 * small.arena_bytes > 0
    assert np.argmax(large.timeline()) == np.argmax(small.timeline())
