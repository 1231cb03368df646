"""The nodes of scalar expressions, and the vocabulary they are made of.

An `Expr` is an immutable, interned tree: equal expressions are the same object. `FUNCTIONS` is the
whole vocabulary; each entry carries its NumPy meaning, which is what "correct" means for every
backend. Integer division and remainder round towards minus infinity and give 0 for a zero divisor;
minimum and maximum propagate NaN. Nothing here simplifies: `scalar` does, and is what other files
use.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

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

_interned: WeakValueDictionary[Any, Expr] = WeakValueDictionary()
_interning = threading.Lock()
Terms = dict[tuple["Expr", ...], int]
Bounds = tuple[int | None, int | None]


class Expr:
    """One node: `fn` names a function or a leaf; `attr` is a leaf's payload.

    const: attr is the Python value. var: attr is (name, low, extent), values low <= v < extent,
    extent an Expr or None. load: attr is the buffer's name, args are (index,) or (index, guard,
    otherwise).
    """

    __slots__ = ("fn", "args", "dtype", "attr", "_text", "_terms", "_bounds", "__weakref__")
    fn: str
    args: tuple[Expr, ...]
    dtype: DType
    attr: Any

    def __repr__(self) -> str:
        return self.text

    @property
    def text(self) -> str:
        """Infix text; also the deterministic sort key of canonical sums."""
        if self._text is None:
            self._text = _render(self)
        return self._text

    @property
    def value(self) -> Any:
        """A constant's Python value."""
        assert self.fn == "const"
        return self.attr

    @property
    def name(self) -> str:
        """A variable's or a loaded buffer's name."""
        return self.attr if self.fn == "load" else self.attr[0]  # type: ignore[no-any-return]

    _text: str | None
    _terms: Terms | None
    _bounds: Bounds | None


def make(fn: str, args: tuple[Expr, ...], dtype: DType, attr: Any = None) -> Expr:
    """The interned node, without simplification."""
    # repr tells 0.0 from -0.0 and 1 from True, and NaN is equal to itself.
    key = (fn, args, dtype.name, repr(attr) if fn == "const" else attr)
    found = _interned.get(key)
    return _intern(key, fn, args, dtype, attr) if found is None else found


def _intern(key: Any, fn: str, args: tuple[Expr, ...], dtype: DType, attr: Any) -> Expr:
    with _interning:
        found = _interned.get(key)
        if found is None:
            found = Expr()
            found.fn, found.args, found.dtype, found.attr = fn, args, dtype, attr
            found._text = found._terms = found._bounds = None
            _interned[key] = found
        return found


INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "mod": "%",
          "bitand": "&", "bitor": "|", "bitxor": "^", "shl": "<<", "shr": ">>",
          "eq": "==", "ne": "!=", "lt": "<", "le": "<="}  # fmt: skip


def _render(e: Expr) -> str:
    if e.fn == "const":
        return f"{e.attr!r}" if e.dtype in (int64, bool_) else f"{e.dtype}({e.attr!r})"
    if e.fn == "var":
        return str(e.attr[0])
    if e.fn == "load":
        rest = "".join(f", {a.text}" for a in e.args[1:])
        return f"{e.attr}[{e.args[0].text}{rest}]"
    if e.fn in ("cast", "bitcast"):
        prefix = "" if e.fn == "cast" else "bitcast_"
        return f"{prefix}{e.dtype}({e.args[0].text})"
    if e.fn in INFIX:
        a, b = (f"({x.text})" if x.fn in INFIX else x.text for x in e.args)
        return f"{a} {INFIX[e.fn]} {b}"
    return f"{e.fn}({', '.join(a.text for a in e.args)})"


# ----------------------------------------------------------------------------------------- leaves


def const(value: Any, dtype: DType = int64) -> Expr:
    """A constant of the given type; the value is rounded to it."""
    if dtype.kind == "f":
        value = float(np.asarray(value, np.float64).astype(dtype.numpy))
    elif dtype.kind == "b":
        value = bool(value)
    else:  # wrapped
        value = int(value) & ((1 << dtype.bits) - 1)
        if dtype.kind == "i" and value >> (dtype.bits - 1):
            value -= 1 << dtype.bits
    return make("const", (), dtype, value)


def var(
    name: str, dtype: DType = int64, low: int | None = None, extent: Expr | int | None = None
) -> Expr:
    """A variable. Loop variables have low 0 and an extent; size symbols have low 2 and none."""
    if isinstance(extent, int):
        extent = const(extent)
    return make("var", (), dtype, (name, low, extent))


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
