"""The outer-product micro-kernel: all accumulators in registers through one loop over the depth.

A step loads one row of b as vectors and one scalar of a for each row of accumulators, which a
multiply-add reads straight from memory where the target can.
"""

from __future__ import annotations

from deepseek.backends.cpu.emit_statements import Statements
from deepseek.backends.cpu.emit_types import memory_type, register_type, vector_type
from deepseek.errors import CompileError
from deepseek.ir.dtype import DType
from deepseek.ir.scalar import bounds
from deepseek.kernel.ir import Mma


class Mmas(Statements):
    """Mma statements."""

    def mma(self, stmt: Mma) -> None:
        dtype = self.buffers[stmt.acc].dtype
        lanes = self.target.lanes(dtype)
        while stmt.n % lanes:
            lanes //= 2
        if self.vector is not None or lanes < 2:
            raise CompileError(f"an mma of {stmt.m} x {stmt.n} {dtype} inside vector lanes or too narrow")
        count = stmt.n // lanes
        acc = self.pointers[stmt.acc]
        whole = vector_type(register_type(dtype), lanes)
        slots = [
            self.step(stmt.acc, acc, str(number * lanes), self.level) if number else acc
            for number in range(stmt.m * count)
        ]
        align = min(64, lanes * dtype.itemsize)
        sums = [self.ins(f"load {whole}, ptr {p}, align {align}", self.level) for p in slots]
        a = self.place(stmt.a, stmt.a_at).pointer
        b = self.place(stmt.b, stmt.b_at).pointer
        depth = self.value(stmt.depth).ops[0]
        step = stmt.step or stmt.m

        def element(_: str, carried: list[str]) -> list[str]:
            a, b, *sums = carried
            row = [self._panel(stmt.b, b, j * lanes, dtype, lanes) for j in range(count)]
            for i in range(stmt.m):
                scalar = self._panel(stmt.a, a, i * stmt.row, dtype, 0)
                every = self.splat(register_type(dtype), scalar, lanes, self.level)
                for j in range(count):
                    at = i * count + j
                    sums[at] = self._multiply_add(dtype, whole, every, row[j], sums[at], lanes)
            return [self._ahead(stmt.a, a, step), self._ahead(stmt.b, b, stmt.n), *sums]

        types = ["ptr", "ptr", *[whole] * len(sums)]
        nonempty = (bounds(stmt.depth)[0] or 0) > 0
        _, _, *sums = self.loop("0", depth, 1, types, [a, b, *sums], element, nonempty=nonempty)
        for p, value in zip(slots, sums, strict=True):
            self.do(f"store {whole} {value}, ptr {p}, align {align}")
        self.forget_reads(frozenset((stmt.acc,)))

    def _panel(self, buffer: str, pointer: str, offset: int, dtype: DType, lanes: int) -> str:
        """Elements of a panel in the accumulators' type."""
        own = self.buffers[buffer].dtype
        at = self._ahead(buffer, pointer, offset)
        whole = vector_type(memory_type(own), lanes)
        found = self.ins(f"load {whole}, ptr {at}, align {own.itemsize}", self.level)
        return found if own is dtype else self.convert(found, own, dtype, lanes, self.level)

    def _ahead(self, buffer: str, pointer: str, offset: int) -> str:
        if not offset:
            return pointer
        type_ = memory_type(self.buffers[buffer].dtype)
        return self.ins(f"getelementptr inbounds {type_}, ptr {pointer}, i64 {offset}", self.level)

    def _multiply_add(
        self, dtype: DType, whole: str, a: str, b: str, c: str, lanes: int
    ) -> str:
        if dtype.is_float:
            return self.instruction("fma", dtype, [a, b, c], lanes, self.level, None)
        product = self.ins(f"mul {whole} {a}, {b}", self.level)
        return self.ins(f"add {whole} {product}, {c}", self.level)
