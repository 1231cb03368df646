"""The rewrite engine: rules run to a fixed point, equal nodes merge, effects stay, fuel counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deepseek.errors import CompileError, user_line
from deepseek.ir.graph import Graph, node
from deepseek.ir.interpret import interpret
from deepseek.ir.op import Kind
from deepseek.ir.rewrite import Fuel, Rewriter, inline, replace, rule
from deepseek.ir.text import print_graph
from deepseek.ir.verify import verify


@rule("toy.neg")
def double_negation(n: Any) -> Any:
    (x,) = n.inputs
    return x.node.inputs[0] if x.node.op is n.op else None


@rule("toy.scale")
def scales_join(n: Any) -> Any:
    (x,) = n.inputs
    if x.node.op is not n.op:
        return None
    by = x.node.attrs["by"] * n.attrs["by"]
    return node(n.op, x.node.inputs, {"by": by}).outputs[0]


@rule(Kind.ORDER)
def sorted_once(n: Any) -> Any:
    (x,) = n.inputs
    return x.node.outputs if x.node.op is n.op and x.index == 0 else None


def ops(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes]


def same_meaning(a: Graph, b: Graph) -> None:
    verify(b)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(v.type.shape).astype(np.float32) for v in a.inputs]
    for x, y in zip(interpret(a, arrays), interpret(b, arrays), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)


def test_rules_run_until_none_applies(toy: Any) -> None:
    x = toy.input(3)
    y = x
    for _ in range(5):
        y = toy.neg(y)
    for k in range(4):
        y = toy.scale(y, k + 1)
    before = Graph([x], [y])
    after = Rewriter([double_negation, scales_join]).run(before)
    assert ops(after) == ["toy.neg", "toy.scale"]
    assert after.nodes[1].attrs == {"by": 24}
    same_meaning(before, after)


def test_a_graph_without_matches_is_the_same_object(toy: Any) -> None:
    x = toy.input(3)
    graph = Graph([x], [toy.neg(toy.scale(x, 2))])
    assert Rewriter([double_negation, scales_join]).run(graph) is graph


def test_equal_nodes_merge(toy: Any) -> None:
    x, y = toy.input(3), toy.input(3)
    total = toy.add(toy.add(toy.neg(x), y), toy.add(toy.neg(x), y))
    before = Graph([x, y], [total])
    after = Rewriter([]).run(before)
    assert ops(after) == ["toy.neg", "toy.add", "toy.add"]
    same_meaning(before, after)


def test_other_attributes_keep_nodes_apart(toy: Any) -> None:
    x = toy.input(3)
    graph = Graph([x], [toy.add(toy.scale(x, 2), toy.scale(x, 3))])
    assert Rewriter([]).run(graph) is graph


def test_equal_constants_merge(toy: Any) -> None:
    graph = Graph([], [toy.add(toy.constant([1.0, 2.0]), toy.constant([1.0, 2.0]))])
    assert ops(Rewriter([]).run(graph)) == ["constant", "toy.add"]


def test_effects_are_not_merged(toy: Any) -> None:
    x = toy.input(3)
    graph = Graph([x], [toy.add(toy.note(x), toy.note(x))])
    assert Rewriter([]).run(graph) is graph


def test_rules_by_kind_and_several_outputs(toy: Any) -> None:
    x = toy.input(3)
    values, _ = toy.sort(x)
    again, order = toy.sort(values)
    after = Rewriter([sorted_once]).run(Graph([x], [again, order]))
    assert ops(after) == ["toy.sort"]
    assert [v.index for v in after.outputs] == [0, 1]


def test_what_a_rule_builds_is_rewritten_too(toy: Any) -> None:
    @rule("toy.add")
    def sum_as_scale(n: Any) -> Any:
        a, b = n.inputs
        return toy.scale(a, 2) if a is b else None

    x = toy.input(3)
    y = toy.scale(x, 3)
    before = Graph([x], [toy.add(y, y)])
    after = Rewriter([sum_as_scale, scales_join]).run(before)
    assert [n.attrs for n in after.nodes] == [{"by": 6}]
    same_meaning(before, after)


def test_lines_are_handed_on(toy: Any) -> None:
    x = toy.input(3)
    line = user_line()
    inner = toy.scale(x, 2)
    graph = Graph([x], node(toy.SCALE, (inner,), {"by": 3}, line).outputs)
    after = Rewriter([scales_join]).run(graph)
    assert after.nodes[0].line == line


def test_fuel_stops_rewriting(toy: Any) -> None:
    x = toy.input(3)
    y = x
    for _ in range(6):
        y = toy.neg(y)
    graph = Graph([x], [y])
    left = [len(Rewriter([double_negation]).run(graph, Fuel(n)).nodes) for n in range(4)]
    assert left == [6, 4, 2, 0]
    fuel = Fuel(2)
    Rewriter([double_negation]).run(graph, fuel)
    assert (fuel.used, fuel.last) == (2, "double_negation")


def test_rules_that_never_end_are_an_error(toy: Any) -> None:
    @rule("toy.scale")
    def forever(n: Any) -> Any:
        return node(n.op, n.inputs, {"by": n.attrs["by"] + 1}).outputs[0]

    x = toy.input(3)
    with pytest.raises(CompileError, match=r"'toy.scale' for ever: forever"):
        Rewriter([forever]).run(Graph([x], [toy.scale(x, 0)]))


def test_inline_computes_from_other_inputs(toy: Any) -> None:
    a = toy.input(3)
    body = Graph([a], [toy.scale(toy.neg(a), 2), a])
    x = toy.input(3)
    scaled, given = inline(body, [toy.neg(x)])
    graph = Graph([x], [scaled, given])
    assert ops(graph) == ["toy.neg", "toy.neg", "toy.scale"]
    rows = interpret(graph, [np.array([1, 2, 3], np.float32)])
    assert rows[0].tolist() == [2, 4, 6]
    assert rows[1].tolist() == [-1, -2, -3]


def test_replace_swaps_values(toy: Any) -> None:
    x, y = toy.input(3), toy.input(3)
    middle = toy.neg(x)
    graph = Graph([x, y], [toy.scale(middle, 2), middle])
    after = replace(graph, {middle: y})
    assert ops(after) == ["toy.scale"]
    assert after.outputs[1] is y
    assert "toy.scale(%1)" in print_graph(after)
