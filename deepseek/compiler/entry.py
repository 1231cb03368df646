"""Entries: one traced and compiled signature of a jitted function, and what binds a call to it.

In flow the leaves of a call's arguments and the objects that its guards walked over; out flow
whether the entry fits, or why not, and the buffers of its graph's inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepseek._runtime import Buffer
from deepseek.compiler.compile import Example, Executable
from deepseek.frontend.guards import Table
from deepseek.frontend.tensor import GradientDropped, Tensor, from_numpy, hooks
from deepseek.frontend.tracer import Trace
from deepseek.ir import scalar
from deepseek.ir.dtype import dtype_of
from deepseek.ir.graph import Graph, Value
from deepseek.ir.op import Kind, Op
from deepseek.ir.rewrite import specialized
from deepseek.ir.scalar import Expr
from deepseek.ir.shape import TensorType

Where = tuple[str, int]  # ("leaf", argument number) or ("row", row of the guard table)


@dataclass
class Binding:
    """Where a graph input comes from at a call."""

    kind: str  # leaf, number, row, item, seed, draw
    at: int  # argument number, or row of the table
    key: Any = None
    type: TensorType | None = None
    requires_grad: bool = False


@dataclass
class Entry:
    """One traced and compiled signature."""

    table: Table
    bindings: list[Binding]
    executable: Executable
    result: Any  # structure of what the function returned
    returned: list[tuple[int, bool]]  # output number, whether it requires gradients
    rebound: list[tuple[Where, int, bool]]  # whose handle, output number, requires gradients
    grads: list[tuple[Where, int | None | GradientDropped]]
    draws: list[tuple[Any, int]]  # generator, how many
    symbols: list[tuple[int, int]]  # argument number and axis of each size symbol
    guards: list[Expr]  # over the symbols
    donated: list[int]  # graph inputs whose buffers an output may take
    graph: Graph
    call: Op
    variables: tuple[Expr, ...]
    pins: list[tuple[int, Any]]  # number arguments that the trace needed the value of
    recompile: Callable[..., Executable]  # the same again, for whoever wants to watch
    version: int = 0
    checked: dict[tuple[int, ...], bool] = field(default_factory=dict)

    def sizes(self, leaves: Sequence[Any]) -> tuple[int, ...]:
        return tuple([leaves[i]._value.type.shape[axis] for i, axis in self.symbols])

    def accepts(self, sizes: tuple[int, ...]) -> bool:
        """Whether the size guards hold."""
        found = self.checked.get(sizes)
        if found is None:
            env = dict(zip(self.variables, sizes, strict=True))
            found = min(sizes, default=2) >= 2 and all(
                bool(scalar.evaluate(g, env)) for g in self.guards
            )
            self.checked[sizes] = found
        return found


def as_leaf(x: Any) -> Any:
    """An argument leaf: arrays become tensors."""
    return from_numpy(x, dtype_of(x.dtype)) if isinstance(x, np.ndarray) else x


def pin(trace: Trace, i: int, current: Any) -> None:
    """The trace used number argument i for itself: it must be the same at later calls."""
    trace.pins.append((i, current))


def fits(entry: Entry, leaves: Sequence[Any]) -> bool:
    """Whether the arguments' sizes and pinned numbers are those the entry is for."""
    for i, value in entry.pins:
        if leaves[i] != value:
            return False
    sizes = entry.sizes(leaves)
    symbolic = set(entry.symbols)
    for b, v in zip(entry.bindings, entry.graph.inputs, strict=True):
        if b.kind == "leaf":
            given = leaves[b.at]._value.type
            if v.type.static:
                if given is not v.type:
                    return False
            else:
                for axis, (mine, other) in enumerate(zip(v.type.shape, given.shape, strict=True)):
                    if (b.at, axis) not in symbolic and mine != other:
                        return False
    return entry.accepts(sizes)


def bound_types_hold(entry: Entry, objects: Sequence[Any]) -> bool:
    """Whether the tensors read from outside have the types that the entry is for."""
    return all(
        b.kind != "row"
        or (
            objects[b.at]._value.type is b.type
            and objects[b.at]._value.requires_grad == b.requires_grad
        )
        for b in entry.bindings
    )


def misfit(entry: Entry, leaves: Sequence[Any]) -> str:
    """Why a call with these arguments cannot use the entry, in words."""
    for i, value in entry.pins:
        if leaves[i] != value:
            return f"argument {i} is {leaves[i]!r}, was {value!r}, and the trace used its value"
    for b, v in zip(entry.bindings, entry.graph.inputs, strict=True):
        if b.kind == "leaf" and v.type.static and leaves[b.at]._value.type is not v.type:
            return f"argument {b.at} is {leaves[b.at]._value.type}, was {v.type}"
    if not fits(entry, leaves):
        asked = "; ".join(f"{g}" for g in entry.guards)
        sizes = dict(zip(entry.variables, entry.sizes(leaves), strict=True))
        return f"the sizes {sizes} give other answers to what the trace asked ({asked})"
    objects = entry.table.follow()
    if objects is None:
        return entry.table.broken()
    for b in entry.bindings:
        if b.kind == "row":
            value = objects[b.at]._value
            if value.type is not b.type:
                return f"{entry.table.rows[b.at].text} is {value.type}, was {b.type}"
            if value.requires_grad != b.requires_grad:
                state = "requires" if value.requires_grad else "does not require"
                return f"{entry.table.rows[b.at].text} now {state} gradients"
    return "nothing differs"


def bound(b: Binding, objects: Sequence[Any], leaves: Sequence[Any]) -> tuple[Value | None, Buffer]:
    """The value (if it is a tensor's) and the buffer of a graph input."""
    if b.kind == "leaf" or b.kind == "row":
        value = (leaves if b.kind == "leaf" else objects)[b.at]._value
        if value.data is None:
            hooks.evaluate([value])
        return value, value.data
    if b.kind == "number":
        return None, scalar_buffer(leaves[b.at], b.key)
    if b.kind == "item":
        key, kind = b.key
        return None, scalar_buffer(objects[b.at][key], kind)
    if b.kind == "seed":
        return None, Buffer.copy_of(np.uint64(b.key.seed))
    return None, Buffer.copy_of(np.int64(b.key.draws + 1))


def first_call(
    table: Table, bindings: Sequence[Binding], leaves: Sequence[Any], symbols: Sequence[Any]
) -> Example | None:
    """The inputs of the call that is traced, to check meanings on."""
    objects = table.follow()
    if objects is None:
        return None
    sizes = tuple(leaves[i]._value.type.shape[axis] for i, axis in symbols)
    return Example([bound(b, objects, leaves)[1] for b in bindings], sizes)


def scalar_buffer(number: Any, kind: type) -> Buffer:
    return Buffer.copy_of(np.int64(number) if kind is int else np.float64(number))


def handle_at(place: Where, objects: Sequence[Any], leaves: Sequence[Any]) -> Tensor:
    kind, i = place
    handle: Tensor = leaves[i] if kind == "leaf" else objects[i]
    return handle


def label_of(b: Binding, table: Table) -> str:
    if b.kind in ("row", "item"):
        return table.rows[b.at].text
    return f"argument {b.at}" if b.kind in ("leaf", "number") else b.kind


def takeovers(
    graph: Graph, bindings: Sequence[Binding], rebound: Sequence[tuple[Where, int, bool]]
) -> tuple[dict[int, int], list[int]]:
    """Which outputs may take which inputs' buffers: a handle's new value that of its old one."""
    at = {("leaf" if b.kind == "leaf" else "row", b.at): i for i, b in enumerate(bindings)
          if b.kind in ("leaf", "row")}  # fmt: skip
    takes: dict[int, int] = {}
    for place, number, _ in rebound:
        i = at.get(place)
        if i is not None and graph.inputs[i].type is graph.outputs[number].type:
            takes[number] = i
    return takes, list(takes.values())


def call_op(name: str, graph: Graph) -> Op:
    """A compiled call as a composite, so that gradients can flow through it."""

    def expand(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> Graph:
        env = {
            s: given
            for mine, other in zip(graph.inputs, types, strict=True)
            for s, given in zip(mine.type.shape, other.shape, strict=True)
            if isinstance(s, Expr)
        }
        return specialized(graph, env) if env else graph

    def infer(*types: TensorType, **attrs: Any) -> tuple[TensorType, ...]:
        return tuple(v.type for v in expand(types, attrs).outputs)

    return Op(f"call_{name}", Kind.COMPOSITE, infer, expand=expand)
