"""Register buffers: kept in registers wherever an access has a constant place.

Each register buffer has memory of its own and a write-back cache in front of it: pieces of it that
are known as operands. In straight-line code (unrolled loops included) stores and loads meet in the
cache and memory is never touched; around a loop that uses the buffer the cache is written back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from deepseek.backends.cpu.emit_statements import Statements
from deepseek.backends.cpu.emit_types import Value, memory_type, register_type, vector_type
from deepseek.ir.dtype import bool_
from deepseek.ir.scalar import TRUE, Expr, terms, walk
from deepseek.kernel.ir import Loop, Mma, Stmt, Store, expressions, statements

LIGHT = 2  # instructions of a body that may be written out for as many registers as there are


@dataclass(slots=True)
class Piece:
    """Elements known as an operand: a vector, or a scalar with lanes 0. Dirty: memory is older."""

    op: str
    lanes: int
    level: int
    dirty: bool


@dataclass(slots=True)
class Cache:
    """What is known of one buffer, by first element. `exposed`: memory was read in this loop."""

    pieces: dict[int, Piece] = field(default_factory=dict)
    exposed: bool = False

    def overlapping(self, start: int, length: int) -> list[int]:
        return [
            at
            for at, piece in self.pieces.items()
            if at < start + length and start < at + max(1, piece.lanes)
        ]


class Registers(Statements):
    """Loads and stores of register buffers."""

    caches: dict[str, Cache]
    uses: dict[str, int]

    def prepare_registers(self, names: Iterable[str], body: tuple[Stmt, ...]) -> None:
        self.caches = {name: Cache() for name in names}
        self._loads: dict[int, tuple[Stmt, set[str]]] = {}  # by statement, which is kept
        self.uses = self._count(body)
        self.unrolling = 0

    def _count(self, body: Iterable[Stmt]) -> dict[str, int]:
        """How many statements access each register buffer."""
        counts: dict[str, int] = {}
        if not self.caches:
            return counts
        for stmt in statements(tuple(body)):
            names = self._loaded(stmt)
            if isinstance(stmt, Store):
                names.add(stmt.buffer)
            elif isinstance(stmt, Mma):
                names.add(stmt.acc)
            for name in names & self.caches.keys():
                counts[name] = counts.get(name, 0) + 1
        return counts

    def _loaded(self, stmt: Stmt) -> set[str]:
        found = self._loads.get(id(stmt))
        if found is None:
            names = {e.attr for e in walk(expressions(stmt)) if e.fn == "load"}
            found = self._loads[id(stmt)] = stmt, names
        return set(found[1])

    # --------------------------------------------------------------------------------- loop edges

    def enter_loop(self, body: Iterable[Stmt]) -> None:
        for name in self._count(body):
            self.write_back(name)
            self.caches[name] = Cache()

    def leave_loop(self, body: Iterable[Stmt]) -> None:
        """At the end of a loop's body: write back what a later read may want."""
        for name, count in self._count(body).items():
            cache = self.caches[name]
            private = count == self.uses[name] and not cache.exposed and not self.unrolling
            if not private:
                self.write_back(name)
            self.caches[name] = Cache(exposed=cache.exposed)

    def unrolled_loop(self, stmt: Loop) -> None:
        self.unrolling += 1
        super().unrolled_loop(stmt)
        self.unrolling -= 1

    def whole_at_once(self, stmt: Loop, lanes: int) -> bool:
        """A short vector loop over a register buffer is made straight-line code, or a light one."""
        extent = stmt.axis.extent
        light = self.cost_of(stmt, stmt.body) <= LIGHT
        most = self.target.registers if light else 8
        if extent.fn != "const" or not 0 < extent.attr <= most * lanes:
            return False
        return bool(self._count(stmt.body))

    def write_back(self, name: str, pieces: Iterable[int] | None = None) -> None:
        """Store pieces that memory does not have."""
        cache = self.caches[name]
        for start in sorted(cache.pieces if pieces is None else pieces):
            piece = cache.pieces[start]
            if piece.dirty:
                dtype = self.buffers[name].dtype
                whole = vector_type(memory_type(dtype), piece.lanes)
                op = piece.op
                if dtype is bool_:
                    held = vector_type("i1", piece.lanes)
                    op = self.ins(f"zext {held} {op} to {whole}", self.level)
                at = self.step(name, self.pointers[name], str(start), 0)
                self.do(f"store {whole} {op}, ptr {at}, align {dtype.itemsize}")
                piece.dirty = False

    # ----------------------------------------------------------------------------------- accesses

    def constant_place(self, index: Expr) -> tuple[int, bool] | None:
        """(first element, whether it runs with the lanes), where both are constants."""
        sums = dict(terms(index))
        start = sums.pop((), 0)
        if not sums:
            return start, False
        vector = self.vector
        if vector is None or vector.var is None or not vector.base.isdigit():
            return None
        if sums != {(vector.var,): 1}:
            return None
        return start + int(vector.base), True

    def load(self, e: Expr) -> Value:
        if e.attr not in self.caches:
            return super().load(e)
        found = self._cached(e) if len(e.args) == 1 else None
        if found is None:
            self.write_back(e.attr)
            self.caches[e.attr].exposed = True
            return super().load(e)
        return found

    def _cached(self, e: Expr) -> Value | None:
        place = self.constant_place(e.args[0])
        if place is None:
            return None
        start, running = place
        vector = self.vector if running else None
        lanes = vector.lanes if vector else 0
        pieces = self.caches[e.attr].pieces
        found: list[Piece] = []
        for copy in range(vector.copies if vector else 1):
            piece = pieces.get(start + copy * lanes)
            if piece is None or piece.lanes != lanes:
                return None
            found.append(piece)
        level = max(p.level for p in found)
        return Value(tuple(p.op for p in found), lanes, level, frozenset((e.attr,)))

    def store_statement(self, stmt: Store) -> None:
        if stmt.buffer not in self.caches:
            super().store_statement(stmt)
            return
        place = self.constant_place(stmt.index)
        vector = self.vector
        masked = vector is not None and any(m is not None for m in vector.masks)
        value = self.value(stmt.value)
        simple = stmt.guard is TRUE and stmt.atomic is None and not masked
        if place is None or not simple or (vector is not None and not place[1]):
            self.write_back(stmt.buffer)
            self.caches[stmt.buffer].pieces = {}
            self.caches[stmt.buffer].exposed = True
            super().store_statement(stmt)
            self.flush()
            return
        self.forget_reads(frozenset((stmt.buffer,)))
        lanes = vector.lanes if vector is not None else 0
        if lanes:
            value = self.widen(value, register_type(stmt.value.dtype), lanes)
        for copy in range(vector.copies if vector is not None else 1):
            self.put(stmt.buffer, place[0] + copy * lanes, lanes, value.op(copy), value.level)

    def put(self, name: str, start: int, lanes: int, op: str, level: int) -> None:
        """Elements from `start` on are now this operand."""
        cache = self.caches[name]
        for other in cache.overlapping(start, max(1, lanes)):
            if other != start or cache.pieces[other].lanes != lanes:
                self.write_back(name, [other])
            del cache.pieces[other]
        cache.pieces[start] = Piece(op, lanes, level, True)

    def get(self, name: str, start: int, lanes: int) -> str:
        """The elements from `start` on, from memory where they are not known."""
        cache = self.caches[name]
        piece = cache.pieces.get(start)
        if piece is not None and piece.lanes == lanes:
            return piece.op
        self.write_back(name, cache.overlapping(start, max(1, lanes)))
        cache.exposed = True
        dtype = self.buffers[name].dtype
        at = self.step(name, self.pointers[name], str(start), 0)
        whole = vector_type(memory_type(dtype), lanes)
        return self.ins(f"load {whole}, ptr {at}, align {dtype.itemsize}", self.level)
