"""Averages of weights over training: exponential moving averages and stochastic weight averaging.

An averaged model is a Module with weights of its own. `update_parameters` is ordinary ops on them,
so that inside `@ds.jit` it is part of the compiled step.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

from deepseek.errors import ArgumentError, unknown
from deepseek.frontend.tensor import Tensor, no_grad
from deepseek.ir.dtype import int64
from deepseek.nn.module import Module
from deepseek.nn.parameter import assign, computed_full, settle
from deepseek.ops import where
from deepseek.optim.lr_scheduler.base import LRScheduler, lrs, per_group
from deepseek.optim.optimizer import Optimizer
from deepseek.optim.rule import wide

Average = Callable[[Tensor, Tensor, Tensor], Tensor]
MultiAverage = Callable[[list[Tensor], list[Tensor], Tensor], None]

__all__ = [
    "EMA", "SWALR", "AveragedModel", "get_ema_avg_fn", "get_ema_multi_avg_fn", "get_swa_avg_fn",
    "get_swa_multi_avg_fn", "update_bn",
]  # fmt: skip


class AveragedModel(Module):
    """A copy of a model whose weights are the average of those it was shown.

    `update_parameters` takes them in: the first are copied, then the average is that of
    `avg_fn(average, new, count)`, of `multi_avg_fn(averages, news, count)`, which assigns the
    averages itself, or by default the mean (stochastic weight averaging, Izmailov et al.,
    arXiv:1803.05407). Buffers are averaged with `use_buffers`, else copied.

    >>> model = ds.nn.Linear(1, 1, bias=False)
    >>> averaged = ds.optim.swa_utils.AveragedModel(model)
    >>> for value in [1.0, 2.0, 6.0]:
    ...     _ = ds.nn.init.constant_(model.weight, value)
    ...     averaged.update_parameters(model)
    >>> averaged(ds.ones((1, 1))).item(), averaged.n_averaged.item()
    (3.0, 3)
    """

    def __init__(
        self,
        model: Module,
        avg_fn: Average | None = None,
        multi_avg_fn: MultiAverage | None = None,
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise ArgumentError("AveragedModel: got avg_fn and multi_avg_fn; wanted one of them")
        self.module = copy.deepcopy(model)
        self.register_buffer("n_averaged", computed_full((), 0, int64))
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Take in the weights that `model` has now."""
        mine: list[Tensor] = list(self.module.parameters())
        new: list[Tensor] = list(model.parameters())
        copied = list(zip(self.module.buffers(), model.buffers(), strict=True))
        if len(mine) != len(new):
            raise ArgumentError(
                f"update_parameters: got a model of {len(new)} parameters; wanted {len(mine)}"
            )
        if self.use_buffers:
            averaged = [(a, b) for a, b in copied if a.dtype.is_float]
            copied = [(a, b) for a, b in copied if not a.dtype.is_float]
            mine += [a for a, _ in averaged]
            new += [b for _, b in averaged]
        average = self.multi_avg_fn or one_by_one(self.avg_fn or get_swa_avg_fn())
        with no_grad():
            average(mine, new, self.n_averaged)
            for a, b in copied:
                assign(a, b.detach())
            assign(self.n_averaged, self.n_averaged + 1)
        settle()


class EMA(AveragedModel):
    """An exponential moving average of a model's weights: average = decay * average + (1 - decay) *
    weights, starting from the first weights that it is shown.

    >>> model = ds.nn.Linear(1, 1, bias=False)
    >>> ema = ds.optim.EMA(model, decay=0.5)
    >>> for value in [1.0, 2.0, 4.0]:
    ...     _ = ds.nn.init.constant_(model.weight, value)
    ...     ema.update_parameters(model)
    >>> ema(ds.ones((1, 1))).item()
    2.75
    """

    def __init__(self, model: Module, decay: float = 0.999, use_buffers: bool = False) -> None:
        super().__init__(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=use_buffers)
        self.decay = decay


def get_ema_avg_fn(decay: float = 0.999) -> Average:
    """decay * average + (1 - decay) * new, for one tensor.

    Raises ArgumentError unless 0 <= decay <= 1.

    >>> ds.optim.swa_utils.get_ema_avg_fn(0.75)(ds.asarray(0.0), ds.asarray(4.0), 1).item()
    1.0
    """
    if not 0 <= decay <= 1:
        raise ArgumentError(f"decay: got {decay!r}; wanted a number >= 0 and <= 1")

    def ema(average: Tensor, new: Tensor, count: Any) -> Tensor:
        return decay * average + (1 - decay) * new

    return ema


def get_swa_avg_fn() -> Average:
    """The mean of `count` tensors so far and a new one.

    >>> ds.optim.swa_utils.get_swa_avg_fn()(ds.asarray(2.0), ds.asarray(5.0), 2).item()
    3.0
    """

    def mean(average: Tensor, new: Tensor, count: Any) -> Tensor:
        count = count.astype(average.dtype) if isinstance(count, Tensor) else count
        return average + (new - average) / (count + 1)

    return mean


def get_ema_multi_avg_fn(decay: float = 0.999) -> MultiAverage:
    """`get_ema_avg_fn` for lists of tensors: assigns the averages.

    >>> average, new = ds.asarray([0.0]), ds.asarray([4.0])
    >>> ds.optim.swa_utils.get_ema_multi_avg_fn(0.75)([average], [new], ds.asarray(1))
    >>> average.tolist()
    [1.0]
    """
    return one_by_one(get_ema_avg_fn(decay))


def get_swa_multi_avg_fn() -> MultiAverage:
    """`get_swa_avg_fn` for lists of tensors: assigns the averages.

    >>> average, new = ds.asarray([2.0]), ds.asarray([5.0])
    >>> ds.optim.swa_utils.get_swa_multi_avg_fn()([average], [new], ds.asarray(2))
    >>> average.tolist()
    [3.0]
    """
    return one_by_one(get_swa_avg_fn())


def one_by_one(average: Average) -> MultiAverage:
    """Assign averages by a function for one; the first of all are copied."""

    def assigned(averages: list[Tensor], news: list[Tensor], count: Tensor) -> None:
        with no_grad():
            for held, new in zip(averages, news, strict=True):
                made = average(wide(held), wide(new), count)
                assign(held, where(count == 0, new.astype(held.dtype), made.astype(held.dtype)))

    return assigned


def update_bn(loader: Iterable[Any], model: Module) -> None:
    """Compute the running statistics of a model's batch norms anew, as means over `loader`.

    Its elements are batches of inputs, or sequences that begin with one. Averaged weights want
    this before they are used, since their activations were never seen.

    >>> model = ds.nn.BatchNorm1d(1)
    >>> batches = [ds.asarray([[1.0], [3.0]]), ds.asarray([[5.0], [7.0]])]
    >>> ds.optim.swa_utils.update_bn(batches, model)
    >>> model.running_mean.tolist()
    [4.0]
    """
    norms = [m for m in model.modules() if getattr(m, "running_mean", None) is not None]
    if not norms:
        return
    was_training = model.training
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None
    model.train()
    try:
        with no_grad():
            for batch in loader:
                model(batch[0] if isinstance(batch, (list, tuple)) else batch)
                settle()
    finally:
        for m, momentum in zip(norms, momenta, strict=True):
            m.momentum = momentum
        model.train(was_training)


class SWALR(LRScheduler):
    """From each group's rate to `swa_lr` in `anneal_epochs` steps, along a cosine or a line.

    >>> optimizer = ds.optim.SGD([ds.nn.Parameter(ds.ones(2))], lr=1.0)
    >>> scheduler = ds.optim.swa_utils.SWALR(optimizer, 0.5, 2, anneal_strategy="linear")
    >>> scheduler.step()
    >>> scheduler.get_last_lr()
    [0.75]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: float | list[float],
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ) -> None:
        if anneal_strategy not in ("cos", "linear"):
            raise unknown("anneal_strategy of SWALR", anneal_strategy, ("cos", "linear"))
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ArgumentError(f"SWALR: got anneal_epochs={anneal_epochs!r}; wanted an int >= 0")
        for group, rate in zip(
            optimizer.param_groups, per_group("swa_lr", optimizer, swa_lr), strict=True
        ):
            group["swa_lr"] = rate
        self._anneal_strategy = anneal_strategy
        self.anneal_epochs = anneal_epochs
        super().__init__(optimizer, last_epoch)

    def _share(self, t: int) -> float:
        """How much of `swa_lr` the rate is after t steps."""
        part = max(0.0, min(1.0, t / max(1, self.anneal_epochs)))
        return part if self._anneal_strategy == "linear" else (1 - math.cos(math.pi * part)) / 2

    def get_lr(self) -> list[float]:
        if self._is_initial:
            return lrs(self.optimizer)
        t = self._step_count - 1
        if self.anneal_epochs == 0:
            t = max(1, t)
        before, now = self._share(t - 1), self._share(t)
        rates = []
        for group, lr in zip(self.optimizer.param_groups, lrs(self.optimizer), strict=True):
            goal = group["swa_lr"]
            start = goal if before == 1 else (lr - before * goal) / (1 - before)
            rates.append(goal * now + start * (1 - now))
        return rates
