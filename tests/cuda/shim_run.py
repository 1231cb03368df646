"""Emitted CUDA text on the CPU: compiled by g++ with the shim, and called.

In flow kernels; out flow functions that run them on NumPy arrays. A launch has few blocks, so that
teams take several tasks, and brings scratch full of NaN.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepseek.backends import Launchable
from deepseek.backends.cuda import BACKEND as CUDA
from deepseek.backends.cuda import Cuda, emit, launch_of
from deepseek.backends.cuda.c_types import c_type
from deepseek.ir.scalar import Expr, evaluate
from deepseek.kernel.ir import Kernel
from deepseek.program.ir import Row
from deepseek.program.load import Loader
from deepseek.program.tape import TapeBlock

SHIM = Path(__file__).parent / "shim" / "shim.h"
COMPILER = os.environ.get("CXX", "g++")
FLAGS = ["-std=c++20", "-O0", "-fPIC", "-w", "-fwrapv", "-ffp-contract=off", "-fno-strict-aliasing"]
BLOCKS = 3
ORDERS = (0, 1, 7)  # first to last, last to first, shuffled


def missing() -> str | None:
    """Why nothing can be run here, or None."""
    if os.uname().machine != "x86_64":
        return f"the shim switches stacks on x86-64, not on {os.uname().machine}"
    if shutil.which(COMPILER) is None:
        return f"there is no C++ compiler ({COMPILER})"
    return None


@functools.cache
def folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="deepseek-shim-", dir=os.environ.get("DS_CACHE")))


@functools.cache
def header() -> Path:
    """The shim and the prelude, compiled once."""
    path = folder() / "cuda_on_cpu.h"
    path.write_text(f'#include "{SHIM}"\n{emit.prelude().replace("#pragma once", "")}')
    built([*FLAGS, "-x", "c++-header", str(path), "-o", f"{path}.gch"])
    return path


@functools.cache
def scheduler() -> Path:
    """The shim's own code, compiled once."""
    path = folder() / "libshim.so"
    built([*FLAGS, "-O1", "-shared", str(SHIM.with_suffix(".cpp")), "-o", str(path)])
    return path


def built(arguments: Sequence[str]) -> None:
    done = subprocess.run([COMPILER, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]


def wrapper(symbol: str, kernel: Kernel) -> str:
    """A function that all kernels can be called by."""
    arguments = [f"({c_type(b.dtype)}*)buffers[{i}]" for i, b in enumerate(kernel.globals())]
    arguments += [f"sizes[{i}]" for i in range(len(kernel.sizes))]
    launch = launch_of(kernel)
    if emit.mapping_of(kernel).brought:
        arguments.append("scratch")
    x, y = launch.block
    return (
        f'extern "C" const char* run_{symbol}(void** buffers, const int64* sizes, unsigned blocks, '
        f"char* scratch, unsigned order) {{\n  return shim::launched(blocks, {x}, {y}, order, "
        f"[&] {{ {symbol}({', '.join(arguments)}); }});\n}}\n"
    )


@functools.cache
def compiled(texts: tuple[str, ...]) -> ctypes.CDLL:
    """A library of texts."""
    whole = "\n".join(texts)
    name = hashlib.sha256(whole.encode()).hexdigest()[:24]
    source, library = folder() / f"{name}.cpp", folder() / f"{name}.so"
    source.write_text(whole)
    built([*FLAGS, "-include", str(header()), "-shared", str(source), str(scheduler()),
           f"-Wl,-rpath,{folder()}", "-o", str(library)])  # fmt: skip
    return ctypes.CDLL(str(library))


def texts_of(kernels: Sequence[tuple[str, Kernel]]) -> tuple[str, ...]:
    """The kernels, what they call, and their wrappers."""
    emitted = [emit.emit(kernel, symbol) for symbol, kernel in kernels]
    shared = dict(f for e in emitted for f in e.functions)
    wrappers = [wrapper(symbol, kernel) for symbol, kernel in kernels]
    return (*shared.values(), *(e.text for e in emitted), *wrappers)


class Library:
    """Some kernels, ready to run."""

    def __init__(self, kernels: Sequence[tuple[str, Kernel]]) -> None:
        self.library = compiled(texts_of(kernels))

    def run(
        self, symbol: str, kernel: Kernel, buffers: Sequence[np.ndarray[Any, Any]],
        sizes: Sequence[int], order: int = 0,
    ) -> None:  # fmt: skip
        """Run a kernel; `buffers` are the globals in order."""
        run_symbol(self.library, symbol, kernel, buffers, sizes, order)


def run_symbol(
    library: ctypes.CDLL, symbol: str, kernel: Kernel, buffers: Sequence[np.ndarray[Any, Any]],
    sizes: Sequence[int], order: int = 0,
) -> None:  # fmt: skip
    """Run one kernel of a library of kernels and their wrappers."""
    launch = launch_of(kernel)
    env = {s: np.int64(v) for s, v in zip(kernel.sizes, sizes, strict=True)}
    blocks = min(int(evaluate(launch.blocks, env)), BLOCKS)
    if blocks == 0:
        return
    scratch = np.full(
        blocks * launch.teams * int(evaluate(launch.scratch, env)) + 64, 255, np.uint8
    )
    start = scratch.ctypes.data + -scratch.ctypes.data % 64
    function = getattr(library, f"run_{symbol}")
    function.restype = ctypes.c_char_p
    pointers = (ctypes.c_void_p * len(buffers))(*(b.ctypes.data for b in buffers))
    numbers = (ctypes.c_int64 * len(sizes))(*map(int, sizes))
    error = function(pointers, numbers, blocks, ctypes.c_void_p(start), order)
    if error is not None:
        raise AssertionError(f"kernel {kernel.name!r}: {error.decode()}")


class ShimKernel(Launchable):
    """A kernel of a library, launched as a host step."""

    def __init__(self, library: ctypes.CDLL, symbol: str) -> None:
        self.library = library
        self.symbol = symbol

    def add(
        self, block: TapeBlock, kernel: Kernel, rows: Sequence[Row], grain: Expr, label: str,
        loader: Loader,
    ) -> None:  # fmt: skip
        def run(views: list[memoryview], sizes: tuple[int, ...]) -> None:
            buffers = []
            for view, buffer in zip(views, kernel.globals(), strict=True):
                item = buffer.dtype.itemsize
                data = np.frombuffer(view, np.uint8)
                buffers.append(data[: data.size // item * item].view(buffer.dtype.numpy))
            run_symbol(self.library, self.symbol, kernel, buffers, sizes, RAN["order"])
            RAN["kernels"] += 1

        for refs, sizes, _ in loader.rows(rows):
            block.host(run, refs, sizes, label)


class Shim(Cuda):
    """The cuda backend, but that its kernels are compiled and run on the CPU."""

    name = "cuda_on_cpu"

    def version(self) -> str:
        shim = hashlib.sha256(SHIM.read_bytes() + Path(__file__).read_bytes()).hexdigest()
        return f"{CUDA.version()} {shim}"

    def compile(self, kernels: Sequence[tuple[str, Kernel]]) -> bytes:
        return "\0".join(texts_of(kernels)).encode()

    def load(self, data: bytes, symbols: Sequence[str]) -> list[Launchable]:
        library = compiled(tuple(data.decode().split("\0")))
        return [ShimKernel(library, symbol) for symbol in symbols]


RAN = {"kernels": 0, "order": 0}
BACKEND = Shim()
