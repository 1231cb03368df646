"""Guards that hold for every s-th element only: walk just those.

The gradient of a strided convolution's input reads the cotangent where `(i + low - k * dilation) %
stride` is 0. In flow the axes and scalars of such an equation; out flow the same sums with the
output axis i split into (i // stride, i % stride) and the summed axis k stepping from the first
place where the guard holds. For each remainder of i the summed places are then known, and the guard
is gone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from deepseek.ir import scalar
from deepseek.ir.scalar import ONE, TRUE, ZERO, Expr, const
from deepseek.kernel.loops import Span


@dataclass
class Solved:
    """New axes, the substitutions that lead to them, in order, and which places are of the old
    axes."""

    kept: list[Span]
    folded: list[Span]
    changes: list[dict[Expr, Expr]]
    kept_inside: Expr
    folded_inside: Expr

    def apply(self, e: Expr) -> Expr:
        for change in self.changes:
            e = scalar.substitute(e, change)
        return e


def solve(kept: list[Span], folded: list[Span], roots: list[Expr]) -> Solved | None:
    """Get rid of one guard `a % s == 0`, None if there is none that can be solved."""
    for node in scalar.walk(roots):
        if node.fn != "eq" or node.args[1] is not ZERO or node.args[0].fn != "mod":
            continue
        number, by = node.args[0].args
        if by.fn == "const":
            found = _solve(kept, folded, node, number, by.value)
            if found is not None:
                return found
    return None


def _solve(
    kept: list[Span], folded: list[Span], guard: Expr, number: Expr, by: int
) -> Solved | None:
    outputs = {s.var: s for s in kept}
    change: dict[Expr, Expr] = {}
    inside = TRUE
    for var, c in _coefficients(number).items():
        if var in outputs and c % by and outputs[var].extent is not const(by):
            kept, whole, within = _split(kept, outputs[var], by)
            change[var] = whole
            inside = scalar.and_(inside, within)
    step = _step(folded, scalar.substitute(number, change), by)
    if step is None:
        return Solved(kept, folded, [change], inside, TRUE) if change else None
    span, first = step
    count = scalar.floordiv(scalar.add(span.extent, const(by - 1)), const(by))
    turn = ZERO if count is ONE else scalar.var(f"{span.var.name}s", low=0, extent=count)
    at = scalar.add(scalar.mul(turn, const(by)), first)
    changes = [change, {scalar.substitute(guard, change): TRUE}, {span.var: at}]
    others = [Span(turn, count, True) if s is span else s for s in folded]
    others = [s for s in others if s.extent is not ONE]
    return Solved(kept, others, changes, inside, scalar.call("lt", at, span.extent))


def _step(folded: list[Span], number: Expr, by: int) -> tuple[Span, Expr] | None:
    """The summed axis that reaches each remainder, and the first place where the number is 0."""
    coefficients = _coefficients(number)
    summed = {s.var for s in folded}
    for span in folded:
        c = coefficients.get(span.var, 0)
        if not c or math.gcd(c, by) > 1:
            continue
        rest = scalar.substitute(number, {span.var: ZERO})
        first = scalar.mod(scalar.mul(rest, const(-pow(c, -1, by))), const(by))
        if summed.isdisjoint(scalar.variables(first)):
            return span, first
    return None


def _split(spans: list[Span], span: Span, by: int) -> tuple[list[Span], Expr, Expr]:
    """An axis as (quotient, remainder); the old variable; whether it is inside the axis."""
    count = scalar.floordiv(scalar.add(span.extent, const(by - 1)), const(by))
    outer = ZERO if count is ONE else scalar.var(f"{span.var.name}q", low=0, extent=count)
    inner = scalar.var(f"{span.var.name}r", low=0, extent=by)
    whole = scalar.add(scalar.mul(outer, const(by)), inner)
    at = spans.index(span)
    parts = [s for s in (Span(outer, count), Span(inner, const(by))) if s.extent is not ONE]
    divides = scalar.mod(span.extent, const(by)) is ZERO
    within = TRUE if divides else scalar.call("lt", whole, span.extent)
    return [*spans[:at], *parts, *spans[at + 1 :]], whole, within


def _coefficients(e: Expr) -> Mapping[Expr, int]:
    """The variables that an index is affine in, with constant coefficients."""
    return {
        factors[0]: c
        for factors, c in scalar.terms(e).items()
        if len(factors) == 1 and factors[0].fn == "var"
    }
