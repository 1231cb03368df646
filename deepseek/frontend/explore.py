"""Explore: everything that traced code could have read, as rows of a guard table.

In flow the traced function, its arguments and the code objects that were entered; the search starts
there and follows every global, cell, default and attribute that the code names, and every element
of a container on the way. It reads too much rather than too little. Out flows a `Table`.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from os import environ
from typing import Any

import numpy as np

from deepseek.errors import PACKAGE_DIR, is_internal
from deepseek.frontend import reads
from deepseek.frontend.guards import (
    ARRAY,
    ATTR,
    CELL,
    COPY,
    EQUAL,
    FREE,
    HELD,
    IS,
    ITEM,
    KEYS,
    KIND,
    LEAF,
    LENGTH,
    LOOKUP,
    MISSING,
    OWN,
    SAME,
    SELF,
    SEQUENCES,
    SETS,
    SHOWS,
    TYPE,
    Row,
    Table,
    copied,
    elements,
    entries,
    is_plain,
    is_plain_inside,
    keys_of,
    looked_up,
    step_to,
)
from deepseek.frontend.tensor import Tensor

Record = tuple[types.CodeType, dict[str, Any], dict[str, Any]]
Number = tuple[int, Any]  # id of a container, key in it

WRAPPERS: dict[type, tuple[str, ...]] = {
    types.MethodType: ("__func__", "__self__"),
    functools.partial: ("func", "args", "keywords"),
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
    property: ("fget",),
    functools.cached_property: ("func",),
    types.FunctionType: ("__wrapped__",),  # what a decorator of a library put something around
}
ALWAYS = ("forward",)  # what Module itself calls


class Explorer:
    """Fills a table with everything the given code could have read."""

    def __init__(
        self,
        codes: Collection[types.CodeType],
        leaves: Iterable[Any] = (),
        numbers: Mapping[Number, bool] | None = None,
        by_type: Collection[int] = (),
        grads: Collection[Tensor] = (),
        writes: bool = False,
    ) -> None:
        """`leaves` are the arguments' tensors and numbers. `numbers` are the elements of containers
        that the compiled function takes as inputs, and whether it needs the value too; `by_type`
        are other objects that it takes; `grads` the tensors whose gradients were read. With
        `writes`, attributes that the code assigns are looked at even where they are absent, and
        tensors have to stay the same objects.
        """
        self.table = Table()
        self.objects: list[Any] = []
        self.known: dict[int, int] = {}  # id of an object -> the row it was first met at
        self.shown: dict[int, int] = {}  # id of a value -> the row of a tensor that shows it
        self.number_rows: dict[Number, int] = {}
        self.codes = {inner for code in codes for inner in reads.nested_codes(code)}
        self.numbers = dict(numbers or {})
        self.holders = {holder for holder, _ in self.numbers}
        self.by_type = set(by_type)
        self.grads = {id(t) for t in grads}
        self.writes = writes
        self.names: set[str] = set()
        self.soft: set[str] = set()  # names that may be absent
        for code in self.codes:
            self.names |= reads.attribute_names(code)
            self.soft |= reads.spelt_names(code)
            if writes:
                self.soft |= reads.written_names(code)
        self.names |= self.soft
        self.parts: set[int] = set()  # the dicts that only Module itself changes
        self.done: set[Any] = set()
        self.seen_codes: set[types.CodeType] = set()
        # Argument i is row i: what hangs on the arguments comes after all of them.
        leaves = [*leaves]
        for i, leaf in enumerate(leaves):
            self.add(leaf, 0, LEAF, i, FREE, None, f"argument {i}")
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor) and self.known[id(leaf)] == i:
                self.tensor(leaf, i, f"argument {i}")

    # --------------------------------------------------------------------------------------- roots

    def hold(self, obj: Any, text: str) -> int:
        """Start from an object that the table itself holds. Returns its row."""
        return self.visit(obj, 0, HELD, obj, text)

    def rest(self, records: Iterable[Record]) -> None:
        """What entered code could have read that no path led to."""
        for code, namespace, _ in records:
            if code not in self.seen_codes:
                self.globals(code, namespace, None)
        for code in tuple(self.codes):
            for name in reads.imported_names(code):
                if name in sys.modules:
                    self.hold(sys.modules[name], name)
        if self.names & {"environ", "getenv"} or any("getenv" in c.co_names for c in self.codes):
            self.hold(environ._data, "the environment")  # type: ignore[attr-defined]

    # --------------------------------------------------------------------------------------- visits

    def add(
        self, obj: Any, parent: int, step: str, key: Any, check: str, expected: Any, text: str,
        stays: bool = False,
    ) -> int:  # fmt: skip
        if check not in (IS, EQUAL, TYPE):  # the others look inside what they got
            steady = check == SAME and self.table.rows[expected].stays
            stays = stays and (steady or id(obj) in self.parts)
        self.table.rows.append(Row(parent, step, key, check, expected, text, stays))
        self.objects.append(obj)
        row = len(self.objects) - 1
        if not is_plain(obj) and obj is not MISSING:
            self.known.setdefault(id(obj), row)
        return row

    def visit(
        self, obj: Any, parent: int, step: str, key: Any, text: str, stays: bool = False
    ) -> int:
        """Add one object and what hangs on it. Returns its row."""
        def add(check: str, expected: Any) -> int:
            return self.add(obj, parent, step, key, check, expected, text, stays)

        if is_plain(obj) or obj is MISSING:
            number = (id(self.objects[parent]), key) if step == ITEM else (0, None)
            if number in self.numbers:
                pinned = self.numbers[number]
                row = add(EQUAL, obj) if pinned else add(TYPE, type(obj))
                self.number_rows[number] = row
                return row
            return add(EQUAL, obj)
        known = self.known.get(id(obj))
        if isinstance(obj, Tensor):
            if known is not None:
                return add(SAME, known)
            row = add(IS, obj) if self.writes else add(TYPE, type(obj))
            self.tensor(obj, row, text)
            return row
        if reads.is_frozen(obj) and not isinstance(obj, types.ModuleType):
            raise reads.frozen(text, self.reader(text))
        if id(obj) in self.by_type:
            return add(SAME, known) if known is not None else add(TYPE, type(obj))
        if isinstance(obj, np.ndarray):
            return add(ARRAY, obj.copy())
        if isinstance(obj, (*SEQUENCES, *SETS, dict)):
            return self.container(obj, known, add, text)
        if isinstance(obj, types.FunctionType) and obj.__code__ in self.codes:
            if known is not None:
                return add(SAME, known)
            row = add(TYPE, types.FunctionType)
            self.function(obj, row, text)
            return row
        row = add(IS, obj)
        if known is None:
            self.attributes(obj, row, text)
        return row

    def reader(self, text: str) -> str:
        """Where the code is that reads what a path leads to."""
        names = text.split(".")
        for code in self.codes:
            if names[0] in reads.global_names(code) or names[-1] in reads.attribute_names(code):
                return f"{code.co_filename}:{code.co_firstlineno}, in {code.co_qualname}"
        return text

    def tensor(self, tensor: Tensor, row: int, text: str) -> None:
        """What hangs on a tensor: which value it shows with others, and its gradient if read."""
        first = self.shown.setdefault(id(tensor._value), row)
        if first != row:
            self.add(tensor, row, SELF, None, SHOWS, first, text)
        if id(tensor) in self.grads:
            gradient = tensor._grad
            if isinstance(gradient, Tensor):
                self.visit(gradient, row, ATTR, "_grad", f"{text}.grad")
            elif gradient is None:
                self.add(None, row, ATTR, "_grad", IS, None, f"{text}.grad")
            else:
                self.add(gradient, row, ATTR, "_grad", TYPE, type(gradient), f"{text}.grad")

    def container(
        self, obj: Any, known: int | None, add: Callable[[str, Any], int], text: str
    ) -> int:
        """A container: held against a copy where all in it is plain, else element by element."""
        if known is not None:
            return add(SAME, known)
        whole = is_plain_inside(obj) and not self.takes_numbers(obj)
        if isinstance(obj, SETS) or whole and id(obj) not in self.parts:
            row = add(COPY, copied(obj))
            for part in () if whole else elements(obj):
                self.hold(part, f"an element of {text}")
        else:
            row = self.parts_of(obj, add, text)
        if not is_library(type(obj)):  # a subclass: it may have attributes, and methods of its own
            self.own_attributes(obj, row, text)
        return row

    def parts_of(self, obj: Any, add: Callable[[str, Any], int], text: str) -> int:
        """A container, element by element."""
        if isinstance(obj, dict):
            row = add(KEYS, (type(obj), keys_of(obj)))
            items: Iterable[tuple[Any, Any]] = entries(obj)
        else:
            parts = elements(obj)
            row = add(LENGTH, (type(obj), len(parts)))
            items = enumerate(parts)
        stays = self.table.rows[row].stays
        for key, value in items:
            name = repr(key) if isinstance(key, (int, str)) else type(key).__name__
            self.visit(value, row, ITEM, key, f"{text}[{name}]", stays)
        return row

    def takes_numbers(self, obj: Any) -> bool:
        """Whether a number in a container, or in one inside it, is an input."""
        if id(obj) in self.holders:
            return True
        parts = obj.values() if isinstance(obj, dict) else obj
        return any(self.takes_numbers(x) for x in parts if isinstance(x, (*SEQUENCES, dict)))

    # ------------------------------------------------------------------------------------ functions

    def function(self, function: types.FunctionType, row: int, text: str) -> None:
        """A function that ran: its code, and the cells, defaults and globals it reads."""
        code = function.__code__
        self.add(code, row, ATTR, "__code__", IS, code, f"{text} (its code)")
        cells = [step_to(function, CELL, i) for i in range(len(code.co_freevars))]
        for i in sorted(range(len(cells)), key=lambda i: not is_versioned(cells[i])):
            self.visit(cells[i], row, CELL, i, code.co_freevars[i])
        for name in ("__defaults__", "__kwdefaults__"):
            values = getattr(function, name)
            if values:
                self.visit(values, row, ATTR, name, f"{text} (its defaults)")
        self.globals(code, function.__globals__, row)

    def globals(self, code: types.CodeType, namespace: dict[str, Any], row: int | None) -> None:
        """The globals that a code object names, found through the function at `row`."""
        self.seen_codes.update(reads.nested_codes(code))
        at = self.known.get(id(namespace))
        if at is None and row is None:
            at = self.add(namespace, 0, HELD, namespace, FREE, None, "globals")
        elif row is not None:
            here = self.add(namespace, row, ATTR, "__globals__", IS, namespace, "globals")
            at = here if at is None else at
        assert at is not None
        for inner in reads.nested_codes(code):
            names = reads.global_names(inner)
            for name in sorted(names, key=lambda n: not is_versioned(namespace.get(n))):
                if (id(namespace), name) not in self.done:
                    self.done.add((id(namespace), name))
                    self.visit(namespace.get(name, MISSING), at, ITEM, name, name)

    # ----------------------------------------------------------------------------------- attributes

    def attributes(self, obj: Any, row: int, text: str) -> None:
        """What the code could have read of an object, without running code to find out."""
        if is_library(obj):
            return
        for kind, names in WRAPPERS.items():
            if isinstance(obj, kind):
                for name in names:
                    value = getattr(obj, name, MISSING)
                    if value is not MISSING:
                        self.visit(value, row, ATTR, name, text)
        if isinstance(obj, type):
            self.class_attributes(obj, row, self.names)
        else:
            self.own_attributes(obj, row, text)

    def own_attributes(self, obj: Any, row: int, text: str) -> None:
        """The attributes of an instance, and those that it has from its class."""
        kind = type(obj)
        own: dict[str, Any] | None = getattr(obj, "__dict__", None)
        stays = is_versioned(obj)
        for name in getattr(kind, "_ds_parts_", ()):
            self.parts.add(id(own[name]))
        names = self.names_on(obj, own or {})
        by_class: set[str] = set()
        for name in sorted(names):
            raw = looked_up(kind, name)
            if isinstance(raw, types.MemberDescriptorType):
                value = step_to(obj, ATTR, name)
                self.visit(value, row, ATTR, name, f"{text}.{name}")
                continue
            if not isinstance(raw, property) and own is not None:
                if name in own:
                    self.visit(own[name], row, OWN, name, f"{text}.{name}", stays)
                    continue
                if raw is MISSING and name not in self.soft:
                    continue
                self.visit(MISSING, row, OWN, name, f"{text}.{name}", stays)
            by_class.add(name)
        if not by_class and is_library(kind):
            return
        at = self.known.get(id(kind))
        here = self.add(kind, row, KIND, None, IS, kind, f"{text} (its class)", stays)
        self.class_attributes(kind, here if at is None else at, by_class)

    def names_on(self, obj: Any, own: Mapping[str, Any]) -> set[str]:
        """The names to look at on an object: those in the code, and what our own code reads."""
        kind = type(obj)
        if is_versioned(obj):
            unread = getattr(kind, "_ds_unread_", ())
            if any(base.__name__ != "Module" and is_ours(base) for base in kind.__mro__):
                return {*own, *ALWAYS, *self.names} - set(unread)
        always = getattr(kind, "_ds_children_", ())
        return {*always, *ALWAYS, *self.names} if always else self.names

    def class_attributes(self, kind: type, row: int, names: Iterable[str]) -> None:
        """What a class and its bases define under the given names, or as functions that ran."""
        found = {name: kind for name in names}
        for base in kind.__mro__:
            if not is_library(base):
                for name, raw in vars(base).items():
                    if code_of(raw) in self.codes:
                        overridden = looked_up(kind, name) is not raw
                        found[f"{name} of {base.__name__}" if overridden else name] = base
        for name, base in sorted(found.items(), key=lambda item: item[0]):
            name = name.partition(" ")[0]
            if looked_up(base, name) is not looked_up(kind, name):  # called by super()
                at = self.hold(base, base.__qualname__)
            else:
                base, at = kind, row
            raw = looked_up(base, name)
            if (base, name) in self.done or raw is MISSING and name not in self.soft:
                continue
            self.done.add((base, name))
            self.visit(raw, at, LOOKUP, name, f"{base.__qualname__}.{name}")


def code_of(raw: Any) -> types.CodeType | None:
    """The code of a function as a class holds it."""
    if isinstance(raw, (staticmethod, classmethod)):
        raw = raw.__func__
    elif isinstance(raw, property):
        raw = raw.fget
    elif isinstance(raw, functools.cached_property):
        raw = raw.func
    return raw.__code__ if isinstance(raw, types.FunctionType) else None


def is_library(obj: Any) -> bool:
    """Whether an object is a module or class of deepseek, NumPy or Python, or made by C code."""
    if isinstance(obj, types.ModuleType):
        where = getattr(obj, "__file__", None)
        name = obj.__name__.partition(".")[0]
        return where is None or is_internal(where) or name in ("numpy", "deepseek")
    if isinstance(obj, type):
        return is_ours(obj) or obj.__module__.partition(".")[0] in PYTHONS
    return isinstance(obj, (types.BuiltinFunctionType, np.ufunc))


def reachable_codes(roots: Iterable[Any]) -> set[types.CodeType]:
    """The user's code that objects lead to, near enough: what a trace will probably enter."""
    codes: set[types.CodeType] = set()
    stack, seen = list(roots), set()
    while stack and len(seen) < MOST_OBJECTS:
        obj = stack.pop()
        if id(obj) in seen or is_plain(obj) or isinstance(obj, (Tensor, np.ndarray)):
            continue
        seen.add(id(obj))
        if isinstance(obj, types.FunctionType):
            if reads.is_user_code(obj.__code__):
                codes.add(obj.__code__)
                names = [n for c in reads.nested_codes(obj.__code__) for n in reads.global_names(c)]
                stack += [obj.__globals__[n] for n in names if n in obj.__globals__]
                stack += [step_to(obj, CELL, i) for i in range(len(obj.__code__.co_freevars))]
            stack.append(getattr(obj, "__wrapped__", None))
            continue
        for kind, names in WRAPPERS.items():
            if isinstance(obj, kind):
                stack += [getattr(obj, name) for name in names]
        if isinstance(obj, (*SEQUENCES, *SETS)):
            stack += obj
        elif isinstance(obj, dict):
            stack += obj.values()
        elif isinstance(obj, type):
            for base in obj.__mro__:
                stack += () if is_library(base) else vars(base).values()
        elif not isinstance(obj, types.ModuleType):
            stack += [type(obj), *getattr(obj, "__dict__", {}).values()]
        elif reads.is_user_file(getattr(obj, "__file__", None) or PACKAGE_DIR):
            stack += vars(obj).values()
    return codes


MOST_OBJECTS = 20_000
PYTHONS = {"numpy", "builtins", *sys.stdlib_module_names} - {"__main__"}


def is_versioned(obj: Any) -> bool:
    """Whether changes of an object's attributes and parts are counted: whether it is a Module.

    What hangs on a Module is best met there first, since it need not be looked at each time.
    """
    return getattr(type(obj), "_ds_versioned_", False)


def is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "deepseek"
