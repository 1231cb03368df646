"""Statements as C++: what a team of threads shares, and what one thread runs alone.

In flow the statements of a task; out flow lines. In a team's statements every thread arrives at the
same place: vector loops are shared out among the threads, a single store is one thread's, and
barriers keep what one writes before what another reads.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from deepseek.backends.cuda.basics import THREAD
from deepseek.backends.cuda.c_types import value_type
from deepseek.backends.cuda.mapping import is_parallel
from deepseek.backends.cuda.packs import Packs
from deepseek.ir.scalar import Expr, bounds, floordiv, free_of, mod, mul, var, walk
from deepseek.kernel.ir import (
    GLOBAL,
    VECTOR,
    Axis,
    Barrier,
    Fold,
    Loop,
    Stmt,
    Store,
    expressions,
    statements,
)


class Statements(Packs):
    """Statements over the kernel's `buffers`."""

    def run_team(self, body: Sequence[Stmt]) -> None:
        """Statements that all threads of a team come to together."""
        for for_one, group in itertools.groupby(body, _is_for_one):
            some = tuple(group)
            if for_one:
                self.wait_for(some)
                with self.braces(f"if ({THREAD} == 0)"):
                    self.run(some)
                continue
            for stmt in some:
                self._team_statement(stmt)

    def _team_statement(self, stmt: Stmt) -> None:
        if isinstance(stmt, Barrier):
            self.barrier()
            return
        if isinstance(stmt, Loop) and stmt.axis.kind != VECTOR:
            if self._is_one_loop(stmt):
                self._joined_loops(stmt)
            else:
                self._team_loop(stmt.axis, stmt.body)
            return
        self.wait_for((stmt,))
        match stmt:
            case Loop():
                self.vector_loop(stmt)
            case Fold() if is_parallel(stmt):
                self.team_fold(stmt)
            case Fold():
                self.serial_fold(stmt, together=True)
            case _:
                self.run((stmt,))

    def _team_loop(self, axis: Axis, body: tuple[Stmt, ...]) -> None:
        """A loop whose turns follow each other: what one leaves, the next must find."""
        self.wait(self.hazards.access((), (axis.extent,)))
        before = self.hazards.pending
        whole = self.hazards.access(body)
        with self.serial_loop(axis):
            self.run_team(body)
            if whole.conflicts(whole):
                self.barrier()
        self.hazards.pending = self.hazards.pending | before  # there may have been no turn

    def _is_one_loop(self, loop: Loop) -> bool:
        """Whether a serial loop around a short vector loop can be shared out with it: no turn needs
        another, and no scratch is reached that threads keep apart by their place in the latter."""
        (inner, *others) = loop.body
        if others or not isinstance(inner, Loop) or inner.axis.kind != VECTOR:
            return False
        high = bounds(inner.axis.extent)[1]
        short = high is not None and high < self.team
        whole = self.hazards.access(loop.body)
        kept_apart = {
            b.name for b in self.buffers.values() if b.space != GLOBAL
        } - self.hazards.memory.keys()
        names = {e.name for s in statements((loop,)) for e in _loads(s)}
        names |= {s.buffer for s in statements((loop,)) if isinstance(s, Store)}
        fixed = free_of(inner.axis.extent, loop.axis.var)
        return short and fixed and not whole.conflicts(whole) and kept_apart.isdisjoint(names)

    def _joined_loops(self, loop: Loop) -> None:
        """Two loops as one over the threads of a team."""
        (inner,) = loop.body
        assert isinstance(inner, Loop)
        self.wait_for((loop,))
        size = mul(loop.axis.extent, inner.axis.extent)
        self.values((size, inner.axis.extent))  # what both need gets a name
        place = var(f"{loop.axis.var.name}_{inner.axis.var.name}", low=0, extent=size)
        with self.loop(place, size, THREAD, self.team):
            for axis, value in (
                (loop.axis, floordiv(place, inner.axis.extent)),
                (inner.axis, mod(place, inner.axis.extent)),
            ):
                text = self.value(value)
                name = self.bind_index(axis.var, axis.var.name)
                self.line(f"const {value_type(axis.var)} {name} = {text};")
            self.run(inner.body)


def _loads(stmt: Stmt) -> list[Expr]:
    return [e for e in walk(expressions(stmt)) if e.fn == "load"]


def _is_for_one(stmt: Stmt) -> bool:
    """Whether one thread runs a statement while the others go on."""
    return isinstance(stmt, Store | Loop) and not is_parallel(stmt)
