"""Kernels as text: what is printed is parsed to an equal kernel."""

from __future__ import annotations

import math

import pytest
from samples import SAMPLES

from deepseek.errors import FormatError
from deepseek.ir.dtype import bfloat16, bool_, float32, int64, uint64
from deepseek.ir.scalar import (
    ONE,
    Expr,
    add,
    bitcast,
    call,
    cast,
    const,
    load,
    make,
    mul,
    not_,
    size_var,
    var,
)
from deepseek.kernel.ir import SERIAL, SHARED, Axis, Buffer, Kernel, Let, Loop, Store
from deepseek.kernel.text import parse_kernel, print_kernel

N = size_var("n")
I = var("i", low=0, extent=N)  # noqa: E741


def storing(value: Expr) -> Kernel:
    buffers = (Buffer("x", float32), Buffer("o", value.dtype, written=True))
    return Kernel("k", buffers, (N,), (Loop(Axis(I, N), (Store("o", I, value),)),))


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_come_back(name: str) -> None:
    kernel = SAMPLES[name].kernel
    text = print_kernel(kernel)
    assert parse_kernel(text) == kernel
    assert print_kernel(parse_kernel(text)) == text


def test_reads_well() -> None:
    assert (
        print_kernel(SAMPLES["softmax64_m"].kernel)
        == """\
kernel softmax64_m
size n
size m
global x: float32
global o: float32 written
body
  grid r to n:
    fold in 64:
      vector j to m
      carry top: float32
        init float32(-inf)
        step maximum(top, x[j + m * r])
        other top_b: float32
        merge maximum(top, top_b)
    fold in 64:
      vector j to m
      carry norm: float32
        init float32(0.0)
        step norm + exp(x[j + m * r] - top)
        other norm_b: float32
        merge norm + norm_b
    let inverse: float32 = float32(1.0) / norm
    vector j to m:
      store o[j + m * r] = exp(x[j + m * r] - top) * inverse
"""
    )


X = load("x", float32, I)
ODD_VALUES = [
    const(math.inf, float32), const(-math.inf, float32), const(math.nan, float32),
    const(-0.0, float32), const(0.1, float32), const(1e-45, float32), const(3.0, bfloat16),
    const(2**64 - 1, uint64), const(-(2**63)), const(True, bool_),
    cast(X, int64), make("cast", (const(math.inf, float32),), int64), bitcast(X, var("z").dtype)
    if X.dtype.bits == 64 else call("neg", X),
    not_(call("lt", X, X)), call("bitand", not_(call("lt", X, X)), call("eq", X, X)),
    call("eq", call("lt", X, X), call("le", X, X)),
    call("sub", X, call("sub", X, X)), call("sub", call("sub", X, X), X),
    call("div", call("mul", X, X), call("div", X, X)), call("mod", I, const(7)),
    call("shl", call("bitor", I, ONE), call("bitxor", I, const(3))),
    call("floordiv", I, call("floordiv", N, const(2))),
    make("sub", (I, const(-5)), int64), make("add", (const(-5), I), int64),
    load("x", float32, add(I, const(-3)), call("lt", I, ONE), const(2.0, float32)),
]  # fmt: skip


@pytest.mark.parametrize("value", ODD_VALUES, ids=str)
def test_odd_expressions_come_back(value: Expr) -> None:
    kernel = storing(value)
    assert parse_kernel(print_kernel(kernel)) == kernel


def test_shared_parts_are_written_once() -> None:
    value = X
    for _ in range(200):
        value = call("add", call("mul", value, value), call("exp", value))
    kernel = storing(value)
    text = print_kernel(kernel)
    assert len(text) < 20_000
    assert parse_kernel(text) == kernel


def test_deep_expressions_come_back() -> None:
    value = X
    for _ in range(1000):
        value = call("div", const(2.0, float32), call("add", value, X))
    assert parse_kernel(print_kernel(storing(value))) == storing(value)


def test_bounds_of_variables_come_back() -> None:
    size = var("s", low=None, extent=const(100))
    inner = var("j", low=3, extent=add(N, const(1)))
    named = var("p", low=0, extent=mul(N, N))
    body = (
        Let(named, mul(N, const(2))),
        Loop(Axis(inner, N, SERIAL), (Store("t", add(named, inner), const(1.0, float32)),)),
    )
    buffers = (Buffer("t", float32, SHARED, mul(N, size)),)
    kernel = Kernel("bounds", buffers, (N, size), body, ("a 'quoted' line", "second"))
    text = print_kernel(kernel)
    assert "let p: int64 in [0, n * n) = n * 2" in text
    assert parse_kernel(text) == kernel


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("vector j to m", "sideways j to m"),
        ("step maximum(top, x[j + m * r])", "step maximum(top, y[j + m * r])"),
        ("exp(x[j + m * r] - top) * inverse", "explode(inverse)"),
        ("global x: float32", "global x: float31"),
        ("let inverse: float32 =", "let inverse"),
        ("kernel softmax64_m", "colonel"),
        ("top - ", "top - - -"),
        ("float32(0.0)", "float32(zero)"),
        ("merge norm + norm_b", "merge norm +"),
    ],
)
def test_damaged_text_names_its_line(old: str, new: str) -> None:
    text = print_kernel(SAMPLES["softmax64_m"].kernel)
    damaged = text.replace(old, new)
    if damaged == text:
        damaged = text + new
    with pytest.raises(FormatError, match="kernel text, line"):
        parse_kernel(damaged)
