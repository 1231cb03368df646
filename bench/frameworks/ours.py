"""deepseek: compiled by `@ds.jit`, eager, and on the reference interpreter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from neutral import ADAMW, Case, Framework, Spec, Workload

import deepseek as ds

VARIANTS = {
    "ours": {
        "label": "deepseek",
        "environment": {"DS_NUM_THREADS": "{threads}", "DS_CACHE": "{cache}"},
        "peer": False,
    },
    "ours-eager": {
        "label": "deepseek eager",
        "environment": {"DS_NUM_THREADS": "{threads}", "DS_CACHE": "{cache}"},
        "peer": False,
    },
    "ours-reference": {
        "label": "deepseek reference",
        "environment": {
            "DS_BACKEND": "reference",
            "DS_CACHE": "{cache}",
            "OPENBLAS_NUM_THREADS": "{threads}",
        },
        "peer": False,
        "once": True,
    },
}


class OurOps:
    relu = staticmethod(ds.relu)
    gelu = staticmethod(ds.gelu)
    sigmoid = staticmethod(ds.sigmoid)
    cross_entropy = staticmethod(ds.nn.functional.cross_entropy)
    reshape = staticmethod(ds.reshape)

    def softmax(self, x: ds.Tensor) -> ds.Tensor:
        return ds.softmax(x, -1)

    def layer_norm(self, x: ds.Tensor, weight: ds.Tensor, bias: ds.Tensor) -> ds.Tensor:
        return ds.layer_norm(x, (x.shape[-1],), weight, bias)

    def sum(self, x: ds.Tensor, axis: int) -> ds.Tensor:
        return ds.sum(x, axis=axis)

    def transpose(self, x: ds.Tensor, axes: tuple[int, ...]) -> ds.Tensor:
        return ds.permute_dims(x, axes)

    def concat(self, tensors: Sequence[ds.Tensor], axis: int) -> ds.Tensor:
        return ds.concat(list(tensors), axis=axis)

    def take(self, x: ds.Tensor, rows: ds.Tensor) -> ds.Tensor:
        return ds.nn.functional.embedding(rows, x)


class Ours:
    versions = {"deepseek": ds.__version__}
    ops = OurOps()

    def __init__(self, compiled: bool) -> None:
        self.compiled = compiled

    def tensor(self, array: np.ndarray[Any, Any]) -> ds.Tensor:
        return ds.asarray(array)

    def ready(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compiled, or computing what it returns before it returns."""
        if self.compiled:
            return ds.jit(function)

        def eager(*args: Any) -> Any:
            out = function(*args)
            for tensor in listed(out):
                tensor.evaluate()
            return out

        return eager

    def arrays(self, out: Any) -> list[np.ndarray[Any, Any]]:
        return arrays(out)

    def function(
        self, body: Callable[..., Any], weights: Sequence[ds.Tensor], args: Sequence[Spec]
    ) -> Callable[..., Any]:
        # Weights are read from outside, as those of a layer are.
        ops = self.ops

        def function(*args: ds.Tensor) -> Any:
            return body(ops, *weights, *args)

        return self.ready(function)

    def compiles(self) -> dict[str, int]:
        """How much has been compiled so far."""
        counted = ds.counters
        names = ("traces", "programs", "kernels")
        return {name: getattr(counted, name) for name in names}

    def case(self, workload: Workload, inputs: list[ds.Tensor]) -> Case:
        body, ops, n = workload.body, self.ops, workload.parameters
        if workload.kind == "function":
            args = inputs[n:]
            run = self.function(body, inputs[:n], workload.inputs[n:])
            return Case(lambda: run(*args), arrays)
        if workload.kind == "gradient":

            def loss_of(*args: ds.Tensor) -> ds.Tensor:
                return body(ops, *args)

            by_parameters = ds.value_and_grad(loss_of, tuple(range(n)))

            def gradient(*args: ds.Tensor) -> Any:
                loss, gradients = by_parameters(*args)
                return loss, *gradients

            run = self.ready(gradient)
            return Case(lambda: run(*inputs), arrays)
        return self.trained(workload, inputs)

    def trained(self, workload: Workload, inputs: list[ds.Tensor]) -> Case:
        body, ops, n = workload.body, self.ops, workload.parameters
        parameters, rest = [ds.nn.Parameter(p) for p in inputs[:n]], inputs[n:]
        optimizer = ds.optim.AdamW(parameters, **ADAMW)

        def update(*gradients: ds.Tensor) -> tuple[()]:
            for p, g in zip(parameters, gradients, strict=True):
                p.grad = g
            optimizer.step()
            return ()

        def step(*batch: ds.Tensor) -> ds.Tensor:
            optimizer.zero_grad()
            loss = body(ops, *parameters, *batch)
            loss.backward()
            optimizer.step()
            return loss

        if workload.kind == "update":
            run = self.ready(update)
            return Case(lambda: run(*rest), lambda _: arrays(parameters))
        run = self.ready(step)
        return Case(lambda: run(*rest), lambda loss: arrays([loss, *parameters]))


def listed(out: Any) -> Sequence[ds.Tensor]:
    return out if isinstance(out, (tuple, list)) else [out]


def arrays(out: Any) -> list[np.ndarray[Any, Any]]:
    return [tensor.numpy() for tensor in listed(out)]


def make(variant: str, threads: int) -> Framework:
    return Ours(compiled=variant == "ours")
