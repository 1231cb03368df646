"""Order: which group of nodes comes when, for the sake of memory.

In flow groups in an order that their dependencies allow, with the values that each writes and is
the reader of; out flows an order in which work that lets go of much memory does not wait. All other
groups keep their order, so that launches of one kernel still find each other.
"""

from __future__ import annotations

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
    for value, waiting in readers.items():
        if len(waiting) == 1:
            gains[next(iter(waiting))] += nbytes(value)
    freeing = [g for g in order if gains[g] >= MUCH]
    done: dict[G, None] = {}
    missing = sum(1 << g.number for g in order)

    def take(group: G) -> None:
        nonlocal missing
        done[group] = None
        missing &= ~(1 << group.number)
        for value in reads[group]:
            waiting = readers[value]
            waiting.discard(group)
            if len(waiting) == 1:
                (last,) = waiting
                before = gains[last]
                gains[last] += nbytes(value)
                if before < MUCH <= gains[last]:
                    freeing.append(last)

    for group in order:
        if group in done:
            continue
        take(group)
        while True:
            freeing = [g for g in freeing if g not in done]
            ready = next((g for g in freeing if not g.before & missing), None)
            if ready is None:
                break
            take(ready)
    return list(done)
