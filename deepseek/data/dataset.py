"""Datasets: what a DataLoader takes its items from.

A map-style dataset has `__getitem__` and `__len__`, an IterableDataset has `__iter__` only. A
dataset that can make a whole batch faster than item by item defines `take(indices)`, which gives
what `default_collate` would make of these items.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from deepseek.data.collate import gathered
from deepseek.errors import ArgumentError
from deepseek.frontend.tensor import Tensor, from_numpy
from deepseek.ops.create import asarray
from deepseek.ops.random import Generator, randperm

T_co = TypeVar("T_co", covariant=True)


class Dataset(Generic[T_co]):
    """Base of the datasets whose items have numbers; subclasses define `__getitem__`, `__len__`.

    >>> class Squares(ds.data.Dataset):
    ...     def __getitem__(self, i):
    ...         return i * i
    ...     def __len__(self):
    ...         return 10
    >>> len(Squares() + Squares())
    20
    """

    def __getitem__(self, index: Any) -> T_co:
        raise NotImplementedError(f"{type(self).__name__} does not define __getitem__()")

    def __add__(self, other: Dataset[Any]) -> ConcatDataset[Any]:
        return ConcatDataset([self, other])


class IterableDataset(Dataset[T_co]):
    """Base of the datasets that are streams; subclasses define `__iter__`.

    Each worker process iterates over a copy of its own: `get_worker_info` says which share of the
    stream is its.

    >>> class Count(ds.data.IterableDataset):
    ...     def __iter__(self):
    ...         return iter(range(3))
    >>> list(Count())
    [0, 1, 2]
    """

    def __iter__(self) -> Iterator[T_co]:
        raise NotImplementedError(f"{type(self).__name__} does not define __iter__()")

    def __add__(self, other: Dataset[Any]) -> ChainDataset[Any]:  # type: ignore[override]
        return ChainDataset([self, other])


class TensorDataset(Dataset[tuple[Tensor, ...]]):
    """The rows of tensors (or NumPy arrays) of equal length: item i is `(a[i], b[i], ...)`.

    Raises ArgumentError unless all have the same first dimension.

    >>> data = ds.data.TensorDataset(ds.arange(6), np.ones((6, 2), np.float32))
    >>> len(data), data[4][0].item(), data[4][1].shape
    (6, 4, (2,))
    """

    def __init__(self, *tensors: Any) -> None:
        self.tensors = tuple(asarray(t).detach() for t in tensors)
        shapes = [t.shape for t in self.tensors]
        if not shapes or not all(shapes) or len({shape[0] for shape in shapes}) > 1:
            given = ", ".join(map(str, shapes)) or "nothing"
            raise ArgumentError(
                f"TensorDataset: got shapes {given}; wanted tensors with one first dimension"
            )

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        return tuple(from_numpy(t.numpy()[index], t.dtype) for t in self.tensors)

    def __len__(self) -> int:
        return len(self.tensors[0])

    def take(self, indices: Sequence[int]) -> list[Tensor]:
        """The items with these numbers as one batch."""
        rows = np.asarray(indices, np.int64)
        size = len(self)
        if rows.size and not -size <= rows.min() <= rows.max() < size:
            wrong = rows[(rows < -size) | (rows >= size)][0]
            raise IndexError(f"TensorDataset: item {wrong} of {size}")
        return [gathered(t, rows % size if size else rows) for t in self.tensors]


class Subset(Dataset[T_co]):
    """The items of a dataset whose numbers are listed, in that order.

    >>> ds.data.Subset("abcdef", [4, 0])[0]
    'e'
    """

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = indices
        if hasattr(dataset, "take"):
            self.take = self._take

    def __getitem__(self, index: Any) -> T_co:
        return self.dataset[self.indices[index]]  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return len(self.indices)

    def _take(self, indices: Sequence[int]) -> Any:
        return self.dataset.take([self.indices[i] for i in indices])


class ConcatDataset(Dataset[T_co]):
    """Datasets one after the other.

    >>> both = ds.data.ConcatDataset(["abc", "de"])
    >>> len(both), both[3], both[-1]
    (5, 'd', 'e')
    """

    def __init__(self, datasets: Iterable[Any]) -> None:
        self.datasets = list(datasets)
        if not self.datasets:
            raise ArgumentError("ConcatDataset: got no datasets; wanted at least one")
        for dataset in self.datasets:
            if isinstance(dataset, IterableDataset):
                raise ArgumentError(
                    f"ConcatDataset: got the iterable {type(dataset).__name__}; wanted datasets "
                    "with numbered items\n  help: use ChainDataset"
                )
        self.cumulative_sizes = list(itertools.accumulate(len(d) for d in self.datasets))

    def __getitem__(self, index: Any) -> T_co:
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"ConcatDataset: item {index} of {size}")
        index %= size
        which = bisect.bisect_right(self.cumulative_sizes, index)
        before = self.cumulative_sizes[which - 1] if which else 0
        return self.datasets[which][index - before]  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]


class ChainDataset(IterableDataset[T_co]):
    """Streams one after the other.

    >>> class Count(ds.data.IterableDataset):
    ...     def __iter__(self):
    ...         return iter(range(3))
    >>> list(ds.data.ChainDataset([Count(), Count()]))
    [0, 1, 2, 0, 1, 2]
    """

    def __init__(self, datasets: Iterable[Any]) -> None:
        self.datasets = list(datasets)

    def __iter__(self) -> Iterator[T_co]:
        return itertools.chain.from_iterable(self.datasets)

    def __len__(self) -> int:
        return sum(len(d) for d in self.datasets)


def random_split(
    dataset: Any, lengths: Sequence[int | float], generator: Generator | None = None
) -> list[Subset[Any]]:
    """Subsets of the given lengths, no item in two of them, drawn at random.

    The lengths add up to the dataset's, or are fractions that add up to 1; what rounding leaves
    goes to the first ones, an item each. Raises ArgumentError otherwise.

    >>> parts = ds.data.random_split(range(10), [0.75, 0.25], ds.Generator(0))
    >>> [len(part) for part in parts]
    [8, 2]
    """
    size = len(dataset)
    counts: list[Any] = list(lengths)
    if all(0 <= n <= 1 for n in counts) and math.isclose(sum(counts), 1):
        counts = [math.floor(size * n) for n in counts]
        for i in range(size - sum(counts)):
            counts[i % len(counts)] += 1
    if any(not isinstance(n, int) or n < 0 for n in counts) or sum(counts) != size:
        raise ArgumentError(
            f"random_split: got lengths {list(lengths)}; wanted numbers of items that add up to "
            f"{size}, the length of the dataset, or fractions that add up to 1"
        )
    order = randperm(size, generator=generator).tolist()
    ends = itertools.accumulate(counts)
    return [Subset(dataset, order[end - n : end]) for end, n in zip(ends, counts, strict=True)]
