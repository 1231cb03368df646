"""The rules of a Kernel: each one broken once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from samples import SAMPLES, I, J, M, N, f32, inp, loop, out

from deepseek.errors import VerifyError
from deepseek.ir.dtype import bool_, float16, float32, float64, int32, int64
from deepseek.ir.scalar import ONE, ZERO, Expr, add, call, const, load, make, mul, var
from deepseek.kernel.ir import (
    GLOBAL,
    GRID,
    REGISTER,
    SERIAL,
    SHARED,
    UNROLL,
    VECTOR,
    Axis,
    Barrier,
    Buffer,
    Carry,
    Fold,
    Kernel,
    Let,
    Loop,
    Mma,
    Prefetch,
    Stmt,
    Store,
)
from deepseek.kernel.verify import verify

X, O = inp("x"), out("o")  # noqa: E741
V = load("x", float32, I)
A, B = var("a", float32), var("b", float32)


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_well_formed(name: str) -> None:
    verify(SAMPLES[name].kernel)


def kernel(*body: Stmt, buffers: tuple[Buffer, ...] = (X, O)) -> Kernel:
    return Kernel("k", buffers, (N, M), body)


def each(*body: Stmt, kind: str = SERIAL) -> Kernel:
    return kernel(loop(I, N, kind, *body))


def store(value: Expr = V, index: Expr = I, **rest: object) -> Store:
    return Store("o", index, value, **rest)  # type: ignore[arg-type]


def fold(**change: object) -> Kernel:
    carry = Carry(A, f32(0), call("add", A, V), B, call("add", A, B))
    good = Fold((Axis(I, N),), (carry,))
    return kernel(replace(good, **change), store(A, ZERO))  # type: ignore[arg-type]


def carrying(**change: object) -> Kernel:
    carry = Carry(A, f32(0), call("add", A, V), B, call("add", A, B))
    return fold(carries=(replace(carry, **change),))  # type: ignore[arg-type]


def mma(**change: object) -> Kernel:
    acc = Buffer("acc", float32, REGISTER, const(8))
    good = Mma("acc", "x", ZERO, "x", ZERO, N, 2, 4)
    return kernel(replace(good, **change), buffers=(X, O, acc))  # type: ignore[arg-type]


L = var("l", float32)
T = const(True, bool_)
WIDE = const(1.0, float64)

BROKEN: dict[str, tuple[Callable[[], Kernel], str]] = {
    "unknown buffer": (lambda: each(Store("p", I, V)), "unknown buffer 'p'; there are x, o"),
    "input stored": (lambda: each(Store("x", I, V)), "not marked as written"),
    "value's type": (lambda: each(store(WIDE)), "float64; wanted float32"),
    "index's type": (lambda: each(store(index=f32(0))), "float32; wanted int64"),
    "guard's type": (lambda: each(store(guard=I)), "int64; wanted bool"),
    "atomic": (lambda: each(store(atomic="mul")), "wanted None or 'add'"),
    "atomic half": (
        lambda: kernel(
            Store("h", ZERO, const(1, float16), atomic="add"), buffers=(out("h", float16),)
        ),
        "atomic adds of float16",
    ),
    "load's type": (lambda: each(store(load("x", float64, I))), "is not float32"),
    "load's index": (lambda: each(store(load("x", float32, f32(1)))), "index that is not int64"),
    "load's guard": (
        lambda: each(store(make("load", (I, I, f32(0)), float32, "x"))), "guard that is not bool"
    ),
    "load's rest": (
        lambda: each(store(make("load", (I, T, WIDE), float32, "x"))), "another dtype otherwise"
    ),
    "variable": (lambda: each(store(load("x", float32, J))), "variable 'j' is not defined here"),
    "variable too late": (
        lambda: kernel(loop(I, N, SERIAL, store()), store()), "variable 'i' is not defined"
    ),
    "another variable of the name": (
        lambda: kernel(loop(I, N, SERIAL, store(index=var("i")))), "variable 'i' is not defined"
    ),
    "shadowing": (lambda: each(Let(I, ONE)), "'i' is already defined here"),
    "buffer's name": (lambda: each(Let(var("x"), ONE)), "'x' is a buffer's name"),
    "keyword": (lambda: each(Let(var("if"), ONE)), "'if' is not a usable name"),
    "reserved": (lambda: each(Let(var("_1"), ONE)), "'_1' is not a usable name"),
    "let's type": (lambda: each(Let(L, ONE)), "int64; wanted float32"),
    "inner grid": (lambda: each(loop(J, M, GRID, store())), "grid loops are the outermost"),
    "second grid": (
        lambda: kernel(loop(I, N, GRID, store()), loop(J, M, GRID)), "grid loops are the outermost"
    ),
    "ragged grid": (
        lambda: kernel(loop(I, N, GRID, loop(J, add(I, ONE), GRID, store()))), "sizes only"
    ),
    "vector in vector": (
        lambda: kernel(loop(J, M, VECTOR, loop(I, N, VECTOR, store()))), "another vector loop"
    ),
    "fold in vector": (
        lambda: kernel(loop(J, M, VECTOR, replace(fold().body[0], axes=(Axis(I, N, VECTOR),)))),
        "a vector axis inside a vector loop",
    ),
    "lanes of different length": (
        lambda: kernel(loop(I, N, VECTOR, loop(J, add(I, ONE), SERIAL, store()))),
        "differs between the lanes",
    ),
    "lanes of different length, by a let": (
        lambda: kernel(loop(I, N, VECTOR, Let(var("q"), add(I, ONE)), loop(J, var("q"), SERIAL))),
        "differs between the lanes",
    ),
    "unroll": (lambda: each(store(), kind=UNROLL), "unrolled loop is constant"),
    "kind": (lambda: each(store(), kind="spiral"), "axis kind 'spiral'"),
    "axis variable": (
        lambda: kernel(Loop(Axis(var("i", int32), N), ())), "axis variable i is not int64"
    ),
    "axis extent": (lambda: kernel(loop(I, f32(3), SERIAL)), "float32; wanted int64"),
    "prefetch": (lambda: each(Prefetch("x", V)), "float32; wanted int64"),
    "prefetch of scratch": (
        lambda: kernel(Prefetch("t", N), buffers=(X, O, Buffer("t", float32, SHARED, N))),
        "scratch is in the caches",
    ),
    "barrier": (lambda: each(Barrier(), kind=VECTOR), "not inside a vector loop"),
    "no axes": (lambda: fold(axes=()), "needs an axis"),
    "lanes": (lambda: fold(lanes=12), "12 lanes; wanted a power of two"),
    "fold's kinds": (
        lambda: fold(axes=(Axis(I, N, VECTOR), Axis(J, M))), "axes are serial, but for the last"
    ),
    "prefix": (
        lambda: fold(axes=(Axis(I, N, VECTOR),), prefix=(store(A),)), "prefix stores need serial"
    ),
    "fold's body": (lambda: fold(body=(store(),)), "lets and prefetches only"),
    "init's type": (lambda: carrying(init=ONE), "int64; wanted float32"),
    "init's scope": (lambda: carrying(init=A), "variable 'a' is not defined"),
    "step's type": (lambda: carrying(step=WIDE), "float64; wanted float32"),
    "merge's type": (lambda: carrying(merge=WIDE), "float64; wanted float32"),
    "merge's scope": (lambda: carrying(merge=call("add", A, V)), "variable 'i' is not defined"),
    "other's type": (lambda: carrying(other=var("b", float64), merge=A), "dtype of b"),
    "accumulators": (lambda: mma(acc="o"), "register buffer"),
    "too many": (lambda: mma(m=3), "3 x 4 accumulators in a buffer of 8"),
    "none": (lambda: mma(n=0), "2 x 0 accumulators"),
    "mma's buffer": (lambda: mma(b="z"), "unknown buffer 'z'"),
    "mma's depth": (lambda: mma(depth=f32(3)), "float32; wanted int64"),
    "space": (lambda: kernel(buffers=(Buffer("x", float32, "attic"),)), "space 'attic'"),
    "scratch's size": (lambda: kernel(buffers=(Buffer("t", float32, SHARED),)), "needs a size"),
    "register's size": (
        lambda: kernel(buffers=(Buffer("t", float32, REGISTER, N),)), "have constant size"
    ),
    "written scratch": (
        lambda: kernel(buffers=(Buffer("t", float32, SHARED, N, True),)), "is for global buffers"
    ),
    "same buffer": (lambda: kernel(buffers=(X, X)), "the name is used twice"),
    "order": (
        lambda: kernel(buffers=(Buffer("t", float32, SHARED, N), Buffer("x", float32, GLOBAL))),
        "global buffers come first",
    ),
    "size": (lambda: Kernel("k", (), (var("n", float32),), ()), "no int64 variable"),
    "name": (lambda: Kernel("no good", (), (), ()), "'no good' is not a usable name"),
    "function": (lambda: each(store(make("launch", (V,), float32))), "unknown function 'launch'"),
    "arity": (lambda: each(store(make("add", (V,), float32))), "add has 2 arguments"),
    "arguments": (lambda: each(store(make("add", (V, I), float32))), "different dtypes"),
    "result": (lambda: each(store(make("lt", (V, V), float32))), "is float32; wanted bool"),
    "condition": (lambda: each(store(make("where", (I, V, V), float32))), "condition that is not"),
    "integer division": (lambda: each(Let(var("q"), make("div", (I, I), int64))), "div has no m"),
    "float bits": (lambda: each(store(make("bitand", (V, V), float32))), "bitand has no meaning"),
    "bool sum": (lambda: each(Let(var("q", bool_), make("add", (T, T), bool_))), "add has no mean"),
    "bitcast": (lambda: each(store(make("bitcast", (I,), float32))), "another size"),
}  # fmt: skip


@pytest.mark.parametrize("rule", BROKEN)
def test_broken_rules_are_named(rule: str) -> None:
    build, message = BROKEN[rule]
    with pytest.raises(VerifyError, match="kernel '") as caught:
        verify(build())
    assert message in str(caught.value)


def test_the_error_is_short_however_long_the_expression() -> None:
    value: Expr = mul(I, I)
    deep = V
    for _ in range(300):
        deep = call("add", call("mul", deep, deep), deep)
    with pytest.raises(VerifyError) as caught:
        verify(each(store(make("where", (value, deep, deep), float32))))
    assert len(str(caught.value)) < 500
