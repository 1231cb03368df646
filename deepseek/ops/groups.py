"""Groups of processes, as collectives name them, and whose turn it is.

Each collective takes its turn and gives the next one: a tensor without elements, which passes from
collective to collective through all groups. So no pass reorders, merges or drops them, and every
rank runs them in the order in which it recorded them. Outside a group a process is a world of one
rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from deepseek.errors import (
    ArgumentError,
    BackendError,
    DistributedError,
    TraceError,
    format_line,
    op_error,
    user_line,
)
from deepseek.frontend.tensor import Tensor, from_numpy, record, state
from deepseek.ir.dtype import uint8
from deepseek.ir.op import Op
from deepseek.ops.define import filled

__all__: list[str] = []


@dataclass(frozen=True)
class Group:
    """This process's place in a group: the runtime finds its transport by the name."""

    name: str
    rank: int
    size: int
    backend: str


ALONE = Group("alone", 0, 1, "shm")


class Groups:
    """The groups of this process by name, and whose turn it is.

    `version` counts changes, for functions that were compiled for the groups there were.
    """

    def __init__(self) -> None:
        self.known: dict[str, Group] = {ALONE.name: ALONE}
        self.default: Group | None = None
        self.version = 0
        self.turn = from_numpy(np.zeros(0, np.uint8), uint8)

    def named(self, name: str) -> Group:
        """The group of a name. Raises DistributedError where it is gone."""
        if name not in self.known:
            raise DistributedError(f"there is no group {name!r} in this process, or no longer")
        return self.known[name]


groups = Groups()


def note_read(*attributes: str) -> None:
    """Let a function that is being compiled depend on these attributes of `groups`."""
    if hasattr(state.trace, "held"):
        state.trace.held.update(dict.fromkeys((groups, name) for name in attributes))


def take_turn(op: Op, group: Group, *tensors: Tensor, **attrs: Any) -> list[Tensor]:
    """Record a collective, next in order. Returns what it gives beside its turn."""
    trace = state.trace
    if group.backend == "nccl":
        raise op_error(
            BackendError, op.name, f"group {group.name!r}, whose transport is NCCL", "a group of "
            "the backend 'shm' for tensors in the processor's memory", user_line(),
        )  # fmt: skip
    outside = trace is None or hasattr(trace, "held")
    if outside:  # a compiled function reads the turn, and gives it back
        note_read("turn", "version")
    elif not hasattr(trace, "turn"):
        raise TraceError(
            f"op '{op.name}' stands in the body of ds.cond, ds.scan or ds.while_loop, which other "
            f"ranks may run another number of times\n  at {format_line(user_line())}\n"
            "  help: call it outside"
        )
    # The body of a composite is a graph apart: it keeps an order of its own.
    turn: Tensor | None = groups.turn if outside else trace.turn
    turn = filled((0,), 0, uint8) if turn is None else turn
    made = record(op, turn, *tensors, group=group.name, ranks=group.size, **attrs)
    after, *results = made if tensors else (made,)
    if not outside:
        trace.turn = after
    else:
        groups.turn._rebind(after._value)
    return results


def group_or_default(group: Group | None) -> Group:
    """The given group, else the default one, else the world of one rank."""
    return group or groups.default or ALONE


def refuse_rank(op: str, group: Group, rank: int, others_only: bool = False) -> None:
    """Raises ArgumentError for what is no rank of the group, or is this one's own."""
    if isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank < group.size:
        wanted = f"a rank of group {group.name!r}, from 0 to {group.size - 1}"
        raise op_error(ArgumentError, op, f"rank {rank!r}", wanted, user_line())
    if others_only and rank == group.rank:
        raise op_error(ArgumentError, op, f"rank {rank}", "another rank than its own", user_line())
