"""Sizes: dims stay symbolic in arithmetic, and what is asked about them is kept as a guard."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek.errors import ShapeError
from deepseek.ir import scalar, shape
from deepseek.ir.dtype import float32
from deepseek.ir.shape import Dim, Sizes, active, dim, tensor_type


def traced(*values: int) -> tuple[Sizes, list[Any]]:
    sizes = Sizes()
    return sizes, [dim(sizes.symbol(v), sizes) for v in values]


def guards(sizes: Sizes) -> list[str]:
    return sorted(g.text for g in sizes.guards)


def test_arithmetic_leaves_no_guard() -> None:
    sizes, (n, m) = traced(6, 4)
    for made in (n + m, 2 * n, n - 1, 10 - n, n // 2, n % 4, -n, 3 // n, 7 % n, n * m + 1):
        assert type(made) is Dim
    assert guards(sizes) == []
    assert str((n * m + 1).expr) == "(n0 * n1) + 1"
    assert n - n == 0
    assert type(n - n) is int  # a known size is a plain number again


@pytest.mark.parametrize(
    ("question", "guard"),
    [
        (lambda n, m: n == 6, "n0 == 6"),
        (lambda n, m: n == m, "n0 != n1"),
        (lambda n, m: n != m, "n0 != n1"),
        (lambda n, m: m < n, "n1 < n0"),
        (lambda n, m: n > 4, "4 < n0"),
        (lambda n, m: n <= 7, "n0 <= 7"),
        (lambda n, m: n >= m + 3, "not n1 + 3 <= n0"),
        (lambda n, m: range(n), "n0 == 6"),
        (lambda n, m: int(n), "n0 == 6"),
        (lambda n, m: float(m), "n1 == 4"),
        (lambda n, m: hash(n), "n0 == 6"),
        (lambda n, m: [0] * n, "n0 == 6"),
        (lambda n, m: n / 2, "n0 == 6"),
        (lambda n, m: n**2, "n0 == 6"),
        (lambda n, m: bool(n - 6), "n0 == 6"),
    ],
)
def test_questions_are_answered_and_guarded(question: Any, guard: str) -> None:
    sizes, (n, m) = traced(6, 4)
    got = question(n, m)
    assert got == question(6, 4)
    (condition,) = sizes.guards
    for n0 in range(2, 12):
        for n1 in range(2, 12):
            env = {v: {"n0": n0, "n1": n1}[v.name] for v in scalar.variables(condition)}
            assert bool(scalar.evaluate(condition, env)) == eval(guard)


def test_what_follows_from_the_ranges_needs_no_guard() -> None:
    sizes, (n, m) = traced(6, 4)
    assert n > 0
    assert n != 0
    assert n * m >= 1
    assert bool(n)
    assert guards(sizes) == []


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("+-*/%<=>!"), st.integers(1, 9)), min_size=1, max_size=6),
    st.integers(2, 30),
    st.integers(2, 30),
)
def test_a_trace_is_right_wherever_its_guards_hold(steps: Any, first: int, other: int) -> None:
    """A function of a size, traced at one, gives the same at others that keep the guards."""

    def run(n: Any) -> tuple[Any, list[bool]]:
        x, answers = n, []
        for sign, k in steps:
            if sign in "<=>!":
                answers.append({"<": x < k, "=": x == k, ">": x > k, "!": x != k}[sign])
            else:
                x = {"+": x + k, "-": x - k, "*": x * k, "/": x // k, "%": x % k}[sign]
        return x, answers

    sizes, (n,) = traced(first)
    result, answers = run(n)
    assert bool(answers == run(first)[1])
    symbol = scalar.size_var("n0")
    if all(scalar.evaluate(g, {symbol: other}) for g in sizes.guards):
        value, wanted = run(other)
        assert answers == wanted
        assert int(scalar.evaluate(scalar.as_expr(shape.size_of(result)), {symbol: other})) == value


def test_a_dim_passes_for_a_number() -> None:
    _, (n,) = traced(6)
    assert isinstance(n, int)
    assert type(n) is Dim
    assert f"{n}" == "6"
    assert repr(n) == "n0=6"
    assert divmod(n, 4) == (1, 2)


def test_equal_sizes_are_unified() -> None:
    sizes, (n, m, k) = traced(6, 6, 6)
    with active(sizes):
        assert shape.same(n.expr, m.expr)
        assert guards(sizes) == ["n0 == n1"]
        assert shape.same(m.expr, k.expr)
        before = guards(sizes)
        assert shape.same((n + 1).expr, (k + 1).expr)  # follows
        assert guards(sizes) == before
        assert sizes.settled(n.expr) is sizes.settled(k.expr)


def test_sizes_outside_a_trace_are_compared_as_they_are() -> None:
    a, b = scalar.size_var("n0"), scalar.size_var("n1")
    assert shape.same(a, a)
    assert not shape.same(a, b)
    with pytest.raises(ShapeError, match="symbolic"):
        shape.is_true(scalar.call("lt", a, b))
    with pytest.raises(ShapeError, match="inside the trace"):
        dim(a, None)


def test_broadcasting() -> None:
    assert shape.broadcast([(3, 1), (4,), ()]) == (3, 4)
    assert shape.broadcast([(0, 1), (1, 5)]) == (0, 5)
    with pytest.raises(ShapeError, match="sizes 3 and 4 of axis -1"):
        shape.broadcast([(3,), (4,)])
    sizes, (n, m) = traced(5, 5)
    with active(sizes):
        assert shape.broadcast([(n.expr, 1), (m.expr,)]) == (n.expr, m.expr)
        assert guards(sizes) == []  # a symbol is never 1
        shape.broadcast([(n.expr,), (m.expr,)])
        assert guards(sizes) == ["n0 == n1"]


def test_axes() -> None:
    assert shape.normalize_axis(-1, 3) == 2
    assert shape.normalize_axes(None, 2) == (0, 1)
    assert shape.normalize_axes((-1, 0), 3) == (0, 2)
    with pytest.raises(ShapeError, match="axis 3; wanted -3 <= axis < 3"):
        shape.normalize_axis(3, 3)
    with pytest.raises(ShapeError, match="has none"):
        shape.normalize_axis(0, 0)
    with pytest.raises(ShapeError, match="each axis once"):
        shape.normalize_axes((0, -2), 2)


def test_types_are_interned() -> None:
    n = scalar.size_var("n0")
    assert tensor_type(float32, (2, n)) is tensor_type(float32, (2, n))
    assert tensor_type(float32, (scalar.const(2),)) is tensor_type(float32, (2,))
    assert tensor_type(float32, (2,)).static
    assert not tensor_type(float32, (n,)).static
    assert tensor_type(float32, (2, 3)).nbytes == 24
    assert str(tensor_type(float32, (2, n)).nbytes) == "n0 * 8"
    assert tensor_type(float32, ()).numel == 1
