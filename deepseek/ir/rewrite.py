"""Rewriting: the one engine under all passes.

A `Rule` says which op (or kind) it starts from and gives the replacement of a node's outputs, or
None. The engine rebuilds a graph bottom-up, offering each rebuilt node to the rules of its op until
none applies, and merges nodes that compute the same. Rules see nodes whose inputs are already
rewritten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepseek.errors import CompileError
from deepseek.ir import scalar
from deepseek.ir.graph import Graph, Node, Value, exact, input_value, make_node
from deepseek.ir.op import Kind, Op
from deepseek.ir.scalar import Expr
from deepseek.ir.shape import Size, TensorType, simplify, tensor_type

Replacement = Value | Sequence[Value] | None


@dataclass(frozen=True)
class Rule:
    """`apply(node)` gives what replaces the node's values, or None; `root` is a kind or a name.

    A rule is `needed` if nothing can be compiled without it.
    """

    root: str | Kind
    apply: Callable[[Node], Replacement]
    name: str = ""
    needed: bool = False


def rule(root: str | Kind) -> Callable[[Callable[[Node], Replacement]], Rule]:
    """Decorator that makes a Rule of a function."""

    def decorate(apply: Callable[[Node], Replacement]) -> Rule:
        return Rule(root, apply, apply.__name__)

    return decorate


class Fuel:
    """How many more rewrites may be made (-1: any number), to bisect a wrong one.

    Needed ones are made all the same, unless `all_count`: then the graph may be left in a state
    that has a meaning but cannot be compiled. `last` and `at` tell the last one made, and where.
    """

    def __init__(self, amount: int = -1, all_count: bool = False) -> None:
        self.amount = amount
        self.all_count = all_count
        self.used = 0
        self.last = ""
        self.at: Node | None = None

    def burn(self, what: str, at: Node, needed: bool = False) -> bool:
        """Whether the rewrite `what` of node `at` may be made."""
        if self.amount == self.used and (self.all_count or not needed):
            return False
        self.used += self.all_count or not needed
        self.last, self.at = what, at
        return True


class Rewriter:
    """Indexed rules, applied to graphs."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.by_root: dict[str | Kind, list[Rule]] = {}
        for r in rules:
            self.by_root.setdefault(r.root, []).append(r)
        self.by_op: dict[Op, list[Rule]] = {}

    def rules_for(self, op: Op) -> list[Rule]:
        found = self.by_op.get(op)
        if found is None:
            found = self.by_root.get(op.name, []) + self.by_root.get(op.kind, [])
            self.by_op[op] = found
        return found

    def run(self, graph: Graph, fuel: Fuel | None = None) -> Graph:
        """The rewritten graph; the same object if nothing changed."""
        done: dict[Value, Value] = {}
        unique: dict[Any, Node] = {}
        fuel = fuel or Fuel()
        for node in graph.nodes:
            inputs = tuple([done.get(v, v) for v in node.inputs])
            outputs = self.settle(with_inputs(node, inputs), unique, fuel, 0)
            for old, new in zip(node.outputs, outputs, strict=True):
                if old is not new:
                    done[old] = new
        if not done:
            return graph
        return Graph(graph.inputs, [done.get(v, v) for v in graph.outputs])

    def settle(
        self, node: Node, unique: dict[Any, Node], fuel: Fuel, depth: int
    ) -> Sequence[Value]:
        """The final replacement of a node: rules until none applies, then merging."""
        if depth > 100:
            raise CompileError(f"rules rewrite op '{node.op.name}' for ever: {fuel.last}")
        for r in self.rules_for(node.op):
            new = r.apply(node)
            if new is None or not fuel.burn(r.name, node, r.needed):
                continue
            values = (new,) if isinstance(new, Value) else tuple(new)
            return self.settle_values(node, values, unique, fuel, depth)
        return merge(node, unique).outputs

    def settle_values(
        self, old: Node, values: Sequence[Value], unique: dict[Any, Node], fuel: Fuel, depth: int
    ) -> Sequence[Value]:
        """Settle what a rule built on top of the old node's inputs, oldest first."""
        fresh: list[Node] = []
        seen: set[Node] = set()
        stack = [v.node for v in values]
        while stack:
            n = stack.pop()
            if n in seen or n.sequence <= old.sequence:
                continue
            seen.add(n)
            fresh.append(n)
            stack.extend(v.node for v in n.inputs)
        done: dict[Value, Value] = {}
        for n in sorted(fresh, key=lambda n: n.sequence):
            if n.line is None:
                n.line = old.line
            inputs = tuple([done.get(v, v) for v in n.inputs])
            outputs = self.settle(with_inputs(n, inputs), unique, fuel, depth + 1)
            done.update(zip(n.outputs, outputs, strict=True))
        return [done.get(v, v) for v in values]


def with_inputs(node: Node, inputs: tuple[Value, ...]) -> Node:
    """The node on other inputs of the same types; itself if they are the same."""
    if node.inputs == inputs:
        return node
    return make_node(node.op, inputs, node.attrs, [v.type for v in node.outputs], node.line)


def merge(node: Node, unique: dict[Any, Node]) -> Node:
    """An earlier node that computes the same, or this one. Ordered ops are never merged."""
    if node.op.kind.ordered:
        return node
    try:
        types = tuple([v.type for v in node.outputs])
        key = (node.op, node.inputs, types, exact(node.attrs))
        return unique.setdefault(key, node)
    except TypeError:  # an attribute that cannot be hashed
        return node


def inline(graph: Graph, inputs: Sequence[Value], line: Any = None) -> tuple[Value, ...]:
    """The graph's outputs, recomputed from other inputs of the same types."""
    done: dict[Value, Value] = dict(zip(graph.inputs, inputs, strict=True))
    for node in graph.nodes:
        new_inputs = tuple([done[v] for v in node.inputs])
        types = [v.type for v in node.outputs]
        copy = make_node(node.op, new_inputs, node.attrs, types, line or node.line)
        done.update(zip(node.outputs, copy.outputs, strict=True))
    return tuple([done[v] for v in graph.outputs])


def replace(graph: Graph, replacements: Mapping[Value, Value]) -> Graph:
    """The graph with some values replaced by others of the same type."""
    done: dict[Value, Value] = dict(replacements)
    for node in graph.nodes:
        inputs = tuple([done.get(v, v) for v in node.inputs])
        new = with_inputs(node, inputs)
        if new is not node:
            for old, value in zip(node.outputs, new.outputs, strict=True):
                done.setdefault(old, value)
    return Graph(graph.inputs, [done.get(v, v) for v in graph.outputs])


def specialized(graph: Graph, sizes: Mapping[Expr, Size]) -> Graph:
    """The graph with its size symbols replaced by numbers, in types and attributes."""
    known = {symbol: scalar.as_expr(size) for symbol, size in sizes.items()}

    def fixed(x: Any) -> Any:
        if isinstance(x, Expr):
            return simplify(scalar.substitute(x, known))
        if isinstance(x, tuple):
            return tuple(fixed(item) for item in x)
        if isinstance(x, TensorType):
            return tensor_type(x.dtype, fixed(x.shape), x.device)
        return specialized(x, sizes) if isinstance(x, Graph) else x

    done: dict[Value, Value] = {}
    for value in graph.inputs:
        made = input_value(value.type.dtype, fixed(value.type.shape), device=value.type.device)
        made.requires_grad = value.requires_grad
        done[value] = made
    for node in graph.nodes:
        attrs = {key: fixed(item) for key, item in node.attrs.items()}
        inputs = tuple([done[v] for v in node.inputs])
        types = [fixed(v.type) for v in node.outputs]
        copy = make_node(node.op, inputs, attrs, types, node.line)
        done.update(zip(node.outputs, copy.outputs, strict=True))
    return Graph([done[v] for v in graph.inputs], [done[v] for v in graph.outputs])
