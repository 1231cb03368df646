"""Compile: a graph becomes an Executable on a backend.

Passes, lowering, emission, loading; or nothing of the sort, for a backend that interprets, and
for a graph whose Program lies on disk.
"""

from __future__ import annotations

import gc
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from deepseek import _runtime
from deepseek._runtime import Buffer
from deepseek.backends import Backend
from deepseek.compiler.caches import (
    Kept,
    counters,
    find_program,
    held_kernels,
    keep_program,
    program_key,
)
from deepseek.config import options
from deepseek.errors import OutOfMemoryError, format_line, user_line
from deepseek.frontend.devices import device_of, on_device, without_devices
from deepseek.frontend.tensor import hooks
from deepseek.ir import scalar
from deepseek.ir.device import Device
from deepseek.ir.graph import Graph, Node
from deepseek.ir.interpret import interpret
from deepseek.ir.rewrite import specialized
from deepseek.ir.scalar import Expr
from deepseek.ir.shape import TensorType
from deepseek.ir.text import parse_graph
from deepseek.late import late
from deepseek.logs import logger

if TYPE_CHECKING:
    from deepseek.passes import PassContext
    from deepseek.program.ir import Program

passes = late("deepseek.passes")
kernel_verifier = late("deepseek.kernel.verify")
programs = late("deepseek.program.ir")
building = late("deepseek.program.build")
loading = late("deepseek.program.load")
program_verifier = late("deepseek.program.verify")


@dataclass(frozen=True)
class Example:
    """The inputs and sizes of the first call, for whoever checks meanings while compiling."""

    buffers: Sequence[Buffer]
    sizes: tuple[int, ...] = ()


class Watch:
    """Looks on while a graph is compiled. This one does nothing; `deepseek.debug` has others."""

    def after_pass(self, name: str, before: Graph, after: Graph) -> None:
        """A pass changed the graph."""

    def built(self, program: Program) -> None:
        """The Program is complete."""


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
        graph = specialized(self.graph, env) if env else self.graph
        arrays = [
            np.frombuffer(b, np.uint8).view(v.type.dtype.numpy).reshape(v.type.shape)
            for b, v in zip(inputs, graph.inputs, strict=True)
        ]
        results = interpret(graph, arrays)
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
        symbols: Sequence[Expr],
        program: Callable[[], Program],
        loaded: _runtime.Program,
        outputs: Sequence[int],
        prepared: Prepared | None = None,
    ) -> None:
        super().__init__(graph, symbols)
        self.prepared = prepared
        self.read_program = program
        self.loaded = loaded
        self.from_input = outputs
        _recent.appendleft(weakref.ref(self))

    @cached_property
    def program(self) -> Program:
        """What is run; of a Program from the disk its text is read only here."""
        return self.read_program()

    def run(
        self,
        inputs: Sequence[Buffer],
        symbols: tuple[int, ...] = (),
        donate: Sequence[bool] | None = None,
    ) -> list[Buffer]:
        if self.prepared is not None:
            extra = self.prepared.up_to_date(inputs, symbols)
            donate = None if donate is None else [*donate, *([False] * len(extra))]
            inputs = [*inputs, *extra]
        made = self.with_room(inputs, symbols, donate)
        return [inputs[~k] if k < 0 else made[k] for k in self.from_input]

    def with_room(
        self, inputs: Sequence[Buffer], symbols: tuple[int, ...], donate: Sequence[bool] | None
    ) -> list[Buffer]:
        """Run; where memory lacks, once more without what nobody can reach."""
        try:
            return self.loaded.run(inputs, symbols, donate)
        except OutOfMemoryError:
            pass
        gc.collect()  # a recorded graph is a cycle, and holds its buffers until then
        try:
            return self.loaded.run(inputs, symbols, donate)
        except OutOfMemoryError as error:
            raise out_of_memory(str(error)) from None


def out_of_memory(message: str, graph: Graph | None = None, **where: Any) -> OutOfMemoryError:
    """The error for a run that found too little memory, with the user's line; and, with a graph,
    the tensor that needs most.
    """
    largest = "" if graph is None else largest_tensor(graph, **where)
    return OutOfMemoryError(f"{message}\n  at {format_line(user_line(2))}{largest}")


def largest_tensor(
    graph: Graph, executable: Executable | None = None, sizes: tuple[int, ...] = ()
) -> str:
    """What the largest tensor is that a run makes, and where it is recorded.

    Of a compiled graph only those count that the program has memory for.
    """
    env = dict(zip(executable.symbols, sizes, strict=True)) if executable is not None else {}
    recorded = [(nbytes(v.type, env), n) for n in graph.nodes for v in n.outputs]
    most = max([size for size, _ in recorded], default=0)
    if isinstance(executable, Compiled):
        made = (programs.OUTPUT, programs.TEMP)
        slots = [nbytes(s.type, env) for s in executable.program.slots if s.kind in made]
        most = max(slots, default=most)
    nodes = [n for size, n in recorded if size == most]
    lines = dict.fromkeys(format_line(n.line) for n in nodes if n.line is not None)
    where = "".join(f"\n    at {line}" for line in [*lines][-MOST_LINES:])
    return f"\n  the largest tensor: {most:,} bytes{where}"


def nbytes(type_: TensorType, env: dict[Expr, int]) -> int:
    return int(scalar.evaluate(scalar.as_expr(type_.nbytes), env))


MOST_LINES = 3  # of those where tensors of the largest size are recorded

_recent: deque[weakref.ref[Compiled]] = deque(maxlen=8)


def recent_programs() -> list[Compiled]:
    """The programs compiled or loaded last that are still alive, the latest first."""
    return [found for ref in _recent if (found := ref()) is not None]


class Unrun(Compiled):
    """Stands for a Program that was compiled for another machine: results are zeros."""

    def run(
        self,
        inputs: Sequence[Buffer],
        symbols: tuple[int, ...] = (),
        donate: Sequence[bool] | None = None,
    ) -> list[Buffer]:
        made = self.loaded.bind_info(symbols)["outputs"]
        zeros = [Buffer.copy_of(bytes(nbytes), "null") for nbytes in made]
        return [inputs[~k] if k < 0 else zeros[k] for k in self.from_input]


@contextmanager
def no_collection() -> Iterator[None]:
    """No garbage collection: compiling makes very many objects, nearly all of which it keeps."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


@no_collection()
def compile_graph(
    graph: Graph,
    backend: Backend,
    symbols: Sequence[Expr] = (),
    takes: dict[int, int] | None = None,
    labels: Sequence[str] = (),
    context: PassContext | None = None,
    stable: tuple[int, ...] = (),
    name: str = "graph",
    example: Example | None = None,
) -> Executable:
    """The graph as an Executable.

    It runs on the device of the graph's values. `takes[o] = i` lets output o have input i's buffer
    if donated. `stable` numbers the inputs that mostly keep their value between calls: what depends
    on them alone is computed once. `name` is what logs call it; `example` is needed where
    options.verify is 2.
    """
    place = device_of(graph)
    device = -1
    if place is not None:
        graph, device = without_devices(graph), place.number
    if backend.interprets:
        counters.programs += 1
        return Interpreted(graph, symbols)
    watched = context is not None
    key = program_key(graph, backend, symbols, takes, labels, stable, watched, name)
    kept = find_program(key, backend, device)
    if kept is not None:
        return revived(kept, graph, backend, symbols, place)
    counters.programs += 1
    start = time.perf_counter()
    context = context or passes.PassContext()
    context.stable = stable
    if backend.claims:
        context.claim = claimed_by(backend)
    watch = Watch()
    if options.dump is not None or options.verify > 1:
        watch = hooks.watch(name, graph, backend, symbols, context, example)
    fused = passes.run_passes(graph, context, watch.after_pass)

    def optimize(body: Graph) -> Graph:
        return passes.run_passes(body, passes.PassContext(context.claim))

    with context.timing("lower"):
        program = building.build(fused, symbols, backend.lanes(), takes, labels, optimize, name)
    watch.built(program)
    if options.verify:
        program_verifier.verify(program)
        for kernel in program.kernels:
            kernel_verifier.verify(kernel)
    with context.timing("kernels"):
        kernels = held_kernels(backend, program.kernels)
    tape = loading.record(program, [kernel.launchable for kernel in kernels])
    outputs = output_sources(program)
    prepared = None
    if context.split is not None:
        inner = compile_graph(
            on_device(context.split.prepared, place), backend, symbols, name=f"{name} (prepared)"
        )
        prepared = Prepared(inner, context.split.sources)
    stages = {stage: f"{spent * 1e3:.1f}" for stage, spent in context.seconds.items()}
    logger().info(
        "compiled %s for %s: %d nodes to %d kernels in %.1f ms (%s)",
        name, backend.target(), len(graph.nodes), len(program.kernels),
        (time.perf_counter() - start) * 1e3,
        ", ".join(f"{stage} {spent}" for stage, spent in stages.items() if spent != "0.0"),
    )  # fmt: skip
    keep_program(key, program, tape, kernels, outputs, context.split)
    made = Compiled if backend.runs else Unrun
    return made(graph, symbols, lambda: program, tape.build(device), outputs, prepared)


def revived(
    kept: Kept, graph: Graph, backend: Backend, symbols: Sequence[Expr], place: Device | None
) -> Executable:
    """A Program from the disk as an Executable."""
    prepared = None
    if kept.split is not None:
        text, sources = kept.split
        inner = compile_graph(on_device(parse_graph(text), place), backend, symbols)
        prepared = Prepared(inner, sources)
    made = Compiled if backend.runs else Unrun
    return made(graph, symbols, kept.program, kept.loaded, kept.outputs, prepared)


def output_sources(program: Program) -> list[int]:
    """For each output: which of the runtime's outputs it is, or ~i for input i itself."""
    made = [i for i, s in enumerate(program.slots) if s.kind == programs.OUTPUT]
    given = [i for i, s in enumerate(program.slots) if s.kind == programs.INPUT]
    return [made.index(o) if o in made else ~given.index(o) for o in program.outputs]


def claimed_by(backend: Backend) -> Any:
    """A function from a node to the backend's packed call, or None if it does not claim the node.
    """
    by_op: dict[str, list[Any]] = {}
    for claim in backend.claims:
        by_op.setdefault(claim.op, []).append(claim)

    def claim_node(node: Node) -> Any:
        for claim in by_op.get(node.op.name, ()):
            if claim.check(node):
                return claim.run(node)
        return None

    return claim_node
