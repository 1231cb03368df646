"""The nodes of scalar expressions, and the vocabulary they are made of.

An `Expr` is an immutable, interned tree: equal expressions are the same object. `FUNCTIONS` is the
whole vocabulary; each entry carries its NumPy meaning, which is what "correct" means for every
backend. Integer division and remainder round towards minus infinity and give 0 for a zero divisor;
minimum and maximum propagate NaN. Nothing here simplifies: `scalar` does, and is what other files
use.
"""

from __future__ import annotations

import gc
import hashlib
import math
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepseek.ir.dtype import DType, bool_, int64


@dataclass(frozen=True)
class Function:
    """A scalar function: how many arguments, its result type ("same" or "bool"), its meaning."""

    name: str
    arity: int
    result: str
    meaning: Callable[..., Any]


def _erf(x: Any) -> Any:
    wide = np.asarray(x, np.float64)
    flat = np.fromiter((math.erf(v) for v in wide.ravel()), np.float64, wide.size)
    return flat.reshape(wide.shape).astype(np.asarray(x).dtype)


def _integer_division(divide: Callable[..., Any]) -> Callable[..., Any]:
    def meaning(a: Any, b: Any) -> Any:
        b = np.asarray(b)
        if b.dtype.kind == "f":
            return divide(a, b)
        return np.where(b == 0, np.zeros_like(b), divide(a, np.where(b == 0, np.ones_like(b), b)))

    return meaning


def _shift(shift: Callable[..., Any]) -> Callable[..., Any]:
    def meaning(a: Any, b: Any) -> Any:
        return shift(a, np.asarray(b).astype(np.asarray(a).dtype))

    return meaning


def _mulhi(a: Any, b: Any) -> Any:
    wide = np.asarray(a, np.uint64) * np.asarray(b, np.uint64)
    return (wide >> np.uint64(32)).astype(np.uint32)


def _table() -> dict[str, Function]:
    same: list[tuple[str, int, Callable[..., Any]]] = [
        ("add", 2, np.add), ("sub", 2, np.subtract), ("mul", 2, np.multiply),
        ("div", 2, np.divide), ("floordiv", 2, _integer_division(np.floor_divide)),
        ("mod", 2, _integer_division(np.mod)), ("fma", 3, lambda a, b, c: a * b + c),
        ("neg", 1, np.negative), ("abs", 1, np.abs),
        ("minimum", 2, np.minimum), ("maximum", 2, np.maximum),
        ("bitand", 2, np.bitwise_and), ("bitor", 2, np.bitwise_or), ("bitxor", 2, np.bitwise_xor),
        ("shl", 2, _shift(np.left_shift)), ("shr", 2, _shift(np.right_shift)),
        ("mulhi", 2, _mulhi),
        ("exp", 1, np.exp), ("expm1", 1, np.expm1), ("log", 1, np.log), ("log1p", 1, np.log1p),
        ("sqrt", 1, np.sqrt), ("sin", 1, np.sin), ("cos", 1, np.cos), ("tanh", 1, np.tanh),
        ("atan", 1, np.arctan), ("erf", 1, _erf), ("pow", 2, np.power),
        ("floor", 1, np.floor), ("ceil", 1, np.ceil), ("trunc", 1, np.trunc), ("round", 1, np.rint),
    ]  # fmt: skip
    truth: list[tuple[str, Callable[..., Any]]] = [
        ("eq", np.equal), ("ne", np.not_equal), ("lt", np.less), ("le", np.less_equal),
    ]  # fmt: skip
    table = {name: Function(name, n, "same", f) for name, n, f in same}
    table |= {name: Function(name, 2, "bool", f) for name, f in truth}
    table["where"] = Function("where", 3, "same", np.where)
    return table


FUNCTIONS: dict[str, Function] = _table()
LEAVES = ("const", "var", "load")  # the rest: FUNCTIONS, "cast" and "bitcast"

Terms = dict[tuple["Expr", ...], int]
Bounds = tuple[int | None, int | None]


class Expr:
    """One node: `fn` names a function or a leaf; `attr` is a leaf's payload.

    const: attr is the Python value. var: attr is (name, low, extent), values low <= v < extent,
    extent an Expr or None. load: attr is the buffer's name, args are (index,) or (index, guard,
    otherwise).
    """

    __slots__ = ("fn", "args", "dtype", "attr", "_free", "_key", "_terms", "_bounds")
    fn: str
    args: tuple[Expr, ...]
    dtype: DType
    attr: Any

    def __repr__(self) -> str:
        return self.text

    @property
    def text(self) -> str:
        """Infix text."""
        return _render(self, [a.text for a in self.args])

    @property
    def key(self) -> str:
        """A deterministic sort key: the text, or a digest where that is long.

        A text grows with the tree, which may be exponentially larger than the graph of its nodes.
        """
        if self._key is None:
            _make_keys(self)
        assert self._key is not None
        return self._key

    @property
    def free(self) -> frozenset[Expr]:
        """The variables in it."""
        return frozenset((self,)) if self.fn == "var" else self._free

    @property
    def value(self) -> Any:
        """A constant's Python value."""
        assert self.fn == "const"
        return self.attr

    @property
    def name(self) -> str:
        """A variable's or a loaded buffer's name."""
        return self.attr if self.fn == "load" else self.attr[0]  # type: ignore[no-any-return]

    _free: frozenset[Expr]  # empty for a variable, which would otherwise hold itself
    _key: str | None
    _terms: Terms | None
    _bounds: Bounds | None


# --------------------------------------------------------------------------------------- interning

SWEEP_AT = 1 << 16

_interned: dict[Any, Expr] = {}
_interning = threading.RLock()  # a finalizer may run inside, and intern too
_sweep_at = SWEEP_AT
_NONE: frozenset[Expr] = frozenset()


def make(fn: str, args: tuple[Expr, ...], dtype: DType, attr: Any = None) -> Expr:
    """The interned node, without simplification."""
    # repr tells 0.0 from -0.0, and NaN is equal to itself.
    known = repr(attr) if fn == "const" and dtype.kind == "f" else attr
    key = (fn, args, dtype, known)
    found = _interned.get(key)
    return _intern(key, fn, args, dtype, attr) if found is None else found


def _intern(key: Any, fn: str, args: tuple[Expr, ...], dtype: DType, attr: Any) -> Expr:
    with _interning:
        found = _interned.get(key)
        if found is None:
            found = Expr()
            found.fn, found.args, found.dtype, found.attr = fn, args, dtype, attr
            found._key = found._terms = found._bounds = None
            found._free = _free(args)
            if len(_interned) >= _sweep_at:
                _sweep()
            _interned[key] = found
        return found


def _free(args: tuple[Expr, ...]) -> frozenset[Expr]:
    found = _NONE
    for a in args:
        free = a.free
        if found <= free:
            found = free
        elif not free <= found:
            found |= free
    return found


def _sweep() -> None:
    """Drop the nodes that only the table refers to, users before arguments.

    A lookup that misses meanwhile waits for the lock, and finds what was put back.
    """
    global _sweep_at
    collecting = gc.isenabled()
    gc.disable()  # a finalizer must not find the table half empty
    keys = list(_interned)  # arguments before users, since they are made so
    kept: list[tuple[Any, Expr]] = []
    while keys:
        key = keys.pop()
        e = _interned.pop(key)
        if sys.getrefcount(e) > 2:  # this frame's, and the call's own
            kept.append((key, e))
    kept.reverse()
    _interned.update(kept)
    _sweep_at = max(SWEEP_AT, 2 * len(kept))
    if collecting:
        gc.enable()


INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "mod": "%",
          "bitand": "&", "bitor": "|", "bitxor": "^", "shl": "<<", "shr": ">>",
          "eq": "==", "ne": "!=", "lt": "<", "le": "<="}  # fmt: skip


def _render(e: Expr, args: list[str]) -> str:
    """The text of a node, given its arguments'."""
    if e.fn == "const":
        return f"{e.attr!r}" if e.dtype in (int64, bool_) else f"{e.dtype}({e.attr!r})"
    if e.fn == "var":
        return str(e.attr[0])
    if e.fn == "load":
        return f"{e.attr}[{', '.join(args)}]"
    if e.fn in ("cast", "bitcast"):
        prefix = "" if e.fn == "cast" else "bitcast_"
        return f"{prefix}{e.dtype}({args[0]})"
    if e.fn in INFIX:
        inside = [f"({t})" if x.fn in INFIX else t for x, t in zip(e.args, args, strict=True)]
        return f"{inside[0]} {INFIX[e.fn]} {inside[1]}"
    return f"{e.fn}({', '.join(args)})"


LONGEST_KEY = 1000


def _make_keys(e: Expr) -> None:
    """The keys of a node and of all under it."""
    stack = [e]
    while stack:
        node = stack[-1]
        missing = [a for a in node.args if a._key is None]
        stack += missing
        if missing:
            continue
        stack.pop()
        text = _render(node, [a._key or "" for a in node.args])
        if len(text) > LONGEST_KEY:
            text = f"{node.fn}~{hashlib.sha256(text.encode()).hexdigest()}"
        node._key = text


# ----------------------------------------------------------------------------------------- leaves


def const(value: Any, dtype: DType = int64) -> Expr:
    """A constant of the given type; the value is rounded to it."""
    if dtype.kind == "f":
        value = float(np.asarray(value, np.float64).astype(dtype.numpy))
    elif dtype.kind == "b":
        value = bool(value)
    elif type(value) is not int or dtype is not int64 or value.bit_length() > 63:  # wrapped
        value = int(value) & ((1 << dtype.bits) - 1)
        if dtype.kind == "i" and value >> (dtype.bits - 1):
            value -= 1 << dtype.bits
    return make("const", (), dtype, value)


def var(
    name: str, dtype: DType = int64, low: int | None = None, extent: Expr | int | None = None
) -> Expr:
    """A variable. Loop variables have low 0 and an extent; sizes have low 1 and none."""
    if isinstance(extent, int):
        extent = const(extent)
    return make("var", (), dtype, (name, low, extent))


SIZE_BOUNDS = (1, None)


def size_var(name: str) -> Expr:
    """A size that is known when the code runs, and 1 or more."""
    return make("var", (), int64, (name, *SIZE_BOUNDS))


def load(
    buffer: str,
    dtype: DType,
    index: Expr,
    guard: Expr | None = None,
    otherwise: Expr | None = None,
) -> Expr:
    """Element `index` of a buffer; `otherwise`, with nothing read, where the guard is false."""
    if guard is None or guard is TRUE:
        return make("load", (index,), dtype, buffer)
    if otherwise is None:
        otherwise = const(0, dtype)
    if guard is FALSE:
        return otherwise
    return make("load", (index, guard, otherwise), dtype, buffer)


TRUE = const(True, bool_)
FALSE = const(False, bool_)
ZERO = const(0)
ONE = const(1)


def as_expr(x: Expr | int) -> Expr:
    """An integer as a size or index expression."""
    return x if isinstance(x, Expr) else const(x)
