"""Conditions: what must hold for a compiled entry to be used again, in sentences.

In flows the entry of a jitted function; out flow its guards on arguments, on sizes and on whatever
the trace read from outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deepseek.compiler.entry import DRAW, SEED, Binding, Entry, Leaf, is_leaf_row
from deepseek.compiler.tree import TENSOR
from deepseek.debug.palette import plain_path
from deepseek.frontend import guards
from deepseek.frontend.guards import Row
from deepseek.frontend.tensor import Tensor
from deepseek.ir.text import expr_text, type_text


def sentences(entry: Entry) -> list[str]:
    """The guards of an entry, each a sentence."""
    out = []
    for binding, value in zip(entry.bindings, entry.graph.inputs, strict=True):
        out += about_input(binding, type_text(value.type), entry)
    out += [
        f"argument {i} equals {leaf.pinned!r}: the trace used its value"
        for i, leaf in enumerate(entry.leaves)
        if leaf.pinned is not guards.MISSING
    ]
    out += [f"the size {v.name} is 2 or more" for v in entry.variables]
    out += [f"of the sizes, {expr_text(condition)} holds" for condition in entry.guards]
    bound = {b.row for b in entry.bindings}
    for number, row in enumerate(entry.table.rows):
        if number not in bound or row.check == guards.EQUAL:
            out += about_row(row)
    return list(dict.fromkeys(map(plain_path, out)))


def about_input(binding: Binding, text: str, entry: Entry) -> Iterator[str]:
    """What holds for one input of the graph."""
    row = entry.table.rows[binding.row]
    if binding.kind in (SEED, DRAW):
        return  # of generators, which are always there
    if is_leaf_row(binding, entry.table):
        leaf: Leaf = entry.leaves[row.key]
        if binding.kind == TENSOR:
            yield f"{row.text} is {text}"
        elif leaf.pinned is guards.MISSING and leaf.number is not None:
            yield f"{row.text} is a number of type {leaf.number.__name__}, of any value"
    elif binding.kind == TENSOR:
        grad = ", requiring gradients" if binding.requires_grad else ""
        yield f"{row.text} is {text}{grad}, read anew at each call"
    elif row.check == guards.TYPE:
        yield f"{row.text} is a number of type {row.expected.__name__}, read anew at each call"


def about_row(row: Row) -> Iterator[str]:
    """What holds for one thing that the trace read; nothing where that goes without saying."""
    name = row.text
    if row.expected is guards.MISSING:
        yield f"{name} does not exist"
        return
    match row.check:
        case guards.EQUAL:
            yield f"{name} equals {shortened(row.expected)}"
        case guards.COPY:
            yield from about_container(name, row.expected)
        case guards.LENGTH:
            kind, length = row.expected
            yield f"{name} is a {kind.__name__} of {length}"
        case guards.KEYS:
            kind, keys = row.expected
            shown = [k if isinstance(k, guards.PLAIN) else type(k).__name__ for k in keys]
            yield f"{name} is a {kind.__name__} with the keys {shortened(shown)}"
        case guards.TYPE if row.expected is Tensor:
            yield f"{name} is a Tensor"
        case guards.TYPE:
            yield f"{name} is a {row.expected.__name__}"
        case guards.ARRAY:
            yield f"{name} is a NumPy array with the same elements"
        case guards.IS if row.key == "__code__":
            yield f"{name.removesuffix(' (its code)')} has the same code"
        case guards.IS if row.key == "__globals__" or row.step in (guards.KIND, guards.HELD):
            return  # follows from its owner being the same
        case guards.IS:
            yield f"{name} is the same {type(row.expected).__name__} object"
        case guards.SAME | guards.SHOWS:
            return  # another path to what a sentence is about already


def about_container(name: str, expected: tuple[type, Any]) -> Iterator[str]:
    """What holds for a container of plain values."""
    kind, parts = expected
    if isinstance(parts, frozenset):
        yield f"{name} equals {shortened(set(parts))}"
        return
    yield f"{name} is a {kind.__name__} of {len(parts)}"
    for i, part in enumerate(parts):
        key, value = part if issubclass(kind, dict) else (i, part)
        if type(value) is tuple:
            yield from about_container(f"{name}[{key!r}]", value)
        else:
            yield f"{name}[{key!r}] equals {shortened(value)}"


def shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
