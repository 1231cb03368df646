"""Order: which group of nodes comes when, for the sake of memory.

In flow groups in an order that their dependencies allow, with the values that each writes and is
the reader of; out flows an order in which work that lets go of much memory does not wait. All other
groups keep their order, so that launches of one kernel still find each other.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, TypeVar

from deepseek.ir.graph import Value
from deepseek.ir.shape import current_sizes


class Numbered(Protocol):
    """A group: its number, and the numbers of those it depends on as bits."""

    number: int
    before: int


G = TypeVar("G", bound=Numbered)

MUCH = 1 << 20  # bytes that are worth a launch of their own


def nbytes(value: Value) -> int:
    """The bytes of a value, for the sizes of the call that is compiled for; 0 if not known."""
    size = value.type.nbytes
    sizes = current_sizes()
    if isinstance(size, int):
        return size
    return sizes.value(size) if sizes is not None else 0


def without_waiting(
    order: Sequence[G],
    reads: Mapping[G, Collection[Value]],
    writes: Mapping[G, Collection[Value]],
) -> list[G]:
    """The groups, each as soon as what it depends on is there, where it then frees MUCH memory.

    `reads` and `writes` name what takes memory only while it is needed.
    """
    readers: dict[Value, set[G]] = {}
    for group in order:
        for value in reads[group]:
            readers.setdefault(value, set()).add(group)
    gains = {g: -sum(map(nbytes, writes[g])) for g in order}
    for value, those in readers.items():
        if len(those) == 1:
            gains[next(iter(those))] += nbytes(value)
    done: dict[G, None] = {}
    missing = sum(1 << g.number for g in order)
    freeing: dict[G, int] = {}  # what frees much memory, and its rank: the first goes first
    waiting: dict[int, list[G]] = {}  # such groups, by one that each depends on and that is missing
    ready: list[tuple[int, int, G]] = []

    def watch(group: G) -> None:
        """Let a group that frees much be ready, or wait for one of those that it depends on."""
        blocked = group.before & missing
        if blocked:
            waiting.setdefault(blocked.bit_length() - 1, []).append(group)
        else:
            heapq.heappush(ready, (freeing[group], group.number, group))

    def free(group: G) -> None:
        freeing[group] = len(freeing)
        watch(group)

    def take(group: G) -> None:
        nonlocal missing
        done[group] = None
        missing &= ~(1 << group.number)
        for value in reads[group]:
            readers[value].discard(group)
            if len(readers[value]) == 1:
                (last,) = readers[value]
                before = gains[last]
                gains[last] += nbytes(value)
                if before < MUCH <= gains[last]:
                    free(last)
        for other in waiting.pop(group.number, ()):
            watch(other)

    for group in order:
        if gains[group] >= MUCH:
            free(group)
    for group in order:
        if group in done:
            continue
        take(group)
        while ready:
            _, _, first = heapq.heappop(ready)
            if first not in done:
                take(first)
    return list(done)
