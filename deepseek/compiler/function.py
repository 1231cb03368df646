"""`@ds.jit`: a function that is traced once per signature and then runs as one Program.

A call flattens its arguments, finds the entry for their signature, checks that what the trace read
from outside is as it was, binds arguments and hidden inputs to the Program, runs it, and shows the
results: returned tensors, handles that the function rebound, gradients that it left.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from deepseek import _runtime, backends
from deepseek._runtime import Buffer
from deepseek.compiler.caches import counters
from deepseek.compiler.compile import compile_graph
from deepseek.compiler.entry import (
    Binding,
    Entry,
    Where,
    as_leaf,
    bound,
    bound_types_hold,
    call_op,
    first_call,
    fits,
    handle_at,
    label_of,
    misfit,
    pin,
    takeovers,
)
from deepseek.compiler.tree import flatten, result_leaves, statics, unflatten
from deepseek.config import logger, options
from deepseek.errors import PACKAGE_DIR, STDLIB_DIR, TraceError, format_line
from deepseek.frontend.guards import Explorer, Table, structure
from deepseek.frontend.tensor import (
    GradientDropped,
    Tensor,
    hooks,
    leaf,
    state,
    tracing,
)
from deepseek.frontend.tracer import Trace, begin
from deepseek.ir.graph import Graph, Value, make_node
from deepseek.ir.shape import Sizes, active

LIBRARIES = (PACKAGE_DIR, STDLIB_DIR, os.path.dirname(np.__file__) + os.sep, "<frozen ")


@functools.cache
def compiling() -> tuple[str, ...]:
    """The files of what compiles: a trace that reads a pending tensor has it computed, and so may
    enter them."""
    found = find_spec("llvmlite")
    folders = list(found.submodule_search_locations or ()) if found is not None else []
    return tuple(os.path.join(folder, "") for folder in folders)


class Function:
    """A jitted function. Calling it gives what the plain function would."""

    def __init__(self, function: Callable[..., Any], keep_grads: bool = False, dynamic: bool = True) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.name = getattr(function, "__qualname__", type(function).__qualname__)
        self.keep_grads = keep_grads
        self.dynamic = dynamic
        self.entries: dict[Any, list[Entry]] = {}
        self.seen: dict[Any, list[tuple[tuple[int, ...], ...]]] = {}
        self.reasons: list[str] = []

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if state.trace is not None:  # inside another trace: part of it
            return self.function(*args, **kwargs)
        leaves: list[Any] = []
        shape = flatten((args, kwargs), leaves)
        leaves = [as_leaf(x) for x in leaves]
        key = self.key(shape, leaves)
        found = self.find(key, shape, leaves)
        if found is None:
            entry = self.trace(key, shape, leaves)
            objects = entry.table.follow()
            if objects is None:
                raise TraceError(
                    f"{self.name}: what the function reads changed while it was traced: "
                    f"{entry.table.broken()}\n  help: do not change globals or attributes inside @ds.jit"
                )
        else:
            entry, objects = found
        return self.run(entry, objects, leaves)

    def key(self, shape: Any, leaves: Sequence[Any]) -> Any:
        """The signature without sizes."""
        kinds = tuple(
            (x._value.type.dtype, x._value.type.rank, x._value.requires_grad)
            if isinstance(x, Tensor)
            else type(x)
            for x in leaves
        )
        same = tuple([next(j for j, y in enumerate(leaves) if y is x) for x in leaves])
        return shape, kinds, same, state.grad, backends.load(options.backend).target()

    def find(self, key: Any, shape: Any, leaves: Sequence[Any]) -> tuple[Entry, list[Any]] | None:
        """The entry that fits, with the objects its guards walked over."""
        for entry in self.entries.get(key, ()):
            if not fits(entry, leaves):
                continue
            objects = entry.table.follow()
            if objects is not None and bound_types_hold(entry, objects):
                return entry, objects
        return None

    # ------------------------------------------------------------------------------------ tracing

    def trace(self, key: Any, shape: Any, leaves: list[Any]) -> Entry:
        """Trace and compile for these arguments."""
        counters.traces += 1
        known = self.entries.get(key, ())
        self.reasons.append(misfit(known[0], leaves) if known else "new types of arguments")
        logger().info("traced %s: %s", self.name, self.reasons[-1])
        pending = [x._value for x in leaves if isinstance(x, Tensor) and x._value.data is None]
        if pending:
            hooks.evaluate(pending)
        shapes = tuple(x._value.type.shape if isinstance(x, Tensor) else () for x in leaves)
        varying = self.varying(key, shapes)
        trace = begin()
        sizes = Sizes()
        symbols: list[tuple[int, int]] = []
        bindings: list[Binding] = []
        inputs: list[Value] = []
        arguments: list[Any] = []
        placed: dict[int, Value] = {}
        for i, x in enumerate(leaves):
            if not isinstance(x, Tensor):
                placeholder, number = trace.as_number(x)
                number.guard = functools.partial(pin, trace, i, x)
                arguments.append(number)
                bindings.append(Binding("number", i, type(x)))
                inputs.append(placeholder)
                continue
            arguments.append(x)
            if id(x) in placed:
                continue
            dims: list[Any] = list(shapes[i])
            for axis in varying.get(i, ()):
                dims[axis] = sizes.symbol(dims[axis])
                symbols.append((i, axis))
            value = x._value
            placeholder = trace.placeholder(value.type.dtype, tuple(dims), value.requires_grad)
            placed[id(x)] = placeholder
            trace.shown[value] = placeholder
            trace.show(x, placeholder)
            bindings.append(Binding("leaf", i))
            inputs.append(placeholder)
        return self.traced(
            key, shape, leaves, trace, sizes, symbols, bindings, inputs, unflatten(shape, iter(arguments))
        )

    def varying(self, key: Any, shapes: tuple[tuple[int, ...], ...]) -> dict[int, list[int]]:
        """The axes, by argument, that differed between the calls seen so far and are not 0 or 1."""
        earlier = self.seen.setdefault(key, [])
        earlier.append(shapes)
        out: dict[int, list[int]] = {}
        if self.dynamic:
            for i, shape in enumerate(shapes):
                axes = [a for a in range(len(shape)) if shape[a] > 1 and len({s[i][a] for s in earlier}) > 1]
                if axes:
                    out[i] = axes
        return out

    def traced(
        self, key: Any, shape: Any, leaves: list[Any], trace: Trace, sizes: Sizes,
        symbols: list[tuple[int, int]], bindings: list[Binding], inputs: list[Value], call: tuple[Any, Any],
    ) -> Entry:  # fmt: skip
        args, kwargs = call
        with active(sizes):
            with tracing(trace):
                _runtime.start_recording_calls((*LIBRARIES, *compiling()))
                try:
                    out = self.function(*args, **kwargs)
                    returned: list[Tensor] = []
                    result = result_leaves(out, returned)
                    values = [trace.inside(t._value) for t in returned]
                finally:
                    records = _runtime.stop_recording_calls()
                    rebound, grads = trace.finish()
            table = self.explore(shape, records, trace)
            entry = self.assemble(
                leaves, trace, table, bindings, inputs, values, rebound, grads, result, sizes, symbols
            )
        self.entries.setdefault(key, []).insert(0, entry)
        return entry

    def explore(self, shape: Any, records: Any, trace: Trace) -> Table:
        root = [self.function, *statics(shape)]
        inputs = {k for k, n in trace.numbers.items() if not n.pinned}
        explorer = Explorer(root, records, lambda container, key: (id(container), key) in inputs)
        return explorer.run()

    def assemble(
        self, leaves: list[Any], trace: Trace, table: Table, bindings: list[Binding], inputs: list[Value],
        values: list[Value], rebound: dict[Tensor, Value], grads: dict[Tensor, Any], result: Any, sizes: Sizes,
        symbols: list[tuple[int, int]],
    ) -> Entry:  # fmt: skip
        """Turn a finished trace into a graph with all hidden inputs and outputs, and compile it."""
        where = functools.partial(self.where, table, {id(x): i for i, x in enumerate(leaves)})
        for h in trace.hidden.values():
            _, row = where(h.handle, format_line(h.line))
            bindings.append(Binding("row", row, type=h.value.type, requires_grad=h.value.requires_grad))
            inputs.append(h.placeholder)
        for n in trace.numbers.values():
            row = table.known.get(id(n.container))
            if row is None:
                raise TraceError("an optimiser was used inside @ds.jit that no global or argument shows")
            bindings.append(Binding("item", row, (n.key, type(n.container[n.key]))))
            inputs.append(n.placeholder)
        for d in trace.draws.values():
            bindings += [Binding("seed", 0, d.generator), Binding("draw", 0, d.generator)]
            inputs += [d.seed, d.first]
        outputs = list(values)
        rebinds: list[tuple[Where, int, bool]] = []
        for handle, value in rebound.items():
            rebinds.append((where(handle, "a rebound tensor"), len(outputs), value.requires_grad))
            outputs.append(trace.inside(value))
        effects: list[tuple[Where, Any]] = []
        for handle, grad in grads.items():
            if id(handle) not in table.known and not any(handle is x for x in leaves):
                continue  # made inside
            effect: Any = grad
            if isinstance(grad, Tensor):
                if handle in trace.consumed and not self.keep_grads:
                    effect = GradientDropped()
                else:
                    effect = len(outputs)
                    outputs.append(trace.inside(grad._value))
            effects.append((where(handle, "a gradient"), effect))
        graph = Graph(inputs, outputs)
        takes, donated = takeovers(graph, bindings, rebinds)
        variables = tuple(sizes.current)
        labels = [label_of(b, table) for b in bindings]
        rows = {place[1] for place, _, _ in rebinds if place[0] == "row"}
        stable = tuple(
            i for i, b in enumerate(bindings) if b.kind == "row" and b.at not in rows
        )
        name = self.name
        recompile = functools.partial(
            compile_graph, graph, backends.load(options.backend), variables, takes, labels,
            stable=stable, name=name,
        )  # fmt: skip
        example = first_call(table, bindings, leaves, symbols) if options.verify > 1 else None
        executable = recompile(example=example)
        returned = [(i, v.requires_grad) for i, v in enumerate(values)]
        return Entry(
            table, bindings, executable, result, returned, rebinds, effects,
            [(d.generator, d.count) for d in trace.draws.values()], symbols,
            [g.condition for g in sizes.guards.values()], donated, graph,
            call_op(self.function.__name__, Graph(inputs, values)), variables, trace.pins,
            recompile, structure.version,
        )  # fmt: skip

    def where(self, table: Table, arguments: dict[int, int], handle: Tensor, line: str) -> Where:
        """How to find a handle again at the next call."""
        if id(handle) in arguments:
            return "leaf", arguments[id(handle)]
        row = table.known.get(id(handle))
        if row is None:
            raise TraceError(
                f"{self.name} uses a tensor that cannot be found again at the next call\n"
                f"  at {line}\n  help: pass it as an argument, or keep it in a global, a closure, or an "
                "attribute that the function names"
            )
        return "row", row

    # ------------------------------------------------------------------------------------ running

    def run(self, entry: Entry, objects: Sequence[Any], leaves: Sequence[Any]) -> Any:
        """Bind, execute, and show the results."""
        sizes = entry.sizes(leaves)
        values: list[Value | None] = []
        buffers: list[Buffer] = []
        for b in entry.bindings:
            value, buffer = bound(b, objects, leaves)
            values.append(value)
            buffers.append(buffer)
        donate = None
        if entry.donated:
            donate = [False] * len(buffers)
            for i in entry.donated:
                v = values[i]
                # Held by: the value itself, `buffers`, and this call's argument. The value by: its
                # handle,
                # `values`, `v` and the argument.
                donate[i] = v is not None and sys.getrefcount(v.data) <= 3 and sys.getrefcount(v) <= 4
        del values
        results = entry.executable.run(buffers, sizes, donate)
        del buffers
        types = entry.executable.output_shapes(sizes)
        made = [
            leaf(data, t.dtype, s)
            for data, t, s in zip(results, entry.executable.outputs, types, strict=True)
        ]
        for generator, count in entry.draws:
            generator.draws += count
        for place, number, requires_grad in entry.rebound:
            value = made[number]
            value.requires_grad = requires_grad
            handle_at(place, objects, leaves)._rebind(value)
        for place, effect in entry.grads:
            handle = handle_at(place, objects, leaves)
            handle._grad = Tensor(made[effect]) if isinstance(effect, int) else effect
        outputs = [Tensor(made[i]) for i, _ in entry.returned]
        if any(requires for _, requires in entry.returned):
            self.link(entry, objects, leaves, outputs)
        return unflatten(entry.result, iter(outputs))

    def link(self, entry: Entry, objects: Sequence[Any], leaves: Sequence[Any], outputs: list[Tensor]) -> None:
        """Let gradients flow from the outputs back through the call, by differentiating its graph.
        """
        inputs = []
        for b in entry.bindings:
            value, buffer = bound(b, objects, leaves)
            if value is None:
                value = leaf(buffer, b.type.dtype if b.type else entry.graph.inputs[len(inputs)].type.dtype, ())
            inputs.append(value)
        types = [t._value.type for t in outputs]
        node = make_node(entry.call, tuple(inputs), {}, types)
        for tensor, value, (_, requires_grad) in zip(outputs, node.outputs, entry.returned, strict=True):
            value.data = tensor._value.data
            value.requires_grad = requires_grad
            tensor._rebind(value)

    # ------------------------------------------------------------------------------- inspection

    def cache_info(self) -> dict[str, int]:
        """How many entries there are."""
        return {"entries": sum(map(len, self.entries.values()))}

    def entry_for(self, *args: Any, **kwargs: Any) -> Entry:
        """The entry that a call with these arguments uses, compiled if need be."""
        leaves: list[Any] = []
        shape = flatten((args, kwargs), leaves)
        leaves = [as_leaf(x) for x in leaves]
        key = self.key(shape, leaves)
        found = self.find(key, shape, leaves)
        return found[0] if found is not None else self.trace(key, shape, leaves)


def jit(
    function: Callable[..., Any] | None = None, *, keep_grads: bool = False, dynamic: bool = True
) -> Any:
    """Compile a function: decorator, with or without arguments.

    The function is traced once for each signature (structure, dtypes, ranks; sizes become symbolic
    when they first differ). `keep_grads` keeps the gradients that an optimiser inside consumed;
    `dynamic=False` traces each size apart. Raises TraceError where the function depends on a
    tensor's value or reads what cannot be followed.
    """
    if function is None:
        return functools.partial(jit, keep_grads=keep_grads, dynamic=dynamic)
    return Function(function, keep_grads, dynamic)
