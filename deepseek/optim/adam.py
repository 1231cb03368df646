"""Adam and its kin: steps scaled by running averages of the gradient and of its square.

Corrections of the averages' bias towards zero are computed in float64: 1 - beta^t is a small
difference of numbers close to 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import float64
from deepseek.ops import abs, maximum, sqrt, square, where  # noqa: A004
from deepseek.optim.optimizer import Optimizer
from deepseek.optim.rule import Group, Hyper, Slots, decayed

BOUNDS: dict[str, tuple[float, float | None]] = {
    "lr": (0, None),
    "betas": (0, 1),
    "eps": (0, None),
    "weight_decay": (0, None),
}


class Adam(Optimizer):
    """p -= lr * m / (sqrt(v) + eps), m and v freed of their bias (Kingma and Ba, arXiv:1412.6980).

    m and v are running averages of the gradient and of its square. `weight_decay` adds to the
    gradient unless it is decoupled. With `amsgrad`, v is the largest so far (Reddi et al., ICLR
    2018).

    >>> p = ds.nn.Parameter(ds.ones(2))
    >>> optimizer = ds.optim.Adam([p], lr=0.5)
    >>> (p * p).sum().backward()
    >>> optimizer.step()
    >>> [round(x, 4) for x in p.tolist()]
    [0.5, 0.5]
    """

    bounds = BOUNDS

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
        decoupled_weight_decay: bool = False,
    ) -> None:
        options = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad,
            "maximize": maximize, "decoupled_weight_decay": decoupled_weight_decay,
        }  # fmt: skip
        super().__init__(params, options)

    def state_names(self, group: Group, p: Tensor) -> Sequence[str]:
        names = ("step", "exp_avg", "exp_avg_sq")
        return (*names, "max_exp_avg_sq") if group["amsgrad"] else names

    def factors(self, h: Hyper, s: Slots) -> dict[str, Tensor]:
        bias1, bias2 = biases(h, s)
        return {"step_size": h.lr / bias1, "scale": sqrt(bias2)}

    def rule(self, p: Tensor, g: Tensor, s: Slots, h: Hyper) -> Tensor:
        p, g = decayed(p, g, h, h.decoupled_weight_decay)
        m, v = averages(g, s, h)
        if h.amsgrad:
            v = s.max_exp_avg_sq = maximum(s.max_exp_avg_sq, v)
        return p - h.step_size * (m / (sqrt(v) / h.scale + h.eps))


class AdamW(Adam):
    """Adam with decoupled weight decay: p also shrinks by lr * weight_decay in each step.

    Loshchilov and Hutter, arXiv:1711.05101.

    >>> p = ds.nn.Parameter(ds.ones(2))
    >>> optimizer = ds.optim.AdamW([p], lr=0.5, weight_decay=0.5)
    >>> (p * p).sum().backward()
    >>> optimizer.step()
    >>> [round(x, 4) for x in p.tolist()]
    [0.25, 0.25]
    """

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
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize,
            decoupled_weight_decay=True,
        )  # fmt: skip


class Adamax(Optimizer):
    """Adam in the maximum norm: p -= lr * m / u, m freed of its bias (arXiv:1412.6980, section 7).

    u = max(beta2 * u, |g| + eps).

    >>> p = ds.nn.Parameter(ds.ones(2))
    >>> optimizer = ds.optim.Adamax([p], lr=0.5)
    >>> (p * p).sum().backward()
    >>> optimizer.step()
    >>> p.tolist()
    [0.5, 0.5]
    """

    bounds = BOUNDS

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        options = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, options)

    def state_names(self, group: Group, p: Tensor) -> Sequence[str]:
        return "step", "exp_avg", "exp_inf"

    def factors(self, h: Hyper, s: Slots) -> dict[str, Tensor]:
        return {"step_size": h.lr / biases(h, s)[0]}

    def rule(self, p: Tensor, g: Tensor, s: Slots, h: Hyper) -> Tensor:
        beta1, beta2 = h.betas
        p, g = decayed(p, g, h)
        m = s.exp_avg = beta1 * s.exp_avg + (1 - beta1) * g
        u = s.exp_inf = maximum(beta2 * s.exp_inf, abs(g) + h.eps)
        return p - h.step_size * (m / u)


class NAdam(Optimizer):
    """Adam with Nesterov's momentum (Dozat, ICLR workshop 2016).

    p -= lr * ((1 - mu_t) / (1 - M_t) * g + mu_next / (1 - M_next) * m) / (sqrt(v) + eps), where
    mu_t = beta1 * (1 - 0.96^(t * momentum_decay) / 2) and M_t is the product of mu_1 to mu_t.

    >>> p = ds.nn.Parameter(ds.ones(2))
    >>> optimizer = ds.optim.NAdam([p], lr=0.5)
    >>> (p * p).sum().backward()
    >>> optimizer.step()
    >>> bool((p < 0.6).all())
    True
    """

    bounds = BOUNDS | {"momentum_decay": (0, None)}
    scalars = {"step": 0.0, "mu_product": 1.0}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        options = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "momentum_decay": momentum_decay, "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, options)

    def state_names(self, group: Group, p: Tensor) -> Sequence[str]:
        return "step", "mu_product", "exp_avg", "exp_avg_sq"

    def factors(self, h: Hyper, s: Slots) -> dict[str, Tensor]:
        steps = s.step.astype(float64)
        mu, mu_next = (
            h.betas[0] * (1 - 0.5 * 0.96 ** (t * h.momentum_decay)) for t in (steps, steps + 1)
        )
        product = s.mu_product = s.mu_product * mu
        return {
            "along_g": h.lr * (1 - mu) / (1 - product),
            "along_m": h.lr * mu_next / (1 - product * mu_next),
            "scale": sqrt(biases(h, s)[1]),
        }

    def rule(self, p: Tensor, g: Tensor, s: Slots, h: Hyper) -> Tensor:
        p, g = decayed(p, g, h, h.decoupled_weight_decay)
        m, v = averages(g, s, h)
        return p - (h.along_g * g + h.along_m * m) / (sqrt(v) / h.scale + h.eps)


class RAdam(Optimizer):
    """Adam that waits until v can be trusted, then rectifies it (Liu et al., arXiv:1908.03265).

    With rho_inf = 2 / (1 - beta2) - 1 and rho = rho_inf - 2 t beta2^t / (1 - beta2^t): for rho <= 5
    p -= lr * m; afterwards m is divided by sqrt(v) + eps and multiplied by
    sqrt((rho - 4)(rho - 2) rho_inf / ((rho_inf - 4)(rho_inf - 2) rho)).

    >>> p = ds.nn.Parameter(ds.ones(2))
    >>> optimizer = ds.optim.RAdam([p], lr=0.25)
    >>> (p * p).sum().backward()
    >>> optimizer.step()
    >>> p.tolist()
    [0.5, 0.5]
    """

    bounds = BOUNDS

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        options = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, options)

    def state_names(self, group: Group, p: Tensor) -> Sequence[str]:
        return "step", "exp_avg", "exp_avg_sq"

    def factors(self, h: Hyper, s: Slots) -> dict[str, Tensor]:
        beta2, steps = h.betas[1], s.step.astype(float64)
        bias1, bias2 = biases(h, s)
        most = 2 / (1 - beta2) - 1
        rho = most - 2 * steps * beta2**steps / bias2
        trusted = (rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho)
        return {
            "step_size": h.lr / bias1,
            "rho": rho,
            "scale": sqrt(bias2 * where(rho > 5, trusted, 0.0)),
        }

    def rule(self, p: Tensor, g: Tensor, s: Slots, h: Hyper) -> Tensor:
        p, g = decayed(p, g, h, h.decoupled_weight_decay)
        m, v = averages(g, s, h)
        return p - h.step_size * m * where(h.rho > 5, h.scale / (sqrt(v) + h.eps), 1.0)


def averages(g: Tensor, s: Slots, h: Hyper) -> tuple[Tensor, Tensor]:
    """The running averages of the gradient and of its square, with this one taken in."""
    beta1, beta2 = h.betas
    m = s.exp_avg = beta1 * s.exp_avg + (1 - beta1) * g
    v = s.exp_avg_sq = beta2 * s.exp_avg_sq + (1 - beta2) * square(g)
    return m, v


def biases(h: Hyper, s: Slots) -> tuple[Tensor, Tensor]:
    """How much of a full average those of t steps are: 1 - beta^t."""
    steps = s.step.astype(float64)
    return 1 - h.betas[0] ** steps, 1 - h.betas[1] ** steps
