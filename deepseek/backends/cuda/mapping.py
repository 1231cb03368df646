"""How a kernel's tasks and lanes are laid over blocks and threads.

In flow a Kernel; out flows a Mapping. A team of threads runs a task: one thread where nothing in a
task is parallel, a warp where its folds have no more lanes than that, a block otherwise. Vector
loops run over the team's threads, and so do the lanes of a fold. Scratch lies in shared memory;
what does not fit there, or has a size that is known at run time only, in memory that the launch
brings.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

from deepseek.ir.scalar import ZERO, Expr, add, bounds, const, floordiv, mul, product
from deepseek.kernel.ir import GLOBAL, VECTOR, Buffer, Fold, Kernel, Loop, Mma, Stmt, statements

WARP = 32
BLOCK = 256  # threads of a block that works on wide loops
SMALL_TASKS = 128  # tasks of one thread, or threads of tasks of one warp, that make a block
SHARED_BYTES = 48 << 10  # of shared memory that every block may have without asking
LOCAL_BYTES = 512  # of scratch that a lone thread may keep to itself
ALIGNMENT = 16


@dataclass(frozen=True)
class Mapping:
    """`team` threads run a task, `teams` of them make a block.

    `local`, `shared` and `brought` say where each scratch buffer lies; the latter at an offset in
    the `scratch` bytes that the launch brings for each team.
    """

    team: int
    teams: int
    tasks: Expr
    local: tuple[Buffer, ...]
    shared: tuple[Buffer, ...]
    brought: tuple[tuple[Buffer, Expr], ...]
    scratch: Expr

    @property
    def threads(self) -> int:
        return self.team * self.teams

    @property
    def dynamic(self) -> Expr:
        """Bytes of shared memory whose size the launch says: all of it is declared."""
        return ZERO

    @property
    def blocks(self) -> Expr:
        """As many blocks as there is work for; fewer will do, each taking several tasks."""
        return floordiv(add(self.tasks, const(self.teams - 1)), const(self.teams))


@functools.lru_cache(maxsize=1 << 12)
def mapping_of(kernel: Kernel) -> Mapping:
    """How a kernel is laid out."""
    grid = kernel.grid()
    body = kernel.body
    for _ in grid:
        assert isinstance(body[0], Loop)
        body = body[0].body
    team = _team(body)
    local, shared, brought = _scratch(kernel, team)
    teams = _teams(team, shared) if grid else 1
    offset = ZERO
    places: list[tuple[Buffer, Expr]] = []
    for buffer in brought:
        places.append((buffer, offset))
        offset = add(offset, _rounded_bytes(buffer))
    tasks = product(axis.extent for axis in grid)
    return Mapping(team, teams, tasks, local, shared, tuple(places), offset)


def is_parallel(stmt: Stmt) -> bool:
    """Whether several threads can share a statement."""
    match stmt:
        case Loop(axis, body):
            return axis.kind == VECTOR or any(map(is_parallel, body))
        case Fold(axes, _, _, _, _):
            return axes[-1].kind == VECTOR
        case _:
            return isinstance(stmt, Mma)


def _team(body: Iterable[Stmt]) -> int:
    """The threads for a task: as many as its folds have lanes, else its widest loop has turns."""
    body = tuple(body)
    if not any(map(is_parallel, body)):
        return 1
    lanes, width = _widths(body)
    if lanes:
        return max(WARP, lanes)
    wanted = WARP
    while wanted < min(width, BLOCK):
        wanted *= 2
    return wanted


def _widths(body: Iterable[Stmt]) -> tuple[int, int]:
    """The most lanes that a fold has, and the most turns of a vector loop."""
    lanes = width = 0
    for stmt in body:
        match stmt:
            case Loop(axis, inner):
                if axis.kind == VECTOR:
                    high = bounds(axis.extent)[1]
                    width = max(width, BLOCK if high is None else high)
                more = _widths(inner)
                lanes, width = max(lanes, more[0]), max(width, more[1])
            case Fold(axes, _, _, _, _):
                if axes[-1].kind == VECTOR:
                    lanes = max(lanes, stmt.lanes)
            case Mma():
                width = max(width, stmt.m * stmt.n)
            case _:
                pass
    return lanes, width


def _scratch(
    kernel: Kernel, team: int
) -> tuple[tuple[Buffer, ...], tuple[Buffer, ...], tuple[Buffer, ...]]:
    """(local, shared, brought): the smallest buffers are kept nearest."""
    buffers = [b for b in kernel.buffers if b.space != GLOBAL]
    fixed = [b for b in buffers if b.size is not None and b.size.fn == "const"]
    kept: list[Buffer] = []
    room = LOCAL_BYTES if team == 1 else SHARED_BYTES - _exchanged_bytes(kernel, team)
    for buffer in sorted(fixed, key=_bytes):
        if _bytes(buffer) <= room:
            room -= _bytes(buffer)
            kept.append(buffer)
    near = tuple(b for b in buffers if b in kept)
    far = tuple(b for b in buffers if b not in kept)
    return (near, (), far) if team == 1 else ((), near, far)


def _exchanged_bytes(kernel: Kernel, team: int) -> int:
    """Shared memory through which warps exchange the carries of folds, at most."""
    if team <= WARP:
        return 0
    folds = [s for s in statements(kernel.body) if isinstance(s, Fold) and is_parallel(s)]
    return sum(max(1, f.lanes // 2) * c.var.dtype.itemsize for f in folds for c in f.carries)


def _bytes(buffer: Buffer) -> int:
    assert buffer.size is not None
    exact = int(buffer.size.value) * buffer.dtype.itemsize
    return max(1, -(-exact // ALIGNMENT)) * ALIGNMENT


def _rounded_bytes(buffer: Buffer) -> Expr:
    assert buffer.size is not None
    exact = mul(buffer.size, const(buffer.dtype.itemsize))
    return mul(floordiv(add(exact, const(ALIGNMENT - 1)), const(ALIGNMENT)), const(ALIGNMENT))


def _teams(team: int, shared: Iterable[Buffer]) -> int:
    """How many teams make a block, where that has room for the scratch of all."""
    if team == 1:
        return SMALL_TASKS
    teams = SMALL_TASKS // WARP if team == WARP else 1
    needed = sum(map(_bytes, shared))
    while teams > 1 and teams * needed > SHARED_BYTES:
        teams //= 2
    return teams
