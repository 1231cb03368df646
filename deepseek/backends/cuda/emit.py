"""A Kernel as CUDA C++ text.

In flow a Kernel; out flows the text of one `extern "C"` function, and before it those that it
calls, which the kernels of a module share. Arguments are the global buffers in order, then the
sizes, then, where the mapping says that scratch is brought, a pointer to that of all teams. Any
number of blocks runs the kernel whole: a team takes every so many tasks.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

from deepseek.backends.cuda.basics import THREAD
from deepseek.backends.cuda.c_types import c_type, counter_type, fits_int, value_type
from deepseek.backends.cuda.expressions import Expressions, Scope
from deepseek.backends.cuda.functions import ATOM, SUM, Text, inside
from deepseek.backends.cuda.hazards import Access, Hazards, memory_of, shared_memory
from deepseek.backends.cuda.mapping import Mapping, mapping_of
from deepseek.backends.cuda.statements import Statements
from deepseek.ir.scalar import ONE, walk
from deepseek.kernel import polyfill
from deepseek.kernel.ir import (
    GLOBAL,
    Axis,
    Buffer,
    Kernel,
    Loop,
    Stmt,
    expressions,
    statements,
)

PRELUDE = Path(__file__).with_name("prelude.cuh")


@dataclass(frozen=True)
class Emitted:
    """A kernel's text, and those of the functions it calls, by their first lines."""

    text: str
    functions: tuple[tuple[str, str], ...]

    def whole(self) -> str:
        return "\n".join([*(text for _, text in self.functions), self.text])


@functools.cache
def prelude() -> str:
    """What all kernels of a module may call."""
    return PRELUDE.read_text()


@functools.cache
def prelude_hash() -> str:
    return hashlib.sha256(prelude().encode()).hexdigest()


def module_text(kernels: list[Emitted]) -> str:
    """Kernels as one module."""
    shared = dict(f for kernel in kernels for f in kernel.functions)
    return "\n".join([prelude(), *shared.values(), *(kernel.text for kernel in kernels)])


def emit(kernel: Kernel, symbol: str) -> Emitted:
    """The kernel as a function of that name."""
    return Function(kernel).emit(symbol)


class Function(Statements):
    """The frame of a kernel: arguments, scratch and the loop over tasks."""

    def __init__(self, kernel: Kernel) -> None:
        self.mapping: Mapping = mapping_of(kernel)
        super().__init__(self.mapping.team, Hazards(memory_of(kernel, self.mapping.team)))
        self.kernel = kernel
        self.buffers = {b.name: b for b in kernel.buffers}
        self.exchanged = {}
        self.mutable = _mutable(kernel)

    def emit(self, symbol: str) -> Emitted:
        self.scopes[-1].names |= {*self.buffers}
        for size in self.kernel.sizes:
            self.bind_index(size, size.name)
        grid = self.kernel.grid()
        body = self.kernel.body
        for _ in grid:
            assert isinstance(body[0], Loop)
            body = body[0].body
        self._tasks(grid, body)
        functions = tuple(_polyfill(p) for p in self.polyfills.values())
        lines = [*self._comments(), *self._head(symbol), *self._scratch(), *self.lines, "}", ""]
        return Emitted("\n".join(lines), functions)

    # ------------------------------------------------------------------------------------- outside

    def _comments(self) -> list[str]:
        m = self.mapping
        runs = {1: "one thread", 32: "a warp"}.get(m.team, f"{m.team} threads")
        shared = f", {m.teams} to a block" if m.teams > 1 else ""
        about = f"// {self.kernel.name}: {runs} for each task{shared}"
        return [about, *(f"//   {line}" for line in self.kernel.lines)]

    def _head(self, symbol: str) -> list[str]:
        aliased = {name for pair in shared_memory(self.kernel) for name in pair}
        arguments = []
        for buffer in self.kernel.globals():
            const = "" if buffer.written else "const "
            restrict = "" if buffer.name in aliased else " __restrict__"
            arguments.append(f"{const}{c_type(buffer.dtype)}*{restrict} {buffer.name}")
        arguments += [f"const int64 {self.known(size)}" for size in self.kernel.sizes]
        if self.mapping.brought:
            arguments.append("char* scratch")
        head = f'extern "C" __global__ void __launch_bounds__({self.mapping.threads})'
        return [f"{head} {symbol}({', '.join(arguments)}) {{"]

    def _scratch(self) -> list[str]:
        """The declarations of scratch, each team's its own."""
        m = self.mapping
        lines = [f"  {_array(b)};" for b in m.local]
        lines += [f"  __shared__ {_array(b, self._all(b), m.teams)};" for b in m.shared]
        if m.teams > 1:
            lines += [
                f"  {c_type(b.dtype)}* const {b.name} = {self._all(b)}[threadIdx.y];"
                for b in m.shared
            ]
        for name, (kind, length) in self.exchanged.items():
            lines.append(f"  __shared__ {kind} {name}[{length}];")
        if m.brought:
            sizes = Expressions()
            sizes.scopes[0] = Scope(dict(self.scopes[0].known), set(self.scopes[0].names))
            sizes.indices = set(self.kernel.sizes)
            team = "blockIdx.x"
            if m.teams > 1:
                own = THREAD if m.team == 1 else "threadIdx.y"
                team = f"(blockIdx.x * {m.teams} + {own})"
            sizes.line(f"char* const own = scratch + {team} * int64({sizes.value(m.scratch)});")
            for buffer, offset in m.brought:
                kind = c_type(buffer.dtype)
                at = sizes.value(offset)
                sizes.line(f"{kind}* const {buffer.name} = ({kind}*)(own + {at});")
            lines += sizes.lines
        return lines

    def _all(self, buffer: Buffer) -> str:
        """The name of the array that holds a buffer of all teams of a block."""
        return f"all_{buffer.name}" if self.mapping.teams > 1 else buffer.name

    # --------------------------------------------------------------------------------------- tasks

    def _tasks(self, grid: tuple[Axis, ...], body: tuple[Stmt, ...]) -> None:
        """Teams take tasks in turn; the last grid axis varies fastest."""
        if not grid:
            if self.mapping.team == 1:
                with self.braces("if (blockIdx.x == 0 && threadIdx.x == 0)"):
                    self.run(body)
            else:
                with self.braces("if (blockIdx.x == 0)"):
                    self.run_team(body)
            return
        first, step = self._turns()
        tasks = self.value(self.mapping.tasks)
        kind = counter_type(self.mapping.tasks)
        alone = len([a for a in grid if a.extent is not ONE]) == 1
        wanted = next(a for a in grid if a.extent is not ONE).var.name if alone else "task"
        task = self.fresh(wanted)
        start = first if kind == "int" else f"int64({first})"
        with self.braces(f"for ({kind} {task} = {start}; {task} < {tasks}; {task} += {step})"):
            self._coordinates(grid, task, kind)
            if self.mapping.team == 1:
                self.run(body)
            else:
                self.run_team(body)
                self._before_next_task(body)

    def _turns(self) -> tuple[str, str]:
        """A team's first task, and how many tasks on its next one is."""
        m = self.mapping
        if m.teams == 1:
            return "blockIdx.x", "gridDim.x"
        own = THREAD if m.team == 1 else "threadIdx.y"
        block = "blockIdx.x" if fits_int(m.blocks) else "int64(blockIdx.x)"
        stride = "gridDim.x" if fits_int(m.blocks) else "int64(gridDim.x)"
        return f"{block} * {m.teams} + {own}", f"{stride} * {m.teams}"

    def _coordinates(self, grid: tuple[Axis, ...], task: str, kind: str) -> None:
        """The place of a task along each grid axis."""
        for axis in grid:
            if axis.extent is ONE:
                self.know_index(axis.var, "0")
        axes = [a for a in grid if a.extent is not ONE]
        if not axes:
            return
        rest = task
        outermost, *inner = axes
        for axis in reversed(inner):
            extent = inside(Text(self.value(axis.extent), SUM), ATOM)
            extent = extent[1:-1] if extent[1:-1].isalnum() else extent
            name = self.fresh(axis.var.name)
            self.line(f"const {value_type(axis.var)} {name} = {rest} % {extent};")
            self.know_index(axis.var, name)
            if axis is not inner[0]:
                after = self.fresh("rest")
                self.line(f"const {kind} {after} = {rest} / {extent};")
                rest = after
            else:
                rest = f"{rest} / {extent}"
        if inner:
            name = self.fresh(outermost.var.name)
            self.line(f"const {value_type(outermost.var)} {name} = {rest};")
            rest = name
        self.know_index(outermost.var, rest)

    def _before_next_task(self, body: tuple[Stmt, ...]) -> None:
        """Scratch is the next task's when all threads are done with this one's."""
        scratch = {b.name for b in self.kernel.buffers if b.space != GLOBAL}
        whole = self.hazards.access(body)
        again = Access(whole.reads & scratch, whole.writes & scratch)
        if self.hazards.pending.conflicts(again):
            self.barrier()


def _array(buffer: Buffer, name: str = "", teams: int = 1) -> str:
    assert buffer.size is not None
    of_teams = f"[{teams}]" if teams > 1 else ""
    length = max(1, int(buffer.size.value))
    return f"{c_type(buffer.dtype)} {name or buffer.name}{of_teams}[{length}]"


def _mutable(kernel: Kernel) -> frozenset[str]:
    """Buffers that are written, of which each statement may read something else."""
    nodes = walk([e for s in statements(kernel.body) for e in expressions(s)])
    read = {e.name for e in nodes if e.fn == "load"}
    changing = {b.name for b in kernel.buffers if b.written or b.space != GLOBAL}
    return frozenset(read & changing)


@functools.cache
def _polyfill(program: polyfill.Program) -> tuple[str, str]:
    """A polyfill as a device function: its first line, and all of it."""
    writer = Expressions()
    kinds = [c_type(p.dtype) for p in program.parameters]
    names = [writer.bind(p, p.name) for p in program.parameters]
    arguments = ", ".join(f"{k} {n}" for k, n in zip(kinds, names, strict=True))
    head = f"static __device__ {c_type(program.result.dtype)} {program.name}({arguments})"
    writer.line(f"return {writer.value(program.result)};")
    return head, "\n".join([f"{head} {{", *writer.lines, "}", ""])
