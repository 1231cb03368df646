"""What was recorded once, recorded again for other values of the same types.

In flow some values and what was made of them, op by op. Out flows a Recording, which copies the
nodes, with their types and lines, at a small part of what recording takes: an update rule for one
parameter serves the others of its type. Or a graph of its own, which one node computes at once: the
gradient of what a program records again at each step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from deepseek.config import options
from deepseek.frontend.tensor import record_values, settled, state
from deepseek.frontend.tracer import Trace
from deepseek.ir.graph import Graph, Node, Value, input_value, make_node, sequence
from deepseek.ir.op import Kind, Op, internal
from deepseek.ir.shape import TensorType

IMPURE = (Kind.RANDOM, Kind.HOST, Kind.COLLECTIVE, Kind.CONTROL)


def _body(types: Sequence[TensorType], attrs: dict[str, Any]) -> Graph:
    body: Graph = attrs["body"]
    return body


RECORDED = internal(
    Op(
        "recorded", Kind.COMPOSITE, lambda *types, body: [v.type for v in body.outputs],
        expand=_body, differentiable=False, doc="What was recorded before, as one node.",
    )
)  # fmt: skip


def recorded_again(body: Graph, inputs: Sequence[Value]) -> tuple[Value, ...]:
    """A graph's outputs for other inputs, as the outputs of one node."""
    state.pending += len(body.nodes)
    return record_values(RECORDED, tuple(inputs), {"body": body})


@dataclass(frozen=True)
class Recording:
    """`nodes`, in order, lead from the `given` values to the `results`."""

    given: tuple[Value, ...]
    nodes: tuple[Node, ...]
    results: tuple[Value, ...]

    def repeat(self, given: Sequence[Value]) -> list[Value]:
        """The results for other values of the same types."""
        others = dict(zip(self.given, given, strict=True))
        admitted = admitting()
        done: dict[Value, Value] = {}

        def other(value: Value) -> Value:
            if value in others and value not in done:
                done[value] = admitted(others[value])
            return done.get(value, value)

        for node in self.nodes:
            inputs = tuple([other(v) for v in node.inputs])
            types = [v.type for v in node.outputs]
            copy = make_node(node.op, inputs, node.attrs, types, node.line)
            done.update(zip(node.outputs, copy.outputs, strict=True))
        if state.trace is None:
            state.pending += len(self.nodes)
        return [other(v) for v in self.results]


def admitting() -> Callable[[Value], Value]:
    """What makes of a value the one that is recorded here."""
    return state.trace.inside if isinstance(state.trace, Trace) else settled


class Start:
    """A place in the order of recording."""

    def __init__(self) -> None:
        self.sequence = next(sequence)
        self.pending = state.pending
        self.calls = state.calls

    def recording(self, given: Sequence[Value], results: Sequence[Value]) -> Recording | None:
        """What was recorded since then from some values to others; None where that cannot be
        repeated.
        """
        if state.trace is not None and not isinstance(state.trace, Trace):
            return None
        if options.eager or state.pending < self.pending:  # some of it was computed meanwhile
            return None
        if state.calls > self.calls:  # functions of the user's are to be called each time
            return None
        if state.trace is not None:
            given = [state.trace.known(v) for v in given]
        moving = set(given)
        if len(moving) < len(given):
            return None
        made = self.nodes(results, moving)
        if any(n.op.kind in IMPURE or any(v.data is not None for v in n.outputs) for n in made):
            return None
        nodes = []
        for node in made:
            if any(v in moving for v in node.inputs):
                moving.update(node.outputs)
                nodes.append(node)
        return Recording(tuple(given), tuple(nodes), tuple(results))

    def graph(
        self, given: Sequence[Value], results: Sequence[Value]
    ) -> tuple[tuple[int, ...], Graph] | None:
        """What was recorded since then from some values to others, as a graph of its own, and which
        of the given values are its inputs; None where it is no function of them.
        """
        if state.trace is not None or self.recording(given, results) is None:
            return None
        nodes = self.nodes(results, set(given))
        read = {v for n in nodes for v in n.inputs}.union(results)
        made = {v for n in nodes for v in n.outputs}
        inputs = tuple([i for i, v in enumerate(given) if v in read])
        copies = {given[i]: input_value(given[i].type.dtype, given[i].type.shape) for i in inputs}
        if len(read - made) > len(copies):
            return None
        starts = tuple(copies.values())
        for node in nodes:
            types = [v.type for v in node.outputs]
            copy = make_node(
                node.op, tuple([copies[v] for v in node.inputs]), node.attrs, types, node.line
            )
            copies.update(zip(node.outputs, copy.outputs, strict=True))
        return inputs, Graph(starts, [copies[v] for v in results])

    def nodes(self, results: Sequence[Value], given: set[Value]) -> list[Node]:
        """The nodes recorded since, between given values and results, in order."""
        seen: set[Node] = set()
        stack = [v.node for v in results if v not in given]
        while stack:
            node = stack.pop()
            if node not in seen and node.sequence > self.sequence:
                seen.add(node)
                stack += [v.node for v in node.inputs if v not in given]
        return sorted(seen, key=lambda n: n.sequence)
