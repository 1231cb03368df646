"""Dispatch: hold a call against an entry, bind it, run it, show the results (in Python)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from deepseek._runtime import Buffer
from deepseek.compiler.entry import TENSOR, Entry, bound, context, misfit
from deepseek.compiler.tree import unflatten
from deepseek.frontend.tensor import Tensor, leaf


def fits(entry: Entry, structure: Any, leaves: Sequence[Any]) -> bool:
    if entry.structure != structure or entry.context != context():
        return False
    first: dict[int, int] = {}
    for i, (leaf_, x) in enumerate(zip(entry.leaves, leaves, strict=True)):
        at = first.setdefault(id(x), i)
        if leaf_.same != i and at != leaf_.same:
            return False
        if leaf_.kind == TENSOR:
            value = x._value
            if value.type.dtype is not leaf_.dtype or value.requires_grad != leaf_.requires_grad:
                return False
            if leaf_.same == i and value.type.rank != len(leaf_.dims):
                return False
    return not misfit(entry, leaves)


def run(entry: Entry, leaves: Sequence[Any]) -> Any:
    sizes = entry.sizes(leaves)
    objects = entry.table.follow(leaves)
    assert objects is not None
    values: list[Any] = []
    buffers: list[Buffer] = []
    value = buffer = v = None
    for b in entry.bindings:
        value, buffer = bound(b, objects)
        values.append(value)
        buffers.append(buffer)
    del value, buffer
    donate = None
    if entry.donated:
        donate = [False] * len(buffers)
        for i, is_grad in entry.donated:
            v = values[i]
            unshared = sys.getrefcount(v.data) <= 3 and sys.getrefcount(v) <= 4
            donate[i] = not is_grad and unshared
        del v
    needs_link = any(requires for _, requires in entry.returned)
    if not needs_link:
        del values
    results = entry.executable.run(buffers, sizes, donate)
    types, dims = entry.admit(sizes)
    made = [leaf(data, t.dtype, t.shape) for data, t in zip(results, types, strict=True)]
    for row, count in entry.draws:
        objects[row].draws += count
    for row, number, requires_grad in entry.rebound:
        value = made[number]
        value.requires_grad = requires_grad
        objects[row]._rebind(value)
    for row, number, other in entry.grads:
        objects[row]._grad = Tensor(made[number]) if number >= 0 else other
    outputs = [Tensor(made[i]) for i, _ in entry.returned]
    if needs_link:
        inputs = [
            v if v is not None else leaf(data, b.type.dtype, ())
            for v, data, b in zip(values, buffers, entry.bindings, strict=True)
        ]
        entry.link(inputs, outputs)
    sizes_left = iter(dims)
    outputs_left = iter(outputs)
    return rebuild(entry.result, outputs_left, sizes_left)


def rebuild(structure: Any, tensors: Any, sizes: Any) -> Any:
    """A result around its tensors and sizes."""
    order: list[Any] = []

    def walk(part: Any) -> None:
        if isinstance(part, str):
            order.append(next(tensors))
        elif isinstance(part, tuple) and part[0] == "size":
            order.append(next(sizes))
        elif isinstance(part, tuple):
            for p in part[-1]:
                walk(p)

    walk(structure)
    return unflatten(structure, iter(order))
