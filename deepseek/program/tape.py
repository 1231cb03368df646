"""A Program as the runtime takes it: plain data, which caches can keep, and `play` to load it.

In flows what a Loader tells, in the words of the runtime's ProgramBuilder and Block; the tape
writes it down as tuples of names and numbers. Machine code, Python functions and constants stand
outside, in lists, and the tuples name them by position. Out flows the runtime's Program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from deepseek import _runtime
from deepseek._runtime import Buffer, Code

if TYPE_CHECKING:
    from deepseek._runtime import Expr, Ref, Row

Steps = list[tuple[Any, ...]]
Data = tuple[int, str, int, Steps, Steps]  # symbols, name, loops, slots, steps


class Tape:
    """Stands in for a ProgramBuilder. What its methods mean is said there."""

    def __init__(self, symbols: int, name: str) -> None:
        self.symbols = symbols
        self.name = name
        self.loops = 0
        self.slots: Steps = []
        self.main = TapeBlock(self)
        self.codes: list[Code] = []
        self.functions: list[Callable[..., None]] = []
        self.constants: list[Buffer] = []

    def slot(self, *what: Any) -> int:
        self.slots.append(what)
        return len(self.slots) - 1

    def input(self, nbytes: Expr, label: str = "") -> int:
        return self.slot("input", nbytes, label)

    def output(self, nbytes: Expr, may_alias: int | None = None, label: str = "") -> int:
        return self.slot("output", nbytes, may_alias, label)

    def temp(self, nbytes: Expr, label: str = "") -> int:
        return self.slot("temp", nbytes, label)

    def constant(self, buffer: Buffer, label: str = "") -> int:
        self.constants.append(buffer)
        return self.slot("constant", len(self.constants) - 1, label)

    def loop(self) -> int:
        self.loops += 1
        return self.loops - 1

    def block(self) -> TapeBlock:
        return TapeBlock(self)

    @property
    def data(self) -> Data:
        """All of it but what stands outside."""
        return self.symbols, self.name, self.loops, self.slots, self.main.steps

    def build(self) -> _runtime.Program:
        return play(self.data, self.codes, self.functions, self.constants)


class TapeBlock:
    """Stands in for a Block."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.steps: Steps = []

    def launch(
        self,
        code: Code,
        symbol: str,
        rows: Sequence[Row],
        scratch: Expr = 0,
        grain: Expr = 1,
        label: str = "",
    ) -> None:
        number = place(self.tape.codes, code)
        self.steps.append(("launch", number, symbol, rows, scratch, grain, label))

    def extern(
        self, routine: str, buffers: Sequence[Ref], sizes: Sequence[Expr] = (), label: str = ""
    ) -> None:
        self.steps.append(("extern", routine, buffers, sizes, label))

    def host(
        self,
        function: Callable[[list[memoryview], tuple[int, ...]], None],
        buffers: Sequence[Ref],
        sizes: Sequence[Expr] = (),
        label: str = "",
    ) -> None:
        number = place(self.tape.functions, function)
        self.steps.append(("host", number, buffers, sizes, label))

    def collective(self, *what: Any) -> None:
        self.steps.append(("collective", *what))

    def copy(self, dst: Ref, src: Ref, nbytes: Expr, label: str = "") -> None:
        self.steps.append(("copy", dst, src, nbytes, label))

    def sync(self, label: str = "") -> None:
        self.steps.append(("sync", label))

    def if_(
        self, predicate: Ref, then: TapeBlock, otherwise: TapeBlock, label: str = ""
    ) -> None:
        self.steps.append(("if", predicate, then.steps, otherwise.steps, label))

    def while_(
        self, condition: TapeBlock, predicate: Ref, body: TapeBlock, label: str = ""
    ) -> None:
        self.steps.append(("while", condition.steps, predicate, body.steps, label))

    def for_(
        self,
        loop: int,
        count: Expr,
        body: TapeBlock,
        count_slot: Ref | None = None,
        label: str = "",
    ) -> None:
        self.steps.append(("for", loop, count, body.steps, count_slot, label))


def place(items: list[Any], item: Any) -> int:
    """The position of an object in a list, where it is added if need be."""
    for number, other in enumerate(items):
        if other is item:
            return number
    items.append(item)
    return len(items) - 1


def play(
    data: Data,
    codes: Sequence[Code],
    functions: Sequence[Callable[..., None]],
    constants: Sequence[Buffer],
) -> _runtime.Program:
    """The runtime's Program of a tape."""
    symbols, name, loops, slots, steps = data
    builder = _runtime.ProgramBuilder(symbols, name)
    numbers = [builder.loop() for _ in range(loops)]
    assert numbers == list(range(loops))
    declare = {
        "input": builder.input,
        "output": builder.output,
        "temp": builder.temp,
        "constant": lambda number, label: builder.constant(constants[number], label),
    }
    for kind, *what in slots:
        declare[kind](*what)

    def block(steps: Steps) -> _runtime.Block:
        made = builder.block()
        fill(made, steps)
        return made

    def fill(target: _runtime.Block, steps: Steps) -> None:
        for kind, *what in steps:
            match kind:
                case "launch":
                    target.launch(codes[what[0]], *what[1:])
                case "extern":
                    target.extern(*what)
                case "host":
                    target.host(functions[what[0]], *what[1:])
                case "collective":
                    target.collective(*what)
                case "copy":
                    target.copy(*what)
                case "sync":
                    target.sync(*what)
                case "if":
                    predicate, then, otherwise, label = what
                    target.if_(predicate, block(then), block(otherwise), label)
                case "while":
                    condition, predicate, body, label = what
                    target.while_(block(condition), predicate, block(body), label)
                case "for":
                    loop, count, body, count_slot, label = what
                    target.for_(loop, count, block(body), count_slot, label)

    fill(builder.main, steps)
    return builder.build()
