"""What the kernels of a cubin take: registers, local memory, shared memory.

In flow a cubin, which is an ELF file; out flow the Resources of each function in it. The compiler
notes them as attributes of its section `.nv.info`: a format byte, the attribute's number, the size
of its payload, and there a symbol's number and a value.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from deepseek.errors import FormatError

WITH_SIZE = 4  # the format whose payload has a size of its own; others have two bytes
REGISTERS, FRAME = 0x2F, 0x11
HEADER = struct.Struct("<4sBB10xHHIQQQIHHHHHH")
SECTION = struct.Struct("<IIQQQQIIQQ")
SYMBOL = struct.Struct("<IBBHQQ")
CUDA_MACHINE = 190


@dataclass(frozen=True)
class Resources:
    """What a kernel takes: registers of a thread, bytes of local memory of a thread (spilled
    registers and indexed arrays), bytes of shared memory of a block."""

    registers: int = 0
    local: int = 0
    shared: int = 0


def resources(cubin: bytes) -> dict[str, Resources]:
    """What each kernel of a cubin takes. Raises FormatError for anything else."""
    sections = dict(_sections(cubin))
    symbols = _symbols(sections)
    found: dict[str, dict[int, int]] = {}
    for attribute, symbol, value in _attributes(sections.get(".nv.info", b"")):
        found.setdefault(symbols[symbol], {})[attribute] = value
    out = {}
    for name, values in found.items():
        if REGISTERS in values:
            shared = len(sections.get(f".nv.shared.{name}", b""))
            out[name] = Resources(values[REGISTERS], values.get(FRAME, 0), shared)
    return out


def _sections(data: bytes) -> Iterator[tuple[str, bytes]]:
    if len(data) < HEADER.size or data[:4] != b"\x7fELF":
        raise FormatError("this is no cubin: it does not begin as an ELF file")
    header = HEADER.unpack_from(data)
    machine, start = header[4], header[8]
    entry, count, names_at = header[13:16]
    if machine != CUDA_MACHINE:
        raise FormatError(f"this is no cubin: it is code for machine {machine}, not CUDA")
    table = [SECTION.unpack_from(data, start + n * entry) for n in range(count)]
    names = data[table[names_at][4] :]
    for name, kind, _, _, offset, size, *_ in table:
        held = bytes(size) if kind == 8 else data[offset : offset + size]  # 8: zeros, not kept
        yield names[name : names.index(b"\0", name)].decode(), held


def _symbols(sections: dict[str, bytes]) -> list[str]:
    names = sections.get(".strtab", b"")
    table = SYMBOL.iter_unpack(sections.get(".symtab", b""))
    return [names[at : names.index(b"\0", at)].decode() for at, *_ in table]


def _attributes(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(attribute, symbol, value) of those that are about a symbol."""
    at = 0
    while at + 4 <= len(data):
        form, attribute, size = struct.unpack_from("<BBH", data, at)
        at += 4
        if form == WITH_SIZE:
            if size == 8:
                yield attribute, *struct.unpack_from("<II", data, at)
            at += size
