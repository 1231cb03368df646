"""DataLoader: batches of a dataset, in order, made here, in a thread or in worker processes.

An epoch begins with its draws: the order of the items and a seed from which every batch has its
own. Both come from the loader's generator, so batches depend on its seed, the epoch and their
number, and on nothing else. `state_dict` keeps where the epoch began and how far it went.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Generator as Generator_
from contextlib import closing
from typing import Any, Generic, TypeAlias, TypeVar

from deepseek.data.collate import default_collate, default_convert
from deepseek.data.dataset import IterableDataset
from deepseek.data.pool import Pool
from deepseek.data.sampler import (
    BatchSampler,
    RandomSampler,
    SequentialSampler,
    check_count,
    spawned,
)
from deepseek.data.worker import Recipe, seeded
from deepseek.errors import ArgumentError
from deepseek.ops.random import Generator, default_generator

T_co = TypeVar("T_co", covariant=True)
WORKERS_AHEAD = 2
Made: TypeAlias = Generator_[Any, None, None]


class DataLoader(Generic[T_co]):
    """Iterates over a dataset in batches; the options are PyTorch's.

    `shuffle` visits the items in an order drawn from `generator` (by default the one that
    `ds.manual_seed` seeds). With `num_workers` > 0 batches are made in that many processes,
    `prefetch_factor` (2) ahead for each; with 0 workers and a `prefetch_factor` in a thread, so
    many ahead. In either way they are the same batches in the same order: while a batch is made
    the random streams of Python, NumPy and deepseek are seeded for it (not in a thread, which
    shares them with the program). `multiprocessing_context` is "fork" or "spawn".

    `batch_size=None` gives the items themselves. `timeout` is how many seconds a worker may take
    for a batch, 0 for ever. Raises ArgumentError where options do not fit together, WorkerError
    where a worker dies or is late, and what the dataset raises, with a note of the item.

    >>> data = ds.data.TensorDataset(ds.arange(10), ds.arange(10) ** 2)
    >>> loader = ds.data.DataLoader(data, batch_size=4, shuffle=True, generator=ds.Generator(0))
    >>> [len(x) for x, y in loader]
    [4, 4, 2]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[Any] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: str | None = None,
        generator: Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
    ) -> None:
        self.dataset = dataset
        self.iterable = isinstance(dataset, IterableDataset)
        check_options(
            iterable=self.iterable, batch_size=batch_size, shuffle=shuffle, sampler=sampler,
            batch_sampler=batch_sampler, num_workers=num_workers, drop_last=drop_last,
            timeout=timeout, context=multiprocessing_context, prefetch_factor=prefetch_factor,
            persistent_workers=persistent_workers,
        )  # fmt: skip
        if batch_sampler is not None:
            batch_size = None
        batched = batch_size is not None or batch_sampler is not None
        if sampler is None and batch_sampler is None and not self.iterable:
            sampler = RandomSampler(dataset, generator=generator) if shuffle else None
            sampler = SequentialSampler(dataset) if sampler is None else sampler
        if sampler is not None and batch_size is not None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.batch_size = batch_size
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        self.num_workers = num_workers
        self.collate_fn = collate_fn or (default_collate if batched else default_convert)
        self.drop_last = drop_last
        self.timeout = timeout
        self.worker_init_fn = worker_init_fn
        self.multiprocessing_context = multiprocessing_context or "fork"
        self.generator = generator
        self.prefetch_factor = prefetch_factor
        if prefetch_factor is None and num_workers:
            self.prefetch_factor = WORKERS_AHEAD
        self.persistent_workers = persistent_workers
        self.recipe = Recipe(dataset, self.collate_fn, batch_size, drop_last, batched)
        self.epoch = 0
        self.position = 0
        self._begun: list[tuple[int, int]] | None = None  # the generators when the epoch began
        self._resuming = False
        self._iterations = 0
        self._pool: Pool | None = None

    def __len__(self) -> int:
        """The number of batches. Raises TypeError where the dataset or sampler has no length."""
        if not self.iterable:
            return len(self._tasks())  # type: ignore[arg-type]
        size = len(self.dataset)
        if self.batch_size is None:
            return size
        return size // self.batch_size if self.drop_last else -(-size // self.batch_size)

    def __iter__(self) -> Iterator[T_co]:
        tasks, seed, skip = self._begin()
        self._iterations += 1
        return self._counted(self._batches(tasks, seed, skip), self._iterations)

    # --------------------------------------------------------------------------------- batches

    def _tasks(self) -> Iterable[Any]:
        """What says of each batch which items it has."""
        tasks = self.sampler if self.batch_sampler is None else self.batch_sampler
        return itertools.repeat(None) if tasks is None else tasks

    def _begin(self) -> tuple[Iterator[Any], int, int]:
        """The tasks of the epoch, its seed, and how many batches were seen before."""
        streams = self._streams()
        now = [g.get_state() for g in streams]
        resuming = self._resuming and self._begun is not None
        if resuming:
            for generator, state in zip(streams, self._begun or (), strict=True):
                generator.set_state(state)
        else:
            self._begun = now
            self.position = 0
        self._resuming = False
        try:
            seed = spawned(streams[0]).initial_seed()
            tasks = iter(self._tasks())
        finally:
            if resuming:
                for generator, state in zip(streams, now, strict=True):
                    generator.set_state(state)
        return tasks, seed, self.position

    def _batches(self, tasks: Iterator[Any], seed: int, skip: int) -> Made:
        """The batches after the first `skip`."""
        if not self.iterable:  # else they have to be made to get past them
            for _ in range(skip):
                next(tasks, None)
        first = 0 if self.iterable else skip
        if self.num_workers:
            made = self._from_workers(tasks, seed, first)
        elif self.prefetch_factor:
            made = self._from_thread(tasks, self.prefetch_factor)
        else:
            made = self._from_here(tasks, seed, first)
        with closing(made):
            yield from itertools.islice(made, skip - first, None)

    def _counted(self, batches: Made, iteration: int) -> Made:
        """The batches, with the position kept for `state_dict`."""
        with closing(batches):
            for batch in batches:
                if iteration == self._iterations:
                    self.position += 1
                yield batch
        if iteration == self._iterations:
            self.epoch += 1
            self.position = 0
            self._begun = None

    def _from_here(self, tasks: Iterator[Any], seed: int, first: int) -> Made:
        fetch = None
        for number, task in enumerate(tasks, first):
            try:
                with seeded(seed, number):
                    fetch = fetch or self.recipe.fetcher()
                    batch = fetch(task)
            except StopIteration:
                return
            yield batch

    def _from_thread(self, tasks: Iterator[Any], ahead: int) -> Made:
        ready: queue.Queue[tuple[str, Any]] = queue.Queue(ahead)
        stop = threading.Event()
        recipe = self.recipe

        def put(kind: str, value: Any = None) -> None:
            while not stop.is_set():
                try:
                    ready.put((kind, value), timeout=0.1)
                    return
                except queue.Full:
                    continue

        def work() -> None:
            try:
                fetch = recipe.fetcher()
                for task in tasks:
                    put("batch", fetch(task))
                    if stop.is_set():
                        return
            except StopIteration:
                pass
            except BaseException as error:
                put("error", error)
            put("end")

        thread = threading.Thread(target=work, name="DataLoader", daemon=True)
        thread.start()
        try:
            while True:
                kind, value = ready.get()
                if kind == "end":
                    return
                if kind == "error":
                    raise value
                yield value
        finally:
            stop.set()
            thread.join()

    def _from_workers(self, tasks: Iterator[Any], seed: int, first: int) -> Made:
        pool = self._pool
        if pool is None or not pool.close.alive:
            pool = Pool(
                self.recipe, self.num_workers, self.prefetch_factor or WORKERS_AHEAD, self.timeout,
                self.worker_init_fn, self.multiprocessing_context,
            )  # fmt: skip
            self._pool = pool if self.persistent_workers else None
        healthy = False
        try:
            yield from pool.batches(tasks, seed, first)
            healthy = True
        except GeneratorExit:
            healthy = True
            raise
        except KeyboardInterrupt:
            pool.terminate()
            raise
        finally:
            if not self.persistent_workers or not healthy:
                pool.close()

    def close(self) -> None:
        """End the workers that are kept between epochs; a new iteration starts new ones."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    # ----------------------------------------------------------------------------------- state

    def _streams(self) -> list[Generator]:
        """The generators that an epoch draws from, the loader's own first."""
        found = [default_generator if self.generator is None else self.generator]
        holder: Any = self._tasks()
        while holder is not None:
            drawn = getattr(holder, "generator", None)
            if isinstance(drawn, Generator) and drawn not in found:
                found.append(drawn)
            holder = getattr(holder, "sampler", None)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is: numbers only, so that it can be written as JSON.

        `epoch` counts the finished epochs and `position` the batches taken from the one that goes
        on. The default generator's state is not in it, but for what this epoch drew from it.
        """
        streams = self._streams()
        begun = self._begun
        return {
            "epoch": self.epoch,
            "position": self.position,
            "begun": None if begun is None else [list(state) for state in begun],
            "generators": [
                None if g is default_generator else list(g.get_state()) for g in streams
            ],
            "batches": self._length(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`: the next iteration gives the rest of its epoch.

        Raises ArgumentError, and changes nothing, if the state is another loader's.
        """
        streams = self._streams()
        checked = checked_state(state_dict, len(streams))
        if checked["batches"] != self._length():
            raise ArgumentError(
                f"DataLoader: the state is of a loader with {checked['batches']} batches; this "
                f"one has {self._length()}\n  help: use the dataset and batch size of that time"
            )
        for generator, state in zip(streams, checked["generators"], strict=True):
            if state is not None and generator is not default_generator:
                generator.set_state(tuple(state))
        self.epoch, self.position = checked["epoch"], checked["position"]
        begun = checked["begun"]
        self._begun = None if begun is None else [tuple(state) for state in begun]
        self._resuming = begun is not None
        self._iterations += 1  # an iteration that goes on does not count any more

    def _length(self) -> int | None:
        try:
            return len(self)
        except TypeError:
            return None


def checked_state(state: Any, streams: int) -> dict[str, Any]:
    """A loader's state whose form is right; raises ArgumentError."""

    def pairs(given: Any) -> bool:
        return (
            isinstance(given, (list, tuple))
            and len(given) == streams
            and all(
                isinstance(p, (list, tuple)) and len(p) == 2 and all(type(n) is int for n in p)
                for p in given
                if p is not None
            )
        )

    wanted = ("epoch", "position", "begun", "generators", "batches")
    if not isinstance(state, Mapping) or not set(wanted) <= state.keys():
        raise ArgumentError(f"DataLoader: got a state that is not one; wanted {', '.join(wanted)}")
    counts = state["epoch"], state["position"]
    begun = state["begun"]
    if (
        not all(type(n) is int and n >= 0 for n in counts)
        or not (begun is None or pairs(begun) and None not in begun)
        or not pairs(state["generators"])
    ):
        raise ArgumentError(
            "DataLoader: the state does not fit: its numbers are damaged, or it is of a loader "
            "with other generators"
        )
    return dict(state)


def check_options(
    *, iterable: bool, batch_size: Any, shuffle: Any, sampler: Any, batch_sampler: Any,
    num_workers: Any, drop_last: Any, timeout: Any, context: Any, prefetch_factor: Any,
    persistent_workers: Any,
) -> None:  # fmt: skip
    """Raise ArgumentError where an option is not valid, or options do not fit together."""

    def wrong(got: str, wanted: str) -> ArgumentError:
        return ArgumentError(f"DataLoader: got {got}; wanted {wanted}")

    if not isinstance(num_workers, int) or num_workers < 0:
        raise wrong(f"num_workers={num_workers!r}", "a whole number, 0 for none")
    if batch_size is not None:
        check_count("DataLoader", "batch_size", batch_size)
    if prefetch_factor is not None:
        check_count("DataLoader", "prefetch_factor", prefetch_factor)
    if not isinstance(timeout, (int, float)) or timeout < 0:
        raise wrong(f"timeout={timeout!r}", "a number of seconds, 0 for no limit")
    if persistent_workers and not num_workers:
        raise wrong("persistent_workers=True and num_workers=0", "at least one worker")
    if context not in (None, "fork", "spawn", "forkserver"):
        raise wrong(f"multiprocessing_context={context!r}", "'fork', 'spawn' or 'forkserver'")
    if iterable and (shuffle or sampler is not None or batch_sampler is not None):
        raise wrong(
            "an IterableDataset and shuffle, sampler or batch_sampler",
            "none of these, since a stream has its own order",
        )
    if sampler is not None and shuffle:
        raise wrong("shuffle=True and a sampler", "one of them, since both say the order")
    if batch_sampler is not None and (
        batch_size != 1 or shuffle or sampler is not None or drop_last
    ):
        raise wrong(
            "batch_sampler and batch_size, shuffle, sampler or drop_last",
            "batch_sampler alone, since it says all of that",
        )
    if batch_size is None and batch_sampler is None and drop_last:
        raise wrong("drop_last=True and batch_size=None", "a batch_size")
