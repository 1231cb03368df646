"""The cuda backend: kernels as CUDA C++ text, compiled by NVRTC to one cubin for many kernels.

In flow Kernels and a Target; out flow a cubin and, for each kernel, how it is launched. Compiling
needs no GPU, running does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deepseek import _runtime
from deepseek.backends import Backend, Launchable
from deepseek.backends.cuda.target import current_target
from deepseek.frontend.devices import why_unavailable
from deepseek.ir import scalar
from deepseek.ir.scalar import Expr
from deepseek.late import late

if TYPE_CHECKING:
    from deepseek.kernel.ir import Kernel
    from deepseek.program.ir import Row
    from deepseek.program.load import Loader
    from deepseek.program.tape import TapeBlock

emitter = late("deepseek.backends.cuda.emit")
mapping = late("deepseek.backends.cuda.mapping")
nvrtc = late("deepseek.backends.cuda.nvrtc")


@dataclass(frozen=True)
class Launch:
    """How a kernel is launched, over its sizes.

    Arguments are the pointers of the kernel's global buffers in order, then its sizes as int64,
    then, where `scratch` is not 0, a pointer to `scratch` bytes for each team that is launched. No
    block means no launch; fewer blocks than `blocks` do the same work.
    """

    blocks: Expr
    block: tuple[int, int]  # threads along x (a team's), and along y (the teams of a block)
    shared: Expr  # bytes of dynamic shared memory
    teams: int
    scratch: Expr


def launch_of(kernel: Kernel) -> Launch:
    """The launch that a kernel's text is written for."""
    m = mapping.mapping_of(kernel)
    block = (m.teams, 1) if m.team == 1 else (m.team, m.teams)
    return Launch(m.blocks, block, m.dynamic, m.teams, m.scratch)


class CudaKernel(Launchable):
    """A kernel of a cubin, launched on the device of the program that it is added to."""

    def __init__(self, code: _runtime.CudaCode, symbol: str) -> None:
        self.cubin = code
        self.symbol = symbol

    def add(
        self, block: TapeBlock, kernel: Kernel, rows: Sequence[Row], grain: Expr, label: str,
        loader: Loader,
    ) -> None:  # fmt: skip
        how = launch_of(kernel)
        for row in rows:
            sizes = dict(zip(kernel.sizes, row.sizes, strict=True))
            blocks = scalar.substitute(how.blocks, sizes)
            scratch = None
            if how.scratch is not scalar.ZERO:
                teams = scalar.mul(blocks, scalar.const(how.teams))
                scratch = loader.expr(scalar.mul(teams, scalar.substitute(how.scratch, sizes)))
            arguments = [loader.expr(size) for size in row.sizes]
            block.launch_on_device(
                self.cubin,
                self.symbol,
                [(loader.refs(row.refs), arguments, loader.expr(blocks))],
                how.block,
                loader.expr(scalar.substitute(how.shared, sizes)),
                scratch,
                label,
                "; ".join(kernel.lines),
            )


class Cuda(Backend):
    """NVIDIA GPUs from sm_80."""

    name = "cuda"

    def unusable(self) -> str | None:
        return why_unavailable() or None

    def target(self) -> str:
        return f"cuda {current_target().arch}"

    def version(self) -> str:
        return f"{super().version()} {emitter.prelude_hash()} nvrtc {nvrtc.version()}"

    def lanes(self) -> int:
        return 32

    def emit(self, kernel: Kernel, symbol: str = "kernel") -> str:
        text: str = emitter.emit(kernel, symbol).whole()
        return text

    def module(self, kernels: Sequence[tuple[str, Kernel]]) -> str:
        """The kernels as one text."""
        text: str = emitter.module_text([emitter.emit(k, symbol) for symbol, k in kernels])
        return text

    def compile(self, kernels: Sequence[tuple[str, Kernel]]) -> bytes:
        data: bytes = nvrtc.compile_text(self.module(kernels), current_target().arch)
        return data

    def load(self, data: bytes, symbols: Sequence[str]) -> list[Launchable]:
        code = _runtime.CudaCode(data)
        return [CudaKernel(code, symbol) for symbol in symbols]


BACKEND = Cuda()
