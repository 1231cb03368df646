"""The cuda backend where NVRTC is g++ with the shim; imported, it stands in for `cuda`.

An image is what the stub driver reads: each kernel's name, the address of a function in this
process, and how many buffers and sizes it takes.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

import shim_run

from deepseek import backends
from deepseek.backends import Backend
from deepseek.backends.cuda import Cuda
from deepseek.backends.cuda.emit import mapping_of
from deepseek.kernel.ir import Kernel

TAG = 1 << 62  # in the stub's addresses of device memory; it takes it off those of buffers
ENTRY = """
extern "C" void on_stub_{symbol}(void** buffers, const int64* sizes, int64, int64 blocks, void*) {{
  if (const char* wrong = run_{symbol}(buffers, sizes, (unsigned)blocks, {scratch}, 0)) {{
    __builtin_printf("%s\\n", wrong);
    __builtin_abort();
  }}
}}
"""


def entry(symbol: str, kernel: Kernel) -> str:
    """A function as the stub calls kernels, around the shim's. Scratch comes after the sizes."""
    brought = f"(char*)(sizes[{len(kernel.sizes)}] & ~{TAG}LL)"
    return ENTRY.format(symbol=symbol, scratch=brought if mapping_of(kernel).brought else "nullptr")


class OnStub(Cuda):
    """All of it is the product's, but for compiling."""

    compiled = 0
    brought = 0  # kernels whose launches bring scratch

    def version(self) -> str:
        return f"{super().version()} process {os.getpid()}"  # where the addresses are right

    def compile(self, kernels: Sequence[tuple[str, Kernel]]) -> bytes:
        self.compiled += len(kernels)
        self.brought += sum(bool(mapping_of(kernel).brought) for _, kernel in kernels)
        entries = [entry(symbol, kernel) for symbol, kernel in kernels]
        library = shim_run.compiled((*shim_run.texts_of(kernels), *entries))
        lines = ["stub-cubin 90"]
        for symbol, kernel in kernels:
            function = getattr(library, f"on_stub_{symbol}")
            address = ctypes.cast(function, ctypes.c_void_p).value
            sizes = len(kernel.sizes) + bool(mapping_of(kernel).brought)
            lines.append(f"{symbol} {address} {len(kernel.globals())} {sizes}")
        return ("\n".join(lines) + "\n").encode()


BACKEND = OnStub()
_load = backends.load


def load(name: str) -> Backend:
    """As `backends.load`, but for `cuda`."""
    return BACKEND if name == BACKEND.name else _load(name)


backends.load = load  # type: ignore[assignment]
