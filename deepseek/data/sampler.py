"""Samplers: which items of a dataset are visited, in which order, and how they make batches.

A random sampler makes one draw from its generator when an iteration begins. The order is a function
of that draw alone, so it repeats with the seed, and a loader can replay an epoch.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from deepseek.errors import ArgumentError
from deepseek.ops.random import Generator, default_generator, rand, randint, randperm

T_co = TypeVar("T_co", covariant=True)


def spawned(generator: Generator | None) -> Generator:
    """A generator of its own, whose seed is the given (or the default) one's next draw."""
    parent = default_generator if generator is None else generator
    seed, draws = parent.get_state()
    parent.set_state((seed, draws + 1))
    return Generator(derived(seed, draws + 1))


def derived(*numbers: int) -> int:
    """A seed of 64 bits that these numbers determine."""
    packed = struct.pack(f"<{len(numbers)}Q", *(n & (2**64 - 1) for n in numbers))
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little")


class Sampler(Generic[T_co]):
    """Base of the samplers; subclasses define `__iter__`, and `__len__` if it is known.

    >>> class Backwards(ds.data.Sampler):
    ...     def __iter__(self):
    ...         return iter(range(3)[::-1])
    >>> next(iter(ds.data.DataLoader([10, 11, 12], batch_size=3, sampler=Backwards())))
    tensor([12, 11, 10])
    """

    def __iter__(self) -> Iterator[T_co]:
        raise NotImplementedError(f"{type(self).__name__} does not define __iter__()")


class SequentialSampler(Sampler[int]):
    """0, 1, 2, ... up to the length of the data.

    >>> list(ds.data.SequentialSampler("abc"))
    [0, 1, 2]
    """

    def __init__(self, data_source: Any) -> None:
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(Sampler[int]):
    """The items in random order; with `replacement` each is drawn anew.

    `num_samples` is how many are drawn, by default as many as there are; without replacement more
    than those go through the data again. Raises ArgumentError unless it is positive.

    >>> sorted(ds.data.RandomSampler(range(5), generator=ds.Generator(0)))
    [0, 1, 2, 3, 4]
    """

    def __init__(
        self,
        data_source: Any,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: Generator | None = None,
    ) -> None:
        self.data_source = data_source
        self.replacement = replacement
        self._num_samples = num_samples
        self.generator = generator
        if num_samples is not None:
            check_count("RandomSampler", "num_samples", num_samples)

    @property
    def num_samples(self) -> int:
        """How many items are drawn."""
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def __iter__(self) -> Iterator[int]:
        own = spawned(self.generator)
        size, wanted = len(self.data_source), self.num_samples
        if not size:
            return iter(())
        if self.replacement:
            return iter(randint(0, size, (wanted,), generator=own).tolist())
        rounds = (randperm(size, generator=own).tolist() for _ in range(-(-wanted // size)))
        return itertools.islice(itertools.chain.from_iterable(rounds), wanted)

    def __len__(self) -> int:
        return self.num_samples


class SubsetRandomSampler(Sampler[int]):
    """The listed items in random order.

    >>> sorted(ds.data.SubsetRandomSampler([7, 3, 5], ds.Generator(0)))
    [3, 5, 7]
    """

    def __init__(self, indices: Sequence[int], generator: Generator | None = None) -> None:
        self.indices = indices
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        own = spawned(self.generator)
        if not len(self.indices):
            return iter(())
        order = randperm(len(self.indices), generator=own).tolist()
        return (self.indices[i] for i in order)

    def __len__(self) -> int:
        return len(self.indices)


class WeightedRandomSampler(Sampler[int]):
    """Items drawn with chances in proportion to their weights.

    Without `replacement` no item comes twice; the k items with the shortest exponential waiting
    times are drawn (Efraimidis and Spirakis, 2006), shortest first. Raises ArgumentError where
    weights are negative, not finite or all zero, or too few of them are positive.

    >>> set(ds.data.WeightedRandomSampler([0, 1, 0, 1], 9, generator=ds.Generator(0))) <= {1, 3}
    True
    """

    def __init__(
        self,
        weights: Any,
        num_samples: int,
        replacement: bool = True,
        generator: Generator | None = None,
    ) -> None:
        check_count("WeightedRandomSampler", "num_samples", num_samples)
        self.weights = np.asarray(weights, np.float64)
        self.num_samples = num_samples
        self.replacement = replacement
        self.generator = generator
        if self.weights.ndim != 1:
            raise ArgumentError(
                f"WeightedRandomSampler: got weights of shape {self.weights.shape}; wanted (n,)"
            )
        if not np.isfinite(self.weights).all() or (self.weights < 0).any():
            raise ArgumentError(
                "WeightedRandomSampler: got negative or infinite weights; wanted numbers >= 0"
            )
        positive = int(np.count_nonzero(self.weights))
        needed = 1 if replacement else num_samples
        if positive < needed:
            raise ArgumentError(
                f"WeightedRandomSampler: got {positive} positive weights; wanted at least {needed}"
            )

    def __iter__(self) -> Iterator[int]:
        own = spawned(self.generator)
        if self.replacement:
            ends = np.cumsum(self.weights)
            drawn = rand(self.num_samples, dtype="float64", generator=own).numpy() * ends[-1]
            # Rounding may put a draw at the very end: it belongs to the last item with a weight.
            found = np.searchsorted(ends, drawn, side="right")
            return iter(np.minimum(found, np.flatnonzero(self.weights)[-1]).tolist())
        uniform = rand(len(self.weights), dtype="float64", generator=own).numpy()
        with np.errstate(divide="ignore"):
            waiting = -np.log1p(-uniform) / self.weights
        waiting[self.weights == 0] = np.inf
        return iter(np.argsort(waiting, kind="stable")[: self.num_samples].tolist())

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler(Sampler[list[int]]):
    """What another sampler gives, in lists of `batch_size`; `drop_last` leaves out a shorter one.

    >>> list(ds.data.BatchSampler(range(5), 2, drop_last=False))
    [[0, 1], [2, 3], [4]]
    """

    def __init__(self, sampler: Iterable[int], batch_size: int, drop_last: bool) -> None:
        check_count("BatchSampler", "batch_size", batch_size)
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last

    def __iter__(self) -> Iterator[list[int]]:
        return self._batches(iter(self.sampler))

    def _batches(self, items: Iterator[int]) -> Iterator[list[int]]:
        while batch := list(itertools.islice(items, self.batch_size)):
            if self.drop_last and len(batch) < self.batch_size:
                return
            yield batch

    def __len__(self) -> int:
        size = len(self.sampler)  # type: ignore[arg-type]
        return size // self.batch_size if self.drop_last else -(-size // self.batch_size)


def check_count(name: str, option: str, value: Any) -> None:
    """Raise ArgumentError unless an option is a whole number above 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ArgumentError(f"{name}: got {option}={value!r}; wanted a whole number above 0")
