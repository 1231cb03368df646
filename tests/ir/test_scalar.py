"""Simplified expressions mean what the ones that were asked for mean.

A recipe is a tree of function names and leaves. It is computed once in plain Python integers, and
once by building the (simplified) expression and evaluating that, for values within their ranges.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek.ir import expr, integer, scalar
from deepseek.ir.dtype import DTYPES, bool_, float32, int8, int32, int64, uint8, uint32
from deepseek.ir.scalar import FUNCTIONS, ONE, TRUE, ZERO, Expr, call, const, size_var, var

N0 = size_var("n0")
N1 = size_var("n1")
I = var("i", low=0, extent=N0)  # noqa: E741
J = var("j", low=0, extent=8)
K = var("k", low=0, extent=scalar.add(scalar.mul(N0, const(4)), const(-3)))
T = var("t", low=0, extent=scalar.add(I, ONE))  # a triangular loop
S = var("s", low=-5, extent=7)
X = var("x")
LEAVES = [N0, N1, I, J, K, T, S, X]


@st.composite
def environments(draw: Any) -> dict[Expr, int]:
    """Values of all leaves, within their ranges."""
    n0, n1 = draw(st.integers(2, 9)), draw(st.integers(2, 40))
    i = draw(st.integers(0, n0 - 1))
    return {
        N0: n0,
        N1: n1,
        I: i,
        J: draw(st.integers(0, 7)),
        K: draw(st.integers(0, 4 * n0 - 4)),
        T: draw(st.integers(0, i)),
        S: draw(st.integers(-5, 6)),
        X: draw(st.integers(-20, 20)),
    }


def nested(children: Any) -> Any:
    binary = st.sampled_from(["add", "sub", "mul", "floordiv", "mod", "minimum", "maximum"])
    choice = st.sampled_from(["lt", "le", "eq", "ne"])
    return (
        st.tuples(binary, children, children)
        | st.tuples(st.just("neg"), children)
        | st.tuples(st.just("where"), st.tuples(choice, children, children), children, children)
    )


NUMBERS = st.sampled_from([-9, -3, -1, 0, 1, 2, 3, 4, 5, 8, 12, 16, 32])
RECIPES = st.recursive(st.sampled_from(LEAVES) | NUMBERS, nested, max_leaves=8)


def build(recipe: Any) -> Expr:
    if isinstance(recipe, tuple):
        return call(recipe[0], *[build(r) for r in recipe[1:]])
    return scalar.as_expr(recipe)


MEANING = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b if b else 0,
    "mod": lambda a, b: a % b if b else 0,
    "minimum": min,
    "maximum": max,
    "neg": lambda a: -a,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "where": lambda c, a, b: a if c else b,
}


def compute(recipe: Any, env: dict[Expr, int]) -> int:
    if isinstance(recipe, tuple):
        return MEANING[recipe[0]](*[compute(r, env) for r in recipe[1:]])
    return env[recipe] if isinstance(recipe, Expr) else recipe


@settings(max_examples=600, deadline=None)
@given(RECIPES, environments())
def test_simplifying_keeps_the_value(recipe: Any, env: dict[Expr, int]) -> None:
    assert int(scalar.evaluate(build(recipe), env)) == compute(recipe, env)


@settings(max_examples=300, deadline=None)
@given(RECIPES, environments())
def test_bounds_hold(recipe: Any, env: dict[Expr, int]) -> None:
    e = build(recipe)
    value = compute(recipe, env)
    low, high = scalar.bounds(e)
    assert low is None or low <= value
    assert high is None or value <= high
    assert value >= 0 or not scalar.is_nonnegative(e)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["lt", "le", "eq", "ne"]), RECIPES, RECIPES, environments())
def test_comparisons_hold(fn: str, a: Any, b: Any, env: dict[Expr, int]) -> None:
    truth = call(fn, build(a), build(b))
    assert truth.dtype is bool_
    assert bool(scalar.evaluate(truth, env)) == compute((fn, a, b), env)


@settings(max_examples=150, deadline=None)
@given(RECIPES, environments())
def test_substituting_numbers_gives_the_value(recipe: Any, env: dict[Expr, int]) -> None:
    numbers = {v: const(x) for v, x in env.items()}
    assert scalar.substitute(build(recipe), numbers) is const(compute(recipe, env))


@settings(max_examples=150, deadline=None)
@given(RECIPES, RECIPES, RECIPES)
def test_sums_of_products_are_canonical(a: Any, b: Any, c: Any) -> None:
    x, y, z = build(a), build(b), build(c)
    assert scalar.add(x, y) is scalar.add(y, x)
    assert scalar.mul(x, y) is scalar.mul(y, x)
    assert scalar.add(scalar.add(x, y), z) is scalar.add(x, scalar.add(y, z))
    left = scalar.mul(x, scalar.add(y, z))
    assert left is scalar.add(scalar.mul(x, y), scalar.mul(x, z))
    assert scalar.sub(x, x) is ZERO
    assert scalar.from_terms(scalar.terms(x)) is x


@settings(max_examples=150, deadline=None)
@given(RECIPES, environments())
def test_coefficient_splits_an_affine_expression(recipe: Any, env: dict[Expr, int]) -> None:
    e = build(recipe)
    c = scalar.coefficient(e, X)
    if c is not None:
        rest = scalar.sub(e, scalar.mul(c, X))
        assert scalar.free_of(c, X)
        assert scalar.free_of(rest, X)
        assert int(scalar.evaluate(rest, env)) + int(scalar.evaluate(c, env)) * env[X] == compute(
            recipe, env
        )


def text(e: Expr) -> str:
    return e.text


def test_division_takes_out_multiples() -> None:
    flat = scalar.add(scalar.mul(I, const(8)), J)
    assert scalar.floordiv(flat, const(8)) is I
    assert scalar.mod(flat, const(8)) is J
    assert scalar.floordiv(scalar.mul(N0, N1), N1) is N0
    assert scalar.mod(scalar.mul(N0, N1), N1) is ZERO


def test_division_by_a_symbol_uses_loop_ranges() -> None:
    row = var("row", low=0, extent=N0)
    column = var("column", low=0, extent=N1)
    flat = scalar.add(scalar.mul(row, N1), column)
    assert scalar.floordiv(flat, N1) is row
    assert scalar.mod(flat, N1) is column


def test_nested_divisions_join() -> None:
    assert scalar.floordiv(scalar.floordiv(X, const(4)), const(6)) is scalar.floordiv(X, const(24))


def test_a_common_factor_cancels() -> None:
    wide = scalar.add(scalar.mul(X, const(4)), var("r", low=0, extent=4))
    assert scalar.floordiv(scalar.mul(X, const(4)), const(8)) is scalar.floordiv(X, const(2))
    assert scalar.floordiv(wide, const(8)) is scalar.floordiv(X, const(2))
    assert text(scalar.mod(wide, const(8))) == "r + ((x % 2) * 4)"


@pytest.mark.parametrize("divisor", [ZERO, const(-2), X, S])
def test_division_by_what_may_not_be_positive_stays(divisor: Expr) -> None:
    assert scalar.floordiv(N1, divisor).fn in ("floordiv", "const")
    for n1 in (2, 7):
        for s in (-5, 0, 6):
            env = {N1: n1, S: s, X: s}
            by = int(scalar.evaluate(divisor, env))
            wanted = n1 // by if by else 0
            assert int(scalar.evaluate(scalar.floordiv(N1, divisor), env)) == wanted


def test_comparisons_are_decided_by_ranges() -> None:
    assert call("lt", I, N0) is TRUE
    assert call("le", ZERO, J) is TRUE
    assert call("lt", J, const(4)).fn == "lt"
    assert call("eq", N0, ZERO) is scalar.FALSE
    assert call("eq", N0, ONE).fn == "eq"
    assert call("ne", scalar.add(I, ONE), I) is TRUE
    assert call("lt", T, N0) is TRUE  # through the triangular loop
    assert scalar.minimum(I, N0) is I
    assert scalar.maximum(I, N0) is N0


def test_equal_expressions_are_one_object() -> None:
    assert var("a") is var("a")
    assert var("a") is not size_var("a")
    assert const(0.0, float32) is not const(-0.0, float32)
    assert const(float("nan"), float32) is const(float("nan"), float32)
    assert const(True, bool_) is not const(1)
    assert const(1) is not const(1, int32)


def test_constants_are_rounded_to_their_type() -> None:
    assert const(0.1, float32).value == np.float32(0.1)
    assert const(0.1, DTYPES["bfloat16"]).value == float(ml_dtypes.bfloat16(0.1))
    assert const(-1, uint8).value == 255
    assert const(200, int8).value == -56
    assert const(1 << 63).value == -(1 << 63)


# ------------------------------------------------------- other types: the same bits, or no change

SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, 3.0, float("inf"), float("-inf"), float("nan"), 1e30]
TYPES = [DTYPES[n] for n in ("bool", "int8", "uint8", "int32", "uint64", "bfloat16", "float32")]


def values_of(dtype: Any) -> list[Any]:
    if dtype.kind == "f":
        return SPECIAL
    return [False, True] if dtype.kind == "b" else [0, 1, 2, 7, 100, -1 if dtype.kind == "i" else 5]


def bits(array: Any) -> bytes:
    array = np.asarray(array)
    if array.dtype.kind == "f" or array.dtype == ml_dtypes.bfloat16:
        array = np.where(np.isnan(array.astype(np.float64)), np.nan, array.astype(np.float64))
    return np.ascontiguousarray(array).tobytes()


COMMON = ["add", "mul", "minimum", "maximum", "eq", "ne", "lt", "le", "where"]
NUMERIC = ["sub", "neg", "abs"]
OF_KIND = {
    "f": [*NUMERIC, "div", "floor", "ceil", "trunc", "round", "exp", "sqrt", "tanh"],
    "i": [*NUMERIC, "bitand", "bitor", "bitxor"],
    "u": [*NUMERIC, "bitand", "bitor", "bitxor"],
    "b": ["bitand", "bitor", "bitxor"],
}


@pytest.mark.parametrize(
    ("fn", "dtype"), [(fn, dtype) for dtype in TYPES for fn in COMMON + OF_KIND[dtype.kind]]
)
def test_identities_keep_every_bit(fn: str, dtype: Any) -> None:
    """One argument constant or both: the result is the function's, bit for bit."""
    function = FUNCTIONS[fn]
    x = var("v", dtype)
    with np.errstate(all="ignore"):
        for a in values_of(dtype):
            for b in values_of(dtype):
                arrays = [np.asarray(v).astype(dtype.numpy) for v in (a, b)]
                exprs = [(x, const(b, dtype)), (const(a, dtype), x), (x, x)]
                pairs = [(arrays[0], arrays[1]), (arrays[0], arrays[1]), (arrays[0], arrays[0])]
                free = [arrays[0], arrays[1], arrays[0]]
                for (p, q), (m, n), value in zip(exprs, pairs, free, strict=True):
                    if fn == "where":
                        test = call("lt", p, q)
                        got = scalar.evaluate(call("where", test, p, q), {x: value})
                        wanted = np.where(np.less(m, n), m, n)
                    elif function.arity == 1:
                        got = scalar.evaluate(call(fn, p), {x: value})
                        wanted = function.meaning(m)
                    else:
                        got = scalar.evaluate(call(fn, p, q), {x: value})
                        wanted = function.meaning(m, n)
                    target = bool_ if function.result == "bool" else dtype
                    assert bits(got) == bits(np.asarray(wanted).astype(target.numpy)), (p, q)


def test_truth_values_absorb_and_vanish() -> None:
    a = call("lt", X, N0)
    assert scalar.and_() is TRUE
    assert scalar.and_(a, TRUE, a) is a
    assert scalar.and_(a, scalar.FALSE) is scalar.FALSE
    assert scalar.not_(scalar.not_(a)) is a
    assert scalar.where(TRUE, X, N0) is X
    assert scalar.where(a, X, X) is X


@pytest.mark.parametrize("target", [int8, int32, uint8, bool_], ids=str)
@pytest.mark.parametrize("value", [*SPECIAL, 254.5, -128.9, 2147483648.0])
def test_casts_of_constants_are_those_of_arrays(value: float, target: Any) -> None:
    folded = scalar.evaluate(scalar.cast(const(value, float32), target), {})
    plain = scalar.convert(np.float32(value), target)
    assert folded == plain
    assert folded.dtype == target.numpy


def test_integer_casts_of_constants_wrap() -> None:
    assert scalar.cast(const(300), uint8) is const(44, uint8)
    assert scalar.cast(const(-1), uint32) is const(2**32 - 1, uint32)
    assert scalar.cast(X, int64) is X


def test_bitcast_of_a_constant() -> None:
    assert scalar.bitcast(const(1.0, float32), uint32) is const(0x3F800000, uint32)


def test_guarded_loads() -> None:
    read = scalar.load("b", float32, X, call("lt", X, N0), const(2.0, float32))
    memory = np.arange(4, dtype=np.float32)

    def fetch(buffer: str, index: Any, guard: Any, otherwise: Any) -> Any:
        assert buffer == "b"
        return memory[index] if guard else otherwise

    assert scalar.evaluate(read, {X: 3, N0: 4}, fetch) == 3
    assert scalar.evaluate(read, {X: 4, N0: 4}, fetch) == 2
    assert scalar.load("b", float32, X, scalar.FALSE) is const(0, float32)
    assert scalar.load("b", float32, X, TRUE) is scalar.load("b", float32, X)


def test_rebuilding_simplifies_again() -> None:
    e = scalar.floordiv(scalar.add(X, J), const(8))
    assert scalar.substitute(e, {X: scalar.mul(N0, const(8))}) is N0
    assert scalar.variables(e) == [X, J] or scalar.variables(e) == [J, X]


def test_walk_puts_arguments_first() -> None:
    e = scalar.mod(scalar.add(X, N0), N1)
    order = scalar.walk([e])
    assert order[-1] is e
    for n in order:
        assert all(order.index(a) < order.index(n) for a in n.args)


def test_the_face_and_its_parts_agree() -> None:
    assert scalar.bounds is integer.bounds
    assert all(hasattr(scalar, name) for name in scalar.__all__)


def test_nodes_that_nobody_holds_are_swept() -> None:
    x = scalar.var("swept_x", low=0, extent=1000)
    kept = scalar.add(scalar.mul(x, x), scalar.const(7))
    for n in range(50):
        expr.make("floordiv", (expr.make("mod", (x, scalar.const(n + 3)), int64), kept), int64)
    before = len(expr._interned)
    with expr._interning:
        expr._sweep()
    assert len(expr._interned) <= before - 100
    assert scalar.add(scalar.mul(x, x), scalar.const(7)) is kept
    assert scalar.var("swept_x", low=0, extent=1000) is x
    assert all(expr._interned[key].args == key[1] for key in expr._interned)


def test_sort_keys_of_shared_parts_stay_short() -> None:
    x = scalar.size_var("n0")
    assert scalar.add(x, scalar.ONE).key == scalar.add(x, scalar.ONE).text == "n0 + 1"
    deep = scalar.load("x0", int64, x)
    for _ in range(200):  # the text would have 2 ** 200 parts
        deep = expr.make("bitxor", (deep, deep), int64)
    assert len(deep.key) <= expr.LONGEST_KEY
    total = scalar.add(scalar.mul(deep, x), deep)
    assert scalar.sub(total, deep) is scalar.mul(x, deep)


def test_free_variables() -> None:
    x, y = scalar.size_var("n0"), scalar.size_var("n1")
    e = scalar.add(scalar.mul(x, y), scalar.load("x0", int64, y))
    assert e.free == {x, y}
    assert x.free == {x}
    assert scalar.const(3).free == frozenset()
    assert scalar.substitute(e, {x: y}).free == {y}
    assert scalar.substitute(e, {scalar.size_var("n2"): x}) is e
