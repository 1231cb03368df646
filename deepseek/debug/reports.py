"""Reports: the facts about one compiled entry that texts, pages and drawings are made from.

In flow a Program, the graph it was built from and the sizes of a call; out flow Stages, Kernels and
steps with their work, held by `Facts`. Nothing here knows how it will be shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deepseek.debug.counting import NOTHING, Counter, Regions, Work, value_of
from deepseek.ir.graph import Graph
from deepseek.ir.scalar import Expr
from deepseek.ir.text import print_graph
from deepseek.kernel.ir import Fold, Kernel, Store, statements
from deepseek.kernel.text import print_kernel
from deepseek.program import ir
from deepseek.program.ir import Launch, Program
from deepseek.program.plan_memory import MemoryPlan


@dataclass(frozen=True)
class Stage:
    """The graph after a pass that changed it."""

    name: str
    graph: Graph

    @property
    def nodes(self) -> int:
        return len(self.graph.nodes)

    def text(self) -> str:
        """The graph, each node with the user's line."""
        return print_graph(self.graph, lines=True)


@dataclass(frozen=True)
class KernelReport:
    """One kernel, with all the steps that launch it."""

    kernel: Kernel
    launches: int
    rows: int
    work: Work

    @property
    def name(self) -> str:
        return self.kernel.name

    @property
    def lines(self) -> tuple[str, ...]:
        """The user's lines that it computes."""
        return self.kernel.lines

    def text(self) -> str:
        return print_kernel(self.kernel)


@dataclass(frozen=True)
class StepReport:
    """One step of the Program, numbered as profiles number it."""

    number: int
    kind: str
    label: str
    form: str  # of a launch: contract, fold, scatter or pointwise; else the kind
    depth: int  # how many blocks it is nested in
    rows: int
    kernel: int | None
    work: Work
    reads: tuple[int, ...]  # slots, those of the blocks in it too
    writes: tuple[int, ...]


@dataclass(frozen=True)
class Facts:
    """What became of a function for one signature."""

    name: str
    target: str
    env: dict[Expr, int]  # what the size symbols stand for in this call
    recorded: Graph
    stages: list[Stage]
    seconds: dict[str, float]  # by pass
    program: Program | None
    kernels: list[KernelReport]
    steps: list[StepReport]
    memory: MemoryPlan | None
    guards: list[str]
    inputs: list[str]
    prepared_bytes: int = 0  # computed once from what rarely changes, and kept

    @property
    def sizes(self) -> dict[str, int]:
        """What each symbolic size is in this call."""
        return {symbol.name: size for symbol, size in self.env.items()}

    @property
    def graph(self) -> str:
        """The recorded graph as text, each node with the user's line."""
        return print_graph(self.recorded, lines=True)

    @property
    def counts(self) -> dict[str, int]:
        """Launches, externs, hosts, collectives and copies in the Program's text."""
        return ir.cost(self.program) if self.program is not None else {}

    @property
    def work(self) -> Work:
        """Bytes and operations of one call (the bodies of `while` and `if` counted once)."""
        return sum((step.work for step in self.steps), NOTHING)

    def slot_bytes(self, slot: int) -> int:
        """The size of one of the Program's slots."""
        assert self.program is not None
        return value_of(self.program.slots[slot].nbytes, self.env)

    @property
    def bytes_moved(self) -> int:
        return self.work.bytes

    @property
    def flops(self) -> int:
        return self.work.flops


def step_reports(program: Program, regions: Regions, env: dict[Expr, int]) -> list[StepReport]:
    """Every step of a Program, outer before inner."""
    counter = Counter(program, regions, env)
    forms = ["contract" if i in regions.contractions else form_of(k)
             for i, k in enumerate(program.kernels)]  # fmt: skip
    counted = counter.steps()
    depths = list(step_depths(program.body, 0))
    out = []
    for number, ((step, work), depth) in enumerate(zip(counted, depths, strict=True)):
        reads: dict[int, None] = {}
        writes: dict[int, None] = {}
        for inner in ir.steps((step,)):
            read, written = ir.reads_writes(inner, program.kernels)
            reads.update((r.slot, None) for r in read)
            writes.update((r.slot, None) for r in written)
        kind = type(step).__name__.lower()
        kernel = step.kernel if isinstance(step, Launch) else None
        rows = len(step.rows) if isinstance(step, Launch) else 1
        form = kind if kernel is None else forms[kernel]
        out.append(StepReport(
            number, kind, step.label, form, depth, rows, kernel, work, tuple(reads), tuple(writes)
        ))  # fmt: skip
    return out


def form_of(kernel: Kernel) -> str:
    """What a kernel without a contraction does, by its statements."""
    found = list(statements(kernel.body))
    if any(isinstance(s, Store) and s.atomic is not None for s in found):
        return "scatter"
    return "fold" if any(isinstance(s, Fold) for s in found) else "pointwise"


def step_depths(body: Sequence[ir.Step], depth: int) -> list[int]:
    """How deep each step is nested, in the order of the steps."""
    out: list[int] = []
    for step in body:
        out.append(depth)
        for block in ir.blocks(step):
            out += step_depths(block, depth + 1)
    return out


def kernel_reports(program: Program, steps: Sequence[StepReport]) -> list[KernelReport]:
    """The kernels in the order of their numbers."""
    out = []
    for number, kernel in enumerate(program.kernels):
        mine = [s for s in steps if s.kernel == number]
        work = sum((s.work for s in mine), NOTHING)
        out.append(KernelReport(kernel, len(mine), sum(s.rows for s in mine), work))
    return out
