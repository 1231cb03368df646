"""The random stream: published Philox vectors, draws that differ, shapes of distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest

import deepseek as ds
from deepseek.errors import ArgumentError, TraceError
from deepseek.frontend.tensor import Tensor
from deepseek.ir import scalar
from deepseek.ir.dtype import uint32
from deepseek.ops.random import philox, philox_reference

# philox4x32 with 10 rounds, from the known-answer tests of Random123: counter, key, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_philox_gives_the_published_words(counter: str, key: str, result: str) -> None:
    assert philox_reference(words(counter), words(key)).tolist() == words(result)


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_the_scalar_meaning_gives_the_published_words(counter: str, key: str, result: str) -> None:
    c0, c1, c2, c3 = (scalar.const(w, uint32) for w in words(counter))
    k0, k1 = (scalar.const(w, uint32) for w in words(key))
    assert [w.value for w in philox((c0, c1, c2, c3), (k0, k1))] == words(result)


def test_a_seed_repeats_and_draws_differ() -> None:
    ds.manual_seed(7)
    first, second = ds.randn(20).numpy(), ds.randn(20).numpy()
    ds.manual_seed(7)
    assert np.array_equal(ds.randn(20).numpy(), first)
    assert not np.array_equal(first, second)


def test_generators_are_apart_from_each_other() -> None:
    a, b = ds.Generator(3), ds.Generator(3)
    kept = ds.rand(5, generator=a).numpy()
    ds.rand(5)
    assert np.array_equal(ds.rand(5, generator=b).numpy(), kept)
    state = a.get_state()
    later = ds.rand(5, generator=a).numpy()
    a.set_state(state)
    assert np.array_equal(ds.rand(5, generator=a).numpy(), later)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_uniform_stays_below_one(dtype: str) -> None:
    x = ds.rand(50_000, dtype=dtype, generator=ds.Generator(1)).numpy().astype(np.float64)
    assert x.min() >= 0 and x.max() < 1
    assert abs(x.mean() - 0.5) < 0.01
    assert abs(x.var() - 1 / 12) < 0.005


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_normal_has_the_moments_of_the_normal_distribution(dtype: str) -> None:
    x = ds.randn(50_000, dtype=dtype, generator=ds.Generator(1)).numpy().astype(np.float64)
    assert np.isfinite(x).all()
    assert abs(x.mean()) < 0.02
    assert abs(x.std() - 1) < 0.02
    assert abs((x**4).mean() - 3) < 0.15
    assert abs((np.abs(x) < 1).mean() - math.erf(math.sqrt(0.5))) < 0.01


def test_integers_cover_their_range_evenly() -> None:
    x = ds.randint(-3, 4, (70_000,), generator=ds.Generator(1)).numpy()
    values, counts = np.unique(x, return_counts=True)
    assert values.tolist() == list(range(-3, 4))
    assert np.abs(counts - 10_000).max() < 500
    with pytest.raises(ArgumentError, match="low < high"):
        ds.randint(4, 4, (2,))


def test_permutations_hold_every_index_once() -> None:
    x = ds.randperm(1000, generator=ds.Generator(1)).numpy()
    assert sorted(x) == list(range(1000))
    assert not np.array_equal(x, np.arange(1000))


def test_bernoulli_follows_its_probabilities() -> None:
    p = ds.asarray(np.repeat([0.0, 0.25, 1.0], 10_000).astype(np.float32))
    x = ds.bernoulli(p, generator=ds.Generator(1)).numpy().reshape(3, -1)
    assert x[0].max() == 0 and x[2].min() == 1
    assert abs(x[1].mean() - 0.25) < 0.02


def test_dropout_keeps_the_mean_and_is_off_outside_training() -> None:
    x = ds.ones(50_000)
    y = ds.dropout(x, 0.3, generator=ds.Generator(1)).numpy()
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.7)}
    assert abs(y.mean() - 1) < 0.02
    assert ds.dropout(x, 0.3, training=False) is x


def test_like_takes_shape_and_dtype() -> None:
    x = ds.zeros(2, 3, dtype=ds.float64)
    assert ds.randn_like(x).shape == (2, 3) and ds.rand_like(x).dtype is ds.float64


def test_a_draw_inside_a_composite_is_refused() -> None:
    from deepseek.ops.define import isolated

    with isolated(), pytest.raises(TraceError, match="draw it outside"):
        ds.rand(3)


def test_every_call_of_a_compiled_function_draws_anew_and_as_eager_would() -> None:
    def noisy(x: Tensor) -> Tensor:
        kept = ds.dropout(x, 0.5) + ds.rand(64)
        _, rows = ds.scan(lambda s, row: (s, ds.dropout(row, 0.5)), ds.asarray(0), x.reshape(4, 16))
        return ds.concat([kept, rows.reshape(-1)])

    x = ds.ones(64)
    ds.manual_seed(5)
    eager = [noisy(x).numpy() for _ in range(3)]
    compiled = ds.jit(noisy)
    ds.manual_seed(5)
    again = [compiled(x).numpy() for _ in range(3)]
    assert not np.array_equal(eager[0], eager[1])
    for a, b in zip(eager, again, strict=True):
        assert np.array_equal(a, b)
