"""Tensor.register_hook: what hooks see, what they replace, and compiled functions that change."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import deepseek as ds
from deepseek.errors import ArgumentError
from deepseek.frontend.gradient_hooks import registry


def test_hooks_of_leaves_and_of_computed_tensors_replace_the_gradient() -> None:
    x = ds.asarray([1.0, 2.0], requires_grad=True)
    seen = []
    y = x * 3
    y.register_hook(lambda g: seen.append(g.tolist()))
    y.register_hook(lambda g: g + 1)
    x.register_hook(lambda g: g * 10)
    (y * y).sum().backward()
    assert seen == [[6, 12]], "the whole gradient, once"
    assert x.grad.tolist() == [7 * 3 * 10, 13 * 3 * 10]


def test_a_hook_stays_though_nobody_holds_the_tensor() -> None:
    x = ds.asarray([1.0], requires_grad=True)

    def doubled() -> ds.Tensor:
        y = x * 2
        y.register_hook(lambda g: g * 5)
        return y + 1

    doubled().sum().backward()
    assert x.grad.tolist() == [10]


def test_hooks_go_with_their_handle_or_their_tensor() -> None:
    x = ds.asarray([1.0], requires_grad=True)
    with x.register_hook(lambda g: g * 2) as handle:
        x.sum().backward()
    handle.remove()
    (x * 1).sum().backward()
    assert x.grad.tolist() == [2 + 1]
    gc.collect()
    before = len(registry.of_leaves), len(registry.of_values)
    y = ds.asarray([1.0], requires_grad=True)
    y.register_hook(lambda g: g)
    (y * 2).register_hook(lambda g: g)
    del y
    gc.collect()
    assert (len(registry.of_leaves), len(registry.of_values)) == before


def test_what_cannot_have_a_hook_or_take_what_it_returns() -> None:
    with pytest.raises(ArgumentError, match="op 'register_hook': got float32.2."):
        ds.ones(2).register_hook(lambda g: g)
    x = ds.ones(2, requires_grad=True)
    x.register_hook(lambda g: g.sum())
    with pytest.raises(ArgumentError, match=r"hook returned .*wanted None or float32\[2\]"):
        (x * x).sum().backward()


def test_a_compiled_step_calls_hooks_while_it_traces_and_again_when_they_change() -> None:
    p = ds.nn.Parameter(ds.zeros(2))
    optimizer = ds.optim.SGD([p], lr=1.0)

    @ds.jit
    def step() -> ds.Tensor:
        optimizer.zero_grad()
        y = p * 2
        y.register_hook(lambda g: g / 2)
        loss = y.sum()
        loss.backward()
        optimizer.step()
        return loss

    def moved() -> float:
        before = p.numpy().copy()
        step()
        return float(np.mean(before - p.numpy()))

    assert [moved() for _ in range(3)] == [1, 1, 1]
    traces = ds.counters.traces
    handle = p.register_hook(lambda g: g * 8)
    assert [moved() for _ in range(3)] == [8, 8, 8]
    assert ds.counters.traces == traces + 1
    handle.remove()
    assert [moved() for _ in range(3)] == [1, 1, 1]
