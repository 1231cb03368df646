"""The graph of every sample survives being written down and read back."""

from __future__ import annotations

import numpy as np
import pytest
from sampling import Case, case_name, cases

from deepseek.ir.interpret import interpret
from deepseek.ir.text import parse_graph, print_graph
from deepseek.ir.verify import verify

NUMBERED = {case_name(c): c for c in cases() if c.dtype.name in ("float32", "int32", "bool")}


@pytest.mark.parametrize("case", NUMBERED.values(), ids=case_name)
def test_graph_text_round_trip(case: Case) -> None:
    graph = case.graph()
    verify(graph)
    text = print_graph(graph)
    again = parse_graph(text)
    assert print_graph(again) == text
    with np.errstate(all="ignore"):
        for a, b in zip(interpret(graph, case.arrays), interpret(again, case.arrays), strict=True):
            assert a.dtype == b.dtype
            assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
