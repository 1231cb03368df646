"""Peepholes on finished nodes: what ONNX says in one operator where our ops need several.

So far one: a sum with a value for each channel, right after a Conv, is the Conv's own bias.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from deepseek.onnx.builder import Builder

CONVOLUTIONS = ("Conv", "ConvTranspose")


def tidy(b: Builder, nodes: Sequence[Any], results: Sequence[str]) -> list[Any]:
    """The nodes with biases moved into convolutions."""
    uses = Counter(name for n in nodes for name in reads(n))
    uses.update(results)
    producers = {o: n for n in nodes for o in n.output}
    gone: set[str] = set()
    for node in nodes:
        if node.op_type != "Add":
            continue
        for value, other in (tuple(node.input), tuple(node.input)[::-1]):
            conv = producers.get(value)
            if conv is None or conv.op_type not in CONVOLUTIONS:
                continue
            if len(conv.input) > 2 or uses[value] > 1:
                continue
            bias = per_channel(b, other, producers.get(other), conv)
            if bias is not None:
                conv.input.append(bias)
                conv.output[0] = node.output[0]
                gone.add(node.name)
                break
    return [n for n in nodes if n.name not in gone]


def per_channel(b: Builder, value: str, node: Any, conv: Any) -> str | None:
    """The vector that a value, or the node that made it, adds to the channels of a Conv, if so."""
    ones = tuple(1 for a in conv.attribute if a.name == "kernel_shape" for _ in a.ints)
    held = b.held.get(value)
    if held is not None:
        count = held.size
        if held.shape not in ((count, *ones), (1, count, *ones)):
            return None
        return b.array(held.reshape(-1), b.dtypes[value])
    if node is None or node.op_type != "Reshape" or node.input[0] not in b.held:
        return None
    vector, target = b.held[node.input[0]], b.known.get(node.input[1])
    if target is None or vector.ndim != 1 or target.tolist() != [*vector.shape, *ones]:
        return None
    return str(node.input[0])


def reads(node: Any) -> set[str]:
    """The names a node reads, its bodies included."""
    found = set(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            for inner in attribute.g.node:
                found |= reads(inner)
            found |= {o.name for o in attribute.g.output}
    return found
