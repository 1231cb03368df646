"""Eager loops: what one round has worked out, the next ones find."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek import autograd
from deepseek.compiler import tiers
from deepseek.ir.recent import Recent

nn = ds.nn


@pytest.fixture
def worked_out(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The graphs built, gradients derived and update rules run, in order."""
    seen: list[str] = []

    def note(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def noting(*args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, noting)

    note(tiers, "run")
    note(tiers, "graph_of")
    note(autograd, "cotangents")
    note(ds.optim.AdamW, "rule")
    yield seen


def trained(steps: int, after: Callable[[int], None] = lambda _: None) -> list[float]:
    """The losses of a small model's eager training."""
    ds.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3))
    optimizer = ds.optim.AdamW(net.parameters(), lr=0.05)
    schedule = ds.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    rng = np.random.default_rng(0)
    x, y = ds.asarray(rng.standard_normal((5, 6))), ds.asarray(rng.integers(0, 3, 5))
    losses = []
    for i in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x.astype(ds.float32)), y)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        del loss
        after(i)
    return losses


def test_a_steady_loop_works_nothing_out(worked_out: list[str]) -> None:
    a, b = ds.asarray([1.0, 2.0]), ds.asarray([3.0, 4.0])
    for _ in range(5):
        np.testing.assert_array_equal((a * b + a).numpy(), [4.0, 10.0])
    del worked_out[:]
    for _ in range(3):
        np.testing.assert_array_equal((a * b + a).numpy(), [4.0, 10.0])
    assert worked_out == []
    (a * b - a).numpy()
    assert "graph_of" in worked_out


def test_a_training_loop_works_nothing_out(worked_out: list[str]) -> None:
    """Neither graphs nor gradients nor update rules, though the learning rate differs each time."""

    def after(i: int) -> None:
        if i == 4:
            assert {"run", "cotangents", "rule"} <= set(worked_out)
            del worked_out[:]

    losses = trained(12, after)
    assert worked_out == []
    with ds.config.override(promote=False):
        np.testing.assert_allclose(trained(12), losses, rtol=2e-5)


@pytest.mark.parametrize("nodes", [1, 2, 3, 7])
def test_flushes_in_the_middle_of_anything_change_nothing(nodes: int) -> None:
    wanted = trained(5)
    with ds.config.override(flush_nodes=nodes):
        np.testing.assert_allclose(trained(5), wanted, rtol=2e-5)


def test_a_training_loop_leaves_nothing_to_collect() -> None:
    left = []

    def after(i: int) -> None:
        if i == 5:
            gc.collect()
            gc.disable()
        if i > 5:
            left.append(gc.collect())

    try:
        trained(9, after)
    finally:
        gc.enable()
    assert left == [0, 0, 0]


def test_known_gradients_serve_other_values_and_other_asking() -> None:
    def gradient(x: np.ndarray[Any, Any], **how: Any) -> Any:
        leaf = ds.asarray(x, requires_grad=True)
        loss = (leaf * leaf * 3).sum(axis=0)
        loss.backward(**how)
        return leaf.grad

    rng = np.random.default_rng(0)
    for _ in range(4):
        x = rng.standard_normal((4,))
        np.testing.assert_allclose(gradient(x).numpy(), 6 * x)
        seed = rng.standard_normal((2,))
        x = rng.standard_normal((3, 2))
        got = gradient(x, gradient=ds.asarray(seed))
        np.testing.assert_allclose(got.numpy(), 6 * x * seed)


def test_known_gradients_add_up_and_may_be_asked_for_twice() -> None:
    x = ds.asarray([1.0, 2.0], requires_grad=True)
    for i in range(1, 5):
        loss = (x * x).sum()
        loss.backward(retain_graph=True)
        loss.backward()
        assert x.grad is not None
        np.testing.assert_allclose(x.grad.numpy(), [4.0 * i, 8.0 * i])
        with pytest.raises(ds.errors.ArgumentError, match="does not require gradients"):
            loss.backward()


def test_a_value_that_is_looked_at_first_changes_no_gradient() -> None:
    for look in (False, True, False, True):
        x = ds.asarray([1.0, 2.0], requires_grad=True)
        y = (x * 2).exp()
        if look:
            y.numpy()
        y.sum().backward()
        assert x.grad is not None
        np.testing.assert_allclose(x.grad.numpy(), 2 * np.exp([2.0, 4.0]), rtol=1e-6)


def test_hooks_see_gradients_that_were_known_before() -> None:
    seen = []
    for hooked in (False, False, False, True, False):
        x = ds.asarray([1.0, 2.0], requires_grad=True)
        y = x * x
        if hooked:
            y.register_hook(lambda g: seen.append(1) or g * 10)  # type: ignore[func-returns-value]
        y.sum().backward()
        assert x.grad is not None
        np.testing.assert_allclose(x.grad.numpy(), np.array([2.0, 4.0]) * (10 if hooked else 1))
        del y
    assert seen == [1]


def test_numbers_in_a_graph_are_told_apart_bit_by_bit() -> None:
    x = ds.asarray([1.0])
    for number in (0.0, -0.0) * 4:
        got = (x * 0 + ds.full((1,), number, dtype=x.dtype).negative() * x).numpy()
        np.testing.assert_array_equal(got, [0.0])
        got = ds.full((1,), number, dtype=x.dtype).numpy()
        assert np.signbit(got) == np.signbit(number)


def test_what_autograd_remembers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    memory: Recent[Any, Any] = Recent(3)
    monkeypatch.setattr(autograd, "_pullbacks", memory)
    for n in range(1, 9):
        x = ds.ones((n,), requires_grad=True)
        (x * x).sum().backward()
        assert x.grad is not None
        np.testing.assert_array_equal(x.grad.numpy(), np.full(n, 2.0))
    assert len(memory) == 3


def test_parameters_without_gradients_stay_behind() -> None:
    """A compiled step moves those that have a gradient; the others keep their own count."""

    def run(promote: bool) -> list[float]:
        with ds.config.override(promote=promote):
            parameters = [nn.Parameter(ds.asarray([float(i + 1)])) for i in range(3)]
            optimizer = ds.optim.Adam(parameters, lr=0.1)
            for i in range(10):
                for p in parameters:
                    p.grad = p.detach() * 0.5
                if i % 2:
                    parameters[i % 3].grad = None
                optimizer.step()
            steps = [float(optimizer.state[p]["step"]) for p in parameters]
            return [*steps, *[p.item() for p in parameters]]

    np.testing.assert_allclose(run(True), run(False), rtol=1e-6)


def test_nothing_is_prepared_from_gradients() -> None:
    """They are other tensors at each step, unlike what else a compiled function reads."""
    p = nn.Parameter(ds.ones(4, 3))
    w = ds.ones(4, 3)

    @ds.jit
    def moved() -> ds.Tensor:
        return p.detach() - ds.exp(p.grad @ w.mT) @ w  # type: ignore[arg-type, operator]

    for i in range(3):
        p.grad = ds.full((4, 3), i / 10)
        wanted = 1 - np.exp(np.full((4, 4), 3 * i / 10)) @ np.ones((4, 3))
        np.testing.assert_allclose(moved().numpy(), wanted, rtol=1e-5)
    (entry,) = moved.entries
    assert entry.executable.prepared is None


@pytest.mark.parametrize("kind", [float, np.float64])
def test_zeros_of_both_signs_are_two_attributes(kind: type) -> None:
    x = ds.asarray([1.0])
    for _ in range(4):  # op by op, then by a plan
        for zero in (0.0, -0.0):
            padded = ds.pad(x, (1, 1), value=kind(zero)).numpy()
            assert np.signbit(padded).tolist() == [bool(np.signbit(zero)), False] + [
                bool(np.signbit(zero))
            ]


def test_a_learning_rate_may_be_of_a_subclass_of_float() -> None:
    class Rate(float):
        pass

    p = ds.nn.Parameter(ds.asarray([1.0]))
    optimizer = ds.optim.SGD([p], lr=Rate(0.5))
    for step in range(1, 6):
        p.grad = ds.asarray([1.0])
        optimizer.step()
        assert p.item() == 1 - 0.5 * step
