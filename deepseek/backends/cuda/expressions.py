"""Expressions as C++: each distinct part that is used twice gets a name.

In flow expressions over variables that are in scope; out flows the text of their values, and before
it the lines that name their parts. What is pure and named stays known to the end of its scope; what
was read from memory that the kernel also writes is read again by each statement.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from deepseek.backends.cuda import functions
from deepseek.backends.cuda.c_types import literal, value_type
from deepseek.backends.cuda.functions import ATOM, CHOICE, LOGIC, UNARY, Text, inside
from deepseek.errors import CompileError
from deepseek.ir.dtype import int64
from deepseek.ir.scalar import Expr, bounds
from deepseek.kernel import polyfill

LONGEST = 72  # characters of an expression before its parts get names
REPEATED = 14  # what is shorter is written again rather than named


@dataclass
class Scope:
    """The names known between two braces."""

    known: dict[Expr, str]
    names: set[str]


class Expressions:
    """The lines of a function, its scopes, and the polyfills it calls."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 1
        self.scopes = [Scope({}, set())]
        self.mutable: frozenset[str] = frozenset()
        self.indices: set[Expr] = set()  # int64 variables that are sizes and places, not data
        self.polyfills: dict[tuple[str, str], polyfill.Program] = {}

    # -------------------------------------------------------------------------------------- lines

    def line(self, text: str) -> None:
        self.lines.append("  " * self.depth + text)

    @contextmanager
    def braces(self, head: str) -> Iterator[None]:
        """What is written inside stands in a block behind `head`."""
        self.line(f"{head} {{")
        self.depth += 1
        self.scopes.append(Scope({}, set()))
        yield
        self.scopes.pop()
        self.depth -= 1
        self.line("}")

    @contextmanager
    def forgetting(self) -> Iterator[None]:
        """What is named inside is not known after, though the braces go on."""
        self.scopes.append(Scope({}, set()))
        yield
        inner = self.scopes.pop()
        self.scopes[-1].names |= inner.names

    def fresh(self, wanted: str) -> str:
        """A name for this scope that nothing in it has; `wanted` where that is free."""
        name = self.unused(wanted)
        self.scopes[-1].names.add(name)
        return name

    def unused(self, wanted: str) -> str:
        number = 1
        name = wanted
        while name in functions.RESERVED or any(name in s.names for s in self.scopes):
            number += 1
            name = f"{wanted}_{number}"
        return name

    def fresh_number(self, letter: str) -> str:
        """A letter with the first number that is free."""
        numbers = (f"{letter}{n}" for n in itertools.count(1))
        name = next(n for n in numbers if self.unused(n) == n)
        self.scopes[-1].names.add(name)
        return name

    def bind(self, e: Expr, name: str) -> str:
        """Give a variable or a value a name in this scope."""
        name = self.fresh(name)
        self.scopes[-1].known[e] = name
        return name

    def bind_index(self, e: Expr, name: str) -> str:
        """The same for a size or a place."""
        self.indices.add(e)
        return self.bind(e, name)

    def know_index(self, e: Expr, name: str) -> None:
        """A size or a place that has a name already."""
        self.indices.add(e)
        self.scopes[-1].known[e] = name

    def known(self, e: Expr) -> str | None:
        for scope in reversed(self.scopes):
            found = scope.known.get(e)
            if found is not None:
                return found
        return None

    # ------------------------------------------------------------------------------------- values

    def value(self, e: Expr) -> str:
        return self.values((e,))[0]

    def values(self, roots: Iterable[Expr]) -> list[str]:
        """The texts of some values of one statement."""
        roots = tuple(roots)
        order = self._missing(roots)
        uses = Counter([a for e in order for a in e.args] + list(roots))
        texts: dict[Expr, Text] = {}
        moment: dict[Expr, str] = {}  # names of what the next statement may find changed
        varying: set[Expr] = set()

        def text_of(e: Expr) -> Text:
            if e in texts:
                return texts[e]
            name = self.known(e)
            if name is None:
                raise CompileError(f"variable {e} is used outside the scope that defines it")
            return Text(name, ATOM)

        for e in order:
            if e.fn == "load" and e.name in self.mutable or not varying.isdisjoint(e.args):
                varying.add(e)
            text = self._node(e, [text_of(a) for a in e.args])
            long = len(text.text) > LONGEST and e not in roots
            again = uses[e] > 1 and len(text.text) > REPEATED and e.fn != "const"
            if long or again:
                name = self.fresh_number("i" if self.is_index(e) else "v")
                self.line(f"const {value_type(e)} {name} = {text.text};")
                (moment if e in varying else self.scopes[-1].known)[e] = name
                text = Text(name, ATOM)
            texts[e] = text
        return [text_of(e).text for e in roots]

    def _missing(self, roots: tuple[Expr, ...]) -> list[Expr]:
        """What is yet to be computed under the roots, arguments before users."""
        order: list[Expr] = []
        seen: set[Expr] = set()
        stack: list[tuple[Expr, bool]] = [(e, False) for e in reversed(roots)]
        while stack:
            e, ready = stack.pop()
            if ready:
                order.append(e)
            elif e not in seen and self.known(e) is None and e.fn != "var":
                seen.add(e)
                stack.append((e, True))
                stack += ((a, False) for a in reversed(e.args))
        return order

    def is_index(self, e: Expr) -> bool:
        """Whether an int64 value is made of sizes and places, which never wrap."""
        if e.dtype is not int64:
            return False
        low, high = bounds(e)
        if low is not None and high is not None:
            return True
        stack = [e]
        while stack:
            node = stack.pop()
            if node.fn in ("load", "cast", "bitcast"):
                return False
            if node.fn == "var" and node not in self.indices:
                return False
            stack += node.args
        return True

    def _node(self, e: Expr, args: list[Text]) -> Text:
        match e.fn:
            case "const":
                text = literal(e.attr, e.dtype)
                return Text(text, UNARY if text.startswith("-") else ATOM)
            case "load":
                return self._load(e, args)
            case "cast":
                return functions.cast(e, args[0])
            case "bitcast":
                return functions.bitcast(e, args[0])
        if e.dtype is int64 and self.is_index(e):
            return functions.index(e, args)
        if functions.needs_polyfill(e.fn, e.args[0].dtype):
            return self._polyfill(e, args)
        return functions.apply(e, args)

    def _load(self, e: Expr, args: list[Text]) -> Text:
        element = f"{e.name}[{args[0].text}]"
        if len(args) == 1:
            return Text(element, ATOM)
        condition, otherwise = inside(args[1], LOGIC), inside(args[2], LOGIC)
        return Text(f"{condition} ? {element} : {otherwise}", CHOICE)

    def _polyfill(self, e: Expr, args: list[Text]) -> Text:
        dtype = e.args[0].dtype
        program = polyfill.program(e.fn, dtype)
        assert program is not None
        self.polyfills[e.fn, dtype.name] = program
        return Text(f"{program.name}({', '.join(a.text for a in args)})", ATOM)
