"""LRScheduler: sets an optimizer's learning rates, one step after the other.

A scheduler is plain Python over numbers. `step()` inside `@ds.jit` is done when the compiled
function returns: learning rates are inputs of a compiled step, so that the next call runs with the
new ones and nothing is compiled again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from deepseek.errors import ArgumentError, TraceError, format_line, user_line
from deepseek.frontend.tensor import Tensor, state
from deepseek.nn.parameter import assign, computed_full
from deepseek.optim.optimizer import Optimizer
from deepseek.optim.rule import Group, hyper


class LRScheduler:
    """Base of the schedulers: `get_lr` says the learning rate of each group at `last_epoch`.

    `get_lr` goes on from the groups' present rates, so that several schedulers can act on one
    optimizer. `_get_closed_form_lr`, where there is one, gives them from the initial rates
    `base_lrs` alone; `step(epoch)` uses it. `last_epoch` -1 starts anew; another resumes after it
    and wants the optimizer's groups to have an `initial_lr`.

    >>> class Halving(ds.optim.lr_scheduler.LRScheduler):
    ...     def get_lr(self):
    ...         return [lr / 2**self.last_epoch for lr in self.base_lrs]
    >>> optimizer = ds.optim.SGD([ds.nn.Parameter(ds.ones(2))], lr=1.0)
    >>> scheduler = Halving(optimizer)
    >>> scheduler.step()
    >>> scheduler.get_last_lr()
    [0.5]
    """

    # What `state_dict` leaves out, beside functions.
    unsaved: ClassVar[tuple[str, ...]] = ("optimizer", "_is_initial")
    _is_initial = False
    optimizer: Optimizer
    last_epoch: int
    base_lrs: list[float]
    _last_lr: list[float]

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        self.optimizer = checked(self, optimizer)
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", float(group["lr"]))
            elif "initial_lr" not in group:
                raise ArgumentError(
                    f"{type(self).__name__}: got last_epoch={last_epoch}, and group {i} of the "
                    "optimizer has no 'initial_lr' to resume from\n"
                    "  help: load the optimizer's state first, or leave last_epoch at -1"
                )
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._initial_step()

    def get_lr(self) -> list[float]:
        """The learning rate of each group at `last_epoch`."""
        raise NotImplementedError

    def get_last_lr(self) -> list[float]:
        """The learning rate of each group, as the last step left it."""
        if state.trace is not None:
            return [hyper(group, "lr") for group in self.optimizer.param_groups]
        return list(self._last_lr)

    def step(self, epoch: int | None = None) -> None:
        """Go on to the next learning rates, or to those of `epoch`.

        Inside `@ds.jit` this takes place when the function returns: call it after
        `optimizer.step()`.
        """
        if deferred(self.optimizer, lambda: self.step(epoch)):
            return
        self._step_count += 1
        self._update_lr(epoch)

    def _initial_step(self) -> None:
        """Set the rates to start with."""
        self._step_count = 0
        self._is_initial = True
        try:
            self.step()
        finally:
            self._is_initial = False

    def _update_lr(self, epoch: int | None = None) -> None:
        self._advance(epoch)
        closed = getattr(self, "_get_closed_form_lr", self.get_lr)
        self._set(self.get_lr() if epoch is None else closed())

    def _advance(self, epoch: int | None) -> None:
        """Move `last_epoch` on."""
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch

    def _set(self, rates: Sequence[float]) -> None:
        groups = self.optimizer.param_groups
        if len(rates) != len(groups):
            raise ArgumentError(
                f"{type(self).__name__}: got {len(rates)} learning rates for {len(groups)} groups "
                "of parameters\n  help: add groups before the scheduler is made"
            )
        for group, rate in zip(groups, rates, strict=True):
            set_lr(group, rate)
        self._last_lr = lrs(self.optimizer)

    # -------------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer and functions; of callable objects, their attributes."""
        return {k: saved(v) for k, v in vars(self).items() if k not in self.unsaved}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a `state_dict`. The optimizer's own holds the rates themselves.

        Raises ArgumentError, and changes nothing, if it is of another kind of scheduler.
        """
        self._check_state(state_dict)
        for name, held in vars(self).copy().items():
            if name in state_dict and name not in self.unsaved:
                setattr(self, name, taken_over(held, state_dict[name]))

    def _check_state(self, state_dict: Mapping[str, Any]) -> None:
        """Raise ArgumentError unless a state has all that this scheduler's own has."""
        own = [k for k in vars(self) if k not in self.unsaved and not k.startswith("_")]
        missing = [k for k in own if k not in state_dict]
        if missing:
            raise ArgumentError(
                f"the state does not fit {type(self).__name__}; nothing was loaded\n"
                f"  {', '.join(missing)} is missing; it has {', '.join(state_dict)}"
            )


def checked(scheduler: object, optimizer: Any) -> Optimizer:
    """The optimizer, if it is one."""
    if not isinstance(optimizer, Optimizer):
        raise ArgumentError(
            f"{type(scheduler).__name__}: got a {type(optimizer).__name__}; wanted an Optimizer"
        )
    return optimizer


def deferred(optimizer: Optimizer, effect: Callable[[], object]) -> bool:
    """Inside a trace, let `effect` take place after each call. Returns whether that is so."""
    if state.trace is None:
        return False
    after = getattr(state.trace, "after", None)
    if after is None:
        raise TraceError(
            "scheduler.step() was called inside a loop or branch of the compiled program\n"
            f"  at {format_line(user_line())}\n"
            "  help: call it in the function that @ds.jit compiles, outside ds.cond, ds.scan and "
            "ds.while_loop"
        )
    groups = optimizer.param_groups
    after(effect, [*groups, *(v for group in groups for v in group.values())])
    return True


def lrs(optimizer: Optimizer) -> list[float]:
    """The learning rate of each group as it is."""
    return [float(group["lr"]) for group in optimizer.param_groups]


def set_lr(group: Group, rate: float) -> None:
    """Set a group's learning rate; where it is a tensor, that tensor's value."""
    held = group["lr"]
    if isinstance(held, Tensor):
        assign(held, computed_full(held.shape, rate, held.dtype))
    else:
        group["lr"] = rate


def per_group(name: str, optimizer: Optimizer, given: Any) -> list[Any]:
    """One value for each group, from one for all or a list of them."""
    count = len(optimizer.param_groups)
    if not isinstance(given, (list, tuple)):
        return [given] * count
    if len(given) != count:
        raise ArgumentError(
            f"{name}: got {len(given)} values; wanted one for each of {count} groups"
        )
    return list(given)


def saved(x: Any) -> Any:
    """What a state dict holds of an attribute: nothing of a function, a callable's attributes."""
    if isinstance(x, LRScheduler):
        return x.state_dict()
    if isinstance(x, list):
        return [saved(part) for part in x]
    if callable(x):
        return dict(getattr(x, "__dict__", None) or {}) or None
    return copy.deepcopy(x)


def taken_over(held: Any, given: Any) -> Any:
    """The reverse of `saved`, for an attribute that is `held` now."""
    if isinstance(held, LRScheduler):
        held.load_state_dict(given)
        return held
    if isinstance(held, (list, tuple)) and any(
        callable(x) or isinstance(x, LRScheduler) for x in held
    ):
        return [taken_over(mine, other) for mine, other in zip(held, given, strict=True)]
    if callable(held):
        vars(held).update(given or {})
        return held
    return copy.deepcopy(given)
