"""Graphs survive being printed and parsed, and print alike in every process."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek.errors import ArgumentError, FormatError, user_line
from deepseek.ir import scalar
from deepseek.ir.dtype import DTYPES, bfloat16, float16, float32, float64, int8, int64
from deepseek.ir.graph import Array, Graph, node
from deepseek.ir.scalar import const, size_var, var
from deepseek.ir.text import expr_text, literal_text, parse_expr, parse_graph, print_graph

N = size_var("n0")
M = size_var("n1")


def round_trip(toy: Any, graph: Graph) -> str:
    text = print_graph(graph)
    parsed = parse_graph(text, toy.ops)
    assert parsed.key() == graph.key()
    assert print_graph(parsed) == text
    return text


def test_the_form(toy: Any) -> None:
    x, y = toy.input(4, N), toy.input(4, N)
    values, order = toy.sort(toy.add(x, y), axis=1, descending=False)
    text = round_trip(toy, Graph([x, y], [order, values]))
    assert text == (
        "graph (%0: float32[4, n0], %1: float32[4, n0]) {\n"
        "  %2 = toy.add(%0, %1) : float32[4, n0]\n"
        "  %3, %4 = toy.sort(%2) {axis=1, descending=False} : float32[4, n0], int64[4, n0]\n"
        "  return %4, %3\n"
        "}"
    )


def test_graphs_within_graphs(toy: Any) -> None:
    a, b = toy.input(3), toy.input(3)
    inner = Graph([a], [toy.neg(toy.neg(a))])
    outer = Graph([b], toy.call(inner, b))
    x = toy.input(3)
    text = round_trip(toy, Graph([x], toy.call(outer, x)))
    assert text.count("graph (") == 3
    assert "      %1 = toy.neg(%0)" in text  # indented by depth


def test_inputs_and_repeated_outputs_without_nodes(toy: Any) -> None:
    x, y = toy.input(), toy.input(0, 3)
    round_trip(toy, Graph([x, y], [y, x, y]))
    round_trip(toy, Graph([], []))


ELEMENTS = {
    "bool": [True, False],
    "float": [1.5, -0.0, 0.1, float("inf"), float("-inf"), 1e-40],
    "nan": [float("nan"), 1.0],
    "many": list(range(40)),
}


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@pytest.mark.parametrize("name", list(ELEMENTS))
def test_constants_keep_their_bits(toy: Any, name: str, dtype: Any) -> None:
    with np.errstate(all="ignore"):
        elements = np.asarray(ELEMENTS[name]).astype(dtype.numpy)
    value = toy.constant(elements.reshape(2, -1), dtype)
    text = print_graph(Graph([], [value]))
    parsed = parse_graph(text, toy.ops).nodes[0].attrs["array"]
    assert parsed.numpy.tobytes() == elements.tobytes()
    assert parsed.type is value.type
    assert print_graph(parse_graph(text, toy.ops)) == text


def test_a_nan_keeps_its_payload(toy: Any) -> None:
    bits = np.array([0x7FC01234, 0xFFC00000], np.uint32)
    text = print_graph(Graph([], [toy.constant(bits.view(np.float32))]))
    parsed = parse_graph(text, toy.ops).nodes[0].attrs["array"].numpy
    assert parsed.view(np.uint32).tolist() == bits.tolist()


INDEX = var("i", low=0, extent=N)
EXPRS = [
    N,
    scalar.add(scalar.mul(N, const(-2)), const(1)),
    scalar.mod(scalar.floordiv(scalar.mul(N, M), const(3)), const(4)),
    scalar.minimum(N, const(7)),
    scalar.where(scalar.call("lt", N, M), N, scalar.add(M, INDEX)),
    INDEX,
    size_var("float32"),  # named like a word of the grammar
    var("a b"),
    scalar.call("exp", scalar.call("mul", var("x", float32), const(0.1, float32))),
    scalar.cast(scalar.call("neg", var("x", float32)), int8),
    scalar.bitcast(var("x", float32), DTYPES["uint32"]),
    scalar.load("b", float16, N, scalar.call("le", INDEX, M), const(float("-inf"), float16)),
    scalar.not_(scalar.call("eq", N, M)),
    const(-3),
    const(True, DTYPES["bool"]),
    const(float("nan"), bfloat16),
    const(-0.0, float64),
]


@pytest.mark.parametrize("e", EXPRS, ids=lambda e: e.text)
def test_expressions_parse_to_the_same_object(e: Any) -> None:
    assert parse_expr(literal_text(e)) is e
    if e.fn != "const":
        assert parse_expr(expr_text(e)) is e


def test_symbolic_sizes(toy: Any) -> None:
    x = toy.input(scalar.mul(N, const(2)), scalar.floordiv(scalar.add(N, M), const(4)), INDEX)
    assert "float32[n0 * 2, (n0 + n1) // 4, " in round_trip(toy, Graph([x], [toy.neg(x)]))


LITERALS: list[Any] = [
    None, True, 0, -7, 1 << 70, 0.1, -0.0, float("inf"), float("-inf"), 1e300, 5e-324,
    "plain", "quotes ' and \" # not a comment", "\n\\", "%0", (), (1,), (1, (2, (None,))),
    float32, int64, (float32, "float32"),
]  # fmt: skip


@pytest.mark.parametrize("value", LITERALS, ids=repr)
def test_attributes(toy: Any, value: Any) -> None:
    x = toy.input(2)
    graph = Graph([x], [toy.scale(x, value)])
    parsed = parse_graph(print_graph(graph), toy.ops).nodes[0].attrs["by"]
    assert parsed == value
    assert repr(parsed) == repr(value)  # tells 1 from True and 0.0 from -0.0
    round_trip(toy, graph)


def test_nan_slices_lists_types_and_numpy_numbers(toy: Any) -> None:
    x = toy.input(2)
    numbers = np.float32(0.1), bfloat16.numpy.type(2)
    value = (float("nan"), slice(None, 3, -1), [1, N], x.type, *numbers)
    text = print_graph(Graph([x], [toy.scale(x, value)]))
    nan, part, items, type_, single, brain = parse_graph(text, toy.ops).nodes[0].attrs["by"]
    assert nan != nan
    assert (part, items, type_) == (slice(None, 3, -1), [1, N], x.type)
    assert (type(single), single) == (np.float32, np.float32(0.1))
    assert (brain.dtype, brain) == (bfloat16.numpy, 2)


LITERAL = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False),
        st.text(),
        st.sampled_from([e for e in EXPRS if "nan" not in e.text]),
        st.sampled_from(list(DTYPES.values())),
    ),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(LITERAL)
def test_any_attribute(value: Any) -> None:
    from_text = parse_literal(literal_text(value))
    assert from_text == value
    assert repr(from_text) == repr(value)


def parse_literal(text: str) -> Any:
    whole = f"graph () {{ %0 = constant() {{a={text}}} : bool[] return %0 }}"
    return parse_graph(whole).nodes[0].attrs["a"]


def test_lines_are_comments(toy: Any) -> None:
    x = toy.input(2)
    made = node(toy.NEG, (x,), {}, user_line())
    graph = Graph([x], made.outputs)
    text = print_graph(graph, lines=True)
    assert "test_text.py" in text
    assert "# " in text
    assert parse_graph(text, toy.ops).key() == graph.key()
    assert "#" not in print_graph(graph)


WRONG = {
    "": "line 1: got 'the end'; wanted 'graph'",
    "graph (%0: float32[2]) {\n  %1 = toy.neg(%7) : float32[2]\n  return %1 }": "line 2: got '%7'",
    "graph (%0: float31[2]) { return %0 }": "wanted a dtype",
    "graph (%0: float32[2]) { return %0 } more": "wanted the end",
    "graph (%0: float32[2], %0: float32[2]) { return %0 }": "defined once",
    "graph (%0: float32[2]) { %1, %2 = toy.neg(%0) : float32[2] return %1 }": "2 types",
    "graph () { %1 = constant() {array=int8[2]{1}} : int8[2] return }": "2 elements",
    "graph (%0: float32[2]) { %1 = toy.scale(%0) {by=frob(1)} : float32[2] return }": "'frob'",
    "graph (%0: float32[2]) { %1 = toy.scale(%0) {by=@} : float32[2] return }": "got '@'",
    "graph (%0: float32[1.5]) { return %0 }": "wanted a size",
}


@pytest.mark.parametrize("text", list(WRONG))
def test_wrong_text_is_an_error_that_says_where(toy: Any, text: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_graph(text, toy.ops)
    assert WRONG[text] in str(caught.value)


def test_an_unknown_op_is_named() -> None:
    with pytest.raises(ArgumentError, match="unknown op 'frobnicate'"):
        parse_graph("graph (%0: bool[]) { %1 = frobnicate(%0) : bool[] return %1 }")


def test_what_has_no_text_form_is_an_error(toy: Any) -> None:
    x = toy.input(2)
    with pytest.raises(FormatError, match="object"):
        print_graph(Graph([x], [toy.scale(x, object())]))
    computed = toy.neg(x)
    computed.data = b""
    with pytest.raises(FormatError, match="neither takes nor computes"):
        print_graph(Graph([x], [toy.add(x, computed)]))


PROGRAM = """
import numpy as np
from deepseek.ir import scalar
from deepseek.ir.dtype import float32
from deepseek.ir.graph import Graph, constant, input_value, node
from deepseek.ir.op import Kind, Op
from deepseek.ir.text import print_graph

op = Op("toy", Kind.HOST, lambda *types, **_: types[:1])
n, m = scalar.size_var("n0"), scalar.size_var("n1")
size = scalar.add(scalar.mul(m, n), scalar.add(scalar.mul(n, n), m))
x = input_value(float32, (size, scalar.floordiv(size, n)))
c = constant(np.arange(20.0), float32)
y = node(op, (x, c), {"b": (size, float32), "a": "text"})
print(print_graph(Graph([x], y.outputs)))
"""


def test_the_text_is_the_same_in_every_process() -> None:
    texts = {
        hashlib.sha256(
            subprocess.run(
                [sys.executable, "-P", "-c", PROGRAM],
                env={"PYTHONHASHSEED": seed},
                capture_output=True,
                check=True,
            ).stdout
        ).hexdigest()
        for seed in ("1", "2", "3")
    }
    assert len(texts) == 1


def test_arrays_are_equal_by_content() -> None:
    a, b = (Array(np.array([1.0, 2.0]), float32) for _ in range(2))
    assert a == b
    assert hash(a) == hash(b)
    assert a != Array(np.array([1.0, 2.0]), float64)
