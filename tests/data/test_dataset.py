"""Datasets and random_split."""

from __future__ import annotations

import numpy as np
import pytest

import deepseek as ds
from deepseek.data import (
    ChainDataset,
    ConcatDataset,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    default_collate,
    random_split,
)
from deepseek.errors import ArgumentError

ROWS = np.arange(24).reshape(6, 4)


class Numbers(IterableDataset[int]):
    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers

    def __iter__(self):
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool", "uint64", "float64", "int8"])
def test_rows_of_tensors(dtype: str) -> None:
    x = ds.asarray(ROWS % 3).astype(dtype)
    data = TensorDataset(x, np.arange(6))
    assert len(data) == 6
    for i in (0, 5, -1):
        row, number = data[i]
        assert row.dtype is x.dtype and number.dtype == ds.int64
        assert np.array_equal(row.numpy(), x.numpy()[i])
        assert number.item() == i % 6


def test_take_is_what_collate_makes_of_the_items() -> None:
    data = TensorDataset(ds.asarray(ROWS).astype("bfloat16"), ROWS[:, 0] > 8, ROWS[:, :0])
    for indices in ([3, 3, -1, 0], [2]):
        taken, made = data.take(indices), default_collate([data[i] for i in indices])
        assert len(taken) == len(made) == 3
        for a, b in zip(taken, made, strict=True):
            assert a.dtype is b.dtype and a.shape == b.shape
            assert a.numpy().tobytes() == b.numpy().tobytes()


@pytest.mark.parametrize("index", [6, -7])
def test_take_checks_its_indices(index: int) -> None:
    with pytest.raises(IndexError, match=f"item {index} of 6"):
        TensorDataset(ROWS).take([0, index])


def test_a_dataset_keeps_no_gradients() -> None:
    x = ds.ones(3, requires_grad=True)
    assert not TensorDataset(x * 2).tensors[0].requires_grad


@pytest.mark.parametrize("given", [(), (np.ones(3), np.ones(4)), (np.float32(1),)])
def test_tensors_of_other_lengths_are_refused(given: tuple[object, ...]) -> None:
    with pytest.raises(ArgumentError, match="one first dimension"):
        TensorDataset(*given)


def test_subset() -> None:
    part = Subset(TensorDataset(ROWS), [5, 1])
    assert len(part) == 2
    assert part[0][0].tolist() == ROWS[5].tolist()
    assert part.take([1, 0])[0].tolist() == ROWS[[1, 5]].tolist()
    assert not hasattr(Subset("abc", [0]), "take")
    nested = Subset(part, [1])
    assert nested.take([0])[0].tolist() == ROWS[[1]].tolist()


def test_concat() -> None:
    both = ConcatDataset(["abc", "", "de"])
    assert [both[i] for i in range(-5, 5)] == list("abcdeabcde")
    for wrong in (5, -6):
        with pytest.raises(IndexError, match=f"item {wrong} of 5"):
            both[wrong]
    with pytest.raises(ArgumentError, match="use ChainDataset"):
        ConcatDataset([Numbers(1)])
    with pytest.raises(ArgumentError, match="at least one"):
        ConcatDataset([])


def test_adding_datasets() -> None:
    rows = TensorDataset(ROWS)
    assert isinstance(rows + rows, ConcatDataset) and len(rows + rows) == 12
    chained = Numbers(1, 2) + Numbers(3)
    assert isinstance(chained, ChainDataset)
    assert list(chained) == [1, 2, 3] and len(chained) == 3


def test_what_a_subclass_has_to_define() -> None:
    with pytest.raises(NotImplementedError, match="Dataset does not define __getitem__"):
        Dataset()[0]
    with pytest.raises(NotImplementedError, match="IterableDataset does not define __iter__"):
        iter(IterableDataset())


def test_split_covers_all_once() -> None:
    parts = random_split(range(100), [70, 20, 10], ds.Generator(1))
    assert [len(p) for p in parts] == [70, 20, 10]
    found = [[p[i] for i in range(len(p))] for p in parts]
    assert sorted(sum(found, [])) == list(range(100))
    assert sum(found, []) != list(range(100))
    again = random_split(range(100), [70, 20, 10], ds.Generator(1))
    assert [list(p.indices) for p in again] == [list(p.indices) for p in parts]
    assert random_split(range(100), [100], ds.Generator(2))[0].indices != sum(found, [])


def test_split_by_fractions() -> None:
    # 10 * 0.33 = 3.3, three times 3, and the one that is left goes to the first.
    assert [len(p) for p in random_split(range(10), [1 / 3, 1 / 3, 1 / 3])] == [4, 3, 3]
    assert [len(p) for p in random_split(range(1), [1])] == [1]


@pytest.mark.parametrize("lengths", [[3, 3], [11], [-1, 11], [0.5, 0.4], [2.0, 8.0], []])
def test_lengths_that_do_not_fit_are_refused(lengths: list[float]) -> None:
    with pytest.raises(ArgumentError, match="random_split: got lengths"):
        random_split(range(10), lengths)
