"""Stores that turn lanes into neighbours: a square of vectors is transposed in registers.

    vector k: unroll q to W: store b[k * stride + q] = x[q * other + k]

Each of the W values is a vector along k, but what belongs together in memory runs along q. Lane by
lane this takes W * W stores; as a network of shuffles log2(W) * W of them and W whole stores.
"""

from __future__ import annotations

from deepseek.backends.cpu.emit_builder import Vector
from deepseek.backends.cpu.emit_mma import Mmas
from deepseek.backends.cpu.emit_types import Place, Value, memory_type, register_type, vector_type
from deepseek.ir.dtype import bool_
from deepseek.ir.scalar import ONE, TRUE, ZERO, coefficient, substitute
from deepseek.kernel.ir import REGISTER, UNROLL, Loop, Store
from deepseek.kernel.rewrite import substitute_body


class Transposes(Mmas):
    """Unrolled stores inside a vector loop, with the lanes and the copies exchanged."""

    def unrolled_loop(self, stmt: Loop) -> None:
        vector = self.vector
        store = square_store(stmt)
        if vector is None or store is None or stmt.axis.extent.value != vector.lanes:
            super().unrolled_loop(stmt)
            return
        if self.buffers[store.buffer].space == REGISTER:
            super().unrolled_loop(stmt)
            return
        place = self.place(store.buffer, substitute(store.index, {stmt.axis.var: ZERO}))
        if place.stride is None or place.stride == 0:
            super().unrolled_loop(stmt)
            return
        self.flush()
        values: list[Value] = []
        for i in range(vector.lanes):
            (one,) = substitute_body((store,), stmt.axis.var, i)
            assert isinstance(one, Store)
            found = self.value(one.value)
            values.append(self.widen(found, register_type(store.value.dtype), vector.lanes))
        for copy in range(vector.copies):
            rows = [value.op(copy) for value in values]
            self._store_rows(store, place, vector, copy, self._transposed(store, rows))
        self.forget_reads(frozenset((store.buffer,)))

    def _shape(self, stmt: Loop) -> tuple[int, int]:
        lanes, copies = super()._shape(stmt)
        (inner, *more) = stmt.body
        square = not more and isinstance(inner, Loop) and square_store(inner) is not None
        return lanes, 1 if square else copies

    def _transposed(self, store: Store, rows: list[str]) -> list[str]:
        """Swap row i's lane j with row j's lane i, one bit of the numbers at a time."""
        lanes = len(rows)
        whole = vector_type(memory_type(store.value.dtype), lanes)
        bit = 1
        while bit < lanes:
            for i in range(lanes):
                if i & bit:
                    continue
                low = [j if not j & bit else lanes + j - bit for j in range(lanes)]
                high = [j + bit if not j & bit else lanes + j for j in range(lanes)]
                a, b = rows[i], rows[i + bit]
                rows[i] = self._shuffle(whole, a, b, low)
                rows[i + bit] = self._shuffle(whole, a, b, high)
            bit *= 2
        return rows

    def _shuffle(self, whole: str, a: str, b: str, numbers: list[int]) -> str:
        picked = ", ".join(f"i32 {n}" for n in numbers)
        return self.ins(
            f"shufflevector {whole} {a}, {whole} {b}, <{len(numbers)} x i32> <{picked}>", self.level
        )

    def _store_rows(
        self, store: Store, place: Place, vector: Vector, copy: int, rows: list[str]
    ) -> None:
        dtype = self.buffers[store.buffer].dtype
        whole = vector_type(memory_type(dtype), vector.lanes)
        mask = vector.mask(copy)
        assert place.stride is not None
        for lane, row in enumerate(rows):
            at = self._lane_pointer(
                store.buffer, place.pointer, place.stride, copy, lane, self.level
            )

            def one(at: str = at, row: str = row) -> list[str]:
                self.do(f"store {whole} {row}, ptr {at}, align {dtype.itemsize}")
                return []

            bit = None if mask is None else self._bit(mask, lane, vector.lanes)
            if bit != "false":
                self.branch(None if bit in (None, "true") else bit, [], [], one)

    def _bit(self, mask: str, lane: int, lanes: int) -> str:
        """One lane of a mask, known where the mask is a constant."""
        if mask.startswith("<"):
            return mask.strip("<>").split(", ")[lane].removeprefix("i1 ")
        return self.ins(f"extractelement <{lanes} x i1> {mask}, i32 {lane}", self.level)


def square_store(stmt: Loop) -> Store | None:
    """The one store of an unrolled loop whose turns are neighbours in memory."""
    if stmt.axis.kind != UNROLL or len(stmt.body) != 1 or not isinstance(stmt.body[0], Store):
        return None
    store = stmt.body[0]
    plain = store.guard is TRUE and store.atomic is None and store.value.dtype is not bool_
    return store if plain and coefficient(store.index, stmt.axis.var) is ONE else None
