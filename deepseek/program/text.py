"""Programs as text, and back: `print_program` and `parse_program` are each other's inverse.

    program 'step' (n0)
      %0 = input float32[n0, 4] 'x'
      %1 = output float32[n0] 'sum' takes %0
    do {
      launch 0 grain 64 'sum' {
        (%0, %1) (n0, 4) grid n0
      }
    } return %1
    kernel sum
    ...

Slots come first, then steps, then the text of every kernel. A reference is a slot, `%3[offset]`, or
`%3[offset, loop, stride]` inside a loop. Constants of more than a few elements stand outside, under
the hash of their bytes. A Host step has a text to read, but no way back: it is a Python function.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from deepseek.errors import FormatError
from deepseek.ir.dtype import DTYPES
from deepseek.ir.graph import Array
from deepseek.ir.op import Message
from deepseek.ir.scalar import ONE, ZERO, Expr
from deepseek.ir.text import WRITTEN_OUT, Parser, expr_text, literal_text, type_text
from deepseek.kernel.ir import Kernel
from deepseek.kernel.text import parse_kernel, print_kernel
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
    Slot,
    Step,
    While,
)

Constants = Mapping[str, bytes]


def print_program(program: Program, kernels: bool = True) -> str:
    """The program as text; without `kernels`, only its slots and steps."""
    symbols = ", ".join(expr_text(s) for s in program.symbols)
    lines = [f"program {program.name!r} ({symbols})"]
    lines += [f"  %{i} = {slot_text(slot)}" for i, slot in enumerate(program.slots)]
    outputs = ", ".join(f"%{o}" for o in program.outputs)
    lines += ["do {", *body_lines(program.body, "  "), f"}} return {outputs}".rstrip()]
    text = "\n".join(lines) + "\n"
    return text + "".join(map(print_kernel, program.kernels)) if kernels else text


def constants_of(program: Program) -> dict[str, bytes]:
    """The bytes of the constants that the text names by hash."""
    held = [s for s in program.slots if s.array is not None and not written_out(s)]
    arrays = [s.array.tobytes() for s in held if s.array is not None]
    return {content_hash(data): data for data in arrays}


def content_hash(data: bytes) -> str:
    """The hash of a constant's bytes; its type stands beside it."""
    return hashlib.sha256(data).hexdigest()[:32]


def written_out(slot: Slot) -> bool:
    return slot.array is not None and slot.array.size <= WRITTEN_OUT


# --------------------------------------------------------------------------------------- printing


def slot_text(slot: Slot) -> str:
    """A slot's declaration."""
    text = f"{slot.kind} {type_text(slot.type)}"
    if slot.kind == ir.CONSTANT:
        assert slot.array is not None
        if written_out(slot):
            text = f"{slot.kind} {literal_text(Array(slot.array, slot.type.dtype))}"
        else:
            text += f" from {content_hash(slot.array.tobytes())!r}"
    if slot.label:
        text += f" {slot.label!r}"
    return text if slot.takes is None else f"{text} takes %{slot.takes}"


def body_lines(body: Sequence[Step], indent: str) -> Iterator[str]:
    """The lines of a block."""
    for step in body:
        yield from (indent + line for line in step_lines(step))


def step_lines(step: Step) -> list[str]:
    """A step's lines."""
    label = f" {step.label!r}" if step.label else ""
    match step:
        case Launch(kernel, rows, grain):
            size = "" if grain is ONE else f" grain {expr_text(grain)}"
            return [f"launch {kernel}{size}{label} {{", *(f"  {row_text(r)}" for r in rows), "}"]
        case Extern(routine, refs, sizes):
            return [f"extern {routine!r} {refs_text(refs)} {sizes_text(sizes)}{label}"]
        case Host(_, refs, written, sizes):
            return [f"host {refs_text(refs)} {sizes_text(sizes)} writes {written}{label}"]
        case Collective(message, reads, writes):
            moved = f"{refs_text(reads)} to {refs_text(writes)}"
            return [f"collective {message_text(message)} {moved}{label}"]
        case Copy(target, source, nbytes):
            moved = f"{ref_text(target)} from {ref_text(source)} bytes {expr_text(nbytes)}"
            return [f"copy {moved}{label}"]
        case If(predicate, then, otherwise):
            head = f"if {ref_text(predicate)}{label} {{"
            return [head, *body_lines(then, "  "), "} else {", *body_lines(otherwise, "  "), "}"]
        case While(condition, predicate, body):
            head = f"}} while {ref_text(predicate)} {{"
            return [
                f"loop{label} {{",
                *body_lines(condition, "  "),
                head,
                *body_lines(body, "  "),
                "}",
            ]
        case For(loop, count, body):
            return [f"for {loop} to {expr_text(count)}{label} {{", *body_lines(body, "  "), "}"]


def message_text(m: Message) -> str:
    """What a collective's message says, its numbers in order: ranks, peer and source."""
    count = expr_text(m.count)
    numbers = f"({m.ranks}, {m.peer}, {m.source})"
    return f"{m.verb!r} in {m.group!r} {numbers} {m.reduction!r} of {count} {m.dtype.name}"


def row_text(row: Row) -> str:
    return f"{refs_text(row.refs)} {sizes_text(row.sizes)} grid {expr_text(row.grid)}"


def refs_text(refs: Sequence[Ref]) -> str:
    return f"({', '.join(map(ref_text, refs))})"


def sizes_text(sizes: Sequence[Expr]) -> str:
    return f"({', '.join(map(expr_text, sizes))})"


def ref_text(ref: Ref) -> str:
    if ref.loop is not None:
        return f"%{ref.slot}[{expr_text(ref.offset)}, {ref.loop}, {expr_text(ref.stride)}]"
    return f"%{ref.slot}" if ref.offset is ZERO else f"%{ref.slot}[{expr_text(ref.offset)}]"


# ---------------------------------------------------------------------------------------- parsing


def parse_program(text: str, constants: Constants | None = None) -> Program:
    """The program that `print_program` printed; `constants` are those of `constants_of`.

    Raises FormatError for text that is not a program, and for Host steps.
    """
    head, kernels = split_text(text)
    return ProgramParser(head, constants or {}).program(tuple(map(parse_kernel, kernels)))


def split_text(text: str) -> tuple[str, list[str]]:
    """The text of slots and steps, and that of each kernel."""
    parts = text.split("\nkernel ")
    return parts[0], [f"kernel {part}" for part in parts[1:]]


class ProgramParser(Parser):
    """Reads the slots and steps of a program."""

    def __init__(self, text: str, constants: Constants) -> None:
        super().__init__(text)
        self.constants = constants

    def program(self, kernels: tuple[Kernel, ...]) -> Program:
        """The whole text, with kernels that were read before."""
        self.expect("program")
        name = self.string("the program's name")
        self.expect("(")
        symbols = tuple(self.until(")", self.expr))
        slots: list[Slot] = []
        while not self.accept("do"):
            if self.slot_number() != len(slots):
                self.at -= 1
                self.fail(f"%{len(slots)}")
            slots.append(self.slot())
        body = self.block()
        self.expect("return")
        outputs: list[int] = []
        while self.tokens[self.at][0] == "value":
            outputs.append(self.slot_number())
            self.accept(",")
        self.end()
        return Program(symbols, tuple(slots), body, tuple(outputs), kernels, name)

    def string(self, wanted: str) -> str:
        self.take("string", wanted)
        self.at -= 1
        return str(self.operand())

    def label(self) -> str:
        return self.string("a label") if self.tokens[self.at][0] == "string" else ""

    def slot_number(self) -> int:
        return int(self.take("value", "a slot such as %0")[1:])

    def number(self) -> int:
        text = self.take("number", "a whole number")
        if not text.isdecimal():
            self.fail("a whole number")
        return int(text)

    def size_expr(self, word: str) -> Expr:
        """An expression after a word."""
        self.expect(word)
        return self.expr()

    # -------------------------------------------------------------------------------- slots

    def slot(self) -> Slot:
        self.expect("=")
        kind = self.take("name", "a kind of slot")
        if kind not in (ir.INPUT, ir.OUTPUT, ir.TEMP, ir.CONSTANT):
            self.at -= 1
            self.fail("input, output, temp or constant")
        type_ = self.type()
        array = self.constant(type_) if kind == ir.CONSTANT else None
        label = self.label()
        takes = self.slot_number() if self.accept("takes") else None
        return Slot(kind, type_, label, takes, array)

    def constant(self, type_: Any) -> np.ndarray[Any, Any]:
        if self.accept("{"):
            return self.array(type_).numpy
        self.expect("from")
        key = self.string("the hash of a constant")
        if key not in self.constants:
            self.fail(f"the bytes of the constant {key}")
        data, shape = self.constants[key], type_.shape
        if content_hash(data) != key or len(data) != type_.nbytes:
            raise FormatError(f"the constant {key} is not the {type_text(type_)} that is meant")
        return np.frombuffer(data, np.uint8).view(type_.dtype.numpy).reshape(shape)

    # -------------------------------------------------------------------------------- steps

    def block(self) -> tuple[Step, ...]:
        self.expect("{")
        steps: list[Step] = []
        while not self.accept("}"):
            steps.append(self.step())
        return tuple(steps)

    def step(self) -> Step:
        readers = {
            "launch": self.launch,
            "extern": self.extern,
            "host": self.host,
            "collective": self.collective,
            "copy": self.copy,
            "if": self.branch,
            "loop": self.while_loop,
            "for": self.for_loop,
        }
        word = self.take("name", "a step")
        if word not in readers:
            self.at -= 1
            self.fail(f"one of {', '.join(readers)}")
        return readers[word]()

    def launch(self) -> Step:
        kernel = self.number()
        grain = self.size_expr("grain") if self.peek() == "grain" else ONE
        label = self.label()
        self.expect("{")
        rows: list[Row] = []
        while not self.accept("}"):
            refs, sizes = self.refs(), self.sizes()
            rows.append(Row(refs, sizes, self.size_expr("grid")))
        return Launch(kernel, tuple(rows), grain, label)

    def extern(self) -> Step:
        routine = self.string("a routine's name")
        refs, sizes = self.refs(), self.sizes()
        return Extern(routine, refs, sizes, self.label())

    def host(self) -> Step:
        self.refs()
        self.sizes()
        self.expect("writes")
        self.number()
        raise FormatError(
            f"host step {self.label()!r} is a Python function, which saved programs cannot hold\n"
            "  help: leave it out of what is saved, or run the program where it was made"
        )

    def collective(self) -> Step:
        verb = self.string("what the ranks do")
        self.expect("in")
        group = self.string("a group's name")
        self.expect("(")
        ranks, peer, source = self.until(")", self.whole)
        reduction = self.string("a reduction")
        count = self.size_expr("of")
        dtype = DTYPES[self.take("name", "a dtype")]
        reads = self.refs()
        self.expect("to")
        message = Message(group, ranks, verb, dtype, count, reduction, peer, source)
        return Collective(message, reads, self.refs(), self.label())

    def whole(self) -> int:
        """A whole number, which may be below 0."""
        return int(self.expr().attr)

    def copy(self) -> Step:
        target = self.ref()
        self.expect("from")
        source = self.ref()
        nbytes = self.size_expr("bytes")
        return Copy(target, source, nbytes, self.label())

    def branch(self) -> Step:
        predicate, label = self.ref(), self.label()
        then = self.block()
        self.expect("else")
        return If(predicate, then, self.block(), label)

    def while_loop(self) -> Step:
        label = self.label()
        condition = self.block()
        self.expect("while")
        predicate = self.ref()
        return While(condition, predicate, self.block(), label)

    def for_loop(self) -> Step:
        loop = self.number()
        count = self.size_expr("to")
        label = self.label()
        return For(loop, count, self.block(), label)

    def refs(self) -> tuple[Ref, ...]:
        self.expect("(")
        return tuple(self.until(")", self.ref))

    def sizes(self) -> tuple[Expr, ...]:
        self.expect("(")
        return tuple(self.until(")", self.expr))

    def ref(self) -> Ref:
        slot = self.slot_number()
        if not self.accept("["):
            return Ref(slot)
        offset = self.expr()
        if self.accept("]"):
            return Ref(slot, offset)
        self.expect(",")
        loop = self.number()
        self.expect(",")
        stride = self.expr()
        self.expect("]")
        return Ref(slot, offset, loop, stride)
