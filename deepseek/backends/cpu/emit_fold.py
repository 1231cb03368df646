"""Folds: carried values in registers through all loops, then the merge tree of the lanes.

A vector axis has `lanes` virtual lanes, however wide the registers are: `lanes / W` registers side
by side. The last, incomplete row of lanes leaves absent elements' carries untouched. A serial fold
inside a vector loop carries whole vectors, one fold a lane.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from deepseek.backends.cpu.emit_builder import Vector
from deepseek.backends.cpu.emit_expr import Expressions
from deepseek.backends.cpu.emit_types import NOTHING, Value, iota, register_type, vector_type
from deepseek.backends.cpu.target import Target
from deepseek.errors import CompileError
from deepseek.ir.dtype import DType, int64
from deepseek.ir.scalar import Expr, bounds, terms, walk
from deepseek.kernel import polyfill
from deepseek.kernel.ir import VECTOR, Axis, Carry, Fold, Let, Stmt, Store, expressions, statements

LIGHT = 6  # instructions of a fold's step that is worth a loop without masks
UNROLLED = 8  # elements of a light fold in a vector loop that are written out

Carried = list[list[str]]  # for each carry, the operand of each copy


class Folds(Expressions):
    """Fold statements."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._costs: dict[int, tuple[Stmt, int]] = {}

    def store_statement(self, stmt: Store) -> None:
        raise NotImplementedError

    def body(self, stmts: Iterable[Stmt]) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        raise NotImplementedError

    def enter_loop(self, body: Iterable[Stmt]) -> None:
        """Before a loop that runs these statements."""
        raise NotImplementedError

    def leave_loop(self, body: Iterable[Stmt]) -> None:
        """At the end of such a loop's body."""
        raise NotImplementedError

    def bind(self, var: Expr, value: Value) -> None:
        """Define a variable until the current scope closes, and with it all that is made of it."""
        self.known.pop(var, None)
        self.remember(var, Value(value.ops, value.lanes, self.level, NOTHING))

    def let(self, stmt: Let) -> None:
        self.bind(stmt.var, self.value(stmt.value))

    def fold(self, stmt: Fold) -> None:
        self.flush()
        self.enter_loop((stmt,))
        if stmt.axes[-1].kind == VECTOR and stmt.lanes > 1:
            results, lanes = self._vector_fold(stmt), 0
        else:
            results, lanes = self._serial_fold(stmt)
        for carry, ops in zip(stmt.carries, results, strict=True):
            self.bind(carry.var, Value(tuple(ops), lanes, self.level))

    def cost_of(self, stmt: Stmt, body: tuple[Stmt, ...]) -> int:
        """Instructions of a statement's body, about; counted once."""
        found = self._costs.get(id(stmt))
        if found is None:
            found = self._costs[id(stmt)] = stmt, body_cost(body)
        return found[1]

    # --------------------------------------------------------------------------------- serial axes

    def _serial_fold(self, stmt: Fold) -> tuple[Carried, int]:
        vector = self.vector
        lanes = vector.lanes if vector else 0
        copies = vector.copies if vector else 1
        first = [self._spread(self.value(c.init), c.var.dtype, lanes, copies) for c in stmt.carries]
        stores = frozenset(s.buffer for s in stmt.prefix)
        light = vector is not None and not stores and self.cost_of(stmt, (stmt,)) <= LIGHT

        def element(carried: Carried) -> Carried:
            self._bind_carries(stmt.carries, carried, lanes)
            self.body(stmt.body)
            steps = self._steps(stmt.carries, lanes, copies)
            if stmt.prefix:
                self._prefix(stmt, steps, lanes)
            return steps

        turns = UNROLLED if light else 1
        results = self._axes(stmt.axes, stmt.carries, first, lanes, element, stores, turns)
        return results, lanes

    def _prefix(self, stmt: Fold, steps: Carried, lanes: int) -> None:
        """The stores that see the new carries: forget what was computed from the old ones."""
        olds = {c.var for c in stmt.carries}
        depends: dict[Expr, bool] = {}
        for key in [k for k in self.known if isinstance(k, Expr)]:
            if _depends(key, olds, depends):
                del self.known[key]
        self._bind_carries(stmt.carries, steps, lanes)
        for store in stmt.prefix:
            self.store_statement(store)
        self.flush()
        self.leave_loop(stmt.prefix)

    def _axes(
        self,
        axes: Sequence[Axis],
        carries: tuple[Carry, ...],
        first: Carried,
        lanes: int,
        element: Callable[[Carried], Carried],
        stores: frozenset[str],
        turns: int = 1,
    ) -> Carried:
        """Nested serial loops around `element`, carrying; the last, if so short, is written out."""
        if not axes:
            return element(first)
        axis = axes[0]
        types = _types(carries, first, lanes)
        shape = [len(ops) for ops in first]

        def inside(index: str, flat: list[str]) -> list[str]:
            self.bind(axis.var, Value((index,), 0, self.level))
            outer = _unflatten(flat, shape)
            inner = self._axes(axes[1:], carries, outer, lanes, element, stores, turns)
            return _flatten(inner)

        few = turns if len(axes) == 1 else 1
        flat = self.axis_loop(axis, types, _flatten(first), inside, stores, few)
        return _unflatten(flat, shape)

    def axis_loop(
        self,
        axis: Axis,
        types: list[str],
        first: list[str],
        body: Callable[[str, list[str]], list[str]],
        stores: frozenset[str],
        turns: int = 1,
    ) -> list[str]:
        """A serial loop over an axis, carrying values; so few turns are written out."""
        number = constant_extent(axis.extent)
        if number is not None and number <= turns:
            for turn in range(number):
                with self.inline_scope():
                    self.scopes[-1].stores = stores
                    first = body(str(turn), first)
            return first
        length = self.value(axis.extent)
        if length.lanes:
            raise CompileError(f"the extent of {axis.var} differs between lanes: {axis.extent}")
        extent = length.ops[0]
        nonempty = (bounds(axis.extent)[0] or 0) > 0
        return self.loop("0", extent, 1, types, first, body, nonempty=nonempty, stores=stores)

    # ------------------------------------------------------------------------------- a vector axis

    def _vector_fold(self, stmt: Fold) -> Carried:
        width = min([self.target.lanes(c.var.dtype) for c in stmt.carries if c.var.dtype.is_float]
                    or [self.target.width])  # fmt: skip
        lanes = narrowed(min(width, stmt.lanes), stmt.axes[-1].extent)
        copies = stmt.lanes // lanes
        first = [self._spread(self.value(c.init), c.var.dtype, lanes, copies) for c in stmt.carries]
        results = self._axes(
            stmt.axes[:-1],
            stmt.carries,
            first,
            lanes,
            lambda carried: self._row(stmt, carried, lanes, copies),
            NOTHING,
        )
        return self._merge(stmt.carries, results, lanes)

    def _row(self, stmt: Fold, carried: Carried, lanes: int, copies: int) -> Carried:
        """One run along the vector axis: whole rows of lanes, then what is left."""
        extent = stmt.axes[-1].extent
        total = lanes * copies
        types = _types(stmt.carries, carried, lanes)
        certain = (bounds(extent)[0] or 0) > 0

        def whole(index: str, flat: list[str]) -> list[str]:
            vector = Vector(lanes, copies, stmt.axes[-1].var, index, self.level)
            return _flatten(self._elements(stmt, _unflatten(flat, [copies] * len(carried)), vector))

        number = constant_extent(extent)
        if self._masks_row(stmt, number, total):
            n = self.value(extent).ops[0]

            def part(index: str, flat: list[str]) -> list[str]:
                vector = self._masked(stmt.axes[-1].var, index, n, lanes, copies)
                return _flatten(
                    self._elements(stmt, _unflatten(flat, [copies] * len(carried)), vector)
                )

            flat = self.loop("0", n, total, types, _flatten(carried), part, nonempty=certain)
            return _unflatten(flat, [copies] * len(carried))
        if number is not None:
            full, rest = divmod(number, total)
            if full == 1:
                with self.inline_scope():
                    flat = whole("0", _flatten(carried))
                carried = _unflatten(flat, [copies] * len(carried))
            elif full > 1:
                flat = self.loop(
                    "0", str(full * total), total, types, _flatten(carried), whole, nonempty=True
                )
                carried = _unflatten(flat, [copies] * len(carried))
            return (
                self._constant_rest(stmt, carried, full * total, rest, lanes) if rest else carried
            )

        n = self.value(extent).ops[0]
        end = self.ins(f"and i64 {n}, {-total}", self.level)
        flat = self.loop(
            "0", end, total, types, _flatten(carried), whole, nonempty=False, certain=certain
        )
        if all(c % total == 0 for c in terms(extent).values()):
            return _unflatten(flat, [copies] * len(carried))
        left = self.ins(f"icmp slt i64 {end}, {n}", self.level)
        carried = _unflatten(flat, [copies] * len(carried))

        def rest_of_row() -> list[str]:
            if copies == 1:
                vector = self._masked(stmt.axes[-1].var, end, n, lanes)
                return _flatten(self._elements(stmt, carried, vector))
            return _flatten(self._rest_in_memory(stmt, carried, end, n, lanes))

        flat = self.branch(left, types, flat, rest_of_row, certain)
        return _unflatten(flat, [copies] * len(carried))

    def _masks_row(self, stmt: Fold, number: int | None, total: int) -> bool:
        """Whether one masked loop does for all of a row: a long body is not written out twice."""
        if self.target.level != "v4" or (number is not None and number <= total):
            return False
        whole = number if number is not None else stmt.axes[-1].extent
        if isinstance(whole, int) and whole % total == 0:
            return False
        return self.cost_of(stmt, (stmt,)) > LIGHT

    def _masked(self, var: Expr, index: str, n: str, lanes: int, copies: int = 1) -> Vector:
        """The context of the last registers: lanes at or beyond n are off."""
        level = self.level
        left = self.ins(f"sub i64 {n}, {index}", level)
        left = self.ins(f"call i64 @llvm.smin.i64(i64 {left}, i64 {lanes * copies})", level)
        left = self.ins(f"trunc i64 {left} to i32", level)
        every = self.splat("i32", left, lanes, level)
        masks = tuple(
            self.ins(
                f"icmp slt {vector_type('i32', lanes)} {iota(lanes, 1, copy * lanes)}, {every}",
                level,
            )
            for copy in range(copies)
        )
        return Vector(lanes, copies, var, index, level, masks, level)

    def _constant_rest(self, stmt: Fold, carried: Carried, start: int, rest: int,
                       lanes: int) -> Carried:  # fmt: skip
        """The last, incomplete row of a constant extent: only the registers that have elements."""
        copies = -(-rest // lanes)
        vector = constant_vector(stmt.axes[-1].var, start, rest, lanes)
        with self.inline_scope():
            part = self._elements(stmt, [ops[:copies] for ops in carried], vector)
        return [p + ops[copies:] for p, ops in zip(part, carried, strict=True)]

    def _rest_in_memory(self, stmt: Fold, carried: Carried, start: str, n: str,
                        lanes: int) -> Carried:  # fmt: skip
        """The last row, register by register: their carries pass through memory."""
        types = [vector_type(register_type(c.var.dtype), lanes) for c in stmt.carries]
        slots = [
            self.alloca(f"[{len(ops)} x {t}], align 64")
            for t, ops in zip(types, carried, strict=True)
        ]
        for t, slot, ops in zip(types, slots, carried, strict=True):
            for copy, op in enumerate(ops):
                at = self.ins(f"getelementptr {t}, ptr {slot}, i64 {copy}", self.level)
                self.do(f"store {t} {op}, ptr {at}")

        def one(index: str, _: list[str]) -> list[str]:
            distance = self.ins(f"sub i64 {index}, {start}", self.level)
            number = self.ins(f"udiv i64 {distance}, {lanes}", self.level)
            places = [
                self.ins(f"getelementptr {t}, ptr {slot}, i64 {number}", self.level)
                for t, slot in zip(types, slots, strict=True)
            ]
            old = [
                [self.ins(f"load {t}, ptr {at}", self.level)]
                for t, at in zip(types, places, strict=True)
            ]
            vector = self._masked(stmt.axes[-1].var, index, n, lanes)
            new = self._elements(stmt, old, vector)
            for t, at, (op,) in zip(types, places, new, strict=True):
                self.do(f"store {t} {op}, ptr {at}")
            return []

        self.loop(start, n, lanes, [], [], one, nonempty=True)
        return [
            [
                self.ins(
                    f"load {t}, ptr "
                    + self.ins(f"getelementptr {t}, ptr {slot}, i64 {copy}", self.level),
                    self.level,
                )
                for copy in range(len(ops))
            ]
            for t, slot, ops in zip(types, slots, carried, strict=True)
        ]

    def _elements(self, stmt: Fold, carried: Carried, vector: Vector) -> Carried:
        """One step of every active lane."""
        with self.vector_scope(vector):
            self._bind_carries(stmt.carries, carried, vector.lanes)
            self.body(stmt.body)
            steps = self._steps(stmt.carries, vector.lanes, vector.copies)
            for carry, new, old in zip(stmt.carries, steps, carried, strict=True):
                t = vector_type(register_type(carry.var.dtype), vector.lanes)
                for copy in range(vector.copies):
                    mask = vector.mask(copy)
                    if mask is not None:
                        new[copy] = self.ins(
                            f"select {vector_type('i1', vector.lanes)} {mask}, "
                            f"{t} {new[copy]}, {t} {old[copy]}",
                            self.level,
                        )
        return steps

    # ------------------------------------------------------------------------------------- carries

    def _bind_carries(self, carries: tuple[Carry, ...], carried: Carried, lanes: int) -> None:
        for carry, ops in zip(carries, carried, strict=True):
            self.bind(carry.var, Value(tuple(ops), lanes, self.level))

    def _steps(self, carries: tuple[Carry, ...], lanes: int, copies: int) -> Carried:
        return [self._spread(self.value(c.step), c.var.dtype, lanes, copies) for c in carries]

    def _spread(self, value: Value, dtype: DType, lanes: int, copies: int) -> list[str]:
        """An operand for each copy."""
        if lanes:
            value = self.widen(value, register_type(dtype), lanes)
        return [value.op(copy) for copy in range(copies)]

    def _merge(self, carries: tuple[Carry, ...], carried: Carried, lanes: int) -> Carried:
        """Merge lane i with lane i + half, halving until one is left."""
        while len(carried[0]) > 1:
            half = len(carried[0]) // 2
            carried = self._merged(
                carries, [ops[:half] for ops in carried], [ops[half:] for ops in carried], lanes
            )
        while lanes > 1:
            half = lanes // 2
            low: Carried = []
            high: Carried = []
            for carry, (op,) in zip(carries, carried, strict=True):
                scalar = register_type(carry.var.dtype)
                low.append([self._half(scalar, op, lanes, 0)])
                high.append([self._half(scalar, op, lanes, half)])
            carried = self._merged(carries, low, high, half if half > 1 else 0)
            lanes = half
        return carried

    def _half(self, scalar: str, op: str, lanes: int, start: int) -> str:
        t = vector_type(scalar, lanes)
        half = lanes // 2
        if half == 1:
            return self.ins(f"extractelement {t} {op}, i32 {start}", self.level)
        return self.ins(
            f"shufflevector {t} {op}, {t} poison, <{half} x i32> {iota(half, 1, start)}", self.level
        )

    def _merged(self, carries: tuple[Carry, ...], earlier: Carried, later: Carried,
                lanes: int) -> Carried:  # fmt: skip
        copies = len(earlier[0])
        outer, self.vector = self.vector, None
        with self.inline_scope():
            if lanes:
                self.vector = Vector(lanes, copies)
            self._bind_carries(carries, earlier, lanes)
            for carry, ops in zip(carries, later, strict=True):
                self.bind(carry.other, Value(tuple(ops), lanes, self.level))
            merged = [
                self._spread(self.value(c.merge), c.var.dtype, lanes, copies) for c in carries
            ]
        self.vector = outer
        return merged


def body_cost(body: Iterable[Stmt]) -> int:
    """Instructions for one register of each value of a body, about; indices are free."""
    roots = [e for stmt in statements(tuple(body)) for e in expressions(stmt)]
    nodes = [e for e in walk(roots) if e.dtype is not int64 and e.fn != "const"]
    return sum(polyfill.cost(e.fn, e.args[0].dtype if e.args else e.dtype) for e in nodes)


def constant_extent(extent: Expr) -> int | None:
    """The number of iterations, where it is known."""
    low, high = bounds(extent)
    return max(0, low) if low is not None and low == high else None


def narrowed(lanes: int, extent: Expr) -> int:
    """No more lanes than a short axis fills."""
    number = constant_extent(extent)
    while number is not None and lanes > 2 and lanes // 2 >= number:
        lanes //= 2
    return lanes


def constant_vector(var: Expr, start: int, count: int, lanes: int) -> Vector:
    """The context of `count` elements from a constant start on, in as many registers as needed."""
    copies = -(-count // lanes)
    rest = count % lanes
    masks: tuple[str | None, ...] = ()
    if rest:
        bits = ", ".join(f"i1 {'true' if i < rest else 'false'}" for i in range(lanes))
        masks = (None,) * (copies - 1) + (f"<{bits}>",)
    return Vector(lanes, copies, var, str(start), 0, masks, 0)


def _types(carries: tuple[Carry, ...], carried: Carried, lanes: int) -> list[str]:
    return [
        vector_type(register_type(carry.var.dtype), lanes)
        for carry, ops in zip(carries, carried, strict=True)
        for _ in ops
    ]


def _flatten(carried: Carried) -> list[str]:
    return [op for ops in carried for op in ops]


def _unflatten(flat: Sequence[str], shape: list[int]) -> Carried:
    out: Carried = []
    at = 0
    for length in shape:
        out.append(list(flat[at : at + length]))
        at += length
    return out


def _depends(e: Expr, on: set[Expr], memo: dict[Expr, bool]) -> bool:
    found = memo.get(e)
    if found is None:
        found = memo[e] = e in on or any(_depends(a, on, memo) for a in e.args)
    return found
