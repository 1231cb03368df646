"""Many cache entries in one file, which is read in place.

    magic, number of entries, a row for each in order (kind, key, offset, size), then their bytes

In flow the entries of a cache folder; out flow a file, and from it single entries. Entries are the
bytes of the folder's files, checksums included, so a file may come from anywhere the user trusts.
"""

from __future__ import annotations

import mmap
import os
import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from pathlib import Path

from deepseek.errors import FormatError

MAGIC = b"deepseek cache pack 1\n"
COUNT = struct.Struct("<Q")
ROW = struct.Struct("<B32sQQ")
NAME = 33  # bytes of a row that name its entry
KINDS = ("programs", "kernels", "modules")

Entry = tuple[str, str, bytes]  # kind, key, bytes


def write_pack(path: Path, entries: Iterable[Entry]) -> int:
    """Write the entries as one file, whole or not at all; returns how many there are."""
    found = sorted((name_of(kind, key), data) for kind, key, data in entries)
    at = len(MAGIC) + COUNT.size + ROW.size * len(found)
    rows = []
    for name, data in found:
        rows.append(name + ROW.pack(0, b"", at, len(data))[NAME:])
        at += len(data)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(
        b"".join([MAGIC, COUNT.pack(len(found)), *rows, *(data for _, data in found)])
    )
    os.replace(temporary, path)
    return len(found)


def name_of(kind: str, key: str) -> bytes:
    """How a row names an entry."""
    return bytes([KINDS.index(kind)]) + bytes.fromhex(key)


class Pack:
    """The entries of a file. Raises FormatError for a file that is no pack, or is cut."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size < len(MAGIC) + COUNT.size:
                raise FormatError(f"{path} is not a pack of cache entries: it is too short")
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if self.data[: len(MAGIC)] != MAGIC:
            raise FormatError(f"{path} is not a pack of cache entries of this version")
        (self.count,) = COUNT.unpack_from(self.data, len(MAGIC))
        end = self._row(self.count)
        if self.count and end <= len(self.data):
            _, _, at, size = ROW.unpack_from(self.data, self._row(self.count - 1))
            end = at + size
        if end != len(self.data):
            raise FormatError(f"{path} is cut, or has more in it than its {self.count} entries")

    def _row(self, number: int) -> int:
        return len(MAGIC) + COUNT.size + ROW.size * number

    def _name(self, number: int) -> bytes:
        at = self._row(number)
        return self.data[at : at + NAME]

    def get(self, kind: str, key: str) -> bytes | None:
        """An entry's bytes."""
        wanted = name_of(kind, key)
        number = bisect_left(range(self.count), wanted, key=self._name)
        if number == self.count or self._name(number) != wanted:
            return None
        return self._entry(number)[2]

    def _entry(self, number: int) -> Entry:
        kind, key, at, size = ROW.unpack_from(self.data, self._row(number))
        if kind >= len(KINDS):
            raise FormatError(f"a pack of cache entries is damaged: entry {number} is of no kind")
        return KINDS[kind], key.hex(), self.data[at : at + size]

    def __iter__(self) -> Iterator[Entry]:
        return map(self._entry, range(self.count))
