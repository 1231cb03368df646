"""How much memory a Program needs for given sizes, before anything runs.

In flow a Program, its loaded form (which packs the arena, by the same function that runs will use)
and sizes; out flows a MemoryPlan: the arena's bytes beside three yardsticks, and every temporary's
place and lifetime, for reports and drawings. Inputs, outputs and constants lie outside the arena
and are counted apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from deepseek import _runtime
from deepseek.ir import scalar
from deepseek.ir.access import is_alias
from deepseek.ir.graph import Graph, Value
from deepseek.ir.interpret import last_uses
from deepseek.ir.op import Kind
from deepseek.ir.scalar import Expr
from deepseek.passes.expand import expand
from deepseek.program import ir
from deepseek.program.ir import Program, Step

ALIGNMENT = 64


@dataclass(frozen=True)
class Lifetime:
    """A temporary: it lives in steps first..last, at an offset of the arena."""

    slot: int
    label: str
    first: int
    last: int
    offset: int
    nbytes: int


@dataclass(frozen=True)
class MemoryPlan:
    """The figures of one Program for one choice of sizes; all in bytes.

    `lower_bound` is the largest sum of live temporaries at any step: no arena is smaller.
    `freed_by_count` is the peak where each temporary has memory of its own and is freed after its
    last reader, in the order recorded; `keep_everything` that where nothing is freed. Both are of
    the graph as recorded, if that was given, with one allocation for each primitive op's result
    (views and created values have none), and otherwise of the Program's own steps.
    """

    arena_bytes: int
    lower_bound: int
    freed_by_count: int
    keep_everything: int
    scratch_bytes: int  # of each thread
    constant_bytes: int
    input_bytes: int
    output_bytes: int
    temps: tuple[Lifetime, ...]
    steps: tuple[str, ...]  # in the order that lifetimes count

    def live_at(self, step: int) -> int:
        """The bytes of the temporaries that live during a step."""
        return sum(aligned(t.nbytes) for t in self.temps if t.first <= step <= t.last)

    def timeline(self) -> list[int]:
        """The live bytes of each step."""
        return [self.live_at(step) for step in range(len(self.steps))]


def memory_plan(
    program: Program,
    loaded: _runtime.Program,
    symbols: Sequence[int] = (),
    recorded: Graph | None = None,
) -> MemoryPlan:
    """The plan of a program for the given sizes; `recorded` is the graph that it was made of."""
    info = loaded.bind_info(tuple(symbols))
    env = dict(zip(program.symbols, symbols, strict=True))
    temps = tuple(
        Lifetime(t["slot"], t["label"], t["first"], t["last"], t["offset"], t["nbytes"])
        for t in info["temps"]
    )
    if recorded is None:
        events = program_events(program, env)
    else:
        events = graph_events(expand(recorded), env)
    freed, kept = counted(events)
    return MemoryPlan(
        info["arena_bytes"], info["lower_bound"], freed, kept, info["scratch_bytes"],
        info["constant_bytes"], sum(info["inputs"]), sum(info["outputs"]), temps,
        tuple(label or kind for kind, label in loaded.steps),
    )  # fmt: skip


def aligned(nbytes: int) -> int:
    return (nbytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def counted(events: Iterator[tuple[list[int], list[int]]]) -> tuple[int, int]:
    """(peak, total) of what steps allocate and then free; sizes are rounded as the arena's are."""
    live = peak = total = 0
    for made, freed in events:
        live += sum(map(aligned, made))
        total += sum(map(aligned, made))
        peak = max(peak, live)
        live -= sum(map(aligned, freed))
    return peak, total


def program_events(program: Program, env: dict[Expr, int]) -> Iterator[tuple[list[int], list[int]]]:
    """What each top-level step first touches and last touches, of the temporaries."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for position, step in enumerate(program.body):
        for slot in touched(step, program):
            if program.slots[slot].kind == ir.TEMP:
                first.setdefault(slot, position)
                last[slot] = position
    sizes = {slot: int(scalar.evaluate(program.slots[slot].nbytes, env)) for slot in first}
    for position in range(len(program.body)):
        made = [sizes[slot] for slot, at in first.items() if at == position]
        yield made, [sizes[slot] for slot, at in last.items() if at == position]


def touched(step: Step, program: Program) -> set[int]:
    """The slots that a step and the blocks in it read or write."""
    found: set[int] = set()
    for inner in ir.steps((step,)):
        for refs in ir.reads_writes(inner, program.kernels):
            found.update(r.slot for r in refs)
    return found


def graph_events(graph: Graph, env: dict[Expr, int]) -> Iterator[tuple[list[int], list[int]]]:
    """What each node of a graph allocates, and what nobody reads after it.

    Views and created values have no memory of their own; inputs, constants and the graph's results
    are not counted.
    """
    base: dict[Value, Value] = {}
    for node in graph.nodes:
        if node.op.kind is Kind.VIEW and (len(node.inputs) == 1 or is_alias(node)):
            base[node.outputs[0]] = base.get(node.inputs[0], node.inputs[0])
    outside = {base.get(v, v) for v in (*graph.inputs, *graph.outputs)}
    ends: dict[Value, Any] = {}
    for node, values in last_uses(graph).items():
        for value in values:
            ends[value] = node
    order = {node: i for i, node in enumerate(graph.nodes)}
    last: dict[Value, int] = {}
    for value in {v for node in graph.nodes for v in (*node.inputs, *node.outputs)}:
        owner = base.get(value, value)
        end = order[ends[value]] if value in ends else len(order)
        last[owner] = max(last.get(owner, -1), end)
    freed: dict[int, list[int]] = {}
    for position, node in enumerate(graph.nodes):
        made: list[int] = []
        if node.inputs:
            for value in node.outputs:
                if value in base or value in outside:
                    continue
                nbytes = int(scalar.evaluate(scalar.as_expr(value.type.nbytes), env))
                made.append(nbytes)
                freed.setdefault(last[value], []).append(nbytes)
        yield made, freed.get(position, [])
