"""What loops ask memory for before they get there.

In flow the statements of a task, or the scalars of a loop nest; out flow Prefetch statements for
its inner loops. A processor follows by itself what it reads in order. It does not see which rows
come next where these lie apart, and while a row is computed on, nothing is read. Operands that fit
into the caches of one processor are left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from deepseek.ir import scalar
from deepseek.ir.scalar import Expr
from deepseek.ir.shape import exprs
from deepseek.kernel.evaluate import Evaluator
from deepseek.kernel.ir import Fold, Loop, Prefetch, Stmt, expressions, statements
from deepseek.kernel.loops import Span

OWN_CACHES = 1 << 20  # bytes that the caches of one processor hold, about
AHEAD = 1 << 13  # bytes of rows that are under way at once
MOST_AHEAD = 32  # rows of them
FEW_LINES = 1 << 10  # bytes in order that are over before a processor has seen the order


def large_operands(ev: Evaluator) -> frozenset[str]:
    """The buffers of inputs that no processor's own caches hold, or may not."""
    found = []
    for value, buffer in ev.buffers.items():
        size = scalar.bounds(scalar.product(exprs(value.type.shape)))[1]
        if size is None or size * buffer.dtype.itemsize >= OWN_CACHES:
            found.append(buffer.name)
    return frozenset(found)


def asking_for_next(
    body: Sequence[Stmt], row: Span, inside: Span, large: frozenset[str]
) -> list[Stmt]:
    """The statements of a task that goes over its row several times; `inside` is the row's axis.

    The first loop that finds the row in the caches asks for the next one.
    """
    wanted: dict[Prefetch, None] = {}
    for e in loads_of(body):
        index = e.args[0]
        if e.name in large and not scalar.free_of(index, row.var) and _is_row(index, inside):
            wanted[Prefetch(e.name, _later(index, row, 1))] = None
    out = list(body)
    for number, stmt in enumerate(out[1:], start=1):
        if isinstance(stmt, Fold):
            out[number] = replace(stmt, body=(*wanted, *stmt.body))
            break
        if isinstance(stmt, Loop):
            out[number] = _in_front(tuple(wanted), stmt)
            break
    return out


def _in_front(hints: tuple[Prefetch, ...], loop: Loop) -> Loop:
    """The loop nest with these statements in its innermost body."""
    (first, *rest) = loop.body
    if isinstance(first, Loop) and not rest:
        return replace(loop, body=(_in_front(hints, first),))
    return replace(loop, body=(*hints, *loop.body))


def rows_to_come(
    spans: Sequence[Span], values: Iterable[Expr], large: frozenset[str]
) -> tuple[Prefetch, ...]:
    """Short rows that lie apart, or anywhere, asked for some turns of their loop early."""
    if len(spans) < 2 or spans[-1].extent.fn != "const":
        return ()
    outer, last = spans[-2:]
    wanted: dict[Prefetch, None] = {}
    for e in scalar.walk(list(values)):
        if e.fn != "load" or e.name not in large or not _is_row(e.args[0], last):
            continue
        nbytes = last.extent.value * e.dtype.itemsize
        if nbytes <= AHEAD and _jumps(e.args[0], outer, nbytes, e.dtype.itemsize):
            turns = max(1, min(AHEAD // nbytes, MOST_AHEAD))
            wanted[Prefetch(e.name, _later(e.args[0], outer, turns))] = None
    return tuple(wanted)


def _later(index: Expr, span: Span, turns: int) -> Expr:
    """The index some turns of a loop later; what the index itself reads has to be there."""
    then = scalar.add(span.var, scalar.const(turns))
    if any(e.fn == "load" for e in scalar.walk([index])):
        then = scalar.minimum(then, scalar.sub(span.extent, scalar.ONE))
    return scalar.substitute(index, {span.var: then})


def _is_row(index: Expr, inside: Span) -> bool:
    return scalar.coefficient(index, inside.var) is scalar.ONE


def _jumps(index: Expr, outer: Span, nbytes: int, itemsize: int) -> bool:
    """Whether a turn of the outer loop leaves what a processor would fetch by itself."""
    if scalar.free_of(index, outer.var):
        return False
    step = scalar.coefficient(index, outer.var)
    if step is None:
        return True
    return nbytes <= FEW_LINES and (step.fn != "const" or abs(step.value) * itemsize > FEW_LINES)


def loads_of(body: Sequence[Stmt]) -> list[Expr]:
    roots = [e for stmt in statements(tuple(body)) for e in expressions(stmt)]
    return [e for e in scalar.walk(roots) if e.fn == "load"]
