"""Optimizers for large models and batches: Lion, LAMB and Adafactor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import ml_dtypes

from deepseek.errors import ArgumentError
from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import float64
from deepseek.nn.parameter import computed_full
from deepseek.ops import maximum, mean, minimum, sign, sqrt, square, sum, where  # noqa: A004
from deepseek.optim.adam import BOUNDS, averages, biases
from deepseek.optim.optimizer import Optimizer
from deepseek.optim.rule import Group, Hyper, Slots, decayed, in_range


class Lion(Optimizer):
    """Steps of one size along a sign (Chen et al., arXiv:2302.06675).

    p -= lr * (sign(beta1 * m + (1 - beta1) * g) + weight_decay * p), then
    m = beta2 * m + (1 - beta2) * g. It keeps one average and wants a learning rate 3 to 10 times
    smaller than AdamW's.

    >>> p = ds.nn.Parameter(ds.ones(2))
    >>> optimizer = ds.optim.Lion([p], lr=0.25)
    >>> (p * p).sum().backward()
    >>> optimizer.step()
    >>> p.tolist()
    [0.75, 0.75]
    """

    bounds = {"lr": (0, None), "betas": (0, 1), "weight_decay": (0, None)}
    scalars = {}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        options = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, options)

    def state_names(self, group: Group, p: Tensor) -> Sequence[str]:
        return ("exp_avg",)

    def rule(self, p: Tensor, g: Tensor, s: Slots, h: Hyper) -> Tensor:
        beta1, beta2 = h.betas
        p, g = decayed(p, g, h, decoupled=True)
        direction = sign(beta1 * s.exp_avg + (1 - beta1) * g)
        s.exp_avg = beta2 * s.exp_avg + (1 - beta2) * g
        return p - h.lr * direction


class LAMB(Optimizer):
    """Adam's step, scaled to the norm of each parameter (You et al., arXiv:1904.00962).

    u = m / (sqrt(v) + eps) + weight_decay * p; p -= lr * |p| / |u| * u, where a norm that is 0
    leaves the ratio at 1. m and v are freed of their bias.

    >>> p = ds.nn.Parameter(ds.ones(2))
    >>> optimizer = ds.optim.LAMB([p], lr=0.25, weight_decay=0.0)
    >>> (p * p).sum().backward()
    >>> optimizer.step()
    >>> bool((abs(p - 0.75) < 1e-5).all())
    True
    """

    bounds = BOUNDS

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 1e-2,
        *,
        maximize: bool = False,
    ) -> None:
        options = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, options)

    def state_names(self, group: Group, p: Tensor) -> Sequence[str]:
        return "step", "exp_avg", "exp_avg_sq"

    def factors(self, h: Hyper, s: Slots) -> dict[str, Tensor]:
        bias1, bias2 = biases(h, s)
        return {"share": 1 / bias1, "scale": sqrt(bias2)}

    def rule(self, p: Tensor, g: Tensor, s: Slots, h: Hyper) -> Tensor:
        m, v = averages(g, s, h)
        update = h.share * m / (sqrt(v) / h.scale + h.eps) + h.weight_decay * p
        size, length = norm(p), norm(update)
        known = (size > 0) & (length > 0)
        trust = where(known, size / where(known, length, 1.0), 1.0)
        return p - h.lr * trust * update


class Adafactor(Optimizer):
    """Adam's second moment from the means of its rows and columns (Shazeer and Stern,
    arXiv:1804.04235), with PyTorch's signature and choices.

    For matrices v = R C / mean(R), R and C running means of g^2 over rows and columns with weight
    t^beta2_decay for the new one; otherwise v is the running mean of g^2. u = g / sqrt(v), at
    least eps[0] below the root; p -= a * u / max(1, rms(u) / d), a = max(eps[1], rms(p)) *
    min(lr, 1 / sqrt(t)). An eps[0] of None is the dtype's epsilon.

    >>> p = ds.nn.Parameter(ds.ones(2, 3))
    >>> optimizer = ds.optim.Adafactor([p], lr=0.5)
    >>> (p * p).sum().backward()
    >>> optimizer.step()
    >>> optimizer.state[p]["row_var"].shape, optimizer.state[p]["col_var"].shape
    ((2, 1), (1, 3))
    """

    bounds = {"lr": (0, None), "d": (1, None), "weight_decay": (0, None)}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        options = {
            "lr": lr, "beta2_decay": beta2_decay, "eps": eps, "d": d,
            "weight_decay": weight_decay, "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, options)

    def check(self, group: Group) -> None:
        super().check(group)
        if not group["beta2_decay"] <= 0:
            raise ArgumentError(f"beta2_decay: got {group['beta2_decay']!r}; wanted a number <= 0")
        if len(group["eps"]) != 2:
            raise ArgumentError(f"eps: got {group['eps']!r}; wanted two numbers")
        for i, number in enumerate(group["eps"]):
            if number is not None or i == 1:
                in_range({f"eps[{i}]": number}, f"eps[{i}]", 0, None)

    def state_names(self, group: Group, p: Tensor) -> Sequence[str]:
        return ("step", "row_var", "col_var") if p.ndim > 1 else ("step", "variance")

    def initial(self, name: str, group: Group, p: Tensor) -> Tensor:
        *outer, rows, columns = p.shape if p.ndim > 1 else (1, *p.shape, 1)
        shapes = {"row_var": (*outer, rows, 1), "col_var": (*outer, 1, columns)}
        return computed_full(shapes.get(name, p.shape), 0.0, p.dtype, p)

    def factors(self, h: Hyper, s: Slots) -> dict[str, Tensor]:
        steps = s.step.astype(float64)
        return {"new": steps**h.beta2_decay, "rate": minimum(h.lr, 1 / sqrt(steps))}

    def rule(self, p: Tensor, g: Tensor, s: Slots, h: Hyper) -> Tensor:
        least, least_size = h.eps
        if least is None:
            least = float(ml_dtypes.finfo(p.dtype.numpy).eps)
        size = maximum(least_size, rms(p)) * h.rate
        p, g = decayed(p, g, h, decoupled=True)
        if p.ndim > 1:
            rows = s.row_var = s.row_var + (mean(square(g), -1, keepdims=True) - s.row_var) * h.new
            columns = s.col_var = (
                s.col_var + (mean(square(g), -2, keepdims=True) - s.col_var) * h.new
            )
            v = rows * columns / maximum(mean(rows, -2, keepdims=True), least)
        else:
            v = s.variance = s.variance + (square(g) - s.variance) * h.new
        update = g / sqrt(maximum(v, least * least))
        return p - size / maximum(1.0, rms(update) / h.d) * update


def norm(x: Tensor) -> Tensor:
    """The Euclidean norm of all elements."""
    return sqrt(sum(square(x)))


def rms(x: Tensor) -> Tensor:
    """The root of the mean square of all elements."""
    return sqrt(mean(square(x)))
