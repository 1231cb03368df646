"""DataLoader: order, batches, state, options. What is about processes is in test_workers."""

from __future__ import annotations

import importlib
import json
import random
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
    get_worker_info,
)
from deepseek.errors import ArgumentError

# How batches are made; each is to give the same ones.
HERE: dict[str, Any] = {}
THREAD = {"prefetch_factor": 2}
ONE = {"num_workers": 1}
THREE = {"num_workers": 3, "prefetch_factor": 1}
KEPT = {"num_workers": 2, "persistent_workers": True}
SPAWNED = {"num_workers": 2, "multiprocessing_context": "spawn"}
WAYS = {
    "here": HERE, "thread": THREAD, "one": ONE, "three": THREE, "kept": KEPT, "spawned": SPAWNED
}  # fmt: skip
QUICK = {name: way for name, way in WAYS.items() if name != "spawned"}


# A spawned process gets this one's path, not the names that pytest gives to its modules.
sys.path.append(str(Path(__file__).parent))
Noisy = importlib.import_module("noisy_items").Noisy


class Stream(IterableDataset[int]):
    """0 ... n - 1, shared out among the workers."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self) -> Iterator[int]:
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        return iter(range(first, self.n, step))


def numbers(loader: DataLoader[Any]) -> list[list[int]]:
    return [batch["i"].tolist() for batch in loader]


def all_of(batch: dict[str, Any]) -> Any:
    return batch["i"].tolist(), [part.tolist() for part in batch["noise"]]


def noisy(**options: Any) -> DataLoader[Any]:
    return DataLoader(Noisy(), 4, shuffle=True, generator=ds.Generator(11), **options)


@pytest.fixture(scope="module")
def expected() -> list[list[Any]]:
    loader = noisy()
    return [[all_of(batch) for batch in loader] for _ in range(3)]


# ------------------------------------------------------------------------------------------- order


def test_defaults_are_pytorchs() -> None:
    loader = DataLoader([5, 6, 7])
    assert [batch.tolist() for batch in loader] == [[5], [6], [7]]
    assert (loader.batch_size, loader.num_workers, loader.drop_last) == (1, 0, False)
    assert (loader.timeout, loader.prefetch_factor, loader.persistent_workers) == (0, None, False)
    assert DataLoader([1], num_workers=1).prefetch_factor == 2


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_same_batches(way: str, expected: list[list[Any]]) -> None:
    loader = noisy(**WAYS[way])
    epochs = [list(loader) for _ in range(2)]
    loader.close()
    for epoch, known in zip(epochs, expected, strict=False):
        found = [all_of(batch) for batch in epoch]
        assert [i for i, _ in found] == [i for i, _ in known]
        if way != "thread":  # which shares the random streams with the program
            assert found == known
        for batch in epoch:
            assert np.array_equal(batch["wide"].numpy()[:, 3, 7], batch["i"].numpy())


def test_an_epoch_has_every_item_once_in_another_order(expected: list[list[Any]]) -> None:
    orders = [sum((i for i, _ in epoch), []) for epoch in expected]
    assert all(sorted(order) == list(range(22)) for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_random_items_leave_the_programs_streams_alone() -> None:
    def state() -> Any:
        kept = np.random.get_state()
        return random.getstate(), kept[1].tolist(), kept[2], ds.default_generator.get_state()

    loader = noisy()
    before = state()
    assert len(list(loader)) == 6
    assert state() == before


def test_manual_seed_repeats_the_order() -> None:
    loader = DataLoader(range(30), 30, shuffle=True)
    orders = []
    for seed in (1, 1, 2):
        ds.manual_seed(seed)
        orders.append(next(iter(loader)).tolist())
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("way", QUICK)
@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [4, 4, 2]), (True, [4, 4])])
def test_the_last_batch(way: str, drop_last: bool, sizes: list[int]) -> None:
    loader = DataLoader(range(10), 4, drop_last=drop_last, **QUICK[way])
    assert [len(batch) for batch in loader] == sizes
    assert len(loader) == len(sizes)
    loader.close()


def test_samplers() -> None:
    data = range(100, 110)
    assert next(iter(DataLoader(data, 3, sampler=[7, 0, 7]))).tolist() == [107, 100, 107]
    batches = DataLoader(data, batch_sampler=[[1], [2, 3]])
    assert [b.tolist() for b in batches] == [[101], [102, 103]] and len(batches) == 2
    assert list(DataLoader(data, batch_size=None, sampler=[4, 5])) == [104, 105]
    random_ = BatchSampler(RandomSampler(data, generator=ds.Generator(0)), 5, False)
    assert sorted(sum((b.tolist() for b in DataLoader(data, batch_sampler=random_)), [])) == [*data]


def test_no_batches() -> None:
    loader = DataLoader({"a": np.ones(2), "b": 1}, batch_size=None, sampler=["b", "a"])
    one, array = loader
    assert one == 1 and isinstance(array, ds.Tensor)
    assert list(DataLoader([], 3)) == list(DataLoader([], 3, shuffle=True)) == []


def test_a_dataset_may_make_batches() -> None:
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    data = TensorDataset(x, x[:, 0])
    for source in (data, Subset(data, [5, 4, 3, 2, 1, 0])):
        for way in (HERE, ONE):
            taken = list(DataLoader(source, 4, **way))
            made = list(DataLoader(source, 4, collate_fn=lambda items: items, **way))
            for (a, b), items in zip(taken, made, strict=True):
                assert a.tolist() == [row.tolist() for row, _ in items]
                assert b.tolist() == [number.item() for _, number in items]

    class Listed(Dataset[int]):
        def __getitems__(self, indices: list[int]) -> list[int]:
            return [10 * i for i in indices]

        def __len__(self) -> int:
            return 4

    assert [b.tolist() for b in DataLoader(Listed(), 3)] == [[0, 10, 20], [30]]


@pytest.mark.parametrize("way", QUICK)
def test_streams(way: str) -> None:
    for drop_last in (False, True):
        loader = DataLoader(Stream(11), 2, drop_last=drop_last, **QUICK[way])
        for _ in range(2):
            batches = [batch.tolist() for batch in loader]
            share = loader.num_workers or 1
            mine = [list(range(w, 11, share)) for w in range(share)]
            cut = [[m[i : i + 2] for i in range(0, len(m), 2)] for m in mine]
            if drop_last:
                cut = [[b for b in batches_ if len(b) == 2] for batches_ in cut]
            turns = max(map(len, cut))
            assert batches == [c[i] for i in range(turns) for c in cut if i < len(c)]
        loader.close()
    assert list(DataLoader(Stream(3), batch_size=None)) == [0, 1, 2]


def test_the_length_of_streams() -> None:
    with pytest.raises(TypeError):
        len(DataLoader(Stream(3)))

    class Counted(Stream):
        def __len__(self) -> int:
            return self.n

    assert len(DataLoader(Counted(5), 2)) == 3
    assert len(DataLoader(Counted(5), 2, drop_last=True)) == 2
    assert len(DataLoader(Counted(5), None)) == 5


# ----------------------------------------------------------------------------- a datasets errors


class Broken(Dataset[int]):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 10

    def __getitem__(self, i: int) -> int:
        if i == 5:
            raise self.error
        return i


@pytest.mark.parametrize("way", QUICK)
def test_an_error_says_which_item_it_is_of(way: str) -> None:
    loader = DataLoader(Broken(KeyError("colour")), 2, **QUICK[way])
    seen = []
    with pytest.raises(KeyError, match="colour") as caught:
        for batch in loader:
            seen.append(batch.tolist())
    assert seen == [[0, 1], [2, 3]]
    notes = "\n".join(caught.value.__notes__)
    assert "item 5 of Broken" in notes
    if loader.num_workers:
        assert "in DataLoader worker " in notes
        assert "in __getitem__" in notes and "raise self.error" in notes  # the traceback
    loader.close()


def test_a_stop_iteration_does_not_end_the_loop() -> None:
    for way in (HERE, THREAD, ONE):
        with pytest.raises(RuntimeError, match="StopIteration was raised where") as caught:
            list(DataLoader(Broken(StopIteration()), 2, **way))
        assert "item 5 of Broken" in "".join(caught.value.__notes__)


@pytest.mark.parametrize("way", QUICK)
def test_what_collate_raises_says_of_which_items(way: str) -> None:
    with pytest.raises(ds.errors.ShapeError) as caught:
        list(DataLoader([np.ones(1), np.ones(2)], 2, **QUICK[way]))
    assert "while items [0, 1] were collated" in "".join(caught.value.__notes__)


def test_the_thread_ends_with_the_iteration() -> None:
    def alive() -> int:
        return sum(t.name == "DataLoader" for t in threading.enumerate())

    loader = DataLoader(range(1000), prefetch_factor=2)
    for i, _ in enumerate(loader):
        assert alive() == 1
        if i == 3:
            break
    iterator = iter(loader)
    next(iterator)
    iterator.close()
    with pytest.raises(KeyError):
        list(DataLoader(Broken(KeyError()), prefetch_factor=1))
    del iterator
    assert alive() == 0


# ------------------------------------------------------------------------------------------- state


@pytest.mark.parametrize("way", QUICK)
@pytest.mark.parametrize("position", [0, 1, 3, 6])
def test_a_resumed_loader_gives_the_rest(
    way: str, position: int, expected: list[list[Any]]
) -> None:
    loader = noisy(**QUICK[way])
    list(loader)
    iterator = iter(loader)
    for _ in range(position):
        next(iterator)
    state = json.loads(json.dumps(loader.state_dict()))
    assert (state["epoch"], state["position"]) == (1, position)
    iterator.close()
    loader.close()

    other = DataLoader(Noisy(), 4, shuffle=True, generator=ds.Generator(99), **QUICK[way])
    other.load_state_dict(state)
    assert other.epoch == 1
    rest, after = list(other), list(other)
    other.close()
    for found, known in ((rest, expected[1][position:]), (after, expected[2])):
        assert [i.tolist() for i in (b["i"] for b in found)] == [i for i, _ in known]
        if way != "thread":
            assert [all_of(batch) for batch in found] == known


def test_state_between_epochs() -> None:
    loader = noisy()
    list(loader)
    state = loader.state_dict()
    assert state == {
        "epoch": 1, "position": 0, "begun": None, "generators": [[11, 2]], "batches": 6
    }  # fmt: skip
    following = numbers(loader)
    other = noisy()
    other.load_state_dict(state)
    assert numbers(other) == following and other.epoch == 2


def test_resuming_with_the_default_generator_replays_the_epoch_only() -> None:
    ds.manual_seed(3)
    loader = DataLoader(Noisy(), 4, shuffle=True)
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    rest = [b["i"].tolist() for b in iterator]
    ds.manual_seed(77)
    other = DataLoader(Noisy(), 4, shuffle=True)
    other.load_state_dict(state)
    assert numbers(other) == rest
    assert ds.default_generator.get_state() == (77, 0)


def test_the_generator_of_a_sampler_is_kept() -> None:
    def make(seed: int) -> DataLoader[Any]:
        sampler = RandomSampler(range(20), generator=ds.Generator(seed))
        return DataLoader(range(20), batch_sampler=BatchSampler(sampler, 3, False))

    loader = make(1)
    iterator = iter(loader)
    next(iterator), next(iterator)
    state = loader.state_dict()
    rest = [b.tolist() for b in iterator]
    following = [b.tolist() for b in loader]
    other = make(2)
    other.load_state_dict(state)
    assert [b.tolist() for b in other] == rest
    assert [b.tolist() for b in other] == following


@pytest.mark.parametrize("way", QUICK)
def test_streams_resume(way: str) -> None:
    loader = DataLoader(Stream(20), 3, **QUICK[way])
    iterator = iter(loader)
    seen = [next(iterator).tolist() for _ in range(2)]
    state = loader.state_dict()
    rest = [b.tolist() for b in iterator]
    loader.load_state_dict(state)
    assert [b.tolist() for b in loader] == rest
    assert [b.tolist() for b in loader] == seen + rest
    loader.close()


def test_state_that_does_not_fit_changes_nothing() -> None:
    loader = noisy()
    before = loader.state_dict()
    good = noisy().state_dict()
    for change, message in [
        ({"batches": 5}, "a loader with 5 batches; this one has 6"),
        ({"epoch": -1}, "does not fit"),
        ({"position": 1.5}, "does not fit"),
        ({"begun": [[1, 2], [3, 4]]}, "does not fit"),
        ({"begun": [None]}, "does not fit"),
        ({"generators": []}, "does not fit"),
        ({"generators": [[1]]}, "does not fit"),
        ({"generators": [["a", 1]]}, "does not fit"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            loader.load_state_dict(good | change)
    for nothing in ({}, None, [1]):
        with pytest.raises(ArgumentError, match="wanted epoch, position"):
            loader.load_state_dict(nothing)
    assert loader.state_dict() == before


# ----------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"prefetch_factor": 0}, "prefetch_factor=0"),
        ({"timeout": -1}, "timeout=-1"),
        ({"persistent_workers": True}, "persistent_workers=True and num_workers=0"),
        ({"multiprocessing_context": "thread"}, "'fork', 'spawn' or 'forkserver'"),
        ({"shuffle": True, "sampler": [1]}, "shuffle=True and a sampler"),
        ({"batch_sampler": [[1]], "batch_size": 2}, "batch_sampler alone"),
        ({"batch_sampler": [[1]], "shuffle": True}, "batch_sampler alone"),
        ({"batch_size": None, "drop_last": True}, "drop_last=True and batch_size=None"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        DataLoader(range(5), **options)


def test_a_stream_has_its_own_order() -> None:
    for options in ({"shuffle": True}, {"sampler": [1]}, {"batch_sampler": [[1]]}):
        with pytest.raises(ArgumentError, match="a stream has its own order"):
            DataLoader(Stream(3), **options)
    assert len(list(DataLoader(Stream(3), shuffle=False))) == 3
