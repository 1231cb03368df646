"""Load: a Program becomes a Tape, with kernels from a backend; played, the runtime's Program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deepseek import _runtime
from deepseek.errors import CompileError
from deepseek.ir import scalar
from deepseek.ir.scalar import Expr
from deepseek.program import ir
from deepseek.program.ir import (
    Collective,
    Copy,
    Extern,
    For,
    Host,
    If,
    Launch,
    Program,
    Ref,
    Step,
    While,
)
from deepseek.program.tape import Tape, TapeBlock

_OPERATORS = {
    "add": "+",
    "mul": "*",
    "floordiv": "//",
    "mod": "%",
    "minimum": "min",
    "maximum": "max",
}


class Loader:
    """Translates one Program's slots and steps."""

    def __init__(self, program: Program, launchables: Sequence[Any]) -> None:
        self.program = program
        self.launchables = launchables
        self.symbols = {s: f"s{i}" for i, s in enumerate(program.symbols)}
        self.builder = Tape(len(program.symbols), program.name)
        self.loops: dict[int, int] = {}

    def record(self) -> Tape:
        for number, slot in enumerate(self.program.slots):
            assert self.declare(slot) == number
        self.fill(self.builder.main, self.program.body)
        return self.builder

    def declare(self, slot: ir.Slot) -> int:
        nbytes = self.expr(slot.nbytes)
        if slot.kind == ir.INPUT:
            return self.builder.input(nbytes, slot.label)
        if slot.kind == ir.OUTPUT:
            return self.builder.output(nbytes, slot.takes, slot.label)
        if slot.kind == ir.TEMP:
            return self.builder.temp(nbytes, slot.label)
        assert slot.array is not None
        data = slot.array.reshape(-1).view("uint8")
        return self.builder.constant(_runtime.Buffer.copy_of(data, "constant"), slot.label)

    def fill(self, block: TapeBlock, body: Sequence[Step]) -> None:
        for step in body:
            self.step(block, step)

    def step(self, block: TapeBlock, step: Step) -> None:
        match step:
            case Launch(kernel, rows, grain, label):
                self.launchables[kernel].add(
                    block, self.program.kernels[kernel], rows, grain, label, self
                )
            case Extern(routine, refs, sizes, label):
                block.extern(routine, self.refs(refs), [self.expr(s) for s in sizes], label)
            case Host(function, refs, _, sizes, label):
                block.host(function, self.refs(refs), [self.expr(s) for s in sizes], label)
            case Collective(m, reads, writes, label):
                data = [self.ref(r) for r in (*reads[1:], *writes[1:])] or [None, None]
                block.collective(
                    m.group, m.ranks, m.verb, m.dtype.name, m.reduction, m.peer, m.source,
                    self.expr(m.count), *data, label,
                )  # fmt: skip
            case Copy(target, source, nbytes, label):
                block.copy(self.ref(target), self.ref(source), self.expr(nbytes), label)
            case If(predicate, then, otherwise, label):
                block.if_(self.ref(predicate), self.block(then), self.block(otherwise), label)
            case While(condition, predicate, body, label):
                block.while_(self.block(condition), self.ref(predicate), self.block(body), label)
            case For(loop, count, body, label):
                self.loops[loop] = self.builder.loop()
                block.for_(self.loops[loop], self.expr(count), self.block(body), None, label)

    def block(self, body: Sequence[Step]) -> TapeBlock:
        made = self.builder.block()
        self.fill(made, body)
        return made

    def refs(self, refs: Sequence[Ref]) -> list[_runtime.Ref]:
        return [self.ref(r) for r in refs]

    def ref(self, ref: Ref) -> _runtime.Ref:
        if ref.loop is not None:
            return (ref.slot, self.expr(ref.offset), self.loops[ref.loop], self.expr(ref.stride))
        return ref.slot if ref.offset is scalar.ZERO else (ref.slot, self.expr(ref.offset))

    def rows(self, rows: Sequence[ir.Row]) -> list[_runtime.Row]:
        return [
            (self.refs(r.refs), [self.expr(s) for s in r.sizes], self.expr(r.grid)) for r in rows
        ]

    def expr(self, e: Expr) -> _runtime.Expr:
        """A size as the runtime's postfix form."""
        if e.fn == "const":
            return int(e.attr)
        out: list[int | str] = []
        self.postfix(e, out)
        return out

    def postfix(self, e: Expr, out: list[int | str]) -> None:
        if e.fn == "const":
            out.append(int(e.attr))
        elif e in self.symbols:
            out.append(self.symbols[e])
        elif e.fn in _OPERATORS:
            self.postfix(e.args[0], out)
            self.postfix(e.args[1], out)
            out.append(_OPERATORS[e.fn])
        else:
            raise CompileError(f"the size {e} is not an expression over {list(self.symbols)}")


def load(program: Program, launchables: Sequence[Any]) -> _runtime.Program:
    """The program, ready to run. `launchables` are its kernels, compiled, in order."""
    return record(program, launchables).build()


def record(program: Program, launchables: Sequence[Any]) -> Tape:
    """The program as the runtime takes it."""
    return Loader(program, launchables).record()
