"""Checkpoint: a part of a computation whose values are computed again for its gradient.

In flow a function and what it was called with; it is recorded as always, and what was recorded then
becomes one node whose body is a graph: backward reads that node's inputs and nothing else of it.
The gradient records the body once more, on inputs that come through `late`: the same memory, but
not before the cotangents are there. So no pass takes the second computation for the first, and none
moves it forward in time.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from deepseek.autograd import copied_as_recorded, pullback
from deepseek.config import options, override
from deepseek.errors import ArgumentError, ShapeError, TraceError, format_line, user_line
from deepseek.frontend.tensor import Tensor, record, state
from deepseek.ir import graph
from deepseek.ir.graph import Graph, Node, Value, input_value
from deepseek.ir.op import Kind, Op, internal
from deepseek.ir.rewrite import Rewriter, Rule, inline
from deepseek.ir.scalar import Expr
from deepseek.ir.shape import TensorType
from deepseek.repetition import RECORDED

__all__ = ["checkpoint"]

Gradients = Sequence[Tensor | None]


def _late_meaning(
    index: tuple[Expr, ...], read: Any, inputs: Sequence[TensorType], out: TensorType
) -> Expr:
    value: Expr = read(0, index)
    return value


LATE = internal(
    Op(
        "late", Kind.VIEW, lambda x, *_: (x,), meaning=_late_meaning, reference=lambda x, *_: x,
        vjp=lambda g, y, x, *after: (g, *[None] * len(after)),
        doc="The first input, not before the others are there.",
    )
)  # fmt: skip


def _expanded(types: Sequence[TensorType], attrs: dict[str, Any]) -> Graph:
    body: Graph = attrs["body"]
    if tuple(types) != tuple(v.type for v in body.inputs):
        raise ShapeError("a checkpoint's body is for the sizes that it was recorded with")
    return body


def _checkpoint_vjp(g: Any, y: Any, *xs: Tensor, body: Graph) -> Gradients:
    """The body's gradient, on the body computed again as soon as the cotangents are there."""
    given = g if isinstance(g, tuple) else (g,)
    arrived = [t for t in given if t is not None]
    # With ops run one at a time, the body's values would be computed before they have a gradient.
    with override(eager=False) if options.eager else nullcontext():
        return pullback(body, [record(LATE, x, *arrived) for x in xs], given)


CHECKPOINT = internal(
    Op(
        "checkpoint", Kind.COMPOSITE,
        lambda *types, **attrs: [v.type for v in _expanded(types, attrs).outputs],
        expand=_expanded, vjp=_checkpoint_vjp,
        doc="A part whose gradient computes it again.",
    )
)  # fmt: skip


OPENED = (CHECKPOINT, RECORDED)
_opener = Rewriter(
    [Rule(op.name, lambda n: inline(n.attrs["body"], n.inputs), "open", True) for op in OPENED]
)


def opened(graph: Graph) -> Graph:
    """The graph with the bodies of checkpoints, and of what was recorded before, in their place:
    what runs op by op.
    """
    while any(node.op in OPENED for node in graph.nodes):
        graph = _opener.run(graph)
    return graph


def checkpoint(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that gives what `function` gives, and keeps none of its inner values for backward.

    They are computed again when the gradient needs them: less memory for one more forward. The
    gradients are the same, bit for bit, with the same random numbers. What the function reads from
    outside, such as parameters, gets its gradients too, and what it changes there (running
    averages) is changed once. Tensors among its results may lie in tuples, lists and dicts.

    It serves as a decorator, eagerly and inside `@ds.jit`, and may be nested. Raises ArgumentError
    for what cannot be called. (Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016.)

    >>> w = ds.ones((3, 3), requires_grad=True)
    >>> x = ds.ones((2, 3))
    >>> y = ds.checkpoint(lambda x: ds.tanh(x @ w) @ w)(x)
    >>> y.sum().backward()
    >>> print(w.grad.shape)
    (3, 3)
    """
    if not callable(function):
        raise ArgumentError(
            f"checkpoint: got {function!r}; wanted a function or a module\n"
            "  help: write ds.checkpoint(function)(x)"
        )

    @functools.wraps(function, updated=())  # a module's __dict__ is not the wrapper's
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not state.grad:
            return function(*args, **kwargs)
        start = next(graph.sequence)
        result = function(*args, **kwargs)
        made = [t for t in tensors_in(result) if is_inside(t._value, start) and t.requires_grad]
        if made:
            show_recomputed(made, start)
        return result

    return wrapped


def tensors_in(result: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and dicts."""
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, (tuple, list)):
        for part in result:
            yield from tensors_in(part)
    elif isinstance(result, dict):
        yield from tensors_in(list(result.values()))


def is_inside(value: Value, start: int) -> bool:
    """Whether a value was computed since `start`, and can be computed again."""
    return value.node.op.kind is not Kind.LEAF and value.node.sequence > start


def show_recomputed(results: Sequence[Tensor], start: int) -> None:
    """Let the results show the outputs of one node for all that was recorded since `start`."""
    outputs = list(dict.fromkeys(t._value for t in results))
    nodes, inputs = recorded_since(outputs, start)
    for node in nodes:
        if node.op.kind is Kind.COLLECTIVE:
            raise TraceError(
                f"op '{node.op.name}' stands in ds.checkpoint, which would run it twice\n"
                f"  at {format_line(node.line or user_line())}\n  help: call it outside"
            )
    copies = {v: input_value(v.type.dtype, v.type.shape) for v in inputs}
    body_inputs = tuple(copies.values())
    done = copied_as_recorded(nodes, copies)
    body = Graph(body_inputs, [done[v] for v in outputs])
    node = graph.node(CHECKPOINT, tuple(inputs), {"body": body}, user_line())
    shown = dict(zip(outputs, node.outputs, strict=True))
    for old, new in shown.items():
        new.requires_grad = True
        new.data = old.data  # where somebody looked
    for tensor in results:
        tensor._value = shown[tensor._value]
        tensor._value.handle = weakref.ref(tensor)


def recorded_since(outputs: Iterable[Value], start: int) -> tuple[list[Node], list[Value]]:
    """The nodes since `start` that outputs depend on, and what these read from before; each in
    recorded order.
    """
    nodes: set[Node] = set()
    read: set[Value] = set()
    stack = list(outputs)
    while stack:
        value = stack.pop()
        if not is_inside(value, start):
            read.add(value)
        elif value.node not in nodes:
            nodes.add(value.node)
            stack.extend(value.node.inputs)
    inputs = sorted(read, key=lambda v: (v.node.sequence, v.index))
    return sorted(nodes, key=lambda n: n.sequence), inputs
