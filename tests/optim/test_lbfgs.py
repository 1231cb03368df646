"""L-BFGS against its textbook form on NumPy vectors, the line search against its conditions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.errors import ArgumentError, TraceError
from deepseek.optim import LBFGS
from deepseek.optim.line_search import Point, strong_wolfe

rng = np.random.default_rng(3)
FACTOR = rng.standard_normal((6, 6))
MATRIX = FACTOR @ FACTOR.T / 6 + 0.1 * np.eye(6)
GOAL, START = rng.standard_normal(6), rng.standard_normal(6)


def quartic(x: Any) -> Any:
    """A convex function of six variables, for tensors and for arrays."""
    matrix = ds.asarray(MATRIX) if isinstance(x, ds.Tensor) else MATRIX
    goal = ds.asarray(GOAL) if isinstance(x, ds.Tensor) else GOAL
    return (x * (matrix @ x)).sum() / 2 - (goal * x).sum() + 0.1 * (x**4).sum()


def gradient_of_quartic(x: np.ndarray) -> np.ndarray:
    return MATRIX @ x - GOAL + 0.4 * x**3


def rosenbrock(x: Any) -> Any:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def textbook(x: np.ndarray, steps: int, lr: float, history: int) -> list[np.ndarray]:
    """The inverse Hessian written out as a matrix (Nocedal and Wright, equation 7.16)."""
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    g = gradient_of_quartic(x)
    seen = []
    for i in range(steps):
        inverse = np.eye(len(x))
        if pairs:
            s, y = pairs[-1]
            inverse *= (s @ y) / (y @ y)
        for s, y in pairs:
            v = np.eye(len(x)) - np.outer(y, s) / (y @ s)
            inverse = v.T @ inverse @ v + np.outer(s, s) / (y @ s)
        length = lr if i else lr * min(1.0, 1.0 / np.abs(g).sum())
        step = -length * inverse @ g
        new = gradient_of_quartic(x + step)
        pairs = [*pairs, (step, new - g)][-history:]
        x, g = x + step, new
        seen.append(x)
    return seen


def problem(function: Any, start: np.ndarray, **options: Any) -> tuple[Any, Any, Any, list[int]]:
    """The function of two parameters, its optimizer, the closure, and how often it was called."""
    parameters = [nn.Parameter(ds.asarray(part)) for part in (start[:2], start[2:])]
    optimizer = LBFGS(parameters, **options)
    calls = [0]

    def closure() -> ds.Tensor:
        calls[0] += 1
        optimizer.zero_grad()
        loss = function(ds.concat(parameters))
        loss.backward()
        return loss

    def values() -> np.ndarray:
        return np.concatenate([p.numpy() for p in parameters])

    return optimizer, closure, values, calls


@pytest.mark.parametrize("history", [2, 100])
def test_iterations_are_those_of_the_textbook(history: int) -> None:
    options = {"lr": 0.8, "history_size": history, "max_iter": 1}
    optimizer, closure, values, calls = problem(quartic, START, **options)
    for i, wanted in enumerate(textbook(START, 12, 0.8, history), 1):
        optimizer.step(closure)
        np.testing.assert_allclose(values(), wanted, rtol=1e-8, atol=1e-10)
        assert calls[0] == i
    assert all(p.is_leaf and p.requires_grad for p in optimizer.parameters())


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_it_finds_the_minimum(search: str | None) -> None:
    optimizer, closure, values, _ = problem(quartic, START, max_iter=50, line_search_fn=search)
    first = optimizer.step(closure)
    assert first.item() == pytest.approx(quartic(START), rel=1e-12)
    assert np.abs(gradient_of_quartic(values())).max() < 1e-5


def test_a_crooked_valley_with_line_search() -> None:
    optimizer, closure, values, calls = problem(
        rosenbrock, np.array([-1.2, 1.0, 0.5, -0.3]), max_iter=100, line_search_fn="strong_wolfe"
    )
    optimizer.step(closure)
    found = rosenbrock(values())
    assert np.abs(values() - 1).max() < 1e-3 or found == pytest.approx(
        3.7, abs=0.1
    )  # the other one
    assert calls[0] <= 125
    own = optimizer.state_dict()["state"][0]
    assert own["func_evals"] == calls[0] and own["n_iter"] <= 100


def test_evaluations_are_limited() -> None:
    optimizer, closure, _, calls = problem(
        rosenbrock, np.array([-1.2, 1.0]), max_eval=6, line_search_fn="strong_wolfe"
    )
    optimizer.step(closure)
    assert calls[0] <= 7


def test_it_goes_on_from_a_state() -> None:
    options = {
        "max_iter": 3, "max_eval": 20, "line_search_fn": "strong_wolfe", "history_size": 2,
    }  # fmt: skip
    optimizer, closure, values, _ = problem(quartic, START, **options)
    optimizer.step(closure)
    state = optimizer.state_dict()
    assert set(state["state"][0]) == {
        "func_evals", "n_iter", "d", "t", "old_dirs", "old_stps", "ro", "H_diag",
        "prev_flat_grad", "prev_loss",
    }  # fmt: skip
    assert [len(state["state"][0][k]) for k in ("old_dirs", "old_stps", "ro")] == [2, 2, 2]
    resumed, other, others, _ = problem(quartic, values(), **options)
    state["state"][0]["al"] = [None, None]  # PyTorch keeps room for the two loops
    resumed.load_state_dict(state)
    optimizer.step(closure)
    resumed.step(other)
    np.testing.assert_array_equal(values(), others())


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    optimizer, closure, _, _ = problem(quartic, START, max_iter=3, max_eval=9)
    optimizer.step(closure)
    state = optimizer.state_dict()
    small, _, _, _ = problem(rosenbrock, START[:3])
    with pytest.raises(ArgumentError, match=r"parameter 0, d: got shape \(6,\); wanted shape \(3,"):
        small.load_state_dict(state)
    state["state"][0]["exp_avg"] = ds.zeros(6)
    with pytest.raises(ArgumentError, match="unknown state 'exp_avg'"):
        optimizer.load_state_dict(state)
    assert optimizer.state_dict()["state"][0]["n_iter"] == 3


def test_a_compiled_closure_is_compiled_once() -> None:
    ds.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = LBFGS(model.parameters(), line_search_fn="strong_wolfe", max_iter=10)
    x = ds.randn(32, 4)
    goal = ds.tanh(x).sum(axis=1, keepdims=True)

    @ds.jit
    def closure():
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), goal)
        loss.backward()
        return loss

    traces = ds.counters.traces
    losses = [optimizer.step(closure).item() for _ in range(4)]
    assert losses[-1] < 0.05 * losses[0]
    assert ds.counters.traces <= traces + 2  # gradients are there from the second call on


def test_narrow_parameters_are_moved_in_float32() -> None:
    p = nn.Parameter(ds.asarray([3.0, -2.0], dtype=ds.bfloat16))
    optimizer = LBFGS([p], line_search_fn="strong_wolfe")

    def closure() -> ds.Tensor:
        optimizer.zero_grad()
        loss = ((p.astype(ds.float32) - 1) ** 2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert p.dtype is ds.bfloat16
    np.testing.assert_allclose(p.numpy().astype(float), [1.0, 1.0], atol=0.02)


def test_what_is_wrong_is_named() -> None:
    p, q = nn.Parameter(ds.ones(1)), nn.Parameter(ds.ones(1))
    with pytest.raises(ArgumentError, match="got a second group of parameters"):
        LBFGS([{"params": p}, {"params": q}])
    with pytest.raises(ArgumentError, match="unknown line_search_fn 'wolfe'; valid: None, strong"):
        LBFGS([p], line_search_fn="wolfe")
    optimizer = LBFGS([p])
    with pytest.raises(ArgumentError, match="got no closure"):
        optimizer.step()
    with pytest.raises(TraceError, match="let @ds.jit compile the closure"):
        ds.jit(lambda: optimizer.step(lambda: p.sum()))()


# ----------------------------------------------------------------------------------- line search


@pytest.mark.parametrize(
    ("function", "slope"),
    [
        (lambda t: (t - 3) ** 2, lambda t: 2 * (t - 3)),
        (lambda t: math.cosh(t - 5), lambda t: math.sinh(t - 5)),
        (lambda t: -t / (t * t + 2), lambda t: (t * t - 2) / (t * t + 2) ** 2),  # Moré, Thuente
        (lambda t: (t + 0.004) ** 5 - 2 * (t + 0.004) ** 4,
         lambda t: 5 * (t + 0.004) ** 4 - 8 * (t + 0.004) ** 3),
    ],
    ids=["parabola", "cosh", "bowl", "flat start"],
)  # fmt: skip
@pytest.mark.parametrize("first", [1e-3, 0.1, 1.0, 10.0])
def test_the_strong_wolfe_conditions_hold(function: Any, slope: Any, first: float) -> None:
    tries = [0]

    def at(t: float) -> Point:
        tries[0] += 1
        return Point(t, function(t), slope(t))

    start = Point(0.0, function(0.0), slope(0.0))
    point, counted = strong_wolfe(at, start, first, scale=1.0)
    assert counted == tries[0] <= 26
    assert point.value <= start.value + 1e-4 * point.t * start.slope
    assert abs(point.slope) <= 0.9 * abs(start.slope)


def test_values_that_are_no_numbers_are_stepped_back_from() -> None:
    def at(t: float) -> Point:
        bad = t >= 2  # as a logarithm beyond its domain
        return Point(t, math.nan if bad else (t - 1) ** 2, math.nan if bad else 2 * (t - 1))

    point, _ = strong_wolfe(at, at(0.0), 8.0, scale=1.0)
    assert point.value < 1 and point.t < 2
