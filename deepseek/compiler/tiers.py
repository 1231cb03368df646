"""Eager: what happens when somebody looks at a value.

A flush computes the requested values and their live ancestors: one graph from computed values to
those. What backward would read of values that require gradients is computed with them, as a tape
would keep it. The runtime walks over what is pending and gives it a key; a key that was met often
enough has a plan, and then nothing of this is worked out again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepseek import autograd, backends
from deepseek._runtime import Buffer, Pending, Plan
from deepseek.backends import Backend
from deepseek.compiler.caches import Recent
from deepseek.compiler.compile import (
    Compiled,
    Example,
    Executable,
    compile_graph,
    largest_tensor,
    out_of_memory,
)
from deepseek.config import options
from deepseek.errors import OutOfMemoryError, ShapeError
from deepseek.frontend.devices import on_device, without_devices
from deepseek.frontend.tensor import hooks, no_grad, state, tracing
from deepseek.ir import scalar
from deepseek.ir.access import point_value
from deepseek.ir.device import Device
from deepseek.ir.graph import Graph, Node, Value, exact, input_value, reach
from deepseek.ir.graph import node as make
from deepseek.ir.interpret import last_uses
from deepseek.ir.op import Kind
from deepseek.ir.rewrite import inline
from deepseek.ir.scalar import Expr
from deepseek.ir.shape import Sizes, active
from deepseek.ops import ones_like
from deepseek.ops.define import isolated
from deepseek.recompute import opened

PROMOTED_AT = 3  # the time a pending graph is met at which it is compiled as a whole
MOST_OPS = 16  # programs for one form of an op, which differ in what their rules asked about sizes

# By target and the key of what was pending: how often it was met, and its plan. By target, op and
# form: the programs that serve it, or none where the op needs numbers for sizes.
_met: Recent[Any, int] = Recent(4096)
_plans: Recent[Any, Plan] = Recent(512)
_ops: Recent[Any, tuple[OneOp, ...]] = Recent(4096)


def evaluate(values: Sequence[Value]) -> None:
    """Compute values, with everything pending that the user still holds under them."""
    device = values[0].type.device if values else None
    if len(values) > 1 and any(v.type.device is not device for v in values):
        evaluate([v for v in values if v.type.device is not device])
        values = [v for v in values if v.type.device is device]
    pending = Pending(values)
    if not pending:
        return
    state.pending = 0
    backend = backends.backend_of(device)
    key = backend.target(), pending.key
    plan = _plans.get(key) if options.promote else None
    if plan is None:
        with tracing(None):
            run(pending, key, backend, device)
        return
    try:
        plan.run(pending)
    except OutOfMemoryError as error:
        with tracing(None):
            raise out_of_memory(str(error), graph_of(pending, device)) from None


def saved_for_backward(nodes: Sequence[Node], outputs: Sequence[Value]) -> list[Value]:
    """The pending values that the gradient of these outputs would read."""
    tops = [v for v in outputs if v.requires_grad]
    if not tops:
        return []
    pending = {v for n in nodes for v in n.outputs if v.data is None}
    with isolated(), no_grad():  # whatever the options say, nothing is computed meanwhile
        leaves: set[Value] = set()
        for top in tops:
            leaves.update(autograd.leaves_of(top))
        seeds = [ones_like(autograd.shown(v)) for v in tops]
        found = autograd.cotangents(tops, seeds, leaves, autograd.requires_grad)
    backward = reach([t._value for t in found.values()], pending)
    return [v for n in backward for v in n.inputs if v in pending]


def graph_of(pending: Pending, device: Device | None) -> Graph:
    """What a flush computes: the values that are shown, and those that backward will read.

    What belongs to no device yet is computed there for its readers only.
    """
    outputs = dict.fromkeys(pending.shown)
    outputs.update(dict.fromkeys(saved_for_backward(pending.nodes, pending.shown)))
    there = [v for v in outputs if v.type.device is device]
    return Graph(pending.inputs, there, pending.nodes)  # another thread may compute some now


def run(
    pending: Pending, key: tuple[str, bytes], backend: Backend, device: Device | None
) -> None:
    """Compute what has no plan: op by op the first two times it is met, then as one program, which
    becomes its plan.
    """
    recorded = graph_of(pending, device)
    graph = opened(self_contained(recorded))
    graph = graph if device is None else without_devices(graph)
    data = [v.data for v in recorded.inputs]
    numbers = pending.numbers_of(recorded.outputs)
    try:
        if backend.interprets:
            results = compile_graph(graph, backend).run(data)
        elif not options.promote or times_met(key) < PROMOTED_AT:
            results = run_by_op(graph, data, backend, device)
        else:
            example = example_of(data)
            executable = compile_graph(
                on_device(graph, device), backend, name="pending graph", example=example
            )
            if type(executable) is Compiled and executable.prepared is None:
                _plans.put(key, Plan(executable.loaded, executable.from_input, numbers))
            results = executable.run(data)
    except OutOfMemoryError as error:
        raise OutOfMemoryError(f"{error}{largest_tensor(graph)}") from None
    pending.show(numbers, results)


def times_met(key: tuple[str, bytes]) -> int:
    """How often this was pending, with this time; 1 for what cannot be compared."""
    times = (_met.get(key) or 0) + 1 if key[1] else 1
    _met.put(key, times)
    return times


def self_contained(graph: Graph) -> Graph:
    """The graph on inputs without history, so that no rule looks past them.

    A value that requires gradients keeps its node after it was computed.
    """
    inputs = []
    for value in graph.inputs:
        inputs.append(input_value(value.type.dtype, value.type.shape))
        inputs[-1].requires_grad = value.requires_grad
    return Graph(inputs, inline(graph, inputs))


def run_by_op(
    graph: Graph, data: Sequence[Buffer], backend: Backend, device: Device | None
) -> list[Buffer]:
    """Tier 0: one program per op, made once for all sizes."""
    values: dict[Value, Buffer] = dict(zip(graph.inputs, data, strict=True))
    last = last_uses(graph)
    for node in graph.nodes:
        if is_number(node):
            values[node.outputs[0]] = number(node)
            continue
        inputs = [values[v] for v in node.inputs]
        op, sizes = one_op(node, backend, device, inputs)
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
    node: Node, backend: Backend, device: Device | None, inputs: Sequence[Buffer]
) -> tuple[OneOp, tuple[int, ...]]:
    """The compiled op for a node, and the sizes to run it with."""
    form, sizes = pattern(node, known_sizes=False)
    look = exact(node.attrs)  # attributes may be equal and not the same, such as 0.0 and -0.0
    key = backend.target(), device, node.op, (form, look)
    known = _ops.get(key)
    if known != ():
        found = next((op for op in known or () if op.accepts(sizes)), None)
        if found is not None:
            return found, sizes
        try:
            found = compile_op(node, form, sizes, backend, device, inputs)
        except ShapeError:  # a rule that needs a number, such as a convolution's window
            if not known:
                _ops.put(key, ())
        else:
            _ops.put(key, (found, *(known or ()))[:MOST_OPS])
            return found, sizes
    form, sizes = pattern(node, known_sizes=True)
    key = *key[:3], (form, look, "known")
    known = _ops.get(key)
    if known is None:
        known = (compile_op(node, form, sizes, backend, device, inputs),)
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
    node: Node, form: Any, now: tuple[int, ...], backend: Backend, device: Device | None,
    data: Sequence[Buffer],
) -> OneOp:  # fmt: skip
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
            on_device(Graph(inputs, made.outputs), device), backend, symbols,
            name=f"op '{node.op.name}'", example=example_of(data, now),
        )  # fmt: skip
    return OneOp(executable, symbols, [g.condition for g in sizes.guards.values()])


hooks.evaluate = evaluate
