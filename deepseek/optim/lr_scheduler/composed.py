"""Schedulers made of others: one after the other, or all at once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from deepseek.errors import ArgumentError
from deepseek.optim.lr_scheduler.base import LRScheduler, checked, deferred, lrs, set_lr
from deepseek.optim.lr_scheduler.plateau import ReduceLROnPlateau
from deepseek.optim.optimizer import Optimizer


class Composed(LRScheduler):
    """Acts through the schedulers in `_schedulers`, which are of one optimizer."""

    _schedulers: list[LRScheduler]

    def _adopt(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None) -> None:
        name = type(self).__name__
        if not schedulers:
            raise ArgumentError(f"{name}: got no schedulers; wanted at least one")
        for i, scheduler in enumerate(schedulers):
            if not isinstance(scheduler, LRScheduler):
                got = type(scheduler).__name__
                raise ArgumentError(f"{name}: got a {got} at {i}; wanted a scheduler")
            if isinstance(scheduler, ReduceLROnPlateau):
                raise ArgumentError(
                    f"{name}: got a ReduceLROnPlateau at {i}; wanted schedulers whose step() takes "
                    "no metric\n  help: step it beside this one"
                )
            if optimizer is None:
                optimizer = scheduler.optimizer
            if scheduler.optimizer is not optimizer:
                raise ArgumentError(f"{name}: the scheduler at {i} is of another optimizer")
        self._schedulers = list(schedulers)
        self.optimizer = checked(self, optimizer)

    def _check_state(self, state_dict: Mapping[str, Any]) -> None:
        super()._check_state(state_dict)
        given = state_dict.get("_schedulers", ())
        if len(given) != len(self._schedulers):
            raise ArgumentError(
                f"the state does not fit {type(self).__name__}; nothing was loaded\n"
                f"  got {len(given)} schedulers; wanted {len(self._schedulers)}"
            )
        for scheduler, state in zip(self._schedulers, given, strict=True):
            scheduler._check_state(state)


class SequentialLR(Composed):
    """One scheduler after the other: the next takes over at each of the `milestones`.

    A warm-up and what follows it:

    >>> schedules = ds.optim.lr_scheduler
    >>> optimizer = ds.optim.SGD([ds.nn.Parameter(ds.ones(2))], lr=1.0)
    >>> warmup = schedules.LinearLR(optimizer, start_factor=0.5, total_iters=2)
    >>> decay = schedules.ExponentialLR(optimizer, gamma=0.5)
    >>> scheduler = schedules.SequentialLR(optimizer, [warmup, decay], milestones=[2])
    >>> rates = []
    >>> for _ in range(4):
    ...     rates += scheduler.get_last_lr()
    ...     scheduler.step()
    >>> rates
    [0.5, 0.75, 1.0, 0.5]
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: list[LRScheduler], milestones: list[int],
        last_epoch: int = -1,
    ) -> None:  # fmt: skip
        self._adopt(schedulers, checked(self, optimizer))
        if len(milestones) != len(schedulers) - 1:
            raise ArgumentError(
                f"SequentialLR: got {len(schedulers)} schedulers and {len(milestones)} milestones; "
                "wanted one milestone between each two schedulers"
            )
        self._milestones = list(milestones)
        self.last_epoch = last_epoch + 1
        # Each scheduler set the rate when it was made: start again with the first of them alone.
        for group in optimizer.param_groups:
            set_lr(group, group["initial_lr"])
        for scheduler in leaves(self):
            scheduler.last_epoch -= 1
        first = self._schedulers[bisect_right(self._milestones, 0)]
        first._initial_step()
        self._last_lr = first.get_last_lr()

    def step(self, epoch: int | None = None) -> None:
        refuse_epoch(self, epoch)
        if deferred(self.optimizer, self.step):
            return
        self.last_epoch += 1
        at = bisect_right(self._milestones, self.last_epoch)
        scheduler = self._schedulers[at]
        if at > 0 and self._milestones[at - 1] == self.last_epoch:
            scheduler._update_lr(0)
        else:
            scheduler.step()
        self._last_lr = scheduler.get_last_lr()


class ChainedScheduler(Composed):
    """Several schedulers that all step at each step.

    >>> schedules = ds.optim.lr_scheduler
    >>> optimizer = ds.optim.SGD([ds.nn.Parameter(ds.ones(2))], lr=1.0)
    >>> constant = schedules.ConstantLR(optimizer, factor=0.5, total_iters=2)
    >>> decay = schedules.ExponentialLR(optimizer, gamma=0.5)
    >>> scheduler = schedules.ChainedScheduler([constant, decay])
    >>> rates = []
    >>> for _ in range(3):
    ...     rates += scheduler.get_last_lr()
    ...     scheduler.step()
    >>> rates
    [0.5, 0.25, 0.25]
    """

    def __init__(
        self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None
    ) -> None:
        self._adopt(schedulers, optimizer)
        self._last_lr = lrs(self.optimizer)

    def step(self, epoch: int | None = None) -> None:
        refuse_epoch(self, epoch)
        if deferred(self.optimizer, self.step):
            return
        for scheduler in self._schedulers:
            scheduler.step()
        self._last_lr = lrs(self.optimizer)


def leaves(scheduler: LRScheduler) -> list[LRScheduler]:
    """The schedulers inside that are not made of others."""
    if not isinstance(scheduler, Composed):
        return [scheduler]
    return [leaf for inner in scheduler._schedulers for leaf in leaves(inner)]


def refuse_epoch(scheduler: LRScheduler, epoch: object) -> None:
    if epoch is not None:
        raise ArgumentError(
            f"{type(scheduler).__name__}.step: got epoch={epoch!r}; wanted no argument, since the "
            "schedulers inside each count their own steps"
        )
