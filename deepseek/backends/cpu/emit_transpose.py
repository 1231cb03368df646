"""Stores that turn lanes into neighbours: a square of vectors is transposed in registers.

    vector k: unroll q to W: store b[k * stride + q] = x[q * other + k]

Each of the W values is a vector along k, but what belongs together in memory runs along q. Lane by
lane this takes W * W stores; as a network of shuffles log2(W) * W of them and W whole stores. A few
values whose stride is their number, as the channels of a pixel, are interleaved likewise.
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
        if vector is None or store is None or self.buffers[store.buffer].space == REGISTER:
            super().unrolled_loop(stmt)
            return
        number: int = stmt.axis.extent.value
        place = self.place(store.buffer, substitute(store.index, {stmt.axis.var: ZERO}))
        square = number == vector.lanes and place.stride is not None and place.stride != 0
        dense = 1 < number < vector.lanes and place.stride == number and not vector.masks
        if not square and not dense:
            super().unrolled_loop(stmt)
            return
        self.flush()
        values: list[Value] = []
        for i in range(number):
            (one,) = substitute_body((store,), stmt.axis.var, i)
            assert isinstance(one, Store)
            found = self.value(one.value)
            values.append(self.widen(found, register_type(store.value.dtype), vector.lanes))
        for copy in range(vector.copies):
            rows = [value.op(copy) for value in values]
            if square:
                self._store_rows(store, place, vector, copy, self._transposed(store, rows))
            else:
                self._store_interleaved(store, place, vector, copy, rows)
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

    def _store_interleaved(
        self, store: Store, place: Place, vector: Vector, copy: int, rows: list[str]
    ) -> None:
        """Lane l of row i is element l * rows + i: as many whole vectors as there are rows."""
        dtype = self.buffers[store.buffer].dtype
        whole = vector_type(memory_type(dtype), vector.lanes)
        lanes, number = vector.lanes, len(rows)
        for part in range(number):
            elements = range(part * lanes, (part + 1) * lanes)
            found = rows[0]
            taken = [e // number if e % number == 0 else 0 for e in elements]
            for i, row in enumerate(rows[1:], start=1):
                kept = taken if i == 1 else list(range(lanes))
                picked = [
                    lanes + e // number if e % number == i else kept[at]
                    for at, e in enumerate(elements)
                ]
                found = self._shuffle(whole, found, row, picked)
            offset = copy * lanes * number + part * lanes
            at = self.step(store.buffer, place.pointer, str(offset), self.level)
            self.do(f"store {whole} {found}, ptr {at}, align {dtype.itemsize}")

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
