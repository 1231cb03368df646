"""The accelerator: memory that the host cannot see, and a processor that runs binaries.

In flow binaries and transfers; out flow transfers. What crosses the border is counted. The
processor's instruction set is the text form of kernels.
"""

from __future__ import annotations

import zlib

import numpy as np

from deepseek.errors import BackendError
from deepseek.kernel.interpret import interpret
from deepseek.kernel.text import parse_kernel, print_kernel

MAGIC = b"NPU1"
ALIGNMENT = 256


class Memory:
    """Blocks of bytes by address; the highest block can be freed."""

    def __init__(self, nbytes: int) -> None:
        self.cells = np.zeros(nbytes, np.uint8)
        self.top = 0
        self.uploaded = self.downloaded = 0

    def allocate(self, nbytes: int) -> int:
        """The address of a new block. Raises BackendError where none is left."""
        address = self.top
        if address + nbytes > len(self.cells):
            free = len(self.cells) - self.top
            raise BackendError(f"npu: {nbytes} bytes do not fit into the {free} that are free")
        self.top += -(-nbytes // ALIGNMENT) * ALIGNMENT
        return address

    def free(self, address: int) -> None:
        """Give back this block and those above it."""
        self.top = address

    def upload(self, address: int, data: np.ndarray) -> None:
        self.cells[address : address + data.size] = data
        self.uploaded += data.size

    def download(self, address: int, into: np.ndarray) -> None:
        into[...] = self.cells[address : address + into.size]
        self.downloaded += into.size


class Processor:
    """Runs binaries on addresses of its memory."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.launched = 0

    def launch(self, kernel, addresses, lengths, sizes) -> None:
        """Run a kernel; its buffers lie at the addresses, and have so many bytes."""
        arrays = []
        for buffer, address, nbytes in zip(kernel.globals(), addresses, lengths, strict=True):
            whole = nbytes - nbytes % buffer.dtype.numpy.itemsize
            cells = self.memory.cells[address : address + whole]
            arrays.append(cells.view(buffer.dtype.numpy))
        interpret(kernel, arrays, sizes)
        self.launched += 1


def assemble(kernels) -> bytes:
    """One binary of many kernels: a magic number, a checksum, texts."""
    text = "\0".join(print_kernel(kernel) for kernel in kernels).encode()
    return MAGIC + zlib.crc32(text).to_bytes(4, "little") + text


def disassemble(binary: bytes):
    """The kernels of a binary. Raises BackendError for one that is damaged."""
    text = binary[8:]
    if binary[:4] != MAGIC or zlib.crc32(text).to_bytes(4, "little") != binary[4:8]:
        raise BackendError("npu: this is no binary, or a damaged one")
    return [parse_kernel(part) for part in text.decode().split("\0")]


MEMORY = Memory(64 << 20)
PROCESSOR = Processor(MEMORY)
