"""`ds.cuda`: CUDA devices, their streams, events and memory, under PyTorch's names and units.

Nothing here starts the driver before a device is asked for. A device is given by its number, as
`"cuda:1"`, or not at all, which means the current one of this thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from deepseek import _runtime
from deepseek._runtime import CudaEvent, CudaStream
from deepseek.errors import ArgumentError
from deepseek.frontend.devices import checked_device, current
from deepseek.memory import amount, held_by, table
from deepseek.ops.random import default_generator
from deepseek.ops.random import manual_seed as _manual_seed

__all__ = [
    "DeviceProperties", "Event", "Stream", "can_device_access_peer", "current_device",
    "current_stream", "default_stream", "device", "device_count", "empty_cache",
    "get_device_capability", "get_device_name", "get_device_properties", "get_rng_state",
    "initial_seed", "is_available", "manual_seed", "manual_seed_all", "max_memory_allocated",
    "max_memory_reserved", "mem_get_info", "memory_allocated", "memory_reserved", "memory_stats",
    "memory_summary", "reset_peak_memory_stats", "seed", "set_device",
    "set_per_process_memory_fraction", "set_rng_state", "set_stream", "stream", "synchronize",
]  # fmt: skip


# ----------------------------------------------------------------------------------------- devices


def is_available() -> bool:
    """Whether this machine has a CUDA device that we can use. Why not: `device="cuda"` says.

    >>> isinstance(ds.cuda.is_available(), bool)
    True
    """
    return not _runtime.cuda_unavailable()


def device_count() -> int:
    """How many CUDA devices there are; 0 without a driver.

    >>> ds.cuda.device_count() >= 0
    True
    """
    return _runtime.cuda_device_count() if is_available() else 0


def current_device() -> int:
    """The number of the device that `device="cuda"` means in this thread; see `device`."""
    return _number(None)


def set_device(device: Any) -> None:
    """Let `device="cuda"` mean this device, in this thread. Negative numbers change nothing.

    Used with others: see `device`.
    """
    if not (isinstance(device, int) and device < 0):
        current.index = _number(device)


class device:  # noqa: N801  (PyTorch's name)
    """Context manager: `device="cuda"` means this device within the block, in this thread.

    >>> if ds.cuda.device_count() > 1:
    ...     with ds.cuda.device(1):
    ...         assert ds.ones(2, device="cuda").device == "cuda:1"
    """

    def __init__(self, device: Any) -> None:
        self.index = _number(device)

    def __enter__(self) -> None:
        self._before = current.index
        current.index = self.index

    def __exit__(self, *_: object) -> None:
        current.index = self._before


def _number(given: Any) -> int:
    """The number of a device. Raises ArgumentError for one of another kind."""
    found = checked_device("cuda" if given is None else given)
    if found is None:
        raise ArgumentError(f"ds.cuda: got device {str(given)!r}; wanted a CUDA device")
    return found.number


class DeviceProperties:
    """What a device is: `name`, `major`, `minor`, `total_memory` (bytes), `multi_processor_count`,
    `warp_size`, `L2_cache_size`, `max_threads_per_multi_processor`, `shared_memory_per_block`,
    `shared_memory_per_block_optin`, `regs_per_multiprocessor`, `is_integrated`, `uuid`, ...

    >>> if ds.cuda.is_available():
    ...     assert ds.cuda.get_device_properties(0).total_memory > 0
    """

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        names = ", ".join(vars(self))
        raise AttributeError(f"a CUDA device has no property {name!r}; it has: {names}")

    def __repr__(self) -> str:
        return f"DeviceProperties({', '.join(f'{k}={v!r}' for k, v in vars(self).items())})"


def get_device_properties(device: Any = None) -> DeviceProperties:
    """What a device is and has; see `DeviceProperties`."""
    return DeviceProperties(_runtime.cuda_properties(_number(device)))


def get_device_name(device: Any = None) -> str:
    """The name of a device, such as "NVIDIA H100 80GB HBM3"; see `DeviceProperties`."""
    return str(get_device_properties(device).name)


def get_device_capability(device: Any = None) -> tuple[int, int]:
    """The compute capability of a device, such as (9, 0); see `DeviceProperties`."""
    found = get_device_properties(device)
    return found.major, found.minor


def can_device_access_peer(device: Any, peer_device: Any) -> bool:
    """Whether a device can read the other one's memory without the host; see `device`."""
    return _runtime.cuda_can_access_peer(_number(device), _number(peer_device))


def synchronize(device: Any = None) -> None:
    """Wait until all work on a device is done. Errors of that work are raised here.

    Used with others: see `Stream`.
    """
    _runtime.cuda_synchronize(_number(device))


# ------------------------------------------------------------------------------ streams and events


class Stream:
    """A queue of work. Work on one stream is done in order; streams overlap.

    What a stream reads of another's tensors waits for them by itself.

    >>> if ds.cuda.is_available():
    ...     beside = ds.cuda.Stream()
    ...     with ds.cuda.stream(beside):
    ...         y = ds.ones(2, device="cuda") + 1
    ...     beside.synchronize()
    """

    def __init__(self, device: Any = None, priority: int = 0) -> None:
        self._set(CudaStream(_number(device), priority))

    def _set(self, stream: CudaStream) -> Stream:
        self._stream = stream
        return self

    @property
    def device(self) -> Any:
        """The device that it belongs to."""
        return checked_device(self._stream.device)

    @property
    def cuda_stream(self) -> int:
        """The driver's handle, for other libraries."""
        return self._stream.handle

    @property
    def priority(self) -> int:
        return self._stream.priority

    def synchronize(self) -> None:
        """Wait until all of its work is done."""
        self._stream.synchronize()

    def query(self) -> bool:
        """Whether all of its work is done."""
        return self._stream.query()

    def wait_stream(self, stream: Stream) -> None:
        """Do what comes next after all that the other stream has now."""
        self._stream.wait_stream(stream._stream)

    def wait_event(self, event: Event) -> None:
        """Do what comes next after the event."""
        event.wait(self)

    def record_event(self, event: Event | None = None) -> Event:
        """Mark this place in the stream, by a new event if none is given."""
        event = Event(device=self._stream.device) if event is None else event
        event.record(self)
        return event

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.cuda_stream == self.cuda_stream

    def __hash__(self) -> int:
        return hash(self.cuda_stream)

    def __repr__(self) -> str:
        return f"<ds.cuda.Stream {self.cuda_stream:#x} on cuda:{self._stream.device}>"


class Event:
    """A mark in a stream: to wait for, or, with enable_timing, to measure between.

    >>> if ds.cuda.is_available():
    ...     began, ended = (ds.cuda.Event(enable_timing=True) for _ in range(2))
    ...     began.record()
    ...     ended.record()
    ...     ended.synchronize()
    ...     assert began.elapsed_time(ended) >= 0
    """

    def __init__(
        self, enable_timing: bool = False, blocking: bool = False, *, device: Any = None
    ) -> None:
        self._event = CudaEvent(_number(device), enable_timing)

    def record(self, stream: Stream | None = None) -> None:
        """Mark the place where a stream is now, the current one by default."""
        self._event.record(None if stream is None else stream._stream)

    def wait(self, stream: Stream | None = None) -> None:
        """Let a stream, the current one by default, go on after this event only."""
        self._event.wait(None if stream is None else stream._stream)

    def synchronize(self) -> None:
        """Wait until the event has happened."""
        self._event.synchronize()

    def query(self) -> bool:
        """Whether it has happened."""
        return self._event.query()

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds from this event to the other. Raises BackendError unless both keep time and
        have happened.
        """
        return self._event.elapsed_time(end_event._event)

    @property
    def cuda_event(self) -> int:
        """The driver's handle, for other libraries."""
        return self._event.handle


class Chosen(threading.local):
    """The streams that this thread has made current, by device: kept while they are."""

    def __init__(self) -> None:
        self.streams: dict[int, CudaStream] = {}


chosen = Chosen()


def current_stream(device: Any = None) -> Stream:
    """Where this thread's work on a device goes; see `Stream`."""
    index = _number(device)
    held = chosen.streams.get(index)
    return Stream.__new__(Stream)._set(CudaStream.default(index) if held is None else held)


def default_stream(device: Any = None) -> Stream:
    """Where work on a device goes unless another stream is chosen; see `Stream`."""
    return Stream.__new__(Stream)._set(CudaStream.default(_number(device)))


def set_stream(stream: Stream) -> None:
    """Let this thread's work on the stream's device go there; see `Stream`."""
    stream._stream.make_current()
    chosen.streams[stream._stream.device] = stream._stream


@contextmanager
def stream(stream: Stream | None) -> Iterator[None]:
    """Context manager: this thread's work goes to the stream, and to its device, in the block.

    Used with others: see `Stream`.
    """
    if stream is None:
        yield
        return
    before = current_stream(stream._stream.device)
    with device(stream._stream.device):
        set_stream(stream)
        try:
            yield
        finally:
            set_stream(before)


# ------------------------------------------------------------------------------------------ memory


def memory_allocated(device: Any = None) -> int:
    """Bytes that tensors and running programs hold on a device; see `memory_stats`."""
    return _runtime.cuda_pool_stats(_number(device))["in_use"]


def max_memory_allocated(device: Any = None) -> int:
    """The most of them so far, or since `reset_peak_memory_stats`; see `memory_stats`."""
    return _runtime.cuda_pool_stats(_number(device))["peak"]


def memory_reserved(device: Any = None) -> int:
    """Bytes that we have from the driver: in use, and kept for reuse; see `memory_stats`."""
    return _runtime.cuda_pool_stats(_number(device))["reserved"]


def max_memory_reserved(device: Any = None) -> int:
    """The most of them so far, or since `reset_peak_memory_stats`; see `memory_stats`."""
    return _runtime.cuda_pool_stats(_number(device))["peak_reserved"]


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """(free, total) bytes of a device as the driver counts them, with everybody's use.

    Used with others: see `memory_stats`.
    """
    index = _number(device)
    return _runtime.cuda_free_memory(index), _runtime.cuda_properties(index)["total_memory"]


def memory_stats(device: Any = None) -> dict[str, int]:
    """The pool's figures of a device, by PyTorch's names for them.

    >>> if ds.cuda.is_available():
    ...     x = ds.ones(1024, device="cuda")
    ...     assert ds.cuda.memory_stats()["allocated_bytes.all.current"] >= x.numpy().nbytes
    """
    stats = _runtime.cuda_pool_stats(_number(device))
    return {
        "allocated_bytes.all.current": stats["in_use"],
        "allocated_bytes.all.peak": stats["peak"],
        "reserved_bytes.all.current": stats["reserved"],
        "reserved_bytes.all.peak": stats["peak_reserved"],
        "inactive_bytes.all.current": stats["cached"],
        "allocation.all.current": stats["live_blocks"],
        "allocation.all.allocated": stats["allocations"],
        "cache_hits": stats["cache_hits"],
        "num_alloc_retries": stats["retries"],
        "num_ooms": stats["failures"],
    }


def memory_summary(device: Any = None, abbreviated: bool = False) -> str:
    """Who holds how much memory of a device, as a table. Abbreviated: without the holders.

    Used with others: see `memory_stats`.
    """
    index = _number(device)
    stats = _runtime.cuda_pool_stats(index)
    staging = _runtime.cuda_pool_stats(index, pinned=True)
    limit = stats["limit"]
    rows = [
        ("in use", amount(stats["in_use"]), f"in {stats['live_blocks']} blocks"),
        ("peak", amount(stats["peak"]), "in use at most so far"),
        ("reserved", amount(stats["reserved"]), "from the driver: in use, and kept for reuse"),
        ("cached", amount(stats["cached"]), "kept for reuse; ds.cuda.empty_cache() gives it back"),
        ("pinned", amount(staging["reserved"]), "of the host, for copies"),
        ("limit", "none" if limit is None else amount(limit), f"{amount(stats['physical'])} there"),
    ]
    text = f"Memory of cuda:{index}, {get_device_name(index)}\n" + table(rows)
    return text if abbreviated else text + held_by(_runtime.cuda_live_blocks(index))


def reset_peak_memory_stats(device: Any = None) -> None:
    """Let the peaks start again from what is held now; see `memory_stats`."""
    _runtime.cuda_reset_peak(_number(device))


def empty_cache() -> None:
    """Give the memory of the current device that is kept for reuse back to the driver.

    Used with others: see `memory_stats`.
    """
    _runtime.cuda_empty_cache(_number(None))


def set_per_process_memory_fraction(fraction: float, device: Any = None) -> None:
    """The most that tensors and programs may hold of a device's memory, from 0 to 1.

    An allocation beyond it raises OutOfMemoryError and leaves everything as it was. Raises
    ArgumentError for another fraction.

    See `memory_stats`.
    """
    if not 0 <= fraction <= 1:
        raise ArgumentError(f"memory fraction: got {fraction!r}; wanted 0 to 1")
    index = _number(device)
    total = _runtime.cuda_properties(index)["total_memory"]
    _runtime.cuda_set_memory_limit(index, None if fraction == 1 else int(fraction * total))


# -------------------------------------------------------------------------------------- randomness


def manual_seed(seed: int) -> None:
    """Start the stream of random numbers from its beginning: it is one for all devices.

    >>> ds.cuda.manual_seed(0)
    >>> ds.cuda.initial_seed()
    0
    """
    _manual_seed(seed)


manual_seed_all = manual_seed


def seed() -> None:
    """Start a stream of random numbers that nobody knows; see `manual_seed`."""
    default_generator.__init__()  # type: ignore[misc]


def initial_seed() -> int:
    """The seed that the stream started from; see `manual_seed`."""
    return default_generator.initial_seed()


def get_rng_state(device: Any = None) -> tuple[int, int]:
    """What `set_rng_state` needs to go on from here; see `manual_seed`."""
    return default_generator.get_state()


def set_rng_state(new_state: tuple[int, int], device: Any = None) -> None:
    """Go on from where `get_rng_state` was called; see `manual_seed`."""
    default_generator.set_state(new_state)
