"""Random well-formed kernels: loops of all kinds, folds, guards, scratch and registers.

No two lanes touch the same place, and no multiply-add is fused, so that the interpreter and emitted
code must agree bit for bit.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from deepseek.ir.dtype import bool_, float32, int64
from deepseek.ir.scalar import (
    TRUE,
    Expr,
    add,
    bounds,
    call,
    cast,
    const,
    floordiv,
    load,
    maximum,
    minimum,
    mod,
    mul,
    not_,
    size_var,
    sub,
    var,
    where,
)
from deepseek.kernel.ir import (
    REGISTER,
    SERIAL,
    SHARED,
    UNROLL,
    VECTOR,
    Axis,
    Buffer,
    Carry,
    Fold,
    Kernel,
    Let,
    Loop,
    Prefetch,
    Stmt,
    Store,
)

SIZE = 4096
N, M = size_var("n"), size_var("m")
BUFFERS = (
    Buffer("x", float32), Buffer("k", int64), Buffer("b", bool_),
    Buffer("o", float32, written=True), Buffer("p", float32, written=True),
    Buffer("t", float32, SHARED, const(SIZE)), Buffer("r", float32, REGISTER, const(16)),
)  # fmt: skip


def f32(x: float) -> Expr:
    return const(x, float32)


def within(e: Expr, size: int = SIZE) -> Expr:
    low, high = bounds(e)
    inside = low is not None and low >= 0 and high is not None and high < size
    return e if inside else mod(e, const(size))


def clamped(e: Expr) -> Expr:
    return minimum(maximum(e, f32(-50)), f32(50))


def inputs(seed: int) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    floats = [(rng.integers(-8, 9, SIZE) / 4).astype(np.float32) for _ in range(3)]
    places = rng.integers(0, SIZE, SIZE)
    return [floats[0], places, rng.integers(0, 2, SIZE).astype(np.bool_), *floats[1:]]


class Writer:
    """Writes one kernel. `loops` are the loop variables in scope, innermost last."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.names = 0
        self.loops: list[Expr] = []
        self.floats: list[Expr] = []
        self.lane: Expr | None = None
        self.target = ("", const(0))  # where a vector loop stores: buffer and index

    def kernel(self) -> Kernel:
        z = self.fresh("z", const(16))
        e = self.fresh("z", const(SIZE))
        start = (
            Loop(Axis(z, const(16)), (Store("r", z, cast(z, float32)),)),
            Loop(Axis(e, const(SIZE), VECTOR), (Store("t", e, f32(0.5)),)),
        )
        return Kernel("random", BUFFERS, (N, M), (*start, *self.body(3)))

    def fresh(self, stem: str, extent: Expr) -> Expr:
        self.names += 1
        return var(f"{stem}{self.names}", low=0, extent=extent)

    def fresh_float(self, stem: str) -> Expr:
        self.names += 1
        return var(f"{stem}{self.names}", float32)

    def chance(self, p: float) -> bool:
        return self.random.random() < p

    def one(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    # -------------------------------------------------------------------------------- expressions

    def integer(self, depth: int = 2) -> Expr:
        if depth == 0 or self.chance(0.3):
            return self.one(const(self.random.randint(-5, 20)), N, M, *self.loops, *self.loops)
        a, b = self.integer(depth - 1), self.integer(depth - 1)
        by = self.one(const(self.random.randint(1, 9)), N, M, b, mul(N, const(1 << 36)))
        return self.one(
            add(a, b), mul(a, const(self.random.randint(-3, 4))), sub(a, b), mod(a, by),
            floordiv(a, by), minimum(a, b), maximum(a, b),
        )  # fmt: skip

    def index(self) -> Expr:
        if self.loops and self.chance(0.6):
            step = const(self.one(-1, 1, 1, 1, 2, 3, 4, 5))
            e = add(mul(self.one(*self.loops), step), const(self.random.randint(0, 40)))
            return within(add(e, mul(self.one(*self.loops), const(self.random.randint(0, 8)))))
        if self.chance(0.3):
            return within(load("k", int64, within(self.integer(1))))
        return within(self.integer())

    def register(self) -> Expr:
        small = [v for v in self.loops if (bounds(v)[1] or SIZE) < 16]
        return within(self.one(const(self.random.randint(0, 15)), self.integer(1), *small * 3), 16)

    def truth(self, depth: int = 1) -> Expr:
        comparison = self.one("lt", "le", "eq", "ne")
        kind = self.random.random()
        if kind < 0.5:
            return call(comparison, self.integer(), self.integer())
        if kind < 0.7 or depth == 0:
            return load("b", bool_, self.index())
        if kind < 0.9:
            return call(comparison, self.number(depth - 1), self.number(depth - 1))
        return call("bitand", not_(self.truth(0)), self.truth(0))

    def number(self, depth: int = 2) -> Expr:
        if depth <= 0 or self.chance(0.45):
            if self.floats and self.chance(0.3):
                return self.one(*self.floats)  # type: ignore[no-any-return]
            name = self.one(*(b for b in ("x", "o", "t", "r") if b != self.target[0]))
            index = self.register() if name == "r" else self.index()
            if self.chance(0.2):
                return load(name, float32, index, self.truth(0), f32(self.one(-1, 2)))
            return load(name, float32, index)
        a, b = self.number(depth - 1), self.number(depth - 1)
        plain = call(self.one("add", "sub", "mul", "minimum", "maximum"), a, b)
        return self.one(  # type: ignore[no-any-return]
            plain, plain, where(self.truth(depth - 1), a, b), call("abs", a),
            cast(self.integer(1), float32),
        )  # fmt: skip

    # --------------------------------------------------------------------------------- statements

    def extent(self, most: int) -> Expr:
        uniform = [v for v in self.loops if v is not self.lane]
        outer = [v for v in uniform if (bounds(v)[1] or SIZE) <= 16]
        return self.one(  # type: ignore[no-any-return]
            const(self.one(0, 1, 2, 3, 5, 8, 16, 17, 33) % (most + 1)),
            minimum(N, const(most)), minimum(const(self.random.randint(2, most)), M),
            *(add(v, const(self.random.randint(0, 3))) for v in outer),
        )  # fmt: skip

    def body(self, depth: int) -> tuple[Stmt, ...]:
        known = list(self.floats)
        out = [self.statement(depth) for _ in range(self.random.randint(1, 3))]
        self.floats = known
        return tuple(out)

    def statement(self, depth: int) -> Stmt:
        kind = self.random.random()
        if kind < 0.03:
            return Prefetch(self.one("x", "k", "o"), self.integer())
        if kind < 0.35 or depth == 0:
            return self.store()
        if kind < 0.45:
            let = Let(self.fresh_float("l"), clamped(self.number()))
            self.floats.append(let.var)
            return let
        if kind < 0.65:
            return self.fold()
        if kind < 0.8 and self.lane is None:
            return self.vector_loop(depth)
        if kind < 0.9:
            extent = self.extent(4)
            return self.loop(self.fresh("s", extent), extent, SERIAL, depth)
        return self.loop(self.fresh("u", const(3)), const(3), UNROLL, depth)

    def loop(self, v: Expr, extent: Expr, kind: str, depth: int) -> Loop:
        self.loops.append(v)
        body = self.body(depth - 1)
        self.loops.remove(v)
        return Loop(Axis(v, extent, kind), body)

    def vector_loop(self, depth: int) -> Loop:
        name = self.one("t", "o", "p", "r")
        extent = const(self.one(4, 8, 12, 16)) if name == "r" else self.extent(60)
        v = self.fresh("v", extent)
        shifted = add(v, const(self.random.randint(0, 9)))
        index = self.one(v, v, shifted, mul(v, const(2)), sub(const(300), v), mul(v, const(4)))
        self.lane, self.target = v, (name, v if name == "r" else within(index))
        loop = self.loop(v, extent, VECTOR, depth)
        self.lane, self.target = None, ("", const(0))
        return loop

    def store(self) -> Store:
        guard = self.truth() if self.chance(0.3) else TRUE
        name, index = self.target
        if self.lane is None:
            name = self.one("t", "o", "p", "r")
            index = self.register() if name == "r" else self.index()
        return Store(name, index, clamped(self.number()), guard)

    def fold(self) -> Fold:
        axes = []
        for _ in range(self.one(1, 1, 2)):
            extent = self.extent(4)
            axes.append(Axis(self.fresh("f", extent), extent))
        lanes = 1
        if self.lane is None and self.chance(0.6):
            extent = self.extent(70)
            axes[-1] = Axis(self.fresh("f", extent), extent, VECTOR)
            lanes = self.one(1, 2, 4, 8, 16, 32, 64)
        known = list(self.floats)
        outer = list(self.loops)
        self.loops += [a.var for a in axes]
        let = Let(self.fresh_float("l"), clamped(self.number()))
        self.floats.append(let.var)
        carries = self.carries()
        prefix: tuple[Store, ...] = ()
        if axes[-1].kind == SERIAL and self.lane is None and self.chance(0.3):
            prefix = (Store("p", self.index(), call("add", carries[0].var, f32(1))),)
        self.floats, self.loops = known, outer
        self.floats += [c.var for c in carries]
        hint = (Prefetch("x", self.integer()),) if self.chance(0.1) else ()
        return Fold(tuple(axes), carries, (let, *hint), prefix, lanes)

    def carries(self) -> tuple[Carry, ...]:
        pairs = [(self.fresh_float("c"), self.fresh_float("d")) for _ in range(self.one(1, 1, 2))]
        out = []
        for mine, other in pairs:
            x = clamped(self.number(1))
            fn = self.one("add", "maximum")
            step, merge = call(fn, mine, x), call(fn, mine, other)
            if self.chance(0.4):
                step = where(call("lt", mine, x), x, call("add", mine, pairs[0][0]))
                merge = where(call("lt", mine, other), other, call("sub", mine, pairs[-1][1]))
            out.append(Carry(mine, f32(self.one(0, -3)), clamped(step), other, merge))
        return tuple(out)


def random_kernel(seed: int) -> Kernel:
    return Writer(seed).kernel()
