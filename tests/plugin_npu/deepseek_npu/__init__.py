"""A backend of its own package: four answers, on an accelerator with memory of its own."""

from __future__ import annotations

import numpy as np

from deepseek.backends import Backend, Launchable
from deepseek.kernel.text import print_kernel

from . import device


class NpuKernel(Launchable):
    """A kernel on the accelerator; a launch moves its buffers there and its results back."""

    def __init__(self, kernel) -> None:
        self.kernel = kernel

    def add(self, block, kernel, rows, grain, label, loader) -> None:
        for refs, sizes, _ in loader.rows(rows):
            block.host(self.run, refs, sizes, label)

    def run(self, views, sizes) -> None:
        memory = device.MEMORY
        arrays = [np.frombuffer(view, np.uint8) for view in views]
        start = memory.top
        try:
            addresses = [memory.allocate(array.size) for array in arrays]
            for address, array in zip(addresses, arrays, strict=True):
                memory.upload(address, array)
            device.PROCESSOR.launch(self.kernel, addresses, [a.size for a in arrays], sizes)
            for buffer, address, array in zip(
                self.kernel.globals(), addresses, arrays, strict=True
            ):
                if buffer.written:
                    memory.download(address, array)
        finally:
            memory.free(start)


class Npu(Backend):
    """An accelerator that adds up eight floats at a time, and claims nothing."""

    name = "npu"

    def lanes(self) -> int:
        return 8

    def emit(self, kernel, symbol="kernel") -> str:
        return print_kernel(kernel)

    def compile(self, kernels) -> bytes:
        return device.assemble(kernel for _, kernel in kernels)

    def load(self, data, symbols) -> list[NpuKernel]:
        return [NpuKernel(kernel) for kernel in device.disassemble(data)]


BACKEND = Npu()
