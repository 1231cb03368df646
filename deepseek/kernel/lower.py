"""Lower: a region of the graph becomes a Kernel.

In flows a REGION node's body, form and domain; out flows the Kernel with the expressions of its
run-time sizes. What cannot be lowered is an error that names the op.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deepseek.errors import CompileError, Line, format_line
from deepseek.ir import scalar
from deepseek.ir.graph import Graph, Node
from deepseek.ir.op import Kind
from deepseek.ir.recent import Recent
from deepseek.ir.scalar import Expr
from deepseek.ir.shape import Shape, current_sizes
from deepseek.kernel import contraction, loops, polyfill
from deepseek.kernel.evaluate import Evaluator
from deepseek.kernel.ir import (
    GRID,
    Axis,
    Buffer,
    Fold,
    Kernel,
    Loop,
    Mma,
    Stmt,
    Store,
    buffers_read,
    expressions,
    statements,
)
from deepseek.kernel.pointwise import pointwise
from deepseek.kernel.problem import has_threads
from deepseek.kernel.reduction import reduce_region
from deepseek.kernel.streaming import HEAVY, streamed


@dataclass(frozen=True)
class Lowered:
    """A kernel and how to call it.

    `inputs` are the positions of the region's inputs that it reads, in the order of its buffers;
    then come all outputs. `sizes` are the expressions of the run-time sizes, `grid` that of the
    number of tasks. `grain` is how many tasks are worth a thread. `in_place[o]` are the inputs
    whose memory output o may take.
    """

    kernel: Kernel
    inputs: tuple[int, ...]
    sizes: tuple[Expr, ...]
    grid: Expr
    grain: Expr
    in_place: tuple[tuple[int, ...], ...]


_lowered: Recent[Any, dict[tuple[str, ...], Lowered]] = Recent(4096)
"""What regions became, by structure; and by the user's lines, the kernels being the same."""


def lower(region: Node, lanes: int = 16) -> Lowered:
    """The kernel of a REGION node. Regions that are alike are lowered once."""
    body: Graph = region.attrs["body"]
    lines = lines_of(body)
    about = {name: value for name, value in region.attrs.items() if name != "body"}
    sizes = current_sizes()
    asked = sizes if sizes is not None and sizes.current else None  # each trace leaves its guards
    key = lanes, tuple(about.items()), body.key(), asked
    try:
        known = _lowered.get(key)
    except TypeError:  # an attribute that cannot be hashed
        return with_lines(lower_region(body, **about, lanes=lanes), lines)
    if known is None:
        plain = lower_region(body, **about, lanes=lanes)
        known = {(): plain}
        _lowered.put(key, known)
    if lines not in known:
        known[lines] = with_lines(known[()], lines)
    return known[lines]


def with_lines(lowered: Lowered, lines: tuple[str, ...]) -> Lowered:
    return replace(lowered, kernel=replace(lowered.kernel, lines=lines))


def lower_region(
    body: Graph, form: str, shape: Shape, folded: tuple[int, ...], lanes: int
) -> Lowered:
    """A region's kernel, without the user's lines."""
    sources = {v: Buffer(f"x{i}", v.type.dtype) for i, v in enumerate(body.inputs)}
    outputs = {v: Buffer(f"y{i}", v.type.dtype, written=True) for i, v in enumerate(body.outputs)}
    ev = Evaluator(body, sources)
    if form == "pointwise":
        nest = pointwise(ev, shape, outputs, lanes)
    elif form == "reduce":
        nest = reduce_region(ev, shape, folded, outputs, has_threads(lanes))
    elif form == "prefix":
        nest = loops.prefix_region(ev, shape, folded, outputs)
    elif form == "scatter":
        node = next(n for n in body.nodes if n.op.kind is Kind.SCATTER)
        nest = loops.scatter_region(ev, node, outputs[node.outputs[0]])
    elif form == "contract":
        nest = contraction.contract_region(ev, shape, outputs, lanes)
    else:
        raise CompileError(f"no way to lower a region of the form {form!r}")
    return assemble(body, nest, list(sources.values()), list(outputs.values()))


def assemble(
    body: Graph, nest: loops.Nest, sources: list[Buffer], outputs: list[Buffer]
) -> Lowered:
    """Collect what the statements use into a Kernel."""
    exprs = expressions_in(nest.body)
    nodes = scalar.walk(exprs)
    loaded = buffers_read(nest.body)
    used = [(i, b) for i, b in enumerate(sources) if b.name in loaded]
    types = [body.inputs[i].type for i, _ in used] + [v.type for v in body.outputs]
    if all(polyfill.instructions(expressions_in((s,))) < HEAVY for s in task_of(nest.body)):
        outputs = [
            replace(b, streamed=streamed(types, v.type, nest.lengths))
            for b, v in zip(outputs, body.outputs, strict=True)
        ]
    found = {*nodes, *scalar.walk([b.streamed for b in outputs])}
    symbols = sorted(
        (e for e in found if e.fn == "var" and e.attr[1:] == scalar.SIZE_BOUNDS),
        key=lambda e: e.text,
    )
    arguments = {s: nest.lengths.get(s, s) for s in symbols}
    buffers = (*(b for _, b in used), *outputs, *nest.scratch)
    kernel = Kernel(name_of(body), buffers, tuple(symbols), nest.body)
    grid = scalar.substitute(scalar.product(a.extent for a in kernel.grid()), arguments)
    return Lowered(
        kernel, tuple(i for i, _ in used), tuple(arguments.values()), grid,
        grain_of(kernel, arguments), in_place(kernel, used, outputs),
    )  # fmt: skip


def name_of(body: Graph) -> str:
    """A readable name from the ops in it, operands first; alike for bodies that are alike.

    The order in which nodes were recorded plays no part, so that equal kernels have equal names.
    """
    inner, found = set(body.nodes), dict[Node, None]()
    stack = [v.node for v in body.outputs]
    while stack:
        node = stack.pop()
        if node in inner and node not in found:
            found[node] = None
            stack.extend(v.node for v in node.inputs)
    named = [n for n in reversed(found) if n.op.kind not in (Kind.VIEW, Kind.CREATE)]
    names = dict.fromkeys(n.op.name.replace(".", "_") for n in named or [body.nodes[-1]])
    return "_".join(list(names)[:4])[:48]


def lines_of(body: Graph) -> tuple[str, ...]:
    """The user's lines a kernel computes, each once."""
    return formatted(tuple({n.line: None for n in body.nodes if n.line is not None}), os.getcwd())


@functools.lru_cache(maxsize=1 << 12)
def formatted(lines: tuple[Line, ...], folder: str) -> tuple[str, ...]:
    """Lines as text; `folder` is what their paths are relative to."""
    return tuple(dict.fromkeys(map(format_line, lines)))


def grain_of(kernel: Kernel, arguments: dict[Expr, Expr]) -> Expr:
    """Grid tasks that make about 16,000 elements: fewer are not worth another thread."""
    elements = scalar.substitute(elements_of(task_of(kernel.body)), arguments)
    if any(v not in arguments.values() for v in scalar.variables(elements)):
        return scalar.ONE
    worth = scalar.floordiv(scalar.const(16384), scalar.maximum(scalar.ONE, elements))
    return scalar.maximum(scalar.ONE, worth)


def task_of(body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    """What the grid loops are around."""
    while len(body) == 1 and isinstance(body[0], Loop) and body[0].axis.kind == GRID:
        body = body[0].body
    return body


def expressions_in(body: tuple[Stmt, ...]) -> list[Expr]:
    return [e for s in statements(body) for e in expressions(s)]


def elements_of(body: Sequence[Stmt]) -> Expr:
    """About how many elements one run of some statements computes; 16 multiplications are one."""
    total = scalar.ZERO
    for stmt in body:
        match stmt:
            case Loop(axis, inner):
                total = scalar.add(total, scalar.mul(extent_of(axis), elements_of(inner)))
            case Fold(axes, _, _, _, _):
                count = scalar.product(extent_of(a) for a in axes)
                total = scalar.add(total, scalar.maximum(scalar.ONE, count))
            case Mma() as mma:
                lanes = scalar.const(max(1, mma.m * mma.n // 16))
                total = scalar.add(total, scalar.mul(lanes, known(mma.depth)))
            case Store():
                total = scalar.add(total, scalar.ONE)
            case _:
                pass
    return total


def extent_of(axis: Axis) -> Expr:
    return known(axis.extent)


def known(size: Expr) -> Expr:
    """A size, or a bound where it depends on other loops."""
    if all(v.attr[2] is None for v in scalar.variables(size)):
        return size
    high = scalar.bounds(size)[1]
    return scalar.const(256 if high is None else high)


def in_place(
    kernel: Kernel, used: list[tuple[int, Buffer]], outputs: list[Buffer]
) -> tuple[tuple[int, ...], ...]:
    """For each output, the inputs whose memory it may take over.

    An element may be overwritten when nothing reads it afterwards: the input is read at the very
    index where the output is written, by that store or by statements before it, and every loop
    around the store moves on to other elements.
    """
    order = list(in_order(kernel.body, ()))
    reads: dict[str, list[tuple[int, Expr]]] = {}
    writes: dict[str, list[tuple[int, Store, tuple[Axis, ...]]]] = {}
    elsewhere: set[str] = set()
    for position, (stmt, axes) in enumerate(order):
        for e in scalar.walk(expressions(stmt)):
            if e.fn == "load":
                reads.setdefault(e.name, []).append((position, e.args[0]))
        if isinstance(stmt, Mma):
            elsewhere |= {stmt.a, stmt.b}
        if isinstance(stmt, Store):
            writes.setdefault(stmt.buffer, []).append((position, stmt, axes))

    def may_take(out: Buffer, source: Buffer) -> bool:
        if source.dtype.itemsize != out.dtype.itemsize or len(writes[out.name]) != 1:
            return False
        if source.name in elsewhere:
            return False
        position, store, axes = writes[out.name][0]
        moving = scalar.variables(store.index)
        return all(a.var in moving or a.extent is scalar.ONE for a in axes) and all(
            at <= position and index is store.index for at, index in reads[source.name]
        )

    return tuple(tuple(i for i, b in used if may_take(out, b)) for out in outputs)


def in_order(
    body: Sequence[Stmt], axes: tuple[Axis, ...]
) -> Iterator[tuple[Stmt, tuple[Axis, ...]]]:
    """Every statement as it is run, with the loops around it."""
    for stmt in body:
        match stmt:
            case Loop(axis, inner):
                yield from in_order(inner, (*axes, axis))
            case Fold(folded, _, lets, prefix, _):
                yield from in_order(lets, (*axes, *folded))
                yield stmt, axes
                yield from in_order(prefix, (*axes, *folded))
            case _:
                yield stmt, axes
