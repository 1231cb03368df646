"""Schedules that multiply the learning rate: by steps, powers, lines, functions, and constants."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable
from typing import ClassVar

from deepseek.errors import ArgumentError
from deepseek.optim.lr_scheduler.base import LRScheduler, checked, lrs, per_group
from deepseek.optim.optimizer import Optimizer

Function = Callable[[int], float]


class Scaled(LRScheduler):
    """The initial rate times `scale(t)`, as a product of ratios from step to step."""

    # Whether the first step of a resumed schedule changes the rate, which was restored before.
    moves_when_resumed: ClassVar[bool] = False

    def scale(self, t: int) -> float:
        """The rate after t steps, in units of the initial rate."""
        raise NotImplementedError

    def ratio(self, t: int) -> float | None:
        """scale(t) / scale(t - 1); None where that is no number."""
        before = self.scale(t - 1)
        return self.scale(t) / before if before != 0 else None

    def get_lr(self) -> list[float]:
        t = self.last_epoch
        if t == 0:
            return [lr * self.scale(0) for lr in lrs(self.optimizer)]
        if self._is_initial and not self.moves_when_resumed:
            return lrs(self.optimizer)
        ratio = self.ratio(t)
        if ratio is None:
            return self._get_closed_form_lr()
        return [lr * ratio for lr in lrs(self.optimizer)]

    def _get_closed_form_lr(self) -> list[float]:
        return [lr * self.scale(self.last_epoch) for lr in self.base_lrs]


class Geometric(Scaled):
    """gamma to the power of `power(t)`, the number of decays after t steps."""

    gamma: float

    def power(self, t: int) -> int:
        raise NotImplementedError

    def scale(self, t: int) -> float:
        return float(self.gamma ** self.power(t))

    def ratio(self, t: int) -> float:
        return float(self.gamma ** (self.power(t) - self.power(t - 1)))


class StepLR(Geometric):
    """Multiply the rate by `gamma` every `step_size` steps.

    >>> optimizer = ds.optim.SGD([ds.nn.Parameter(ds.ones(2))], lr=1.0)
    >>> scheduler = ds.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    >>> for _ in range(4):
    ...     scheduler.step()
    >>> scheduler.get_last_lr()
    [0.25]
    """

    moves_when_resumed = True

    def __init__(
        self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        if step_size < 1:
            raise ArgumentError(f"StepLR: got step_size={step_size!r}; wanted an integer >= 1")
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def power(self, t: int) -> int:
        return t // self.step_size


class MultiStepLR(Geometric):
    """Multiply the rate by `gamma` at each of the `milestones`.

    >>> optimizer = ds.optim.SGD([ds.nn.Parameter(ds.ones(2))], lr=1.0)
    >>> scheduler = ds.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[1, 3], gamma=0.5)
    >>> for _ in range(4):
    ...     scheduler.step()
    >>> scheduler.get_last_lr()
    [0.25]
    """

    moves_when_resumed = True

    def __init__(
        self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1,
        last_epoch: int = -1,
    ) -> None:  # fmt: skip
        self.milestones = Counter(milestones)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def power(self, t: int) -> int:
        return bisect_right(sorted(self.milestones.elements()), t)


class ExponentialLR(Geometric):
    """Multiply the rate by `gamma` at each step.

    >>> optimizer = ds.optim.SGD([ds.nn.Parameter(ds.ones(2))], lr=1.0)
    >>> scheduler = ds.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    >>> scheduler.step()
    >>> scheduler.get_last_lr()
    [0.5]
    """

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def power(self, t: int) -> int:
        return t


class ConstantLR(Scaled):
    """`factor` times the rate until `total_iters` steps were made.

    >>> optimizer = ds.optim.SGD([ds.nn.Parameter(ds.ones(2))], lr=1.0)
    >>> scheduler = ds.optim.lr_scheduler.ConstantLR(optimizer, factor=0.5, total_iters=1)
    >>> first = scheduler.get_last_lr()
    >>> scheduler.step()
    >>> first, scheduler.get_last_lr()
    ([0.5], [1.0])
    """

    moves_when_resumed = True

    def __init__(
        self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:  # fmt: skip
        within(self, "factor", factor)
        self.factor = factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def scale(self, t: int) -> float:
        return 1.0 if t >= self.total_iters else self.factor


class LinearLR(Scaled):
    """From `start_factor` to `end_factor` times the rate, in a line of `total_iters` steps.

    With `SequentialLR` this is a warm-up.

    >>> optimizer = ds.optim.SGD([ds.nn.Parameter(ds.ones(2))], lr=1.0)
    >>> scheduler = ds.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.5, total_iters=2)
    >>> scheduler.step()
    >>> scheduler.get_last_lr()
    [0.75]
    """

    def __init__(
        self, optimizer: Optimizer, start_factor: float = 1.0 / 3, end_factor: float = 1.0,
        total_iters: int = 5, last_epoch: int = -1,
    ) -> None:  # fmt: skip
        within(self, "start_factor", start_factor, above=True)
        within(self, "end_factor", end_factor)
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def scale(self, t: int) -> float:
        if t >= self.total_iters:
            return self.end_factor
        return self.start_factor + (self.end_factor - self.start_factor) * t / self.total_iters


class PolynomialLR(Scaled):
    """(1 - t / total_iters)^power times the rate: to zero in `total_iters` steps.

    >>> optimizer = ds.optim.SGD([ds.nn.Parameter(ds.ones(2))], lr=1.0)
    >>> scheduler = ds.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=4, power=2.0)
    >>> for _ in range(2):
    ...     scheduler.step()
    >>> scheduler.get_last_lr()
    [0.25]
    """

    def __init__(
        self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1
    ) -> None:
        self.total_iters = total_iters
        self.power = power
        super().__init__(optimizer, last_epoch)

    def scale(self, t: int) -> float:
        return float((1 - min(t, self.total_iters) / self.total_iters) ** self.power)


class LambdaLR(LRScheduler):
    """The initial rate times `lr_lambda(t)`: one function, or one for each group.

    >>> optimizer = ds.optim.SGD([ds.nn.Parameter(ds.ones(2))], lr=1.0)
    >>> scheduler = ds.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 / (1 + t))
    >>> scheduler.step()
    >>> scheduler.get_last_lr()
    [0.5]
    """

    def __init__(
        self, optimizer: Optimizer, lr_lambda: Function | list[Function], last_epoch: int = -1
    ) -> None:
        self.lr_lambdas: list[Function] = functions(self, optimizer, lr_lambda)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        pairs = zip(self.base_lrs, self.lr_lambdas, strict=True)
        return [lr * function(self.last_epoch) for lr, function in pairs]


class MultiplicativeLR(LRScheduler):
    """Multiply the rate by `lr_lambda(t)` at each step: one function, or one for each group.

    >>> optimizer = ds.optim.SGD([ds.nn.Parameter(ds.ones(2))], lr=1.0)
    >>> scheduler = ds.optim.lr_scheduler.MultiplicativeLR(optimizer, lambda t: 0.5)
    >>> scheduler.step()
    >>> scheduler.get_last_lr()
    [0.5]
    """

    def __init__(
        self, optimizer: Optimizer, lr_lambda: Function | list[Function], last_epoch: int = -1
    ) -> None:
        self.lr_lambdas: list[Function] = functions(self, optimizer, lr_lambda)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self._is_initial:
            return lrs(self.optimizer)
        pairs = zip(lrs(self.optimizer), self.lr_lambdas, strict=True)
        return [lr * function(self.last_epoch) for lr, function in pairs]


def functions(
    scheduler: LRScheduler, optimizer: Optimizer, given: Function | list[Function]
) -> list[Function]:
    """One function for each group."""
    found = per_group("lr_lambda", checked(scheduler, optimizer), given)
    for function in found:
        if not callable(function):
            name = type(scheduler).__name__
            raise ArgumentError(f"{name}: got lr_lambda={function!r}; wanted a function of a step")
    return found


def within(scheduler: LRScheduler, name: str, number: float, above: bool = False) -> None:
    """Raise ArgumentError unless 0 <= number <= 1, or 0 < number."""
    if not 0 <= number <= 1 or (above and number == 0):
        wanted = f"a number {'>' if above else '>='} 0 and <= 1"
        raise ArgumentError(f"{type(scheduler).__name__}: got {name}={number!r}; wanted {wanted}")
