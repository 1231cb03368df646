"""Schedules of cosines and cycles, some of which move the momentum against the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from deepseek.errors import ArgumentError, unknown
from deepseek.optim.lr_scheduler.base import LRScheduler, checked, lrs, per_group, set_lr
from deepseek.optim.optimizer import Optimizer
from deepseek.optim.rule import Group


class CosineAnnealingLR(LRScheduler):
    """Half a cosine from the rate down to `eta_min` in `T_max` steps, then up again.

    Loshchilov and Hutter, arXiv:1608.03983, without the restarts.

    >>> optimizer = ds.optim.SGD([ds.nn.Parameter(ds.ones(2))], lr=1.0)
    >>> scheduler = ds.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2)
    >>> scheduler.step()
    >>> round(scheduler.get_last_lr()[0], 6)
    0.5
    """

    def __init__(
        self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        if T_max <= 0:
            raise ArgumentError(f"CosineAnnealingLR: got T_max={T_max!r}; wanted a number > 0")
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def height(self, t: int) -> float:
        """Where the cosine is after t steps, from 1 down to 0."""
        return (1 + math.cos(math.pi * t / self.T_max)) / 2

    def get_lr(self) -> list[float]:
        if self._is_initial:
            return lrs(self.optimizer)
        least, t = self.eta_min, self.last_epoch
        if (t - 1) % (2 * self.T_max) == self.T_max:  # at the bottom no ratio leads up again
            rates = zip(lrs(self.optimizer), self.base_lrs, strict=True)
            return [lr + (base - least) * self.height(t) for lr, base in rates]
        ratio = self.height(t) / self.height(t - 1)
        return [least + (lr - least) * ratio for lr in lrs(self.optimizer)]

    def _get_closed_form_lr(self) -> list[float]:
        height = self.height(self.last_epoch)
        return [self.eta_min + (lr - self.eta_min) * height for lr in self.base_lrs]


class CosineAnnealingWarmRestarts(LRScheduler):
    """Half a cosine from the rate to `eta_min` in T_0 steps, again in T_0 * T_mult steps, ...

    `step(epoch)` takes fractions of an epoch too. Loshchilov and Hutter, arXiv:1608.03983.

    >>> optimizer = ds.optim.SGD([ds.nn.Parameter(ds.ones(2))], lr=1.0)
    >>> scheduler = ds.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=2)
    >>> rates = []
    >>> for _ in range(3):
    ...     scheduler.step()
    ...     rates.append(round(scheduler.get_last_lr()[0], 6))
    >>> rates
    [0.5, 1.0, 0.5]
    """

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:  # fmt: skip
        positive(self, "T_0", T_0)
        positive(self, "T_mult", T_mult)
        if not isinstance(eta_min, (int, float)):
            raise ArgumentError(
                f"CosineAnnealingWarmRestarts: got eta_min={eta_min!r}; wanted a number"
            )
        self.T_0 = T_0
        self.T_i = T_0
        self.T_mult = T_mult
        self.eta_min = eta_min
        self.T_cur: float = last_epoch
        super().__init__(optimizer, last_epoch)

    def _advance(self, epoch: float | None) -> None:
        if epoch is None and self.last_epoch >= 0:
            self.last_epoch += 1
            self.T_cur += 1
            if self.T_cur >= self.T_i:
                self.T_cur -= self.T_i
                self.T_i *= self.T_mult
            return
        epoch = epoch or 0
        if epoch < 0:
            raise ArgumentError(
                f"CosineAnnealingWarmRestarts.step: got epoch={epoch}; wanted a number >= 0"
            )
        self.last_epoch = math.floor(epoch)
        self.T_i, self.T_cur = self.T_0, epoch
        while self.T_cur >= self.T_i:
            self.T_cur -= self.T_i
            self.T_i *= self.T_mult

    def get_lr(self) -> list[float]:
        height = (1 + math.cos(math.pi * self.T_cur / self.T_i)) / 2
        return [self.eta_min + (lr - self.eta_min) * height for lr in self.base_lrs]


class Cyclic(LRScheduler):
    """What schedules share that move the momentum, or Adam's first beta, with the rate."""

    cycle_momentum: bool
    use_beta1: bool

    def _start_momentum(self, base: Any, most: Any, last_epoch: int) -> None:
        """Give each group its `base_momentum` and `max_momentum`, and the latter to start with."""
        optimizer = self.optimizer
        if not self.cycle_momentum:
            return
        if not {"momentum", "betas"} & set(optimizer.defaults):
            raise ArgumentError(
                f"{type(self).__name__}: got cycle_momentum=True and {type(optimizer).__name__}, "
                "which has neither momentum nor betas\n  help: pass cycle_momentum=False"
            )
        self.use_beta1 = "betas" in optimizer.defaults
        bases = per_group("base_momentum", optimizer, base)
        mosts = per_group("max_momentum", optimizer, most)
        for group, low, high in zip(optimizer.param_groups, bases, mosts, strict=True):
            if last_epoch == -1:
                group["base_momentum"], group["max_momentum"] = low, high
                self._set_momentum(group, high)
            else:
                group.setdefault("base_momentum", low)
                group.setdefault("max_momentum", high)

    def _set_momentum(self, group: Group, momentum: float) -> None:
        if self.use_beta1:
            group["betas"] = (momentum, *group["betas"][1:])
        else:
            group["momentum"] = momentum


class CyclicLR(Cyclic):
    """Up and down between `base_lr` and `max_lr` in lines (Smith, arXiv:1506.01186).

    `mode`: 'triangular' keeps the height, 'triangular2' halves it with each cycle, 'exp_range'
    multiplies it by gamma at each step. `scale_fn` scales it by a function of one's own, of the
    number of the cycle or, with `scale_mode` 'iterations', of the step. The momentum moves the
    other way.

    >>> optimizer = ds.optim.SGD([ds.nn.Parameter(ds.ones(2))], lr=1.0, momentum=0.9)
    >>> scheduler = ds.optim.lr_scheduler.CyclicLR(optimizer, 0.5, 1.5, step_size_up=2)
    >>> scheduler.step()
    >>> scheduler.get_last_lr(), round(optimizer.param_groups[0]["momentum"], 6)
    ([1.0], 0.85)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | list[float],
        max_lr: float | list[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: str = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.8,
        max_momentum: float | list[float] = 0.9,
        last_epoch: int = -1,
    ) -> None:
        modes = ("triangular", "triangular2", "exp_range")
        if mode not in modes and scale_fn is None:
            raise unknown("mode of CyclicLR", mode, modes)
        self.optimizer = checked(self, optimizer)
        base_lrs = per_group("base_lr", optimizer, base_lr)
        self.max_lrs = per_group("max_lr", optimizer, max_lr)
        if last_epoch == -1:
            for group, lr in zip(optimizer.param_groups, base_lrs, strict=True):
                set_lr(group, lr)
        down = step_size_up if step_size_down is None else step_size_down
        self.total_size = float(step_size_up + down)
        self.step_ratio = step_size_up / self.total_size
        self.mode = mode
        self.gamma = gamma
        self._scale_fn_custom = scale_fn
        self.scale_mode = scale_mode if scale_fn else "cycle"
        if mode == "exp_range" and scale_fn is None:
            self.scale_mode = "iterations"
        self.cycle_momentum = cycle_momentum
        self._start_momentum(base_momentum, max_momentum, last_epoch)
        super().__init__(optimizer, last_epoch)
        self.base_lrs = base_lrs

    def scale_fn(self, x: float) -> float:
        """How high a cycle is: of the number of the cycle, from 1, or of the step."""
        if self._scale_fn_custom is not None:
            return self._scale_fn_custom(x)
        if self.mode == "exp_range":
            return float(self.gamma**x)
        return 1.0 if self.mode == "triangular" else 2.0 ** (1 - x)

    def get_lr(self) -> list[float]:
        cycles = self.last_epoch / self.total_size
        part, cycle = cycles - math.floor(cycles), math.floor(cycles) + 1
        up = part / self.step_ratio
        height = up if part <= self.step_ratio else (1 - part) / (1 - self.step_ratio)
        height *= self.scale_fn(cycle if self.scale_mode == "cycle" else self.last_epoch)
        for group in self.optimizer.param_groups if self.cycle_momentum else ():
            low, high = group["base_momentum"], group["max_momentum"]
            self._set_momentum(group, high - (high - low) * height)
        initial = self.base_lrs
        return [lr + (top - lr) * height for lr, top in zip(initial, self.max_lrs, strict=True)]


class OneCycleLR(Cyclic):
    """One rise to `max_lr` and one fall far below the start (Smith and Topin, arXiv:1708.07120).

    The rate starts at max_lr / div_factor, rises for the share `pct_start` of `total_steps` and
    falls to the start / final_div_factor; with `three_phase` it first falls as long as it rose. The
    momentum moves the other way. Raises ArgumentError when stepped more than `total_steps` times.

    >>> optimizer = ds.optim.SGD([ds.nn.Parameter(ds.ones(2))], lr=1.0, momentum=0.9)
    >>> scheduler = ds.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=10)
    >>> for _ in range(2):
    ...     scheduler.step()
    >>> scheduler.get_last_lr(), optimizer.param_groups[0]["momentum"]
    ([1.0], 0.85)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        self.optimizer = checked(self, optimizer)
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ArgumentError(
                    "OneCycleLR: got neither total_steps nor both epochs and steps_per_epoch; "
                    "wanted one of these"
                )
            positive(self, "epochs", epochs)
            positive(self, "steps_per_epoch", steps_per_epoch)
            total_steps = epochs * steps_per_epoch
        positive(self, "total_steps", total_steps)
        if not 0 <= pct_start <= 1:
            raise ArgumentError(f"OneCycleLR: got pct_start={pct_start!r}; wanted 0 to 1")
        if anneal_strategy not in ("cos", "linear"):
            raise unknown("anneal_strategy of OneCycleLR", anneal_strategy, ("cos", "linear"))
        self.total_steps = total_steps
        self._anneal_func_type = anneal_strategy
        self._schedule_phases = phases(total_steps, pct_start, three_phase)
        for group, most in zip(
            optimizer.param_groups, per_group("max_lr", optimizer, max_lr), strict=True
        ):
            if last_epoch == -1:
                group["max_lr"] = most
                group["initial_lr"] = most / div_factor
                group["min_lr"] = group["initial_lr"] / final_div_factor
        self.cycle_momentum = cycle_momentum
        self._start_momentum(base_momentum, max_momentum, last_epoch)
        super().__init__(optimizer, last_epoch)

    def _anneal(self, start: float, end: float, part: float) -> float:
        if self._anneal_func_type == "linear":
            return start + (end - start) * part
        return end + (start - end) * (1 + math.cos(math.pi * part)) / 2

    def get_lr(self) -> list[float]:
        t = self.last_epoch
        if t > self.total_steps:
            raise ArgumentError(
                f"OneCycleLR: got step {t} of a schedule of total_steps={self.total_steps}\n"
                "  help: make the schedule as long as the training"
            )
        start, phase = 0.0, self._schedule_phases[-1]
        for phase in self._schedule_phases:
            if t <= phase["end_step"]:
                break
            if phase is not self._schedule_phases[-1]:
                start = phase["end_step"]
        length = phase["end_step"] - start
        part = (t - start) / length if length else 1.0
        rates = []
        for group in self.optimizer.param_groups:
            rates.append(self._anneal(group[phase["start_lr"]], group[phase["end_lr"]], part))
            if self.cycle_momentum:
                ends = group[phase["start_momentum"]], group[phase["end_momentum"]]
                self._set_momentum(group, self._anneal(*ends, part))
        return rates


def phases(total_steps: int, pct_start: float, three_phase: bool) -> list[dict[str, Any]]:
    """Where each phase of one cycle ends, and between which of a group's numbers it goes."""
    up = float(pct_start * total_steps)
    rates = ["initial_lr", "max_lr", *(["initial_lr"] if three_phase else []), "min_lr"]
    momenta = ["max_momentum", "base_momentum", "max_momentum", "max_momentum"]
    ends = [up - 1, *([2 * up - 2] if three_phase else []), total_steps - 1]
    return [
        {
            "end_step": end,
            "start_lr": rates[i],
            "end_lr": rates[i + 1],
            "start_momentum": momenta[i],
            "end_momentum": momenta[i + 1],
        }
        for i, end in enumerate(ends)
    ]


def positive(scheduler: LRScheduler, name: str, number: Any) -> None:
    """Raise ArgumentError unless an integer > 0 was given."""
    if not isinstance(number, int) or number <= 0:
        raise ArgumentError(
            f"{type(scheduler).__name__}: got {name}={number!r}; wanted an integer > 0"
        )
