"""The meaning of a Program, in Python.

In flow a Program, its inputs' bytes and the sizes behind its symbols; out flow the outputs' bytes.
Each slot is an array of bytes of its own, filled with a pattern before it is written, so nothing
depends on an arena, on donation or on what memory held before. Launches run on the kernels'
interpreter. What other ranks would do, the caller says; without, there are none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from deepseek import _runtime
from deepseek.errors import VerifyError
from deepseek.ir import scalar
from deepseek.ir.dtype import DTYPES
from deepseek.ir.op import Message
from deepseek.ir.scalar import Expr
from deepseek.kernel.interpret import interpret as interpret_kernel
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

Bytes = np.ndarray[Any, Any]
Communicate = Callable[[Message, Bytes, Bytes], None]  # the message, bytes given and taken
UNWRITTEN = 0xA5


def interpret(
    program: Program,
    inputs: Sequence[Bytes],
    symbols: Sequence[int] = (),
    communicate: Communicate | None = None,
) -> list[Bytes]:
    """The bytes of the program's outputs; `inputs` are arrays of any type, as declared."""
    machine = Machine(program, symbols, communicate or alone)
    machine.give(inputs)
    machine.run(program.body)
    return [machine.memory[o] for o in program.outputs]


class Machine:
    """The memory of one run."""

    def __init__(
        self, program: Program, symbols: Sequence[int], communicate: Communicate
    ) -> None:
        self.program = program
        self.communicate = communicate
        self.env: dict[Expr, int] = dict(zip(program.symbols, symbols, strict=True))
        self.loops: dict[int, int] = {}
        self.memory: list[Bytes] = []
        for slot in program.slots:
            if slot.array is not None:
                self.memory.append(as_bytes(slot.array).copy())
            else:
                self.memory.append(np.full(self.size(slot.nbytes), UNWRITTEN, np.uint8))

    def give(self, inputs: Sequence[Bytes]) -> None:
        """Fill the input slots."""
        numbers = [i for i, slot in enumerate(self.program.slots) if slot.kind == ir.INPUT]
        for number, array in zip(numbers, inputs, strict=True):
            data = as_bytes(array)
            if data.size != self.memory[number].size:
                raise VerifyError(
                    f"program {self.program.name!r}: input {number} has {data.size} bytes; wanted "
                    f"{self.memory[number].size}"
                )
            self.memory[number] = data

    def size(self, e: Expr) -> int:
        return int(scalar.evaluate(e, self.env))

    def at(self, ref: Ref) -> Bytes:
        """The bytes from a reference to the end of its slot."""
        start = self.size(ref.offset)
        if ref.loop is not None:
            start += self.loops[ref.loop] * self.size(ref.stride)
        data = self.memory[ref.slot]
        if not 0 <= start <= data.size:
            raise VerifyError(f"{ref} begins at byte {start} of {data.size}")
        return data[start:]

    def true(self, ref: Ref) -> bool:
        return bool(self.at(ref)[0])

    def run(self, body: Sequence[Step]) -> None:
        for step in body:
            self.step(step)

    def step(self, step: Step) -> None:
        match step:
            case Launch(number, rows):
                kernel = self.program.kernels[number]
                for row in rows:
                    buffers = [
                        typed(self.at(ref), buffer.dtype.numpy)
                        for ref, buffer in zip(row.refs, kernel.globals(), strict=True)
                    ]
                    interpret_kernel(kernel, buffers, [self.size(s) for s in row.sizes])
            case Extern(routine, refs, sizes):
                run_extern(routine, [self.at(r) for r in refs], [self.size(s) for s in sizes])
            case Host(function, refs, _, sizes):
                views = [self.at(r).data for r in refs]
                function(views, tuple(self.size(s) for s in sizes))
            case Collective(message, reads, writes):
                given, taken = ([self.at(r) for r in refs[1:]] for refs in (reads, writes))
                if given:
                    count = self.size(message.count)
                    self.communicate(message._replace(count=count), given[0], taken[0])
            case Copy(target, source, nbytes):
                count = self.size(nbytes)
                self.at(target)[:count] = self.at(source)[:count]
            case If(predicate, then, otherwise):
                self.run(then if self.true(predicate) else otherwise)
            case While(condition, predicate, body):
                self.run(condition)
                while self.true(predicate):
                    self.run(body)
                    self.run(condition)
            case For(loop, count, body):
                for index in range(self.size(count)):
                    self.loops[loop] = index
                    self.run(body)


def as_bytes(array: Bytes) -> Bytes:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def typed(data: Bytes, dtype: np.dtype[Any]) -> Bytes:
    """Bytes as elements; what is left over at the end belongs to none."""
    return data[: data.size // dtype.itemsize * dtype.itemsize].view(dtype)


def alone(message: Message, given: Bytes, taken: Bytes) -> None:
    """A world of one rank: what is given is taken. Raises VerifyError for a larger one."""
    if message.ranks != 1:
        raise VerifyError(f"{message}: the interpreter is told of no other ranks")
    nbytes = message.count * message.dtype.itemsize
    taken[:nbytes] = given[:nbytes]


# --------------------------------------------------------------------------------------- routines


def run_extern(routine: str, buffers: Sequence[Bytes], sizes: Sequence[int]) -> None:
    """A routine of the runtime, in NumPy. Raises VerifyError for one that has no meaning here."""
    if routine not in ROUTINES:
        raise VerifyError(f"the routine {routine!r} is unknown; known: {', '.join(ROUTINES)}")
    ROUTINES[routine](buffers, sizes)


def sort(buffers: Sequence[Bytes], sizes: Sequence[int]) -> None:
    """Sort rows, stable either way, NaN the largest: values and where they came from."""
    rows, n, code, descending = sizes
    dtype = DTYPES[_runtime.SORT_DTYPES[code]].numpy
    x, values = (typed(b, dtype)[: rows * n].reshape(rows, n) for b in buffers[:2])
    indices = typed(buffers[2], np.dtype(np.int64))[: rows * n].reshape(rows, n)
    if descending:  # reversed before and after, so that equal elements keep their order
        order = n - 1 - np.argsort(keys(x[:, ::-1]), axis=1, kind="stable")[:, ::-1]
    else:
        order = np.argsort(keys(x), axis=1, kind="stable")
    indices[...] = order
    values[...] = np.take_along_axis(x, order, axis=1)


def keys(x: Bytes) -> Bytes:
    """Elements that NumPy sorts as the runtime does."""
    return x.astype(np.float32) if x.dtype.name in ("bfloat16", "float16") else x


ROUTINES: Mapping[str, Callable[[Sequence[Bytes], Sequence[int]], None]] = {"sort": sort}
