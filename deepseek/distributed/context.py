"""CommContext: collectives as functions of tensors, with gradients.

Each call blocks until the result is there; inside `@ds.jit` it becomes a step of the program.
"""

from __future__ import annotations

import datetime

from deepseek.distributed.meeting import meeting
from deepseek.distributed.process_group import leave, make_group, next_number, run_recorded
from deepseek.frontend.tensor import Tensor, no_grad
from deepseek.ops import collective
from deepseek.ops.groups import Group, groups, note_read
from deepseek.ops.indexing import assigned


class CommContext:
    """A group of its own, of all processes that were started together.

    Every process makes its contexts in the same order. Arguments are those of
    `init_process_group`, which need not have been called. Methods return a new tensor; where a
    destination is given, it shows the result. Gradients are those of the sum of all ranks' losses.

    >>> comm = ds.distributed.CommContext("shm")
    >>> comm.get_rank(), comm.get_world_size()
    (0, 1)
    >>> comm.all_reduce(ds.asarray([1.0, 2.0]))
    tensor([1., 2.])
    >>> comm.close()
    """

    def __init__(
        self,
        backend: str = "shm",
        init_method: str | None = None,
        world_size: int = -1,
        rank: int = -1,
        timeout: float | datetime.timedelta | None = None,
    ) -> None:
        where = meeting(init_method, rank, world_size)
        name = f"context {next_number('context')}"
        self._group: Group = make_group(name, backend, where, timeout)

    @property
    def group(self) -> Group:
        """The group. Raises DistributedError after `close`."""
        note_read("version")
        return groups.named(self._group.name)

    def get_rank(self) -> int:
        """This process's number in the group."""
        return self.group.rank

    def get_world_size(self) -> int:
        """How many processes the group has."""
        return self.group.size

    def all_reduce(self, src: Tensor, dst: Tensor | None = None, op: str = "sum") -> Tensor:
        """All ranks' tensors reduced element by element: sum, prod, min, max or avg."""
        return done(collective.all_reduce(src, str(op), self.group), dst)

    def reduce(
        self, src: Tensor, dst: Tensor | None = None, root: int = 0, op: str = "sum"
    ) -> Tensor:
        """As all_reduce, for the root alone; others get zeros."""
        return done(collective.reduce_to(src, root, str(op), self.group), dst)

    def broadcast(self, src: Tensor, dst: Tensor | None = None, root: int = 0) -> Tensor:
        """The root's tensor; of other ranks only the type of `src` counts."""
        return done(collective.broadcast(src, root, self.group), dst)

    def all_gather(self, src: Tensor, dst: Tensor | None = None) -> Tensor:
        """All ranks' tensors, one after the other along the first axis."""
        return done(collective.all_gather(src, self.group), dst)

    def reduce_scatter(self, src: Tensor, dst: Tensor | None = None, op: str = "sum") -> Tensor:
        """All ranks' tensors reduced, of which each rank gets its part along the first axis."""
        return done(collective.reduce_scatter(src, str(op), self.group), dst)

    def all_to_all(self, src: Tensor, dst: Tensor | None = None) -> Tensor:
        """Part i of `src` goes to rank i; what comes is in the order of the ranks."""
        return done(collective.all_to_all(src, self.group), dst)

    def exchange(self, src: Tensor, to: int, source: int) -> Tensor:
        """Gives `src` to one rank and takes what is like it from another, without blocking in
        between.
        """
        return done(collective.exchange(src, to, source, self.group))

    def send(self, src: Tensor, to: int) -> Tensor:
        """Gives `src` to a rank. Returns a 0 through which the gradient comes back: add it to the
        loss, or call backward on it.
        """
        return done(collective.send(src, to, self.group))

    def recv(self, like: Tensor, source: int) -> Tensor:
        """What a rank sends, of the type of `like`; where that requires gradients, the cotangent
        goes back to the sender.
        """
        return done(collective.recv(like, source, self.group))

    def barrier(self) -> None:
        """Waits until every rank has come here."""
        collective.barrier(self.group)
        run_recorded()

    def close(self) -> None:
        """Leave the group, when what was recorded has run. Once is enough."""
        if self._group.name in groups.known:
            try:
                run_recorded()
            finally:
                leave([self._group])

    def __enter__(self) -> CommContext:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def done(result: Tensor, target: Tensor | None = None) -> Tensor:
    """The result, when it is there, shown by the target if there is one."""
    run_recorded()
    return result if target is None else shown_by(target, result)


def shown_by(target: Tensor, result: Tensor) -> Tensor:
    """The target, showing the result; a leaf that requires gradients stays one."""
    collective.refuse_other_type(target, result)
    if target.requires_grad and target.is_leaf:
        with no_grad():
            return assigned(target, result)
    return assigned(target, result)
