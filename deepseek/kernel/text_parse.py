"""From the text of a Kernel to the Kernel.

Lines are read by their first word and indentation; expressions by Python's own parser, whose tree
is only walked, never run. Nodes are made as written, without simplification, so that they come out
the same.
"""

from __future__ import annotations

import ast
import math
import re
from dataclasses import dataclass
from typing import Any

from deepseek.errors import DeepseekError, FormatError
from deepseek.ir.dtype import DTYPES, DType, bool_, int64
from deepseek.ir.scalar import FALSE, FUNCTIONS, SIZE_BOUNDS, TRUE, Expr, const, make
from deepseek.kernel.ir import (
    GLOBAL,
    GRID,
    REGISTER,
    SERIAL,
    SHARED,
    UNROLL,
    VECTOR,
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

INFIX = {"+": "add", "-": "sub", "*": "mul", "/": "div", "//": "floordiv", "%": "mod",
         "&": "bitand", "|": "bitor", "^": "bitxor", "<<": "shl", ">>": "shr", "==": "eq",
         "!=": "ne", "<": "lt", "<=": "le"}  # fmt: skip

_OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%",
    ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^", ast.LShift: "<<", ast.RShift: ">>",
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=",
}  # fmt: skip

_KINDS = (GRID, SERIAL, VECTOR, UNROLL)
_SPACES = (GLOBAL, SHARED, REGISTER)
_DECLARED = re.compile(r"(\w+)(?:: (\w+)(?: in \[(-?\d*), (.*)\))?)?")
_BUFFER = re.compile(r"(\w+): (\w+)(?:\[(.*)\])?( written)?(?: streamed if (.*))?")


def parse_kernel(text: str) -> Kernel:
    """The kernel that `print_kernel` wrote; FormatError tells the line that is not of its form."""
    parser = _Parser(text)
    try:
        return parser.kernel()
    except (SyntaxError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        if isinstance(error, DeepseekError):
            raise
        number, line = parser.current()
        raise FormatError(f"kernel text, line {number}: cannot read {line!r} ({error})") from error


@dataclass(slots=True)
class _Line:
    number: int
    indent: int
    word: str
    rest: str


class _Parser:
    def __init__(self, text: str) -> None:
        self.lines = []
        for number, raw in enumerate(text.splitlines(), 1):
            stripped = raw.strip()
            if stripped:
                word, _, rest = stripped.partition(" ")
                indent = (len(raw) - len(raw.lstrip())) // 2
                self.lines.append(_Line(number, indent, word, rest))
        self.at = 0
        self.scope: dict[str, Expr] = {}
        self.buffers: dict[str, Buffer] = {}

    def current(self) -> tuple[int, str]:
        line = self.lines[min(self.at, len(self.lines) - 1)] if self.lines else _Line(1, 0, "", "")
        return line.number, f"{line.word} {line.rest}".strip()

    def peek(self, word: str, indent: int) -> bool:
        if self.at >= len(self.lines):
            return False
        line = self.lines[self.at]
        return line.word == word and line.indent == indent

    def take(self, word: str, indent: int) -> str:
        self.names(indent)
        if not self.peek(word, indent):
            raise ValueError(f"wanted {word!r}")
        return self.next().rest

    def next(self) -> _Line:
        self.at += 1
        return self.lines[self.at - 1]

    def names(self, indent: int) -> None:
        """Read the lines that name shared parts."""
        while self.at < len(self.lines):
            line = self.lines[self.at]
            if line.indent != indent or not line.rest.startswith(":= "):
                return
            self.scope[line.word] = self.expr(line.rest[3:])
            self.at += 1

    # ----------------------------------------------------------------------------------- structure

    def kernel(self) -> Kernel:
        name = self.take("kernel", 0)
        lines: list[str] = []
        while self.peek("line", 0):
            lines.append(ast.literal_eval(self.next().rest))
        sizes: list[Expr] = []
        while self.peek("size", 0):
            sizes.append(self.declare(self.lines[self.at].rest, SIZE_BOUNDS, int64))
            self.at += 1
        self.names(0)
        while self.at < len(self.lines) and self.lines[self.at].word in _SPACES:
            self.buffer(self.lines[self.at])
            self.at += 1
            self.names(0)
        self.take("body", 0)
        body = self.body(1)
        if self.at < len(self.lines):
            raise ValueError("not expected here")
        return Kernel(name, tuple(self.buffers.values()), tuple(sizes), body, tuple(lines))

    def buffer(self, line: _Line) -> None:
        match = _BUFFER.fullmatch(line.rest)
        if match is None:
            raise ValueError("wanted name: dtype[size]")
        name, dtype, size, written, streamed = match.groups()
        extent = None if size is None else self.expr(size)
        hint = FALSE if streamed is None else self.expr(streamed)
        self.buffers[name] = Buffer(
            name, DTYPES[dtype], line.word, extent, written is not None, hint
        )

    def body(self, indent: int) -> tuple[Stmt, ...]:
        outer = dict(self.scope)
        out: list[Stmt] = []
        while True:
            self.names(indent)
            if self.at >= len(self.lines) or self.lines[self.at].indent < indent:
                break
            stmt = self.statement(indent)
            if stmt is None:
                break
            out.append(stmt)
        self.scope = outer
        return tuple(out)

    def statement(self, indent: int) -> Stmt | None:
        line = self.lines[self.at]
        if line.indent != indent:
            raise ValueError("indentation")
        if line.word in _KINDS:
            return self.loop(line, indent)
        if line.word == "fold":
            return self.fold(indent)
        if line.word == "let":
            name, _, value = line.rest.partition(" = ")
            e = self.expr(value)
            let = Let(self.declare(name), e)
            self.at += 1
            return let
        if line.word in ("store", "prefix"):
            store = self.store(line.rest)
            self.at += 1
            return store
        if line.word.startswith("mma("):
            mma = self.mma(f"{line.word} {line.rest}")
            self.at += 1
            return mma
        if line.word == "prefetch":
            prefetch = Prefetch(*self.place(line.rest))
            self.at += 1
            return prefetch
        if line.word == "barrier":
            self.at += 1
            return Barrier()
        raise ValueError("no such statement")

    def loop(self, line: _Line, indent: int) -> Loop:
        outer = dict(self.scope)
        axis = self.axis(line, ":")
        self.at += 1
        loop = Loop(axis, self.body(indent + 1))
        self.scope = outer
        return loop

    def axis(self, line: _Line, end: str) -> Axis:
        name, _, extent = line.rest.removesuffix(end).rpartition(" to ")
        e = self.expr(extent)
        return Axis(self.declare(name, (0, e), int64), e, line.word)

    def fold(self, indent: int) -> Fold:
        outer = dict(self.scope)
        lanes = int(self.next().rest.removeprefix("in ").removesuffix(":"))
        inner = indent + 1
        axes: list[Axis] = []
        self.names(inner)
        while self.lines[self.at].indent == inner and self.lines[self.at].word in _KINDS:
            axes.append(self.axis(self.lines[self.at], ""))
            self.at += 1
            self.names(inner)
        steps = self.carries(inner)
        body: list[Let | Prefetch] = []
        while self.at < len(self.lines) and self.peek_statement(("let", "prefetch"), inner):
            stmt = self.statement(inner)
            assert isinstance(stmt, Let | Prefetch)
            body.append(stmt)
        # The steps come before the lets that they use: they are read last.
        carries = self.finish(steps)
        prefix: list[Store] = []
        while self.at < len(self.lines) and self.peek_statement(("prefix",), inner):
            store = self.statement(inner)
            assert isinstance(store, Store)
            prefix.append(store)
        self.scope = outer
        for carry in carries:
            self.scope[carry.var.name] = carry.var
        return Fold(tuple(axes), carries, tuple(body), tuple(prefix), lanes)

    def peek_statement(self, words: tuple[str, ...], indent: int) -> bool:
        """Whether the next statement starts with one of the words; if so, names are read."""
        at = self.at
        while at < len(self.lines) and self.lines[at].rest.startswith(":= "):
            at += 1
        if at >= len(self.lines) or self.lines[at].indent != indent:
            return False
        if self.lines[at].word not in words:
            return False
        self.names(indent)
        return True

    def carries(self, indent: int) -> list[tuple[Expr, Expr, int, Expr, int]]:
        """Each carry's variables and init, and where its step and merge stand."""
        found: list[tuple[Expr, Expr, int, Expr, int]] = []
        while self.peek("carry", indent):
            var_text = self.next().rest
            init = self.expr(self.take("init", indent + 1))
            step = self.skip("step", indent + 1)
            other = self.declare(self.take("other", indent + 1))
            merge = self.skip("merge", indent + 1)
            found.append((self.declare(var_text), init, step, other, merge))
        return found

    def skip(self, word: str, indent: int) -> int:
        """Pass over a line and the names before it; where they begin."""
        start = self.at
        while self.lines[self.at].rest.startswith(":= "):
            self.at += 1
        if not self.peek(word, indent):
            raise ValueError(f"wanted {word!r}")
        self.at += 1
        return start

    def finish(self, carries: list[tuple[Expr, Expr, int, Expr, int]]) -> tuple[Carry, ...]:
        """Read the steps and merges, now that all they use is known."""
        after = self.at
        out: list[Carry] = []
        for var, init, step_at, other, merge_at in carries:
            parts: list[Expr] = []
            for start, word in ((step_at, "step"), (merge_at, "merge")):
                self.at = start
                parts.append(self.expr(self.take(word, self.lines[start].indent)))
            out.append(Carry(var, init, parts[0], other, parts[1]))
        self.at = after
        return tuple(out)

    def store(self, text: str) -> Store:
        target, operator, rest = re.split(r" (\+?=) ", text, maxsplit=1)
        value, _, guard = rest.partition(" if ")
        return Store(
            *self.place(target),
            self.expr(value),
            self.expr(guard) if guard else TRUE,
            "add" if operator == "+=" else None,
        )

    def place(self, text: str) -> tuple[str, Expr]:
        """A buffer and an index."""
        place = ast.parse(text, mode="eval").body
        assert isinstance(place, ast.Subscript) and isinstance(place.value, ast.Name)
        return place.value.id, self.build(place.slice)

    def mma(self, text: str) -> Mma:
        call = ast.parse(text, mode="eval").body
        assert isinstance(call, ast.Call)
        acc, a, a_at, b, b_at, depth, *numbers = call.args
        names = [node.id for node in (acc, a, b) if isinstance(node, ast.Name)]
        return Mma(
            names[0], names[1], self.build(a_at), names[2], self.build(b_at), self.build(depth),
            *map(ast.literal_eval, numbers),
        )  # fmt: skip

    def declare(self, text: str, usual: tuple[Any, Any] = (None, None),
                dtype: DType | None = None) -> Expr:  # fmt: skip
        match = _DECLARED.fullmatch(text)
        if match is None:
            raise ValueError("wanted a name")
        name, type_, low, extent = match.groups()
        if type_ is None:
            assert dtype is not None
            attr = (name, *usual)
        else:
            dtype = DTYPES[type_]
            attr = (name, int(low) if low else None, self.expr(extent) if extent else None)
        self.scope[name] = make("var", (), dtype, attr)
        return self.scope[name]

    # --------------------------------------------------------------------------------- expressions

    def expr(self, text: str) -> Expr:
        return self.build(ast.parse(text.strip(), mode="eval").body)

    def build(self, node: ast.expr) -> Expr:
        match node:
            case ast.Constant(bool() as value):
                return const(value, bool_)
            case ast.Constant(int() as value):
                return const(value)
            case ast.UnaryOp(ast.USub(), ast.Constant(int() as value)):
                return const(-value)
            case ast.UnaryOp(ast.Not(), operand):
                return make("bitxor", (self.build(operand), TRUE), bool_)
            case ast.Name(name):
                return self.scope[name]
            case ast.BinOp(left, operator, right):
                a, b = self.build(left), self.build(right)
                return make(INFIX[_OPERATORS[type(operator)]], (a, b), b.dtype)
            case ast.Compare(left, [operator], [right]):
                args = self.build(left), self.build(right)
                return make(INFIX[_OPERATORS[type(operator)]], args, bool_)
            case ast.Subscript(ast.Name(name), index):
                parts = index.elts if isinstance(index, ast.Tuple) else [index]
                loaded = tuple(self.build(part) for part in parts)
                return make("load", loaded, self.buffers[name].dtype, name)
            case ast.Call(ast.Name(name), args):
                return self.call(name, args)
        raise ValueError(f"no expression: {ast.unparse(node)}")

    def call(self, name: str, args: list[ast.expr]) -> Expr:
        if name in DTYPES:
            return const(_number(args[0]), DTYPES[name])
        if name in ("cast", "bitcast"):
            target = args[1]
            assert isinstance(target, ast.Name)
            return make(name, (self.build(args[0]),), DTYPES[target.id])
        built = tuple(self.build(a) for a in args)
        result = bool_ if FUNCTIONS[name].result == "bool" else built[-1].dtype
        return make(name, built, result)


def _number(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value):
            return value
        case ast.UnaryOp(ast.USub(), operand):
            return -_number(operand)
        case ast.Name("inf"):
            return math.inf
        case ast.Name("nan"):
            return math.nan
    raise ValueError(f"no number: {ast.unparse(node)}")
