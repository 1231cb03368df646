"""NumPy, with gradients by a small tape; in float64 it is the reference of all others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tape
from neutral import Case, Framework, Spec, Workload, adamw
from scipy.special import erf, expit

Array = np.ndarray[Any, Any]

VARIANTS = {
    "numpy": {
        "label": "NumPy",
        "environment": {"OPENBLAS_NUM_THREADS": "{threads}", "OMP_NUM_THREADS": "{threads}"},
    }
}


class NumPyOps:
    def relu(self, x: Array) -> Array:
        return np.maximum(x, 0)

    def gelu(self, x: Array) -> Array:
        return 0.5 * x * (1 + erf(x * 0.5**0.5))

    def sigmoid(self, x: Array) -> Array:
        return expit(x)

    def softmax(self, x: Array) -> Array:
        e = np.exp(x - x.max(-1, keepdims=True))
        e /= e.sum(-1, keepdims=True)
        return e

    def layer_norm(self, x: Array, weight: Array, bias: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        variance = np.square(centred).mean(-1, keepdims=True)
        centred /= np.sqrt(variance + 1e-5)
        return centred * weight + bias

    def cross_entropy(self, logits: Array, labels: Array) -> Array:
        shifted = logits - logits.max(-1, keepdims=True)
        log_sums = np.log(np.exp(shifted).sum(-1))
        return (log_sums - shifted[np.arange(len(labels)), labels]).mean()

    def sum(self, x: Array, axis: int) -> Array:
        return x.sum(axis)

    def transpose(self, x: Array, axes: tuple[int, ...]) -> Array:
        return np.ascontiguousarray(x.transpose(axes))

    def reshape(self, x: Array, shape: tuple[int, ...]) -> Array:
        return x.reshape(shape)

    def concat(self, tensors: Sequence[Array], axis: int) -> Array:
        return np.concatenate(tensors, axis)

    def take(self, x: Array, rows: Array) -> Array:
        return x.take(rows, 0)


class NumPyFramework:
    versions = {"numpy": np.__version__}
    ops = NumPyOps()

    def tensor(self, array: Array) -> Array:
        return array

    def arrays(self, out: Any) -> list[Array]:
        return listed(out)

    def function(
        self, body: Callable[..., Any], weights: Sequence[Array], args: Sequence[Spec]
    ) -> Callable[..., Any]:
        return lambda *args: body(self.ops, *weights, *args)

    def case(self, workload: Workload, inputs: list[Array]) -> Case:
        body, n = workload.body, workload.parameters
        if workload.kind == "function":
            return Case(lambda: body(self.ops, *inputs), listed)
        if workload.kind == "gradient":
            return Case(lambda: tape.value_and_grad(body, inputs, n), listed)
        parameters, rest = [p.copy() for p in inputs[:n]], inputs[n:]
        state = [(np.zeros_like(p), np.zeros_like(p)) for p in parameters]
        step = 0

        def update(gradients: Sequence[Array]) -> None:
            nonlocal step
            step += 1
            for i, g in enumerate(gradients):
                parameters[i], *state[i] = adamw(parameters[i], g, *state[i], step, np.sqrt)

        def train() -> Array:
            loss, *gradients = tape.value_and_grad(body, [*parameters, *rest], n)
            update(gradients)
            return loss

        if workload.kind == "update":
            return Case(lambda: update(rest), lambda _: parameters)
        return Case(train, lambda loss: [np.asarray(loss), *parameters])


def listed(results: Any) -> list[Array]:
    return [np.asarray(x) for x in (results if isinstance(results, (tuple, list)) else [results])]


def make(variant: str, threads: int) -> Framework:
    return NumPyFramework()
