"""Compile: a graph becomes an Executable on a backend.

Passes, lowering, emission, loading; or, for a backend that interprets, nothing of the sort.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from deepseek import _runtime
from deepseek._runtime import Buffer
from deepseek.backends import Backend
from deepseek.compiler.caches import (
    counters,
    find_program,
    held_kernels,
    keep_program,
    program_key,
)
from deepseek.config import options
from deepseek.ir import scalar
from deepseek.ir.graph import Graph, Node
from deepseek.ir.interpret import interpret
from deepseek.ir.scalar import Expr
from deepseek.ir.shape import Sizes, TensorType, active
from deepseek.passes import PassContext, run_passes
from deepseek.program import ir
from deepseek.program.build import build
from deepseek.program.load import record
from deepseek.program.verify import verify


class Executable:
    """A compiled graph: buffers in, buffers out."""

    def __init__(self, graph: Graph, symbols: Sequence[Expr]) -> None:
        self.inputs = tuple(v.type for v in graph.inputs)
        self.outputs = tuple(v.type for v in graph.outputs)
        self.symbols = tuple(symbols)

    def run(
        self,
        inputs: Sequence[Buffer],
        symbols: tuple[int, ...] = (),
        donate: Sequence[bool] | None = None,
    ) -> list[Buffer]:
        """The outputs' buffers. An input may be donated where nobody else holds it."""
        raise NotImplementedError

    def output_shapes(self, symbols: tuple[int, ...]) -> list[tuple[int, ...]]:
        """The outputs' shapes for given sizes."""
        env = dict(zip(self.symbols, symbols, strict=True))
        return [concrete(t, env) for t in self.outputs]


def concrete(type_: TensorType, env: dict[Expr, int]) -> tuple[int, ...]:
    """A type's shape with every symbol replaced by its size."""
    return tuple(s if isinstance(s, int) else int(scalar.evaluate(s, env)) for s in type_.shape)


class Interpreted(Executable):
    """Runs a graph on the interpreter."""

    def __init__(self, graph: Graph, symbols: Sequence[Expr]) -> None:
        super().__init__(graph, symbols)
        self.graph = graph

    def run(
        self,
        inputs: Sequence[Buffer],
        symbols: tuple[int, ...] = (),
        donate: Sequence[bool] | None = None,
    ) -> list[Buffer]:
        env = dict(zip(self.symbols, symbols, strict=True))
        arrays = [
            np.frombuffer(b, np.uint8).view(t.dtype.numpy).reshape(concrete(t, env))
            for b, t in zip(inputs, self.inputs, strict=True)
        ]
        with active(Sizes(env)) if env else nullcontext():
            results = interpret(self.graph, arrays)
        return [Buffer.copy_of(np.ascontiguousarray(r).reshape(-1).view(np.uint8)) for r in results]


class Prepared:
    """What a program computes once from tensors that stay, and again when one of them changes."""

    def __init__(self, executable: Executable, sources: tuple[int, ...]) -> None:
        self.executable = executable
        self.sources = sources
        self.versions: tuple[int, ...] = ()
        self.buffers: list[Buffer] = []

    def up_to_date(self, inputs: Sequence[Buffer], symbols: tuple[int, ...]) -> list[Buffer]:
        """The prepared values for these inputs."""
        given = [inputs[i] for i in self.sources]
        versions = (*[b.version for b in given], *symbols)
        if versions != self.versions:
            self.buffers = self.executable.run(given, symbols)
            self.versions = versions
        return self.buffers

    @property
    def nbytes(self) -> int:
        return sum(b.nbytes for b in self.buffers)


class Compiled(Executable):
    """Runs a Program in the runtime."""

    def __init__(
        self,
        graph: Graph,
        program: ir.Program,
        loaded: _runtime.Program,
        outputs: Sequence[int],
        prepared: Prepared | None = None,
    ) -> None:
        super().__init__(graph, program.symbols)
        self.prepared = prepared
        self.program = program
        self.loaded = loaded
        self.from_input = outputs

    def run(
        self,
        inputs: Sequence[Buffer],
        symbols: tuple[int, ...] = (),
        donate: Sequence[bool] | None = None,
    ) -> list[Buffer]:
        if self.prepared is not None:
            extra = self.prepared.up_to_date(inputs, symbols)
            donate = None if donate is None else [*donate, *([False] * len(extra))]
            made = self.loaded.run([*inputs, *extra], symbols, donate)
        else:
            made = self.loaded.run(inputs, symbols, donate)
        return [inputs[~k] if k < 0 else made[k] for k in self.from_input]


def compile_graph(
    graph: Graph,
    backend: Backend,
    symbols: Sequence[Expr] = (),
    takes: dict[int, int] | None = None,
    labels: Sequence[str] = (),
    context: PassContext | None = None,
) -> Executable:
    """The graph as an Executable. `takes[o] = i` lets output o have input i's buffer if donated."""
    counters.programs += 1
    if backend.interprets:
        return Interpreted(graph, symbols)
    context = context or PassContext()
    if backend.claims:
        context.claim = claimed_by(backend)
    fused = run_passes(graph, context)

    def optimize(body: Graph) -> Graph:
        return run_passes(body, PassContext(context.claim))

    program = build(fused, symbols, backend.lanes(), takes, labels, optimize)
    loaded = load(program, compiled_kernels(backend, program.kernels))
    prepared = None
    if context.split is not None:
        inner = compile_graph(context.split.prepared, backend, symbols)
        prepared = Prepared(inner, context.split.sources)
    return Compiled(graph, program, loaded, output_sources(program), prepared)


def output_sources(program: ir.Program) -> list[int]:
    """For each output: which of the runtime's outputs it is, or ~i for input i itself."""
    made = [i for i, s in enumerate(program.slots) if s.kind == ir.OUTPUT]
    given = [i for i, s in enumerate(program.slots) if s.kind == ir.INPUT]
    return [made.index(o) if o in made else ~given.index(o) for o in program.outputs]


def claimed_by(backend: Backend) -> Any:
    """A function from a node to the backend's packed call, or None if it does not claim the node."""
    by_op: dict[str, list[Any]] = {}
    for claim in backend.claims:
        by_op.setdefault(claim.op, []).append(claim)

    def claim_node(node: Node) -> Any:
        for claim in by_op.get(node.op.name, ()):
            if claim.check(node):
                return claim.run(node)
        return None

    return claim_node
