"""Eager: what happens when somebody looks at a value.

A flush computes the requested values and their live ancestors: one graph from computed values to those. What
backward would read of values that require gradients is computed with them, as a tape would keep it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deepseek import autograd, backends
from deepseek.compiler.compile import Executable, compile_graph
from deepseek.config import options
from deepseek.frontend.tensor import hooks, no_grad, state, tracing
from deepseek.ir.graph import INPUT_NODE, Graph, Node, Value, reach
from deepseek.ops import ones_like

_compiled: dict[object, Executable] = {}


def evaluate(values: Sequence[Value]) -> None:
    """Compute values, with everything pending that the user still holds under them."""
    wanted = [v for v in values if v.data is None]
    if not wanted:
        return
    with tracing(None):
        state.pending = 0
        nodes = reach(wanted, set())
        outputs = dict.fromkeys(wanted)
        outputs.update(dict.fromkeys(live(nodes)))
        outputs.update(dict.fromkeys(saved_for_backward(nodes, list(outputs))))
        run(nodes, list(outputs))


def live(nodes: Iterable[Node]) -> list[Value]:
    """The pending values that a Tensor still shows."""
    found = []
    for node in nodes:
        for value in node.outputs:
            tensor = value.handle() if value.handle is not None else None
            if tensor is not None and tensor._value is value:
                found.append(value)
    return found


def saved_for_backward(nodes: Sequence[Node], outputs: Sequence[Value]) -> list[Value]:
    """The pending values that the gradient of these outputs would read."""
    tops = [v for v in outputs if v.requires_grad]
    if not tops:
        return []
    pending = {v for n in nodes for v in n.outputs}
    with no_grad():
        leaves: set[Value] = set()
        for top in tops:
            leaves.update(autograd.leaves_of(top))
        seeds = [ones_like(autograd.shown(v)) for v in tops]
        found = autograd.cotangents(tops, seeds, leaves, autograd.requires_grad)
    backward = reach([t._value for t in found.values()], pending)
    return [v for n in backward for v in n.inputs if v in pending]


def run(nodes: Sequence[Node], outputs: list[Value]) -> None:
    """Execute pending nodes and attach the results."""
    leaves: dict[Value, None] = {}
    for node in nodes:
        for value in node.inputs:
            if value.data is not None:
                leaves.setdefault(value)
    graph = Graph(leaves, outputs)
    backend = backends.load(options.backend)
    key = (backend.target(), graph.key())
    executable = _compiled.get(key)
    if executable is None:
        executable = _compiled[key] = compile_graph(graph, backend)
    results = executable.run([v.data for v in leaves])
    for value, data in zip(outputs, results, strict=True):
        value.data = data
        if autograd.is_leaf(value) or not value.requires_grad:
            value.node = INPUT_NODE


hooks.evaluate = evaluate
