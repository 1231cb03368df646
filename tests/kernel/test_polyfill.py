"""Transcendental functions: largest error in units of the last place, interpreted and emitted.

float32 is held against NumPy in float64; float64 against NumPy in x87 extended precision.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from deepseek import _runtime
from deepseek.backends.cpu.compile import compile_kernels, module_text
from deepseek.backends.cpu.emit import emit
from deepseek.backends.cpu.target import TARGETS, runs_here
from deepseek.config import override
from deepseek.ir.dtype import DTYPES, DType, float32, float64, int64, uint8
from deepseek.ir.scalar import FUNCTIONS, Expr, call, evaluate, load, size_var, var
from deepseek.kernel import polyfill
from deepseek.kernel.ir import VECTOR, Axis, Buffer, Kernel, Loop, Store

Array = np.ndarray[Any, Any]
LEVELS = [level for level, target in TARGETS.items() if runs_here(target)]
UNARY = ["exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "atan", "erf"]
BINARY = ["pow", "mod", "floordiv"]
LIMIT = {float32: 2.0, float64: 4.0}
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, 2.0, math.inf, -math.inf, math.nan, 1e-40, -1e-40, 1e30,
           math.pi, math.pi / 2, 88.72, 88.73, -87.3, -103.9, -104.1, 709.7, 709.8, -708.3, -745.2,
           5e-324, 1.5, 3.0, -2.5, 8.6e15]  # fmt: skip


def erf(x: Array) -> Array:
    """By a series of positive terms, in extended precision."""
    size = np.minimum(np.abs(x), 8)
    term = size * 2 / np.sqrt(np.longdouble(math.pi))
    term *= np.exp(-size * size)
    total = term.copy()
    for n in range(1, 220):
        term = term * (2 * size * size / (2 * n + 1))
        total += term
    # pi above has double precision: put its last bits right.
    total *= 1 - np.longdouble(1.2246467991473532e-16) / (2 * np.longdouble(math.pi))
    return np.where(size > 7, np.sign(x), np.copysign(total, x))


REFERENCE: dict[str, Callable[..., Array]] = {
    "exp": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "sin": np.sin,
    "cos": np.cos, "tanh": np.tanh, "atan": np.arctan, "erf": erf, "pow": np.power,
}  # fmt: skip


def arguments(dtype: DType) -> Array:
    """All magnitudes, the interesting ranges densely, and special values."""
    rng = np.random.default_rng(7)
    bits = np.uint32 if dtype is float32 else np.uint64
    n = 20_000
    parts = [
        rng.integers(0, np.iinfo(bits).max, n, dtype=bits, endpoint=True).view(dtype.numpy),
        rng.standard_normal(n),
        rng.standard_normal(n) * 20,
        rng.uniform(-110, 110, n) if dtype is float32 else rng.uniform(-750, 720, n),
        1 + rng.standard_normal(n) * 1e-3,
        np.arange(-500, 500) * (math.pi / 2),
        SPECIAL,
    ]
    with np.errstate(all="ignore"):
        return np.concatenate([np.asarray(p).astype(dtype.numpy) for p in parts])


def pairs(dtype: DType) -> tuple[Array, Array]:
    rng = np.random.default_rng(8)
    n = 10_000
    a, b = np.meshgrid(SPECIAL, SPECIAL)
    steep = 400 if dtype is float32 else 3000
    x = [a.ravel(), rng.exponential(1, n), rng.uniform(0.9, 1.1, n), rng.uniform(-10, 0, n)]
    y = [b.ravel(), rng.normal(0, 10, n), rng.normal(0, steep, n), rng.integers(-20, 20, n)]
    with np.errstate(all="ignore"):
        return tuple(np.concatenate(v).astype(dtype.numpy) for v in (x, y))  # type: ignore[return-value]


@functools.cache
def inputs(fn: str, dtype: DType) -> tuple[Array, ...]:
    if fn in BINARY:
        return pairs(dtype)
    return (arguments(dtype),)


@functools.cache
def wanted(fn: str, dtype: DType) -> Array:
    wide = np.float64 if dtype is float32 and fn not in ("erf", "pow") else np.longdouble
    with np.errstate(all="ignore"):
        return REFERENCE[fn](*(x.astype(wide) for x in inputs(fn, dtype)))


def worst(fn: str, dtype: DType, got: Array) -> float:
    """The largest error in ulp; infinities and NaN must be where they belong."""
    exact = wanted(fn, dtype).astype(np.longdouble)
    with np.errstate(all="ignore"):
        rounded = exact.astype(dtype.numpy)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(rounded))
        infinite = np.isinf(rounded)
        np.testing.assert_array_equal(got[infinite], rounded[infinite])
        finite = np.isfinite(rounded)
        unit = np.spacing(np.abs(rounded[finite])).astype(np.longdouble)
        error = np.abs(got[finite].astype(np.longdouble) - exact[finite]) / unit
    return float(np.max(error))


def kernel_of(fn: str, dtype: DType) -> Kernel:
    n = size_var("n")
    i = var("i", low=0, extent=n)
    names = ("x", "y")[: FUNCTIONS[fn].arity]
    value = call(fn, *(load(name, dtype, i) for name in names))
    buffers = (*(Buffer(name, dtype) for name in names), Buffer("o", dtype, written=True))
    body = (Loop(Axis(i, n, VECTOR), (Store("o", i, value),)),)
    return Kernel(f"{fn}_{dtype.name}", buffers, (n,), body)


@functools.cache
def code(level: str) -> _runtime.Code:
    kernels = [kernel_of(fn, d) for d in (float32, float64) for fn in (*UNARY, *BINARY)]
    texts = [(k.name, emit(k, TARGETS[level])) for k in kernels]
    with override(verify=1):
        return _runtime.Code(compile_kernels(texts, TARGETS[level]))


def emitted(fn: str, dtype: DType, level: str) -> Array:
    given = inputs(fn, dtype)
    buffers = [_runtime.Buffer.copy_of(np.ascontiguousarray(a).view(np.uint8)) for a in given]
    buffers.append(_runtime.Buffer.allocate(given[0].nbytes))
    _runtime.call_kernel(code(level), f"{fn}_{dtype.name}", buffers, [given[0].size], 0, 1)
    return np.frombuffer(memoryview(buffers[-1]), dtype.numpy)


def interpreted(fn: str, dtype: DType) -> Array:
    """In NumPy, whose fma rounds twice."""
    given = inputs(fn, dtype)
    names = tuple(var(name, dtype) for name in "xy"[: len(given)])
    result: Expr = polyfill.expand(fn, names, fused=False)
    return np.asarray(evaluate(result, dict(zip(names, given, strict=True))))


@pytest.mark.parametrize("dtype", [float32, float64], ids=str)
@pytest.mark.parametrize("fn", [*UNARY, "pow"])
def test_errors_are_small(fn: str, dtype: DType) -> None:
    assert worst(fn, dtype, interpreted(fn, dtype)) <= LIMIT[dtype]
    for level in LEVELS:
        assert worst(fn, dtype, emitted(fn, dtype, level)) <= LIMIT[dtype], level


@pytest.mark.parametrize("dtype", [float32, float64], ids=str)
@pytest.mark.parametrize("fn", ["expm1", "log1p", "sin", "tanh", "atan", "erf"])
def test_zeros_keep_their_sign(fn: str, dtype: DType) -> None:
    (x,) = inputs(fn, dtype)
    for got in (interpreted(fn, dtype), *(emitted(fn, dtype, level) for level in LEVELS)):
        np.testing.assert_array_equal(np.signbit(got[x == 0]), np.signbit(x[x == 0]))
        assert np.signbit(x[x == 0]).any()


@pytest.mark.skipif("v4" not in LEVELS, reason="needs AVX-512")
@pytest.mark.parametrize("dtype", [float32, float64], ids=str)
def test_an_instruction_that_scales_gives_the_bits_of_two_factors(dtype: DType) -> None:
    """Overflow and denormals too."""
    one, two = emitted("exp", dtype, "v4"), emitted("exp", dtype, "v3")
    np.testing.assert_array_equal(np.isnan(one), np.isnan(two))
    np.testing.assert_array_equal(one[~np.isnan(one)], two[~np.isnan(two)])
    assert np.isinf(one).any() and ((one > 0) & (one < np.finfo(dtype.numpy).tiny)).any()
    for level, count in (("v4", 2), ("v3", 0)):
        text = emit(kernel_of("exp", dtype), TARGETS[level])
        assert text.count("llvm.x86.avx512.mask.scalef") == count


@pytest.mark.parametrize("dtype", [float32, float64], ids=str)
def test_remainders_are_exact(dtype: DType) -> None:
    x, y = inputs("mod", dtype)
    with np.errstate(all="ignore"):
        exact = np.mod(x, y)
        usual = ~(np.abs(x / y) > 2**50) | (y == 0)
    for got in (interpreted("mod", dtype), *(emitted("mod", dtype, level) for level in LEVELS)):
        np.testing.assert_array_equal(got[usual], exact[usual])


@pytest.mark.parametrize("dtype", [float32, float64], ids=str)
def test_floor_division_rounds_down(dtype: DType) -> None:
    x, y = inputs("floordiv", dtype)
    with np.errstate(all="ignore"):
        exact = np.floor_divide(x, y)
        usual = ~(np.abs(x / y) > 2**20) | (y == 0)
    for level in LEVELS:
        np.testing.assert_array_equal(emitted("floordiv", dtype, level)[usual], exact[usual])


def test_the_float64_that_is_nearest_to_an_odd_multiple_of_half_pi() -> None:
    # cos is the distance; its digits are those of Muller's Handbook of Floating-Point Arithmetic.
    x, p = np.float64(6381956970095103 * 2.0**797), var("x", float64)
    cosine = evaluate(polyfill.expand("cos", (p,)), {p: x})
    assert cosine == pytest.approx(-4.6871659242546277e-19, rel=4e-16, abs=0)
    assert evaluate(polyfill.expand("sin", (p,)), {p: x}) == 1


@pytest.mark.parametrize("fn", ["sin", "cos"])
def test_large_angles_have_a_program_of_their_own(fn: str) -> None:
    found = polyfill.program(fn, float32)
    assert found is not None and found.otherwise is not None
    assert found.cost < 30 < found.otherwise.cost, "usual angles pay for a comparison only"
    assert polyfill.program("exp", float32).otherwise is None
    text = emit(kernel_of(fn, float32), TARGETS[LEVELS[0]])
    calls = text.count(f"call float @of_rare_{fn}_float32(")
    assert calls == 2, "one in the loop over whole vectors, one in what remains"
    module = module_text([("a", text), ("b", text)])
    assert module.count(f"define internal float @of_rare_{fn}_float32(") == 1, "kernels share it"
    assert module.count(f"call float @of_rare_{fn}_float32(") == 2 * calls


@pytest.mark.parametrize("dtype", [int64, uint8], ids=str)
def test_integer_powers_wrap(dtype: DType) -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.integers(0, 12, 50).astype(dtype.numpy) for _ in range(2))
    p, q = var("x", dtype), var("y", dtype)
    got = evaluate(polyfill.expand("pow", (p, q)), {p: x, q: y})
    np.testing.assert_array_equal(got, np.power(x, y))


def test_basic_functions_are_left_alone() -> None:
    assert not any(polyfill.needs("add", dtype) for dtype in DTYPES.values())
    assert polyfill.cost("add", float32) == 1
    assert polyfill.cost("exp", float32) < 25
