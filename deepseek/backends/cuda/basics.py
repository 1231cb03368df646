"""What folds and loops are written with: lets, stores, the heads of loops, barriers.

In flow single statements; out flow their lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from deepseek.backends.cuda.c_types import counter_type, fits_int, value_type
from deepseek.backends.cuda.expressions import Expressions
from deepseek.backends.cuda.hazards import Access, Hazards
from deepseek.backends.cuda.mapping import WARP
from deepseek.ir.scalar import TRUE, Expr
from deepseek.kernel.ir import UNROLL, Axis, Let, Stmt, Store

THREAD = "threadIdx.x"  # a thread's number in its team


class Basics(Expressions):
    """Statements of a team of `team` threads, one by one."""

    def __init__(self, team: int, hazards: Hazards) -> None:
        super().__init__()
        self.team = team
        self.hazards = hazards

    def let(self, let: Let) -> None:
        value = self.value(let.value)
        name = self.bind(let.var, let.var.name)
        self.line(f"const {value_type(let.var)} {name} = {value};")

    def store(self, store: Store) -> None:
        if store.guard is TRUE:
            self._store(store)
            return
        with self.braces(f"if ({self.value(store.guard)})"):
            self._store(store)

    def _store(self, store: Store) -> None:
        index, value = self.values((store.index, store.value))
        if store.atomic:
            self.line(f"atomic_add(&{store.buffer}[{index}], {value});")
        else:
            self.line(f"{store.buffer}[{index}] = {value};")

    @contextmanager
    def loop(self, var: Expr, extent: Expr, start: str = "0", step: int = 1) -> Iterator[None]:
        """The braces of `for (var = start; var < extent; var += step)`."""
        limit = self.value(extent)
        name = self.unused(var.name)
        kind = counter_type(extent) if fits_int(var) else "int64"
        advance = f"++{name}" if step == 1 else f"{name} += {step}"
        with self.braces(f"for ({kind} {name} = {start}; {name} < {limit}; {advance})"):
            self.scopes[-1].names.add(name)
            self.know_index(var, name)
            yield

    @contextmanager
    def serial_loop(self, axis: Axis) -> Iterator[None]:
        """The braces of a loop that one thread, or each of a team, runs whole."""
        if axis.kind == UNROLL:
            self.line("#pragma unroll")
        with self.loop(axis.var, axis.extent):
            yield

    def wait_for(self, body: Iterable[Stmt]) -> None:
        """A barrier, where the statements need what other threads do before them."""
        self.wait(self.hazards.access(body))

    def wait(self, access: Access) -> None:
        if self.hazards.must_wait(access):
            self.barrier()
            self.hazards.pending = access

    def barrier(self) -> None:
        self.line("__syncwarp();" if self.team == WARP else "__syncthreads();")
        self.hazards.pending = Access()
