"""What is held against PyTorch: ops, modules and optimizers, by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ops

OPS = ops.database()


def run(subject: str, samples: int, start: int) -> Iterator[dict[str, Any]]:
    """The results of `op:NAME`, `module:NAME` or `optimizer:NAME`."""
    kind, name = subject.split(":", 1)
    if kind == "op":
        yield from ops.run(OPS[name], samples, start)


def mapped_subjects() -> list[str]:
    """Every subject that the table maps to something that deepseek has."""
    names = [f"op:{n}" for n in OPS]
    return [s for s in names if is_mapped(s)]


def is_mapped(subject: str) -> bool:
    entry = ops.entry_for(subject.split(":", 1)[1])
    return not entry.reason and not entry.missing
