"""Samplers: order, seeds, and the distributions they draw from."""

from __future__ import annotations

import numpy as np
import pytest

import deepseek as ds
from deepseek.data import (
    BatchSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from deepseek.data.sampler import derived, spawned
from deepseek.errors import ArgumentError

MAKERS = {
    "random": lambda g: RandomSampler(range(50), generator=g),
    "replacement": lambda g: RandomSampler(range(50), True, 80, generator=g),
    "subset": lambda g: SubsetRandomSampler(list(range(100, 150)), g),
    "weighted": lambda g: WeightedRandomSampler(np.arange(50), 60, generator=g),
    "weighted once": lambda g: WeightedRandomSampler(np.arange(50), 40, False, g),
}


@pytest.mark.parametrize("name", MAKERS)
def test_order_follows_the_seed(name: str) -> None:
    make = MAKERS[name]
    first, second = make(ds.Generator(7)), make(ds.Generator(7))
    epochs = [list(first), list(first)]
    assert epochs == [list(second), list(second)]
    assert epochs[0] != epochs[1]
    assert list(make(ds.Generator(8))) != epochs[0]
    assert len(epochs[0]) == len(first)
    assert all(type(i) is int for i in epochs[0])


@pytest.mark.parametrize("name", MAKERS)
def test_one_draw_is_made_when_an_iteration_begins(name: str) -> None:
    generator = ds.Generator(7)
    iterator = iter(MAKERS[name](generator))
    assert generator.get_state() == (7, 1)
    expected = list(MAKERS[name](ds.Generator(7)))
    generator.manual_seed(99)
    assert list(iterator) == expected


def test_the_default_generator_is_drawn_from() -> None:
    ds.manual_seed(5)
    first = list(RandomSampler(range(30)))
    ds.manual_seed(5)
    assert list(RandomSampler(range(30))) == first


def test_sequence() -> None:
    assert list(SequentialSampler("abc")) == [0, 1, 2] and len(SequentialSampler("abc")) == 3
    with pytest.raises(NotImplementedError, match="Sampler does not define __iter__"):
        iter(Sampler())


def test_random_is_a_permutation_and_goes_around_again() -> None:
    assert sorted(RandomSampler(range(40))) == list(range(40))
    longer = list(RandomSampler(range(4), num_samples=10))
    assert len(longer) == 10
    assert sorted(longer[:4]) == sorted(longer[4:8]) == [0, 1, 2, 3]
    assert len(set(RandomSampler(range(40), num_samples=7))) == 7
    assert list(RandomSampler([])) == list(SubsetRandomSampler([])) == []


def test_every_order_is_as_likely() -> None:
    counts: dict[tuple[int, ...], int] = {}
    sampler = RandomSampler(range(3), generator=ds.Generator(0))
    for _ in range(600):
        order = tuple(sampler)
        counts[order] = counts.get(order, 0) + 1
    # Chi-squared of 6 orders in 600 draws: 20.5 is exceeded in one of a thousand runs.
    assert len(counts) == 6
    assert sum((n - 100) ** 2 / 100 for n in counts.values()) < 20.5


def test_weights_are_chances() -> None:
    weights = np.array([0, 1, 2, 0, 5, 0])
    drawn = list(WeightedRandomSampler(weights, 8000, generator=ds.Generator(0)))
    counts = np.bincount(drawn, minlength=6)
    assert not counts[weights == 0].any()
    expected = weights[weights > 0] * 1000
    assert ((counts[weights > 0] - expected) ** 2 / expected).sum() < 13.8  # 2 degrees, 0.1 %


def test_weights_without_replacement() -> None:
    weights = np.array([3.0, 0, 1, 1])
    sampler = WeightedRandomSampler(weights, 2, False, ds.Generator(0))
    firsts = []
    for _ in range(1000):
        first, second = sampler
        assert first != second and 1 not in (first, second)
        firsts.append(first)
    counts = np.bincount(firsts, minlength=4)[[0, 2, 3]]
    expected = np.array([600, 200, 200])
    assert ((counts - expected) ** 2 / expected).sum() < 13.8
    # With all of them drawn, the order is still by weight.
    assert sorted(WeightedRandomSampler(weights, 3, False)) == [0, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, -1], 1), "negative or infinite"),
        (([1, np.inf], 1), "negative or infinite"),
        (([1, np.nan], 1), "negative or infinite"),
        (([0, 0], 1), "0 positive weights; wanted at least 1"),
        (([1, 0], 2, False), "1 positive weights; wanted at least 2"),
        (([[1]], 1), r"shape \(1, 1\)"),
        (([1], 0), "num_samples=0"),
    ],
)
def test_weights_that_do_not_fit_are_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        WeightedRandomSampler(*arguments)


def test_batches() -> None:
    assert list(BatchSampler(range(5), 2, False)) == [[0, 1], [2, 3], [4]]
    assert list(BatchSampler(range(5), 2, True)) == [[0, 1], [2, 3]]
    for n in range(7):
        for drop in (False, True):
            sampler = BatchSampler(range(n), 3, drop)
            assert len(list(sampler)) == len(sampler)
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(ArgumentError, match="whole number above 0"):
            BatchSampler(range(5), wrong, False)


def test_seeds_are_spread() -> None:
    assert len({derived(0, i) for i in range(1000)}) == 1000
    parent = ds.Generator(3)
    children = [spawned(parent).initial_seed() for _ in range(3)]
    assert len(set(children)) == 3 and parent.get_state() == (3, 3)
    # Written down: an order must not change from one version to the next.
    assert derived(1, 2) == 0xA4B606D672CFA396
