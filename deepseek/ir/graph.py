"""Graphs: immutable typed nodes over whole tensors.

A `Node` applies an op to values; a `Value` is one of its outputs. A `Graph` is a window on them:
the values it takes and the values it gives. Nodes are made by `node` only, which runs the op's type
rule. Nothing in this file knows an op by name, except the two leaves it defines.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from deepseek import _runtime
from deepseek.errors import ArgumentError, Line, op_error, user_line
from deepseek.ir.device import Device
from deepseek.ir.dtype import DType
from deepseek.ir.op import Kind, Op, internal
from deepseek.ir.shape import Shape, TensorType, current_sizes, tensor_type

Attrs = dict[str, Any]
sequence = itertools.count()
"""Numbers nodes in the order they are recorded."""


class Value:
    """One output of a node.

    `data` is its memory once it was computed (None while pending); `handle` a weak reference to the
    Tensor that shows it to the user; `requires_grad` whether a gradient may flow through it. Walks
    over pending work stop at values with data.
    """

    __slots__ = ("node", "index", "type", "data", "handle", "requires_grad", "__weakref__")
    node: Node
    index: int
    type: TensorType
    data: Any
    handle: Any
    requires_grad: bool

    def __repr__(self) -> str:
        return f"<{self.type} from {self.node.op.name}>"


class Node:
    """An op applied to values. `attrs` must not be changed; `sequence` is the recorded order.

    `form` numbers what it does to what types: nodes of one form differ in their inputs only. None
    where nobody has asked yet.
    """

    __slots__ = ("op", "inputs", "attrs", "outputs", "line", "sequence", "form")
    op: Op
    inputs: tuple[Value, ...]
    attrs: Attrs
    outputs: tuple[Value, ...]
    line: Line | None
    sequence: int
    form: int | None

    def __repr__(self) -> str:
        return f"<node {self.op.name} -> {', '.join(str(v.type) for v in self.outputs)}>"


_runtime.configure_nodes(node=Node, value=Value, sequence=sequence)
make_node: Callable[..., Node] = _runtime.make_node
"""make_node(op, inputs, attrs, types, line=None, form=None): a node, its output types known."""
make_value: Callable[[Node, TensorType], Value] = _runtime.make_value
"""make_value(node, type): the first output of a node that is made otherwise."""


def node(op: Op, inputs: tuple[Value, ...], attrs: Attrs, line: Line | None = None) -> Node:
    """A node, its types inferred by the op's rule (remembered where no trace asks about sizes)."""
    form, types = typed(op, tuple([v.type for v in inputs]), attrs)
    return make_node(op, inputs, attrs, types, line, form)


def typed(
    op: Op, types: tuple[TensorType, ...], attrs: Attrs
) -> tuple[int, tuple[TensorType, ...]]:
    """The form of an op on the given input types, 0 where it cannot be compared, and its output
    types.
    """
    sizes = current_sizes()
    if sizes is None or not sizes.current:  # else the rule may have to leave guards each time
        try:
            return _typed(op, types, exact(attrs) if attrs else ())
        except TypeError:  # an attribute that cannot be hashed, or the rule's own error
            pass
    return 0, by_rule(op, types, attrs)


@functools.lru_cache(maxsize=1 << 14)
def _typed(
    op: Op, types: tuple[TensorType, ...], attrs: Any
) -> tuple[int, tuple[TensorType, ...]]:
    found = by_rule(op, types, {name: value for name, value, _ in attrs})
    return next(_forms), found


_forms = itertools.count(1)


def form_of(node: Node) -> int:
    """What a node does to what types, as a number; 0 where that cannot be compared."""
    if node.form is None:
        node.form, _ = typed(node.op, tuple([v.type for v in node.inputs]), node.attrs)
    return node.form


def by_rule(op: Op, types: tuple[TensorType, ...], attrs: Attrs) -> tuple[TensorType, ...]:
    """What the op's rule says, which knows of no devices, on the device of the inputs."""
    device = common_device(op, types)
    if device is None:
        return tuple(op.infer(*types, **attrs))
    return tuple(t.on(device) for t in op.infer(*[t.on(None) for t in types], **attrs))


def common_device(op: Op, types: Iterable[TensorType]) -> Device | None:
    """The device of an op's inputs. Raises ArgumentError where they lie on several."""
    devices = {t.device for t in types if t.device is not None}
    if len(devices) > 1:
        raise op_error(
            ArgumentError, op.name, list(types), "tensors of one device", user_line(2),
            "move one of them with x.to(y.device)",
        )  # fmt: skip
    return devices.pop() if devices else None


def _leaf(*_: Any, type: TensorType, **__: Any) -> tuple[TensorType, ...]:  # noqa: A002
    return (type,)


INPUT = internal(Op("input", Kind.LEAF, _leaf, doc="A value given to the graph."))
CONSTANT = internal(
    Op("constant", Kind.LEAF, lambda *, array: (array.type,), doc="An array known when compiling.")
)


class Array:
    """A constant's elements: read-only NumPy, hashed by content."""

    __slots__ = ("numpy", "type", "_key")

    def __init__(self, array: np.ndarray[Any, Any], dtype: DType) -> None:
        self.numpy = np.ascontiguousarray(array, dtype.numpy).reshape(np.shape(array))
        self.numpy.flags.writeable = False
        self.type = tensor_type(dtype, self.numpy.shape)
        self._key = (self.type, self.numpy.tobytes())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Array) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


INPUT_NODE = make_node(INPUT, (), {}, ())
"""The producer of values whose history was let go."""


def input_value(
    dtype: DType, shape: Shape, name: str | None = None, device: Device | None = None
) -> Value:
    """A fresh graph input."""
    type_ = tensor_type(dtype, shape, device)
    return make_node(INPUT, (), {"type": type_, "name": name}, (type_,)).outputs[0]


def constant(array: np.ndarray[Any, Any], dtype: DType) -> Value:
    """A constant value."""
    held = Array(array, dtype)
    return make_node(CONSTANT, (), {"array": held}, (held.type,)).outputs[0]


def exact(attrs: Attrs) -> tuple[Any, ...]:
    """Attributes as a key that tells -0.0 from 0.0, and True and 1.0 from 1: names, values, and
    what the values look like.
    """
    return tuple([(k, v, _look(v)) for k, v in attrs.items()]) if attrs else ()


def _look(value: Any) -> Any:
    kind = type(value)
    if kind is int or kind is str:
        return None
    if isinstance(value, (float, bool, np.generic)):
        return repr(value)
    return tuple(map(_look, value)) if kind is tuple else None


class Graph:
    """A function from `inputs` to `outputs`: everything between is reached from the outputs.

    `nodes` is for who has just walked there: all of them, in recorded order.
    """

    __slots__ = ("inputs", "outputs", "_nodes", "_hash")

    def __init__(
        self,
        inputs: Iterable[Value],
        outputs: Iterable[Value],
        nodes: tuple[Node, ...] | None = None,
    ) -> None:
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self._nodes = nodes
        self._hash: int | None = None

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes between inputs and outputs (constants included), in recorded order."""
        if self._nodes is None:
            self._nodes = reach(self.outputs, set(self.inputs))
        return self._nodes

    def uses(self) -> dict[Value, list[Node]]:
        """For each value, the nodes that read it (once per reading)."""
        out: dict[Value, list[Node]] = {}
        for n in self.nodes:
            for value in n.inputs:
                out.setdefault(value, []).append(n)
        return out

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and (self is other or self.key() == other.key())

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(self.key())
        return self._hash

    def key(self) -> tuple[Any, ...]:
        """The structure as a hashable value: equal for graphs that do the same in the same way."""
        number: dict[Value, int] = {v: i for i, v in enumerate(self.inputs)}
        parts: list[Any] = [tuple(v.type for v in self.inputs)]
        for n in self.nodes:
            types = tuple([v.type for v in n.outputs])
            parts.append((n.op, tuple([number[v] for v in n.inputs]), exact(n.attrs), types))
            for v in n.outputs:
                number[v] = len(number)
        parts.append(tuple(number[v] for v in self.outputs))
        return tuple(parts)


def reach(outputs: Iterable[Value], stop: set[Value]) -> tuple[Node, ...]:
    """The nodes that the outputs depend on, not going past `stop` or computed values."""
    seen: set[Node] = set()
    stack = [v.node for v in outputs if v not in stop and v.data is None]
    while stack:
        n = stack.pop()
        if n in seen:
            continue
        seen.add(n)
        for v in n.inputs:
            if v not in stop and v.data is None and v.node not in seen:
                stack.append(v.node)
    return tuple(sorted(seen, key=_order))


def _order(n: Node) -> int:
    return n.sequence
