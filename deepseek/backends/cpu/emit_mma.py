"""The outer-product micro-kernel: acc[i, j] += sum over k of a[i, k] * b[k, j].

The accumulators are m * n / W registers through the loop over k. Each step loads a row of b as
vectors and each element of a into all lanes. Unrolling the loop gains nothing: it is bound by the
multiplications.
"""

from __future__ import annotations

from dataclasses import dataclass

from deepseek.backends.cpu.emit_registers import Registers
from deepseek.backends.cpu.emit_types import mangled, memory_type, register_type, vector_type
from deepseek.ir.dtype import DType
from deepseek.ir.scalar import bounds, terms
from deepseek.kernel.ir import Mma


@dataclass(frozen=True, slots=True)
class Piece:
    """A register of a row: its first column, its lanes (0 for a scalar), the columns it holds."""

    at: int
    lanes: int
    used: int


class Mmas(Registers):
    """Mma statements."""

    def mma(self, stmt: Mma) -> None:
        acc = self.buffers[stmt.acc].dtype
        row = self._pieces(stmt, acc)
        tiles = [(i * stmt.width + piece.at, piece.lanes) for i in range(stmt.m) for piece in row]
        types = [vector_type(register_type(acc), lanes) for _, lanes in tiles]
        sums = [self.get(stmt.acc, at, lanes) for at, lanes in tiles]
        a, _, _ = self.pointer(stmt.a, terms(stmt.a_at))
        b, _, _ = self.pointer(stmt.b, terms(stmt.b_at))
        depth = self.value(stmt.depth).ops[0]
        flat = self.loop(
            "0", depth, 1, ["ptr", "ptr", *types], [a, b, *sums],
            lambda _, values: self._outer_product(stmt, acc, row, values),
            nonempty=(bounds(stmt.depth)[0] or 0) > 0,
        )  # fmt: skip
        self.forget_reads(frozenset((stmt.acc,)))
        for (at, lanes), op in zip(tiles, flat[2:], strict=True):
            self.put(stmt.acc, at, lanes, op, self.level)

    def _pieces(self, stmt: Mma, acc: DType) -> list[Piece]:
        """A row of accumulators, in registers as wide as fit.

        What is left of it takes one register more, if the accumulators have room for all its lanes
        and only those that there are can be loaded; else registers half as wide, and so on.
        """
        out: list[Piece] = []
        at = 0
        lanes = self.target.lanes(acc)
        masks = self.target.masks_memory(self.buffers[stmt.b].dtype)
        while at < stmt.n:
            left = stmt.n - at
            if lanes > left and not (masks and at + lanes <= stmt.width):
                lanes //= 2
                continue
            out.append(Piece(at, lanes if lanes > 1 else 0, min(lanes, left)))
            at += max(1, lanes)
        return out

    def _outer_product(self, stmt: Mma, acc: DType, row: list[Piece],
                       values: list[str]) -> list[str]:  # fmt: skip
        """One k: the pointers and sums after it."""
        a, b, *sums = values
        level = self.level
        columns = [self._element(stmt.b, b, piece, acc) for piece in row]
        number = 0
        for i in range(stmt.m):
            one = self._element(stmt.a, a, Piece(i * stmt.row, 0, 0), acc)
            for piece, column in zip(row, columns, strict=True):
                lanes = piece.lanes
                every = self.splat(register_type(acc), one, lanes, level) if lanes else one
                sums[number] = self.instruction(
                    "fma", acc, [every, column, sums[number]], lanes, level, None
                )
                number += 1
        a_next = self.step(stmt.a, a, str(stmt.step), level)
        b_next = self.step(stmt.b, b, str(stmt.pitch), level)
        return [a_next, b_next, *sums]

    def _element(self, buffer: str, pointer: str, piece: Piece, acc: DType) -> str:
        """Elements of an operand, in the accumulators' type."""
        dtype = self.buffers[buffer].dtype
        level = self.level
        lanes = piece.lanes
        at = self.step(buffer, pointer, str(piece.at), level) if piece.at else pointer
        memory = memory_type(dtype)
        whole = vector_type(memory, lanes)
        text = f"load {whole}, ptr {at}, align {dtype.itemsize}"
        if piece.used < lanes:
            mask = ", ".join(f"i1 {int(lane < piece.used)}" for lane in range(lanes))
            text = (
                f"call {whole} @llvm.masked.load.{mangled(memory, lanes)}.p0(ptr align "
                f"{dtype.itemsize} {at}, <{lanes} x i1> <{mask}>, {whole} zeroinitializer)"
            )
        found = self.ins(text, level)
        return self.convert(found, dtype, acc, lanes, level)
