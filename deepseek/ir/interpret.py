"""The meaning of a graph: each node's NumPy reference, in order.

Slow and plain on purpose. 16-bit floats are widened to float32 for each op and its result is
rounded once. `wide=True` computes every float in float64 and takes float casts as identity: what
the graph means in real numbers, for comparing a graph before and after a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deepseek.errors import CompileError, ShapeError, op_error
from deepseek.ir.dtype import DType, float32, float64
from deepseek.ir.graph import CONSTANT, Graph, Node, Value
from deepseek.ir.op import Kind

Arrays = Sequence[np.ndarray[Any, Any]]
Watch = Callable[[Node, Sequence[Any]], None]


def interpret(
    graph: Graph, arrays: Arrays, wide: bool = False, watch: Watch | None = None
) -> list[np.ndarray[Any, Any]]:
    """The graph's outputs for the given inputs; `watch(node, results)` sees every node's."""
    values: dict[Value, Any] = {}
    for value, array in zip(graph.inputs, arrays, strict=True):
        values[value] = stored(np.asarray(array), value.type.dtype, wide)
    last = last_uses(graph)
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            results = interpret_node(node, [values[v] for v in node.inputs], wide)
            for value, result in zip(node.outputs, results, strict=True):
                values[value] = result
            if watch is not None:
                watch(node, results)
            for value in last.get(node, ()):
                del values[value]
    return [np.asarray(values[v]) for v in graph.outputs]


def last_uses(graph: Graph) -> dict[Node, list[Value]]:
    """For each node, the values that nobody reads after it."""
    seen: set[Value] = set(graph.outputs)
    out: dict[Node, list[Value]] = {}
    for node in reversed(graph.nodes):
        for value in {*node.inputs, *node.outputs}:
            if value not in seen:
                seen.add(value)
                out.setdefault(node, []).append(value)
    return out


def interpret_node(node: Node, arrays: Sequence[Any], wide: bool = False) -> list[Any]:
    """One node's outputs."""
    if node.op is CONSTANT:
        return [stored(node.attrs["array"].numpy, node.outputs[0].type.dtype, wide)]
    if node.op.kind is Kind.REGION:
        return list(interpret(node.attrs["body"], arrays, wide))
    if node.op.reference is None:
        return list(interpret(expansion(node), arrays, wide))
    operands = [computed(a, v.type.dtype, wide) for a, v in zip(arrays, node.inputs, strict=True)]
    try:
        out = call_reference(node, operands, wide)
    except IndexError as error:  # an index in a tensor, which only now is known
        wanted = "indices of elements that there are"
        raise op_error(ShapeError, node.op.name, error, wanted, node.line) from None
    results = out if isinstance(out, (tuple, list)) else (out,)
    return [
        stored(np.asarray(r), v.type.dtype, wide)
        for r, v in zip(results, node.outputs, strict=True)
    ]


def call_reference(node: Node, operands: Sequence[Any], wide: bool) -> Any:
    """The op's reference on arrays; composites bind by parameter name, control flow gets `run`."""
    op, attrs = node.op, node.attrs
    assert op.reference is not None
    if op.kind is Kind.COMPOSITE:
        values = iter(operands)
        return op.reference(**{p: attrs[p] if p in attrs else next(values) for p in op.parameters})
    if op.kind is Kind.CONTROL:
        return op.reference(*operands, run=lambda g, xs: interpret(g, xs, wide), **attrs)
    return op.reference(*operands, **attrs)


def expansion(node: Node) -> Graph:
    """A composite node's expansion."""
    if node.op.expand is None:
        raise CompileError(f"op '{node.op.name}' has neither a reference nor an expansion")
    graph: Graph = node.op.expand(tuple(v.type for v in node.inputs), node.attrs)
    return graph


def computed(array: Any, dtype: DType, wide: bool) -> Any:
    """An operand as its op computes with it."""
    if wide or not (dtype.is_float and dtype.bits == 16):
        return array
    return np.asarray(array).astype(float32.numpy)


def stored(array: Any, dtype: DType, wide: bool) -> Any:
    """A result as it is kept between ops."""
    if dtype.is_float and wide:
        return np.asarray(array).astype(float64.numpy)
    return np.asarray(array).astype(dtype.numpy, copy=False)
