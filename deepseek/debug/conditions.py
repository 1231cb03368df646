"""Conditions: what must hold for a compiled entry to be used again, in sentences.

In flows the entry of a jitted function; out flow its guards on arguments, on sizes and on whatever
the trace read from outside.
"""

from __future__ import annotations

from deepseek.compiler.entry import Binding, Entry
from deepseek.debug.palette import plain_path
from deepseek.frontend import guards
from deepseek.frontend.guards import Row
from deepseek.frontend.tensor import Tensor
from deepseek.ir.text import expr_text, type_text


def sentences(entry: Entry) -> list[str]:
    """The guards of an entry, each a sentence."""
    pinned = dict(entry.pins)
    out = []
    for binding, value in zip(entry.bindings, entry.graph.inputs, strict=True):
        sentence = about_input(binding, type_text(value.type), entry)
        if sentence is not None and not (binding.kind == "number" and binding.at in pinned):
            out.append(sentence)
    out += [f"argument {at} equals {value!r}: the trace used its value" for at, value in entry.pins]
    out += [f"the size {v.name} is 2 or more" for v in entry.variables]
    out += [f"of the sizes, {expr_text(condition)} holds" for condition in entry.guards]
    bound = {b.at for b in entry.bindings if b.kind == "row"}
    for number, row in enumerate(entry.table.rows):
        if number not in bound:
            sentence = about_row(row)
            if sentence is not None:
                out.append(sentence)
    return list(dict.fromkeys(map(plain_path, out)))


def about_input(binding: Binding, text: str, entry: Entry) -> str | None:
    """What holds for one input of the graph."""
    match binding.kind:
        case "leaf":
            return f"argument {binding.at} is {text}"
        case "number":
            return f"argument {binding.at} is a number of type {binding.key.__name__}, of any value"
        case "row":
            grad = ", requiring gradients" if binding.requires_grad else ""
            return f"{entry.table.rows[binding.at].text} is {text}{grad}, read anew at each call"
        case "item":
            key, kind = binding.key
            where = entry.table.rows[binding.at].text
            return f"{where}[{key!r}] is a number of type {kind.__name__}, read anew at each call"
        case _:
            return None  # seeds and draws of generators, which are always there


def about_row(row: Row) -> str | None:
    """What holds for one thing that the trace read, or None where nothing has to."""
    if row.expected is guards.MISSING:
        return f"{row.text} does not exist"
    match row.check:
        case guards.EQUAL:
            return f"{row.text} equals {shortened(row.expected)}"
        case guards.LENGTH:
            kind, length = row.expected
            return f"{row.text} is a {kind.__name__} of {length}"
        case guards.KEYS:
            kind, keys = row.expected
            return f"{row.text} is a {kind.__name__} with the keys {shortened(list(keys))}"
        case guards.TYPE if row.expected is Tensor:
            return f"{row.text} is a Tensor"
        case guards.TYPE:
            return f"{row.text} is a {row.expected.__name__}"
        case guards.ARRAY:
            return f"{row.text} is the same NumPy array with the same elements"
        case guards.IS if row.key == "__code__":
            return f"{row.text.removesuffix(' (its code)')} has the same code"
        case guards.IS if row.key in ("__globals__", "__class__"):
            return None  # follows from its owner being the same
        case guards.IS:
            return f"{row.text} is the same {type(row.expected).__name__} object"
        case _:
            return None


def shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
