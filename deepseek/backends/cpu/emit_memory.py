"""Loads: from an index expression to an address, and from there to instructions.

In flow a buffer's name and an index; out flow loads of whole vectors where consecutive lanes are
neighbours, one scalar where all lanes share an address, lane by lane otherwise. Memory is never
touched where a guard or the vector context's mask is false: a guarded scalar reads a harmless
address instead.
"""

from __future__ import annotations

from dataclasses import replace

from deepseek.backends.cpu.emit_builder import Builder
from deepseek.backends.cpu.emit_types import (
    NOTHING,
    Place,
    Value,
    iota,
    mangled,
    memory_type,
    register_type,
    vector_type,
)
from deepseek.backends.cpu.target import Target
from deepseek.ir.dtype import DType, bool_
from deepseek.ir.scalar import Expr, Terms, from_terms, terms
from deepseek.kernel.ir import Buffer

DUMMY_BYTES = 4096
LINE = 64  # bytes that a cache moves at once


class Memory(Builder):
    """Addresses and loads of global and shared buffers."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.buffers: dict[str, Buffer] = {}
        self.pointers: dict[str, str] = {}
        self.mutable: frozenset[str] = NOTHING
        self._dummy: str | None = None

    def dummy(self) -> str:
        """An address that may be read for nothing."""
        if self._dummy is None:
            self._dummy = self.alloca(f"[{DUMMY_BYTES} x i8], align 64")
        return self._dummy

    # ---------------------------------------------------------------------------------- addresses

    def place(self, buffer: str, index: Expr) -> Place:
        uniform: Terms = {}
        varying: Terms = {}
        vector = self.vector
        for monomial, c in terms(index).items():
            lanes = vector is not None and any(self.varies(factor) for factor in monomial)
            (varying if lanes else uniform)[monomial] = c
        pointer, level, reads = self.pointer(buffer, uniform)
        if vector is None or not varying:
            return Place(pointer, level, reads, 0)
        stride = self._stride(varying)
        if stride is not None:
            place = self._along(buffer, pointer, level, reads, stride)
            whole = all(c % vector.lanes == 0 for c in uniform.values())
            start = not vector.base.isdigit() or int(vector.base) % vector.lanes == 0
            return replace(place, aligned=whole and start and place.stride == 1)
        offsets = self.value(from_terms(varying))
        return Place(pointer, max(level, offsets.level), reads | offsets.reads, None, offsets)

    def varies(self, e: Expr) -> bool:
        """Whether the expression differs between lanes."""
        vector = self.vector
        if vector is None:
            return False
        return e is vector.var or bool(self.value(e).lanes)

    def _stride(self, varying: Terms) -> Expr | None:
        """The factor of the lanes' variable, where that is all that varies."""
        assert self.vector is not None
        var = self.vector.var
        factors: Terms = {}
        for monomial, c in varying.items():
            rest = list(monomial)
            if var not in rest:
                return None
            rest.remove(var)
            if any(self.varies(factor) for factor in rest):
                return None
            factors[tuple(rest)] = c
        return from_terms(factors)

    def _along(self, buffer: str, pointer: str, level: int, reads: frozenset[str],
               stride: Expr) -> Place:  # fmt: skip
        vector = self.vector
        assert vector is not None
        factor = self.value(stride)
        level = max(level, factor.level)
        if vector.base != "0":
            level = max(level, vector.base_level)
            offset = vector.base
            if stride.fn != "const" or stride.attr != 1:
                offset = self.ins(f"mul i64 {vector.base}, {factor.ops[0]}", level)
            pointer = self.step(buffer, pointer, offset, level)
        known = stride.attr if stride.fn == "const" else factor.ops[0]
        return Place(pointer, level, reads | factor.reads, known)

    def pointer(self, buffer: str, sums: Terms) -> tuple[str, int, frozenset[str]]:
        """The address of an element; what belongs to an outer level is added there."""
        levels: dict[int, Terms] = {}
        reads: frozenset[str] = NOTHING
        constant = 0
        for monomial, c in sums.items():
            if not monomial:
                constant = c
                continue
            values = [self.value(factor) for factor in monomial]
            reads = reads.union(*(v.reads for v in values))
            levels.setdefault(max(v.level for v in values), {})[monomial] = c
        pointer, at = self.pointers[buffer], 0
        for level in sorted(levels):
            offset = self.value(from_terms(levels[level]))
            at = max(at, level)
            pointer = self.step(buffer, pointer, offset.ops[0], at)
        if constant:
            pointer = self.step(buffer, pointer, str(constant), at)
        return pointer, at, reads

    def step(self, buffer: str, pointer: str, offset: str, level: int) -> str:
        """pointer + offset elements, computed once."""
        type_ = memory_type(self.buffers[buffer].dtype)
        key = ("step", type_, pointer, offset)
        found = self.known.get(key)
        if found is None or found.level > level:
            text = f"getelementptr {type_}, ptr {pointer}, i64 {offset}"
            found = self.remember(key, Value((self.ins(text, level),), 0, level))
        return found.ops[0]

    # -------------------------------------------------------------------------------------- loads

    def prefetch(self, place: Place, buffer: str) -> None:
        """Ask for each line that lanes beside each other reach, otherwise for the first lane's."""
        vector, nbytes = self.vector, 1
        if vector is not None and place.stride == 1:
            nbytes = vector.lanes * vector.copies * self.buffers[buffer].dtype.itemsize
        for offset in range(0, nbytes, LINE):
            at = place.pointer
            if offset:
                at = self.ins(f"getelementptr i8, ptr {at}, i64 {offset}", self.level)
            self.do(f"call void @llvm.prefetch.p0(ptr {at}, i32 0, i32 3, i32 1)")

    def load(self, e: Expr) -> Value:
        """A load expression; the index and guard may use anything known."""
        buffer = e.attr
        place = self.place(buffer, e.args[0])
        guard = otherwise = None
        needed = place.level
        reads = place.reads | ({buffer} if buffer in self.mutable else NOTHING)
        if len(e.args) > 1:
            guard, otherwise = self.value(e.args[1]), self.value(e.args[2])
            needed = max(needed, guard.level, otherwise.level)
            reads = reads | guard.reads | otherwise.reads
        if guard is not None and guard.lanes and place.stride == 0:
            place = self._scattered(place)
        if place.stride == 0:
            level = self.load_level(buffer, needed)
            return Value(
                (self._load_one(e.dtype, place, guard, otherwise, level),), 0, level, reads
            )
        vector = self.vector
        assert vector is not None
        needed = max(needed, vector.mask_level)
        level = self.load_level(buffer, needed)
        ops = tuple(
            self._load_lanes(buffer, place, copy, guard, otherwise, level)
            for copy in range(vector.copies)
        )
        return Value(ops, vector.lanes, level, reads)

    def _scattered(self, place: Place) -> Place:
        """One address for all lanes, as an address for each lane."""
        vector = self.vector
        assert vector is not None
        zero = Value(("zeroinitializer",), vector.lanes, 0)
        return Place(place.pointer, place.level, place.reads, None, zero)

    def _load_one(self, dtype: DType, place: Place, guard: Value | None, otherwise: Value | None,
                  level: int) -> str:  # fmt: skip
        memory, type_ = memory_type(dtype), register_type(dtype)
        pointer = place.pointer
        if guard is not None:
            pointer = self.ins(
                f"select i1 {guard.ops[0]}, ptr {pointer}, ptr {self.dummy()}", level
            )
        found = self.ins(f"load {memory}, ptr {pointer}, align {dtype.itemsize}", level)
        if dtype is bool_:
            found = self.ins(f"icmp ne i8 {found}, 0", level)
        if guard is None:
            return found
        assert otherwise is not None
        return self.ins(
            f"select i1 {guard.ops[0]}, {type_} {found}, {type_} {otherwise.ops[0]}", level
        )

    def _load_lanes(self, buffer: str, place: Place, copy: int, guard: Value | None,
                    otherwise: Value | None, level: int) -> str:  # fmt: skip
        vector = self.vector
        assert vector is not None
        dtype = self.buffers[buffer].dtype
        lanes = vector.lanes
        memory = memory_type(dtype)
        mask = vector.mask(copy)
        select = None  # a uniform guard chooses the address, not the lanes
        if guard is not None:
            if guard.lanes:
                mask = self.both(mask, guard.op(copy), level)
            else:
                select = guard.ops[0]
        pointer = place.pointer
        if select is not None:
            pointer = self.ins(f"select i1 {select}, ptr {pointer}, ptr {self.dummy()}", level)
        if place.stride in (1, -1):
            found = self._load_row(buffer, pointer, place.stride == -1, copy, mask, level)
        elif self._shuffled_stride(place) and mask is None and select is None:
            found = self._load_spread(buffer, pointer, self._shuffled_stride(place), copy, level)
        else:
            if select is not None:
                mask = self.both(mask, self.splat("i1", select, lanes, level), level)
            found = self._gather(buffer, place, copy, mask, level)
            select = None
        if dtype is bool_:
            found = self.ins(
                f"icmp ne {vector_type(memory, lanes)} {found}, zeroinitializer", level
            )
        if guard is None:
            return found
        assert otherwise is not None
        type_ = register_type(dtype)
        whole = vector_type(type_, lanes)
        other = self.widen(otherwise, type_, lanes).op(copy)
        if select is not None:
            return self.ins(f"select i1 {select}, {whole} {found}, {whole} {other}", level)
        chosen = guard.op(copy) if guard.lanes else self.splat("i1", guard.ops[0], lanes, level)
        return self.ins(
            f"select {vector_type('i1', lanes)} {chosen}, {whole} {found}, {whole} {other}", level
        )

    def both(self, a: str | None, b: str, level: int) -> str:
        """Conjunction of two masks."""
        if a is None:
            return b
        assert self.vector is not None
        return self.ins(f"and {vector_type('i1', self.vector.lanes)} {a}, {b}", level)

    def _row_pointer(
        self, buffer: str, pointer: str, backwards: bool, copy: int, level: int
    ) -> str:
        assert self.vector is not None
        lanes = self.vector.lanes
        offset = copy * lanes if not backwards else -(copy * lanes) - (lanes - 1)
        return self.step(buffer, pointer, str(offset), level) if offset else pointer

    def _reverse(self, type_: str, op: str, level: int) -> str:
        assert self.vector is not None
        lanes = self.vector.lanes
        whole = vector_type(type_, lanes)
        return self.ins(
            f"shufflevector {whole} {op}, {whole} poison, <{lanes} x i32> "
            f"{iota(lanes, -1, lanes - 1)}",
            level,
        )

    def _load_row(self, buffer: str, pointer: str, backwards: bool, copy: int, mask: str | None,
                  level: int) -> str:  # fmt: skip
        assert self.vector is not None
        lanes = self.vector.lanes
        dtype = self.buffers[buffer].dtype
        memory = memory_type(dtype)
        whole = vector_type(memory, lanes)
        if mask is not None and not self.target.masks_memory(dtype):
            return self._lane_by_lane(buffer, pointer, -1 if backwards else 1, copy, mask, level)
        at = self._row_pointer(buffer, pointer, backwards, copy, level)
        if mask is None:
            found = self.ins(f"load {whole}, ptr {at}, align {dtype.itemsize}", level)
        else:
            if backwards:
                mask = self._reverse("i1", mask, level)
            found = self.ins(
                f"call {whole} @llvm.masked.load.{mangled(memory, lanes)}.p0("
                f"ptr align {dtype.itemsize} {at}, {vector_type('i1', lanes)} {mask}, "
                f"{whole} zeroinitializer)",
                level,
            )
        return self._reverse(memory, found, level) if backwards else found

    def _shuffled_stride(self, place: Place) -> int:
        """The stride, where whole vectors, shuffled, are faster than a gather; else 0."""
        assert self.vector is not None
        stride = place.stride if isinstance(place.stride, int) else 0
        return stride if 1 < stride <= max(4, self.vector.lanes // 2) else 0

    def _load_spread(self, buffer: str, pointer: str, stride: int, copy: int, level: int) -> str:
        """Every stride-th element: whole vectors, shuffled; the last ends with the lanes."""
        assert self.vector is not None
        lanes = self.vector.lanes
        dtype = self.buffers[buffer].dtype
        whole = vector_type(memory_type(dtype), lanes)
        starts = [part * lanes for part in range(stride)]
        starts[-1] -= stride - 1
        found = ""
        picked: list[int] = []
        for start in starts:
            offset = copy * lanes * stride + start
            at = self.step(buffer, pointer, str(offset), level) if offset else pointer
            part = self.ins(f"load {whole}, ptr {at}, align {dtype.itemsize}", level)
            held = len(picked)
            in_part = [e - start for e in range(held * stride, lanes * stride, stride)]
            in_part = [e for e in in_part if e < lanes]
            if not found:
                found, picked = part, in_part
                continue
            rest = [lanes + e for e in in_part]
            numbers = picked + rest + [0] * (lanes - held - len(in_part))
            text = ", ".join(f"i32 {e}" for e in numbers)
            found = self.ins(
                f"shufflevector {whole} {found}, {whole} {part}, <{lanes} x i32> <{text}>", level
            )
            picked = list(range(held + len(in_part)))
        return found

    def _gather(self, buffer: str, place: Place, copy: int, mask: str | None, level: int) -> str:
        """Lanes from anywhere: an instruction where there is one."""
        stride = place.offsets if place.stride is None else place.stride
        assert stride is not None
        dtype = self.buffers[buffer].dtype
        if dtype.itemsize < 4 or self.target.level == "v2":
            return self._lane_by_lane(buffer, place.pointer, stride, copy, mask, level)
        assert self.vector is not None
        lanes = self.vector.lanes
        memory = memory_type(dtype)
        whole = vector_type(memory, lanes)
        places = self._lane_places(buffer, place.pointer, stride, copy, level)
        active = mask or "splat (i1 true)"
        return self.ins(
            f"call {whole} @llvm.masked.gather.{mangled(memory, lanes)}.v{lanes}p0("
            f"<{lanes} x ptr> align {dtype.itemsize} {places}, <{lanes} x i1> {active}, "
            f"{whole} zeroinitializer)",
            level,
        )

    def _lane_places(
        self, buffer: str, pointer: str, stride: int | str | Value, copy: int, level: int
    ) -> str:
        """The addresses of all lanes."""
        assert self.vector is not None
        lanes = self.vector.lanes
        if isinstance(stride, Value):
            offsets = f"<{lanes} x i64> {stride.op(copy)}"
        elif isinstance(stride, int) and abs(stride) < 1 << 20:
            offsets = f"<{lanes} x i32> {iota(lanes, stride, stride * copy * lanes)}"
        else:
            numbers = iota(lanes, 1, copy * lanes, "i64")
            every = self.splat("i64", str(stride), lanes, level)
            wide = self.ins(f"mul <{lanes} x i64> {numbers}, {every}", level)
            offsets = f"<{lanes} x i64> {wide}"
        memory = memory_type(self.buffers[buffer].dtype)
        return self.ins(f"getelementptr {memory}, ptr {pointer}, {offsets}", level)

    def _lane_pointer(self, buffer: str, pointer: str, stride: int | str | Value, copy: int,
                      lane: int, level: int) -> str:  # fmt: skip
        assert self.vector is not None
        lanes = self.vector.lanes
        if isinstance(stride, Value):
            if stride.op(copy) == "zeroinitializer":
                return pointer
            whole = vector_type("i64", lanes)
            offset = self.ins(f"extractelement {whole} {stride.op(copy)}, i32 {lane}", level)
            return self.step(buffer, pointer, offset, level)
        number = copy * lanes + lane
        if number == 0:
            return pointer
        if isinstance(stride, int):
            return self.step(buffer, pointer, str(number * stride), level)
        previous = self._lane_pointer(
            buffer, pointer, stride, (number - 1) // lanes, (number - 1) % lanes, level
        )
        return self.step(buffer, previous, stride, level)

    def _lane_by_lane(self, buffer: str, pointer: str, stride: int | str | Value, copy: int,
                      mask: str | None, level: int) -> str:  # fmt: skip
        assert self.vector is not None
        lanes = self.vector.lanes
        dtype = self.buffers[buffer].dtype
        memory = memory_type(dtype)
        whole = vector_type(memory, lanes)
        found = "poison"
        for lane in range(lanes):
            at = self._lane_pointer(buffer, pointer, stride, copy, lane, level)
            if mask is not None:
                bit = self.ins(f"extractelement <{lanes} x i1> {mask}, i32 {lane}", level)
                at = self.ins(f"select i1 {bit}, ptr {at}, ptr {self.dummy()}", level)
            one = self.ins(f"load {memory}, ptr {at}, align {dtype.itemsize}", level)
            found = self.ins(f"insertelement {whole} {found}, {memory} {one}, i32 {lane}", level)
        return found
