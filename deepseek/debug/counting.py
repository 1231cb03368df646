"""Counting: what a Program moves and computes, exactly and without a clock.

In flow a Program, the graph of regions it was built from and the sizes of a call; out flow, for
each step, the bytes of its buffers, the float operations of its kernel's expressions, and how many
of those are transcendental. A contraction counts two for each product, whatever its tiles pad.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from deepseek.ir import scalar
from deepseek.ir.graph import Graph, Node, Value
from deepseek.ir.interpret import expansion
from deepseek.ir.op import Kind
from deepseek.ir.scalar import Expr
from deepseek.ir.shape import Size
from deepseek.kernel.ir import Fold, Kernel, Let, Loop, Mma, Stmt, Store
from deepseek.passes import PassContext, run_passes
from deepseek.passes.expand import Claimed
from deepseek.program import ir
from deepseek.program.build import Builder, output_slots
from deepseek.program.ir import For, Launch, Program, Ref, Row, Step

Env = Mapping[Expr, int]

# What is in neither table moves, compares or converts, and counts nothing.
PLAIN = {"add": 1, "sub": 1, "mul": 1, "div": 1, "neg": 1, "abs": 1, "minimum": 1, "maximum": 1,
         "fma": 2}  # fmt: skip
TRANSCENDENTAL = {"exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "tanh", "atan", "erf",
                  "pow"}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """Bytes read and written; float operations, and how many of those are transcendental."""

    read: int = 0
    written: int = 0
    flops: int = 0
    transcendental: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.read + other.read, self.written + other.written,
            self.flops + other.flops, self.transcendental + other.transcendental,
        )  # fmt: skip

    def times(self, count: int) -> Work:
        return Work(
            self.read * count, self.written * count, self.flops * count, self.transcendental * count
        )

    @property
    def bytes(self) -> int:
        return self.read + self.written


NOTHING = Work()


def value_of(size: Size, env: Env) -> int:
    """A size as a number."""
    return size if isinstance(size, int) else int(scalar.evaluate(size, env))


def arithmetic(roots: Iterable[Expr]) -> Work:
    """The float operations of expressions, each distinct part once."""
    flops = transcendental = 0
    for e in scalar.walk(roots):
        if e.dtype.is_float:
            flops += PLAIN.get(e.fn, 0)
            transcendental += e.fn in TRANSCENDENTAL
    return Work(flops=flops + transcendental, transcendental=transcendental)


# ----------------------------------------------------------------------------------------- kernels


def kernel_work(kernel: Kernel, env: Env) -> Work:
    """The arithmetic of a kernel for given values of its sizes."""
    return body_work(kernel.body, dict(env))


def body_work(body: Sequence[Stmt], env: dict[Expr, int]) -> Work:
    total = NOTHING
    roots: list[Expr] = []
    for stmt in body:
        match stmt:
            case Let(_, value):
                roots.append(value)
            case Store(_, _, value, _, atomic):
                roots.append(value)
                total += Work(flops=int(atomic is not None and value.dtype.is_float))
            case Loop(axis, inner):
                total += looped(axis.var, axis.extent, inner, env)
            case Fold():
                total += fold_work(stmt, env)
            case Mma():
                total += Work(flops=2 * stmt.m * stmt.n * value_of(stmt.depth, env))
    return total + arithmetic(roots)


def looped(var: Expr, extent: Expr, inner: Sequence[Stmt], env: dict[Expr, int]) -> Work:
    """A loop's work: one pass times the passes, unless extents inside depend on the variable."""
    count = value_of(extent, env)
    if any(not scalar.free_of(e, var) for e in extents(inner)):
        parts = (body_work(inner, {**env, var: i}) for i in range(count))
        return sum(parts, NOTHING)
    return body_work(inner, env).times(count) if count else NOTHING


def extents(body: Sequence[Stmt]) -> Iterator[Expr]:
    """The expressions inside that decide how often something runs."""
    for stmt in body:
        match stmt:
            case Loop(axis, inner):
                yield axis.extent
                yield from extents(inner)
            case Fold(axes):
                yield from (a.extent for a in axes)
            case Mma():
                yield stmt.depth


def fold_work(fold: Fold, env: Env) -> Work:
    """A fold's work: its steps; joining the lanes' partial results is not counted."""
    count = prod(value_of(axis.extent, env) for axis in fold.axes)
    once = arithmetic(c.init for c in fold.carries)
    values = [let.value for let in fold.body] + [store.value for store in fold.prefix]
    return once + arithmetic([*values, *(c.step for c in fold.carries)]).times(count)


# ------------------------------------------------------------------------------------------ graphs


def graph_work(graph: Graph, env: Env) -> Work:
    """A graph's arithmetic as it is written, composites through their expansions."""
    return sum((node_work(node, env) for node in graph.nodes), NOTHING)


def node_work(node: Node, env: Env) -> Work:
    """One node's arithmetic. Control flow counts each of its graphs once."""
    kind = node.op.kind
    if kind is Kind.COMPOSITE:
        return graph_work(expansion(node), env)
    graphs = [a for a in node.attrs.values() if isinstance(a, Graph)]
    if graphs:
        return sum((graph_work(g, env) for g in graphs), NOTHING)
    count = sum(value_of(v.type.numel, env) for v in node.outputs)
    if kind is Kind.CONTRACT:
        return contraction_work(node, env)
    if kind is Kind.ELEMENTWISE:
        assert node.op.meaning is not None
        scalars = [scalar.var(f"x{i}", v.type.dtype) for i, v in enumerate(node.inputs)]
        return arithmetic([node.op.meaning(*scalars, **node.attrs)]).times(count)
    if kind in (Kind.REDUCE, Kind.PREFIX, Kind.SCATTER):
        return Work(flops=sum(value_of(v.type.numel, env) for v in node.inputs))
    return NOTHING


def contraction_work(node: Node, env: Env) -> Work:
    """Two operations for each product."""
    assert node.op.meaning is not None
    meaning = node.op.meaning([v.type for v in node.inputs], node.outputs[0].type, **node.attrs)
    folded = prod(value_of(v.attr[2], env) for v in meaning.folded)
    return Work(flops=2 * value_of(node.outputs[0].type.numel, env) * folded)


# ---------------------------------------------------------------------------------------- programs


class Regions(Builder):
    """Builds the Program once more, to see which contraction each row of a kernel is of."""

    def __init__(
        self, program: Program, fused: Graph, lanes: int, claim: Claimed | None = None
    ) -> None:
        super().__init__(program.symbols, lanes, lambda g: run_passes(g, PassContext(claim)))
        self.contractions: dict[int, list[Node]] = {}  # by kernel, in the order of their rows
        env = {v: Ref(self.slot(ir.INPUT, v.type)) for v in fused.inputs}
        self.block(fused, env, output_slots(fused, self))

    def launch(self, node: Node, env: dict[Value, Ref], label: str) -> list[Step]:
        made = super().launch(node, env, label)
        for step in made:
            assert isinstance(step, Launch)
            if any(n.op.kind is Kind.CONTRACT for n in node.attrs["body"].nodes):
                self.contractions.setdefault(step.kernel, []).append(node)
        return made


class Counter:
    """Counts the steps of one Program for one binding of its sizes."""

    def __init__(self, program: Program, regions: Regions, env: Env) -> None:
        self.program = program
        self.env = env
        self.taken = {number: iter(nodes) for number, nodes in regions.contractions.items()}

    def steps(self) -> list[tuple[Step, Work]]:
        """Every step in the runtime's numbering with its own work, times the loops around it."""
        return list(self.block(self.program.body, 1))

    def block(self, body: Sequence[Step], repeats: int) -> Iterator[tuple[Step, Work]]:
        for step in body:
            yield step, self.step(step).times(repeats)
            inner = repeats * value_of(step.count, self.env) if isinstance(step, For) else repeats
            for block in ir.blocks(step):
                yield from self.block(block, inner)

    def step(self, step: Step) -> Work:
        if isinstance(step, Launch):
            return sum((self.row(step.kernel, row) for row in step.rows), NOTHING)
        if isinstance(step, ir.Copy):
            nbytes = value_of(step.nbytes, self.env)
            return Work(nbytes, nbytes)
        reads, writes = ir.reads_writes(step, self.program.kernels)
        return Work(self.traffic(reads), self.traffic(writes))

    def row(self, number: int, row: Row) -> Work:
        """One row of a launch: each buffer it names moves once."""
        kernel = self.program.kernels[number]
        pairs = list(zip(row.refs, kernel.globals(), strict=True))
        moved = Work(
            self.traffic(r for r, b in pairs if not b.written),
            self.traffic(r for r, b in pairs if b.written),
        )
        if number in self.taken:
            body = next(self.taken[number]).attrs["body"]
            return moved + graph_work(body, self.env)
        sizes = {s: value_of(e, self.env) for s, e in zip(kernel.sizes, row.sizes, strict=True)}
        return moved + kernel_work(kernel, sizes)

    def traffic(self, refs: Iterable[Ref]) -> int:
        return sum(self.nbytes(ref) for ref in dict.fromkeys(refs))

    def nbytes(self, ref: Ref) -> int:
        """What a ref covers: its slot, or in a loop the part that one turn sees."""
        if ref.loop is not None:
            return value_of(ref.stride, self.env)
        return value_of(self.program.slots[ref.slot].nbytes, self.env)
