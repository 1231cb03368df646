"""A Kernel as LLVM IR text.

In flow a Kernel and a Target; out flows one function

    void NAME(ptr buffers, ptr sizes, i64 begin, i64 end, ptr scratch)

and behind it those that it calls, which the kernels of a module share.

`buffers` points to the addresses of the global buffers, `sizes` to the int64 sizes; the tasks from
`begin` to `end` of the flattened grid are run (the outermost axis slowest); `scratch`, aligned to
4096, holds this thread's shared buffers. There is no optimiser behind the text: what is hoisted,
widened and unrolled is so here.
"""

from __future__ import annotations

from deepseek.backends.cpu.emit_statements import stored
from deepseek.backends.cpu.emit_transpose import Transposes
from deepseek.backends.cpu.emit_types import Value, memory_type
from deepseek.backends.cpu.target import Target
from deepseek.ir.scalar import FALSE, ZERO, Expr, add, const, floordiv, free_of, mul, product
from deepseek.kernel.ir import GLOBAL as GLOBAL_SPACE
from deepseek.kernel.ir import (
    REGISTER,
    SHARED,
    Axis,
    Kernel,
    Let,
    Loop,
    Stmt,
    Store,
    buffers_read,
    expressions,
    statements,
)

SYMBOL = "@kernel"  # replaced by the function's own name when it is compiled
ALIGNMENT = 64
FILLS = (Loop, Let, Store)  # what statements that fill scratch are made of


def grid_extent(kernel: Kernel) -> Expr:
    """The number of tasks, over the sizes."""
    return product(axis.extent for axis in kernel.grid())


def scratch_bytes(kernel: Kernel) -> Expr:
    """Bytes of scratch that one thread needs, over the sizes."""
    return _scratch(kernel)[1]


def _scratch(kernel: Kernel) -> tuple[dict[str, Expr], Expr]:
    """Where each shared buffer begins, in bytes, and how many they take."""
    offsets: dict[str, Expr] = {}
    total = ZERO
    for buffer in kernel.buffers:
        if buffer.space == SHARED:
            assert buffer.size is not None
            offsets[buffer.name] = total
            size = mul(buffer.size, const(buffer.dtype.itemsize))
            blocks = floordiv(add(size, const(ALIGNMENT - 1)), const(ALIGNMENT))
            total = add(total, mul(blocks, const(ALIGNMENT)))
    return offsets, total


def emit(kernel: Kernel, target: Target) -> str:
    """The text of the kernel's function, under the name SYMBOL."""
    return Function(target).emit(kernel)


class Function(Transposes):
    """The frame: arguments, scratch and the grid."""

    def emit(self, kernel: Kernel) -> str:
        self.buffers = {b.name: b for b in kernel.buffers}
        self._find_mutable(kernel)
        self._arguments(kernel)
        self._find_streams(kernel)
        grid = kernel.grid()
        body = kernel.body
        for _ in grid:
            assert isinstance(body[0], Loop)
            body = body[0].body
        names = [b.name for b in kernel.buffers if b.space == REGISTER]
        self.prepare_registers(names, kernel.body)
        self._grid(grid, body)
        for condition in dict.fromkeys(self.streams.values()):
            self._guarded(condition, lambda: self.do("call void @llvm.x86.sse.sfence()"))
        self.do("ret void")
        return self._text(kernel)

    def _text(self, kernel: Kernel) -> str:
        comments = [f"; {kernel.name}"] + [f";   {line}" for line in kernel.lines]
        attributes = f'nounwind "target-cpu"="{self.target.cpu}" {self.target.attributes}'
        head = (
            f"define void {SYMBOL}(ptr noalias %buffers, ptr noalias %sizes, i64 %begin, i64 %end, "
            f"ptr noalias %scratch) {attributes} {{"
        )
        called = [text for _, text in self.functions.values()]
        body = [*self.entry, *self.block.lines, "}", ""]
        return "\n".join([*comments, head, "entry:", *body, *called])

    def _find_mutable(self, kernel: Kernel) -> None:
        """Buffers that are both read and written: their loads stay where they are."""
        read = buffers_read(kernel.body)
        self.mutable = frozenset(
            b.name
            for b in kernel.buffers
            if b.name in read and (b.written or b.space != GLOBAL_SPACE)
        )

    def _arguments(self, kernel: Kernel) -> None:
        for number, buffer in enumerate(kernel.globals()):
            at = self.ins(f"getelementptr ptr, ptr %buffers, i64 {number}", 0)
            self.pointers[buffer.name] = self.ins(f"load ptr, ptr {at}, align 8", 0)
        for number, size in enumerate(kernel.sizes):
            at = self.ins(f"getelementptr i64, ptr %sizes, i64 {number}", 0)
            self.bind(size, Value((self.ins(f"load i64, ptr {at}, align 8", 0),), 0, 0))
        offsets, _ = _scratch(kernel)
        for name, offset in offsets.items():
            distance = self.value(offset).ops[0]
            self.pointers[name] = self.ins(f"getelementptr i8, ptr %scratch, i64 {distance}", 0)
        for buffer in kernel.buffers:
            if buffer.space == REGISTER:
                assert buffer.size is not None
                self.pointers[buffer.name] = self.alloca(
                    f"[{buffer.size.value} x {memory_type(buffer.dtype)}], align 64"
                )

    def _find_streams(self, kernel: Kernel) -> None:
        """When to write past the caches: where that is wanted, unless it lies on an input."""
        inputs = [self.pointers[b.name] for b in kernel.globals() if not b.written]
        for buffer in kernel.globals():
            if buffer.streamed is FALSE or buffer.name in self.mutable:
                continue
            pointer = self.pointers[buffer.name]
            address = self.ins(f"ptrtoint ptr {pointer} to i64", 0)
            low = self.ins(f"and i64 {address}, {ALIGNMENT - 1}", 0)
            condition = self.ins(f"icmp eq i64 {low}, 0", 0)
            wanted = [self.ins(f"icmp ne ptr {pointer}, {other}", 0) for other in inputs]
            wanted.append(self.value(buffer.streamed).ops[0])
            for other in wanted:
                condition = self.ins(f"and i1 {condition}, {other}", 0)
            self.streams[buffer.name] = condition

    def _grid(self, grid: tuple[Axis, ...], body: tuple[Stmt, ...]) -> None:
        stores = stored(body)  # a load of what a task stores stays in the task
        if not grid:
            some = self.ins("icmp slt i64 %begin, %end", self.level)

            def once() -> list[str]:
                self.scopes[-1].stores = stores
                self.body(body)
                return []

            self.branch(some, [], [], once, certain=True)
            return
        last = grid[-1]
        common, body = shared_by_tasks(body, last.var)
        stores = stored(body)

        def task(index: str, _: list[str]) -> list[str]:
            self.bind(last.var, Value((index,), 0, self.level))
            self.body(body)
            return []

        if len(grid) == 1 and common:
            some = self.ins("icmp slt i64 %begin, %end", self.level)

            def all_tasks() -> list[str]:
                self.body(common)
                return self.loop("%begin", "%end", 1, [], [], task, nonempty=True, stores=stores)

            self.branch(some, [], [], all_tasks, certain=True)
            return
        if len(grid) == 1:
            self.loop("%begin", "%end", 1, [], [], task, nonempty=False, certain=True,
                      stores=stores)  # fmt: skip
            return
        extent = self.value(last.extent).ops[0]

        def run(first: str, _: list[str]) -> list[str]:
            """The tasks that share all coordinates but the last."""
            level = self.level
            start = self.ins(f"urem i64 {first}, {extent}", level)
            rest = self.ins(f"udiv i64 {first}, {extent}", level)
            for axis in reversed(grid[1:-1]):
                size = self.value(axis.extent).ops[0]
                at = self.ins(f"urem i64 {rest}, {size}", level)
                self.bind(axis.var, Value((at,), 0, level))
                rest = self.ins(f"udiv i64 {rest}, {size}", level)
            self.bind(grid[0].var, Value((rest,), 0, level))
            self.body(common)
            left = self.ins(f"sub i64 %end, {first}", level)
            reach = self.ins(f"add i64 {start}, {left}", level)
            stop = self.ins(f"call i64 @llvm.smin.i64(i64 {extent}, i64 {reach})", level)
            self.loop(start, stop, 1, [], [], task, nonempty=True, stores=stores)
            done = self.ins(f"sub i64 {stop}, {start}", level)
            return [self.ins(f"add i64 {first}, {done}", level)]

        self.run_loop(run, stored((*common, *body)))

    def run_loop(self, run: object, stores: frozenset[str]) -> None:
        """`first = begin; while first < end: first = run(first)`."""
        some = self.ins("icmp slt i64 %begin, %end", self.level)

        def inside() -> list[str]:
            parent = self.block
            label = self.name("run")
            first = f"%{self.name('t')}"
            block = type(parent)([], label)
            self.push(block, True, stores)
            (following,) = run(first, [])  # type: ignore[operator]
            again = self.ins(f"icmp slt i64 {following}, %end", self.level)
            done = self.name("done")
            block.lines.append(f"  br i1 {again}, label %{label}, label %{done}")
            self.pop()
            parent.lines.append(f"  br label %{label}")
            came_from = parent.label
            parent.lines.append(f"{label}:")
            parent.lines.append(
                f"  {first} = phi i64 [ %begin, %{came_from} ], [ {following}, %{block.label} ]"
            )
            parent.lines += block.lines
            self.start_block(done)
            return []

        self.branch(some, [], [], inside, certain=True)


def shared_by_tasks(
    body: tuple[Stmt, ...], task: Expr
) -> tuple[tuple[Stmt, ...], tuple[Stmt, ...]]:
    """The statements that do the same for all tasks along the last grid axis, and the others.

    They fill scratch that nothing else writes, from memory that nothing writes: a panel that
    neighbouring tasks share is packed once for all of them that a thread runs.
    """
    common: list[Stmt] = []
    for stmt in body:
        others = tuple(s for s in body if s is not stmt)
        written, read = stored((stmt,)), buffers_read((stmt,))
        fills = isinstance(stmt, Loop) and all(isinstance(s, FILLS) for s in statements((stmt,)))
        inside = all(free_of(e, task) for s in statements((stmt,)) for e in expressions(s))
        alone = written.isdisjoint(stored(others)) and read.isdisjoint(stored(body))
        if fills and inside and alone and written:
            common.append(stmt)
    return tuple(common), tuple(s for s in body if s not in common)
