"""The outer-product micro-kernel: acc[i, j] += sum over k of a[i, k] * b[k, j].

The accumulators are m * n / W registers through the loop over k. Each step loads a row of b as
vectors and each element of a into all lanes. Unrolling the loop gains nothing: it is bound by the
multiplications.
"""

from __future__ import annotations

from deepseek.backends.cpu.emit_registers import Registers
from deepseek.backends.cpu.emit_types import memory_type, register_type, vector_type
from deepseek.ir.dtype import DType
from deepseek.ir.scalar import bounds, terms
from deepseek.kernel.ir import Mma


class Mmas(Registers):
    """Mma statements."""

    def mma(self, stmt: Mma) -> None:
        acc = self.buffers[stmt.acc].dtype
        columns = self._columns(stmt.n, acc)
        tiles = [(i, at, lanes) for i in range(stmt.m) for at, lanes in columns]
        types = [vector_type(register_type(acc), lanes) for _, _, lanes in tiles]
        sums = [self.get(stmt.acc, i * stmt.n + at, lanes) for i, at, lanes in tiles]
        a, _, _ = self.pointer(stmt.a, terms(stmt.a_at))
        b, _, _ = self.pointer(stmt.b, terms(stmt.b_at))
        depth = self.value(stmt.depth).ops[0]
        flat = self.loop(
            "0", depth, 1, ["ptr", "ptr", *types], [a, b, *sums],
            lambda _, values: self._outer_product(stmt, acc, columns, values),
            nonempty=(bounds(stmt.depth)[0] or 0) > 0,
        )  # fmt: skip
        self.forget_reads(frozenset((stmt.acc,)))
        for (i, at, lanes), op in zip(tiles, flat[2:], strict=True):
            self.put(stmt.acc, i * stmt.n + at, lanes, op, self.level)

    def _columns(self, n: int, dtype: DType) -> list[tuple[int, int]]:
        """The row as (first column, lanes), in registers as wide as fit; lanes 0 is a scalar."""
        out: list[tuple[int, int]] = []
        at = 0
        lanes = self.target.lanes(dtype)
        while at < n:
            while lanes > n - at:
                lanes //= 2
            out.append((at, lanes if lanes > 1 else 0))
            at += max(1, lanes)
        return out

    def _outer_product(self, stmt: Mma, acc: DType, columns: list[tuple[int, int]],
                       values: list[str]) -> list[str]:  # fmt: skip
        """One k: the pointers and sums after it."""
        a, b, *sums = values
        level = self.level
        rows = [self._element(stmt.b, b, at, lanes, acc) for at, lanes in columns]
        number = 0
        for i in range(stmt.m):
            one = self._element(stmt.a, a, i * stmt.row, 0, acc)
            for (_, lanes), row in zip(columns, rows, strict=True):
                every = self.splat(register_type(acc), one, lanes, level) if lanes else one
                sums[number] = self.instruction(
                    "fma", acc, [every, row, sums[number]], lanes, level, None
                )
                number += 1
        a_next = self.step(stmt.a, a, str(stmt.step or stmt.m), level)
        b_next = self.step(stmt.b, b, str(stmt.n), level)
        return [a_next, b_next, *sums]

    def _element(self, buffer: str, pointer: str, offset: int, lanes: int, acc: DType) -> str:
        """Elements of a panel, in the accumulators' type."""
        dtype = self.buffers[buffer].dtype
        level = self.level
        at = self.step(buffer, pointer, str(offset), level) if offset else pointer
        whole = vector_type(memory_type(dtype), lanes)
        found = self.ins(f"load {whole}, ptr {at}, align {dtype.itemsize}", level)
        return self.convert(found, dtype, acc, lanes, level)
