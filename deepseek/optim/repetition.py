"""What was recorded for one parameter, recorded again for others of its type.

In flow the values that belong to a parameter and what an update rule made of them, op by op; out
flows a Recording. Repeated for another parameter it copies the nodes, with their types and lines,
at a small part of what recording takes. What does not depend on the parameter is shared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deepseek.config import options
from deepseek.frontend.tensor import settled, state
from deepseek.frontend.tracer import Trace
from deepseek.ir.graph import Node, Value, make_node, sequence
from deepseek.ir.op import Kind

IMPURE = (Kind.RANDOM, Kind.HOST, Kind.COLLECTIVE, Kind.CONTROL)


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

    def recording(self, given: Sequence[Value], results: Sequence[Value]) -> Recording | None:
        """What was recorded since then from some values to others; None where that cannot be
        repeated.
        """
        if state.trace is not None and not isinstance(state.trace, Trace):
            return None
        if options.eager or state.pending < self.pending:  # some of it was computed meanwhile
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
