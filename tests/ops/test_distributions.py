"""Distributions, choices and permutations: moments and limits, the same on each backend."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

import deepseek as ds
from deepseek.config import override
from deepseek.errors import ArgumentError

N = 100_000
Draw = Callable[[ds.Generator], ds.Tensor]

DRAWS: dict[str, Draw] = {
    "exponential": lambda g: ds.exponential(2.0, 50, generator=g),
    "truncated_normal": lambda g: ds.truncated_normal(1.0, 2.0, 0.0, 3.0, 50, generator=g),
    "multinomial": lambda g: ds.multinomial(ds.asarray([1.0, 2.0, 3.0]), 50, True, generator=g),
    "choices": lambda g: ds.multinomial(ds.arange(50, dtype=ds.float32), 9, generator=g),
    "permutation": lambda g: ds.permutation(ds.arange(50), generator=g),
    "gumbel_softmax": lambda g: ds.gumbel_softmax(ds.zeros(50), generator=g),
    "rrelu": lambda g: ds.rrelu(ds.full((50,), -1.0), training=True, generator=g),
}


@pytest.mark.parametrize("name", DRAWS)
def test_backends_draw_the_same(name: str) -> None:
    results = []
    for backend in ("reference", "cpu"):
        with override(backend=backend):
            results.append(DRAWS[name](ds.Generator(5)).numpy())
    assert np.allclose(*results, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", DRAWS)
def test_each_draw_and_each_run_of_jit_is_another(name: str) -> None:
    generator = ds.Generator(5)
    first, second = (DRAWS[name](generator).numpy() for _ in range(2))
    assert not np.array_equal(first, second)
    draw = ds.jit(lambda: DRAWS[name](generator))
    assert not np.array_equal(draw().numpy(), draw().numpy())


@pytest.mark.parametrize("dtype", [ds.float32, ds.float64, ds.bfloat16], ids=str)
def test_exponential(dtype: ds.DType) -> None:
    x = ds.exponential(3.0, N, dtype=dtype, generator=ds.Generator(1)).astype(ds.float64).numpy()
    assert x.min() >= 0 and np.isfinite(x).all()
    assert abs(x.mean() - 3) < 0.05 and abs(x.std() - 3) < 0.1


@pytest.mark.parametrize("low, high", [(-1.0, 2.0), (3.0, 4.0), (-9.0, -8.0), (-math.inf, 0.0)])
def test_truncated_normal(low: float, high: float) -> None:
    x = ds.truncated_normal(0.0, 1.0, low, high, N, generator=ds.Generator(1)).numpy()
    assert x.min() >= low and x.max() <= high
    at = np.linspace(max(low, -12), high, 200_001)
    weight = np.exp(-at * at / 2)
    mean = np.sum(at * weight) / np.sum(weight)
    assert abs(x.mean() - mean) < 0.02


def test_multinomial_with_replacement() -> None:
    p = ds.asarray([[0.0, 1.0, 3.0, 0.0], [2.0, 0.0, 0.0, 2.0]])
    places = ds.multinomial(p, N, replacement=True, generator=ds.Generator(1)).numpy()
    assert places.shape == (2, N)
    shares = [np.bincount(row, minlength=4) / N for row in places]
    assert np.allclose(shares, [[0, 0.25, 0.75, 0], [0.5, 0, 0, 0.5]], atol=0.01)
    assert shares[0][0] == shares[0][3] == shares[1][1] == 0


def test_multinomial_without_replacement() -> None:
    p = ds.asarray([1.0, 0.0, 3.0, 6.0])
    generator = ds.Generator(1)
    rows = ds.multinomial(p.broadcast_to((20_000, 4)), 3, generator=generator).numpy()
    assert all(sorted(row) == [0, 2, 3] for row in rows[:100])
    first = np.bincount(rows[:, 0], minlength=4) / len(rows)
    assert np.allclose(first, [0.1, 0, 0.3, 0.6], atol=0.015)
    with pytest.raises(ArgumentError, match="at most 4"):
        ds.multinomial(p, 5)


def test_permutations_have_all_elements() -> None:
    x = np.arange(12).reshape(3, 4)
    mixed = ds.permutation(ds.asarray(x), axis=1, generator=ds.Generator(2)).numpy()
    assert np.array_equal(np.sort(mixed, axis=1), x)
    assert np.array_equal(mixed[0] + 4, mixed[1])
    assert sorted(ds.permutation(7).tolist()) == list(range(7))


def test_slopes_of_rrelu_are_even() -> None:
    x = ds.full((N,), -1.0)
    slopes = -ds.rrelu(x, 0.2, 0.6, training=True, generator=ds.Generator(1)).numpy()
    assert slopes.min() >= 0.2 and slopes.max() <= 0.6
    assert abs(slopes.mean() - 0.4) < 0.003
    assert np.allclose(ds.rrelu(x, 0.2, 0.6).numpy(), -0.4)


def test_hard_gumbel_softmax_is_one_hot_and_has_a_gradient() -> None:
    logits = ds.asarray(np.log([[0.2, 0.8]] * 20_000).astype(np.float32), requires_grad=True)
    hard = ds.gumbel_softmax(logits, hard=True, generator=ds.Generator(1))
    assert set(np.unique(hard.numpy())) == {0, 1} and np.all(hard.numpy().sum(axis=1) == 1)
    assert abs(hard.numpy()[:, 1].mean() - 0.8) < 0.01
    (hard * ds.asarray([1.0, 2.0])).sum().backward()
    assert np.isfinite(logits.grad.numpy()).all() and np.abs(logits.grad.numpy()).max() > 0


def test_what_makes_no_distribution_is_refused() -> None:
    with pytest.raises(ArgumentError, match="low < high"):
        ds.truncated_normal(low=1.0, high=1.0)
    with pytest.raises(ArgumentError, match="a float dtype"):
        ds.exponential(dtype=ds.int32)
    with pytest.raises(ArgumentError, match="vector or matrix"):
        ds.multinomial(ds.zeros(2, 2, 2), 1)


def test_means_and_deviations_may_be_tensors() -> None:
    mean, std = ds.arange(3, dtype=ds.float32), ds.full((N, 1), 0.01)
    x = ds.normal(mean, std, generator=ds.Generator(1)).numpy()
    assert x.shape == (N, 3) and np.allclose(x.mean(axis=0), [0, 1, 2], atol=1e-3)
    assert np.allclose(x.std(axis=0), 0.01, rtol=0.02)
    assert ds.normal().shape == () and ds.normal(mean, 1.0).shape == (3,)
