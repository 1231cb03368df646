"""From graph to ONNX nodes.

Each op is written by the first of these that the opset has: what its record says under `onnx` (an
operator's name, or a function of this builder; of several the newest first), its expansion, its
scalar meaning. Views, gathers and creation without an ONNX form of their own become one Gather by
computed positions, scatters one ScatterElements. What has none of these is an error that names the
op and the user's line.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from deepseek.errors import CompileError, DeepseekError, op_error
from deepseek.ir import scalar
from deepseek.ir.dtype import DType, bfloat16, float32, int64
from deepseek.ir.graph import CONSTANT, Graph, Node, Value
from deepseek.ir.interpret import interpret_node
from deepseek.ir.op import Kind
from deepseek.ir.scalar import FALSE, TRUE, ZERO, Expr, as_expr, var
from deepseek.ir.shape import Shape, TensorType, exprs, simplify
from deepseek.onnx.builder import KNOWN, Builder
from deepseek.onnx.places import Places
from deepseek.onnx.versions import Unavailable, fitting, forms_of
from deepseek.ops import forms

POINTWISE = (Kind.CREATE, Kind.VIEW, Kind.INDEX)

UNSPEAKABLE = {
    Kind.RANDOM: "it draws random numbers",
    Kind.HOST: "it calls Python",
    Kind.COLLECTIVE: "it talks to other processes",
}
"""Why ONNX cannot say ops of a kind: a model has no generator, no interpreter, no others."""

_REMEDIES = {
    Kind.RANDOM: "switch modules to eval(); draw random numbers outside, and pass them in",
    Kind.HOST: "call it outside, and pass the result in",
}


class Translator(Builder):
    """A builder that knows how to write graphs."""

    def __init__(self, opset: int, places: Places | None = None) -> None:
        super().__init__(opset)
        self.places = places or Places()
        self.whole: Counter[str] = Counter()  # composites that ONNX has
        self.opened: Counter[str] = Counter()  # composites that were expanded

    # ------------------------------------------------------------------------------ graphs

    def graph(self, graph: Graph, inputs: Sequence[str]) -> list[str]:
        """The names of a graph's outputs, computed from named inputs."""
        env: dict[Value, str] = dict(zip(graph.inputs, inputs, strict=True))
        for node in graph.nodes:
            names = self.translate(node, [env[v] for v in node.inputs])
            env.update(zip(node.outputs, names, strict=True))
        return [env[v] for v in graph.outputs]

    def body(self, graph: Graph, inputs: Sequence[str]) -> tuple[list[Any], list[str]]:
        """A graph's nodes apart from the others, and the names of its outputs; it may read all."""
        self.scopes.append([])
        made = self.graph(graph, self.arrived(graph.inputs, inputs))
        outputs = [self.fresh(v) for v in self.crossing(made)]
        return self.scopes.pop(), outputs

    def crossing(self, values: Sequence[str]) -> list[str]:
        """Values on their way into or out of a body."""
        return [self.cast(v, self.carried(self.dtypes[v])) for v in values]

    def arrived(self, wanted: Sequence[Value], names: Sequence[str]) -> list[str]:
        """The same values on the other side, in their own types."""
        return [self.cast(n, v.type.dtype) for n, v in zip(names, wanted, strict=True)]

    def carried(self, dtype: DType) -> DType:
        """What control flow carries a dtype in: before opset 16 it does not take bfloat16."""
        return float32 if dtype is bfloat16 and self.opset < 16 else dtype

    def fresh(self, value: str) -> str:
        """The value under a new name, made in this scope."""
        return str(self.node("Identity", value))

    def parameter(self, hint: str, type_: TensorType | None, dtype: DType | None = None) -> Any:
        """An input of a body: of a type, or a 0-d one."""
        dtype = self.carried(type_.dtype) if type_ is not None else dtype
        assert dtype is not None
        name = self.name(hint)
        self.dtypes[name] = dtype
        return self.result(name, type_.shape if type_ is not None else ())

    def result(self, name: str, shape: Shape) -> Any:
        """An end of a body; sizes that are symbols are left to inference."""
        sizes = [s if isinstance(s, int) else None for s in shape]
        return self.onnx.helper.make_tensor_value_info(name, self.code(self.dtypes[name]), sizes)

    def translate(self, node: Node, inputs: list[str]) -> list[str]:
        """The names of a node's outputs."""
        if node.op is CONSTANT:
            array = node.attrs["array"]
            return [self.array(array.numpy, array.type.dtype)]
        if not self.scope:
            self.module = self.places.of(node)
        with self.inside(node.op.name, node.line):
            try:
                made = self.folded(node, inputs) or self.written(node, inputs)
            except DeepseekError as error:
                if "\n  at " in str(error):
                    raise
                raise self.refused(node, str(error)) from None
        for name, value in zip(made, node.outputs, strict=True):
            assert self.dtypes[name] is value.type.dtype, (node, self.dtypes[name])
        return made

    def refused(self, node: Node, why: str, since: int | None = None) -> CompileError:
        """The error for an op that ONNX cannot say, named by what the user called."""
        remedy = _REMEDIES.get(node.op.kind, "compute it outside, and pass the result in")
        if since is not None:
            remedy = f"export with opset={since} or a later one"
        return op_error(
            CompileError, self.scope[0], f"{'/'.join(self.scope)}: {why}", "ops that ONNX has",
            self.line, remedy,
        )  # fmt: skip

    def folded(self, node: Node, inputs: Sequence[str]) -> list[str] | None:
        """Constants, where all inputs are known and there is little to compute.

        What is one number all over is that number, broadcast.
        """
        results = self.computed(node, inputs)
        if results is None:
            return None
        made = []
        for array, value in zip(results, node.outputs, strict=True):
            if array.size > 1 and (array == array.flat[0]).all():
                one = self.array(array.reshape(-1)[0], value.type.dtype)
                made.append(self.expand(one, (), array.shape))
                self.known[made[-1]] = array
            elif node.op.kind is Kind.VIEW and array.size > sum(self.known[n].size for n in inputs):
                return None  # a broadcast, which the operator that reads it may do itself
            else:
                made.append(self.array(array, value.type.dtype))
        return made

    def computed(self, node: Node, inputs: Sequence[str]) -> Sequence[Any] | None:
        """The elements of a node's outputs, where inputs are known and there is little to do."""
        types = [v.type for v in (*node.inputs, *node.outputs)]
        small = all(t.static and t.numel <= KNOWN for t in types)  # type: ignore[operator]
        pure = node.op.kind not in (Kind.RANDOM, Kind.HOST, Kind.COLLECTIVE, Kind.CONTROL)
        if not small or not pure or any(n not in self.known for n in inputs):
            return None
        if any(_is_symbolic(v) for v in node.attrs.values()):
            return None
        return interpret_node(node, [self.known[n] for n in inputs])

    def written(self, node: Node, inputs: list[str]) -> list[str]:
        """The outputs by the first of the ways there is."""
        missing: list[Unavailable] = []
        for way in self.ways(node):
            before = self.mark()
            try:
                made = way(node, inputs)
            except Unavailable as error:
                missing.append(error)
                made = None
            if made is not None:
                return [made] if isinstance(made, str) else list(made)
            self.undo(before)
        if missing:  # the last one was the most general
            raise self.refused(node, str(missing[-1]), missing[-1].since)
        why = UNSPEAKABLE.get(node.op.kind, f"a {node.op.kind.value} op without an ONNX form")
        raise self.refused(node, why)

    def ways(self, node: Node) -> Iterator[Callable[[Node, list[str]], Any]]:
        """How a node may be written: in ONNX's own words first."""
        op = node.op
        for form in fitting(forms_of(op.onnx), self.opset):
            yield functools.partial(self.by_form, form)
        if op.expand is not None:
            yield self.opened_up
        elif op.kind is Kind.ELEMENTWISE:
            yield self.elementwise
        elif op.kind in POINTWISE:
            yield self.pointwise
        elif op.kind is Kind.SCATTER:
            yield self.scattered

    def by_form(self, form: Any, node: Node, inputs: list[str]) -> Any:
        """A node by what its record says, None where that does not mean the same."""
        if isinstance(form, str):
            made = self.direct(node, form, inputs)
        else:
            made = form(self, node, *inputs)
        if made is None:
            return None
        made = [made] if isinstance(made, str) else list(made)
        wanted = [v.type.dtype for v in node.outputs]
        if [self.dtypes[name] for name in made] != wanted:  # of integers, taken as floats
            return None
        if node.op.kind is Kind.COMPOSITE:
            self.whole[node.op.name] += 1
        return made

    def opened_up(self, node: Node, inputs: list[str]) -> list[str]:
        """A composite as what it expands to."""
        assert node.op.expand is not None
        self.opened[node.op.name] += 1
        types = tuple(v.type for v in node.inputs)
        return self.graph(node.op.expand(types, node.attrs), inputs)

    def mark(self) -> Any:
        """Where writing stands, for `undo`."""
        return len(self.scopes[-1]), Counter(self.whole), Counter(self.opened)

    def undo(self, mark: Any) -> None:
        """Forget the nodes that were written since; what other scopes got is pruned at the end."""
        count, self.whole, self.opened = mark
        del self.scopes[-1][count:]

    def direct(self, node: Node, operator: str, inputs: list[str]) -> str:
        """An operator that takes the same inputs; reductions give it their axes."""
        kind, attrs = node.op.kind, node.attrs
        if kind is Kind.REDUCE and set(attrs) == {"axes"}:
            axes = self.array(np.array(attrs["axes"], np.int64))
            return str(self.node(operator, inputs[0], axes, keepdims=0))
        assert not attrs, f"{node.op.name}: {operator} needs a function that maps {list(attrs)}"
        if kind is Kind.ELEMENTWISE:
            inputs = self.operands(node, inputs)
        return str(self.node(operator, *inputs))

    # ------------------------------------------------------------------------- elementwise

    def operands(self, node: Node, inputs: Sequence[str]) -> list[str]:
        """An elementwise node's inputs, not broadcast where the operator does it."""
        shapes = [v.type.shape for v in node.inputs]
        return self.unexpanded(inputs, shapes, node.outputs[0].type.shape)

    def elementwise(self, node: Node, inputs: Sequence[str]) -> str:
        """A node by its scalar meaning; 16-bit floats are rounded at the end only."""
        assert node.op.meaning is not None
        out = node.outputs[0].type
        carried = [v.type.dtype.accumulator for v in node.inputs]
        scalars = [var(f"x{i}", dtype) for i, dtype in enumerate(carried)]
        meaning = node.op.meaning(*scalars, **node.attrs)
        counts = set(scalar.variables(meaning)) == set(scalars)
        operands = self.operands(node, inputs) if counts else inputs
        wide = [self.cast(x, dtype) for x, dtype in zip(operands, carried, strict=True)]
        env = dict(zip(scalars, wide, strict=True))
        made = self.cast(self.expression(meaning, env), out.dtype)
        # An input that does not count must give its shape all the same.
        return made if counts else str(self.node("Expand", made, self.shape(out.shape)))

    # --------------------------------------------------------------------------- pointwise

    def pointwise(self, node: Node, inputs: Sequence[str]) -> str:
        """A node by its index map: positions are computed, and the input read there by Gather."""
        op, out = node.op, node.outputs[0].type
        types = tuple(v.type for v in node.inputs)
        env: dict[Expr, str] = dict(self.sizes)
        index = tuple(
            ZERO if size == 1 else self.place(axis, out.shape, env)
            for axis, size in enumerate(out.shape)
        )

        assert op.meaning is not None
        if op.kind is Kind.CREATE:
            value = op.meaning(index, out, **node.attrs)
        else:
            value = op.meaning(index, self.reader(inputs, types, env), types, out, **node.attrs)
        made = self.expression(value, env)
        return self.expand(made, (1,) * len(out.shape), out.shape)

    def reader(
        self, inputs: Sequence[str], types: Sequence[TensorType], env: dict[Expr, str]
    ) -> Callable[..., Expr]:
        """What a meaning reads its inputs with: a new variable for each place that is read."""

        def read(k: int, at: tuple[Expr, ...], guard: Expr = TRUE) -> Expr:
            result = var(f"read{len(env)}", types[k].dtype)
            env[result] = self.read(inputs[k], types[k], at, guard, env)
            return result

        return read

    def scattered(self, node: Node, inputs: Sequence[str]) -> str:
        """A scatter by its meaning: where each update goes in the flat output, if it does."""
        op, out = node.op, node.outputs[0].type
        types, update = tuple(v.type for v in node.inputs), node.inputs[-1].type
        env: dict[Expr, str] = dict(self.sizes)
        index = tuple(
            ZERO if size == 1 else self.place(axis, update.shape, env)
            for axis, size in enumerate(update.shape)
        )
        assert op.meaning is not None
        scatter = op.meaning(index, self.reader(inputs, types, env), types, out, **node.attrs)
        count = scalar.product(exprs(out.shape))
        place = ZERO
        for i, size in zip(scatter.target, exprs(out.shape), strict=True):
            place = scalar.add(scalar.mul(place, size), i)
        place = scalar.where(scatter.guard, place, count)
        full = self.shape(update.shape)
        row = self.array([-1])
        places, values = (
            self.node("Reshape", self.node("Expand", self.sized(e, env), full), row)
            for e in (place, scalar.cast(scatter.value, out.dtype))
        )
        base = self.node("Reshape", inputs[0], row)
        if scatter.guard is not TRUE:  # one more element takes what goes nowhere
            base = self.node("Concat", base, self.array([0], out.dtype), axis=0)
        made = forms.combined(self, base, places, values, 0, 1, scatter.combine)
        if scatter.guard is not TRUE:
            end = self.size(simplify(count))
            made = self.node("Slice", made, self.array([0]), end, self.array([0]))
        return self.reshape(made, (), out.shape)

    def place(self, axis: int, shape: Shape, env: dict[Expr, str]) -> Expr:
        """The index variable of an axis, which varies along that axis only."""
        size = shape[axis]
        index = var(f"i{axis}", low=0, extent=as_expr(size))
        column = (-1,) + (1,) * (len(shape) - axis - 1)
        if isinstance(size, int) and size <= KNOWN:
            env[index] = self.array(np.arange(size).reshape(column))
        else:
            end = self.node("Squeeze", self.size(size))
            steps = self.node("Range", self.number(0, int64), end, self.number(1, int64))
            env[index] = self.node("Reshape", steps, self.array(np.array(column)))
        return index

    def read(
        self, value: str, type_: TensorType, at: Sequence[Expr], guard: Expr, env: dict[Expr, str]
    ) -> str:
        """The elements of a value at an index, 0 where the guard is false."""
        zero = self.number(0, type_.dtype)
        if guard is FALSE or type_.numel == 0:
            return zero
        place = ZERO
        for i, size in zip(at, exprs(type_.shape), strict=True):
            place = scalar.add(scalar.mul(place, size), i)
        position = self.sized(scalar.where(guard, place, ZERO), env)
        flat = self.node("Reshape", value, self.array([-1]))
        found = str(self.node("Gather", flat, position, axis=0))
        if guard is TRUE:
            return found
        return str(self.node("Where", self.sized(guard, env), found, zero))

    def sized(self, e: Expr, env: dict[Expr, str]) -> str:
        """An expression that may also be over size symbols."""
        for symbol in scalar.variables(e):
            if symbol not in env:
                env[symbol] = self.size(symbol)
        return self.expression(e, env)


def _is_symbolic(attr: Any) -> bool:
    if isinstance(attr, tuple):
        return any(map(_is_symbolic, attr))
    return isinstance(attr, Expr)
