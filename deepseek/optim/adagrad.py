"""Adagrad and what came of it: steps divided by the root of a mean or sum of squared gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import float64
from deepseek.nn.parameter import computed_full
from deepseek.ops import sqrt, square
from deepseek.optim.optimizer import Optimizer
from deepseek.optim.rule import Group, Hyper, Slots, decayed, in_range


class Adagrad(Optimizer):
    """p -= lr / (1 + (t - 1) * lr_decay) * g / (sqrt(sum of g^2) + eps).

    Duchi, Hazan and Singer, JMLR 12, 2011.

    >>> p = ds.nn.Parameter(ds.ones(2))
    >>> optimizer = ds.optim.Adagrad([p], lr=0.5)
    >>> (p * p).sum().backward()
    >>> optimizer.step()
    >>> p.tolist()
    [0.5, 0.5]
    """

    bounds = {
        "lr": (0, None),
        "lr_decay": (0, None),
        "weight_decay": (0, None),
        "initial_accumulator_value": (0, None),
        "eps": (0, None),
    }

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
    ) -> None:
        options = {
            "lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value, "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, options)

    def state_names(self, group: Group, p: Tensor) -> Sequence[str]:
        return "step", "sum"

    def initial(self, name: str, group: Group, p: Tensor) -> Tensor:
        return computed_full(p.shape, group["initial_accumulator_value"], p.dtype, p)

    def factors(self, h: Hyper, s: Slots) -> dict[str, Tensor]:
        return {"step_size": h.lr / (1 + (s.step.astype(float64) - 1) * h.lr_decay)}

    def rule(self, p: Tensor, g: Tensor, s: Slots, h: Hyper) -> Tensor:
        p, g = decayed(p, g, h)
        total = s.sum = s.sum + square(g)
        return p - h.step_size * (g / (sqrt(total) + h.eps))


class RMSprop(Optimizer):
    """p -= lr * g / (sqrt(v) + eps), v a running average of g^2 (Hinton, lecture 6e, 2012).

    `centered` takes the square of the gradient's own average from v (Graves, arXiv:1308.0850). With
    `momentum` the steps are summed: b = momentum * b + g / (sqrt(v) + eps), p -= lr * b.

    >>> p = ds.nn.Parameter(ds.ones(2))
    >>> optimizer = ds.optim.RMSprop([p], lr=0.05)
    >>> (p * p).sum().backward()
    >>> optimizer.step()
    >>> bool((abs(p - 0.5) < 1e-5).all())
    True
    """

    bounds = {
        "lr": (0, None),
        "alpha": (0, None),
        "eps": (0, None),
        "weight_decay": (0, None),
        "momentum": (0, None),
    }

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        options = {
            "lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay,
            "momentum": momentum, "centered": centered, "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, options)

    def state_names(self, group: Group, p: Tensor) -> Sequence[str]:
        momentum = ("momentum_buffer",) if group["momentum"] != 0 else ()
        return "step", "square_avg", *momentum, *(("grad_avg",) if group["centered"] else ())

    def rule(self, p: Tensor, g: Tensor, s: Slots, h: Hyper) -> Tensor:
        p, g = decayed(p, g, h)
        v = s.square_avg = h.alpha * s.square_avg + (1 - h.alpha) * square(g)
        if h.centered:
            mean = s.grad_avg = h.alpha * s.grad_avg + (1 - h.alpha) * g
            v = v - square(mean)
        update = g / (sqrt(v) + h.eps)
        if "momentum_buffer" in s:
            update = s.momentum_buffer = h.momentum * s.momentum_buffer + update
        return p - h.lr * update


class Adadelta(Optimizer):
    """p -= lr * d, d = g * sqrt(D + eps) / sqrt(v + eps) (Zeiler, arXiv:1212.5701).

    v and D are running averages of g^2 and of d^2, so that steps have the parameter's own unit.

    >>> p = ds.nn.Parameter(ds.ones(2))
    >>> optimizer = ds.optim.Adadelta([p])
    >>> (p * p).sum().backward()
    >>> optimizer.step()
    >>> bool((p < 1).all())
    True
    """

    bounds = {"lr": (0, None), "eps": (0, None), "weight_decay": (0, None)}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        options = {
            "lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, options)

    def check(self, group: Group) -> None:
        super().check(group)
        in_range(group, "rho", 0, 1, open_=False)

    def state_names(self, group: Group, p: Tensor) -> Sequence[str]:
        return "step", "square_avg", "acc_delta"

    def rule(self, p: Tensor, g: Tensor, s: Slots, h: Hyper) -> Tensor:
        p, g = decayed(p, g, h)
        v = s.square_avg = h.rho * s.square_avg + (1 - h.rho) * square(g)
        delta = g * (sqrt(s.acc_delta + h.eps) / sqrt(v + h.eps))
        s.acc_delta = h.rho * s.acc_delta + (1 - h.rho) * square(delta)
        return p - h.lr * delta
