"""What is held against PyTorch, by kind and name (`op:softmax`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import examples
import modules
import ops
import optimizers
import suites
from adapt import Entry, no
from table import MODULES, OPTIMIZERS

OPS = ops.database()
KINDS: dict[str, Any] = {
    "op": (ops, OPS),
    "module": (modules, modules.database()),
    "optimizer": (optimizers, optimizers.database()),
    "suite": (suites, suites.database()),
    "example": (examples, examples.database()),
}


def run(subject: str, samples: int, start: int) -> Iterator[dict[str, Any]]:
    """The results of a subject."""
    kind, name = subject.split(":", 1)
    part, database = KINDS[kind]
    yield from part.run(database[name], samples, start)


def every() -> list[str]:
    """All there are, mapped or not."""
    return [f"{kind}:{name}" for kind, (_, database) in KINDS.items() for name in database]


def entry(subject: str) -> Entry:
    """What the table says of a subject."""
    kind, name = subject.split(":", 1)
    if kind == "op":
        return ops.entry_for(name)
    reasons = {"module": MODULES, "optimizer": OPTIMIZERS}.get(kind, {})
    if isinstance(reasons.get(name), str):
        return no(reasons[name])
    if KINDS[kind][0].ours_of(name) is None:
        return no(f"deepseek has no {name}")
    return Entry()


def mapped_subjects() -> list[str]:
    """Every subject that the table maps to something that deepseek has."""
    return [s for s in every() if not entry(s).reason and not entry(s).missing]
