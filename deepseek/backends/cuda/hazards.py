"""Where the threads of a team must wait for each other.

In flow statements in the order they are run; out flows, before each, whether a barrier must come
first: where it reads what another thread may have written since the last one, or writes what
another may still read. Buffers that share memory count as one; scratch of which each thread sees
its own elements only does not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from deepseek.ir.scalar import ONE, Expr, walk
from deepseek.kernel.ir import (
    GLOBAL,
    VECTOR,
    Fold,
    Kernel,
    Loop,
    Mma,
    Stmt,
    Store,
    expressions,
    statements,
)
from deepseek.kernel.lower import in_order, in_place


@dataclass(frozen=True)
class Access:
    """The memory that statements read and write."""

    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()

    def __or__(self, other: Access) -> Access:
        return Access(self.reads | other.reads, self.writes | other.writes)

    def conflicts(self, later: Access) -> bool:
        """Whether something has to be finished before the later access."""
        return not (
            self.writes.isdisjoint(later.reads | later.writes)
            and self.reads.isdisjoint(later.writes)
        )


@dataclass
class Hazards:
    """What was accessed since the last barrier. `memory` names what buffers lie in; those that it
    lacks are of no concern."""

    memory: Mapping[str, str]
    pending: Access = field(default_factory=Access)

    def access(self, body: Iterable[Stmt], values: Iterable[Expr] = ()) -> Access:
        """What statements and values access."""
        reads: set[str] = set()
        writes: set[str] = set()
        roots = list(values)
        for stmt in statements(tuple(body)):
            roots += expressions(stmt)
            if isinstance(stmt, Store):
                writes.add(stmt.buffer)
                if stmt.atomic is not None:
                    reads.add(stmt.buffer)
            elif isinstance(stmt, Mma):
                reads |= {stmt.acc, stmt.a, stmt.b}
                writes.add(stmt.acc)
        reads |= {e.name for e in walk(roots) if e.fn == "load"}
        return Access(self._places(reads), self._places(writes))

    def _places(self, names: Iterable[str]) -> frozenset[str]:
        return frozenset(self.memory[n] for n in names if n in self.memory)

    def must_wait(self, access: Access) -> bool:
        """Whether a barrier comes first; the access is then pending."""
        wait = self.pending.conflicts(access)
        self.pending = access if wait else self.pending | access
        return wait


def memory_of(kernel: Kernel, team: int) -> dict[str, str]:
    """For each buffer the memory that it lies in, by a name; none for what needs no order."""
    apart = _kept_apart(kernel, team)
    memory = {b.name: b.name for b in kernel.buffers if b.name not in apart}
    once = _written_once(kernel)
    for taken, taker in shared_memory(kernel):
        if taker in once and _read_beside(kernel, taken, taker):
            continue
        once.discard(taker)
        first, second = memory[taken], memory[taker]
        memory = {name: second if at == first else at for name, at in memory.items()}
    return {name: at for name, at in memory.items() if name not in once}


def _written_once(kernel: Kernel) -> set[str]:
    """Outputs that nothing reads and of which each element is stored once: whatever runs around
    the only store moves on to other elements."""
    order = list(in_order(kernel.body, ()))
    read = {e.name for e in walk([e for s, _ in order for e in expressions(s)]) if e.fn == "load"}
    stores: dict[str, list[bool]] = {}
    for stmt, axes in order:
        if isinstance(stmt, Store):
            moves = all(a.var in stmt.index.free or a.extent is ONE for a in axes)
            stores.setdefault(stmt.buffer, []).append(moves and stmt.atomic is None)
    outputs = {b.name for b in kernel.globals()} - read
    return {name for name, moves in stores.items() if moves == [True] and name in outputs}


def _read_beside(kernel: Kernel, taken: str, taker: str) -> bool:
    """Whether all reads of one buffer stand in the vector loop that stores to the other."""
    everywhere = _loads(kernel.body, taken)
    loops = [s for s in statements(kernel.body) if isinstance(s, Loop) and s.axis.kind == VECTOR]
    around = [
        loop
        for loop in loops
        if any(isinstance(s, Store) and s.buffer == taker for s in statements(loop.body))
    ]
    return len(around) == 1 and _loads(around[0].body, taken) == everywhere


def _loads(body: Iterable[Stmt], name: str) -> int:
    """How many statements read a buffer."""
    found = (walk(expressions(s)) for s in statements(tuple(body)))
    return sum(any(e.fn == "load" and e.name == name for e in nodes) for nodes in found)


def shared_memory(kernel: Kernel) -> list[tuple[str, str]]:
    """The inputs whose memory an output may take over, with that output."""
    stored = {s.buffer for s in statements(kernel.body) if isinstance(s, Store)}
    nodes = walk([e for s in statements(kernel.body) for e in expressions(s)])
    read = {e.name for e in nodes if e.fn == "load"}
    inputs = [(i, b) for i, b in enumerate(kernel.globals()) if b.name in read and not b.written]
    outputs = [b for b in kernel.globals() if b.written and b.name in stored]
    names = {i: b.name for i, b in inputs}
    return [
        (names[i], output.name)
        for output, taken in zip(outputs, in_place(kernel, inputs, outputs), strict=True)
        for i in taken
    ]


def _kept_apart(kernel: Kernel, team: int) -> set[str]:
    """Scratch that is only accessed at the very place of the vector loop around, which is the same
    thread's in all loops and in folds of as many lanes as threads."""
    scratch = {b.name for b in kernel.buffers if b.space != GLOBAL}
    return scratch - {name for name, own in _places(kernel.body, None, team) if not own}


def _places(body: Iterable[Stmt], lane: Expr | None, team: int) -> Iterator[tuple[str, bool]]:
    """Each access: the buffer, and whether it is at the lane's own place."""
    for stmt in body:
        match stmt:
            case Fold(axes, carries, lets, prefix, lanes):
                yield from _reads([a.extent for a in axes], lane)
                yield from _reads([e for c in carries for e in (c.init, c.merge)], lane)
                own = lane
                if axes[-1].kind == VECTOR:
                    own = axes[-1].var if lanes == team else None
                yield from _reads([c.step for c in carries], own)
                yield from _places((*lets, *prefix), own, team)
                continue
            case Store():
                yield stmt.buffer, lane is not None and stmt.index is lane
            case Mma():
                yield from ((name, False) for name in (stmt.acc, stmt.a, stmt.b))
            case Loop(axis, inner):
                yield from _places(inner, axis.var if axis.kind == VECTOR else lane, team)
        yield from _reads(expressions(stmt), lane)


def _reads(values: Iterable[Expr], lane: Expr | None) -> Iterator[tuple[str, bool]]:
    for e in walk(values):
        if e.fn == "load":
            yield e.name, lane is not None and e.args[0] is lane
