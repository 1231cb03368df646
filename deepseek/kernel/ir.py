"""Kernels: loops, loads, stores and folds over scalars. The whole grammar is on this page.

    Kernel(name, buffers, sizes, body)
    Stmt = Let(var, value)                        name a scalar
         | Store(buffer, index, value, guard)     one element; nothing where the guard is false
         | Loop(axis, body)                       grid, serial, vector or unroll
         | Fold(axes, carries, body, prefix)      several carried values over one or more axes
         | Mma(acc, a, a_at, b, b_at, depth, …)   acc[i, j] += sum_k a[i, k] * b[k, j]
         | Prefetch(buffer, index)                     it will be read soon
         | Barrier()
    Expr = deepseek.ir.scalar.Expr                pure scalars, `load` reads a buffer

Every buffer is one-dimensional: an index is an int64 expression in elements. `sizes` are run-time
arguments. Nothing here knows a tensor or an op; `interpret.py` is the meaning of all of it.

Types: every scalar has the dtype its Expr says. Loads and stores convert nothing (the value stored
has the buffer's dtype), so widening of 16-bit floats is written out as casts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from deepseek.ir.dtype import DType
from deepseek.ir.scalar import FALSE, TRUE, Expr, walk

GLOBAL = "global"  # a kernel argument
SHARED = "shared"  # scratch of one grid task (one thread's stack or cache on a CPU)
REGISTER = "register"  # scratch of constant size, kept in registers where the emitter can

# grid: independent tasks, in any order, on any thread; only the outermost loops of a kernel.
# serial: in order. vector: independent, consecutive iterations are lanes. unroll: small, constant.
GRID, SERIAL, VECTOR, UNROLL = "grid", "serial", "vector", "unroll"


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory a kernel can name. `size` in elements; `written` for global buffers it stores to.

    `streamed`, over the sizes, is a hint: what is stored is not read again before it would have
    left the caches anyway.
    """

    name: str
    dtype: DType
    space: str = GLOBAL
    size: Expr | None = None
    written: bool = False
    streamed: Expr = FALSE


@dataclass(frozen=True, slots=True)
class Axis:
    """A loop variable: `var` runs over 0 <= var < extent."""

    var: Expr
    extent: Expr
    kind: str = SERIAL


@dataclass(frozen=True, slots=True)
class Let:
    """`var = value`, visible in the statements that follow in the same body and inside them."""

    var: Expr
    value: Expr


@dataclass(frozen=True, slots=True)
class Store:
    """`buffer[index] = value` where the guard holds; `atomic="add"` adds instead."""

    buffer: str
    index: Expr
    value: Expr
    guard: Expr = TRUE
    atomic: str | None = None


@dataclass(frozen=True, slots=True)
class Prefetch:
    """A hint that changes no value: buffer[index] will be read soon, so memory may bring it now.

    Nothing is read: the index may lie beyond the buffer.
    """

    buffer: str
    index: Expr


@dataclass(frozen=True, slots=True)
class Loop:
    axis: Axis
    body: tuple[Stmt, ...]


@dataclass(frozen=True, slots=True)
class Carry:
    """One carried value of a Fold.

    `var` is the value inside the body and, after the Fold, the result. `init` is the neutral
    element, `step` the next value (over the body's Lets, the axes and all carries). `other` is a
    second variable: `merge` combines `var` (earlier part) and `other` (later part) of all carries
    of two partial folds.
    """

    var: Expr
    init: Expr
    step: Expr
    other: Expr
    merge: Expr


@dataclass(frozen=True, slots=True)
class Fold:
    """Run over the axes (last innermost), carrying values; the last axis may be `vector`.

    A vector axis is folded in a fixed number of virtual lanes (`lanes`, a power of two that does
    not depend on the target), element e going to lane e % lanes in increasing order; the lanes are
    then merged pairwise: lane i with lane i + lanes/2, halving. `body` is run per element before
    `step`; `prefix` holds Stores evaluated per element after it, seeing the new carries (serial
    axes only).
    """

    axes: tuple[Axis, ...]
    carries: tuple[Carry, ...]
    body: tuple[Let | Prefetch, ...] = ()
    prefix: tuple[Store, ...] = ()
    lanes: int = 1


@dataclass(frozen=True, slots=True)
class Mma:
    """acc[i*width + j] += sum over k < depth of a[a_at + i*row + k*step] * b[b_at + k*pitch + j].

    For i < m and j < n. `acc` is a REGISTER buffer; a and b are panels, or operands where they lie,
    in their own dtype, products are made and summed in acc's dtype, k in increasing order, each
    step one fused multiply-add. Panels that are packed k by k have row 1, and step m, pitch n and
    width n, which is what zeros stand for.
    """

    acc: str
    a: str
    a_at: Expr
    b: str
    b_at: Expr
    depth: Expr
    m: int
    n: int
    row: int = 1
    step: int = 0
    pitch: int = 0
    width: int = 0

    def __post_init__(self) -> None:
        for name, usual in (("step", self.m), ("pitch", self.n), ("width", self.n)):
            object.__setattr__(self, name, getattr(self, name) or usual)


@dataclass(frozen=True, slots=True)
class Barrier:
    """All lanes of a grid task arrive before any goes on (no effect where a task is one thread)."""


Stmt = Let | Store | Loop | Fold | Mma | Prefetch | Barrier


@dataclass(frozen=True, slots=True)
class Kernel:
    """A function of its global buffers (in order) and sizes (int64, in order).

    `buffers` lists the globals first, then scratch. The grid is the product of the extents of the
    outermost grid loops (1 if there are none); a body has either nested grid loops around
    everything or none. `lines` are the user's lines it computes, for comments and reports.
    """

    name: str
    buffers: tuple[Buffer, ...]
    sizes: tuple[Expr, ...]
    body: tuple[Stmt, ...]
    lines: tuple[str, ...] = ()
    _hash: int = field(default=0, init=False, repr=False, compare=False)

    def __hash__(self) -> int:
        if not self._hash:  # kernels are looked up again and again, and their bodies are large
            parts = self.name, self.buffers, self.sizes, self.body, self.lines
            object.__setattr__(self, "_hash", hash(parts))
        return self._hash

    def globals(self) -> tuple[Buffer, ...]:
        return tuple(b for b in self.buffers if b.space == GLOBAL)

    def buffer(self, name: str) -> Buffer:
        return next(b for b in self.buffers if b.name == name)

    def grid(self) -> tuple[Axis, ...]:
        """The nested grid axes, outermost first."""
        axes: list[Axis] = []
        body = self.body
        while len(body) == 1 and isinstance(body[0], Loop) and body[0].axis.kind == GRID:
            axes.append(body[0].axis)
            body = body[0].body
        return tuple(axes)


def statements(body: tuple[Stmt, ...]) -> Iterator[Stmt]:
    """Every statement, outer before inner."""
    for stmt in body:
        yield stmt
        if isinstance(stmt, Loop):
            yield from statements(stmt.body)
        elif isinstance(stmt, Fold):
            yield from stmt.body
            yield from stmt.prefix


def buffers_read(body: tuple[Stmt, ...]) -> set[str]:
    """The buffers that statements read, accumulators of an Mma left out."""
    found = set()
    for stmt in statements(body):
        found |= {e.name for e in walk(expressions(stmt)) if e.fn == "load"}
        if isinstance(stmt, Mma):
            found |= {stmt.a, stmt.b}
    return found


def expressions(stmt: Stmt) -> tuple[Expr, ...]:
    """The expressions a statement itself holds."""
    match stmt:
        case Let(_, value):
            return (value,)
        case Store(_, index, value, guard, _):
            return index, value, guard
        case Loop(axis, _):
            return (axis.extent,)
        case Fold(axes, carries, _, _, _):
            parts = [a.extent for a in axes]
            for c in carries:
                parts += [c.init, c.step, c.merge]
            return tuple(parts)
        case Mma(_, _, a_at, _, b_at, depth):
            return a_at, b_at, depth
        case Prefetch(_, index):
            return (index,)
        case _:
            return ()
