"""What was made before and may be asked for again: a mapping of bounded size.

Compiling remembers much by structure, so that what occurs in each layer of a model is worked out
once. Every such memory is one of these, or a `functools.lru_cache`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A mapping of at most `limit` entries: the one that was used longest ago goes first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.entries: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[K]:
        return iter(self.entries)

    def get(self, key: K) -> V | None:
        """The value, which counts as a use, or None."""
        try:
            value = self.entries[key]
            self.entries.move_to_end(key)
        except KeyError:  # also where another thread drops it between these two
            return None
        return value

    def put(self, key: K, value: V) -> None:
        self.entries[key] = value
        with suppress(KeyError):
            self.entries.move_to_end(key)
            while len(self.entries) > self.limit:
                self.entries.popitem(last=False)

    def clear(self) -> None:
        self.entries.clear()
