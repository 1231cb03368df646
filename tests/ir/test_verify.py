"""The verifier lets right graphs pass and names the node that breaks a rule."""

from __future__ import annotations

from typing import Any

import pytest

from deepseek.errors import VerifyError, user_line
from deepseek.ir import scalar
from deepseek.ir.dtype import float32, int64
from deepseek.ir.graph import Graph, make_node, node
from deepseek.ir.shape import tensor_type
from deepseek.ir.verify import verify

F2 = tensor_type(float32, (2,))


def refused(graph: Graph, text: str) -> str:
    with pytest.raises(VerifyError) as caught:
        verify(graph)
    assert text in str(caught.value)
    return str(caught.value)


def test_right_graphs_pass(toy: Any) -> None:
    n = scalar.size_var("n0")
    x, y = toy.input(2), toy.input(2)
    z = toy.add(toy.neg(x), toy.scale(y, 2.0))
    verify(Graph([x, y], [z, x, z]))
    verify(Graph([], [toy.constant([1.0])]))
    verify(Graph([], []))
    wide = toy.input(n, 3)
    verify(Graph([wide], toy.sort(toy.neg(wide), axis=0)))
    inner = Graph([x], [toy.neg(x)])
    verify(Graph([y], toy.call(inner, y)))


def test_inputs_are_distinct(toy: Any) -> None:
    x = toy.input(2)
    refused(Graph([x, x], [x]), "twice")


def test_every_input_is_taken(toy: Any) -> None:
    x, y = toy.input(2), toy.input(2)
    refused(Graph([x], [toy.add(x, y)]), "not among those it takes")


def test_computed_values_are_taken_as_inputs(toy: Any) -> None:
    x = toy.input(2)
    y = toy.neg(x)
    y.data = b"12345678"
    message = refused(Graph([x], [toy.add(x, y)]), "input 1, <float32[2] from toy.neg>, is neither")
    assert "in toy.add(%0, <float32[2]>) : float32[2]" in message
    refused(Graph([x], [y]), "neither takes nor computes")
    verify(Graph([x, y], [toy.add(x, y)]))


def test_an_output_is_no_input(toy: Any) -> None:
    x = toy.input(2)
    values = toy.sort(x)
    refused(Graph([x, values[0]], [values[1]]), "output 0 is also an input")


def test_nodes_stand_in_order(toy: Any) -> None:
    x = toy.input(2)
    first, second = toy.neg(x).node, toy.neg(x).node
    first.inputs = second.outputs
    refused(Graph([x], first.outputs), "neither taken nor computed before")


def test_outputs_belong_to_their_node(toy: Any) -> None:
    x = toy.input(2)
    a, b = toy.neg(x), toy.neg(x)
    a.node.outputs = b.node.outputs
    refused(Graph([x], [a]), "output 0 belongs to another node")


def test_types_are_those_of_the_rule(toy: Any) -> None:
    x = toy.input(2)
    wrong = make_node(toy.NEG, (x,), {}, [tensor_type(int64, (2,))], user_line()).outputs[0]
    message = refused(Graph([x], [wrong]), "its type is int64[2], and by its type rule")
    assert "test_verify.py" in message  # the user's line
    y = toy.input(3)
    mixed = make_node(toy.ADD, (x, y), {}, [F2]).outputs[0]
    refused(Graph([x, y], [mixed]), "refuses the inputs: toys take equal types")


def test_attributes_are_hashable_and_have_a_text_form(toy: Any) -> None:
    x = toy.input(2)
    refused(Graph([x], [toy.scale(x, [1, 2])]), "attribute 'by' of type list cannot be hashed")
    refused(Graph([x], [toy.scale(x, object())]), "'by': an attribute of type object")
    refused(Graph([x], [toy.scale(x, (1, frozenset()))]), "type frozenset")


def test_graphs_in_attributes_are_verified(toy: Any) -> None:
    x, y = toy.input(2), toy.input(2)
    inner = Graph([x], [toy.add(x, y)])
    outer = node(toy.CALL, (x,), {"body": inner}).outputs
    message = refused(Graph([x], outer), "attribute 'body' is a graph in which an input stands")
    assert "toy.call" in message
    refused(Graph([x], [toy.scale(x, (1, (inner,)))]), "attribute 'by' is a graph in which")
