"""Every op's scalar meaning, and every composite's expansion, against its independent reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from compare import assert_close
from meaning import SCALAR_KINDS, evaluate_meaning
from sampling import Case, case_name, cases

from deepseek.ir.graph import Graph, Node
from deepseek.ir.interpret import interpret, interpret_node
from deepseek.ir.op import Kind


def check_graph(graph: Graph, arrays: Sequence[Any], tolerance: float) -> None:
    """Hold each node of a graph against its reference, on the reference's inputs."""
    values = dict(zip(graph.inputs, arrays, strict=True))
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            inputs = [np.asarray(values[v]) for v in node.inputs]
            wanted = interpret_node(node, inputs)
            values.update(zip(node.outputs, wanted, strict=True))
            check_node(node, inputs, wanted, tolerance)


def check_node(node: Node, inputs: Sequence[Any], wanted: Sequence[Any], tolerance: float) -> None:
    op = node.op
    for value, result in zip(node.outputs, wanted, strict=True):
        assert result.shape == value.type.shape, f"{op.name}: the reference gives {result.shape}"
    if op.kind in SCALAR_KINDS:
        got = evaluate_meaning(node, inputs)
        for a, b in zip(got, wanted, strict=True):
            assert_close(a, b, max(op.tolerance, tolerance), f"meaning of {op.name}")
    elif op.kind is Kind.COMPOSITE:
        assert op.expand is not None
        expansion = op.expand(tuple(v.type for v in node.inputs), node.attrs)
        got = interpret(expansion, inputs)
        for a, b in zip(got, wanted, strict=True):
            assert_close(a, b, op.tolerance, f"expansion of {op.name}")


@pytest.mark.parametrize("case", cases(every=True), ids=case_name)
def test_meaning_agrees_with_reference(case: Case) -> None:
    check_graph(case.graph(), case.arrays, 0)
