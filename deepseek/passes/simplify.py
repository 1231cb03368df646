"""Simplify: local equalities that hold bit for bit, and merging of nodes that compute the same.

Each rule is named as the equality it uses. Casts that change a type are the user's and stay.
"""

from __future__ import annotations

from deepseek.ir.graph import Graph, Node, Value
from deepseek.ir.op import Kind
from deepseek.ir.rewrite import Fuel, Replacement, Rewriter, Rule, rule, with_inputs


def _number(value: Value) -> object:
    """The number that a `full` value is filled with, or None."""
    node = value.node
    if node.op.kind is Kind.CREATE and "value" in node.attrs:
        return node.attrs["value"]
    return None


@rule("positive")
def identity_of_x_is_x(node: Node) -> Replacement:
    return node.inputs[0]


@rule("stop_gradient")
def stopped_x_is_x(node: Node) -> Replacement:
    return node.inputs[0]


@rule("astype")
def cast_to_own_type_is_x(node: Node) -> Replacement:
    return node.inputs[0] if node.inputs[0].type is node.outputs[0].type else None


@rule("multiply")
def x_times_one_is_x(node: Node) -> Replacement:
    a, b = node.inputs
    if _number(b) == 1:
        return a
    return b if _number(a) == 1 else None


@rule("divide")
def x_over_one_is_x(node: Node) -> Replacement:
    return node.inputs[0] if _number(node.inputs[1]) == 1 else None


@rule("negative")
def minus_minus_x_is_x(node: Node) -> Replacement:
    inner = node.inputs[0].node
    return inner.inputs[0] if inner.op is node.op else None


@rule(Kind.VIEW)
def view_to_own_type_is_x(node: Node) -> Replacement:
    """A reshape or broadcast to the shape that is there already."""
    if node.op.name not in ("reshape", "broadcast_to"):
        return None
    return node.inputs[0] if node.inputs[0].type is node.outputs[0].type else None


@rule("reshape")
def reshape_of_reshape_is_reshape(node: Node) -> Replacement:
    inner = node.inputs[0].node
    if inner.op is not node.op:
        return None
    return with_inputs(node, inner.inputs).outputs[0]


@rule("permute_dims")
def permute_by_identity_is_x(node: Node) -> Replacement:
    axes = node.attrs["axes"]
    if axes == tuple(range(len(axes))):
        return node.inputs[0]
    return None


RULES: list[Rule] = [
    identity_of_x_is_x,
    stopped_x_is_x,
    cast_to_own_type_is_x,
    x_times_one_is_x,
    x_over_one_is_x,
    minus_minus_x_is_x,
    view_to_own_type_is_x,
    reshape_of_reshape_is_reshape,
    permute_by_identity_is_x,
]
_rewriter = Rewriter(RULES)


def simplify(graph: Graph, fuel: Fuel | None = None) -> Graph:
    """Apply RULES bottom-up and merge equal nodes."""
    return _rewriter.run(graph, fuel)
