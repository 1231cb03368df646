"""The cpu backend: kernels as LLVM IR text with explicit vectors, compiled to object code.

In flow Kernels and a Target; out flows one relocatable object for many kernels, which the
runtime's loader maps.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from deepseek import _runtime
from deepseek.backends import Backend, Launchable, sources_hash
from deepseek.backends.cpu.target import best_level, current_target
from deepseek.errors import BackendError
from deepseek.ir import scalar
from deepseek.late import late

if TYPE_CHECKING:
    from deepseek.kernel.ir import Kernel
    from deepseek.program.ir import Row
    from deepseek.program.load import Loader
    from deepseek.program.tape import TapeBlock

emitter = late("deepseek.backends.cpu.emit")
compiler = late("deepseek.backends.cpu.compile")


@functools.cache
def llvmlite_version() -> str:
    """Which llvmlite is installed, without importing it; without any, cached code still runs."""
    spec = find_spec("llvmlite")
    if spec is None or spec.origin is None:
        return "none"
    return sources_hash(Path(spec.origin).with_name("_version.py"))


class NativeKernel(Launchable):
    """Machine code and the kernel it came from."""

    code: _runtime.Code

    def __init__(self, code: _runtime.Code, symbol: str) -> None:
        self.code = code
        self.symbol = symbol

    def add(
        self, block: TapeBlock, kernel: Kernel, rows: Sequence[Row], grain: scalar.Expr, label: str,
        loader: Loader,
    ) -> None:  # fmt: skip
        scratch = scalar.ZERO
        for row in rows:
            arguments = dict(zip(kernel.sizes, row.sizes, strict=True))
            needed = scalar.substitute(emitter.scratch_bytes(kernel), arguments)
            scratch = scalar.maximum(scratch, needed)
        block.launch(
            self.code,
            self.symbol,
            loader.rows(rows),
            loader.expr(scratch),
            loader.expr(grain),
            label,
        )


class Cpu(Backend):
    """x86-64 from 128-bit vectors to AVX-512."""

    name = "cpu"

    def unusable(self) -> str | None:
        try:
            best_level()
        except BackendError as error:
            return str(error)
        return None

    def target(self) -> str:
        return f"cpu {current_target().level}"

    def version(self) -> str:
        return f"{super().version()} llvmlite {llvmlite_version()}"

    def lanes(self) -> int:
        return current_target().width

    def emit(self, kernel: Kernel, symbol: str = "kernel") -> str:
        return emitter.emit(kernel, current_target()).replace("@kernel(", f"@{symbol}(", 1)

    def compile(self, kernels: Sequence[tuple[str, Kernel]]) -> bytes:
        target = current_target()
        texts = [(symbol, emitter.emit(kernel, target)) for symbol, kernel in kernels]
        data: bytes = compiler.compile_kernels(texts, target)
        return data

    def load(self, data: bytes, symbols: Sequence[str]) -> list[Launchable]:
        code = _runtime.Code(data)
        return [NativeKernel(code, symbol) for symbol in symbols]


BACKEND = Cpu()
