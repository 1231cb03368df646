"""The meaning of a Kernel, in NumPy.

In flow a Kernel, its global buffers as one-dimensional arrays and its sizes; the written buffers
change in place. Grid and vector axes are array dimensions, so that all tasks run in step; serial
axes are Python loops. Each access is checked: one outside its buffer is an error that names kernel
and buffer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from deepseek.errors import VerifyError
from deepseek.ir.dtype import float32
from deepseek.ir.scalar import Expr, evaluate
from deepseek.kernel.ir import (
    GLOBAL,
    GRID,
    VECTOR,
    Axis,
    Buffer,
    Carry,
    Fold,
    Kernel,
    Let,
    Loop,
    Mma,
    Prefetch,
    Stmt,
    Store,
)

# Elements that one array of the evaluation may have; longer parallel axes run in pieces.
PIECE = 1 << 22


def interpret(kernel: Kernel, buffers: Sequence[np.ndarray], sizes: Sequence[int]) -> None:
    """Run the kernel; `buffers` are the globals in order."""
    given = dict(zip((b.name for b in kernel.globals()), buffers, strict=True))
    for buffer in kernel.globals():
        array = given[buffer.name]
        if array.ndim != 1 or array.dtype != buffer.dtype.numpy:
            raise VerifyError(
                f"kernel {kernel.name!r}: buffer {buffer.name!r} is {array.dtype} with "
                f"{array.ndim} dimensions; wanted {buffer.dtype} with 1"
            )
    env: dict[Expr, Any] = {s: np.int64(v) for s, v in zip(kernel.sizes, sizes, strict=True)}
    grid = kernel.grid()
    body = kernel.body
    for _ in grid:
        assert isinstance(body[0], Loop)
        body = body[0].body
    extents = [int(evaluate(axis.extent, env)) for axis in grid]
    scratch = [b for b in kernel.buffers if b.space != GLOBAL]
    room = {b.name: int(evaluate(_size(b), env)) for b in scratch}
    tasks = math.prod(extents)
    piece = max(1, min(1 << 16, PIECE // max(1, sum(room.values()))))
    for start in range(0, tasks, piece):
        numbers = np.arange(start, min(start + piece, tasks), dtype=np.int64)
        machine = _Machine(kernel, dict(given), dict(env), len(numbers))
        for b in scratch:
            machine.buffers[b.name] = np.zeros(len(numbers) * room[b.name], b.dtype.numpy)
            machine.room[b.name] = room[b.name]
        for axis, extent in zip(reversed(grid), reversed(extents), strict=True):
            machine.env[axis.var] = numbers % extent
            numbers = numbers // extent
        machine.run(body)


def _size(buffer: Buffer) -> Expr:
    assert buffer.size is not None
    return buffer.size


class _Machine:
    """Some tasks of a kernel, in step.

    Arrays broadcast against `shape`; each vector axis adds a dimension in front, the last dimension
    is the task. `mask` tells where the statement at hand is executed.
    """

    def __init__(self, kernel: Kernel, buffers: dict[str, np.ndarray], env: dict[Expr, Any],
                 tasks: int) -> None:  # fmt: skip
        self.kernel = kernel
        self.buffers = buffers
        self.env = env
        self.room: dict[str, int] = {}
        self.shape: tuple[int, ...] = (tasks,)
        self.mask: Any = np.True_

    def value(self, e: Expr) -> Any:
        return evaluate(e, self.env, self._read)

    # --------------------------------------------------------------------------------- statements

    def run(self, body: Sequence[Stmt]) -> None:
        for stmt in body:
            match stmt:
                case Let(var, value):
                    self.env[var] = self.value(value)
                case Store():
                    self._store(stmt)
                case Loop(axis, inner):
                    self._loop(axis, inner)
                case Fold():
                    self._fold(stmt)
                case Mma():
                    self._mma(stmt)
                case Prefetch():
                    self.value(stmt.index)  # what the index itself reads must be there

    def _loop(self, axis: Axis, body: Sequence[Stmt]) -> None:
        extent = self.value(axis.extent)
        if axis.kind in (VECTOR, GRID):
            width = max(1, PIECE // math.prod(self.shape))
            for start in range(0, self._most(extent), width):
                lanes = min(width, self._most(extent) - start)
                self._parallel(axis, start, lanes, extent, lambda: self.run(body))
            return
        outer = self.mask
        for i in range(self._most(extent)):
            self.env[axis.var] = np.int64(i)
            self.mask = outer & (i < extent)
            self.run(body)
        self.mask = outer

    def _most(self, extent: Any) -> int:
        """The largest extent that a running task has."""
        shape = np.broadcast_shapes(np.shape(extent), np.shape(self.mask))
        where = np.broadcast_to(self.mask, shape)
        return int(np.max(np.broadcast_to(extent, shape), where=where, initial=0))

    def _parallel(self, axis: Axis, start: int, lanes: int, extent: Any, body: Any) -> Any:
        """Run `body` with `lanes` values of the axis as a new dimension."""
        outer = self.shape, self.mask
        numbers = start + np.arange(lanes, dtype=np.int64).reshape(lanes, *[1] * len(self.shape))
        self.env[axis.var] = numbers
        self.shape = (lanes, *self.shape)
        self.mask = self.mask & (numbers < extent)
        result = body()
        self.shape, self.mask = outer
        return result

    # --------------------------------------------------------------------------------------- folds

    def _fold(self, fold: Fold) -> None:
        carried = [self.value(c.init) for c in fold.carries]
        lanes = fold.lanes if fold.axes[-1].kind == VECTOR else 0
        if lanes:
            ones = [1] * len(self.shape)
            carried = [np.broadcast_to(v, (lanes, *self.shape)).reshape(lanes, *self.shape)
                       if np.ndim(v) else np.full((lanes, *ones), v) for v in carried]  # fmt: skip
        carried = self._axes(fold, fold.axes, carried)
        while lanes > 1:
            lanes //= 2
            self._bind(fold.carries, [v[:lanes] for v in carried])
            for carry, v in zip(fold.carries, carried, strict=True):
                self.env[carry.other] = v[lanes:]
            outer = self.shape
            self.shape = (lanes, *outer)
            carried = [self.value(c.merge) for c in fold.carries]
            self.shape = outer
        if fold.axes[-1].kind == VECTOR:
            carried = [v[0] for v in carried]
        self._bind(fold.carries, carried)

    def _axes(self, fold: Fold, axes: Sequence[Axis], carried: list[Any]) -> list[Any]:
        axis = axes[0]
        extent = self.value(axis.extent)
        if axis.kind == VECTOR:
            for start in range(0, self._most(extent), fold.lanes):
                carried = self._parallel(
                    axis, start, fold.lanes, extent, lambda c=carried: self._element(fold, c)
                )
            return carried
        outer = self.mask
        for i in range(self._most(extent)):
            self.env[axis.var] = np.int64(i)
            self.mask = outer & (i < extent)
            if len(axes) > 1:
                carried = self._axes(fold, axes[1:], carried)
            else:
                carried = self._element(fold, carried)
        self.mask = outer
        return carried

    def _element(self, fold: Fold, carried: list[Any]) -> list[Any]:
        self._bind(fold.carries, carried)
        self.run(fold.body)
        steps = [self.value(c.step) for c in fold.carries]
        new = [np.where(self.mask, s, c) for s, c in zip(steps, carried, strict=True)]
        if fold.prefix:
            self._bind(fold.carries, new)
            self.run(fold.prefix)
        return new

    def _bind(self, carries: Sequence[Carry], values: list[Any]) -> None:
        for carry, value in zip(carries, values, strict=True):
            self.env[carry.var] = value

    def _mma(self, mma: Mma) -> None:
        """Each step is rounded once: products of float32 are exact in float64."""
        acc = self.kernel.buffer(mma.acc).dtype
        wide = np.dtype(np.float64) if acc is float32 else acc.numpy
        ones = [1] * len(self.shape)
        i = np.arange(mma.m, dtype=np.int64).reshape(mma.m, 1, *ones)
        j = np.arange(mma.n, dtype=np.int64).reshape(mma.n, *ones)
        a_at, b_at, depth = (self.value(e) for e in (mma.a_at, mma.b_at, mma.depth))
        outer = self.shape, self.mask
        self.shape = (mma.m, mma.n, *self.shape)
        total = self._read(mma.acc, i * mma.width + j)
        for k in range(self._most(depth)):
            self.mask = outer[1] & (k < depth)
            a_index = a_at + k * mma.step + i * mma.row
            a = self._read(mma.a, a_index).astype(acc.numpy).astype(wide)
            b = self._read(mma.b, b_at + k * mma.pitch + j).astype(acc.numpy).astype(wide)
            total = np.where(self.mask, (a * b + total.astype(wide)).astype(acc.numpy), total)
        self.mask = outer[1]
        self._write(mma.acc, i * mma.width + j, total, np.True_, None)
        self.shape, self.mask = outer

    # -------------------------------------------------------------------------------------- memory

    def _place(self, name: str, index: Any, active: Any) -> Any:
        """Positions in the buffer's array, 0 where nothing is accessed; checked."""
        array = self.buffers[name]
        size = self.room.get(name, len(array))
        outside = active & ((index < 0) | (index >= size))
        if np.any(outside):
            bad = np.broadcast_to(index, np.shape(outside))[outside].ravel()[0]
            raise VerifyError(
                f"kernel {self.kernel.name!r} accesses element {bad} of buffer {name!r}, which has "
                f"{size}"
            )
        inside = np.where(active, index, 0)
        if name in self.room:
            inside = inside + size * np.arange(self.shape[-1], dtype=np.int64)
        return inside

    def _read(self, name: str, index: Any, guard: Any = None, otherwise: Any = None) -> Any:
        active = self.mask if guard is None else self.mask & guard
        place = self._place(name, index, active)
        array = self.buffers[name]
        found = array[place] if len(array) else np.zeros(np.shape(place), array.dtype)
        return found if guard is None else np.where(guard, found, otherwise)

    def _store(self, store: Store) -> None:
        index, value, guard = (self.value(e) for e in (store.index, store.value, store.guard))
        self._write(store.buffer, index, value, guard, store.atomic)

    def _write(self, name: str, index: Any, value: Any, guard: Any, atomic: str | None) -> None:
        active = np.broadcast_to(self.mask & guard, self.shape)
        place = np.broadcast_to(self._place(name, index, active), self.shape)[active]
        values = np.broadcast_to(value, self.shape)[active]
        array = self.buffers[name]
        if atomic is None:
            array[place] = values
            return
        for at, one in zip(place, values, strict=True):
            array[at] = array[at] + one
