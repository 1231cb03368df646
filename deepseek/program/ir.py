"""Programs: steps over slots of memory. The last of the three representations.

    Program(symbols, slots, body, outputs, kernels)
    Slot = input | output | temp | constant, of a number of bytes
    Step = Launch | Extern | Host | Collective | Copy | If | While | For

Sizes are expressions over `symbols`, evaluated once per binding. A `Ref` is a slot, or a part of
one that moves with a loop's index. The runtime executes a Program; `interpret.py` is its meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepseek.ir import scalar
from deepseek.ir.op import Message
from deepseek.ir.scalar import ZERO, Expr
from deepseek.ir.shape import TensorType
from deepseek.kernel.ir import Kernel

INPUT, OUTPUT, TEMP, CONSTANT = "input", "output", "temp", "constant"
HostFunction = Callable[[list[memoryview], tuple[int, ...]], None]


@dataclass(frozen=True, slots=True)
class Slot:
    """A piece of memory. `takes`: the input slot whose buffer an output may take over when
    donated.
    """

    kind: str
    type: TensorType
    label: str = ""
    takes: int | None = None
    array: np.ndarray[Any, Any] | None = field(default=None, compare=False)

    @property
    def nbytes(self) -> Expr:
        return scalar.as_expr(self.type.nbytes)


@dataclass(frozen=True, slots=True)
class Ref:
    """A slot, from `offset + index(loop) * stride` bytes on."""

    slot: int
    offset: Expr = ZERO
    loop: int | None = None
    stride: Expr = ZERO


@dataclass(frozen=True, slots=True)
class Row:
    """One set of arguments of a kernel: its buffers, its sizes, its grid."""

    refs: tuple[Ref, ...]
    sizes: tuple[Expr, ...]
    grid: Expr


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel (by number) over a table of rows."""

    kernel: int
    rows: tuple[Row, ...]
    grain: Expr = scalar.ONE
    label: str = ""


@dataclass(frozen=True, slots=True)
class Extern:
    """A routine of the runtime, by name."""

    routine: str
    refs: tuple[Ref, ...]
    sizes: tuple[Expr, ...] = ()
    label: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """A Python function under the GIL; inputs first, then what it writes."""

    function: HostFunction
    refs: tuple[Ref, ...]
    written: int
    sizes: tuple[Expr, ...] = ()
    label: str = ""


@dataclass(frozen=True, slots=True)
class Collective:
    """What the ranks of a group do together: turn and data in, turn and data out (see Message)."""

    message: Message
    reads: tuple[Ref, ...]
    writes: tuple[Ref, ...]
    label: str = ""


@dataclass(frozen=True, slots=True)
class Copy:
    target: Ref
    source: Ref
    nbytes: Expr
    label: str = ""


@dataclass(frozen=True, slots=True)
class If:
    """Reads one byte and runs one of two blocks."""

    predicate: Ref
    then: tuple[Step, ...]
    otherwise: tuple[Step, ...]
    label: str = ""


@dataclass(frozen=True, slots=True)
class While:
    """Runs `condition`, reads one byte, and while it is true runs `body`."""

    condition: tuple[Step, ...]
    predicate: Ref
    body: tuple[Step, ...]
    label: str = ""


@dataclass(frozen=True, slots=True)
class For:
    """Runs `body` count times; refs with this loop's number see its index."""

    loop: int
    count: Expr
    body: tuple[Step, ...]
    label: str = ""


Step = Launch | Extern | Host | Collective | Copy | If | While | For


@dataclass(frozen=True)
class Program:
    """Steps over slots. `outputs` are the slots that hold the results, which may repeat or be
    inputs.
    """

    symbols: tuple[Expr, ...]
    slots: tuple[Slot, ...]
    body: tuple[Step, ...]
    outputs: tuple[int, ...]
    kernels: tuple[Kernel, ...]
    name: str = "program"


def steps(body: tuple[Step, ...]) -> Iterator[Step]:
    """Every step, outer before inner."""
    for step in body:
        yield step
        for block in blocks(step):
            yield from steps(block)


def blocks(step: Step) -> tuple[tuple[Step, ...], ...]:
    """The blocks nested in a step."""
    match step:
        case If(_, then, otherwise, _):
            return then, otherwise
        case While(condition, _, body, _):
            return condition, body
        case For(_, _, body, _):
            return (body,)
        case _:
            return ()


def reads_writes(step: Step, kernels: tuple[Kernel, ...]) -> tuple[list[Ref], list[Ref]]:
    """What a step itself reads and writes (nested blocks apart)."""
    match step:
        case Launch(number, rows, _, _):
            globals_ = kernels[number].globals()
            reads = [
                r for row in rows for r, b in zip(row.refs, globals_, strict=True) if not b.written
            ]
            writes = [
                r for row in rows for r, b in zip(row.refs, globals_, strict=True) if b.written
            ]
            return reads, writes
        case Extern(_, refs, _, _):
            return [refs[0]], list(refs[1:])
        case Host(_, refs, written, _, _):
            return list(refs[: len(refs) - written]), list(refs[len(refs) - written :])
        case Collective(_, given, taken, _):
            return list(given), list(taken)
        case Copy(target, source, _, _):
            return [source], [target]
        case If(predicate, _, _, _) | While(_, predicate, _, _):
            return [predicate], []
        case _:
            return [], []


def cost(program: Program) -> dict[str, int]:
    """How many launches, externs, host calls, collectives and copies a program's text has."""
    names = {
        Launch: "launches", Extern: "externs", Host: "hosts", Collective: "collectives",
        Copy: "copies",
    }  # fmt: skip
    count = dict.fromkeys(names.values(), 0)
    for step in steps(program.body):
        if type(step) in names:
            count[names[type(step)]] += 1
    return count
