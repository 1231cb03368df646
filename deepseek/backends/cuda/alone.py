"""What one thread runs alone, and the products of matrix panels.

In flow statements; out flow lines.
"""

from __future__ import annotations

from collections.abc import Iterable

from deepseek.backends.cuda.basics import THREAD
from deepseek.backends.cuda.c_types import c_type, is_half
from deepseek.backends.cuda.folds import Folds
from deepseek.ir.dtype import DType
from deepseek.kernel.ir import Buffer, Fold, Let, Loop, Mma, Stmt, Store


class Alone(Folds):
    """Statements over the kernel's `buffers`."""

    buffers: dict[str, Buffer]

    def run(self, body: Iterable[Stmt]) -> None:
        """Statements of one thread. Hints what to fetch are for processors with few threads."""
        for stmt in body:
            match stmt:
                case Let():
                    self.let(stmt)
                case Store():
                    self.store(stmt)
                case Loop(axis, inner):
                    with self.serial_loop(axis):
                        self.run(inner)
                case Fold():
                    self.serial_fold(stmt)
                case Mma():
                    self.mma(stmt)

    def mma(self, mma: Mma) -> None:
        """Each thread makes some of the sums, k in increasing order."""
        acc = self.buffers[mma.acc].dtype
        a_at, b_at, depth = self.values((mma.a_at, mma.b_at, mma.depth))
        first, step = (THREAD, self.team) if self.team > 1 else ("0", 1)
        e, k, total = self.fresh("e"), self.fresh("k"), self.fresh("total")
        i, j = self.fresh("i"), self.fresh("j")
        a = self._widened(f"{mma.a}[({a_at}) + {i} * {mma.row} + {k} * {mma.step}]", mma.a, acc)
        b = self._widened(f"{mma.b}[({b_at}) + {k} * {mma.pitch} + {j}]", mma.b, acc)
        kind = c_type(acc)
        if acc.is_float:
            next_total = f"{'fmaf' if acc.bits == 32 else 'fma'}({a}, {b}, {total})"
        else:
            next_total = f"wrapping_add<{kind}>(wrapping_mul<{kind}>({a}, {b}), {total})"
        with self.braces(f"for (int {e} = {first}; {e} < {mma.m * mma.n}; {e} += {step})"):
            self.line(f"const int {i} = {e} / {mma.n};")
            self.line(f"const int {j} = {e} % {mma.n};")
            self.line(f"{kind} {total} = {mma.acc}[{i} * {mma.width} + {j}];")
            with self.braces(f"for (int64 {k} = 0; {k} < {depth}; ++{k})"):
                self.line(f"{total} = {next_total};")
            self.line(f"{mma.acc}[{i} * {mma.width} + {j}] = {total};")

    def _widened(self, element: str, buffer: str, dtype: DType) -> str:
        source = self.buffers[buffer].dtype
        if source is dtype:
            return element
        return f"to_float({element})" if is_half(source) else f"{c_type(dtype)}({element})"
