"""Prepare: split off what depends only on tensors that stay between calls.

Folded batch norms, reshaped or packed weights and the like are computed once, by a graph of their
own, and again when one of those tensors changes; the main graph takes the results as further
inputs. Random and host nodes are never split off, and what costs nothing to compute where it is
read stays there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from deepseek.ir.access import inlined
from deepseek.ir.graph import Graph, Value, input_value
from deepseek.ir.op import Kind
from deepseek.ir.rewrite import replace

NEVER = (Kind.RANDOM, Kind.HOST, Kind.COLLECTIVE, Kind.CONTROL)


@dataclass(frozen=True)
class Split:
    """`main` takes the graph's inputs and then what `prepared` gives; `sources` are the inputs of
    prepared.
    """

    main: Graph
    prepared: Graph
    sources: tuple[int, ...]


def split(graph: Graph, stable: Iterable[int]) -> Split | None:
    """The graph in two, or None if nothing is worth it. `stable` numbers the inputs that stay."""
    kept = {graph.inputs[i] for i in stable}
    if not kept:
        return None
    steady = steady_values(graph, kept)
    frontier = [v for v in values_read(graph, steady) if v in steady and v not in kept]
    if not frontier:
        return None
    given = {v: input_value(v.type.dtype, v.type.shape) for v in frontier}
    main = replace(graph, given)
    main = Graph((*main.inputs, *given.values()), main.outputs)
    sources = tuple(i for i, v in enumerate(graph.inputs) if v in kept)
    prepared = Graph([graph.inputs[i] for i in sources], frontier)
    return Split(main, prepared, sources)


def steady_values(graph: Graph, kept: set[Value]) -> set[Value]:
    """The values that depend on kept inputs, and on nothing that changes."""
    steady = set(kept)
    free: set[Value] = set()  # constants and what is made of them
    for node in graph.nodes:
        if not node.inputs and node.op.kind in (Kind.CREATE, Kind.LEAF):
            free.update(node.outputs)
        elif node.op.kind not in NEVER and all(v in steady or v in free for v in node.inputs):
            if any(v in steady for v in node.inputs):
                steady.update(node.outputs)
            else:
                free.update(node.outputs)
    return steady


def values_read(graph: Graph, steady: set[Value]) -> dict[Value, None]:
    """What the changing part reads from memory, looking through what it will recompute."""
    found: dict[Value, None] = {}
    stack = list(graph.outputs)
    for node in graph.nodes:
        if not any(v in steady for v in node.outputs):
            stack.extend(node.inputs)
    while stack:
        value = stack.pop()
        if value in steady and value.node.inputs and inlined(value):
            stack.extend(value.node.inputs)
        else:
            found.setdefault(value)
    return dict.fromkeys(sorted(found, key=lambda v: (v.node.sequence, v.index)))
