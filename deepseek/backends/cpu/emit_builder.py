"""The text under construction: blocks, scopes, and the values that expressions became.

In flow instructions with the level they belong to; out flow the lines of one function. A scope is
one nesting level of the code. An instruction goes to the scope of its deepest argument, so whatever
does not change in a loop is computed in front of it; equal expressions are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from deepseek.backends.cpu.emit_types import NOTHING, Place, Value, literal, vector_type
from deepseek.backends.cpu.target import Target
from deepseek.ir.scalar import Expr


@dataclass(slots=True)
class Block:
    """Code that is still being written: its lines and the label of the basic block it ends in."""

    lines: list[str]
    label: str


@dataclass(slots=True)
class Scope:
    """One nesting level. `keys` are the values to forget when it closes.

    `certain`: whoever runs the scope around it runs this one too, so that a load may move outwards.
    `stores`: the buffers written in here, whose loads may not.
    """

    block: Block
    certain: bool
    stores: frozenset[str]
    keys: list[Hashable] = field(default_factory=list)


@dataclass(slots=True)
class Vector:
    """The vector context: each varying value is `copies` registers of `lanes` lanes.

    `var` is the variable that runs over the lanes and `base` its value in lane 0 of copy 0. `masks`
    has one entry a copy, None where all lanes are active.
    """

    lanes: int
    copies: int
    var: Expr | None = None
    base: str = "0"
    base_level: int = 0
    masks: tuple[str | None, ...] = ()
    mask_level: int = 0
    keys: list[Hashable] = field(default_factory=list)

    def mask(self, copy: int) -> str | None:
        return self.masks[copy] if self.masks else None


def is_splat(key: Hashable) -> bool:
    """Whether the known value means the same in every vector context."""
    return isinstance(key, tuple) and key[0] == "splat"


class Builder:
    """State of one function: scopes, known values, the vector context."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.entry: list[str] = []  # allocas, in front of everything
        self.scopes = [Scope(Block([], "entry"), True, NOTHING)]
        self.known: dict[Hashable, Value] = {}
        self.vector: Vector | None = None
        self._names = 0

    # ------------------------------------------------------------------------------- instructions

    @property
    def level(self) -> int:
        return len(self.scopes) - 1

    @property
    def block(self) -> Block:
        return self.scopes[-1].block

    def name(self, stem: str = "v") -> str:
        self._names += 1
        return f"{stem}{self._names}"

    def ins(self, text: str, level: int) -> str:
        """Append an instruction with a result at a level; its operand."""
        self._names += 1
        name = f"%v{self._names}"
        self.scopes[level].block.lines.append(f"  {name} = {text}")
        return name

    def do(self, text: str) -> None:
        """Append an instruction without a result here."""
        self.block.lines.append(f"  {text}")

    def start_block(self, label: str) -> None:
        self.block.lines.append(f"{label}:")
        self.block.label = label

    def alloca(self, text: str) -> str:
        name = f"%{self.name('a')}"
        self.entry.append(f"  {name} = alloca {text}")
        return name

    # ------------------------------------------------------------------------------------- values

    def value(self, e: Expr) -> Value:
        raise NotImplementedError

    def place(self, buffer: str, index: Expr) -> Place:
        raise NotImplementedError

    def remember(self, key: Hashable, value: Value, level: int | None = None) -> Value:
        """Know the key as this value until the scope of the level (the value's own) closes."""
        self.known[key] = value
        self.scopes[value.level if level is None else level].keys.append(key)
        if value.lanes and self.vector is not None and not is_splat(key):
            self.vector.keys.append(key)
        return value

    def forget_reads(self, buffers: frozenset[str]) -> None:
        """Forget what was computed from these buffers: they are about to be written."""
        stale = [k for k, v in self.known.items() if v.reads and not v.reads.isdisjoint(buffers)]
        for key in stale:
            del self.known[key]

    def splat(self, type_: str, op: str, lanes: int, level: int) -> str:
        """A scalar in all lanes; computed once, where the scalar is."""
        if not op.startswith("%"):
            return f"splat ({type_} {op})"
        key = ("splat", op, lanes)
        found = self.known.get(key)
        if found is None or found.level > level:
            whole = vector_type(type_, lanes)
            one = self.ins(f"insertelement {whole} poison, {type_} {op}, i32 0", level)
            every = self.ins(
                f"shufflevector {whole} {one}, {whole} poison, <{lanes} x i32> zeroinitializer",
                level,
            )
            found = self.remember(key, Value((every,), lanes, level), level)
        return found.ops[0]

    def widen(self, value: Value, type_: str, lanes: int) -> Value:
        """The value as vectors of `lanes`; a varying one is left alone."""
        if value.lanes:
            return value
        ops = (self.splat(type_, value.ops[0], lanes, value.level),)
        return Value(ops, lanes, value.level, value.reads)

    # ------------------------------------------------------------------------------------- scopes

    def push(self, block: Block, certain: bool, stores: frozenset[str] = NOTHING) -> Scope:
        scope = Scope(block, certain, stores)
        self.scopes.append(scope)
        return scope

    def pop(self) -> None:
        for key in self.scopes.pop().keys:
            self.known.pop(key, None)

    @contextmanager
    def inline_scope(self) -> Iterator[None]:
        """A scope in the same straight line: names bound in it end with it."""
        self.push(self.block, True)
        yield
        self.pop()

    @contextmanager
    def vector_scope(self, vector: Vector) -> Iterator[Vector]:
        """A vector context; values that vary in it are forgotten at its end."""
        outer, self.vector = self.vector, vector
        yield vector
        for key in vector.keys:
            self.known.pop(key, None)
        self.vector = outer

    def load_level(self, buffer: str, needed: int) -> int:
        """How far out a load may go: not past a loop that stores to the buffer or may be empty."""
        level = self.level
        while level > needed:
            scope = self.scopes[level]
            if buffer in scope.stores or not scope.certain:
                break
            level -= 1
        return level

    # ------------------------------------------------------------------------------- control flow

    def branch(self, condition: str | None, types: list[str], otherwise: list[str],
               body: Callable[[], list[str]], certain: bool = False) -> list[str]:  # fmt: skip
        """Run the body where the condition holds; its results, else `otherwise`.

        `certain`: a load of the body may be made even where the condition is false.
        """
        if condition is None:
            with self.inline_scope():
                return body()
        parent = self.block
        inside, after = self.name("then"), self.name("after")
        block = Block([], inside)
        self.push(block, certain)
        results = body()
        self.pop()
        came_from = parent.label
        parent.lines.append(f"  br i1 {condition}, label %{inside}, label %{after}")
        parent.lines.append(f"{inside}:")
        parent.lines += block.lines
        parent.lines.append(f"  br label %{after}")
        self.start_block(after)
        return [
            self.ins(f"phi {t} [ {a}, %{block.label} ], [ {b}, %{came_from} ]", self.level)
            for t, a, b in zip(types, results, otherwise, strict=True)
        ]

    def either(self, condition: str, one: Callable[[], None], other: Callable[[], None]) -> None:
        """Run one body or the other."""
        parent, after = self.block, self.name("after")
        labels = self.name("then"), self.name("else")
        parent.lines.append(f"  br i1 {condition}, label %{labels[0]}, label %{labels[1]}")
        for label, body in zip(labels, (one, other), strict=True):
            block = Block([], label)
            self.push(block, False)
            body()
            self.pop()
            parent.lines += [f"{label}:", *block.lines, f"  br label %{after}"]
        self.start_block(after)

    def loop(
        self,
        start: str,
        end: str,
        step: int,
        types: list[str],
        first: list[str],
        body: Callable[[str, list[str]], list[str]],
        *,
        nonempty: bool,
        certain: bool | None = None,
        stores: frozenset[str] = NOTHING,
    ) -> list[str]:
        """`for i in range(start, end, step)` with carried values; their last values.

        `nonempty`: the first iteration needs no check. `certain`: a load of the body may be made in
        front of the check too.
        """
        enter = None if nonempty else self.ins(f"icmp slt i64 {start}, {end}", self.level)
        parent = self.block
        before, inside, after = self.name("pre"), self.name("loop"), self.name("exit")
        pre = Block([], before)
        main = Block([], inside)
        self.push(pre, nonempty if certain is None else certain)
        self.push(main, True, stores)
        self.forget_reads(stores)
        index = f"%{self.name('i')}"
        carried = [f"%{self.name('c')}" for _ in types]
        results = body(index, carried)
        following = self.ins(f"add nsw i64 {index}, {step}", self.level)
        again = self.ins(f"icmp slt i64 {following}, {end}", self.level)
        self.do(f"br i1 {again}, label %{inside}, label %{after}")
        self.pop()
        self.pop()
        came_from = parent.label
        lines = parent.lines
        if enter is None:
            lines.append(f"  br label %{before}")
        else:
            lines.append(f"  br i1 {enter}, label %{before}, label %{after}")
        lines.append(f"{before}:")
        lines += pre.lines
        lines.append(f"  br label %{inside}")
        lines.append(f"{inside}:")
        lines.append(
            f"  {index} = phi i64 [ {start}, %{pre.label} ], [ {following}, %{main.label} ]"
        )
        for t, name, a, b in zip(types, carried, first, results, strict=True):
            lines.append(f"  {name} = phi {t} [ {a}, %{pre.label} ], [ {b}, %{main.label} ]")
        lines += main.lines
        self.start_block(after)
        if enter is None:
            return results
        return [
            self.ins(f"phi {t} [ {a}, %{main.label} ], [ {b}, %{came_from} ]", self.level)
            for t, a, b in zip(types, results, first, strict=True)
        ]

    def constant(self, e: Expr) -> Value:
        return Value((literal(e),))
