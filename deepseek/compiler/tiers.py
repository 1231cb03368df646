"""Eager: what happens when somebody looks at a value.

A flush computes the requested values and their live ancestors: one graph from computed values to
those. What backward would read of values that require gradients is computed with them, as a tape
would keep it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepseek import autograd, backends
from deepseek._runtime import Buffer
from deepseek.backends import Backend
from deepseek.compiler.caches import Recent
from deepseek.compiler.compile import Example, Executable, compile_graph, largest_tensor
from deepseek.config import options
from deepseek.errors import OutOfMemoryError, ShapeError
from deepseek.frontend.tensor import hooks, no_grad, state, tracing
from deepseek.ir import scalar
from deepseek.ir.access import point_value
from deepseek.ir.graph import INPUT, INPUT_NODE, Graph, Node, Value, input_value, reach
from deepseek.ir.graph import node as make
from deepseek.ir.interpret import last_uses
from deepseek.ir.op import Kind
from deepseek.ir.rewrite import inline
from deepseek.ir.scalar import Expr
from deepseek.ir.shape import Sizes, active
from deepseek.ops import ones_like
from deepseek.recompute import opened

PROMOTED_AT = 3  # the time a pending graph is met at which it is compiled as a whole
MOST_OPS = 16  # programs for one form of an op, which differ in what their rules asked about sizes

# By target and graph: how often it was met, and its program. By target, op and form: the programs
# that serve it, or none where the op needs numbers for sizes.
_met: Recent[Any, int] = Recent(4096)
_promoted: Recent[Any, Executable] = Recent(512)
_ops: Recent[Any, tuple[OneOp, ...]] = Recent(4096)


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
    state.rehearsal = True
    try:
        with no_grad():
            leaves: set[Value] = set()
            for top in tops:
                leaves.update(autograd.leaves_of(top))
            seeds = [ones_like(autograd.shown(v)) for v in tops]
            found = autograd.cotangents(tops, seeds, leaves, autograd.requires_grad)
    finally:
        state.rehearsal = False
    backward = reach([t._value for t in found.values()], pending)
    return [v for n in backward for v in n.inputs if v in pending]


def run(nodes: Sequence[Node], outputs: list[Value]) -> None:
    """Execute pending nodes and attach the results."""
    leaves: dict[Value, None] = {}
    for node in nodes:
        for value in node.inputs:
            if value.data is not None:
                leaves.setdefault(value)
    graph = opened(Graph(leaves, outputs))
    backend = backends.load(options.backend)
    try:
        if backend.interprets:
            results = compile_graph(self_contained(graph), backend).run([v.data for v in leaves])
        else:
            results = run_in_tiers(graph, backend)
    except OutOfMemoryError as error:
        raise OutOfMemoryError(f"{error}{largest_tensor(graph)}") from None
    for value, data in zip(outputs, results, strict=True):
        value.data = data
        if autograd.is_leaf(value) or not value.requires_grad:
            value.node = INPUT_NODE


def run_in_tiers(graph: Graph, backend: Backend) -> list[Buffer]:
    """Op by op the first two times a graph is met, then as one program."""
    data = [v.data for v in graph.inputs]
    try:
        key = backend.target(), graph.key()
        times = (_met.get(key) or 0) + 1
    except TypeError:  # an attribute that cannot be hashed
        return run_by_op(graph, backend)
    _met.put(key, times)
    if times < PROMOTED_AT or not options.promote:
        return run_by_op(graph, backend)
    executable = _promoted.get(key)
    if executable is None:
        executable = compile_graph(
            self_contained(graph), backend, name="pending graph", example=example_of(data)
        )
        _promoted.put(key, executable)
    return executable.run(data)


def self_contained(graph: Graph) -> Graph:
    """The graph on inputs without history, so that no rule looks past them.

    A value that requires gradients keeps its node after it was computed.
    """
    if all(v.node.op is INPUT for v in graph.inputs):
        return graph
    inputs = []
    for value in graph.inputs:
        inputs.append(input_value(value.type.dtype, value.type.shape))
        inputs[-1].requires_grad = value.requires_grad
    return Graph(inputs, inline(graph, inputs))


def run_by_op(graph: Graph, backend: Backend) -> list[Buffer]:
    """Tier 0: one program per op, made once for all sizes."""
    values: dict[Value, Buffer] = {v: v.data for v in graph.inputs}
    last = last_uses(graph)
    for node in graph.nodes:
        if is_number(node):
            values[node.outputs[0]] = number(node)
            continue
        inputs = [values[v] for v in node.inputs]
        op, sizes = one_op(node, backend, inputs)
        results = op.executable.run(inputs, sizes)
        values.update(zip(node.outputs, results, strict=True))
        for value in last.get(node, ()):
            values.pop(value, None)
    return [values[v] for v in graph.outputs]


def is_number(node: Node) -> bool:
    """Whether a node is a number of the user's, which differs from call to call."""
    return node.op.kind is Kind.CREATE and not node.inputs and not node.outputs[0].type.rank


def number(node: Node) -> Buffer:
    """A created number, without a program: each number would have one of its own."""
    dtype = node.outputs[0].type.dtype
    value = scalar.evaluate(point_value(node, (), None), {})
    data = Buffer.allocate(dtype.itemsize, node.op.name)
    data.copy_from(np.asarray(scalar.convert(value, dtype)).reshape(1).view(np.uint8))
    return data


@dataclass
class OneOp:
    """One op, compiled for all sizes that have the same pattern."""

    executable: Executable
    symbols: tuple[Expr, ...]
    guards: list[Expr]

    def accepts(self, sizes: tuple[int, ...]) -> bool:
        env = dict(zip(self.symbols, sizes, strict=True))
        return all(bool(scalar.evaluate(g, env)) for g in self.guards)


def example_of(buffers: Sequence[Buffer], sizes: tuple[int, ...] = ()) -> Example | None:
    """The inputs at hand, where meanings are to be checked on them."""
    return Example(buffers, sizes) if options.verify > 1 else None


def one_op(
    node: Node, backend: Backend, inputs: Sequence[Buffer]
) -> tuple[OneOp, tuple[int, ...]]:
    """The compiled op for a node, and the sizes to run it with."""
    form, sizes = pattern(node, known_sizes=False)
    key = backend.target(), node.op, form
    known = _ops.get(key)
    if known != ():
        found = next((op for op in known or () if op.accepts(sizes)), None)
        if found is not None:
            return found, sizes
        try:
            found = compile_op(node, form, sizes, backend, inputs)
        except ShapeError:  # a rule that needs a number, such as a convolution's window
            if not known:
                _ops.put(key, ())
        else:
            _ops.put(key, (found, *(known or ()))[:MOST_OPS])
            return found, sizes
    form, sizes = pattern(node, known_sizes=True)
    key = *key[:2], (form, "known")
    known = _ops.get(key)
    if known is None:
        known = (compile_op(node, form, sizes, backend, inputs),)
        _ops.put(key, known)
    return known[0], sizes


def pattern(node: Node, known_sizes: bool) -> tuple[Any, tuple[int, ...]]:
    """A node's types and attributes with each size above 1 replaced by its number among the
    distinct sizes.

    Returns that and the distinct sizes. An elementwise node has one size, its number of elements.
    With `known_sizes` nothing is replaced.
    """
    distinct: dict[int, int] = {}

    def numbered(shape: Any) -> tuple[Any, ...]:
        if known_sizes:
            return tuple(shape)
        return tuple(s if s < 2 else ("n", distinct.setdefault(s, len(distinct))) for s in shape)

    if node.op.kind is Kind.ELEMENTWISE:
        count = numbered((node.outputs[0].type.numel,))
        types: tuple[Any, ...] = tuple((v.type.dtype, count) for v in node.inputs)
    else:
        types = tuple((v.type.dtype, numbered(v.type.shape)) for v in node.inputs)
    attrs = tuple((k, numbered(x) if k == "shape" else x) for k, x in node.attrs.items())
    return (types, attrs), tuple(distinct)


def compile_op(
    node: Node, form: Any, now: tuple[int, ...], backend: Backend, data: Sequence[Buffer]
) -> OneOp:
    """Compile one op with a symbol for each distinct size."""
    sizes = Sizes()
    symbols = tuple(sizes.symbol(s) for s in now)

    def shape_from(numbered: Any) -> tuple[Any, ...]:
        return tuple(symbols[s[1]] if isinstance(s, tuple) else s for s in numbered)

    types, attrs = form
    with active(sizes):
        inputs = [input_value(dtype, shape_from(shape)) for dtype, shape in types]
        given = {k: shape_from(x) if k == "shape" else x for k, x in attrs}
        made = make(node.op, tuple(inputs), given, node.line)
        executable = compile_graph(
            Graph(inputs, made.outputs), backend, symbols,
            name=f"op '{node.op.name}'", example=example_of(data, now),
        )  # fmt: skip
    return OneOp(executable, symbols, [g.condition for g in sizes.guards.values()])


hooks.evaluate = evaluate
