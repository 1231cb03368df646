"""Adam and AdamW: steps scaled by running averages of the gradient and of its square."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from deepseek.errors import ArgumentError
from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import float64
from deepseek.nn.parameter import assign
from deepseek.ops import maximum, sqrt, square
from deepseek.optim.optimizer import Group, Optimizer, at_least, decayed, gradient_of, hyper, wide


class Adam(Optimizer):
    """p -= lr * m / (sqrt(v) + eps), m and v the averages freed of their bias towards zero.

    `weight_decay` adds to the gradient (L2 regularisation); AdamW decays the parameters instead.
    With `amsgrad`, v is the largest so far.
    """

    decouples_decay = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
            },
        )

    def check(self, group: Group) -> None:
        for name in ("lr", "eps", "weight_decay"):
            at_least(group, name, 0.0)
        at_least(group, "betas", 0.0, below=1.0)
        if len(group["betas"]) != 2:
            raise ArgumentError(f"betas: got {group['betas']!r}; wanted two numbers")

    def state_names(self, group: Group) -> Sequence[str]:
        names = ("step", "exp_avg", "exp_avg_sq")
        return (*names, "max_exp_avg_sq") if group["amsgrad"] else names

    def update(self, group: Group, parameters: Sequence[Tensor]) -> None:
        lr = hyper(group, "lr")
        beta1, beta2 = hyper(group, "betas", 0), hyper(group, "betas", 1)
        for step, members in self.advanced(group, parameters):
            # 0-d and in float64: 1 - beta ** step is a small difference of numbers close to 1.
            steps = step.astype(float64)
            step_size = lr / (1 - beta1**steps)
            scale = sqrt(1 - beta2**steps)
            for dtype in {p.dtype.accumulator: None for p in members}:
                factors = step_size.astype(dtype), scale.astype(dtype)
                for p in members:
                    if p.dtype.accumulator is dtype:
                        self._update_one(p, group, *factors)

    def _update_one(self, p: Tensor, group: Group, step_size: Tensor, scale: Tensor) -> None:
        lr, eps, weight_decay = (hyper(group, name) for name in ("lr", "eps", "weight_decay"))
        beta1, beta2 = hyper(group, "betas", 0), hyper(group, "betas", 1)
        own = self.state[p]
        g, value = gradient_of(p, group), wide(p)
        if self.decouples_decay:
            value = value * (1 - lr * weight_decay)
        else:
            g = decayed(g, p, weight_decay)
        m = beta1 * wide(own["exp_avg"]) + (1 - beta1) * g
        v = beta2 * wide(own["exp_avg_sq"]) + (1 - beta2) * square(g)
        assign(own["exp_avg"], m.astype(p.dtype))
        assign(own["exp_avg_sq"], v.astype(p.dtype))
        if group["amsgrad"]:
            v = maximum(wide(own["max_exp_avg_sq"]), v)
            assign(own["max_exp_avg_sq"], v.astype(p.dtype))
        denominator = sqrt(v) / scale + eps
        assign(p, (value - step_size * (m / denominator)).astype(p.dtype))


class AdamW(Adam):
    """Adam with decoupled weight decay: p shrinks by lr * weight_decay in each step."""

    decouples_decay = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)
