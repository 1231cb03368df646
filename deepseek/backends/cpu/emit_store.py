"""Stores of global and shared buffers: whole registers, masked ones, lane by lane.

In flow a Place and the values to put there; out flow instructions. Memory is never touched where a
guard or the vector context's mask is false. A buffer that is streamed is written past the caches
where whole, aligned registers go to it.
"""

from __future__ import annotations

from deepseek.backends.cpu.emit_memory import Memory
from deepseek.backends.cpu.emit_types import (
    Place,
    Value,
    mangled,
    memory_type,
    register_type,
    vector_type,
)
from deepseek.backends.cpu.target import Target
from deepseek.ir.dtype import DType, bool_

PAST_CACHES = ", !nontemporal !0"  # a module with such stores ends with the line METADATA
FIRST_LANE = "<i1 true, i1 false"  # how a constant mask of just one lane begins
METADATA = "!0 = !{i32 1}"


class Stores(Memory):
    """Stores."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.streams: dict[str, str] = {}  # under which conditions buffers are written past caches

    def store(self, buffer: str, place: Place, value: Value, guard: Value | None,
              atomic: str | None) -> None:  # fmt: skip
        """One Store statement, all lanes; operands are known."""
        dtype = self.buffers[buffer].dtype
        vector = self.vector
        varying = place.stride != 0 or value.lanes or (guard is not None and guard.lanes)
        if vector is None or (not varying and atomic is None):
            # All lanes store the same value to the same address.
            self._guarded(
                None if guard is None else guard.ops[0],
                lambda: self._store_one(dtype, place.pointer, value.ops[0], atomic),
            )
            return
        if place.stride == 0:
            place = self._scattered(place)
        type_ = register_type(dtype)
        lanes = vector.lanes
        wide = self.widen(value, type_, lanes)
        if buffer in self.streams and place.aligned and guard is None and not vector.masks:
            self._stream(buffer, place, wide)
            return

        def every_copy() -> None:
            for copy in range(vector.copies):
                mask = vector.mask(copy)
                if guard is not None and guard.lanes:
                    mask = self.both(mask, guard.op(copy), self.level)
                self._store_lanes(buffer, place, copy, wide.op(copy), mask, atomic)

        uniform_guard = guard is not None and not guard.lanes
        self._guarded(guard.ops[0] if guard is not None and uniform_guard else None, every_copy)

    def _stream(self, buffer: str, place: Place, value: Value) -> None:
        """Whole registers of neighbours, past the caches where that is wanted."""

        def run(hint: str) -> None:
            assert self.vector is not None
            for copy in range(self.vector.copies):
                self._store_lanes(buffer, place, copy, value.op(copy), None, None, hint)

        self.either(self.streams[buffer], lambda: run(PAST_CACHES), lambda: run(""))

    def _guarded(self, condition: str | None, body: object) -> None:
        def run() -> list[str]:
            body()  # type: ignore[operator]
            return []

        self.branch(condition, [], [], run)

    def _store_one(self, dtype: DType, pointer: str, op: str, atomic: str | None) -> None:
        memory = memory_type(dtype)
        if dtype is bool_:
            op = self.ins(f"zext i1 {op} to i8", self.level)
        if atomic is None:
            self.do(f"store {memory} {op}, ptr {pointer}, align {dtype.itemsize}")
            return
        operation = "fadd" if dtype.is_float else "add"
        self.ins(
            f"atomicrmw {operation} ptr {pointer}, {memory} {op} monotonic, align {dtype.itemsize}",
            self.level,
        )

    def _store_lanes(self, buffer: str, place: Place, copy: int, op: str, mask: str | None,
                     atomic: str | None, hint: str = "") -> None:  # fmt: skip
        assert self.vector is not None
        lanes = self.vector.lanes
        dtype = self.buffers[buffer].dtype
        memory = memory_type(dtype)
        level = self.level
        type_ = register_type(dtype)
        stride = place.offsets if place.stride is None else place.stride
        assert stride is not None
        if mask is not None and mask.startswith(FIRST_LANE):
            # LLVM 22 writes one lane that it narrowed before in the width it had.
            at = self._lane_pointer(buffer, place.pointer, stride, copy, 0, level)
            one = self.ins(f"extractelement {vector_type(type_, lanes)} {op}, i32 0", level)
            self._store_one(dtype, at, one, atomic)
            return
        whole = vector_type(memory, lanes)
        if atomic is None and place.stride in (1, -1):
            backwards = place.stride == -1
            if dtype is bool_:
                op = self.ins(f"zext {vector_type('i1', lanes)} {op} to {whole}", level)
            at = self._row_pointer(buffer, place.pointer, backwards, copy, level)
            if backwards:
                op = self._reverse(memory, op, level)
                mask = None if mask is None else self._reverse("i1", mask, level)
            if mask is None:
                alignment = lanes * dtype.itemsize if hint else dtype.itemsize
                self.do(f"store {whole} {op}, ptr {at}, align {alignment}{hint}")
            else:
                self.do(
                    f"call void @llvm.masked.store.{mangled(memory, lanes)}.p0({whole} {op}, ptr "
                    f"align {dtype.itemsize} {at}, {vector_type('i1', lanes)} {mask})"
                )
            return
        # Storing lane by lane is faster, but needs a branch for each where there is a mask.
        if atomic is None and mask and self.target.level == "v4" and dtype.itemsize >= 4:
            places = self._lane_places(buffer, place.pointer, stride, copy, level)
            self.do(
                f"call void @llvm.masked.scatter.{mangled(memory, lanes)}.v{lanes}p0({whole} {op}, "
                f"<{lanes} x ptr> align {dtype.itemsize} {places}, <{lanes} x i1> {mask})"
            )
            return
        for lane in range(lanes):
            at = self._lane_pointer(buffer, place.pointer, stride, copy, lane, level)
            one = self.ins(f"extractelement {vector_type(type_, lanes)} {op}, i32 {lane}", level)
            bit = None
            if mask is not None:
                bit = self.ins(f"extractelement <{lanes} x i1> {mask}, i32 {lane}", level)
            self._store_at(bit, dtype, at, one, atomic)

    def _store_at(
        self, bit: str | None, dtype: DType, at: str, op: str, atomic: str | None
    ) -> None:
        self._guarded(bit, lambda: self._store_one(dtype, at, op, atomic))
