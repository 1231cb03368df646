"""Folds as C++: serial ones, and those whose lanes are threads.

In flow Folds; out flow lines. A thread is a virtual lane and takes its elements in order; then lane
i is merged with lane i + lanes/2, halving, through shared memory and then within a warp. That is
the order of the kernels' interpreter, so that results do not depend on timing or device.
"""

from __future__ import annotations

from collections.abc import Sequence

from deepseek.backends.cuda.basics import THREAD, Basics
from deepseek.backends.cuda.c_types import c_type
from deepseek.backends.cuda.hazards import Access
from deepseek.backends.cuda.mapping import WARP
from deepseek.ir.scalar import Expr
from deepseek.kernel.ir import VECTOR, Axis, Carry, Fold, Let


class Folds(Basics):
    """`exchanged` holds the arrays through which warps exchange carries: type and length."""

    exchanged: dict[str, tuple[str, int]]

    def serial_fold(self, fold: Fold, together: bool = False) -> None:
        """A fold that a thread runs whole; `together`: each of a team, one of which stores."""
        self._begin(fold.carries)
        self._elements(fold, list(fold.axes), together)

    def team_fold(self, fold: Fold) -> None:
        """A fold whose lanes are the first threads of a team; all of them get the result."""
        self._begin(fold.carries)
        if fold.lanes < self.team:
            with self.braces(f"if ({THREAD} < {fold.lanes})"):
                self._elements(fold, list(fold.axes), False)
        else:
            self._elements(fold, list(fold.axes), False)
        self._merge_warps(fold)
        self._merge_lanes(fold)
        self._hand_round(fold.carries)

    def _begin(self, carries: Sequence[Carry]) -> None:
        values = self.values(c.init for c in carries)
        for carry, value in zip(carries, values, strict=True):
            name = self.bind(carry.var, carry.var.name)
            self.line(f"{c_type(carry.var.dtype)} {name} = {value};")

    def _elements(self, fold: Fold, axes: list[Axis], together: bool) -> None:
        axis, *inner = axes
        lanes = axis.kind == VECTOR
        start, step = (THREAD, fold.lanes) if lanes else ("0", 1)
        with self.loop(axis.var, axis.extent, start, step):
            if inner:
                self._elements(fold, inner, together)
            else:
                self._element(fold, together)

    def _element(self, fold: Fold, together: bool) -> None:
        with self.forgetting():
            for let in fold.body:
                if isinstance(let, Let):
                    self.let(let)
            self._assign(fold.carries, [c.step for c in fold.carries])
        if not fold.prefix:
            return
        if not together:
            for store in fold.prefix:
                self.store(store)
            return
        with self.braces(f"if ({THREAD} == 0)"):
            for store in fold.prefix:
                self.store(store)
        read, written = self.hazards.access((), _values(fold)), self.hazards.access(fold.prefix)
        if written.conflicts(read):
            self.barrier()

    def _assign(self, carries: Sequence[Carry], new: Sequence[Expr]) -> None:
        """New carries, all of which are made from the old ones."""
        values = self.values(new)
        names = [self.known(c.var) or "" for c in carries]
        changed = [i for i in range(len(names)) if names[i] != values[i]]
        for number, i in enumerate(changed):
            if any(carries[before].var in new[i].free for before in changed[:number]):
                made, values[i] = values[i], self.fresh(f"{names[i]}_new")
                self.line(f"const {c_type(carries[i].var.dtype)} {values[i]} = {made};")
        for i in changed:
            self.line(f"{names[i]} = {values[i]};")

    # -------------------------------------------------------------------------------------- merges

    def _merge_warps(self, fold: Fold) -> None:
        """Merge down to the lanes of one warp: the upper half hands its carries to the lower."""
        if fold.lanes <= WARP:
            return
        arrays = self._arrays(fold.carries, fold.lanes // 2)
        half = self.unused("half")
        with self.braces(f"for (int {half} = {fold.lanes // 2}; {half} >= {WARP}; {half} /= 2)"):
            self._wait_for_exchange()
            with self.braces(f"if ({THREAD} >= {half} && {THREAD} < 2 * {half})"):
                for carry, array in zip(fold.carries, arrays, strict=True):
                    self.line(f"{array}[{THREAD} - {half}] = {self.known(carry.var)};")
            self.line("__syncthreads();")
            with self.braces(f"if ({THREAD} < {half})"):
                self._merge(fold.carries, [f"{array}[{THREAD}]" for array in arrays])

    def _merge_lanes(self, fold: Fold) -> None:
        """Merge the lanes of a warp into its first; other threads go along for nothing."""
        if fold.lanes == 1:
            return
        distance = self.unused("distance")
        first = min(fold.lanes, WARP) // 2
        with self.braces(f"for (int {distance} = {first}; {distance} > 0; {distance} /= 2)"):
            later = [f"lane_after({self.known(c.var)}, {distance})" for c in fold.carries]
            self._merge(fold.carries, later)

    def _merge(self, carries: Sequence[Carry], later: Sequence[str]) -> None:
        for carry, text in zip(carries, later, strict=True):
            name = self.bind(carry.other, carry.other.name)
            self.line(f"const {c_type(carry.other.dtype)} {name} = {text};")
        self._assign(carries, [c.merge for c in carries])

    def _hand_round(self, carries: Sequence[Carry]) -> None:
        """The first thread's carries become everybody's."""
        names = [self.known(c.var) for c in carries]
        if self.team == WARP:
            for name in names:
                self.line(f"{name} = lane_first({name});")
            return
        arrays = self._arrays(carries, 1)
        self._wait_for_exchange()
        with self.braces(f"if ({THREAD} == 0)"):
            for name, array in zip(names, arrays, strict=True):
                self.line(f"{array}[0] = {name};")
        self.line("__syncthreads();")
        for name, array in zip(names, arrays, strict=True):
            self.line(f"{name} = {array}[0];")

    def _wait_for_exchange(self) -> None:
        """The arrays may be written again when all have read them."""
        self.line("__syncthreads();")
        self.hazards.pending = Access()

    def _arrays(self, carries: Sequence[Carry], length: int) -> list[str]:
        """An array for each carry, kept for the types and lengths that folds need."""
        arrays = []
        for number, carry in enumerate(carries):
            kind = c_type(carry.var.dtype)
            name = f"swap{number}_{carry.var.dtype.name}"
            self.exchanged[name] = kind, max(length, self.exchanged.get(name, (kind, 0))[1])
            arrays.append(name)
        return arrays


def _values(fold: Fold) -> list[Expr]:
    """What a fold computes for each element."""
    return [*(c.step for c in fold.carries), *(s.value for s in fold.body if isinstance(s, Let))]
