"""Stochastic gradient descent, with momentum where asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deepseek.errors import ArgumentError
from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import float32
from deepseek.nn.parameter import assign, computed_full
from deepseek.ops import where
from deepseek.optim.optimizer import (
    Group,
    Optimizer,
    at_least,
    decayed,
    gradient_of,
    hyper,
    wide,
)


class SGD(Optimizer):
    """p -= lr * g, where g is the gradient or its running average.

    b = momentum * b + (1 - dampening) * g, in the first step b = g; with `nesterov` the step goes
    along g + momentum * b, else along b.
    """

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
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
            },
        )

    def check(self, group: Group) -> None:
        for name in ("lr", "momentum", "weight_decay"):
            at_least(group, name, 0.0)
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise ArgumentError(
                f"SGD: got nesterov=True with momentum={group['momentum']} and "
                f"dampening={group['dampening']}; wanted momentum > 0 and dampening 0"
            )

    def state_names(self, group: Group) -> Sequence[str]:
        if group["momentum"] == 0:
            return ()
        return ("momentum_buffer", "step") if group["dampening"] != 0 else ("momentum_buffer",)

    def update(self, group: Group, parameters: Sequence[Tensor]) -> None:
        lr = hyper(group, "lr")
        momentum = hyper(group, "momentum")
        weight_decay = hyper(group, "weight_decay")
        shares = self._shares(group, parameters)
        for p in parameters:
            g = decayed(gradient_of(p, group), p, weight_decay)
            held = self.state[p].get("momentum_buffer")
            if held is not None:
                share = shares.get(p)
                taken = g if share is None else g * share.astype(g.dtype)
                average = momentum * wide(held) + taken
                assign(held, average.astype(held.dtype))
                g = g + momentum * average if group["nesterov"] else average
            assign(p, (wide(p) - lr * g).astype(p.dtype))

    def _shares(self, group: Group, parameters: Sequence[Tensor]) -> dict[Tensor, Tensor]:
        """What part of the gradient a dampened average takes in: all of it in a first step."""
        counted = [p for p in parameters if "step" in self.state[p]]
        shares = {}
        for step, members in self.advanced(group, counted):
            share = where(step == 1, 1.0, 1 - hyper(group, "dampening"))
            shares.update(dict.fromkeys(members, share))
        return shares

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        # PyTorch's layout has no step for SGD: where there is an average, there was a first step.
        saved = state_dict["state"]
        for number, p in enumerate(self.parameters()):
            if "step" in self.state[p] and number in saved and "step" not in saved[number]:
                self.state[p]["step"] = computed_full((), 1.0, float32)
        self._share_steps()
