"""Data from a pickle, without running it.

A pickle is a program for a small stack machine that may call anything. This one has the operations
that build data and nothing else; what a global's name stands for is a table that the caller gives,
and a name that is not in it is an error. Every value is checked where it enters a container.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from deepseek.errors import FormatError


class Refused(FormatError):
    """The file is whole, and holds what is not read."""


class Part:
    """Base of what a pickle is built with and which is not data itself."""


@dataclass(frozen=True)
class Global(Part):
    """A name in the pickle that is called to build something."""

    name: str
    call: Callable[..., Any]


MARK = object()
LARGEST_KEY = 1000  # parts of a tuple that is hashed
STOP = b"."
CONSTANTS: dict[bytes, Any] = {b"N": None, b"\x88": True, b"\x89": False}
NUMBERS = {b"J": "<i", b"K": "<B", b"M": "<H", b"G": ">d"}
STORES = {b"q": "<B", b"r": "<I"}
FETCHES = {b"h": "<B", b"j": "<I"}
EMPTY: dict[bytes, Callable[[], Any]] = {b")": tuple, b"]": list, b"}": dict, b"\x8f": set}


def integer(given: bytes) -> int:
    return int.from_bytes(given, "little", signed=True)


def text(given: bytes) -> str:
    return given.decode("utf-8", "surrogatepass")


def old_text(given: bytes) -> str:
    return given.decode("latin1")


# What has a length first: the form of the length, and what the bytes become.
SIZED: dict[bytes, tuple[str, Callable[[bytes], Any]]] = {
    **{b"\x8a": ("<B", integer), b"\x8b": ("<i", integer)},
    **{b"\x8c": ("<B", text), b"X": ("<I", text), b"\x8d": ("<Q", text)},
    **{b"U": ("<B", old_text), b"T": ("<i", old_text)},
    **{b"C": ("<B", bytes), b"B": ("<I", bytes), b"\x8e": ("<Q", bytes)},
    b"\x96": ("<Q", bytearray),
}


class Machine:
    """The state of a pickle that is run: a stack, a memo, and where it is."""

    def __init__(
        self,
        program: bytes,
        path: str,
        known: Mapping[str, Any],
        persistent: Callable[[Any], Any],
    ) -> None:
        self.program = program
        self.path = path
        self.known = known
        self.find_part = persistent
        self.at = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """What is on the stack when the pickle stops."""
        while True:
            code = self.take(1)
            if code == STOP:
                return checked(self.stack.pop())
            self.step(code)

    def step(self, code: bytes) -> None:
        """Do what one opcode says."""
        if code in CONSTANTS:
            self.stack.append(CONSTANTS[code])
        elif code in NUMBERS:
            self.stack.append(self.number(NUMBERS[code]))
        elif code in SIZED:
            form, made = SIZED[code]
            self.stack.append(made(self.take(self.number(form))))
        elif code in EMPTY:
            self.stack.append(EMPTY[code]())
        elif code in STORES:
            self.memo[self.number(STORES[code])] = self.stack[-1]
        elif code in FETCHES:
            self.stack.append(self.memo[self.number(FETCHES[code])])
        elif code in OPERATIONS:
            OPERATIONS[code](self)
        else:
            raise Refused(
                f"{self.path}: its pickle has opcode {code!r} at byte {self.at - 1}, "
                "which is not one that builds data"
            )

    # ---------------------------------------------------------------------------------- operations

    def protocol(self) -> None:
        if self.take(1)[0] > 5:
            raise ValueError("its protocol is newer than 5")

    def frame(self) -> None:
        self.take(8)

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def mark(self) -> None:
        self.stack.append(MARK)

    def pop(self) -> None:
        self.stack.pop()

    def pop_mark(self) -> None:
        self.marked()

    def duplicate(self) -> None:
        self.stack.append(self.stack[-1])

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise ValueError("the stack is too short")
        made = tuple(self.stack[-count:])
        if any(item is MARK for item in made):
            raise ValueError("a mark stands in a tuple")
        self.stack[-count:] = [made]

    def marked_tuple(self) -> None:
        self.stack.append(tuple(self.marked()))

    def marked_list(self) -> None:
        self.stack.append([checked(item) for item in self.marked()])

    def marked_dict(self) -> None:
        made: dict[Any, Any] = {}
        put_items(made, self.marked())
        self.stack.append(made)

    def marked_frozenset(self) -> None:
        self.stack.append(frozenset(checked_key(item) for item in self.marked()))

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise ValueError("items are appended to what is no list")
        target.extend(checked(item) for item in items)

    def add(self) -> None:
        items = self.marked()
        if type(self.stack[-1]) is not set:
            raise ValueError("items are added to what is no set")
        self.stack[-1].update(checked_key(item) for item in items)

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        put_items(self.stack[-1], [key, value])

    def set_items(self) -> None:
        pairs = self.marked()
        put_items(self.stack[-1], pairs)

    def push_global(self) -> None:
        module = self.line()
        self.stack.append(self.find(module, self.line()))

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise ValueError("a global's name is no text")
        self.stack.append(self.find(module, name))

    def reduce(self) -> None:
        """Call a global; also what makes an object of a class, which here is a global too."""
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(called(function, arguments))

    def build(self) -> None:
        """Give an object attributes: only what PyTorch notes in a state dict is known."""
        state = self.stack.pop()
        target = self.stack[-1]
        known = type(target) is OrderedDict and type(state) is dict
        if not known or not {*state} <= {"_metadata"}:
            raise Refused(
                f"{self.path}: its pickle gives a {type(target).__name__} attributes, "
                "which data does not have"
            )
        vars(target).update(state)

    def persistent(self) -> None:
        """What lies beside the pickle."""
        self.stack.append(self.find_part(self.stack.pop()))

    # ------------------------------------------------------------------------------------- reading

    def take(self, count: int) -> bytes:
        """The next bytes of the program."""
        out = self.program[self.at : self.at + count]
        if count < 0 or len(out) < count:
            raise ValueError("it ends early")
        self.at += count
        return out

    def number(self, form: str) -> Any:
        """The next number of the program, in a form of `struct`."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        """The program up to the end of the line."""
        end = self.program.index(b"\n", self.at)
        text = self.take(end - self.at)
        self.at += 1
        return text.decode()

    def marked(self) -> list[Any]:
        """Take what is on the stack above the last mark, and the mark."""
        at = len(self.stack) - 1
        while at >= 0 and self.stack[at] is not MARK:
            at -= 1
        if at < 0:
            raise ValueError("a mark is missing")
        found = self.stack[at + 1 :]
        del self.stack[at:]
        return found

    def find(self, module: str, name: str) -> Any:
        """What stands for a global."""
        module = "builtins" if module == "__builtin__" else module
        full = f"{module}.{name}"
        if full not in self.known:
            raise Refused(
                f"{self.path}: its pickle names the global {full!r}, which is not among "
                "those that build data\n"
                "  help: save tensors, numbers, strings, dicts and lists only, such as a state_dict"
            )
        return self.known[full]


OPERATIONS: dict[bytes, Callable[[Machine], None]] = {
    b"\x80": Machine.protocol,
    b"\x95": Machine.frame,
    b"\x94": Machine.memoize,
    b"(": Machine.mark,
    b"0": Machine.pop,
    b"1": Machine.pop_mark,
    b"2": Machine.duplicate,
    b"\x85": lambda machine: machine.tuple_of(1),
    b"\x86": lambda machine: machine.tuple_of(2),
    b"\x87": lambda machine: machine.tuple_of(3),
    b"t": Machine.marked_tuple,
    b"l": Machine.marked_list,
    b"d": Machine.marked_dict,
    b"\x91": Machine.marked_frozenset,
    b"a": lambda machine: machine.extend([machine.stack.pop()]),
    b"e": lambda machine: machine.extend(machine.marked()),
    b"\x90": Machine.add,
    b"s": Machine.set_item,
    b"u": Machine.set_items,
    b"c": Machine.push_global,
    b"\x93": Machine.stack_global,
    b"R": Machine.reduce,
    b"\x81": Machine.reduce,
    b"b": Machine.build,
    b"Q": Machine.persistent,
}


def called(function: Any, arguments: Any) -> Any:
    """What a known global gives."""
    if not isinstance(function, Global) or type(arguments) is not tuple:
        raise ValueError("something is called that is no global")
    return function.call(*arguments)


def checked(value: Any) -> Any:
    """A value that may stand in a container. Tuples are looked into: they may hold parts."""
    stack, seen = [value], set()
    while stack:
        part = stack.pop()
        if part is MARK or isinstance(part, Part):
            name = part.name if isinstance(part, Global) else type(part).__name__
            raise ValueError(f"{name} stands where data is wanted")
        if type(part) is tuple and id(part) not in seen:
            seen.add(id(part))
            stack.extend(part)
    return value


def checked_key(value: Any) -> Any:
    """A value that may be looked up. Python would hash a deep tuple until its stack is full."""
    stack, count = [checked(value)], 0
    while stack:
        part = stack.pop()
        count += 1
        if count > LARGEST_KEY:
            raise ValueError(f"a key has more than {LARGEST_KEY} parts")
        if type(part) is tuple:
            stack.extend(part)
    return value


def put_items(target: Any, pairs: list[Any]) -> None:
    """Set items of a dict from keys and values in turn."""
    if not isinstance(target, dict) or len(pairs) % 2:
        raise ValueError("items are set of what is no dict")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        target[checked_key(key)] = checked(value)
