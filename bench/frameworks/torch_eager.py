"""PyTorch as it comes: an op at a time, its own optimizer in its fused form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from neutral import ADAMW, Case, Framework, Spec, Workload
from torch import Tensor
from torch.nn import functional

VARIANTS = {
    "torch": {
        "label": "torch",
        "environment": {"OMP_NUM_THREADS": "{threads}"},
        "allocator": True,
    }
}


class TorchOps:
    relu = staticmethod(functional.relu)
    gelu = staticmethod(functional.gelu)
    sigmoid = staticmethod(torch.sigmoid)
    cross_entropy = staticmethod(functional.cross_entropy)
    reshape = staticmethod(torch.reshape)

    def softmax(self, x: Tensor) -> Tensor:
        return torch.softmax(x, -1)

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.layer_norm(x, (x.shape[-1],), weight, bias)

    def sum(self, x: Tensor, axis: int) -> Tensor:
        return torch.sum(x, axis)

    def transpose(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        return x.permute(axes).contiguous()

    def concat(self, tensors: Sequence[Tensor], axis: int) -> Tensor:
        return torch.cat(tuple(tensors), axis)

    def take(self, x: Tensor, rows: Tensor) -> Tensor:
        return functional.embedding(rows, x)


def as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


class Torch:
    """`prepare` is what is done to functions before they are called: nothing, or torch.compile."""

    versions = {"torch": torch.__version__}
    ops = TorchOps()

    def __init__(
        self,
        threads: int,
        prepare: Callable[[Callable[..., Any]], Callable[..., Any]] = as_it_is,
        fused: bool = True,
    ) -> None:
        torch.set_num_threads(threads)
        self.prepare = prepare
        self.fused = fused

    def tensor(self, array: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(array)

    def arrays(self, out: Any) -> list[np.ndarray[Any, Any]]:
        return arrays(out)

    def function(
        self, body: Callable[..., Any], weights: Sequence[Tensor], args: Sequence[Spec]
    ) -> Callable[..., Any]:
        ops = self.ops
        function = self.prepare(lambda *args: body(ops, *weights, *args))

        def run(*args: Tensor) -> Any:
            with torch.inference_mode():
                return function(*args)

        return run

    def case(self, workload: Workload, inputs: list[Tensor]) -> Case:
        body, ops, n = workload.body, self.ops, workload.parameters
        if workload.kind == "function":
            run, args = self.function(body, inputs[:n], workload.inputs[n:]), inputs[n:]
            return Case(lambda: run(*args), arrays)
        parameters = [p.clone().requires_grad_() for p in inputs[:n]]
        rest = inputs[n:]
        loss_of = self.prepare(lambda *args: body(ops, *args))
        if workload.kind == "gradient":

            def gradient() -> Any:
                loss = loss_of(*parameters, *rest)
                return loss, *torch.autograd.grad(loss, parameters)

            return Case(gradient, arrays)
        optimizer = torch.optim.AdamW(parameters, **ADAMW, fused=self.fused)
        update = self.prepare(optimizer.step)

        def step() -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(*parameters, *rest)
            loss.backward()
            update()
            return loss

        if workload.kind == "training":
            return Case(step, lambda loss: arrays([loss, *parameters]))
        for p, g in zip(parameters, rest, strict=True):
            p.grad = g
        return Case(update, lambda _: arrays(parameters))


def arrays(out: Any) -> list[np.ndarray[Any, Any]]:
    tensors = out if isinstance(out, (tuple, list)) else [out]
    return [tensor.detach().numpy() for tensor in tensors]


def make(variant: str, threads: int) -> Framework:
    return Torch(threads)
