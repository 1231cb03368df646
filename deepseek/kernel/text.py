"""Kernels as text, and back.

`print_kernel` writes a Kernel so that `parse_kernel` gives an equal one; equal kernels have equal
texts, so the text is what caches are keyed by. Expressions are Python's infix, `x[i]` loads, and
`x[i, guard, otherwise]` loads where the guard holds. A line `_1 := …` names a part that the next
statement uses more than once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import replace

from deepseek.ir.dtype import DType, bool_, int64
from deepseek.ir.scalar import FALSE, SIZE_BOUNDS, TRUE, Expr, walk
from deepseek.kernel.ir import (
    Axis,
    Barrier,
    Buffer,
    Carry,
    Fold,
    Kernel,
    Let,
    Loop,
    Mma,
    Prefetch,
    Stmt,
    Store,
)
from deepseek.kernel.text_parse import INFIX, parse_kernel

_SHARED_LENGTH = 20  # shorter parts are repeated
_DEPTH = 24  # deeper parts get a name, for the sake of readers and parsers

_PRECEDENCE = {"==": 6, "!=": 6, "<": 6, "<=": 6, "|": 7, "^": 8, "&": 9, "<<": 10, ">>": 10,
               "+": 11, "-": 11, "*": 12, "/": 12, "//": 12, "%": 12}  # fmt: skip
_SYMBOLS = {fn: symbol for symbol, fn in INFIX.items()}
_NOT = 5
_ATOM = 20


def print_kernel(kernel: Kernel) -> str:
    """The kernel's text."""
    head = [f"kernel {kernel.name}", *(f"line {line!r}" for line in kernel.lines)]
    return "\n".join(head) + "\n" + _after_head(replace(kernel, name="", lines=()))


@functools.lru_cache(maxsize=256)  # a kernel is looked up by its text, and then kept in a program's
def _after_head(kernel: Kernel) -> str:
    return _Printer().kernel(kernel)


class _Printer:
    """Collects lines; remembers the named parts of the statement being printed."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names = 0
        self.texts: dict[Expr, tuple[str, int, int]] = {}  # text, precedence, depth

    def kernel(self, kernel: Kernel) -> str:
        """All lines but the first ones, with its name and the user's lines."""
        for size in kernel.sizes:
            self.lines.append(f"size {self.declared(size, SIZE_BOUNDS, int64)}")
        for buffer in kernel.buffers:
            self.buffer(buffer)
        self.lines.append("body")
        self.body(kernel.body, 1)
        return "\n".join(self.lines) + "\n"

    def buffer(self, buffer: Buffer) -> None:
        text = f"{buffer.space} {buffer.name}: {buffer.dtype}"
        if buffer.size is not None:
            (size,) = self.texts_of(0, buffer.size)
            text += f"[{size}]"
        if buffer.written:
            text += " written"
        if buffer.streamed is not FALSE:
            (condition,) = self.texts_of(0, buffer.streamed)
            text += f" streamed if {condition}"
        self.lines.append(text)

    def body(self, stmts: Iterable[Stmt], indent: int) -> None:
        for stmt in stmts:
            self.statement(stmt, indent)

    def statement(self, stmt: Stmt, indent: int) -> None:
        match stmt:
            case Let(var, value):
                (text,) = self.texts_of(indent, value)
                self.line(indent, f"let {self.declared(var)} = {text}")
            case Store():
                self.store(stmt, indent)
            case Loop(axis, inner):
                self.axis(axis, indent, ":")
                self.body(inner, indent + 1)
            case Fold():
                self.fold(stmt, indent)
            case Mma():
                a_at, b_at, depth = self.texts_of(indent, stmt.a_at, stmt.b_at, stmt.depth)
                self.line(
                    indent,
                    f"mma({stmt.acc}, {stmt.a}, {a_at}, {stmt.b}, {b_at}, {depth}, "
                    f"{stmt.m}, {stmt.n}, {stmt.row}, {stmt.step}, {stmt.pitch}, {stmt.width})",
                )
            case Prefetch(buffer, place):
                (index,) = self.texts_of(indent, place)
                self.line(indent, f"prefetch {buffer}[{index}]")
            case Barrier():
                self.line(indent, "barrier")

    def store(self, stmt: Store, indent: int, word: str = "store") -> None:
        guard = () if stmt.guard is TRUE else (stmt.guard,)
        index, value, *rest = self.texts_of(indent, stmt.index, stmt.value, *guard)
        operator = "=" if stmt.atomic is None else "+="
        condition = f" if {rest[0]}" if rest else ""
        self.line(indent, f"{word} {stmt.buffer}[{index}] {operator} {value}{condition}")

    def axis(self, axis: Axis, indent: int, end: str = "") -> None:
        (extent,) = self.texts_of(indent, axis.extent)
        name = self.declared(axis.var, (0, axis.extent), int64)
        self.line(indent, f"{axis.kind} {name} to {extent}{end}")

    def fold(self, fold: Fold, indent: int) -> None:
        self.line(indent, f"fold in {fold.lanes}:")
        for axis in fold.axes:
            self.axis(axis, indent + 1)
        for carry in fold.carries:
            self.carry(carry, indent + 1)
        self.body(fold.body, indent + 1)
        for store in fold.prefix:
            self.store(store, indent + 1, "prefix")

    def carry(self, carry: Carry, indent: int) -> None:
        self.line(indent, f"carry {self.declared(carry.var)}")
        for word, e in (("init", carry.init), ("step", carry.step)):
            (text,) = self.texts_of(indent + 1, e)
            self.line(indent + 1, f"{word} {text}")
        self.line(indent + 1, f"other {self.declared(carry.other)}")
        (text,) = self.texts_of(indent + 1, carry.merge)
        self.line(indent + 1, f"merge {text}")

    def line(self, indent: int, text: str) -> None:
        self.lines.append("  " * indent + text)

    def declared(self, var: Expr, usual: tuple[object, object] = (None, None),
                 dtype: DType | None = None) -> str:  # fmt: skip
        """A variable where it is bound, with what the place does not imply."""
        name, low, extent = var.attr
        if (low, extent) == usual and var.dtype is dtype:
            return str(name)
        text = f"{name}: {var.dtype}"
        if low is not None or extent is not None:
            self.texts = {}
            high = "" if extent is None else self.text(extent)[0]
            text += f" in [{'' if low is None else low}, {high})"
        return text

    # -------------------------------------------------------------------------------- expressions

    def texts_of(self, indent: int, *roots: Expr) -> list[str]:
        """The texts of a statement's expressions, after lines that name their shared parts."""
        self.texts = {}
        uses: dict[Expr, int] = {}
        nodes = walk(roots)
        for e in (*(a for node in nodes for a in node.args), *roots):
            uses[e] = uses.get(e, 0) + 1
        for node in nodes:
            text, _, depth = self.text(node)
            shared = uses[node] > 1 and len(text) > _SHARED_LENGTH
            if shared or depth >= _DEPTH:
                self.names += 1
                name = f"_{self.names}"
                self.line(indent, f"{name} := {text}")
                self.texts[node] = name, _ATOM, 0
        return [self.text(root)[0] for root in roots]

    def text(self, e: Expr) -> tuple[str, int, int]:
        found = self.texts.get(e)
        if found is None:
            depth = 1 + max((self.text(a)[2] for a in e.args), default=-1)
            found = self.texts[e] = (*self.rendered(e), depth)
        return found

    def rendered(self, e: Expr) -> tuple[str, int]:
        match e.fn:
            case "const":
                plain = e.dtype in (int64, bool_)
                return (repr(e.attr) if plain else f"{e.dtype}({e.attr!r})"), _ATOM
            case "var":
                return str(e.attr[0]), _ATOM
            case "load":
                return f"{e.attr}[{self.list(e.args)}]", _ATOM
            case "cast" | "bitcast":
                return f"{e.fn}({self.list(e.args)}, {e.dtype})", _ATOM
        if e.fn == "bitxor" and e.args[1] is TRUE:
            return f"not {self.operand(e.args[0], _NOT)}", _NOT
        symbol = _SYMBOLS.get(e.fn)
        if symbol is None:
            return f"{e.fn}({self.list(e.args)})", _ATOM
        level = _PRECEDENCE[symbol]
        left = self.operand(e.args[0], level + (level == 6))
        return f"{left} {symbol} {self.operand(e.args[1], level + 1)}", level

    def operand(self, e: Expr, at_least: int) -> str:
        text, level, _ = self.text(e)
        return text if level >= at_least else f"({text})"

    def list(self, args: Sequence[Expr]) -> str:
        return ", ".join(self.text(a)[0] for a in args)


__all__ = ["parse_kernel", "print_kernel"]
