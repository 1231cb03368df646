"""`ds.explain(f, *args)`: what became of a function, as an object, a text and a page.

In flow a function and arguments it can be called with; out flows an Explanation of the entry that
such a call uses: its graph after each pass, its kernels and steps with the user's lines, the bytes
and operations of each, its memory plan, and what a later call must fulfil to use it again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

from deepseek import backends
from deepseek.compiler.caches import counters
from deepseek.compiler.compile import Compiled
from deepseek.compiler.entry import Entry, flattened, label_of
from deepseek.compiler.function import Function, jit
from deepseek.config import options, override
from deepseek.debug import conditions, draw_graph, draw_memory, page, summary
from deepseek.debug.counting import Regions, value_of
from deepseek.debug.palette import plain_path
from deepseek.debug.reports import Facts, Stage, kernel_reports, step_reports
from deepseek.ir.shape import Sizes, active
from deepseek.passes import PIPELINE, PassContext
from deepseek.program.plan_memory import memory_plan


class Explanation(Facts):
    """What became of a function for one signature: print it, or write `.html(path)`; see `explain`.
    """

    def __str__(self) -> str:
        return summary.report(self)

    def svg_graph(self) -> str:
        """The Program as a drawing: boxes are steps, arrows are the values between them."""
        return draw_graph.svg(self)

    def svg_memory(self) -> str:
        """The memory plan as a drawing: steps from left to right, addresses from below."""
        return draw_memory.svg(self)

    def html(self, path: str | Path) -> None:
        """Write everything as one page that needs no other file."""
        Path(path).write_text(page.html(self), encoding="utf-8")


def explain(f: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
    """What `f(*args, **kwargs)` is compiled to. A plain function is jitted first; nothing is run.

    Raises TraceError where the function cannot be compiled.

    >>> explained = ds.explain(lambda x: x.softmax(-1), ds.randn(8, 16))
    >>> explained.counts["launches"]
    1
    """
    function, args = jitted(f, args)
    entry = function.entry_for(*args, **kwargs)
    sizes = entry.sizes(flattened(args, kwargs)[1])
    with active(Sizes(dict(zip(entry.variables, sizes, strict=True)))):  # for expansions that ask
        return explained(function.name, entry, sizes)


def jitted(f: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Function, tuple[Any, ...]]:
    """The compiled function behind a callable, and the arguments it gets."""
    if isinstance(f, MethodType) and isinstance(f.__func__, Function):
        return f.__func__, (f.__self__, *args)
    if isinstance(f, Function):
        return f, args
    if isinstance(f, FunctionType):
        return jit(f), args

    def call(*args: Any, **kwargs: Any) -> Any:
        return f(*args, **kwargs)

    call.__qualname__ = getattr(f, "__qualname__", type(f).__qualname__)
    return jit(call), args


def explained(name: str, entry: Entry, sizes: tuple[int, ...]) -> Explanation:
    """The explanation of one entry for the sizes of one call."""
    backend = backends.load(options.backend)
    env = dict(zip(entry.variables, sizes, strict=True))
    common: dict[str, Any] = {
        "name": name,
        "target": backend.target(),
        "env": env,
        "recorded": entry.graph,
        "guards": conditions.sentences(entry),
        "inputs": [plain_path(label_of(b, entry.table)) for b in entry.bindings],
    }
    if not isinstance(entry.executable, Compiled):
        return Explanation(
            **common, stages=[], seconds={}, program=None, kernels=[], steps=[], memory=None
        )
    # The same again, this time keeping what each pass gave; it is deterministic.
    context = PassContext(keep_stages=True)
    before = counters.programs
    with override(dump=None, verify=0, log_level="error"):
        watched = entry.recompile(context=context)
    counters.programs = before
    assert isinstance(watched, Compiled)
    program = watched.program
    fused = context.stages[-1][1] if context.stages else entry.graph
    steps = step_reports(program, Regions(program, fused, backend.lanes(), context.claim), env)
    prepared = context.split.prepared.outputs if context.split is not None else ()
    return Explanation(
        **common,
        stages=[Stage(name, graph) for name, graph in context.stages],
        seconds={name: context.seconds[name] for name, _ in PIPELINE},
        program=program,
        kernels=kernel_reports(program, steps),
        steps=steps,
        memory=memory_plan(program, watched.loaded, sizes, entry.graph),
        prepared_bytes=sum(value_of(v.type.nbytes, env) for v in prepared),
    )
