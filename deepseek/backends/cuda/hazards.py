"""Where the threads of a team must wait for each other.

In flow statements in the order they are run; out flows, before each, whether a barrier must come
first: where it reads what another thread may have written since the last one, or writes what
another may still read. Buffers that share memory count as one; scratch of which each thread sees
its own elements only does not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from deepseek.ir.scalar import Expr, walk
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
from deepseek.kernel.lower import in_place


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


def memory_of(kernel: Kernel) -> dict[str, str]:
    """For each buffer the memory that it lies in, by a name; none for what threads keep apart."""
    apart = _kept_apart(kernel)
    memory = {b.name: b.name for b in kernel.buffers if b.name not in apart}
    for taken, taker in shared_memory(kernel):
        first, second = memory[taken], memory[taker]
        memory = {name: second if at == first else at for name, at in memory.items()}
    return memory


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


def _kept_apart(kernel: Kernel) -> set[str]:
    """Scratch that is only accessed at the very place of the vector loop around."""
    scratch = {b.name for b in kernel.buffers if b.space != GLOBAL}
    return scratch - {name for name, own in _places(kernel.body, None) if not own}


def _places(body: Iterable[Stmt], lane: Expr | None) -> Iterator[tuple[str, bool]]:
    """Each access: the buffer, and whether it is at the lane's own place."""
    for stmt in body:
        for e in walk(expressions(stmt)):
            if e.fn == "load":
                yield e.name, lane is not None and e.args[0] is lane
        match stmt:
            case Store():
                yield stmt.buffer, lane is not None and stmt.index is lane
            case Mma():
                yield from ((name, False) for name in (stmt.acc, stmt.a, stmt.b))
            case Loop(axis, inner):
                yield from _places(inner, axis.var if axis.kind == VECTOR else lane)
            case Fold(axes, _, lets, prefix, _):
                own = axes[-1].var if axes[-1].kind == VECTOR else lane
                for e in walk([c.step for c in stmt.carries]):
                    if e.fn == "load":
                        yield e.name, own is not None and e.args[0] is own
                yield from _places((*lets, *prefix), own)
            case _:
                pass
