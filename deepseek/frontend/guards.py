"""Guards: what a trace read from outside, by the path it was read from.

A compiled function is right only while the things its trace saw are as they were. `explore` starts
at the function and follows, as far as the traced code could have, every global, cell, default and
attribute; each thing met becomes a row of a `Table`: how to get there, and what must hold there.
Tensors are inputs (nothing must hold but the type), numbers and strings must be equal, functions
must run the same code, the rest must be the same object. The table is plain data, walked at every
call.
"""

from __future__ import annotations

import builtins
import dis
import enum
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepseek.errors import TraceError, is_internal
from deepseek.frontend.tensor import Device, Tensor
from deepseek.ir.dtype import DType

Record = tuple[types.CodeType, dict[str, Any], dict[str, Any]]

# How to get from an object to the next one.
ROOT, ATTR, ITEM, CELL = "root", "attr", "item", "cell"
# What must hold there.
FREE, IS, EQUAL, KEYS, LENGTH, TYPE, ARRAY = "free", "is", "equal", "keys", "length", "type", "array"

UNSEEN = ("eval", "exec", "globals", "locals", "vars")
PLAIN = (bool, int, float, complex, str, bytes, type(None), DType, Device, enum.Enum, slice, type(...))
MISSING = object()


class Structure:
    """Counts the changes to any Module's structure or settings, so that most calls need look no
    further.
    """

    version = 0


structure = Structure()


@dataclass(frozen=True)
class Row:
    """Object number i is `step key` from object `parent`; `check` with `expected` must hold for
    it.
    """

    parent: int
    step: str
    key: Any
    check: str
    expected: Any
    text: str


class Table:
    """Rows in order: each parent precedes its children. Row 0 is the list `root`."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self.rows: list[Row] = [Row(0, ROOT, None, FREE, None, "the call")]
        self.known: dict[int, int] = {id(root): 0}
        self.kept: list[Any] = [root]  # keeps ids unique while the table lives

    def add(self, obj: Any, parent: int, step: str, key: Any, check: str, expected: Any, text: str) -> int:
        self.rows.append(Row(parent, step, key, check, expected, text))
        self.known.setdefault(id(obj), len(self.rows) - 1)
        self.kept.append(obj)
        return len(self.rows) - 1

    def follow(self) -> list[Any] | None:
        """Every row's object now, or None where something does not hold."""
        objects: list[Any] = [self.root]
        for row in self.rows[1:]:
            obj = step_to(objects[row.parent], row.step, row.key)
            if not holds(obj, row.check, row.expected):
                return None
            objects.append(obj)
        return objects

    def broken(self) -> str:
        """Which row does not hold any more, in words."""
        objects: list[Any] = [self.root]
        for row in self.rows[1:]:
            obj = step_to(objects[row.parent], row.step, row.key)
            if not holds(obj, row.check, row.expected):
                return f"{row.text} changed"
            objects.append(obj)
        return ""


def step_to(obj: Any, step: str, key: Any) -> Any:
    """The object one step further, or MISSING."""
    try:
        if step == ATTR:
            return getattr(obj, key)
        if step == ITEM:
            return obj[key]
        return obj.cell_contents
    except (AttributeError, KeyError, IndexError, ValueError, TypeError):
        return MISSING


def holds(obj: Any, check: str, expected: Any) -> bool:
    """Whether a check holds for an object."""
    if obj is MISSING:
        return expected is MISSING
    if check == FREE:
        return True
    if check == IS:
        return obj is expected
    if check == EQUAL:
        return type(obj) is type(expected) and (obj == expected or obj != obj and expected != expected)
    if check == LENGTH:
        return type(obj) is expected[0] and len(obj) == expected[1]
    if check == KEYS:
        return type(obj) is expected[0] and tuple(obj) == expected[1]
    if check == TYPE:
        return type(obj) is expected
    value, copy = expected
    return obj is value and np.array_equal(obj, copy, equal_nan=copy.dtype.kind == "f")


class Explorer:
    """Fills a table with everything the recorded code could have read."""

    def __init__(
        self, root: list[Any], records: Iterable[Record], skip: Callable[[Any, Any], bool]
    ) -> None:
        """`root` is the traced function, then the arguments that are neither tensors nor plain."""
        function = root[0]
        self.table = Table(root)
        self.skip = skip  # (container, key) -> whether the number there is an input
        self.codes: set[types.CodeType] = {function.__code__}
        self.names: set[str] = set()
        self.records = list(records)
        for code, _, _ in self.records:
            self.codes.update(nested_codes(code))
        self.codes.update(nested_codes(function.__code__))
        for code in self.codes:
            refuse_unseen(code)
            self.names.update(attribute_names(code))
        self.done: set[int] = set()

    def run(self) -> Table:
        function, *arguments = self.table.root
        at = self.table.add(function, 0, ITEM, 0, FREE, None, function.__qualname__)
        self.function(function, at, function.__qualname__)
        for i, obj in enumerate(arguments):
            self.visit(obj, 0, ITEM, i + 1, f"argument {type(obj).__name__}")
        return self.table

    def visit(self, obj: Any, parent: int, step: str, key: Any, text: str) -> None:
        """Add one object and what hangs on it."""
        add = self.table.add
        if isinstance(obj, PLAIN) or obj is MISSING:
            if not self.skip(self.table.kept[parent], key):
                add(obj, parent, step, key, EQUAL, obj, text)
            return
        if isinstance(obj, Tensor):
            row = add(obj, parent, step, key, TYPE, type(obj), text)
            if isinstance(obj._grad, Tensor) and id(obj) not in self.done:
                self.done.add(id(obj))
                add(obj._grad, row, ATTR, "_grad", TYPE, Tensor, f"{text}.grad")
            return
        if isinstance(obj, np.ndarray):
            add(obj, parent, step, key, ARRAY, (obj, obj.copy()), text)
            return
        if isinstance(obj, (list, tuple)):
            row = add(obj, parent, step, key, LENGTH, (type(obj), len(obj)), text)
            self.elements(obj, row, enumerate(obj), text)
            return
        if isinstance(obj, dict):
            row = add(obj, parent, step, key, KEYS, (type(obj), tuple(obj)), text)
            self.elements(obj, row, obj.items(), text)
            return
        if isinstance(obj, types.FunctionType):
            row = add(obj, parent, step, key, TYPE, types.FunctionType, text)
            self.function(obj, row, text)
            return
        row = add(obj, parent, step, key, IS, obj, text)
        if id(obj) not in self.done:
            self.done.add(id(obj))
            self.attributes(obj, row, text)

    def elements(self, obj: Any, row: int, items: Iterable[tuple[Any, Any]], text: str) -> None:
        if id(obj) in self.done:
            return
        self.done.add(id(obj))
        for key, value in items:
            name = repr(key) if isinstance(key, (int, str)) else type(key).__name__
            self.visit(value, row, ITEM, key, f"{text}[{name}]")

    def function(self, function: types.FunctionType, row: int, text: str) -> None:
        """A function holds while its code does; its cells, defaults and globals are read by it."""
        self.table.add(function.__code__, row, ATTR, "__code__", IS, function.__code__, f"{text} (its code)")
        if function.__code__ not in self.codes or id(function) in self.done:
            return
        self.done.add(id(function))
        for i, name in enumerate(function.__code__.co_freevars):
            assert function.__closure__ is not None
            cells = self.table.add(
                function.__closure__, row, ATTR, "__closure__", FREE, None, f"{text} (its cells)"
            )
            cell = function.__closure__[i]
            at = self.table.add(cell, cells, ITEM, i, FREE, None, name)
            self.visit(step_to(cell, CELL, None), at, CELL, None, name)
        for name in ("__defaults__", "__kwdefaults__"):
            values = getattr(function, name)
            if values:
                self.visit(values, row, ATTR, name, f"{text} (its defaults)")
        self.globals(function, row)

    def globals(self, function: types.FunctionType, row: int) -> None:
        namespace = function.__globals__
        at = self.table.known.get(id(namespace))
        if at is None:
            at = self.table.add(namespace, row, ATTR, "__globals__", IS, namespace, "globals")
        for code in nested_codes(function.__code__):
            for name in global_names(code):
                key = ("global", id(namespace), name)
                if hash(key) in self.done or name not in namespace:
                    continue
                self.done.add(hash(key))
                self.visit(namespace[name], at, ITEM, name, name)

    def attributes(self, obj: Any, row: int, text: str) -> None:
        """The attributes that the traced code names, where they can be read without running code.
        """
        if is_library(obj):
            return
        if isinstance(obj, types.MethodType):
            self.visit(obj.__func__, row, ATTR, "__func__", text)
            self.visit(obj.__self__, row, ATTR, "__self__", text)
            return
        always = getattr(type(obj), "_ds_children_", ())
        own = dict(getattr(obj, "__dict__", {}))
        for name in (*always, *sorted(self.names & set(own))):
            if name in own:
                self.visit(own[name], row, ATTR, name, f"{text}.{name}")
        for kind in type(obj).__mro__ if not isinstance(obj, type) else ():
            for name in sorted(self.names & set(vars(kind)) - set(own)):
                value = vars(kind)[name]
                slot = isinstance(value, types.MemberDescriptorType)
                if slot and hasattr(obj, name):
                    self.visit(getattr(obj, name), row, ATTR, name, f"{text}.{name}")
                elif isinstance(value, types.FunctionType) and not is_internal(value.__code__.co_filename):
                    self.method(kind, name, value, row, text)
                elif isinstance(value, (*PLAIN, Tensor, np.ndarray, list, dict, tuple)) and value is not None:
                    self.visit(value, row, ATTR, name, f"{text}.{name}")

    def method(self, kind: type, name: str, function: types.FunctionType, row: int, text: str) -> None:
        at = self.table.known.get(id(kind))
        if at is None:
            at = self.table.add(kind, row, ATTR, "__class__", IS, kind, f"{text} (its class)")
        self.visit(function, at, ATTR, name, f"{kind.__qualname__}.{name}")


def is_library(obj: Any) -> bool:
    """Whether an object is a module or class of deepseek, NumPy or the standard library."""
    if isinstance(obj, types.ModuleType):
        where = getattr(obj, "__file__", None)
        name = obj.__name__.partition(".")[0]
        return where is None or is_internal(where) or name in ("numpy", "deepseek")
    if isinstance(obj, type):
        return obj.__module__.partition(".")[0] in ("numpy", "deepseek", "builtins")
    return isinstance(obj, (types.BuiltinFunctionType, np.generic, np.ufunc))


def nested_codes(code: types.CodeType) -> list[types.CodeType]:
    """The code object and those of functions defined inside it."""
    found = [code]
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            found += nested_codes(const)
    return found


def attribute_names(code: types.CodeType) -> set[str]:
    """Attributes that the code names, constant getattr included."""
    names = {
        i.argval for i in dis.get_instructions(code)
        if i.opname in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "DELETE_ATTR", "IMPORT_FROM")
    }  # fmt: skip
    if "getattr" in code.co_names:
        names.update(c for c in code.co_consts if isinstance(c, str))
    return names


def global_names(code: types.CodeType) -> list[str]:
    """Globals that the code names."""
    return list(dict.fromkeys(
        i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    ))  # fmt: skip


def refuse_unseen(code: types.CodeType) -> None:
    """Raise TraceError where the code reads in ways that cannot be followed."""
    if is_internal(code.co_filename):
        return
    before: list[dis.Instruction] = []
    for instruction in dis.get_instructions(code):
        name = instruction.argval
        loads = instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME")
        if loads and name in UNSEEN and hasattr(builtins, name):
            raise unseen(code, instruction, f"{name}()")
        if instruction.opname in ("CALL", "CALL_FUNCTION") and computed_getattr(before):
            raise unseen(code, instruction, "getattr() with a computed name")
        before.append(instruction)


def computed_getattr(before: list[dis.Instruction]) -> bool:
    """Whether the call that follows is getattr whose name is not a constant."""
    tail = [i for i in before[-8:] if i.opname not in ("PRECALL", "CACHE", "PUSH_NULL")]
    for start in range(len(tail) - 1, -1, -1):
        if tail[start].opname in ("LOAD_GLOBAL", "LOAD_NAME") and tail[start].argval == "getattr":
            arguments = tail[start + 1 :]
            constants = [i for i in arguments if i.opname == "LOAD_CONST" and isinstance(i.argval, str)]
            return not constants
        if tail[start].opname in ("CALL", "CALL_FUNCTION"):
            return False
    return False


def unseen(code: types.CodeType, instruction: dis.Instruction, what: str) -> TraceError:
    line = instruction.positions.lineno if instruction.positions else code.co_firstlineno
    return TraceError(
        f"@ds.jit cannot see what {what} reads, so it could not notice when that changes\n"
        f"  at {code.co_filename}:{line}, in {code.co_qualname}\n"
        "  help: read it before and pass it as an argument, or name the attribute directly"
    )
