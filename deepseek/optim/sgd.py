"""Gradient descent: SGD with momentum, its averaged form ASGD, and Rprop, which reads signs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deepseek.errors import ArgumentError
from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import float64
from deepseek.nn.parameter import computed_full
from deepseek.ops import clip, maximum, sign, where
from deepseek.optim.optimizer import Optimizer
from deepseek.optim.rule import Group, Hyper, Slots, decayed


class SGD(Optimizer):
    """Stochastic gradient descent: p -= lr * g, where g is the gradient or its running average.

    b = momentum * b + (1 - dampening) * g, in the first step b = g; the step goes along b or, with
    `nesterov`, along g + momentum * b (Sutskever et al., ICML 2013).

    >>> p = ds.nn.Parameter(ds.ones(2))
    >>> optimizer = ds.optim.SGD([p], lr=0.5)
    >>> (p * p).sum().backward()
    >>> optimizer.step()
    >>> p.tolist()
    [0.0, 0.0]
    """

    bounds = {"lr": (0, None), "momentum": (0, None), "weight_decay": (0, None)}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        options = {
            "lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay,
            "nesterov": nesterov, "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, options)

    def check(self, group: Group) -> None:
        super().check(group)
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise ArgumentError(
                f"SGD: got nesterov=True with momentum={group['momentum']} and "
                f"dampening={group['dampening']}; wanted momentum > 0 and dampening 0"
            )

    def state_names(self, group: Group, p: Tensor) -> Sequence[str]:
        if group["momentum"] == 0:
            return ()
        return ("momentum_buffer", "step") if group["dampening"] != 0 else ("momentum_buffer",)

    def factors(self, h: Hyper, s: Slots) -> dict[str, Tensor]:
        if "step" not in s:
            return {}
        # What part of the gradient a dampened average takes in: all of it in a first step.
        return {"share": 1 - h.dampening * (s.step > 1).astype(float64)}

    def rule(self, p: Tensor, g: Tensor, s: Slots, h: Hyper) -> Tensor:
        p, g = decayed(p, g, h)
        if "momentum_buffer" in s:
            average = h.momentum * s.momentum_buffer + (h.share * g if "step" in s else g)
            s.momentum_buffer = average
            g = g + h.momentum * average if h.nesterov else average
        return p - h.lr * g

    def completed(self, own: Mapping[str, Any], group: Group) -> Mapping[str, Any]:
        # PyTorch has no step for SGD: where there is an average, there was a first step.
        if own.get("momentum_buffer") is None or group["momentum"] == 0:
            return {}
        if group["dampening"] == 0:
            return {"momentum_buffer": own["momentum_buffer"]}
        return {"step": 1.0, **own}


class ASGD(Optimizer):
    """Averaged SGD (Polyak and Juditsky, 1992): p -= eta * (g + lambd * p); `ax` averages p.

    eta = lr / (1 + lambd * lr * t)^alpha. `ax` in the state is the value up to step t0 + 2, and
    then the mean of the values from there on.

    >>> p = ds.nn.Parameter(ds.ones(2))
    >>> optimizer = ds.optim.ASGD([p], lr=0.25, lambd=0.0)
    >>> (p * p).sum().backward()
    >>> optimizer.step()
    >>> p.tolist()
    [0.5, 0.5]
    """

    bounds = {"lr": (0, None), "weight_decay": (0, None)}
    scalars = {"step": 0.0, "eta": 0.0, "mu": 1.0}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        options = {
            "lr": lr, "lambd": lambd, "alpha": alpha, "t0": t0, "weight_decay": weight_decay,
            "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, options)

    def state_names(self, group: Group, p: Tensor) -> Sequence[str]:
        return "step", "eta", "mu", "ax"

    def factors(self, h: Hyper, s: Slots) -> dict[str, Tensor]:
        steps = s.step.astype(s.eta.dtype)
        eta, share = where(steps == 1, h.lr, s.eta), s.mu
        s.eta = h.lr / (1 + h.lambd * h.lr * steps) ** h.alpha
        s.mu = 1 / maximum(steps - h.t0, 1.0)
        return {"eta": eta, "share": share}

    def rule(self, p: Tensor, g: Tensor, s: Slots, h: Hyper) -> Tensor:
        p, g = decayed(p, g, h)
        p = p * (1 - h.lambd * h.eta) - h.eta * g
        s.ax = where(h.share == 1, p, s.ax + (p - s.ax) * h.share)
        return p


class Rprop(Optimizer):
    """Resilient backpropagation (Riedmiller and Braun, 1993): p -= sign(g) * size.

    Where the gradient keeps its sign, the element's size grows by etas[1]; where it changes, it
    shrinks by etas[0] and the element rests for a step. Sizes stay within `step_sizes`.

    >>> p = ds.nn.Parameter(ds.ones(2))
    >>> optimizer = ds.optim.Rprop([p], lr=0.5)
    >>> (p * p).sum().backward()
    >>> optimizer.step()
    >>> p.tolist()
    [0.5, 0.5]
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        *,
        maximize: bool = False,
    ) -> None:
        options = {"lr": lr, "etas": etas, "step_sizes": step_sizes, "maximize": maximize}
        super().__init__(params, options)

    def check(self, group: Group) -> None:
        super().check(group)
        if len(group["etas"]) != 2 or not 0.0 < group["etas"][0] < 1.0 < group["etas"][1]:
            raise ArgumentError(f"etas: got {group['etas']!r}; wanted 0 < etas[0] < 1 < etas[1]")
        if len(group["step_sizes"]) != 2:
            raise ArgumentError(f"step_sizes: got {group['step_sizes']!r}; wanted (least, most)")

    def state_names(self, group: Group, p: Tensor) -> Sequence[str]:
        return "step", "prev", "step_size"

    def initial(self, name: str, group: Group, p: Tensor) -> Tensor:
        fill = float(group["lr"]) if name == "step_size" else 0.0
        return computed_full(p.shape, fill, p.dtype, p)

    def factors(self, h: Hyper, s: Slots) -> dict[str, Tensor]:
        return {"steps": s.step}

    def rule(self, p: Tensor, g: Tensor, s: Slots, h: Hyper) -> Tensor:
        shrink, grow = h.etas
        turn = g * s.prev
        size = where(h.steps == 1, h.lr, s.step_size)
        size = where(turn > 0, size * grow, where(turn < 0, size * shrink, size))
        size = clip(size, *h.step_sizes)
        g = where(turn < 0, 0.0, g)
        s.step_size = size
        s.prev = g
        return p - sign(g) * size
