"""Body functions of control flow as graphs.

In flows a Python function and the types it is called with; out flows a Graph, the structure of what
it returns and the outside tensors it reads, which become further operands so that nothing is
frozen. Structures are nested tuples, lists and dicts of tensors; numbers in them become tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from deepseek.errors import ArgumentError, DTypeError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor, no_grad, state, tracing
from deepseek.ir.graph import Graph, Value, input_value, sequence
from deepseek.ir.op import Kind
from deepseek.ir.shape import TensorType, same
from deepseek.ops.define import as_tensor, describe
from deepseek.ops.random import next_draw

Tensors = Sequence[Tensor]
LEAF = "tensor"  # stands for a tensor in the form of a structure


def flattened(tree: Any, op: str) -> tuple[list[Tensor], Any]:
    """The tensors of a nested structure in order, and the structure with LEAF for each."""
    if isinstance(tree, (tuple, list)):
        parts = [flattened(item, op) for item in tree]
        leaves = [leaf for leaves, _ in parts for leaf in leaves]
        return leaves, _rebuilt(tree, [form for _, form in parts])
    if isinstance(tree, dict):
        parts = [flattened(item, op) for item in tree.values()]
        leaves = [leaf for leaves, _ in parts for leaf in leaves]
        return leaves, dict(zip(tree, [form for _, form in parts], strict=True))
    if tree is None:
        return [], None
    return [as_tensor(tree, op)], LEAF


def _rebuilt(like: Any, items: list[Any]) -> Any:
    """A tuple, list or named tuple of the same class."""
    return type(like)(items) if type(like) in (tuple, list) else type(like)(*items)


def unflattened(form: Any, leaves: Any) -> Any:
    """The structure with the given tensors for its LEAFs."""
    leaves = iter(leaves)

    def build(part: Any) -> Any:
        if part is None:
            return None
        if part == LEAF:
            return next(leaves)
        if isinstance(part, dict):
            return {k: build(v) for k, v in part.items()}
        return _rebuilt(part, [build(item) for item in part])

    return build(form)


# ------------------------------------------------------------------------------------- tracing


class BodyTrace:
    """The trace of a body function: values from outside become further inputs of its graph."""

    def __init__(self, outer: Any) -> None:
        self.outer = outer
        self.step: Value | None = None  # a scan's step number, which tells its draws apart
        self.first = next(sequence)
        self.own: set[Value] = set()
        self.captured: dict[Value, Value] = {}

    def admit(self, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
        return tuple([self.inside(v) for v in inputs])

    def inside(self, value: Value) -> Value:
        """The value itself if the body computed it, else the input that stands for it."""
        if value in self.own:
            return value
        if value.node.op.kind is not Kind.LEAF and value.node.sequence > self.first:
            return value
        return self.stand_in(value)

    def stand_in(self, value: Value) -> Value:
        """The input that stands for a value from outside."""
        if value not in self.captured:
            self.captured[value] = self.input(value.type)
        return self.captured[value]

    def input(self, type_: TensorType) -> Value:
        made = input_value(type_.dtype, type_.shape)
        self.own.add(made)
        return made

    def note_rebind(self, tensor: Tensor) -> None:
        """A tensor from outside must not change in a body, which may run any number of times."""
        if tensor._value.node.sequence <= self.first:
            raise op_error(
                ArgumentError, "control flow", f"a change of {describe(tensor)} from outside",
                "a body that changes only what it made", user_line(),
                "pass it in as part of the state, and return the new one",
            )  # fmt: skip

    note_grad = note_grad_read = note_rebind

    def draw(self, generator: Any) -> tuple[Tensor, Tensor]:
        """A draw made outside; each step of a scan uses another part of the stream."""
        with tracing(self.outer):
            made = next_draw(generator)
        seed, draw = (Tensor(self.stand_in(t._value)) for t in made)
        if self.step is not None:
            draw = draw + (Tensor(self.step) + 1) * 2**40
        return seed, draw


def traced(
    function: Callable[..., Any],
    types: Sequence[TensorType],
    call: Callable[..., Any],
    op: str,
    step: int | None = None,
) -> tuple[Graph, Any, list[Tensor]]:
    """The graph of a body, the structure it returns, and the outside tensors it reads.

    `call(function, tensors)` calls it on one tensor for each type; `step` is the position of the
    step number among them. The graph's inputs are the outside tensors, then those of `types`.
    """
    trace = BodyTrace(state.trace)
    inputs = [trace.input(t) for t in types]
    trace.step = None if step is None else inputs[step]
    with tracing(trace), no_grad():
        result = call(function, [Tensor(v) for v in inputs])
        leaves, form = flattened(result, op)
        outputs = [trace.inside(leaf._value) for leaf in leaves]
    graph = Graph((*trace.captured.values(), *inputs), outputs)
    return graph, form, [shown(v) for v in trace.captured]


def shown(value: Value) -> Tensor:
    """A handle on an outside value that leaves the user's own handle in charge."""
    before = value.handle
    tensor = Tensor(value)
    if before is not None:
        value.handle = before
    return tensor


def merged(
    graphs: Sequence[Graph], captures: Sequence[Tensors]
) -> tuple[list[Graph], list[Tensor]]:
    """The graphs with one common list of outside tensors in front of their other inputs."""
    values = list(dict.fromkeys(t._value for tensors in captures for t in tensors))
    out = []
    for graph, tensors in zip(graphs, captures, strict=True):
        mine = dict(zip([t._value for t in tensors], graph.inputs, strict=False))
        front = [mine.get(v) or input_value(v.type.dtype, v.type.shape) for v in values]
        out.append(Graph((*front, *graph.inputs[len(tensors) :]), graph.outputs))
    return out, [shown(v) for v in values]


def refuse_change(op: str, what: str, before: Tensors, after: Sequence[Value], forms: Any) -> None:
    """Raises where a state's structure or types would change from one step to the next."""
    old, new = forms
    if old != new:
        raise op_error(
            ArgumentError, op, f"{what} of structure {new}", f"the structure it starts with, {old}",
            user_line(),
        )  # fmt: skip
    for tensor, value in zip(before, after, strict=True):
        a, b = tensor._value.type, value.type
        if a.dtype is not b.dtype or a.rank != b.rank or not all(map(same, a.shape, b.shape)):
            raise op_error(
                DTypeError if a.dtype is not b.dtype else ShapeError, op,
                f"{what} that becomes {b}", f"{a}, as it starts", user_line(),
                "convert it with astype or reshape in the body",
            )  # fmt: skip
