"""What the kernels of common functions look like: exact properties that time depends on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import deepseek as ds
from deepseek.ir.scalar import FALSE, TRUE, call, const, mul
from deepseek.kernel.ir import Kernel
from deepseek.kernel.streaming import CACHED_BYTES


def kernels_of(body: Callable[..., Any], *args: Any) -> tuple[Kernel, ...]:
    """The kernels of a compiled function."""
    return ds.jit(body).entry_for(*args).executable.program.kernels


def hints(kernel: Kernel) -> list[Any]:
    return [b.streamed for b in kernel.buffers if b.written]


@pytest.mark.parametrize(
    "rows, wanted", [(4096, TRUE), (256, FALSE)], ids=["larger than caches", "smaller"]
)
def test_results_that_no_cache_holds_are_streamed(rows, wanted):
    x = ds.zeros((rows, 1024))
    (kernel,) = kernels_of(lambda x: ds.softmax(x, -1), x)
    assert hints(kernel) == [wanted]


def test_kernels_of_any_length_decide_when_they_run():
    """One kernel for all lengths, and the condition is over the length it is given."""
    x, y = ds.zeros((1000,)), ds.ones((1000,))
    (kernel,) = kernels_of(lambda x, y: x * y + 1, x, y)
    (length,) = kernel.sizes
    wanted = call("le", const(CACHED_BYTES), mul(const(12), length))
    assert hints(kernel) == [wanted]
