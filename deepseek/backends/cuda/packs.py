"""Vector loops that read and write 16 bytes at once.

In flow loops over the threads of a team whose stores go to neighbouring elements; out flow a loop
over packs of neighbours, each of which one thread computes, and the plain loop for the rest. Packs
are taken where the first index is known to be a multiple of their length, and if at run time all
pointers are multiples of 16 bytes; otherwise the plain loop does all.
"""

from __future__ import annotations

from dataclasses import dataclass

from deepseek.backends.cuda.alone import Alone
from deepseek.backends.cuda.basics import THREAD
from deepseek.backends.cuda.c_types import c_type, counter_type
from deepseek.ir.scalar import (
    ONE,
    TRUE,
    ZERO,
    Expr,
    bounds,
    coefficient,
    const,
    floordiv,
    mul,
    substitute,
    terms,
)  # fmt: skip
from deepseek.ir.scalar import walk as nodes_of
from deepseek.kernel.ir import GLOBAL, Let, Loop, Stmt, Store, expressions

PACK_BYTES = 16
MOST_TEXT = 400  # nodes of an element, computed once for each element of a pack


@dataclass(frozen=True)
class Packing:
    """A loop in packs of `length` elements: the loads and stores that are packs."""

    length: int
    loads: tuple[Expr, ...]
    stores: tuple[Store, ...]


class Packs(Alone):
    """Vector loops of a team."""

    def vector_loop(self, loop: Loop) -> None:
        """Turns of a loop shared out among the threads of a team."""
        axis = loop.axis
        packing = self._packing(loop)
        start = THREAD
        if packing is not None:
            done = self._packs(loop, packing)
            start = f"{done} + {THREAD}"
        with self.loop(axis.var, axis.extent, start, self.team):
            self.run(loop.body)

    # ------------------------------------------------------------------------------------- choosing

    def _packing(self, loop: Loop) -> Packing | None:
        """How a loop is packed, None where it cannot or need not be."""
        var, body = loop.axis.var, loop.body
        stores = tuple(s for s in body if isinstance(s, Store))
        nodes = nodes_of([e for s in body for e in expressions(s)])
        written = {s.buffer for s in stores}
        loaded = [e for e in nodes if e.fn == "load"]
        touched = written | {e.name for e in loaded}
        plain = all(isinstance(s, Let | Store) for s in body) and all(
            s.guard is TRUE and s.atomic is None for s in stores
        )
        apart = len(written) == len(stores) and written.isdisjoint(e.name for e in loaded)
        near = all(self.buffers[name].space == GLOBAL for name in touched)
        if not (plain and apart and near) or len(nodes) > MOST_TEXT:
            return None
        loads = tuple(e for e in loaded if len(e.args) == 1 and coefficient(e.args[0], var) is ONE)
        widest = max((self.buffers[n].dtype.itemsize for n in written), default=PACK_BYTES)
        widest = max([widest, *(e.dtype.itemsize for e in loads)])
        length = PACK_BYTES // widest
        high = bounds(loop.axis.extent)[1]
        if length == 1 or (high is not None and high < length * self.team // 4):
            return None
        if not all(_is_whole(s.index, var, length) for s in stores):
            return None
        return Packing(length, tuple(e for e in loads if _is_whole(e.args[0], var, length)), stores)

    # -------------------------------------------------------------------------------------- writing

    def _packs(self, loop: Loop, packing: Packing) -> str:
        """The loop over packs; returns the name of how many elements it did."""
        axis, length = loop.axis, packing.length
        names = dict.fromkeys([e.name for e in packing.loads] + [s.buffer for s in packing.stores])
        whole = self.value(mul(floordiv(axis.extent, const(length)), const(length)))
        kind = counter_type(axis.extent)
        done, first = self.fresh("packed"), self.unused(f"{axis.var.name}_first")
        self.line(f"const {kind} {done} = are_aligned({', '.join(names)}) ? {whole} : 0;")
        head = f"for ({kind} {first} = {THREAD} * {length}; {first} < {done}; "
        with self.braces(f"{head}{first} += {self.team * length})"):
            self.scopes[-1].names.add(first)
            held = self._read_packs(packing, axis.var, first)
            written = {}
            for store in packing.stores:
                pack = written[store.buffer] = self.fresh(f"{store.buffer}_pack")
                self.line(f"{self._pack_type(store.buffer, length)} {pack};")
            self.line("#pragma unroll")
            at = self.unused("at")
            with self.braces(f"for (int {at} = 0; {at} < {length}; ++{at})"):
                self.scopes[-1].names.add(at)
                for e, pack in held.items():
                    self.scopes[-1].known[e] = f"{pack}.at[{at}]"
                targets = {buffer: f"{pack}.at[{at}]" for buffer, pack in written.items()}
                self._packed_element(loop, f"{first} + {at}", targets)
            with self.forgetting():
                self.know_index(axis.var, first)
                for store in packing.stores:
                    place = self.value(store.index)
                    self.line(f"store_pack(&{store.buffer}[{place}], {written[store.buffer]});")
        return done

    def _read_packs(self, packing: Packing, var: Expr, first: str) -> dict[Expr, str]:
        held = {}
        with self.forgetting():
            self.know_index(var, first)
            for e in packing.loads:
                place = self.value(e.args[0])
                held[e] = self.fresh(f"{e.name}_pack")
                read = f"load_pack<{packing.length}>(&{e.name}[{place}])"
                self.line(f"const auto {held[e]} = {read};")
        return held

    def _pack_type(self, buffer: str, length: int) -> str:
        return f"Pack<{c_type(self.buffers[buffer].dtype)}, {length}>"

    def _packed_element(self, loop: Loop, place: str, targets: dict[str, str]) -> None:
        """One element of a pack; its place has a name only where it is asked for."""
        var = loop.axis.var
        known = self.scopes[-1].known
        roots = [e for s in loop.body for e in _values(s)]
        if any(var in _variables(e, known) for e in roots):
            name = self.bind_index(var, var.name)
            self.line(f"const {counter_type(loop.axis.extent)} {name} = {place};")
        for stmt in loop.body:
            if isinstance(stmt, Let):
                self.let(stmt)
            elif isinstance(stmt, Store):
                self.line(f"{targets[stmt.buffer]} = {self.value(stmt.value)};")


def _is_whole(index: Expr, var: Expr, length: int) -> bool:
    """Whether an index steps through packs of so many elements as the variable does."""
    if coefficient(index, var) is not ONE:
        return False
    start = substitute(index, {var: ZERO})
    return all(c % length == 0 for c in terms(start).values())


def _values(stmt: Stmt) -> tuple[Expr, ...]:
    return (stmt.value,) if isinstance(stmt, Let | Store) else ()


def _variables(e: Expr, known: dict[Expr, str]) -> set[Expr]:
    """The variables under an expression that lie outside what has a name."""
    found: set[Expr] = set()
    seen: set[Expr] = set()
    stack = [e]
    while stack:
        node = stack.pop()
        if node in seen or node in known:
            continue
        seen.add(node)
        if node.fn == "var":
            found.add(node)
        stack += node.args
    return found
