"""Entries: one traced and compiled signature of a jitted function, as plain data.

In flow a finished trace and the guard table of what it read; out flow the graph with all hidden
inputs and outputs, compiled, and everything that the runtime's dispatcher needs to tell whether a
call fits, to bind it, and to show its results.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepseek import backends
from deepseek._runtime import Buffer
from deepseek.autograd import copied_as_recorded
from deepseek.compiler.compile import Compiled, Example, Executable, compile_graph
from deepseek.compiler.tree import GENERATOR, TENSOR, flatten
from deepseek.config import options
from deepseek.errors import TraceError, format_line
from deepseek.frontend.explore import Explorer
from deepseek.frontend.guards import LEAF, MISSING, Table, same
from deepseek.frontend.tensor import GradientDropped, Tensor, from_numpy, hooks, state
from deepseek.frontend.tracer import Trace
from deepseek.ir import scalar
from deepseek.ir.dtype import DType, dtype_of
from deepseek.ir.graph import Graph, Value, make_node
from deepseek.ir.op import Kind, Op
from deepseek.ir.rewrite import specialized
from deepseek.ir.scalar import Expr
from deepseek.ir.shape import Sizes, TensorType, tensor_type

# What a graph input is: a tensor's data, a number, a generator's seed or its next draw.
NUMBER, SEED, DRAW = "number", "seed", "draw"


@dataclass
class Leaf:
    """What a tensor, number or generator among the arguments has to be.

    `same` is the number of the first leaf that is the same object. A tensor has sizes `dims`, where
    ~i stands for symbol i; a number has the exact type `number` and, unless it is MISSING, the
    value `pinned`.
    """

    kind: str
    same: int
    type: TensorType | None = None  # where no size is symbolic
    given: TensorType | None = None  # in the call that was traced
    dtype: DType | None = None
    dims: tuple[int, ...] = ()
    requires_grad: bool = False
    number: type | None = None
    pinned: Any = MISSING


@dataclass
class Binding:
    """Where a graph input comes from at a call: from the object of a row of the table."""

    kind: str  # tensor, number, seed, draw
    row: int
    type: TensorType  # of the graph input; of a tensor from outside, its own
    requires_grad: bool = False


@dataclass
class Entry:
    """One traced and compiled signature."""

    structure: Any
    context: tuple[Any, ...]
    leaves: list[Leaf]
    table: Table
    bindings: list[Binding]
    executable: Executable
    result: Any  # structure of what the function returned
    returned: list[tuple[int, bool]]  # output number, whether it requires gradients
    rebound: list[tuple[int, int, bool]]  # row of the handle, output number, requires gradients
    grads: list[tuple[int, int, Any]]  # row of the handle, output number or -1 and what it is then
    draws: list[tuple[int, int]]  # row of the generator, how many
    effects: list[Callable[[], object]]  # called, in order, after each call
    donated: list[tuple[int, int, bool]]  # input, output that may take it over, is it a gradient
    variables: tuple[Expr, ...]  # the size symbols
    guards: list[Expr]  # over the symbols
    result_sizes: list[Expr]  # sizes among the results
    graph: Graph
    call: Op
    recompile: Callable[..., Executable]  # the same again, for whoever wants to watch

    @property
    def in_runtime(self) -> bool:
        """Whether the runtime runs a Program, rather than Python the executable."""
        return type(self.executable) is Compiled

    def sizes(self, leaves: Sequence[Any]) -> tuple[int, ...]:
        """What the symbols stand for at a call."""
        found: dict[int, int] = {}
        for leaf, x in zip(self.leaves, leaves, strict=True):
            for axis, dim in enumerate(leaf.dims):
                if dim < 0:
                    found.setdefault(~dim, x._value.type.shape[axis])
        return tuple(found[i] for i in range(len(self.variables)))

    def admit(self, sizes: tuple[int, ...]) -> tuple[Any, ...] | None:
        """The outputs' types and the sizes among the results, or None where a size guard fails."""
        env = dict(zip(self.variables, sizes, strict=True))
        if min(sizes, default=1) < 1 or not all(scalar.evaluate(g, env) for g in self.guards):
            return None
        shapes = self.executable.output_shapes(sizes)
        outputs = zip(self.executable.outputs, shapes, strict=True)
        types = tuple(tensor_type(t.dtype, shape) for t, shape in outputs)
        return types, tuple(int(scalar.evaluate(e, env)) for e in self.result_sizes)

    def link(self, inputs: Sequence[Value], outputs: Sequence[Tensor]) -> None:
        """Let gradients flow from the outputs back through the call: by its graph."""
        node = make_node(self.call, tuple(inputs), {}, [t._value.type for t in outputs])
        for tensor, value, (_, requires) in zip(outputs, node.outputs, self.returned, strict=True):
            value.data = tensor._value.data
            value.requires_grad = requires
            tensor._rebind(value)


def context() -> tuple[Any, ...]:
    """What an entry depends on beside its arguments and guards."""
    return options.backend, options.cpu_level, state.grad, state.autocast


def as_leaf(x: Any) -> Any:
    """An argument leaf: arrays become tensors."""
    if isinstance(x, (np.ndarray, np.floating)):
        return from_numpy(x, dtype_of(np.asarray(x).dtype))
    return x


def flattened(args: Any, kwargs: Any) -> tuple[Any, list[Any]]:
    """The structure and the leaves of a call."""
    leaves: list[Any] = []
    structure = flatten((args, kwargs), leaves)
    return structure, [as_leaf(x) for x in leaves]


class Call:
    """The call that is traced: its arguments, and the placeholders that stand for them."""

    def __init__(self, structure: Any, leaves: list[Any], trace: Trace, sizes: Sizes) -> None:
        self.structure = structure
        self.leaves = leaves
        self.trace = trace
        self.sizes = sizes
        self.kinds: list[Leaf] = []
        self.inputs: list[tuple[str, int, Value]] = []  # kind of input, leaf, placeholder
        self.pinned: set[int] = set()

    def place(self, varying: dict[int, list[int]]) -> list[Any]:
        """Show placeholders in place of the tensors; what the function is to be called with."""
        first: dict[int, int] = {}
        arguments: list[Any] = []
        for i, x in enumerate(self.leaves):
            at = first.setdefault(id(x), i)
            if isinstance(x, Tensor):
                self.kinds.append(self.tensor(x, i, at, varying.get(i, ())))
                arguments.append(x)
            elif isinstance(x, (int, float)):
                placeholder, number = self.trace.as_number(x)
                number.guard = functools.partial(self.pinned.add, i)
                self.kinds.append(Leaf(NUMBER, i, number=type(x)))
                self.inputs.append((NUMBER, i, placeholder))
                arguments.append(number)
            else:
                self.kinds.append(Leaf(GENERATOR, at))
                arguments.append(x)
        return arguments

    def tensor(self, x: Tensor, i: int, at: int, axes: Sequence[int]) -> Leaf:
        value = x._value
        if at != i:
            return Leaf(TENSOR, at, value.type, value.type, requires_grad=value.requires_grad)
        shape: list[Any] = list(value.type.shape)
        dims = list(shape)
        for axis in axes:
            dims[axis] = ~len(self.sizes.current)
            shape[axis] = self.sizes.symbol(shape[axis])
        placeholder = self.trace.placeholder(value.type.dtype, tuple(shape), value.requires_grad)
        self.trace.shown[value] = placeholder
        self.trace.show(x, placeholder)
        self.inputs.append((TENSOR, i, placeholder))
        type_ = None if axes else value.type
        return Leaf(
            TENSOR, i, type_, value.type, value.type.dtype, tuple(dims), value.requires_grad
        )

    def without(
        self, varying: dict[int, list[int]], symbols: Sequence[Expr]
    ) -> dict[int, list[int]]:
        """The varying axes but those that these symbols stand for."""
        unwanted = {~i for i, symbol in enumerate(self.sizes.current) if symbol in symbols}
        dims = {i: self.kinds[self.kinds[i].same].dims for i in varying}
        return {i: [a for a in axes if dims[i][a] not in unwanted] for i, axes in varying.items()}

    def leaf_kinds(self) -> list[Leaf]:
        """The leaves, with the numbers that the trace needed the value of."""
        for i in self.pinned:
            self.kinds[i].pinned = self.leaves[i]
        return self.kinds


@dataclass
class Traced:
    """What a function did while it was traced."""

    result: Any
    returned: list[Value]
    result_sizes: list[Expr]
    rebound: dict[Tensor, Value]
    grads: dict[Tensor, Any]


def assemble(
    name: str, call: Call, done: Traced, explorer: Explorer, keep_grads: bool
) -> Entry:
    """Turn a finished trace into a graph with all hidden inputs and outputs, and compile it."""
    trace = call.trace
    bindings, inputs = bound_inputs(name, call, explorer)
    outputs = list(done.returned)
    place = functools.partial(row_of, name, explorer)
    rebound = []
    for handle, value in done.rebound.items():
        row = place(handle, "a tensor that it changes")
        rebound.append((row, len(outputs), value.requires_grad))
        outputs.append(trace.inside(value))
    grads: list[tuple[int, int, Any]] = []
    for handle, grad in done.grads.items():
        if id(handle) not in explorer.known:
            continue  # made inside
        row = place(handle, "a gradient")
        if isinstance(grad, Tensor) and (keep_grads or handle not in trace.consumed):
            grads.append((row, len(outputs), None))
            outputs.append(trace.inside(grad._value))
        else:
            dropped = isinstance(grad, Tensor)
            grads.append((row, -1, GradientDropped() if dropped else grad))
    graph = Graph(inputs, outputs)
    linked = Graph(inputs, done.returned)
    takes, donated = takeovers(graph, linked, bindings, rebound, grads, explorer)
    labels = [label_of(b, explorer.table) for b in bindings]
    changed = {row for row, _, _ in rebound}
    stable = tuple(
        i for i, b in enumerate(bindings)
        if b.kind == TENSOR and b.row not in changed and not differs(b, explorer.table)
    )  # fmt: skip
    symbols = tuple(call.sizes.current)
    recompile = functools.partial(
        compile_graph, graph, backends.load(options.backend), symbols, takes, labels,
        stable=stable, name=name,
    )  # fmt: skip
    example = first_call(explorer, bindings, call) if options.verify > 1 else None
    return Entry(
        structure=call.structure,
        context=context(),
        leaves=call.leaf_kinds(),
        table=explorer.table,
        bindings=bindings,
        executable=recompile(example=example),
        result=done.result,
        returned=[(i, v.requires_grad) for i, v in enumerate(done.returned)],
        rebound=rebound,
        grads=grads,
        draws=[(generator_row(explorer, d.generator), d.count) for d in trace.draws.values()],
        effects=trace.effects,
        donated=donated,
        variables=symbols,
        guards=[g.condition for g in call.sizes.guards.values()],
        result_sizes=done.result_sizes,
        graph=graph,
        call=call_op(name, as_recorded(linked)),
        recompile=recompile,
    )


def bound_inputs(
    name: str, call: Call, explorer: Explorer
) -> tuple[list[Binding], list[Value]]:
    """Where every graph input comes from, and the inputs themselves."""
    trace = call.trace
    bindings: list[Binding] = []
    inputs: list[Value] = []

    def add(kind: str, row: int, value: Value, type_: TensorType, requires: bool = False) -> None:
        bindings.append(Binding(kind, row, type_, requires))
        inputs.append(value)

    for kind, i, placeholder in call.inputs:
        add(kind, i, placeholder, placeholder.type, placeholder.requires_grad)
    for h in trace.hidden.values():
        at = explorer.shown.get(id(h.value))  # any handle that shows it will do
        row = row_of(name, explorer, h.handle, format_line(h.line)) if at is None else at
        add(TENSOR, row, h.placeholder, h.value.type, h.value.requires_grad)
    for key, n in trace.numbers.items():
        number_row = explorer.number_rows.get(key)
        if number_row is None:
            raise TraceError(
                f"{name} uses an optimizer that no argument, global, closure or attribute shows\n"
                "  help: pass it as an argument, or keep it in one of these"
            )
        add(NUMBER, number_row, n.placeholder, n.placeholder.type)
    for d in trace.draws.values():
        row = generator_row(explorer, d.generator)
        add(SEED, row, d.seed, d.seed.type)
        add(DRAW, row, d.first, d.first.type)
    return bindings, inputs


def generator_row(explorer: Explorer, generator: Any) -> int:
    found = explorer.known.get(id(generator))
    return explorer.hold(generator, "the random numbers") if found is None else found


def row_of(name: str, explorer: Explorer, handle: Tensor, where: str) -> int:
    """How to find a handle again at the next call."""
    row = explorer.known.get(id(handle))
    if row is None:
        raise TraceError(
            f"{name} uses a tensor that cannot be found again at the next call\n"
            f"  at {where}\n  help: pass it as an argument, or keep it in a global, a closure, or "
            "an attribute that the function names"
        )
    return row


def takeovers(
    graph: Graph,
    linked: Graph,
    bindings: Sequence[Binding],
    rebound: Sequence[tuple[int, int, bool]],
    grads: Sequence[tuple[int, int, Any]],
    explorer: Explorer,
) -> tuple[dict[int, int], list[tuple[int, int, bool]]]:
    """Which outputs may take which inputs' buffers: a handle's new value that of its old one.

    What a later gradient through the call will read is left alone.
    """
    at = {b.row: i for i, b in enumerate(bindings) if b.kind == TENSOR}
    kept: set[Value] = set()
    if any(v.requires_grad for v in linked.outputs):
        kept = {v for n in linked.nodes for v in n.inputs} | set(linked.outputs)
    takes: dict[int, int] = {}
    donated: list[tuple[int, int, bool]] = []
    for row, number, _ in rebound:
        i = at.get(row)
        if i is not None and fits_into(graph, i, number, kept):
            takes[number] = i
            donated.append((i, number, False))
    for row, number, _ in grads:
        gradient = explorer.objects[row]._grad
        i = at.get(explorer.known.get(id(gradient), -1))
        if number >= 0 and i is not None and fits_into(graph, i, number, kept):
            takes[number] = i
            donated.append((i, number, True))
    return takes, donated


def fits_into(graph: Graph, i: int, number: int, kept: set[Value]) -> bool:
    """Whether input i's buffer can serve an output."""
    value = graph.inputs[i]
    return value.type is graph.outputs[number].type and value not in kept


def first_call(explorer: Explorer, bindings: Sequence[Binding], call: Call) -> Example | None:
    """The inputs of the call that is traced, to check meanings on."""
    buffers = [bound(b, explorer.objects)[1] for b in bindings]
    return Example(buffers, tuple(call.sizes.current.values()))


def example_of(entry: Entry, leaves: Sequence[Any]) -> Example | None:
    """The inputs of a call that fits; None if what the entry reads changed meanwhile."""
    objects = entry.table.follow(leaves)
    if objects is None:
        return None
    return Example([bound(b, objects)[1] for b in entry.bindings], entry.sizes(leaves))


def bound(b: Binding, objects: Sequence[Any]) -> tuple[Value | None, Buffer]:
    """The value (if it is a tensor's) and the buffer of a graph input."""
    obj = objects[b.row]
    if b.kind == TENSOR:
        if obj._value.data is None:
            hooks.evaluate([obj._value])
        return obj._value, obj._value.data
    if b.kind == SEED:
        return None, Buffer.copy_of(np.uint64(obj.seed))
    if b.kind == DRAW:
        return None, Buffer.copy_of(np.int64(obj.draws + 1))
    return None, Buffer.copy_of(np.asarray(obj, b.type.dtype.numpy))


def is_leaf_row(b: Binding, table: Table) -> bool:
    return table.rows[b.row].step == LEAF


def differs(b: Binding, table: Table) -> bool:
    """Whether a graph input is another tensor at most calls: an argument, or a gradient."""
    return is_leaf_row(b, table) or table.rows[b.row].key == "_grad"


def label_of(b: Binding, table: Table) -> str:
    """What reports call a graph input."""
    return table.rows[b.row].text if b.kind in (TENSOR, NUMBER) else b.kind


def as_recorded(graph: Graph) -> Graph:
    """The graph with gradients stopped where they were off while it was recorded."""
    done = copied_as_recorded(graph.nodes, {v: v for v in graph.inputs})
    return Graph(graph.inputs, [done.get(v, v) for v in graph.outputs])


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


# -------------------------------------------------------------------------------------- in words


def misfit(entry: Entry, leaves: Sequence[Any]) -> str:
    """Why a call with these arguments cannot use the entry, in words."""
    first: dict[int, int] = {}
    for i, (leaf, x) in enumerate(zip(entry.leaves, leaves, strict=True)):
        if leaf.pinned is not MISSING and not same(x, leaf.pinned):
            return f"argument {i} is {x!r}, was {leaf.pinned!r}, and the trace used its value"
        if leaf.kind == TENSOR and not fits_leaf(leaf, x._value.type):
            return f"argument {i} is {x._value.type}, was {leaf.given}"
        if leaf.kind == TENSOR and x._value.requires_grad != leaf.requires_grad:
            return f"argument {i} {gradients(x._value)}"
        if leaf.same != i and leaf.same != first.setdefault(id(x), i):
            return f"arguments {leaf.same} and {i} are not the same tensor any more"
        first.setdefault(id(x), i)
    sizes = entry.sizes(leaves)
    if entry.admit(sizes) is None:
        asked = "; ".join(f"{g}" for g in entry.guards)
        named = dict(zip(entry.variables, sizes, strict=True))
        return f"the sizes {named} give other answers to what the trace asked ({asked})"
    objects = entry.table.follow(leaves)
    if objects is None:
        return entry.table.broken(leaves)
    for b in entry.bindings:
        if b.kind == TENSOR and not is_leaf_row(b, entry.table):
            value = objects[b.row]._value
            if value.type is not b.type:
                return f"{entry.table.rows[b.row].text} is {value.type}, was {b.type}"
            if value.requires_grad != b.requires_grad:
                return f"{entry.table.rows[b.row].text} {gradients(value)}"
    written = {row for row, _, _ in entry.rebound} | {row for row, _, _ in entry.grads}
    if written and not all_distinct(entry, objects, written):
        return "a tensor that the function changes is now also another of its tensors"
    return ""


def fits_leaf(leaf: Leaf, type_: TensorType) -> bool:
    """Whether a tensor's type is one that the leaf is for."""
    if leaf.type is not None:
        return type_ is leaf.type
    if type_.dtype is not leaf.dtype or type_.rank != len(leaf.dims):
        return False
    return all(dim < 0 or dim == size for dim, size in zip(leaf.dims, type_.shape, strict=True))


def gradients(value: Value) -> str:
    return f"now {'requires' if value.requires_grad else 'does not require'} gradients"


def all_distinct(entry: Entry, objects: Sequence[Any], written: set[int]) -> bool:
    """Whether no tensor that the function changes was met at two rows."""
    rows = {b.row for b in entry.bindings if b.kind == TENSOR} | written
    handles: dict[int, int] = {}
    for row in sorted(rows):
        other = handles.setdefault(id(objects[row]), row)
        if other != row and (row in written or other in written):
            return False
    return True
