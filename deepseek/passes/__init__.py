"""The passes. PIPELINE reads aloud; `run_passes` times each, verifies and dumps where it changed
something.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from deepseek.config import options
from deepseek.errors import CompileError, DeepseekError
from deepseek.ir.graph import Graph
from deepseek.ir.rewrite import Fuel
from deepseek.ir.verify import verify
from deepseek.passes.expand import Claimed, expand
from deepseek.passes.fold_conv_bn import fold_conv_bn
from deepseek.passes.fuse import fuse
from deepseek.passes.layout import layout
from deepseek.passes.prepare import Split, split
from deepseek.passes.simplify import simplify


@dataclass
class PassContext:
    """What passes may ask about the compilation, and what they report."""

    claim: Claimed | None = None
    stable: tuple[int, ...] = ()  # inputs that keep their value between calls
    split: Split | None = None  # what was split off, to be computed once
    seconds: dict[str, float] = field(default_factory=dict)
    stages: list[tuple[str, Graph]] = field(default_factory=list)
    keep_stages: bool = False
    fuel: Fuel = field(default_factory=lambda: Fuel(options.fuel))

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Add what is done inside to the seconds of a stage of compiling."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent

    def split_off(self, graph: Graph) -> Graph:
        """The main part of the graph; the rest is kept in `split`."""
        self.split = split(graph, self.stable)
        return graph if self.split is None else self.split.main


Pass = Callable[[Graph, PassContext], Graph]

PIPELINE: list[tuple[str, Pass]] = [
    ("simplify", lambda graph, context: simplify(graph, context.fuel)),
    ("fold_conv_bn", lambda graph, context: fold_conv_bn(graph, context.fuel)),
    ("claim_or_expand", lambda graph, context: expand(graph, context.claim, context.fuel)),
    ("simplify_again", lambda graph, context: simplify(graph, context.fuel)),
    ("layout", lambda graph, context: layout(graph)),
    ("prepare", lambda graph, context: context.split_off(graph)),
    ("fuse", lambda graph, context: fuse(graph)),
]


def run_passes(
    graph: Graph, context: PassContext, check: Callable[[str, Graph, Graph], None] | None = None
) -> Graph:
    """The graph after the whole pipeline; `check(name, before, after)` compares meanings if given.
    """
    if options.verify:
        verify(graph)
    for name, run in PIPELINE:
        try:
            with context.timing(name):
                after = run(graph, context)
        except DeepseekError:
            raise
        except Exception as error:
            raise CompileError(
                f"pass '{name}' failed: {error!r}\n"
                "  help: this is a bug in deepseek; DS_DUMP=folder writes the graph it failed on"
            ) from error
        if after is not graph:
            if options.verify:
                verify(after)
            if check is not None:
                check(name, graph, after)
            if context.keep_stages:
                context.stages.append((name, after))
        graph = after
    return graph
