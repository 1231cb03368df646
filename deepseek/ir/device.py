"""Devices: the processor, and the CUDA devices by number.

A type without a device is the processor's, or nobody's yet: what was created from numbers goes
where it is read. In flows how people write a device; out flows one object a device, None for the
processor.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from deepseek.errors import ArgumentError


class Device:
    """A place that holds memory and runs programs: `cpu`, `cuda:0`, `cuda:1`, ..."""

    __slots__ = ("type", "index")
    type: str
    index: int | None

    def __init__(self, type_: str, index: int | None = None) -> None:
        name, number = named(type_)
        self.type = name
        self.index = number if index is None else index

    @property
    def number(self) -> int:
        """As the runtime counts devices: -1 is the processor."""
        return -1 if self.type == "cpu" else self.index or 0

    def __repr__(self) -> str:
        return f"device({str(self)!r})"

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Device, str)) and str(other) == str(self)

    def __hash__(self) -> int:
        return hash(str(self))

    def __reduce__(self) -> Any:
        return Device, (str(self),)


def named(text: str) -> tuple[str, int | None]:
    """The kind and the number in the name of a device. Raises ArgumentError for other text."""
    match = re.fullmatch(r"(cpu|cuda)(?::([0-9]+))?", text)
    if match is None:
        raise ArgumentError(f"unknown device {text!r}; valid: cpu, cuda, cuda:0, cuda:1, ...")
    number = None if match[2] is None else int(match[2])
    return match[1], None if match[1] == "cpu" else number


CPU = Device("cpu")


@functools.cache
def cuda_device(index: int) -> Device:
    """The one object that stands for a CUDA device in types."""
    return Device("cuda", index)
