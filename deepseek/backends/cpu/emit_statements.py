"""Statements: loops, lets and stores, and how wide a vector loop is.

A vector loop runs over whole groups of registers, then over single ones with the lanes beyond the
extent masked off. Stores wait until the loads around them are done, because an output may lie on an
input element by element.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from deepseek.backends.cpu.emit_builder import Vector
from deepseek.backends.cpu.emit_fold import (
    Folds,
    constant_extent,
    constant_vector,
    narrowed,
)
from deepseek.backends.cpu.emit_types import Value
from deepseek.backends.cpu.target import Target
from deepseek.errors import CompileError
from deepseek.ir.dtype import int64
from deepseek.ir.scalar import TRUE, Expr, bounds, coefficient, free_of, terms, walk
from deepseek.kernel.ir import (
    UNROLL,
    VECTOR,
    Barrier,
    Fold,
    Let,
    Loop,
    Mma,
    Prefetch,
    Stmt,
    Store,
    expressions,
    statements,
)
from deepseek.kernel.rewrite import substitute_body


class Statements(Folds):
    """Bodies."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.waiting: list[tuple[str, Callable[[], None]]] = []

    def body(self, stmts: Iterable[Stmt]) -> None:
        for stmt in stmts:
            match stmt:
                case Let():
                    self.let(stmt)
                case Store():
                    self.store_statement(stmt)
                case Fold():
                    self.fold(stmt)
                case Loop():
                    self._loop(stmt)
                case Mma():
                    self.flush()
                    self.mma(stmt)
                case Prefetch():
                    self.prefetch(self.place(stmt.buffer, stmt.index), stmt.buffer)
                case Barrier():
                    self.flush()
        self.flush()

    def mma(self, stmt: Mma) -> None:
        raise NotImplementedError

    def whole_at_once(self, stmt: Loop, lanes: int) -> bool:
        raise NotImplementedError

    # ------------------------------------------------------------------------------------- stores

    def store_statement(self, stmt: Store) -> None:
        place = self.place(stmt.buffer, stmt.index)
        value = self.value(stmt.value)
        guard = None if stmt.guard is TRUE else self.value(stmt.guard)
        self.waiting.append(
            (stmt.buffer, lambda: self.store(stmt.buffer, place, value, guard, stmt.atomic))
        )
        self.forget_reads(frozenset((stmt.buffer,)))

    def load(self, e: Expr) -> Value:
        if self.waiting and any(buffer == e.attr for buffer, _ in self.waiting):
            self.flush()
        return super().load(e)

    def flush(self) -> None:
        """Do the stores that wait."""
        waiting, self.waiting = self.waiting, []
        for _, store in waiting:
            store()

    # -------------------------------------------------------------------------------------- loops

    def _loop(self, stmt: Loop) -> None:
        axis = stmt.axis
        self.flush()
        if axis.kind == VECTOR:
            self._vector_loop(stmt)
        elif axis.kind == UNROLL:
            self.unrolled_loop(stmt)
        else:

            def inside(index: str, _: list[str]) -> list[str]:
                self.bind(axis.var, Value((index,), 0, self.level))
                self.body(stmt.body)
                self.leave_loop(stmt.body)
                return []

            self.enter_loop(stmt.body)
            self.axis_loop(axis, [], [], inside, stored(stmt.body))

    def unrolled_loop(self, stmt: Loop) -> None:
        for i in range(stmt.axis.extent.value):
            with self.inline_scope():
                self.body(substitute_body(stmt.body, stmt.axis.var, i))

    def _vector_loop(self, stmt: Loop) -> None:
        if self.vector is not None:
            raise CompileError(f"vector loop over {stmt.axis.var.name!r} inside a vector loop")
        axis, extent = stmt.axis, stmt.axis.extent
        lanes, copies = self._shape(stmt)
        stores = stored(stmt.body)
        certain = (bounds(extent)[0] or 0) > 0

        def run(vector: Vector) -> None:
            with self.vector_scope(vector):
                self.body(stmt.body)

        def whole(index: str, _: list[str]) -> list[str]:
            run(Vector(lanes, copies, axis.var, index, self.level))
            self.leave_loop(stmt.body)
            return []

        def masked(index: str, _: list[str]) -> list[str]:
            run(self._masked(axis.var, index, n, lanes))
            self.leave_loop(stmt.body)
            return []

        total = lanes * copies
        number = constant_extent(extent)
        if number is None:
            n = self.value(extent).ops[0]
            end = self.ins(f"and i64 {n}, {-total}", self.level)
            self.enter_loop(stmt.body)
            self.loop("0", end, total, [], [], whole, nonempty=False, certain=certain,
                      stores=stores)  # fmt: skip
            if not all(c % total == 0 for c in terms(extent).values()):
                self.loop(end, n, lanes, [], [], masked, nonempty=False, certain=certain,
                          stores=stores)  # fmt: skip
        else:
            full, rest = divmod(number, total)
            if full > 1:
                self.enter_loop(stmt.body)
                self.loop("0", str(full * total), total, [], [], whole, nonempty=True,
                          stores=stores)  # fmt: skip
            for start, count in ((0, total * (full == 1)), (full * total, rest)):
                if count:
                    with self.inline_scope():
                        self.scopes[-1].stores = stores
                        run(constant_vector(axis.var, start, count, lanes))

    def _shape(self, stmt: Loop) -> tuple[int, int]:
        """Lanes and copies of a vector loop: small bodies get several independent chains."""
        nodes = _values(stmt.body)
        lanes = min(
            (self.target.lanes(e.dtype) for e in nodes if e.dtype.is_float),
            default=self.target.width,
        )
        lanes = narrowed(lanes, stmt.axis.extent)
        if self.whole_at_once(stmt, lanes):
            return lanes, -(-stmt.axis.extent.value // lanes)
        cost = self.cost_of(stmt, stmt.body) + access_cost(stmt.body, stmt.axis.var)
        # A fold's carries are chains, which take turns; other bodies overlap by themselves.
        folds = any(isinstance(inner, Fold) for inner in stmt.body)
        number = constant_extent(stmt.axis.extent)
        # Heavy bodies are written out twice only where no rest needs a third text.
        once = number is not None and number % (2 * lanes) == 0
        copies = 4 if cost <= 12 and folds else 2 if cost <= 20 or once else 1
        most = bounds(stmt.axis.extent)[1]
        while most is not None and copies > 1 and lanes * (copies // 2) >= most:
            copies //= 2
        return lanes, copies


def access_cost(body: tuple[Stmt, ...], var: Expr) -> int:
    """What lanes cost that are not neighbours in memory, and quotients of indices."""
    found = 0
    indices = [stmt.index for stmt in statements(body) if isinstance(stmt, Store)]
    for e in walk([e for stmt in statements(body) for e in expressions(stmt)]):
        if e.fn == "load":
            indices.append(e.args[0])
        elif e.fn in ("floordiv", "mod") and e.dtype is int64 and not free_of(e, var):
            found += 5
    for index in dict.fromkeys(indices):
        stride = coefficient(index, var)
        if stride is None or stride.fn != "const" or abs(stride.attr) > 1:
            found += 8
    return found


def stored(body: Iterable[Stmt]) -> frozenset[str]:
    """The buffers that statements write."""
    found = set()
    for stmt in statements(tuple(body)):
        if isinstance(stmt, Store):
            found.add(stmt.buffer)
        elif isinstance(stmt, Mma):
            found.add(stmt.acc)
    return frozenset(found)


def _values(body: tuple[Stmt, ...]) -> list[Expr]:
    """The distinct expressions of a body that are data rather than indices."""
    roots = [e for stmt in statements(body) for e in expressions(stmt)]
    return [e for e in walk(roots) if e.dtype is not int64 and e.fn != "const"]
