"""Scalar expressions: the language of sizes, index maps, elementwise meanings and kernel bodies.

This is the face of `expr` (the nodes) and `integer` (canonical int64 arithmetic): `call` and
friends build simplified expressions, `walk`, `substitute` and `evaluate` take them apart.
Expressions of dtype int64 are kept in canonical form (sorted sums of products), so that index
arithmetic simplifies and two equal sizes compare equal. Other types are simplified only where the
result is the same bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from deepseek.ir import integer
from deepseek.ir.dtype import DType, bool_, int64
from deepseek.ir.expr import (
    FALSE,
    FUNCTIONS,
    LEAVES,
    ONE,
    SIZE_BOUNDS,
    TRUE,
    ZERO,
    Expr,
    Function,
    Terms,
    as_expr,
    const,
    load,
    make,
    size_var,
    var,
)
from deepseek.ir.integer import bounds, from_terms, is_nonnegative, terms

# ------------------------------------------------------------------------------------- construction


def call(fn: str, *args: Expr) -> Expr:
    """Apply a function of FUNCTIONS; folds constants and simplifies integer arithmetic."""
    last = args[-1].dtype
    rule = _INTEGER_RULES.get(fn) if last is int64 else None
    if rule is not None:
        assert args[0].dtype is int64, (fn, args)
        return rule(*args)
    function = FUNCTIONS[fn]
    assert len(args) == function.arity, fn
    assert fn == "where" or all(a.dtype is last for a in args), (fn, args, [a.dtype for a in args])
    dtype = bool_ if function.result == "bool" else last
    if all(a.fn == "const" for a in args):
        return _fold(function, args, dtype)
    return _identities(fn, args, dtype)


def _fold(function: Function, args: tuple[Expr, ...], dtype: DType) -> Expr:
    with np.errstate(all="ignore"):
        values = [np.asarray(a.attr, a.dtype.numpy) for a in args]
        return const(np.asarray(function.meaning(*values)).astype(dtype.numpy).item(), dtype)


def _identities(fn: str, args: tuple[Expr, ...], dtype: DType) -> Expr:
    """Identities that hold bit for bit, signed zeros and NaN included."""
    a = args[0]
    if fn == "where":
        if a is TRUE or args[1] is args[2]:
            return args[1]
        if a is FALSE:
            return args[2]
    elif fn in ("mul", "div") and _is(args[1], 1):
        return a
    elif fn == "mul" and _is(a, 1):
        return args[1]
    elif dtype is bool_ and fn in ("bitand", "bitor"):
        absorbing = FALSE if fn == "bitand" else TRUE
        neutral = TRUE if fn == "bitand" else FALSE
        if absorbing in args:
            return absorbing
        if a is neutral or a is args[1]:
            return args[1]
        if args[1] is neutral:
            return a
    elif fn in ("minimum", "maximum") and a is args[1]:
        return a
    elif dtype.kind in "iu" and fn == "add":
        if _is(a, 0):
            return args[1]
        if _is(args[1], 0):
            return a
    return make(fn, args, dtype)


def _is(e: Expr, value: int) -> bool:
    return e.fn == "const" and bool(e.attr == value)


_INTEGER_RULES: dict[str, Callable[..., Expr]] = {
    "add": integer.add,
    "sub": integer.sub,
    "neg": integer.neg,
    "mul": integer.mul,
    "floordiv": integer.floordiv,
    "mod": integer.mod,
    "lt": integer.less,
    "le": integer.less_equal,
    "eq": integer.equal,
    "ne": lambda a, b: not_(integer.equal(a, b)),
    "minimum": integer.minimum,
    "maximum": integer.maximum,
}


def add(a: Expr, b: Expr) -> Expr:
    return integer.add(a, b) if a.dtype is b.dtype is int64 else call("add", a, b)


def sub(a: Expr, b: Expr) -> Expr:
    return integer.sub(a, b) if a.dtype is b.dtype is int64 else call("sub", a, b)


def mul(a: Expr, b: Expr) -> Expr:
    return integer.mul(a, b) if a.dtype is b.dtype is int64 else call("mul", a, b)


def neg(a: Expr) -> Expr:
    return call("neg", a)


def floordiv(a: Expr, b: Expr) -> Expr:
    return integer.floordiv(a, b) if a.dtype is b.dtype is int64 else call("floordiv", a, b)


def mod(a: Expr, b: Expr) -> Expr:
    return integer.mod(a, b) if a.dtype is b.dtype is int64 else call("mod", a, b)


def minimum(a: Expr, b: Expr) -> Expr:
    return integer.minimum(a, b) if a.dtype is b.dtype is int64 else call("minimum", a, b)


def maximum(a: Expr, b: Expr) -> Expr:
    return integer.maximum(a, b) if a.dtype is b.dtype is int64 else call("maximum", a, b)


def where(condition: Expr, a: Expr, b: Expr) -> Expr:
    return call("where", condition, a, b)


def not_(a: Expr) -> Expr:
    return call("bitxor", a, TRUE) if a.fn == "const" else _negate(a)


def _negate(a: Expr) -> Expr:
    if a.fn == "bitxor" and a.args[1] is TRUE:
        return a.args[0]
    return make("bitxor", (a, TRUE), bool_)


def and_(*parts: Expr) -> Expr:
    """Conjunction of truth values; TRUE for none."""
    out = TRUE
    for part in parts:
        if out is TRUE:
            out = part
        elif part is not TRUE:
            out = call("bitand", out, part)
    return out


def product(sizes: Iterable[Expr | int]) -> Expr:
    """Product of sizes; 1 for none."""
    out = ONE
    for size in sizes:
        out = mul(out, as_expr(size))
    return out


def cast(a: Expr, dtype: DType) -> Expr:
    """Convert the value. Float to integer truncates towards zero."""
    if a.dtype is dtype:
        return a
    if a.fn == "const" and (a.dtype.kind != "f" or _fits(a.attr, dtype)):
        return const(a.attr, dtype)
    return make("cast", (a,), dtype)


def _fits(value: float, dtype: DType) -> bool:
    """Whether converting a float to the type is defined, and so the same everywhere."""
    if dtype.kind in "fb":
        return True
    if not math.isfinite(value):
        return False
    low = -(1 << (dtype.bits - 1)) if dtype.kind == "i" else 0
    return low <= int(value) < low + (1 << dtype.bits)


def bitcast(a: Expr, dtype: DType) -> Expr:
    """Reinterpret the bits as another type of the same size."""
    assert a.dtype.bits == dtype.bits
    if a.fn == "const":
        return const(np.asarray(a.attr, a.dtype.numpy).view(dtype.numpy).item(), dtype)
    return make("bitcast", (a,), dtype)


# --------------------------------------------------------------------------------------- walking


def walk(roots: Iterable[Expr]) -> list[Expr]:
    """Every distinct node under the roots, arguments before users."""
    seen: set[Expr] = set()
    order: list[Expr] = []
    stack: list[Expr | None] = [*roots]
    stack.reverse()
    while stack:
        e = stack.pop()
        if e is None:  # what follows it has all its arguments in the order
            order.append(stack.pop())  # type: ignore[arg-type]
        elif e not in seen:
            seen.add(e)
            if e.args:
                stack += (e, None, *e.args[::-1])
            else:
                order.append(e)
    return order


def variables(*roots: Expr) -> list[Expr]:
    """The distinct variables under the roots, in the order of `walk`."""
    return [e for e in walk(roots) if e.fn == "var"]


def rebuild(e: Expr, args: tuple[Expr, ...]) -> Expr:
    """The same function on other arguments, simplified again."""
    if e.fn == "cast":
        return cast(args[0], e.dtype)
    if e.fn == "bitcast":
        return bitcast(args[0], e.dtype)
    if e.fn == "load":
        return load(e.attr, e.dtype, *args)
    return call(e.fn, *args)


def substitute(e: Expr, replacements: Mapping[Expr, Expr]) -> Expr:
    """`e` with the given nodes replaced."""
    if not replacements:
        return e
    done: dict[Expr, Expr] = dict(replacements)
    # Where variables are replaced, what has none of them stays as it is.
    variables_only = all(x.fn == "var" for x in replacements)
    stack = [e]
    while stack:
        node = stack[-1]
        if node in done:
            stack.pop()
        elif variables_only and node.free.isdisjoint(replacements):
            done[node] = node
            stack.pop()
        elif missing := [a for a in node.args if a not in done]:
            stack += missing
        else:
            args = tuple([done[a] for a in node.args])
            done[node] = node if args == node.args else rebuild(node, args)
            stack.pop()
    return done[e]


def evaluate(
    e: Expr, env: Mapping[Expr, Any], read: Callable[[str, Any, Any, Any], Any] | None = None
) -> Any:
    """The value of `e` in NumPy.

    `env` gives the variables, `read(buffer, index, guard, otherwise)` the loads. 16-bit floats are
    evaluated as written, each function rounding to its own type.
    """
    values: dict[Expr, Any] = {}
    with np.errstate(all="ignore"):
        for node in walk([e]):
            args = [values[a] for a in node.args]
            values[node] = _evaluate(node, args, env, read)
    return values[e]


def _evaluate(node: Expr, args: list[Any], env: Mapping[Expr, Any], read: Any) -> Any:
    if node.fn == "const":
        return np.asarray(node.attr).astype(node.dtype.numpy)
    if node.fn == "var":
        return np.asarray(env[node]).astype(node.dtype.numpy)
    if node.fn == "load":
        assert read is not None
        return read(node.attr, args[0], *(args[1:] if len(args) > 1 else (None, None)))
    if node.fn == "cast":
        return convert(args[0], node.dtype)
    if node.fn == "bitcast":
        return np.ascontiguousarray(args[0]).view(node.dtype.numpy).reshape(np.shape(args[0]))
    return np.asarray(FUNCTIONS[node.fn].meaning(*args)).astype(node.dtype.numpy)


def convert(a: Any, dtype: DType) -> Any:
    """Convert an array as `cast` does; out-of-range floats become integers as C leaves them."""
    a = np.asarray(a)
    if dtype.kind == "b":
        return a != 0
    if a.dtype == ml_dtypes.bfloat16 and dtype.kind in "iu":
        a = a.astype(np.float32)
    with np.errstate(all="ignore"):
        return a.astype(dtype.numpy)


def free_of(e: Expr, variable: Expr) -> bool:
    """Whether `e` does not depend on the variable."""
    return variable not in e.free if variable.fn == "var" else variable not in walk([e])


def coefficient(e: Expr, variable: Expr) -> Expr | None:
    """c such that e == c * variable + (something free of it), or None if not affine."""
    total: Terms = {}
    for monomial, c in terms(e).items():
        count = monomial.count(variable)
        rest = list(monomial)
        if count:
            rest.remove(variable)
        if count > 1 or any(not free_of(factor, variable) for factor in rest):
            return None
        if count:
            total[tuple(rest)] = c
    return from_terms(total)


__all__ = [
    "Expr", "FALSE", "FUNCTIONS", "Function", "LEAVES", "ONE", "SIZE_BOUNDS", "TRUE", "Terms",
    "ZERO", "add", "and_", "as_expr", "bitcast", "bool_", "bounds", "call", "cast",
    "coefficient", "const", "convert", "evaluate", "floordiv", "free_of", "from_terms", "int64",
    "is_nonnegative", "load", "make", "maximum", "minimum", "mod", "mul", "neg", "not_",
    "product", "rebuild", "size_var", "sub", "substitute", "terms", "var", "variables", "walk",
    "where",
]  # fmt: skip
