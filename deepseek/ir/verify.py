"""The rules that every graph keeps, before and after each pass.

In flows a graph; out flows nothing, or a VerifyError that shows the node which breaks a rule and
the user's line it came from. Types are held against the ops' own rules where all sizes are known.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deepseek.errors import DeepseekError, FormatError, VerifyError, format_line
from deepseek.ir.graph import CONSTANT, Array, Graph, Node, Value, typed
from deepseek.ir.op import Kind
from deepseek.ir.text import literal_text


def verify(graph: Graph) -> None:
    """Check a graph and the graphs inside it. Raises VerifyError."""
    names: dict[Value, str] = {}
    for value in graph.inputs:
        if value in names:
            raise VerifyError(f"the graph takes {value} twice")
        names[value] = f"%{len(names)}"
    for node in graph.nodes:
        for problem in _problems(node, names):
            raise VerifyError(_described(node, names, problem))
        for value in node.outputs:
            names[value] = f"%{len(names)}"
    for value in graph.outputs:
        if value not in names:
            raise VerifyError(f"the graph gives {value}, which it neither takes nor computes")


def _problems(node: Node, names: dict[Value, str]) -> Iterator[str]:
    """What is wrong with a node, given the values that stand before it."""
    if node.op.kind is Kind.LEAF and node.op is not CONSTANT:
        yield "an input stands inside the graph and is not among those it takes"
    for position, value in enumerate(node.inputs):
        if value not in names:
            yield f"input {position}, {value}, is neither taken nor computed before"
    for index, value in enumerate(node.outputs):
        if value.node is not node or value.index != index:
            yield f"output {index} belongs to another node"
        if value in names:
            yield f"output {index} is also an input of the graph"
    yield from _attr_problems(node)
    yield from _type_problems(node)


def _attr_problems(node: Node) -> Iterator[str]:
    for name, value in node.attrs.items():
        if isinstance(value, Array):
            continue
        if callable(value) and node.op.kind is Kind.HOST:
            continue  # what a backend runs for a node that it claimed; it has no text
        try:
            hash(value)
            literal_text(value)
        except TypeError:
            yield f"attribute {name!r} of type {type(value).__name__} cannot be hashed"
        except FormatError as error:
            yield f"attribute {name!r}: {error}"
        for inner in _graphs_in(value):
            try:
                verify(inner)
            except VerifyError as error:
                yield f"attribute {name!r} is a graph in which {error}"


def _graphs_in(value: Any) -> Iterator[Graph]:
    if isinstance(value, Graph):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _graphs_in(part)


def _type_problems(node: Node) -> Iterator[str]:
    types = tuple([v.type for v in node.inputs])
    given = tuple([v.type for v in node.outputs])
    if not all(t.static for t in types + given):
        return
    try:
        _, wanted = typed(node.op, types, node.attrs)
    except DeepseekError as error:
        yield f"its type rule refuses the inputs: {error}"
        return
    if wanted != given:
        got = ", ".join(map(str, given))
        yield f"its type is {got}, and by its type rule it should be {', '.join(map(str, wanted))}"


def _described(node: Node, names: dict[Value, str], problem: str) -> str:
    inputs = ", ".join([names.get(v, f"<{v.type}>") for v in node.inputs])
    types = ", ".join([str(v.type) for v in node.outputs])
    text = f"{problem}\n  in {node.op.name}({inputs}) : {types}"
    return text if node.line is None else f"{text}\n  at {format_line(node.line)}"
