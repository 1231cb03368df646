"""Watching compilations: DS_DUMP writes every stage to files, DS_VERIFY=2 compares their meanings.

In flow what the compiler tells while it compiles one graph; out flow, in a folder of its own for
each program, the texts of the stages that changed something, of kernels, emitted code and Program;
and a VerifyError that names the pass which changed a result.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deepseek.backends import Backend
from deepseek.compiler.compile import Example, Watch, concrete
from deepseek.config import options
from deepseek.debug.counting import graph_work
from deepseek.debug.meaning import Array, Meaning, difference, precision
from deepseek.debug.palette import as_count
from deepseek.errors import ArgumentError, VerifyError
from deepseek.frontend.tensor import hooks
from deepseek.ir.graph import Graph
from deepseek.ir.scalar import Expr
from deepseek.ir.text import print_graph
from deepseek.kernel.text import print_kernel
from deepseek.logs import logger
from deepseek.passes import PIPELINE, PassContext
from deepseek.program.ir import Program
from deepseek.program.text import print_program

FLOP_LIMIT = 1e8  # graphs with more arithmetic are not interpreted


class Dump(Watch):
    """Writes the stages of one compilation into a new folder."""

    def __init__(self, folder: Path, name: str, graph: Graph, backend: Backend) -> None:
        self.backend = backend
        self.folder = new_folder(folder, name)
        self.numbers = {name: 10 * i for i, (name, _) in enumerate(PIPELINE, 1)}
        self.write("000-recorded", print_graph(graph, lines=True))

    def write(self, name: str, text: str) -> None:
        (self.folder / f"{name}.txt").write_text(text.rstrip() + "\n")

    def after_pass(self, name: str, before: Graph, after: Graph) -> None:
        self.write(f"{self.numbers[name]:03}-{name}", print_graph(after, lines=True))

    def built(self, program: Program) -> None:
        self.write("100-program", print_program(program, kernels=False))
        for number, kernel in enumerate(program.kernels, 200):
            self.write(f"{number}-{kernel.name}", print_kernel(kernel))
            self.write(f"{number}-{kernel.name}.emitted", self.backend.emit(kernel))


def new_folder(folder: Path, name: str) -> Path:
    """A folder that no other compilation, of any process, writes to: 0000-name, 0001-name, ...

    Raises ArgumentError where nothing can be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError(
            f"DS_DUMP: got {str(folder)!r}, which cannot be used: {error.strerror}\n"
            "  help: set it to a folder that can be written to"
        ) from None
    plain = re.sub(r"[^\w.-]+", "_", name).strip("_") or "program"
    for number in itertools.count(len(list(folder.iterdir()))):
        made = folder / f"{number:04}-{plain}"
        if not list(folder.glob(f"{number:04}-*")):
            try:
                made.mkdir()
            except FileExistsError:
                continue
            return made
    raise AssertionError


class Comparison(Watch):
    """Interprets the graph before and after each pass on the first call's inputs."""

    def __init__(self, name: str, context: PassContext, meaning: Meaning) -> None:
        self.name = name
        self.context = context
        self.meaning = meaning

    def after_pass(self, name: str, before: Graph, after: Graph) -> None:
        wanted = self.meaning(before)
        if len(after.inputs) > len(before.inputs):
            assert self.context.split is not None
            self.meaning.prepare(self.context.split)
        found = self.meaning(after)
        wrong = difference(before, wanted, found, precision(before, after))
        if wrong is not None:
            raise VerifyError(
                f"pass '{name}' changed a result of {self.name}: {wrong}\n"
                "  help: ds.debug.bisect(f, *args) names the rule and the line; DS_DUMP=folder "
                "writes the graph before and after"
            )


class Both(Watch):
    """Tells several watchers the same."""

    def __init__(self, watchers: Sequence[Watch]) -> None:
        self.watchers = watchers

    def after_pass(self, name: str, before: Graph, after: Graph) -> None:
        for watcher in self.watchers:
            watcher.after_pass(name, before, after)

    def built(self, program: Program) -> None:
        for watcher in self.watchers:
            watcher.built(program)


def watch(
    name: str,
    graph: Graph,
    backend: Backend,
    symbols: Sequence[Expr],
    context: PassContext,
    example: Example | None,
) -> Watch:
    """Who looks on while a graph is compiled, as the options ask."""
    watchers: list[Watch] = []
    if options.dump is not None:
        watchers.append(Dump(Path(options.dump), name, graph, backend))
    if options.verify > 1 and example is not None:
        meaning = meaning_of(name, graph, dict(zip(symbols, example.sizes, strict=True)), example)
        if meaning is not None:
            watchers.append(Comparison(name, context, meaning))
    return Both(watchers)


def meaning_of(
    name: str, graph: Graph, sizes: dict[Expr, int], example: Example
) -> Meaning | None:
    """The meaning of graphs on a call's inputs, unless that would take too long."""
    flops = graph_work(graph, sizes).flops
    if flops > FLOP_LIMIT:
        logger().warning(
            "%s: DS_VERIFY=2 checks its structure only: interpreting %s would take long",
            name, as_count(flops, "flop"),
        )  # fmt: skip
        return None
    return Meaning(arrays_of(graph, sizes, example), sizes)


def arrays_of(graph: Graph, sizes: dict[Expr, int], example: Example) -> list[Array]:
    """A call's buffers as arrays, copied: what is donated later is gone then."""
    return [
        np.frombuffer(memoryview(b), np.uint8, count=b.nbytes)
        .view(v.type.dtype.numpy)
        .reshape(concrete(v.type, sizes))
        .copy()
        for v, b in zip(graph.inputs, example.buffers, strict=True)
    ]


hooks.watch = watch
