"""`ds.debug.bisect(f, *args)`: which pass, rule, kernel and line of the user's made a result wrong.

In flow a function and arguments it gives a wrong result for; out flows a Finding. The graph's
meaning (its ops' references, in float64) is held against the graph after each pass; in a pass that
changes it, the first rewrite that does is found by giving the rules less and less fuel. Where all
passes are right, each kernel is run on its own, then the whole Program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepseek import backends
from deepseek._runtime import Buffer
from deepseek.compiler.compile import Compiled, Example, Executable, compile_graph
from deepseek.compiler.entry import Entry, example_of, flattened
from deepseek.config import options, override
from deepseek.debug.explanation import jitted
from deepseek.debug.meaning import Array, Difference, Meaning, difference, precision
from deepseek.debug.watching import arrays_of
from deepseek.errors import ArgumentError, format_line
from deepseek.ir.graph import Graph, Node, Value
from deepseek.ir.op import Kind
from deepseek.ir.rewrite import Fuel, specialized
from deepseek.ir.scalar import Expr
from deepseek.ir.shape import Sizes, active
from deepseek.ir.text import print_graph
from deepseek.kernel.text import print_kernel
from deepseek.passes import PIPELINE, PassContext
from deepseek.program.interpret import interpret as interpret_program

# How far a kernel's result may be from its meaning, by the bits of its narrowest float.
TOLERANCES = {64: 1e-7, 32: 1e-3, 16: 5e-2}


@dataclass(frozen=True)
class Finding:
    """What bisect found. `print` it; see `bisect`."""

    what: str  # pass, kernel, emitted code, program, or nothing
    name: str = ""  # of the pass or kernel
    rule: str = ""
    line: str = ""  # the user's
    difference: Difference | None = None
    details: str = field(default="", repr=False)

    def __str__(self) -> str:
        if self.what == "nothing":
            return f"nothing differs: {self.name}"
        parts = [f"the {self.what} {self.name!r} makes the result differ"]
        if self.rule:
            parts.append(f"  by {self.rule}")
        if self.line:
            parts.append(f"  at {self.line}")
        if self.difference is not None:
            parts.append(f"  {self.difference}")
        if self.details:
            parts += ["", self.details.rstrip()]
        return "\n".join(parts)


def bisect(
    f: Callable[..., Any], *args: Any, tolerance: float | None = None, **kwargs: Any
) -> Finding:
    """Find what makes the compiled `f(*args, **kwargs)` differ from what its ops mean.

    `tolerance` is what counts as a difference in a kernel's result, relative to the largest
    element; by default 1e-3 where it has float32 in it. Nothing that f reads is changed. Raises
    ArgumentError if what f reads changed meanwhile.

    >>> print(ds.debug.bisect(lambda x: x.softmax(0), ds.randn(10)))
    nothing differs: passes, kernels and Program give what the ops mean
    """
    function, args = jitted(f, args)
    with override(verify=0, dump=None):
        entry = function.entry_for(*args, **kwargs)
        example = example_of(entry, flattened(args, kwargs)[1])
        if example is None:
            raise ArgumentError(f"bisect: what {function.name} reads changed meanwhile")
        search = Bisection(entry, example, tolerance)
        with active(Sizes(dict(search.sizes))):  # for expansions that ask
            return search.find()


class Bisection:
    """One function's entry, and the inputs of one call."""

    def __init__(self, entry: Entry, example: Example, tolerance: float | None) -> None:
        self.entry = entry
        self.tolerance = tolerance
        self.sizes: dict[Expr, int] = dict(zip(entry.variables, example.sizes, strict=True))
        self.arrays = arrays_of(entry.graph, self.sizes, example)
        self.meaning = Meaning(self.arrays, self.sizes)
        self.backend = backends.load(options.backend)

    def find(self) -> Finding:
        watched = Stages()
        executable = self.entry.recompile(context=watched)
        graph = self.entry.graph
        for name, after in watched.stages:
            found = self.in_pass(name, graph, after, watched)
            if found is not None:
                return found
            graph = after
        if not isinstance(executable, Compiled):
            return Finding("nothing", "this backend interprets graphs as they are recorded")
        return self.in_kernels(graph) or self.in_program(executable)

    # ------------------------------------------------------------------------------------- passes

    def in_pass(
        self, name: str, before: Graph, after: Graph, context: PassContext
    ) -> Finding | None:
        """What in a pass changes the meaning, if anything does."""
        wanted = self.meaning(before)
        if len(after.inputs) > len(before.inputs):
            assert context.split is not None
            self.meaning.prepare(context.split)
        wrong = difference(before, wanted, self.meaning(after), precision(before, after))
        if wrong is None:
            return None
        fuel = self.least_fuel(name, before, wanted, context)
        if fuel is None or fuel.at is None:
            return self.in_regions(name, before, after, wrong)
        return Finding(
            "pass", name, f"rule {fuel.last} on op '{fuel.at.op.name}'", line_of(fuel.at), wrong
        )

    def least_fuel(
        self, name: str, before: Graph, wanted: Sequence[Array], context: PassContext
    ) -> Fuel | None:
        """The fuel whose last rewrite changes the result; None for a pass that takes none."""
        run = dict(PIPELINE)[name]

        def outcome(amount: int) -> tuple[Fuel, bool]:
            fuel = Fuel(amount, all_count=True)
            after = run(before, PassContext(context.claim, context.stable, fuel=fuel))
            same = len(after.inputs) == len(before.inputs)
            wrong = same and difference(
                before, wanted, self.meaning(after), precision(before, after)
            )
            return fuel, bool(wrong)

        total = outcome(-1)[0].used
        right, wrong = 0, total  # rewrites after which the result is right, and wrong
        if total == 0 or outcome(0)[1]:
            return None
        while wrong - right > 1:
            middle = (right + wrong) // 2
            if outcome(middle)[1]:
                wrong = middle
            else:
                right = middle
        return outcome(wrong)[0]

    def in_regions(self, name: str, before: Graph, after: Graph, wrong: Difference) -> Finding:
        """The first region whose values are not those that its nodes had before.

        A region's body is made of the very nodes it groups, so its outputs are values of the
        graph before.
        """
        values = self.values(before) | self.values(after)
        for node in after.nodes:
            body = node.attrs.get("body") if node.op.kind is Kind.REGION else None
            if body is None or not all(v in values for v in body.outputs):
                continue
            wanted, found = ([values[v] for v in vs] for vs in (body.outputs, node.outputs))
            inside = difference(body, wanted, found)
            if inside is not None:
                return Finding("pass", name, "the region of these nodes", line_of(node), inside,
                               print_graph(body, lines=True))  # fmt: skip
        return Finding("pass", name, "", "", wrong, print_graph(after, lines=True))

    def values(self, graph: Graph) -> dict[Value, Array]:
        """Every value of a graph."""
        inner = [v for node in graph.nodes for v in node.outputs]
        every = dict(zip(graph.inputs, self.meaning.arrays, strict=True))
        return every | dict(zip(inner, self.meaning(Graph(graph.inputs, inner)), strict=True))

    def fixed(self, graph: Graph) -> Graph:
        return specialized(graph, self.sizes) if self.sizes else graph

    # ------------------------------------------------------------------------------------ kernels

    def in_kernels(self, graph: Graph) -> Finding | None:
        """The first kernel whose result differs from its region's meaning on the same inputs."""
        values = self.values(graph)
        for node in graph.nodes:
            if node.op.kind is not Kind.REGION:
                continue
            found = self.in_kernel(node, [values[v] for v in node.inputs])
            if found is not None:
                return found
        return None

    def in_kernel(self, node: Node, wide: Sequence[Array]) -> Finding | None:
        types = [v.type.dtype for v in node.inputs]
        given = [as_bytes(a, t.numpy) for a, t in zip(wide, types, strict=True)]
        body = self.fixed(node.attrs["body"])
        arrays = [
            g.view(t.numpy).reshape(a.shape)
            for g, t, a in zip(given, types, wide, strict=True)
        ]
        wanted = self.meaning.evaluate(body, arrays)
        executable = compile_region(node, self.entry.variables, self.backend)
        wrong = self.compared(executable, given, body, wanted)
        if wrong is None:
            return None
        kernel = executable.program.kernels[0]
        interpreted = interpret_program(executable.program, given, self.symbols)
        lowered = difference(
            body, wanted, shaped(interpreted, body), self.allowed(body)
        )
        return Finding(
            "kernel" if lowered is not None else "emitted code of the kernel",
            kernel.name,
            "the way it was lowered" if lowered is not None else "",
            "\n     ".join(kernel.lines),
            wrong,
            print_kernel(kernel),
        )

    @property
    def symbols(self) -> tuple[int, ...]:
        return tuple(self.sizes[s] for s in self.entry.variables)

    def compared(
        self, executable: Executable, given: Sequence[Array], body: Graph, wanted: Sequence[Array]
    ) -> Difference | None:
        """How what runs differs from what is wanted."""
        results = executable.run([Buffer.copy_of(g.data) for g in given], self.symbols)
        got = shaped([np.frombuffer(memoryview(r), np.uint8) for r in results], body)
        return difference(body, wanted, got, self.allowed(body))

    def allowed(self, graph: Graph) -> float:
        """The tolerance for a graph's results."""
        if self.tolerance is not None:
            return self.tolerance
        values = [v for n in graph.nodes for v in (*n.inputs, *n.outputs)]
        bits = [v.type.dtype.bits for v in values if v.type.dtype.is_float]
        return TOLERANCES[min(bits, default=64)]

    # ------------------------------------------------------------------------------------ program

    def in_program(self, executable: Compiled) -> Finding:
        """Whether the whole differs where all its kernels are right."""
        graph = self.fixed(self.entry.graph)
        given = [
            as_bytes(a, v.type.dtype.numpy)
            for a, v in zip(self.arrays, graph.inputs, strict=True)
        ]
        wanted = self.meaning(self.entry.graph)
        wrong = self.compared(executable, given, graph, wanted)
        if wrong is None:
            return Finding("nothing", "passes, kernels and Program give what the ops mean")
        name, rule = executable.program.name, "its steps or its memory plan"
        return Finding("program", name, rule, "", wrong)


class Stages(PassContext):
    """A context that keeps what each pass gave."""

    def __init__(self) -> None:
        super().__init__(keep_stages=True)


def compile_region(node: Node, symbols: Sequence[Expr], backend: backends.Backend) -> Compiled:
    """One region as a Program of its own."""
    alone = Graph(node.inputs, node.outputs)
    executable = compile_graph(alone, backend, symbols, context=PassContext(), name="a region")
    assert isinstance(executable, Compiled)
    return executable


def line_of(node: Node) -> str:
    return format_line(node.line) if node.line is not None else ""


def as_bytes(array: Array, dtype: Any) -> Array:
    """An array in a dtype, as bytes."""
    return np.ascontiguousarray(np.asarray(array).astype(dtype)).reshape(-1).view(np.uint8)


def shaped(results: Sequence[Array], graph: Graph) -> list[Array]:
    """Bytes as the arrays that a graph's outputs are."""
    return [
        np.asarray(r).reshape(-1).view(np.uint8).view(v.type.dtype.numpy).reshape(v.type.shape)
        for r, v in zip(results, graph.outputs, strict=True)
    ]
