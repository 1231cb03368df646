"""ReduceLROnPlateau: lower learning rates when a metric stops getting better."""

from __future__ import annotations

import math
from typing import Any

from deepseek.errors import ArgumentError, TraceError, unknown
from deepseek.frontend.tensor import state
from deepseek.optim.lr_scheduler.base import LRScheduler, checked, lrs, per_group, set_lr
from deepseek.optim.optimizer import Optimizer


class ReduceLROnPlateau(LRScheduler):
    """Multiply the rates by `factor` after more than `patience` steps without a better metric.

    Better is lower or, with `mode` 'max', higher than the best so far by more than `threshold`, a
    share of it ('rel') or a difference ('abs'). After that, `cooldown` steps do not count. Rates
    stay at `min_lr` or above; changes below `eps` are not made. `step(metric)` wants the metric's
    value: call it outside `@ds.jit`.

    >>> optimizer = ds.optim.SGD([ds.nn.Parameter(ds.ones(2))], lr=1.0)
    >>> scheduler = ds.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    >>> for loss in [1.0, 1.0, 1.0]:
    ...     scheduler.step(loss)
    >>> scheduler.get_last_lr()
    [0.5]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | list[float] = 0.0,
        eps: float = 1e-8,
    ) -> None:
        if factor >= 1.0:
            raise ArgumentError(f"ReduceLROnPlateau: got factor={factor!r}; wanted a number < 1")
        if mode not in ("min", "max"):
            raise unknown("mode of ReduceLROnPlateau", mode, ("min", "max"))
        if threshold_mode not in ("rel", "abs"):
            raise unknown("threshold_mode of ReduceLROnPlateau", threshold_mode, ("rel", "abs"))
        self.optimizer = checked(self, optimizer)
        self.mode = mode
        self.factor = factor
        self.patience = patience
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self.cooldown = cooldown
        self.eps = eps
        self.min_lrs = per_group("min_lr", optimizer, min_lr)
        self.default_min_lr = None if isinstance(min_lr, (list, tuple)) else min_lr
        self.best = math.inf if mode == "min" else -math.inf
        self.cooldown_counter = 0
        self.num_bad_epochs = 0
        self.last_epoch = 0
        self._last_lr = lrs(optimizer)

    def step(self, metrics: Any, epoch: int | None = None) -> None:  # type: ignore[override]
        """Note the metric, a number or a tensor of one element, and lower the rates if need be."""
        if state.trace is not None:
            raise TraceError(
                "ReduceLROnPlateau.step needs the value of its metric, which is not known while "
                "@ds.jit traces the function\n"
                "  help: return the metric from the compiled step, and call scheduler.step(metric) "
                "after it"
            )
        value = float(metrics)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        if self.is_better(value, self.best):
            self.best = value
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.in_cooldown:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._reduce()
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0
        self._last_lr = lrs(self.optimizer)

    @property
    def in_cooldown(self) -> bool:
        """Whether a reduction is so recent that steps do not count."""
        return self.cooldown_counter > 0

    def is_better(self, value: float, best: float) -> bool:
        """Whether a metric is better than the best by more than the threshold."""
        sign = 1 if self.mode == "min" else -1
        if self.threshold_mode == "rel":
            return sign * value < sign * best * (1 - sign * self.threshold)
        return sign * value < sign * best - self.threshold

    def _reduce(self) -> None:
        groups = self.optimizer.param_groups
        if len(groups) != len(self.min_lrs):
            if self.default_min_lr is None:
                raise ArgumentError(
                    f"ReduceLROnPlateau: got min_lr for {len(self.min_lrs)} groups; the optimizer "
                    f"has {len(groups)} by now\n  help: pass one min_lr for all"
                )
            self.min_lrs = [self.default_min_lr] * len(groups)
        for group, least, lr in zip(groups, self.min_lrs, lrs(self.optimizer), strict=True):
            lower = max(lr * self.factor, least)
            if lr - lower > self.eps:
                set_lr(group, lower)
