"""Gradients of every op, and gradients of those, against central differences in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sampling import Case, case_name, cases

import deepseek as ds
from deepseek import autograd
from deepseek.frontend.tensor import Tensor, enable_grad, no_grad
from deepseek.ir.dtype import float64
from deepseek.ir.graph import Graph, input_value
from deepseek.ir.interpret import interpret
from deepseek.ops.define import isolated

STEP = 1e-5
DIRECTIONS = 3
Arrays = Sequence[np.ndarray[Any, Any]]


def differentiable(case: Case) -> bool:
    floats = [a for a in case.arrays if a.dtype == np.float64]
    smooth = floats and all(np.isfinite(a).all() and 0 < a.size < 2000 for a in floats)
    meant = case.op.name != "while_loop" and "padding_idx" not in case.sample.kwargs
    exact = case.sample.kwargs.get("dtype", float64) is float64
    return case.dtype is float64 and case.op.differentiable and bool(smooth) and meant and exact


CASES = [case for case in cases() if differentiable(case)]
# Running statistics have no gradient by design.
FIRST_RESULT_ONLY = {"batch_norm"}
UNIQUE = [c for i, c in enumerate(CASES) if all(c.op is not d.op for d in CASES[:i])]


def graph_of(case: Case) -> Graph:
    graph = case.graph()
    if case.op.name in FIRST_RESULT_ONLY:
        return Graph(graph.inputs, graph.outputs[:1])
    return graph


def gradient_graph(graph: Graph) -> Graph:
    """(inputs, cotangents of the float outputs) -> cotangents of the float inputs."""
    floats = [v for v in graph.inputs if v.type.dtype is float64]
    flows = autograd.dependents(graph, floats).__contains__
    results = [v for v in graph.outputs if v.type.dtype.is_float and flows(v)]
    with isolated(), no_grad():
        seeds = [Tensor(input_value(v.type.dtype, v.type.shape)) for v in results]
        found = autograd.cotangents(results, seeds, floats, flows)
    outputs = [found[v]._value for v in floats if v in found]
    return Graph([*graph.inputs, *(s._value for s in seeds)], outputs)


def check(graph: Graph, arrays: Arrays, what: str) -> Graph | None:
    """Hold a graph's gradient against differences of its results along random directions."""
    random = np.random.default_rng(1)
    floats = [i for i, v in enumerate(graph.inputs) if v.type.dtype is float64]
    flows = autograd.dependents(graph, [graph.inputs[i] for i in floats]).__contains__
    results = [i for i, v in enumerate(graph.outputs) if v.type.dtype.is_float and flows(v)]
    if not results:
        return None
    backward = gradient_graph(graph)
    seeds = [random.uniform(0.5, 1.5, graph.outputs[i].type.shape) for i in results]
    grads = iter(interpret(backward, [*arrays, *seeds]))
    reached = reached_inputs(graph, floats, results)
    gradient = {i: next(grads) for i in floats if i in reached}

    def total(moved: Arrays) -> float:
        out = interpret(graph, moved)
        return float(sum(np.sum(out[i] * s) for i, s in zip(results, seeds, strict=True)))

    for _ in range(DIRECTIONS):
        direction = {i: random.uniform(-1, 1, arrays[i].shape) for i in floats}
        ahead, behind = (
            [a + sign * STEP * direction[i] if i in direction else a for i, a in enumerate(arrays)]
            for sign in (1, -1)
        )
        measured = (total(ahead) - total(behind)) / (2 * STEP)
        computed = sum(float(np.sum(gradient[i] * direction[i])) for i in gradient)
        scale = max(1.0, abs(measured), *(float(np.abs(g).sum()) for g in gradient.values()), 1.0)
        assert abs(measured - computed) <= 2e-6 * scale, f"{what}: {computed} for {measured}"
    return backward


def reached_inputs(graph: Graph, floats: list[int], results: list[int]) -> set[int]:
    """The inputs that some result depends on differentiably."""
    flows = autograd.dependents(graph, [graph.inputs[i] for i in floats]).__contains__
    with isolated(), no_grad():
        seeds = [Tensor(input_value(float64, graph.outputs[i].type.shape)) for i in results]
        wanted = [graph.inputs[i] for i in floats]
        found = autograd.cotangents([graph.outputs[i] for i in results], seeds, wanted, flows)
    return {i for i in floats if graph.inputs[i] in found}


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_gradient_agrees_with_differences(case: Case) -> None:
    graph = graph_of(case)
    assert check(graph, case.arrays, case.op.name) is not None or not any(
        v.type.dtype.is_float for v in graph.outputs
    )


@pytest.mark.parametrize("case", UNIQUE, ids=case_name)
def test_second_derivative_agrees_with_differences(case: Case) -> None:
    graph = graph_of(case)
    random = np.random.default_rng(2)
    backward = gradient_graph(graph)
    seeds = [random.uniform(0.5, 1.5, v.type.shape) for v in backward.inputs[len(graph.inputs) :]]
    check(backward, [*case.arrays, *seeds], f"second derivative of {case.op.name}")


@pytest.mark.parametrize("x", [[2, 0, 3], [0, 2, 3], [2, 0, 3, 0, 5], [0, 0, 3], [2, 3, 4]])
def test_second_derivatives_of_running_products_at_zeros(x: list[float]) -> None:
    def loss(z: ds.Tensor) -> ds.Tensor:
        y = ds.cumulative_prod(z, axis=0)
        return (y * y + y).sum()

    at = np.array(x, np.float64)
    found = [ds.grad(lambda z, i=i: ds.grad(loss)(z)[i])(ds.asarray(at)) for i in range(at.size)]
    for i, step in enumerate(np.eye(at.size) * 1e-4):
        ahead, behind = (ds.grad(loss)(ds.asarray(at + d)).numpy() for d in (step, -step))
        np.testing.assert_allclose(found[i].numpy(), (ahead - behind) / 2e-4, atol=1e-6, rtol=1e-6)


def test_the_gradient_of_logcumsumexp_depends_on_cotangents_that_are_zero() -> None:
    x = np.array([1.0, 2.0, -3.0, -np.inf])

    def pulled(g: ds.Tensor) -> ds.Tensor:
        return ds.grad(lambda t: (ds.logcumsumexp(t, 0) * g).sum())(ds.asarray(x))

    for g in (np.zeros(4), np.array([0.0, 2.0, 0.0, -1.0])):
        found = [ds.grad(lambda g, i=i: pulled(g)[i])(ds.asarray(g)).numpy() for i in range(4)]
        y = np.logaddexp.accumulate(x)
        np.testing.assert_allclose(found, np.triu(np.exp(x[:, None] - y)), atol=1e-12)


def test_a_wrong_gradient_is_found() -> None:
    x = input_value(float64, (3,))
    with isolated(), enable_grad():
        y = Tensor(x).square()._value  # type: ignore[attr-defined]
    y.node.op.vjp, kept = (lambda g, y, x: (g * x,)), y.node.op.vjp
    try:
        with pytest.raises(AssertionError, match="wrong"):
            check(Graph([x], [y]), [np.array([1.0, 2.0, 3.0])], "wrong")
    finally:
        y.node.op.vjp = kept
