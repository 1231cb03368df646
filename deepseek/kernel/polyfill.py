"""Transcendental functions in basic ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from deepseek.ir.dtype import DType, float32, float64, int32
from deepseek.ir.scalar import Expr, bitcast, call, const, var, walk


@dataclass(frozen=True)
class Program:
    parameters: tuple[Expr, ...]
    steps: tuple[Expr, ...]
    result: Expr


def _c(x):
    return const(x, float32)


def _fma(a, b, c):
    return call("fma", a, b, c)


def exp32(x):
    hi = _c(89.0)
    lo = _c(-104.0)
    x = call("where", call("lt", hi, x), hi, x)
    x = call("where", call("lt", x, lo), lo, x)
    M = _c(12582912.0 + 254)
    t = _fma(x, _c(1.4426950408889634), M)
    n = call("sub", t, M)
    r = _fma(n, _c(-0.693145751953125), x)
    r = _fma(n, _c(-1.428606765330187045e-06), r)
    p = _c(1 / 720)
    for c in (1 / 120, 1 / 24, 1 / 6, 0.5, 1, 1):
        p = _fma(p, r, _c(c))
    i = bitcast(t, int32)
    one = const(1, int32)
    s23 = const(23, int32)
    h = call("shr", i, one)
    s1 = bitcast(call("shl", h, s23), float32)
    s2 = bitcast(call("shl", call("sub", i, h), s23), float32)
    return call("mul", call("mul", p, s1), s2)


@cache
def program(fn: str, dtype: DType) -> Program | None:
    if fn == "exp" and dtype is float32:
        x = var("x", dtype)
        e = exp32(x)
        return Program((x,), tuple(n for n in walk([e]) if n is not x), e)
    return None


def cost(fn: str, dtype: DType) -> int:
    p = program(fn, dtype)
    return len([s for s in p.steps if s.fn != "const"]) if p else 1
