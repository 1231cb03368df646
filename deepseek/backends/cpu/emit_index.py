"""Index arithmetic in vector lanes: comparisons, quotients and remainders of int64.

Neighbouring lanes have neighbouring indices: lane l of a register holds `base + offset[l]`, a
number of 64 bits that all lanes share and a small one of its own. Comparing with and dividing by a
shared number are then done once in 64 bits, and per lane in 32 bits or in the digits of a float.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deepseek.backends.cpu.emit_builder import Vector
from deepseek.backends.cpu.emit_convert import Convert
from deepseek.backends.cpu.emit_types import NOTHING, Value, iota, vector_type
from deepseek.backends.cpu.target import Target
from deepseek.ir.dtype import DType, int64
from deepseek.ir.scalar import Expr, Terms, bounds, from_terms, sub, terms

_COMPARE = {"eq": "eq", "ne": "ne", "lt": "slt", "le": "sle"}
_FAR = 1 << 16  # offsets stay below
_LARGE = 1 << 20  # divisors are cut to this: as good for numbers that small, and exact as a float


@dataclass(frozen=True, slots=True)
class Near:
    """base + offset: a shared i64 operand, and an i32 vector of 0 <= offset <= most a copy.

    `first` is the offset of lane 1, where offsets are its multiples.
    """

    base: str
    offsets: tuple[str, ...]
    most: int
    level: int
    reads: frozenset[str] = NOTHING
    first: int | None = None


class Indices(Convert):
    """int64 values that run with the lanes."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.most: dict[tuple[Expr, Expr], int] = {}  # of the offsets of a quotient

    def lane_numbers(self) -> Value:
        """The lanes' variable as int64 vectors."""
        vector = self.vector
        assert vector is not None
        whole = vector_type("i64", vector.lanes)
        numbers = [iota(vector.lanes, 1, c * vector.lanes, "i64") for c in range(vector.copies)]
        if vector.base == "0":
            return Value(tuple(numbers), vector.lanes, 0)
        start = self.splat("i64", vector.base, vector.lanes, vector.base_level)
        ops = tuple(self.ins(f"add {whole} {start}, {n}", vector.base_level) for n in numbers)
        return Value(ops, vector.lanes, vector.base_level)

    def is_index_node(self, e: Expr) -> bool:
        """Whether the node is one of those below, which look at their arguments themselves."""
        return (
            self.vector is not None
            and self.vector.var is not None
            and (e.fn in _COMPARE or e.fn in ("floordiv", "mod"))
            and e.args[0].dtype is int64
        )

    def index_node(self, e: Expr) -> Value | None:
        """Its value, or None where the lanes are not near each other."""
        if e.fn in _COMPARE:
            return self._compare(e)
        return self._divide(e)

    def instruction(self, fn: str, dtype: DType, ops: Sequence[str], lanes: int, level: int,
                    e: Expr | None) -> str:  # fmt: skip
        raise NotImplementedError

    # --------------------------------------------------------------------------------- comparisons

    def _compare(self, e: Expr) -> Value | None:
        """a OP b: offset OP -base of their difference, which may be cut to 32 bits."""
        assert self.vector is not None
        lanes = self.vector.lanes
        swapped = False
        near = self.near(sub(*e.args))
        if near is None:
            near = self.near(sub(e.args[1], e.args[0]))
            swapped = True
        if near is None:
            return None
        level = near.level
        limit = self.ins(f"sub i64 0, {near.base}", level)
        every = self.splat("i32", self._cut(limit, level), lanes, level)
        condition = _COMPARE[e.fn]
        ops = tuple(
            self.ins(
                f"icmp {condition} <{lanes} x i32> "
                + (f"{every}, {offset}" if swapped else f"{offset}, {every}"),
                level,
            )
            for offset in near.offsets
        )
        return Value(ops, lanes, level, near.reads)

    def _cut(self, op: str, level: int) -> str:
        """An i64 operand as i32, values beyond +-2**30 becoming that."""
        big = 1 << 30
        low = self.ins(f"call i64 @llvm.smax.i64(i64 {op}, i64 {-big})", level)
        both = self.ins(f"call i64 @llvm.smin.i64(i64 {low}, i64 {big})", level)
        return self.ins(f"trunc i64 {both} to i32", level)

    # ---------------------------------------------------------------------------------- near lanes

    def near(self, e: Expr) -> Near | None:
        """The expression as base + offset, with offsets that grow from 0."""
        vector = self.vector
        assert vector is not None
        uniform: Terms = {}
        varying: list[tuple[tuple[Expr, ...], int]] = []
        for monomial, c in terms(e).items():
            if any(self.varies(factor) for factor in monomial):
                varying.append((monomial, c))
            else:
                uniform[monomial] = c
        if len(varying) != 1 or len(varying[0][0]) != 1:
            return None
        (factor,), c = varying[0]
        start = self._near_factor(vector, factor)
        if start is None or c < 1 or start.most * c >= _FAR:
            return None
        level = start.level
        reads = start.reads
        base, offsets = start.base, start.offsets
        if c != 1:
            if base != "0":
                base = self.ins(f"mul i64 {base}, {c}", level)
            lanes = vector.lanes
            if factor is vector.var:
                offsets = tuple(iota(lanes, c, c * copy * lanes) for copy in range(vector.copies))
            else:
                offsets = tuple(
                    self.ins(f"mul <{lanes} x i32> {o}, splat (i32 {c})", level) for o in offsets
                )
        if uniform:
            rest = self.value(from_terms(uniform))
            level = max(level, rest.level)
            reads = reads | rest.reads
            base = rest.ops[0] if base == "0" else self.ins(
                f"add i64 {base}, {rest.ops[0]}", level
            )  # fmt: skip
        first = None if start.first is None else start.first * c
        return Near(base, offsets, start.most * c, level, reads, first)

    def _near_factor(self, vector: Vector, factor: Expr) -> Near | None:
        if factor is not vector.var:
            return self._known_quotient(*factor.args) if factor.fn == "floordiv" else None
        lanes, copies = vector.lanes, vector.copies
        offsets = tuple(iota(lanes, 1, copy * lanes) for copy in range(copies))
        return Near(vector.base, offsets, lanes * copies - 1, vector.base_level, NOTHING, 1)

    # ----------------------------------------------------------------------------------- divisions

    def _divide(self, e: Expr) -> Value | None:
        a, b = e.args
        vector = self.vector
        assert vector is not None
        if (bounds(b)[0] or 0) < 1 or self.varies(b) or not self.varies(a):
            return None
        if b.fn == "const" and b.attr & (b.attr - 1) == 0 and vector.base != "0":
            return None  # a shift, or a mask
        near = self.near(a)
        if near is None:
            return None
        if b.fn == "const" and near.first is not None and near.base.lstrip("-").isdigit():
            return self._divide_constants(e.fn, int(near.base), near.first, b.attr)
        quotient = self._known_quotient(a, b)
        if quotient is None:
            quotient = self._quotients(near, e, self.value(b))
        lanes, level = vector.lanes, quotient.level
        whole = vector_type("i64", lanes)
        if e.fn == "mod":
            return self.known["mod", a, b]
        every = self.splat("i64", quotient.base, lanes, level)
        ops = []
        for offset in quotient.offsets:
            wide = self.ins(f"zext <{lanes} x i32> {offset} to {whole}", level)
            ops.append(self.ins(f"add {whole} {every}, {wide}", level))
        return Value(tuple(ops), lanes, level, quotient.reads)

    def _divide_constants(self, fn: str, base: int, step: int, by: int) -> Value:
        """All lanes are known numbers."""
        assert self.vector is not None
        lanes = self.vector.lanes
        ops = []
        for copy in range(self.vector.copies):
            numbers = [base + step * (copy * lanes + lane) for lane in range(lanes)]
            results = [x // by if fn == "floordiv" else x % by for x in numbers]
            ops.append("<" + ", ".join(f"i64 {x}" for x in results) + ">")
        return Value(tuple(ops), lanes, 0)

    def _known_quotient(self, a: Expr, b: Expr) -> Near | None:
        """A quotient that was computed before, as base + offset."""
        base, offsets = self.known.get(("base", a, b)), self.known.get(("quotient", a, b))
        if base is None or offsets is None:
            return None
        return Near(base.ops[0], offsets.ops, self.most[a, b], base.level, base.reads)

    def _quotients(self, near: Near, e: Expr, divisor: Value) -> Near:
        """One 64-bit division for all lanes; what each lane is beyond it is divided as a float."""
        assert self.vector is not None
        lanes = self.vector.lanes
        level = max(near.level, divisor.level)
        d = divisor.ops[0]
        first = self.instruction("floordiv", int64, [near.base, d], 0, level, e)
        product = self.ins(f"mul i64 {first}, {d}", level)
        rest = self.ins(f"sub i64 {near.base}, {product}", level)
        # A divisor beyond _LARGE is crossed at most once: only the distance to it counts.
        cut = self.ins(f"call i64 @llvm.smin.i64(i64 {d}, i64 {_LARGE})", level)
        lost = self.ins(f"sub i64 {d}, {cut}", level)
        close = self.ins(f"sub i64 {rest}, {lost}", level)
        close = self.ins(f"call i64 @llvm.smax.i64(i64 {close}, i64 0)", level)
        gap = self.ins(f"sub i64 {rest}, {close}", level)
        i32, f32 = vector_type("i32", lanes), vector_type("float", lanes)
        i64 = vector_type("i64", lanes)
        start = self.splat("i32", self.ins(f"trunc i64 {close} to i32", level), lanes, level)
        small = self.ins(f"trunc i64 {cut} to i32", level)
        by = self.splat("i32", small, lanes, level)
        as_float = self.ins(f"sitofp i32 {small} to float", level)
        by_float = self.splat("float", as_float, lanes, level)
        gaps = self.splat("i64", gap, lanes, level)
        quotients: list[str] = []
        remainders: list[str] = []
        for offset in near.offsets:
            x = self.ins(f"add {i32} {start}, {offset}", level)
            number = self.ins(f"sitofp {i32} {x} to {f32}", level)
            ratio = self.ins(f"fdiv {f32} {number}, {by_float}", level)
            q = self.ins(f"fptosi {f32} {ratio} to {i32}", level)
            quotients.append(q)
            used = self.ins(f"mul {i32} {q}, {by}", level)
            left = self.ins(f"sub {i32} {x}, {used}", level)
            wide = self.ins(f"zext {i32} {left} to {i64}", level)
            crossed = self.ins(f"icmp ne {i32} {q}, zeroinitializer", level)
            more = self.ins(
                f"select <{lanes} x i1> {crossed}, {i64} zeroinitializer, {i64} {gaps}", level
            )
            remainders.append(self.ins(f"add {i64} {wide}, {more}", level))
        reads = near.reads | divisor.reads
        a, b = e.args
        self.most[a, b] = near.most + 1
        self.remember(("base", a, b), Value((first,), 0, level, reads))
        self.remember(("quotient", a, b), Value(tuple(quotients), lanes, level, reads))
        self.remember(("mod", a, b), Value(tuple(remainders), lanes, level, reads))
        return Near(first, tuple(quotients), near.most + 1, level, reads)
