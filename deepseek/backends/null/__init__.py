"""The null backend: compiles for any CPU level on any machine, and runs nothing.

In flow Kernels; out flows what the cpu backend would make of them for the level `DS_CPU_LEVEL`
(AVX-512 if that says `auto`), whether or not this machine could run it. Results are zeros.
Continuous
integration checks generated code with it, and counts kernels where there is no such machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from deepseek.backends import Backend, Launchable
from deepseek.backends.cpu import BACKEND as CPU
from deepseek.backends.cpu.compile import compile_kernels, module_text
from deepseek.backends.cpu.emit import emit
from deepseek.backends.cpu.target import Target, target_of
from deepseek.config import options
from deepseek.ir.scalar import Expr
from deepseek.kernel.ir import Kernel
from deepseek.program.ir import Row
from deepseek.program.load import Loader
from deepseek.program.tape import TapeBlock


def nothing(views: list[memoryview], sizes: tuple[int, ...]) -> None:
    """Stands where a launch would."""
    raise AssertionError("the null backend's programs are never run")


class NullKernel(Launchable):
    """A kernel that was compiled, to be launched elsewhere."""

    def add(
        self,
        block: TapeBlock,
        kernel: Kernel,
        rows: Sequence[Row],
        grain: Expr,
        label: str,
        loader: Loader,
    ) -> None:
        refs = [ref for row in rows for ref in loader.refs(row.refs)]
        block.host(nothing, refs, (), label)


class Null(Backend):
    """Compiles like the cpu backend; with llvmlite to machine code, without it to text."""

    name = "null"
    runs = False

    def level(self) -> Target:
        return target_of("v4" if options.cpu_level == "auto" else options.cpu_level)

    def target(self) -> str:
        return f"null {self.level().level}"

    def version(self) -> str:
        return f"{super().version()} {CPU.version()}"

    def lanes(self) -> int:
        return self.level().width

    def emit(self, kernel: Kernel, symbol: str = "kernel") -> str:
        return emit(kernel, self.level()).replace("@kernel(", f"@{symbol}(", 1)

    def compile(self, kernels: Sequence[tuple[str, Kernel]]) -> bytes:
        texts = [(symbol, emit(kernel, self.level())) for symbol, kernel in kernels]
        if find_spec("llvmlite") is None:
            return module_text(texts).encode()
        import llvmlite.binding as llvm

        llvm.initialize_all_targets()  # the machine's own may be another
        llvm.initialize_all_asmprinters()
        return compile_kernels(texts, self.level())

    def load(self, data: bytes, symbols: Sequence[str]) -> list[Launchable]:
        return [NullKernel() for _ in symbols]


BACKEND = Null()
