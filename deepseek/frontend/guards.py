"""Guards: what a trace read from outside, by the path it was read from.

A compiled function is right only while the things its trace saw are as they were. Each thing met is
a `Row` of a `Table`: how to get there, and what must hold there. The table is plain data. The
runtime's dispatcher walks it at every call; the walk written here says the same in Python, for
errors and reports.
"""

from __future__ import annotations

import collections
import enum
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepseek.frontend.tensor import Device, Tensor
from deepseek.ir.dtype import DType

# How to get from an object to the next one. The key: the object itself; the number of an argument;
# an index or dict key; an attribute; an attribute in the object's own dict; nothing, for its class;
# a name that a class or one of its bases defines; the number of a function's cell; nothing, for the
# same object once more.
HELD, LEAF, ITEM, ATTR, OWN, KIND, LOOKUP, CELL, SELF = (
    "held", "leaf", "item", "attr", "own", "kind", "lookup", "cell", "self",
)  # fmt: skip
# What must hold there. Expected: nothing; the object; a plain value; a copy of a container of plain
# values; (type, keys); (type, length); the exact type; a copy of a NumPy array; the row that the
# same object was met at; the row of a tensor that shows the same value.
FREE, IS, EQUAL, COPY, KEYS, LENGTH, TYPE, ARRAY, SAME, SHOWS = (
    "free", "is", "equal", "copy", "keys", "length", "type", "array", "same", "shows",
)  # fmt: skip

# Values and nothing else. An object of a subclass of the first ones may have attributes.
PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), slice)
PLAIN_FAMILIES = (DType, Device, enum.Enum, np.dtype)
SEQUENCES = (list, tuple, collections.deque)
SETS = (set, frozenset)


class Missing:
    """Stands for what is not there."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING = Missing()


class Structure:
    """Counts the changes to any Module's structure or settings: while the count is the same, what
    hangs on a Module need not be looked at.
    """

    version = 0


structure = Structure()


@dataclass(frozen=True, slots=True)
class Row:
    """The object that is `step key` from object number `parent`; `check` with `expected` must hold.

    With `stays` it hangs on a Module: while `structure.version` is unchanged, the object is the
    same one and the check holds.
    """

    parent: int
    step: str
    key: Any
    check: str
    expected: Any
    text: str
    stays: bool = False


class Table:
    """Rows in order: each parent precedes its children."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def walk(self, leaves: Sequence[Any]) -> Iterator[tuple[Row, Any, bool]]:
        """Every row with its object now and whether its check holds, up to one that does not."""
        objects: list[Any] = []
        for row in self.rows:
            parent = objects[row.parent] if objects else None
            obj = leaves[row.key] if row.step == LEAF else step_to(parent, row.step, row.key)
            held = holds(obj, row.check, row.expected, objects)
            yield row, obj, held
            if not held:
                return
            objects.append(obj)

    def follow(self, leaves: Sequence[Any]) -> list[Any] | None:
        """Every row's object now, or None where something does not hold."""
        walked = list(self.walk(leaves))
        return [obj for _, obj, _ in walked] if all(held for _, _, held in walked) else None

    def broken(self, leaves: Sequence[Any]) -> str:
        """Which row does not hold any more, in words; empty if all do."""
        for row, obj, held in self.walk(leaves):
            if not held:
                where = difference(obj, row.expected) if row.check == COPY else ""
                return f"{row.text}{where} changed"
        return ""


def step_to(obj: Any, step: str, key: Any) -> Any:
    """The object one step further, or MISSING."""
    try:
        match step:
            case "held":
                return key
            case "item":
                return element(obj, key)
            case "own":
                return obj.__dict__.get(key, MISSING)
            case "kind":
                return type(obj)
            case "lookup":
                return looked_up(obj, key)
            case "cell":
                return obj.__closure__[key].cell_contents
            case "self":
                return obj
            case _:
                return object.__getattribute__(obj, key)
    except (AttributeError, LookupError, ValueError, TypeError):
        return MISSING


def element(obj: Any, key: Any) -> Any:
    """An element of a container, whatever a subclass makes of asking for it."""
    kind = next((k for k in (dict, *SEQUENCES) if isinstance(obj, k)), None)
    return obj[key] if kind is None else kind.__getitem__(obj, key)  # type: ignore[index]


def looked_up(kind: type, name: str) -> Any:
    """What a class or one of its bases defines under a name, as it stands there."""
    for base in kind.__mro__:
        if name in base.__dict__:
            return base.__dict__[name]
    return MISSING


def holds(obj: Any, check: str, expected: Any, objects: Sequence[Any]) -> bool:
    """Whether a check holds for an object."""
    if obj is MISSING or expected is MISSING:
        return obj is expected
    match check:
        case "free":
            return True
        case "is":
            return obj is expected
        case "equal" | "copy":
            return same(obj, expected)
        case "length":
            return type(obj) is expected[0] and len(elements(obj)) == expected[1]
        case "keys":
            return type(obj) is expected[0] and same_keys(keys_of(obj), expected[1])
        case "type":
            return type(obj) is expected
        case "array":
            return same_array(obj, expected)
        case "same":
            return obj is objects[expected]
        case "shows":
            return isinstance(obj, Tensor) and obj._value is objects[expected]._value
    raise AssertionError(check)


# ---------------------------------------------------------------------------------- plain values


def is_plain(obj: Any) -> bool:
    """Whether an object is a value and nothing else: it can be compared, and has no parts."""
    if type(obj) in PLAIN or isinstance(obj, PLAIN_FAMILIES):
        return True
    return isinstance(obj, np.generic) and not hasattr(obj, "__dict__")


def is_plain_inside(obj: Any) -> bool:
    """Whether an object is a plain value or a container of such."""
    if is_plain(obj):
        return True
    if isinstance(obj, (*SEQUENCES, *SETS)):
        return all(is_plain_inside(x) for x in elements(obj))
    if isinstance(obj, dict):
        return all(is_plain(k) and is_plain_inside(x) for k, x in entries(obj))
    return False


def elements(obj: Any) -> list[Any]:
    """What lies in a sequence or set, whatever a subclass makes of iterating over it."""
    kind = next(k for k in (*SEQUENCES, *SETS) if isinstance(obj, k))
    return list(kind.__iter__(obj))  # type: ignore[arg-type]


def entries(obj: dict[Any, Any]) -> list[tuple[Any, Any]]:
    """The keys and values of a dict, in its order, whatever a subclass makes of them."""
    if isinstance(obj, collections.OrderedDict):
        return [(key, dict.__getitem__(obj, key)) for key in collections.OrderedDict.__iter__(obj)]
    return list(dict.items(obj))


def copied(obj: Any) -> Any:
    """A container of plain values that later changes of the original leave alone.

    Sequences and sets become lists, dicts lists of pairs; each with its type. The order in a set
    counts, since whoever iterates over it sees it.
    """
    if isinstance(obj, (*SEQUENCES, *SETS)):
        return type(obj), [copied(x) for x in elements(obj)]
    if isinstance(obj, dict):
        return type(obj), [(k, copied(x)) for k, x in entries(obj)]
    return obj


def same(obj: Any, expected: Any) -> bool:
    """Whether a plain value, or a container, is what it was; numbers bit for bit."""
    if type(expected) is tuple:  # what `copied` gave
        kind, parts = expected
        if type(obj) is not kind:
            return False
        keyed = isinstance(obj, dict)
        items = entries(obj) if keyed else elements(obj)
        if len(items) != len(parts):
            return False
        pairs = zip(items, parts, strict=True)
        if keyed:
            return all(same(k, key) and same(x, part) for (k, x), (key, part) in pairs)
        return all(same(x, part) for x, part in pairs)
    if obj is expected:
        return True
    if type(obj) is not type(expected):
        return False
    if isinstance(obj, float):
        return same_float(obj, expected)
    if isinstance(obj, complex):
        return same_float(obj.real, expected.real) and same_float(obj.imag, expected.imag)
    if isinstance(obj, np.generic):
        return obj.dtype == expected.dtype and obj.tobytes() == expected.tobytes()
    if isinstance(obj, slice):
        parts = ("start", "stop", "step")
        return all(same(getattr(obj, name), getattr(expected, name)) for name in parts)
    return bool(obj == expected)


def difference(obj: Any, expected: Any) -> str:
    """Which element of a container is not what it was; empty if it is the container itself."""
    kind, parts = expected
    if type(obj) is not kind or isinstance(obj, SETS):
        return ""
    keyed = isinstance(obj, dict)
    items = entries(obj) if keyed else list(enumerate(elements(obj)))
    pairs = parts if keyed else list(enumerate(parts))
    if len(items) != len(pairs):
        return ""
    for (key, value), (wanted, part) in zip(items, pairs, strict=True):
        if not same(key, wanted):
            return ""
        if not same(value, part):
            deeper = difference(value, part) if type(part) is tuple else ""
            return f"[{key!r}]{deeper}"
    return ""


def same_float(a: float, b: float) -> bool:
    return a != a and b != b or a == b and math.copysign(1, a) == math.copysign(1, b)


def keys_of(obj: dict[Any, Any]) -> tuple[Any, ...]:
    return tuple([key for key, _ in entries(obj)])


def same_keys(keys: tuple[Any, ...], expected: tuple[Any, ...]) -> bool:
    """Whether dict keys are the same: plain ones by value, others by identity."""
    return len(keys) == len(expected) and all(
        a is b or is_plain(b) and same(a, b) for a, b in zip(keys, expected, strict=True)
    )


def same_array(obj: Any, expected: np.ndarray[Any, Any]) -> bool:
    """Whether an array has the dtype, the shape and the elements, bit for bit, that it had."""
    if type(obj) is not type(expected) or obj.dtype != expected.dtype:
        return False
    return obj.shape == expected.shape and obj.tobytes() == expected.tobytes()
