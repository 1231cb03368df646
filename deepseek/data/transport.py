"""Objects between processes: pickled, with large memory beside the pickle.

What is sent was made by the same program in another process of it. Arrays and tensors of a large
message lie in one anonymous file of the kernel's whose descriptor travels along; it is gone when
both sides closed it, whatever happens to them. A tensor is read straight into the pool.
"""

from __future__ import annotations

import io
import os
import pickle
import select
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

import numpy as np

from deepseek._runtime import Buffer
from deepseek.frontend.tensor import Tensor, leaf
from deepseek.ir.dtype import DTYPES

INLINE = 16384  # bytes of a message that still go through the socket
ALIGNMENT = 64

# The loader's ends of all connections to workers. A forked worker inherits those there are and has
# to close them: a worker sees that its loader is gone once nobody holds the other end.
ours: set[Connection] = set()


class _Pickler(pickle.Pickler):
    """Pickles to a head and, not copied, the memory of arrays and tensors."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, 5, buffer_callback=self._keep)
        self.memory: list[memoryview] = []
        self.belongs: list[bool] = []  # to a tensor, for each
        self.of_tensors: dict[int, pickle.PickleBuffer] = {}

    def _keep(self, buffer: pickle.PickleBuffer) -> bool:
        try:
            self.memory.append(buffer.raw())
        except BufferError:  # not contiguous
            return True
        self.belongs.append(id(buffer) in self.of_tensors)
        return False

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is not Tensor:
            return NotImplemented
        memory = pickle.PickleBuffer(obj.numpy().reshape(-1).view(np.uint8).data)
        self.of_tensors[id(memory)] = memory
        return _tensor, (memory, obj.dtype.name, obj.shape)


def _tensor(memory: Any, dtype: str, shape: tuple[int, ...]) -> Tensor:
    data = memory if isinstance(memory, Buffer) else Buffer.copy_of(memory, "batch")
    return Tensor(leaf(data, DTYPES[dtype], shape))


def send(connection: Connection, message: Any) -> None:
    """Send a message; it is on its way when this returns, and may be changed."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(message)
    sizes = [m.nbytes for m in pickler.memory]
    head = file.getvalue()
    if len(head) + sum(sizes) <= INLINE:
        connection.send_bytes(pickle.dumps((head, [bytes(m) for m in pickler.memory])))
        return
    descriptor = os.memfd_create("deepseek-batch", os.MFD_CLOEXEC)
    try:
        end = 0
        for memory in (memoryview(head), *pickler.memory):
            write_all(descriptor, memory, end)
            end += aligned(memory.nbytes)
        connection.send_bytes(pickle.dumps((len(head), sizes, pickler.belongs)))
        send_handle(connection, descriptor, None)
    finally:
        os.close(descriptor)


def receive(connection: Connection) -> Any:
    """The next message. Raises EOFError where the other side is gone."""
    first = pickle.loads(connection.recv_bytes())
    if len(first) == 2:
        return pickle.loads(first[0], buffers=first[1])
    length, sizes, belongs = first
    descriptor = recv_handle(connection)
    try:
        head = bytearray(length)
        read_all(descriptor, memoryview(head), 0)
        end = aligned(length)
        buffers = []
        for size, of_tensor in zip(sizes, belongs, strict=True):
            memory: Any = Buffer.allocate(size, "batch") if of_tensor else bytearray(size)
            if size:
                with memory.writable_view() if of_tensor else memoryview(memory) as view:
                    read_all(descriptor, view, end)
            buffers.append(memory)
            end += aligned(size)
    finally:
        os.close(descriptor)
    return pickle.loads(head, buffers=buffers)


def wait_writable(connection: Connection) -> bool:
    """Wait until a short message can be sent without waiting, or one has arrived: then False."""
    poll = select.poll()
    poll.register(connection, select.POLLIN | select.POLLOUT)
    ((_, events),) = poll.poll()
    return bool(events & select.POLLOUT)


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def write_all(descriptor: int, memory: memoryview, at: int) -> None:
    """Write all of it: the kernel takes at most 2 GiB at a time."""
    done = 0
    while done < memory.nbytes:
        done += os.pwrite(descriptor, memory[done:], at + done)


def read_all(descriptor: int, memory: memoryview, at: int) -> None:
    """Fill all of it."""
    done = 0
    while done < memory.nbytes:
        count = os.preadv(descriptor, [memory[done:]], at + done)
        if not count:
            raise EOFError("a message is shorter than announced")
        done += count
