"""JAX with jax.jit; a training step is one function from state to state, its buffers donated."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from neutral import Case, Framework, Spec, Workload, adamw

VARIANTS = {
    "jax": {
        "label": "JAX",
        "environment": {
            "JAX_PLATFORMS": "cpu",
            "NPROC": "{threads}",  # what XLA sizes its thread pool by
            "JAX_COMPILATION_CACHE_DIR": "{cache}",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        },
        "allocator": True,
    }
}


class JaxOps:
    relu = staticmethod(jax.nn.relu)
    gelu = staticmethod(functools.partial(jax.nn.gelu, approximate=False))
    sigmoid = staticmethod(jax.nn.sigmoid)
    softmax = staticmethod(jax.nn.softmax)
    reshape = staticmethod(jnp.reshape)
    transpose = staticmethod(jnp.transpose)

    def layer_norm(self, x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
        centred = x - x.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + 1e-5) * weight + bias

    def cross_entropy(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        logs = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(logs, labels[:, None], 1).mean()

    def sum(self, x: jax.Array, axis: int) -> jax.Array:
        return x.sum(axis)

    def concat(self, tensors: Sequence[jax.Array], axis: int) -> jax.Array:
        return jnp.concatenate(list(tensors), axis)

    def take(self, x: jax.Array, rows: jax.Array) -> jax.Array:
        return x.at[rows].get(mode="promise_in_bounds")


class Jax:
    versions = {"jax": jax.__version__}
    ops = JaxOps()

    def tensor(self, array: np.ndarray[Any, Any]) -> jax.Array:
        # Indices are int32, which is what JAX has unless it is told otherwise.
        return jax.block_until_ready(jnp.array(array))

    def arrays(self, out: Any) -> list[np.ndarray[Any, Any]]:
        return arrays(out)

    def function(
        self, body: Callable[..., Any], weights: Sequence[jax.Array], args: Sequence[Spec]
    ) -> Callable[..., Any]:
        function = jax.jit(functools.partial(body, self.ops))
        return lambda *args: jax.block_until_ready(function(*weights, *args))

    def case(self, workload: Workload, inputs: list[jax.Array]) -> Case:
        ops, n = self.ops, workload.parameters
        body = functools.partial(workload.body, ops) if workload.body else None
        if workload.kind == "function":
            run, args = self.function(workload.body, inputs[:n], workload.inputs[n:]), inputs[n:]
            return Case(lambda: run(*args), arrays)
        if workload.kind == "gradient":
            by_parameters = jax.jit(jax.value_and_grad(body, tuple(range(n))))

            def gradient() -> Any:
                loss, gradients = jax.block_until_ready(by_parameters(*inputs))
                return loss, *gradients

            return Case(gradient, arrays)
        return self.trained(workload, body, inputs)

    def trained(self, workload: Workload, body: Any, inputs: list[jax.Array]) -> Case:
        n = workload.parameters
        parameters, rest = [jnp.copy(p) for p in inputs[:n]], inputs[n:]
        zeros = [jnp.zeros_like(p) for p in parameters]
        state = (parameters, zeros, [jnp.copy(z) for z in zeros], jnp.ones(()))

        def update(state: Any, gradients: Sequence[jax.Array]) -> Any:
            *moments, t = state
            rows = zip(*moments, gradients, strict=True)
            updated = [adamw(p, g, m, v, t, jnp.sqrt) for p, m, v, g in rows]
            return *map(list, zip(*updated, strict=True)), t + 1

        @functools.partial(jax.jit, donate_argnums=0)
        def step(state: Any, batch: Sequence[jax.Array]) -> Any:
            def loss_of(parameters: Sequence[jax.Array]) -> jax.Array:
                return body(*parameters, *batch)

            loss, gradients = jax.value_and_grad(loss_of)(state[0])
            return loss, update(state, gradients)

        update_alone = jax.jit(update, donate_argnums=0)

        def call_step() -> jax.Array:
            nonlocal state
            loss, state = jax.block_until_ready(step(state, rest))
            return loss

        def call_update() -> None:
            nonlocal state
            state = jax.block_until_ready(update_alone(state, rest))

        if workload.kind == "update":
            return Case(call_update, lambda _: arrays(state[0]))
        return Case(call_step, lambda loss: arrays([loss, *state[0]]))


def arrays(out: Any) -> list[np.ndarray[Any, Any]]:
    tensors = out if isinstance(out, (tuple, list)) else [out]
    return [np.asarray(tensor) for tensor in tensors]


def make(variant: str, threads: int) -> Framework:
    return Jax()
