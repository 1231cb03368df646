"""Claim, else expand: every composite that the backend does not claim is replaced by its
expansion.
"""

from __future__ import annotations

from collections.abc import Callable

from deepseek.ir.graph import Graph, Node, Value, make_node
from deepseek.ir.interpret import expansion
from deepseek.ir.op import Kind, Op, internal
from deepseek.ir.rewrite import Fuel, Replacement, Rewriter, Rule, inline
from deepseek.ir.shape import TensorType

Claimed = Callable[[Node], object]


def _claimed_types(
    *_: TensorType, types: tuple[TensorType, ...], **__: object
) -> tuple[TensorType, ...]:
    return types


CLAIMED = internal(
    Op("claimed", Kind.HOST, _claimed_types, doc="A node that a backend runs itself.")
)


def expand(graph: Graph, claim: Claimed | None = None, fuel: Fuel | None = None) -> Graph:
    """The graph without composites; nodes that `claim` accepts become CLAIMED nodes."""

    def on_composite(node: Node) -> Replacement:
        taken = take(node)
        if taken is not None:
            return taken
        return inline(expansion(node), node.inputs, node.line)

    def take(node: Node) -> tuple[Value, ...] | None:
        packed = claim(node) if claim is not None else None
        if packed is None:
            return None
        types = tuple(v.type for v in node.outputs)
        attrs = {"types": types, "run": packed, "name": node.op.name}
        return make_node(CLAIMED, node.inputs, attrs, types, node.line).outputs

    rules = [Rule(Kind.COMPOSITE, on_composite, "expand", needed=True)]
    if claim is not None:
        rules += [Rule(kind, take, "claim") for kind in Kind if kind is not Kind.COMPOSITE
                  and kind not in (Kind.LEAF, Kind.HOST, Kind.REGION)]  # fmt: skip
    return Rewriter(rules).run(graph, fuel)
