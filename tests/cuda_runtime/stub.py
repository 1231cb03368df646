"""The stub driver and a backend for it: programs of a CUDA device, run without one.

`build` compiles the driver from the runtime's tests; DS_CUDA_DRIVER has to name it when a process
starts. `start` puts a backend in the place of `cuda` whose kernels are the processor's, reached
through an image that the stub reads.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepseek import _runtime, backends
from deepseek.backends import Launchable
from deepseek.backends.cpu import BACKEND as CPU
from deepseek.backends.cpu import Cpu
from deepseek.config import options

SOURCE = Path(__file__).parents[2] / "runtime" / "tests" / "stub_driver.cpp"
KINDS = ("memory", "bytes", "pinned", "events", "modules", "graphs", "execs", "queued")


def build(folder: Path) -> Path:
    """The stub as a library."""
    library = folder / "libstub_driver.so"
    command = ["c++", "-std=c++20", "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
    subprocess.run(command, check=True)
    return library


class Stub:
    """The stub driver's controls."""

    def __init__(self, path: str) -> None:
        self.library = ctypes.CDLL(path)
        self.library.stub_live.restype = ctypes.c_long

    def fail(self, function: str, call: int, code: int) -> None:
        """Let a call of a driver's function fail, the call-th from now on; 0: all of them."""
        self.library.stub_fail(function.encode(), call, code)

    def succeed(self) -> None:
        self.library.stub_succeed()

    def calls(self, function: str) -> int:
        """How often a function was called."""
        return int(self.library.stub_calls(function.encode()))

    def live(self, kind: str) -> int:
        return int(self.library.stub_live(kind.encode()))

    def left(self) -> dict[str, int]:
        """How much there is of everything."""
        return {kind: self.live(kind) for kind in KINDS}


class StubKernel(Launchable):
    """A kernel of the processor behind a device's launch: the grid is its range."""

    def __init__(self, code: _runtime.Code, symbol: str) -> None:
        self.native = code
        self.symbol = symbol
        # Launches may be queued when the process ends: the machine code stays mapped.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(code))

    def add(
        self, block: Any, kernel: Any, rows: Sequence[Any], grain: Any, label: str, loader: Any
    ) -> None:
        address = self.native.symbol(self.symbol)
        counts = f"{len(kernel.globals())} {len(kernel.sizes)}"
        image = f"stub-cubin 90\n{self.symbol} {address} {counts}\n"
        code = _runtime.CudaCode(image.encode())
        block.launch_on_device(code, self.symbol, loader.rows(rows), (32, 1), label=label)
        block.tape.functions.append(self.native)  # nothing of this is kept on disk


class StubBackend(Cpu):
    """The cpu backend's kernels on the stub's devices."""

    name = "cuda"

    def target(self) -> str:
        return f"stub {CPU.target()}"

    def load(self, data: bytes, symbols: Sequence[str]) -> list[Launchable]:
        code = _runtime.Code(data)
        return [StubKernel(code, symbol) for symbol in symbols]


def start() -> Stub:
    """Run programs of CUDA devices on the stub, in this process."""
    own = backends.load
    stub = StubBackend()

    def load(name: str) -> Any:
        return stub if name == "cuda" else own(name)

    backends.load = load  # type: ignore[assignment]
    return Stub(options.cuda_driver)
