"""A worker process of a DataLoader: takes lists of indices, gives batches.

`fetcher` makes batches of a dataset, in this process or another; `run` is the life of a worker. An
exception is told to the loader with the item it came from; the worker goes on. A worker ends when
its loader closes the connection or its parent is gone.
"""

from __future__ import annotations

import itertools
import os
import pickle
import random
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection as connections
from multiprocessing.connection import Connection
from multiprocessing.process import parent_process
from typing import Any

import numpy as np

from deepseek.data import transport
from deepseek.data.collate import default_collate
from deepseek.data.dataset import IterableDataset
from deepseek.data.sampler import derived
from deepseek.data.transport import receive, send
from deepseek.errors import DeepseekError
from deepseek.memory import set_num_threads
from deepseek.ops.random import default_generator


class WorkerError(DeepseekError, RuntimeError):
    """A worker process died, took too long, or raised what cannot be sent; see `DataLoader`."""


@dataclass(frozen=True)
class WorkerInfo:
    """Which worker of a loader this process is; see `get_worker_info`.

    `seed` is the worker's own in this epoch; the random streams of Python, NumPy and deepseek are
    seeded anew for every batch.
    """

    id: int
    num_workers: int
    seed: int
    dataset: Any


_info: WorkerInfo | None = None


def get_worker_info() -> WorkerInfo | None:
    """What worker this process is, None in the process that the loader lives in.

    >>> ds.data.get_worker_info() is None
    True
    """
    return _info


# ---------------------------------------------------------------------------------------- fetching


@dataclass(frozen=True)
class Recipe:
    """How batches are made: everything a worker is told once."""

    dataset: Any
    collate: Callable[[Any], Any]
    batch_size: int | None
    drop_last: bool
    batched: bool  # whether one batch has several items

    def fetcher(self) -> Callable[[Any], Any]:
        """From what a sampler gives to a batch; raises StopIteration at the end of a stream."""
        if isinstance(self.dataset, IterableDataset):
            stream = enumerate(self.dataset)
            return lambda _: self._from_stream(stream)
        return self._from_map

    def _from_map(self, indices: Any) -> Any:
        dataset = self.dataset
        if self.batched and self.collate is default_collate and hasattr(dataset, "take"):
            return dataset.take(indices)
        if self.batched and hasattr(dataset, "__getitems__"):
            return self._collated(dataset.__getitems__(indices), indices)
        items: list[Any] = []
        wanted = indices if self.batched else [indices]
        try:
            for index in wanted:
                items.append(dataset[index])
        except Exception as error:
            raise said(error, f"item {wanted[len(items)]!r} of {type(dataset).__name__}") from None
        return self._collated(items, indices)

    def _from_stream(self, stream: Iterator[tuple[int, Any]]) -> Any:
        wanted = self.batch_size if self.batched and self.batch_size is not None else 1
        taken: list[tuple[int, Any]] = []
        try:
            taken.extend(itertools.islice(stream, wanted))
        except Exception as error:
            place = f"after {len(taken)} items of a batch of {type(self.dataset).__name__}"
            raise said(error, place) from None
        if not taken or self.drop_last and len(taken) < wanted:
            raise StopIteration
        places = [place for place, _ in taken]
        items = [item for _, item in taken]
        return self._collated(items, places if self.batched else places[0])

    def _collated(self, items: list[Any], indices: Any) -> Any:
        try:
            return self.collate(items if self.batched else items[0])
        except Exception as error:
            raise said(error, f"while items {shortened(indices)} were collated") from None


def said(error: Exception, note: str) -> Exception:
    """An exception with a note of where it came from; one that ends loops must not end ours."""
    if isinstance(error, StopIteration):
        wrapped = RuntimeError("StopIteration was raised where an item was made")
        wrapped.__cause__ = error
        error = wrapped
    error.add_note(note)
    return error


def shortened(indices: Any) -> str:
    """A list of numbers, its middle left out if it is long."""
    shown = list(indices) if isinstance(indices, Iterable) else [indices]
    if len(shown) <= 8:
        return str(shown)
    return f"[{', '.join(map(str, shown[:4]))}, ..., {shown[-1]}]"


_own_bits = np.random.MT19937(0)


@contextmanager
def seeded(base: int, batch: int) -> Iterator[None]:
    """Give the streams of Python, NumPy and deepseek seeds that depend on the batch alone.

    So random items are the same whatever process makes them. The streams go on afterwards as if
    nothing had been drawn.
    """
    seed = derived(base, batch)
    numpys: Any = np.random
    before = random.getstate(), numpys.get_bit_generator(), default_generator.get_state()
    numpys.set_bit_generator(_own_bits)
    seed_all(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        numpys.set_bit_generator(before[1])
        default_generator.set_state(before[2])


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    default_generator.manual_seed(seed)


# ------------------------------------------------------------------------------------ the process


@dataclass(frozen=True)
class Failure:
    """An exception on its way to the loader: pickled if it can be, and in words."""

    pickled: bytes | None
    summary: str
    notes: tuple[str, ...]
    traceback: str

    def raised(self, who: str) -> Exception:
        """The exception to raise in the loader's process."""
        text = f"in {who}:\n{self.traceback}"
        if self.pickled is not None:
            error: Exception = pickle.loads(self.pickled)
        else:
            error = WorkerError(f"{who} raised {self.summary}")
            for note in self.notes:
                error.add_note(note)
        error.add_note(text.rstrip())
        return error


class End:
    """A worker's answer at the end of its stream."""


def failure_of(error: BaseException) -> Failure:
    """An exception as it is sent."""
    summary = "".join(traceback.format_exception_only(error)[:1]).strip()
    notes = tuple(getattr(error, "__notes__", ()))
    text = "".join(traceback.format_exception(error))
    pickled = None
    if isinstance(error, Exception):
        try:
            pickled = pickle.dumps(error)
            again = pickle.loads(pickled)
            if type(again) is not type(error) or str(again) != str(error):
                pickled = None
        except Exception:
            pickled = None  # said in words instead
    return Failure(pickled, summary, notes, text)


def run(
    connection: Connection,
    number: int,
    count: int,
    recipe: Recipe,
    init: Callable[[int], None] | None,
) -> None:
    """The life of a worker: answer ("epoch", seed) and ("batch", epoch, number, indices)."""
    global _info
    for inherited in transport.ours:
        inherited.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the loader, which ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # blocked until here
    threading.Thread(target=_end_with_parent, daemon=True).start()
    set_num_threads(1)
    fetch: Callable[[Any], Any] | None = None
    base = 0
    ready = False
    while True:
        try:
            kind, *rest = receive(connection)
        except (EOFError, OSError):
            return
        if kind == "epoch":
            (base,) = rest
            fetch = None
            _info = WorkerInfo(number, count, derived(base, number), recipe.dataset)
            continue
        epoch, batch, indices = rest
        try:
            if init is not None and not ready:
                seed_all(derived(base, number))
                start(init, number)
                ready = True
            if fetch is None:
                seed_all(derived(base, number))
                fetch = recipe.fetcher()
            seed_all(derived(base, batch))
            answer = fetch(indices)
        except StopIteration:
            answer = End()
        except BaseException as error:
            answer = failure_of(error)
        try:
            _answer(connection, epoch, answer)
        except (BrokenPipeError, ConnectionResetError):
            return


def start(init: Callable[[int], None], number: int) -> None:
    """Call the user's worker_init_fn."""
    try:
        init(number)
    except Exception as error:
        raise said(error, f"in worker_init_fn({number})") from None


def _answer(connection: Connection, epoch: int, answer: Any) -> None:
    """Send an answer; one that cannot be pickled is a failure."""
    try:
        send(connection, (epoch, answer))
    except OSError:
        raise
    except Exception as error:
        error.add_note("while the batch was sent to the loader's process")
        send(connection, (epoch, failure_of(error)))


def _end_with_parent() -> None:
    """End this process, whatever it is doing, when its parent is gone."""
    parent = parent_process()
    if parent is not None:
        connections.wait([parent.sentinel])
        os._exit(1)
