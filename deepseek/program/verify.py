"""The rules that every Program keeps.

In flows a Program; out flows nothing, or a VerifyError that names the step or slot and the rule it
breaks: what is read was written before, inputs and constants are never written, each result is
written by one step, kernels get the buffers, sizes and grids they are made for, and every size is
known from the symbols.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from deepseek import _runtime
from deepseek.errors import VerifyError
from deepseek.ir import scalar
from deepseek.ir.op import Message
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
    Row,
    Step,
    While,
)
from deepseek.program.text import ref_text, slot_text

KINDS = (ir.INPUT, ir.OUTPUT, ir.TEMP, ir.CONSTANT)
SIZE_FUNCTIONS = ("add", "mul", "floordiv", "mod", "minimum", "maximum")


def verify(program: Program) -> None:
    """Check a program. Raises VerifyError."""
    checker = Checker(program)
    for problem in checker.problems():
        raise VerifyError(f"program {program.name!r}: {problem}")


class Checker:
    """What is known while walking over a program's steps."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.symbols = set(program.symbols)
        self.loops: set[int] = set()
        self.used_loops: set[int] = set()
        self.writers: dict[int, str] = {}  # output slot -> the top-level step that writes it

    def problems(self) -> Iterator[str]:
        slots = self.program.slots
        for number, slot in enumerate(slots):
            for problem in self.slot_problems(slot):
                yield f"slot {number} ({slot_text(slot)}): {problem}"
        written = {i for i, s in enumerate(slots) if s.kind in (ir.INPUT, ir.CONSTANT)}
        for position, step in enumerate(self.program.body):
            yield from self.step_problems(step, f"step {position}", written)
            yield from self.second_writes(step, f"step {position}")
        yield from self.reads_after_takeover()
        for number in self.program.outputs:
            if not 0 <= number < len(slots) or slots[number].kind not in (ir.INPUT, ir.OUTPUT):
                yield f"result %{number} is neither an input nor an output slot"
        for number, slot in enumerate(slots):
            if slot.kind == ir.OUTPUT and number not in written:
                yield f"output %{number} is never written"

    # ------------------------------------------------------------------------------------- slots

    def slot_problems(self, slot: ir.Slot) -> Iterator[str]:
        if slot.kind not in KINDS:
            yield f"no such kind: {slot.kind!r}"
        yield from self.size_problems("its size", [slot.nbytes])
        if (slot.kind == ir.CONSTANT) != (slot.array is not None):
            yield "constants have elements, and nothing else has"
        elif slot.array is not None:
            found = slot.array.dtype, slot.array.shape
            if found != (slot.type.dtype.numpy, slot.type.shape):
                yield f"its elements are {found[0]}{list(found[1])}"
        if slot.takes is not None:
            yield from self.takeover_problems(slot, slot.takes)

    def takeover_problems(self, slot: ir.Slot, takes: int) -> Iterator[str]:
        slots = self.program.slots
        if slot.kind != ir.OUTPUT:
            yield "only an output can take over an input"
        elif not 0 <= takes < len(slots) or slots[takes].kind != ir.INPUT:
            yield f"it takes over %{takes}, which is no input"
        elif slots[takes].nbytes is not slot.nbytes:
            yield f"it takes over %{takes}, which has another size"
        elif sum(s.takes == takes for s in slots) > 1:
            yield f"it takes over %{takes}, and so does another output"

    def size_problems(self, what: str, sizes: Iterable[Expr]) -> Iterator[str]:
        """Sizes are integer expressions over the program's symbols."""
        for size in sizes:
            for e in scalar.walk([size]):
                if e.fn == "var" and e not in self.symbols:
                    yield f"{what} reads {e}, which is no symbol of the program"
                elif e.fn not in ("var", "const") and e.fn not in SIZE_FUNCTIONS:
                    yield f"{what} uses {e.fn}, which sizes cannot"

    # ------------------------------------------------------------------------------------- steps

    def step_problems(self, step: Step, where: str, written: set[int]) -> Iterator[str]:
        """What is wrong with a step; adds the slots that it surely writes."""
        where = f"{where} ({type(step).__name__.lower()}{f' {step.label}' if step.label else ''})"
        refs = list(own_refs(step))
        for problem in self.ref_problems(refs):
            yield f"{where}: {problem}"
            return
        for problem in self.form_problems(step):
            yield f"{where}: {problem}"
            return
        if isinstance(step, While):
            yield from self.block_problems(step.condition, f"{where}, condition", written)
        reads, writes = ir.reads_writes(step, self.program.kernels)
        for ref in reads:
            if ref.slot not in written:
                yield f"{where}: reads %{ref.slot} before anything is written there"
        for ref in writes:
            kind = self.program.slots[ref.slot].kind
            if kind in (ir.INPUT, ir.CONSTANT):
                article = "an" if kind == ir.INPUT else "a"
                yield f"{where}: writes %{ref.slot}, which is {article} {kind}"
        written.update(r.slot for r in writes)
        yield from self.nested_problems(step, where, written)

    def nested_problems(self, step: Step, where: str, written: set[int]) -> Iterator[str]:
        match step:
            case If(_, then, otherwise):
                first, second = set(written), set(written)
                yield from self.block_problems(then, f"{where}, then", first)
                yield from self.block_problems(otherwise, f"{where}, else", second)
                written |= first & second
            case While(_, _, body):  # may run no time at all
                yield from self.block_problems(body, f"{where}, body", set(written))
            case For(loop, _, body):
                self.loops.add(loop)
                # Of a count of zero, what is written row by row has no rows.
                yield from self.block_problems(body, where, written)
                self.loops.discard(loop)

    def block_problems(self, body: Sequence[Step], where: str, written: set[int]) -> Iterator[str]:
        for position, step in enumerate(body):
            yield from self.step_problems(step, f"{where}, step {position}", written)

    def second_writes(self, step: Step, where: str) -> Iterator[str]:
        """Each result is written by one step, blocks and loops apart."""
        _, writes = ir.reads_writes(step, self.program.kernels)
        for number in {r.slot for r in writes}:
            if self.program.slots[number].kind != ir.OUTPUT:
                continue
            if number in self.writers:
                yield f"{where}: writes the output %{number}, as {self.writers[number]} does"
            self.writers[number] = where

    def reads_after_takeover(self) -> Iterator[str]:
        """Once an output has taken over an input's memory, nobody reads the input."""
        taken = {s.takes: i for i, s in enumerate(self.program.slots) if s.takes is not None}
        gone: dict[int, int] = {}
        for position, step in enumerate(self.program.body):
            flat = [ir.reads_writes(s, self.program.kernels) for s in ir.steps((step,))]
            for ref in (r for reads, _ in flat for r in reads):
                if ref.slot in gone:
                    by = f"%{taken[ref.slot]}, written in step {gone[ref.slot]}"
                    yield f"step {position}: reads %{ref.slot} after it was taken over by {by}"
            written = {r.slot for _, writes in flat for r in writes}
            for source, output in taken.items():
                if output in written:
                    gone.setdefault(source, position)

    def ref_problems(self, refs: Sequence[Ref]) -> Iterator[str]:
        for ref in refs:
            if not 0 <= ref.slot < len(self.program.slots):
                yield f"{ref_text(ref)} names no slot"
                return
            if ref.loop is not None and ref.loop not in self.loops:
                yield f"{ref_text(ref)} names loop {ref.loop} outside it"
            yield from self.size_problems(ref_text(ref), (ref.offset, ref.stride))
            size = self.program.slots[ref.slot].nbytes
            known = size.fn == "const" and ref.offset.fn == "const"
            if known and not 0 <= ref.offset.attr <= size.attr:
                yield f"{ref_text(ref)} begins outside its {size.attr} bytes"

    def form_problems(self, step: Step) -> Iterator[str]:
        """What is wrong with a step's own form."""
        match step:
            case Launch(kernel, rows, grain):
                if not 0 <= kernel < len(self.program.kernels):
                    yield f"there is no kernel {kernel}"
                    return
                yield from self.size_problems("its grain", [grain])
                for number, row in enumerate(rows):
                    for problem in self.row_problems(kernel, row):
                        yield f"row {number}: {problem}"
                        return
                yield from self.shared_rows(kernel, rows)
            case Extern(routine, _, sizes):
                if routine not in _runtime.extern_routines():
                    yield f"the runtime has no routine {routine!r}"
                yield from self.size_problems("its sizes", sizes)
            case Host(_, refs, count, sizes):
                if not 0 <= count <= len(refs):
                    yield f"writes {count} of {len(refs)} buffers"
                yield from self.size_problems("its sizes", sizes)
            case Collective(message, reads, writes):
                yield from self.message_problems(message, reads, writes)
            case Copy(_, _, nbytes):
                yield from self.size_problems("its size", [nbytes])
            case For(loop, count):
                yield from self.size_problems("its count", [count])
                if loop in self.used_loops:
                    yield f"loop {loop} exists twice"
                self.used_loops.add(loop)

    def message_problems(
        self, message: Message, reads: Sequence[Ref], writes: Sequence[Ref]
    ) -> Iterator[str]:
        yield from self.size_problems("its count", [message.count])
        if message.ranks < 1 or max(message.peer, message.source) >= message.ranks:
            yield f"{message} in a group of {message.ranks}"
        if not 1 <= len(reads) == len(writes) <= 2:
            yield f"reads {len(reads)} and writes {len(writes)} buffers; wanted its turn, and data"
        for ref in (*reads[1:], *writes[1:]):
            found = self.program.slots[ref.slot].type.dtype
            if found is not message.dtype:
                yield f"{ref_text(ref)} is {found}; its message is of {message.dtype}"

    def row_problems(self, number: int, row: Row) -> Iterator[str]:
        kernel = self.program.kernels[number]
        buffers = kernel.globals()
        if len(row.refs) != len(buffers) or len(row.sizes) != len(kernel.sizes):
            yield (
                f"{len(row.refs)} buffers and {len(row.sizes)} sizes; kernel {kernel.name!r} wants "
                f"{len(buffers)} and {len(kernel.sizes)}"
            )
            return
        yield from self.size_problems("a size", (*row.sizes, row.grid))
        for ref, buffer in zip(row.refs, buffers, strict=True):
            found = self.program.slots[ref.slot].type.dtype
            if found is not buffer.dtype:
                yield f"{ref_text(ref)} is {found}; kernel {kernel.name!r} wants {buffer.dtype}"
        arguments = dict(zip(kernel.sizes, row.sizes, strict=True))
        extents = scalar.product(axis.extent for axis in kernel.grid())
        grid = scalar.substitute(extents, arguments)
        if grid is not row.grid:
            yield f"a grid of {row.grid} tasks; kernel {kernel.name!r} has {grid}"

    def shared_rows(self, number: int, rows: Sequence[Row]) -> Iterator[str]:
        """Rows run side by side: none writes what another one reads or writes."""
        buffers = self.program.kernels[number].globals()
        readers: dict[int, set[int]] = {}
        writers: dict[int, int] = {}
        for at, row in enumerate(rows):
            for ref, buffer in zip(row.refs, buffers, strict=True):
                if not buffer.written:
                    readers.setdefault(ref.slot, set()).add(at)
                elif writers.setdefault(ref.slot, at) != at:
                    yield f"rows {writers[ref.slot]} and {at} both write %{ref.slot}"
        for slot, at in writers.items():
            if readers.get(slot, set()) - {at}:
                yield f"row {at} writes %{slot}, which another row reads"


def own_refs(step: Step) -> Iterator[Ref]:
    """The references of a step itself, blocks apart."""
    match step:
        case Launch(_, rows):
            for row in rows:
                yield from row.refs
        case Extern(_, refs) | Host(_, refs):
            yield from refs
        case Collective(_, reads, writes):
            yield from (*reads, *writes)
        case Copy(target, source):
            yield target
            yield source
        case If(predicate) | While(_, predicate):
            yield predicate
