"""Hand-written kernels that use every statement, access and type: shared by the kernel tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepseek.ir.dtype import (
    DTYPES,
    DType,
    bfloat16,
    bool_,
    float16,
    float32,
    float64,
    int8,
    int32,
    int64,
    uint8,
    uint32,
)
from deepseek.ir.scalar import (
    ONE,
    ZERO,
    Expr,
    add,
    and_,
    bitcast,
    call,
    cast,
    const,
    floordiv,
    load,
    maximum,
    minimum,
    mod,
    mul,
    size_var,
    sub,
    var,
    where,
)
from deepseek.kernel.ir import (
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

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Sample:
    """A kernel, sizes to run it at, and the lengths of its buffers at these sizes."""

    kernel: Kernel
    sizes: tuple[tuple[int, ...], ...]
    lengths: Callable[..., Sequence[int]]
    tolerance: float = 2e-6  # relative, for floats; integers are exact
    limits: tuple[float, float] = (-4.0, 4.0)

    def buffers(self, sizes: Sequence[int], seed: int = 0) -> list[Array]:
        rng = np.random.default_rng(seed)
        return [
            values(rng, b.dtype, n, self.limits)
            for b, n in zip(self.kernel.globals(), self.lengths(*sizes), strict=True)
        ]


def values(rng: np.random.Generator, dtype: DType, n: int, limits: tuple[float, float]) -> Array:
    if dtype is bool_:
        return rng.integers(0, 2, n).astype(np.bool_)
    if dtype.is_float:
        return rng.uniform(*limits, n).astype(dtype.numpy)
    low = 0 if dtype.kind == "u" else int(limits[0])
    return rng.integers(low, int(limits[1]) + 1, n).astype(dtype.numpy)


N = size_var("n")
M = size_var("m")
I = var("i", low=0, extent=N)  # noqa: E741
J = var("j", low=0, extent=M)
ROW = add(mul(I, M), J)


def f32(x: float) -> Expr:
    return const(x, float32)


def inp(name: str, dtype: DType = float32) -> Buffer:
    return Buffer(name, dtype)


def out(name: str, dtype: DType = float32) -> Buffer:
    return Buffer(name, dtype, written=True)


def at(name: str, index: Expr, dtype: DType = float32) -> Expr:
    return load(name, dtype, index)


def loop(v: Expr, extent: Expr, kind: str, *body: Stmt) -> Loop:
    return Loop(Axis(v, extent, kind), body)


def carry(name: str, init: Expr, step: Callable[[Expr], Expr],
          merge: Callable[[Expr, Expr], Expr]) -> Carry:  # fmt: skip
    """A carry whose merge is symmetric in form."""
    mine, other = var(name, init.dtype), var(name + "_b", init.dtype)
    return Carry(mine, init, step(mine), other, merge(mine, other))


def total(name: str, value: Expr) -> Carry:
    def plus(a: Expr, b: Expr) -> Expr:
        return call("add", a, b)

    return carry(name, const(0, value.dtype), lambda s: plus(s, value), plus)


def largest(name: str, value: Expr) -> Carry:
    start = const(float("-inf"), value.dtype)
    return carry(name, start, lambda s: maximum(s, value), maximum)


SHORT = ((2,), (15,), (16,), (33,), (200,))
ROWS = ((2, 2), (3, 10), (2, 64), (3, 65), (2, 200))


def elementwise() -> Sample:
    y = call("mul", at("a", I), at("b", I))
    silu = call("div", y, call("add", f32(1), call("exp", call("neg", y))))
    kernel = Kernel(
        "silu", (inp("a"), inp("b"), out("o")), (N,), (loop(I, N, VECTOR, Store("o", I, silu)),),
        ("model.py:3: y = ds.silu(a * b)",),
    )  # fmt: skip
    return Sample(kernel, SHORT, lambda n: (n, n, n))


def blocked() -> Sample:
    """A grid over blocks, each with its own length."""
    count = floordiv(add(N, const(15)), const(16))
    b = var("block", low=0, extent=count)
    length = minimum(const(16), sub(N, mul(b, const(16))))
    i = var("i", low=0, extent=length)
    e = add(mul(b, const(16)), i)
    body = loop(i, length, VECTOR, Store("o", e, call("sqrt", call("abs", at("a", e)))))
    kernel = Kernel("blocked", (inp("a"), out("o")), (N,), (loop(b, count, GRID, body),))
    return Sample(kernel, SHORT, lambda n: (n, n))


def strided() -> Sample:
    """Known, unknown, negative and zero strides of loads and stores, and a bool."""
    three = const(3)
    back = sub(sub(N, ONE), I)
    value = call("add", at("a", mul(I, three)), at("b", back))
    value = call("fma", value, at("c", mul(I, M)), at("b", ZERO))
    value = call("add", value, at("d", add(mul(I, const(2)), ONE)))
    value = call("add", value, at("d", mul(I, const(4))))
    body = (
        Store("o", mul(I, const(2)), value),
        Store("p", back, call("lt", value, f32(0))),
        Store("q", mul(I, M), value),
    )
    kernel = Kernel(
        "strided",
        (inp("a"), inp("b"), inp("c"), inp("d"), out("o"), out("p", bool_), out("q")), (N, M),
        (loop(I, N, VECTOR, *body),),
    )  # fmt: skip
    sizes = ((2, 2), (17, 3), (40, 5))
    return Sample(kernel, sizes, lambda n, m: (3 * n, n, n * m, 4 * n, 2 * n, n, n * m))


def guarded() -> Sample:
    """A padded window: nothing outside the input may be read, nor written outside the output."""
    shifted = sub(J, const(3))
    inside = and_(call("le", ZERO, shifted), call("lt", shifted, sub(M, const(5))))
    row = call("lt", I, sub(N, ONE))
    x = load("x", float32, add(mul(I, sub(M, const(5))), shifted), and_(inside, row), f32(7))
    store = Store("o", ROW, x, call("ne", mod(J, const(4)), ONE))
    kernel = Kernel(
        "guarded", (inp("x"), out("o")), (N, M),
        (loop(I, N, SERIAL, loop(J, M, VECTOR, store)),),
    )  # fmt: skip
    sizes = ((2, 6), (3, 20), (4, 53))
    return Sample(kernel, sizes, lambda n, m: ((n - 1) * (m - 5), n * m))


def scalar_guards() -> Sample:
    """Guards on scalars, loaded and stored one at a time."""
    inside = call("lt", I, sub(N, ONE))
    x = load("x", float32, add(I, ONE), inside, f32(-1))
    store = Store("o", I, x, call("ne", I, ONE))
    kernel = Kernel("scalar_guards", (inp("x"), out("o")), (N,), (loop(I, N, SERIAL, store),))
    return Sample(kernel, ((2,), (9,)), lambda n: (n, n))


def gather() -> Sample:
    """Rows taken by number, and elements by a computed one."""
    place = mod(at("k", J, int64), N)
    value = call("add", at("x", add(mul(place, M), J)), at("x", floordiv(J, const(3))))
    kernel = Kernel(
        "gather", (inp("k", int64), inp("x"), out("o")), (N, M),
        (loop(J, M, VECTOR, Store("o", J, value)),),
    )  # fmt: skip
    return Sample(kernel, ROWS, lambda n, m: (m, n * m, m))


def divided() -> Sample:
    """Quotients and remainders of lanes by numbers small, large, negative and nested."""
    k = var("k", low=0, extent=const(3))
    e = add(mul(k, N), mul(I, const(2)))
    far = mul(M, const(1 << 40))
    below = sub(I, const(9))
    results = [
        floordiv(e, M), mod(e, M), mod(floordiv(e, M), N), floordiv(floordiv(e, M), const(3)),
        floordiv(below, M), mod(below, M), mod(I, far), floordiv(add(I, sub(far, N)), far),
        mod(add(I, sub(far, N)), far), floordiv(I, const(7)), mod(mul(I, const(3)), const(16)),
        where(call("lt", mod(e, M), floordiv(I, M)), I, M), mod(sub(M, I), const(5)),
        where(call("le", M, e), ONE, ZERO), where(call("eq", mul(I, const(3)), M), ONE, ZERO),
    ]  # fmt: skip
    outs = tuple(out(f"o{number}", int64) for number in range(len(results)))
    place = add(mul(k, N), I)
    stores = [Store(o.name, place, r) for o, r in zip(outs, results, strict=True)]
    moved = load("x", float32, add(mul(mod(floordiv(e, M), N), M), mod(e, M)))
    kernel = Kernel(
        "divided", (inp("x"), *outs, out("p")), (N, M),
        (loop(k, const(3), SERIAL, loop(I, N, VECTOR, *stores, Store("p", place, moved))),),
    )  # fmt: skip
    count = len(results) + 1
    return Sample(
        kernel, ((2, 2), (17, 3), (40, 5), (70, 64)), lambda n, m: (n * m, *[3 * n] * count)
    )


def scatter() -> Sample:
    place = at("k", J, int64)
    stores = (
        Store("o", place, at("x", J), atomic="add"),
        Store("c", place, const(1, int32), atomic="add"),
        Store("s", ZERO, at("x", J), call("lt", f32(0), at("x", J)), "add"),
    )
    kernel = Kernel(
        "scatter", (inp("k", int64), inp("x"), out("o"), out("c", int32), out("s")), (M,),
        (loop(J, M, VECTOR, *stores),),
    )  # fmt: skip
    return Sample(kernel, ((2,), (37,)), lambda m: (m, m, 5, 5, 1), limits=(0.0, 4.0))


def softmax(lanes: int, columns: Expr = M) -> Sample:
    j = var("j", low=0, extent=columns)
    r = var("r", low=0, extent=N)
    place = add(mul(r, columns), j)
    axis = Axis(j, columns, VECTOR)
    top = largest("top", at("x", place))
    e = call("exp", call("sub", at("x", place), top.var))
    norm = total("norm", e)
    inverse = var("inverse", float32)
    body = (
        Fold((axis,), (top,), lanes=lanes),
        Fold((axis,), (norm,), lanes=lanes),
        Let(inverse, call("div", f32(1), norm.var)),
        loop(j, columns, VECTOR, Store("o", place, call("mul", e, inverse))),
    )
    sizes = (N, M) if columns is M else (N,)
    kernel = Kernel(
        f"softmax{lanes}_{columns.text}", (inp("x"), out("o")), sizes, (loop(r, N, GRID, *body),)
    )
    if columns is M:
        return Sample(kernel, ROWS, lambda n, m: (n * m, n * m))
    return Sample(kernel, ((3,),), lambda n: (n * columns.value, n * columns.value))


def welford() -> Sample:
    """Mean and variance over two axes: three carries, a merge that divides."""
    k = var("k", low=0, extent=const(3))
    x = at("x", add(mul(add(mul(I, const(3)), k), M), J))
    n, mean, m2 = var("cnt", float32), var("mean", float32), var("m2", float32)
    n_b, mean_b, m2_b = var("cnt_b", float32), var("mean_b", float32), var("m2_b", float32)
    d = var("d", float32)
    grown = call("add", n, f32(1))
    moved = call("add", mean, call("div", d, grown))
    both = call("add", n, n_b)
    share = call("div", n_b, maximum(both, f32(1)))
    delta = call("sub", mean_b, mean)
    cross = call("mul", call("mul", call("mul", delta, delta), n), share)
    carries = (
        Carry(n, f32(0), grown, n_b, both),
        Carry(mean, f32(0), moved, mean_b, call("fma", delta, share, mean)),
        Carry(m2, f32(0), call("fma", d, call("sub", x, moved), m2), m2_b,
              call("add", call("add", m2, m2_b), cross)),
    )  # fmt: skip
    fold = Fold(
        (Axis(k, const(3)), Axis(J, M, VECTOR)), carries, (Let(d, call("sub", x, mean)),), lanes=32
    )
    stores = (Store("mu", I, mean), Store("v", I, call("div", m2, n)))
    kernel = Kernel(
        "welford", (inp("x"), out("mu"), out("v")), (N, M), (loop(I, N, GRID, fold, *stores),)
    )
    return Sample(kernel, ROWS, lambda n, m: (3 * n * m, n, n), 2e-5)


def argmax() -> Sample:
    """Two carries that decide together; the first of equals wins."""
    best, best_b = var("best", float32), var("best_b", float32)
    place, place_b = var("place", int64), var("place_b", int64)
    x = at("x", ROW)
    better = call("lt", best, x)
    later = call("lt", best_b, best)
    equal = call("eq", best, best_b)
    mine = call("bitor", later, call("bitand", equal, call("lt", place, place_b)))
    carries = (
        Carry(best, f32(-np.inf), where(better, x, best), best_b, where(mine, best, best_b)),
        Carry(place, ZERO, where(better, J, place), place_b, where(mine, place, place_b)),
    )
    body = (Fold((Axis(J, M, VECTOR),), carries, lanes=16), Store("o", I, place))
    kernel = Kernel("argmax", (inp("x"), out("o", int64)), (N, M), (loop(I, N, GRID, *body),))
    return Sample(kernel, ROWS, lambda n, m: (n * m, n))


def columns() -> Sample:
    """A fold in each lane, its result through scratch of the task, then a second pass, which asks
    for rows that there may not be.
    """
    s = total("s", at("x", ROW))
    first = loop(J, M, VECTOR, Fold((Axis(I, N),), (s,)), Store("t", J, s.var))
    mean = call("div", at("t", J), cast(N, float32))
    second = loop(I, N, SERIAL, loop(J, M, VECTOR, Prefetch("x", add(ROW, mul(M, const(9)))),
                                     Store("o", ROW, call("sub", at("x", ROW), mean))))  # fmt: skip
    kernel = Kernel(
        "columns", (inp("x"), out("o"), Buffer("t", float32, SHARED, M)), (N, M),
        (first, Barrier(), second),
    )  # fmt: skip
    return Sample(kernel, ROWS, lambda n, m: (n * m, n * m), 1e-5)


def cumulative() -> Sample:
    """A running sum and a running maximum, stored at each element."""
    s, top = total("s", at("x", ROW)), largest("top", at("x", ROW))
    prefix = (Store("o", ROW, call("add", s.var, f32(1))), Store("p", ROW, top.var))
    kernel = Kernel(
        "cumulative", (inp("x"), out("o"), out("p")), (N, M),
        (loop(I, N, GRID, Fold((Axis(J, M),), (s, top), prefix=prefix)),),
    )  # fmt: skip
    return Sample(kernel, ROWS, lambda n, m: (n * m, n * m, n * m))


def cumulative_columns() -> Sample:
    s = total("s", at("x", ROW))
    fold = Fold((Axis(I, N),), (s,), prefix=(Store("o", ROW, s.var),))
    kernel = Kernel("cumulative_columns", (inp("x"), out("o")), (N, M), (loop(J, M, VECTOR, fold),))
    return Sample(kernel, ROWS, lambda n, m: (n * m, n * m))


def in_scratch() -> Sample:
    """Loads of a buffer that the loop writes stay behind the stores."""
    k = var("k", low=0, extent=const(4))
    grow = loop(
        k, const(4), SERIAL,
        loop(J, M, VECTOR, Store("t", J, call("add", at("t", J), at("t", J)))),
        Store("t", ZERO, call("mul", at("t", ZERO), f32(0.5))),
        Store("t", ONE, call("add", at("t", ZERO), at("t", ONE))),
    )  # fmt: skip
    body = (
        loop(J, M, VECTOR, Store("t", J, at("x", J))),
        grow,
        loop(J, M, VECTOR, Store("o", J, at("t", J))),
    )
    kernel = Kernel(
        "in_scratch", (inp("x"), out("o"), Buffer("t", float32, SHARED, M)), (M,), body
    )
    return Sample(kernel, SHORT, lambda m: (m, m))


def registers() -> Sample:
    """A register buffer in straight-line code, across a loop, and by a varying index."""
    u = var("u", low=0, extent=const(4))
    w = var("w", low=0, extent=const(4))
    k = var("k", low=0, extent=M)
    v = var("v", low=0, extent=const(4))
    body = (
        loop(u, const(4), UNROLL, Store("r", u, cast(u, float32))),
        loop(k, M, SERIAL, loop(w, const(4), UNROLL,
             Store("r", w, call("fma", at("r", w), f32(0.5), at("x", k))))),
        loop(v, const(4), SERIAL, Store("o", add(mul(I, const(4)), v), at("r", v))),
    )  # fmt: skip
    kernel = Kernel(
        "registers", (inp("x"), out("o"), Buffer("r", float32, REGISTER, const(4))), (N, M),
        (loop(I, N, SERIAL, *body),),
    )  # fmt: skip
    return Sample(kernel, ((2, 2), (3, 7)), lambda n, m: (m, 4 * n))


def matrix(name: str, m: int, n: int, a: DType, acc: DType, depth: Expr, row: int = 1,
           step: int = 0) -> Sample:  # fmt: skip
    """Packed panels: clear, multiply, store with an epilogue; two tiles along the columns."""
    t = var("t", low=0, extent=N)
    i, j = var("i", low=0, extent=const(m)), var("j", low=0, extent=const(n))
    i2, j2 = var("i2", low=0, extent=const(m)), var("j2", low=0, extent=const(n))
    slot = add(mul(i, const(n)), j)
    slot2 = add(mul(i2, const(n)), j2)
    zero = loop(i, const(m), UNROLL, loop(j, const(n), VECTOR, Store("acc", slot, const(0, acc))))
    mma = Mma("acc", "a", ZERO, "b", mul(t, mul(depth, const(n))), depth, m, n, row, step)
    done = maximum(at("acc", slot2, acc), const(-1, acc))
    store = loop(i2, const(m), UNROLL, loop(
        j2, const(n), VECTOR, Store("o", add(mul(t, const(m * n)), slot2), done)))  # fmt: skip
    kernel = Kernel(
        name,
        (inp("a", a), inp("b", a), out("o", acc), Buffer("acc", acc, REGISTER, const(m * n))),
        (N, M), (loop(t, N, GRID, zero, mma, store),),
    )  # fmt: skip
    room = max(m * 40, m * row)
    return Sample(kernel, ((2, 2), (2, 7)), lambda t, k: (room, t * 8 * n, t * m * n), 1e-5)


def arithmetic(dtype: DType) -> Sample:
    """Every basic function that the type has, one output each."""
    a, b = at("a", I, dtype), at("b", I, dtype)
    results: list[Expr] = [minimum(a, b), maximum(a, b), where(call("lt", a, b), a, b)]
    results += [call("lt", a, b), call("le", a, b), call("eq", a, b), call("ne", a, b)]
    if dtype is bool_:
        results += [call("bitand", a, b), call("bitor", a, b), call("bitxor", a, b)]
    else:
        results += [call(f, a, b) for f in ("add", "sub", "mul")]
        results += [call("neg", a), call("abs", a), call("fma", a, b, a)]
        results += [call("floordiv", a, b), call("mod", a, b)]
    if dtype.is_integer:
        results += [call(f, a, b) for f in ("bitand", "bitor", "bitxor")]
        results += [call("shl", a, const(3, dtype)), call("shr", a, const(1, dtype))]
        results += [call(f, a, const(c, dtype)) for f in ("floordiv", "mod") for c in (3, 4)]
        if dtype.kind == "u":
            results += [call("shl", a, b), call("shr", a, b), call("pow", a, b)]
        if dtype is uint32:
            results += [call("mulhi", call("mul", a, const(0x9E3779B9, uint32)), call("neg", b))]
    if dtype.is_float:
        results += [call("div", a, b), call("sqrt", call("abs", a))]
        results += [call(f, a) for f in ("floor", "ceil", "trunc", "round")]
    outs = tuple(out(f"o{k}", e.dtype) for k, e in enumerate(results))
    stores = tuple(Store(o.name, I, e) for o, e in zip(outs, results, strict=True))
    kernel = Kernel(
        f"arithmetic_{dtype.name}", (inp("a", dtype), inp("b", dtype), *outs), (N,),
        (loop(I, N, VECTOR, *stores),),
    )  # fmt: skip
    tolerance = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-6}.get(dtype.name, 1e-15)
    return Sample(
        kernel, ((2,), (21,), (64,)), lambda n: (n,) * (2 + len(results)), tolerance, (-6.0, 6.0)
    )


def casts(source: DType) -> Sample:
    """From one type to all others."""
    a = at("a", I, source)
    targets = list(DTYPES.values())
    outs = tuple(out(f"o{k}", d) for k, d in enumerate(targets))
    stores = [Store(o.name, I, cast(a, d)) for o, d in zip(outs, targets, strict=True)]
    kernel = Kernel(
        f"casts_{source.name}", (inp("a", source), *outs), (N,), (loop(I, N, VECTOR, *stores),)
    )
    limits = (0.0, 100.0) if source.is_float else (-100.0, 100.0)
    return Sample(kernel, ((2,), (37,)), lambda n: (n,) * (1 + len(targets)), 0.0, limits)


def scalars() -> Sample:
    """No loop at all, and bits."""
    x = at("x", ZERO)
    bits = call("bitxor", bitcast(x, int32), const(1, int32))
    body = (
        Store("o", ZERO, bitcast(bits, float32)),
        Store("o", ONE, cast(at("k", ZERO, int8), float32)),
        Store("b", ZERO, call("bitand", at("k", ZERO, int8), const(3, int8))),
    )
    kernel = Kernel("scalars", (inp("x"), inp("k", int8), out("o"), out("b", int8)), (), body)
    return Sample(kernel, ((),), lambda: (1, 1, 2, 1))


def grids() -> Sample:
    """Three grid axes and a bool fold."""
    k = var("k", low=0, extent=const(3))
    place = add(mul(add(mul(k, N), I), M), J)
    seen = carry(
        "seen", const(False, bool_),
        lambda s: call("bitor", s, at("x", mod(place, const(7)), bool_)),
        lambda a, b: call("bitor", a, b),
    )  # fmt: skip
    q = var("q", low=0, extent=const(40))
    every = carry(
        "every", const(True, bool_),
        lambda s: call("bitand", s, at("x", add(mod(J, const(2)), q), bool_)),
        lambda a, b: call("bitand", a, b),
    )  # fmt: skip
    body = (
        Fold((Axis(var("z", low=0, extent=const(2)), const(2)),), (seen,)),
        Fold((Axis(q, const(40), VECTOR),), (every,), lanes=8),
        Store("o", place, where(every.var, cast(place, uint8), const(9, uint8))),
        Store("p", place, seen.var),
    )
    nest = loop(k, const(3), GRID, loop(I, N, GRID, loop(J, M, GRID, *body)))
    kernel = Kernel(
        "grids", (inp("x", bool_), out("o", uint8), out("p", bool_)), (N, M), (nest,)
    )
    return Sample(kernel, ((2, 3), (3, 5)), lambda n, m: (50, 3 * n * m, 3 * n * m))


def halves(dtype: DType) -> Sample:
    """16-bit floats summed and scaled in float32."""
    x = cast(at("x", ROW, dtype), float32)
    s = total("s", x)
    body = (
        Fold((Axis(J, M, VECTOR),), (s,), lanes=16),
        loop(J, M, VECTOR, Store("o", ROW, cast(call("mul", x, s.var), dtype))),
    )
    kernel = Kernel(
        f"halves_{dtype.name}", (inp("x", dtype), out("o", dtype)), (N, M),
        (loop(I, N, GRID, *body),),
    )  # fmt: skip
    return Sample(kernel, ROWS, lambda n, m: (n * m, n * m), 1e-2)


def empty() -> Sample:
    """Extents of zero: nothing is read or written, and a fold gives its start."""
    k = var("k", low=0, extent=sub(N, const(2)))
    axis = Axis(k, sub(N, const(2)), VECTOR)
    s, top = total("s", at("x", k)), largest("top", at("x", k))
    body = (
        Fold((axis,), (s,), lanes=8),
        Fold((Axis(k, sub(N, const(2))),), (top,)),
        loop(k, sub(N, const(2)), VECTOR, Store("o", k, call("add", at("x", k), at("x", ZERO)))),
        Store("p", ZERO, s.var),
        Store("p", ONE, top.var),
    )
    kernel = Kernel("empty", (inp("x"), out("o"), out("p")), (N,), body)
    return Sample(kernel, ((2,), (3,), (30,)), lambda n: (n - 2, n - 2, 2))


def doubles() -> Sample:
    """64-bit lanes: half as many in a register."""
    y = call("tanh", at("x", I, float64))
    s = total("s", call("mul", y, y))
    body = (
        Fold((Axis(I, N, VECTOR),), (s,), lanes=32),
        loop(I, N, VECTOR, Store("o", I, call("div", y, s.var))),
    )
    kernel = Kernel("doubles", (inp("x", float64), out("o", float64)), (N,), body)
    return Sample(kernel, SHORT, lambda n: (n, n), 1e-13)


def streamed() -> Sample:
    """An output that goes past the caches: whole registers, and a rest that cannot."""
    j, k = var("j", low=0, extent=const(48)), var("k", low=0, extent=const(5))
    start = mul(I, const(64))
    tripled = call("mul", at("x", add(start, j)), f32(3))
    body = loop(
        I, N, GRID,
        loop(j, const(48), VECTOR, Store("o", add(start, j), tripled)),
        loop(k, const(5), VECTOR, Store("o", add(add(start, k), const(48)), f32(1))),
    )  # fmt: skip
    buffer = Buffer("o", float32, written=True, streamed=call("le", const(3), N))
    kernel = Kernel("streamed", (inp("x"), buffer), (N,), (body,))
    return Sample(kernel, SHORT, lambda n: (64 * n, 64 * n))


def interleaved(number: int) -> Sample:
    """A few values for each element, one beside the other."""
    k = var("k", low=0, extent=const(number))
    place = add(mul(I, const(number)), k)
    value = call("add", call("mul", at("x", place), f32(3)), at("w", k))
    body = loop(I, N, VECTOR, loop(k, const(number), UNROLL, Store("o", place, value)))
    kernel = Kernel(f"interleaved_{number}", (inp("x"), inp("w"), out("o")), (N,), (body,))
    return Sample(kernel, SHORT, lambda n: (number * n, number, number * n))


def shared_scratch() -> Sample:
    """Tasks of one row that all fill scratch with the same."""
    j, k = var("j", low=0, extent=const(5)), var("k", low=0, extent=const(20))
    e = var("e", low=0, extent=const(20))
    twice = call("mul", at("x", add(mul(I, const(20)), k)), f32(2))
    fill = loop(k, const(20), VECTOR, Store("t", k, twice))
    place = add(mul(add(mul(I, const(5)), j), const(20)), e)
    use = loop(e, const(20), VECTOR, Store("o", place, call("add", at("t", e), cast(j, float32))))
    body = loop(I, N, GRID, loop(j, const(5), GRID, fill, use))
    scratch = Buffer("t", float32, SHARED, const(20))
    kernel = Kernel("shared_scratch", (inp("x"), out("o"), scratch), (N,), (body,))
    return Sample(kernel, SHORT, lambda n: (20 * n, 100 * n))


def all_samples() -> Iterator[Sample]:
    yield from (elementwise(), blocked(), strided(), guarded(), scalar_guards(), gather())
    yield divided()
    yield from (scatter(), softmax(64), softmax(16), softmax(4), softmax(1))
    yield from (softmax(32, const(10)), softmax(64, const(128)), softmax(8, const(77)))
    yield from (welford(), argmax(), columns(), cumulative(), cumulative_columns(), in_scratch())
    yield from (registers(), scalars(), grids(), halves(float16), halves(bfloat16), empty())
    yield doubles()
    yield streamed()
    yield shared_scratch()
    yield from (interleaved(2), interleaved(3), interleaved(7))
    yield matrix("mma_6x32", 6, 32, float32, float32, M)
    yield matrix("mma_3x20_rows", 3, 20, float32, float32, M, 9, 1)
    yield matrix("mma_4x16_f64", 4, 16, float64, float64, const(5))
    yield matrix("mma_4x16_bf16", 4, 16, bfloat16, float32, M)
    yield matrix("mma_2x8_i32", 2, 8, int8, int32, M)
    for dtype in DTYPES.values():
        yield arithmetic(dtype)
        yield casts(dtype)


SAMPLES: dict[str, Sample] = {s.kernel.name: s for s in all_samples()}
