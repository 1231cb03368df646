"""Random kernels: the interpreter and emitted code agree bit for bit on every level."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from random_kernels import BUFFERS, SIZE, inputs, random_kernel

from deepseek import _runtime
from deepseek.backends.cpu.compile import compile_kernels
from deepseek.backends.cpu.emit import emit
from deepseek.backends.cpu.target import TARGETS, runs_here
from deepseek.config import override
from deepseek.kernel.interpret import interpret
from deepseek.kernel.text import parse_kernel, print_kernel
from deepseek.kernel.verify import verify

SEEDS = [*range(22), 413, 698]
LEVELS = [level for level, target in TARGETS.items() if runs_here(target)]


@functools.cache
def code(level: str) -> _runtime.Code:
    target = TARGETS[level]
    texts = [(f"k{seed}", emit(random_kernel(seed), target)) for seed in SEEDS]
    with override(verify=1):
        return _runtime.Code(compile_kernels(texts, target))


@pytest.mark.parametrize("seed", SEEDS)
def test_all_levels_agree_with_the_interpreter(seed: int) -> None:
    kernel = random_kernel(seed)
    verify(kernel)
    assert parse_kernel(print_kernel(kernel)) == kernel
    for sizes in ((2, 3), (5, 7), (37, 18)):
        given = inputs(seed)
        wanted = [a.copy() for a in given]
        interpret(kernel, wanted, sizes)
        for level in LEVELS:
            buffers = [_runtime.Buffer.copy_of(a.view(np.uint8)) for a in given]
            scratch = 4 * SIZE
            _runtime.call_kernel(code(level), f"k{seed}", buffers, sizes, 0, 1, scratch)
            for number, buffer in enumerate(BUFFERS[: len(given)]):
                got = np.frombuffer(memoryview(buffers[number]), wanted[number].dtype)
                message = f"{buffer.name} at {sizes} on {level}"
                np.testing.assert_array_equal(got, wanted[number], message)
