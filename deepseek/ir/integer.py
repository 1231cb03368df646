"""Canonical int64 arithmetic: sums of products, numeric bounds, and what can be proved from them.

Every int64 expression is kept as a sorted sum of products (`terms`), so that index arithmetic
simplifies and equal sizes are the same object. Sizes and indices do not overflow: the rules are
those of the integers. In flow Exprs that are canonical already, out flows the canonical form of a
function of them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable

from deepseek.ir.dtype import bool_, int64
from deepseek.ir.expr import FALSE, ONE, TRUE, ZERO, Bounds, Expr, Terms, const, make

# Proofs and quotients are asked for again and again about the same few expressions.
remember = functools.lru_cache(maxsize=1 << 15)


# ------------------------------------------------------------------------------ sums of products


def terms(e: Expr) -> Terms:
    """A sum of products as {factors: coefficient}; the empty tuple is the constant term."""
    if e._terms is not None:
        return e._terms
    if e.fn == "const":
        return {(): e.attr} if e.attr else {}
    if e.fn == "add":
        e._terms = _add_terms(terms(e.args[0]), terms(e.args[1]), 1)
    elif e.fn == "mul":
        e._terms = _multiply_terms(terms(e.args[0]), terms(e.args[1]))
    else:
        return {(e,): 1}  # not kept: an expression that refers to itself would live for ever
    return e._terms


def _add_terms(a: Terms, b: Terms, scale: int) -> Terms:
    """a + scale * b."""
    out = dict(a)
    for monomial, c in b.items():
        total = out.get(monomial, 0) + scale * c
        if total:
            out[monomial] = total
        else:
            del out[monomial]
    return out


def _multiply_terms(a: Terms, b: Terms) -> Terms:
    out: Terms = {}
    for m1, c1 in a.items():
        for m2, c2 in b.items():
            m = tuple(sorted(m1 + m2, key=_key)) if m1 and m2 else m1 or m2
            out[m] = out.get(m, 0) + c1 * c2
    return {m: c for m, c in out.items() if c}


def _key(e: Expr) -> str:
    return e.key


def _order(item: tuple[tuple[Expr, ...], int]) -> tuple[bool, tuple[str, ...]]:
    monomial, _ = item
    return not monomial, tuple([x.key for x in monomial])


def from_terms(sums: Terms) -> Expr:
    """The canonical expression of a sum of products."""
    parts = [(monomial, c) for monomial, c in sums.items() if c]
    if not parts:
        return ZERO
    if len(parts) > 1:
        parts.sort(key=_order)
    total: Expr | None = None
    for monomial, c in parts:
        part = _product(monomial, c)
        total = part if total is None else make("add", (total, part), int64)
    assert total is not None
    if total._terms is None and total.fn in ("add", "mul"):
        total._terms = dict(parts)
    return total


def _product(monomial: tuple[Expr, ...], c: int) -> Expr:
    if not monomial:
        return const(c)
    part = monomial[0]
    for factor in monomial[1:]:
        part = make("mul", (part, factor), int64)
    return part if c == 1 else make("mul", (part, const(c)), int64)


@remember
def add(a: Expr, b: Expr) -> Expr:
    if a is ZERO or b is ZERO:
        return b if a is ZERO else a
    return from_terms(_add_terms(terms(a), terms(b), 1))


@remember
def sub(a: Expr, b: Expr) -> Expr:
    return a if b is ZERO else from_terms(_add_terms(terms(a), terms(b), -1))


def neg(a: Expr) -> Expr:
    return from_terms({m: -c for m, c in terms(a).items()})


@remember
def mul(a: Expr, b: Expr) -> Expr:
    if a is ONE or b is ONE:
        return b if a is ONE else a
    return from_terms(_multiply_terms(terms(a), terms(b)))


# ---------------------------------------------------------------------------------------- bounds


def bounds(e: Expr) -> Bounds:
    """Inclusive numeric bounds of an int64 expression; None where nothing is known."""
    if e._bounds is None:
        e._bounds = _bounds(e)
    return e._bounds


def _bounds(e: Expr) -> Bounds:
    if e.fn == "const":
        return e.attr, e.attr
    if e.fn == "var":
        _, low, extent = e.attr
        high = None if extent is None else bounds(extent)[1]
        return low, None if high is None else high - 1
    if e.fn in ("add", "mul"):
        return lowest(terms(e)), highest(terms(e))
    if e.fn == "where":
        (l1, h1), (l2, h2) = bounds(e.args[1]), bounds(e.args[2])
        return _both(min, (l1, l2)), _both(max, (h1, h2))
    if e.fn in ("minimum", "maximum", "floordiv", "mod"):
        (l1, h1), (l2, h2) = bounds(e.args[0]), bounds(e.args[1])
        if e.fn == "minimum":
            return _both(min, (l1, l2)), _either(min, (h1, h2))
        if e.fn == "maximum":
            return _either(max, (l1, l2)), _both(max, (h1, h2))
        if l2 is None or l2 <= 0:
            return None, None
        if e.fn == "mod":
            return 0, None if h2 is None else h2 - 1
        low = None if l1 is None else (l1 // l2 if l1 < 0 else 0 if h2 is None else l1 // h2)
        return low, None if h1 is None else max(h1 // l2, 0)
    return None, None


def _both(choose: Callable[..., int], pair: tuple[int | None, int | None]) -> int | None:
    return None if None in pair else choose(pair)


def _either(choose: Callable[..., int], pair: tuple[int | None, int | None]) -> int | None:
    return choose((x for x in pair if x is not None), default=None)


def lowest(sums: Terms) -> int | None:
    """A lower bound of a sum of products."""
    total = 0
    for monomial, c in sums.items():
        low, high = _monomial_bounds(monomial)
        bound = low if c > 0 else high
        if bound is None:
            return None
        total += c * bound
    return total


def highest(sums: Terms) -> int | None:
    """An upper bound of a sum of products."""
    low = lowest({m: -c for m, c in sums.items()})
    return None if low is None else -low


def _monomial_bounds(monomial: tuple[Expr, ...]) -> Bounds:
    low = 1
    high: int | None = 1
    for factor in monomial:
        lo, hi = bounds(factor)
        if lo is None or lo < 0:
            return bounds(factor) if len(monomial) == 1 else (None, None)
        low *= lo
        high = None if high is None or hi is None else high * hi
    return low, high


# ---------------------------------------------------------------------------------------- proofs


def is_nonnegative(e: Expr) -> bool:
    """Whether `e >= 0` can be proved."""
    return _proves_nonnegative(terms(e))


def _proves_nonnegative(sums: Terms) -> bool:
    low = lowest(sums)
    if low is not None and low >= 0:
        return True
    symbolic = _symbolic_low(sums)
    if symbolic is None or symbolic == sums:
        return False
    return _proves_nonnegative(symbolic)  # an extent may depend on further loop variables


def _symbolic_low(sums: Terms) -> Terms | None:
    """A lower bound: each loop variable gets the end of its range that makes the sum smallest."""
    out: Terms = {}
    for monomial, c in sums.items():
        piece: Terms = {(): c}
        for factor in monomial:
            end = _end(factor, c > 0)
            if end is None:
                return None
            piece = _multiply_terms(piece, end)
        out = _add_terms(out, piece, 1)
    return out


def _end(factor: Expr, smallest: bool) -> Terms | None:
    """A bound of a factor from below or above; None unless it is known not to be negative."""
    low = bounds(factor)[0]
    if low is None or low < 0:
        return None
    if factor.fn == "var" and factor.attr[2] is not None:
        return terms(const(low)) if smallest else _add_terms(terms(factor.attr[2]), {(): 1}, -1)
    if factor.fn == "mod" and not smallest:
        return _add_terms(terms(factor.args[1]), {(): 1}, -1)
    return {(factor,): 1}


def _within(e: Terms, extent: Terms) -> bool:
    """Whether `0 <= e < extent` can be proved."""
    if not _proves_nonnegative(e):
        return False
    return _proves_nonnegative(_add_terms(_add_terms(extent, e, -1), {(): 1}, -1))


# ------------------------------------------------------------------------ division and comparison


def _split_by(sums: Terms, divisor: Terms) -> tuple[Terms, Terms]:
    """(quotient, rest) with sums == quotient * divisor + rest."""
    if len(divisor) != 1:
        return ({(): 1}, {}) if sums == divisor else ({}, sums)
    ((factors, c),) = divisor.items()
    quotient: Terms = {}
    rest: Terms = {}
    for monomial, k in sums.items():
        left = _without(monomial, factors) if k % c == 0 else None
        if left is None:
            rest[monomial] = k
        else:
            quotient[left] = k // c
    return quotient, rest


def _without(monomial: tuple[Expr, ...], factors: Iterable[Expr]) -> tuple[Expr, ...] | None:
    """The monomial divided by the factors, or None if they do not divide it."""
    left = list(monomial)
    for factor in factors:
        if factor not in left:
            return None
        left.remove(factor)
    return tuple(left)


def _is_positive(e: Expr) -> bool:
    low = bounds(e)[0]
    return low is not None and low > 0


@remember
def floordiv(a: Expr, b: Expr) -> Expr:
    """a // b, rounded towards minus infinity; 0 where b is 0."""
    if a.fn == "const" and b.fn == "const":
        return const(a.attr // b.attr if b.attr else 0)
    if b is ONE or a is ZERO:
        return a
    if not _is_positive(b):
        return make("floordiv", (a, b), int64)
    quotient, rest = _split_by(terms(a), terms(b))
    if _within(rest, terms(b)):
        return from_terms(quotient)
    return from_terms(_add_terms(quotient, terms(_floordiv_rest(rest, b)), 1))


def _floordiv_rest(rest: Terms, b: Expr) -> Expr:
    e = from_terms(rest)
    if e.fn == "const" and b.fn == "const":
        return const(e.attr // b.attr)
    if e.fn == "floordiv" and _is_positive(e.args[1]):
        return floordiv(e.args[0], mul(e.args[1], b))
    shared = _shared_factor(rest, b)
    if shared is not None:
        # (4*i + r) // 8 == i // 2 where 0 <= r < 4
        common, multiple, _ = shared
        return floordiv(from_terms(multiple), const(b.attr // common))
    return make("floordiv", (e, b), int64)


@remember
def mod(a: Expr, b: Expr) -> Expr:
    """a - a // b * b, never negative for b > 0; 0 where b is 0."""
    if a.fn == "const" and b.fn == "const":
        return const(a.attr % b.attr if b.attr else 0)
    if b is ONE or a is ZERO:
        return ZERO
    if not _is_positive(b):
        return make("mod", (a, b), int64)
    _, rest = _split_by(terms(a), terms(b))
    e = from_terms(rest)
    if e.fn == "const" and b.fn == "const":
        return const(e.attr % b.attr)
    if _within(rest, terms(b)):
        return e
    shared = _shared_factor(rest, b)
    if shared is not None:
        # (4*i + r) % 8 == i % 2 * 4 + r where 0 <= r < 4
        common, multiple, small = shared
        inner = mod(from_terms(multiple), const(b.attr // common))
        return from_terms(_add_terms(small, terms(inner), common))
    return make("mod", (e, b), int64)


def _shared_factor(sums: Terms, b: Expr) -> tuple[int, Terms, Terms] | None:
    """(g, m, r) with sums == g * m + r, 0 <= r < g, and g > 1 a divisor of the constant b."""
    if b.fn != "const":
        return None
    for common in sorted({math.gcd(b.attr, c) for m, c in sums.items() if m}, reverse=True):
        multiple = {m: c // common for m, c in sums.items() if not m or c % common == 0}
        small = _add_terms(sums, multiple, -common)
        if common > 1 and _within(small, {(): common}):
            return common, {m: c for m, c in multiple.items() if c}, small
    return None


@remember
def less(a: Expr, b: Expr) -> Expr:
    difference = _add_terms(terms(b), terms(a), -1)
    if _proves_nonnegative(_add_terms(difference, {(): 1}, -1)):
        return TRUE
    if _proves_nonnegative({m: -c for m, c in difference.items()}):
        return FALSE
    return make("lt", (a, b), bool_)


@remember
def less_equal(a: Expr, b: Expr) -> Expr:
    difference = _add_terms(terms(b), terms(a), -1)
    if _proves_nonnegative(difference):
        return TRUE
    if _proves_nonnegative(_add_terms({m: -c for m, c in difference.items()}, {(): 1}, -1)):
        return FALSE
    return make("le", (a, b), bool_)


@remember
def equal(a: Expr, b: Expr) -> Expr:
    if a is b:
        return TRUE
    if TRUE in (less(a, b), less(b, a)):
        return FALSE
    return make("eq", (a, b), bool_)


@remember
def minimum(a: Expr, b: Expr) -> Expr:
    if less_equal(a, b) is TRUE:
        return a
    return b if less_equal(b, a) is TRUE else make("minimum", (a, b), int64)


@remember
def maximum(a: Expr, b: Expr) -> Expr:
    if less_equal(a, b) is TRUE:
        return b
    return a if less_equal(b, a) is TRUE else make("maximum", (a, b), int64)
