"""Emitted texts compile for both generations of GPUs, without spills; mistakes are explained."""

from __future__ import annotations

import re

import pytest
from cases import backward_cases, forward_cases, gradient
from cases import kernels_of as sweep_kernels
from kernels import CALLS, kernels_of
from random_kernels import random_kernel
from samples import SAMPLES

from deepseek.backends.cuda import BACKEND, nvrtc
from deepseek.backends.cuda.cubin import Resources, resources
from deepseek.config import override
from deepseek.errors import CompileError, FormatError

ARCHES = ("sm_80", "sm_90a")
REGISTERS = 128  # of a thread: two blocks of 256 fit a multiprocessor
# Of the sweep's kernels, some of which make many sums at once; sines of large arguments are worked
# out in local memory, as is the scratch of tasks of one thread.
MOST_REGISTERS, MOST_LOCAL = 255, 1024
SPREAD = 24  # of so many cases, one is compiled for each architecture

needs_nvrtc = pytest.mark.skipif(
    nvrtc.find() is None, reason="NVRTC is not installed: pip install 'deepseek[cuda-compile]'"
)


def compiled(kernels: list, arch: str) -> dict[str, Resources]:  # type: ignore[type-arg]
    with override(cuda_arch=arch):
        found = resources(BACKEND.compile(kernels))
    assert set(found) == {symbol for symbol, _ in kernels}
    return found


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHES)
def test_golden_kernels(arch: str) -> None:
    kernels = [(f"{n}{i}", k) for n in CALLS for i, k in enumerate(kernels_of(n))]
    for name, taken in compiled(kernels, arch).items():
        assert taken.registers <= REGISTERS, (name, taken)
        assert taken.local == 0, (name, taken)


@pytest.mark.slow
@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHES)
def test_kernels_of_the_op_sweep(arch: str) -> None:
    """About 80 of them, backward ones too; `make cuda-full` compiles all."""
    start = ARCHES.index(arch)
    forward = [case.graph() for case in forward_cases()[start :: 2 * SPREAD]]
    backward = [made for case in backward_cases()[start :: 4 * SPREAD] if (made := gradient(case))]
    kernels = sweep_kernels([*forward, *(graph for graph, _ in backward)], BACKEND)
    assert len(kernels) > 50
    for name, taken in compiled(list(kernels.items()), arch).items():
        assert taken.registers <= MOST_REGISTERS, (name, taken)
        assert taken.local <= MOST_LOCAL, (name, taken)


@needs_nvrtc
def test_samples() -> None:
    compiled([(sample.kernel.name, sample.kernel) for sample in SAMPLES.values()], "sm_90a")


@needs_nvrtc
def test_random_kernels() -> None:
    compiled([(f"k{seed}", random_kernel(seed)) for seed in range(6)], "sm_80")


@needs_nvrtc
def test_a_mistake_is_shown_with_its_line() -> None:
    (kernel,) = kernels_of("sum_columns")
    text = BACKEND.module([("fine", kernel), ("wrong", kernel)])
    head, tail = text.split(" wrong(")
    broken = f"{head} wrong({tail.replace('x0[', 'x9[', 1)}"
    with pytest.raises(CompileError) as error:
        nvrtc.compile_text(broken, "sm_80")
    message = str(error.value)
    line = next(n for n, t in enumerate(broken.splitlines(), 1) if "x9[" in t)
    assert f"does not compile for sm_80 in wrong, line {line}" in message
    assert re.search(rf"> +{line} \|.*x9\[", message)
    assert 'identifier "x9" is undefined' in message


@needs_nvrtc
def test_resources_tell_spills() -> None:
    text = """extern "C" __global__ void many(float* y, int n) {
      __shared__ float s[100];
      float a[64];
      for (int i = 0; i < 64; ++i) a[(i * n) % 64] = y[i];
      s[threadIdx.x] = a[n];
      __syncthreads();
      y[0] = s[n];
    }"""
    (taken,) = resources(nvrtc.compile_text(text, "sm_80")).values()
    assert taken.local == 256
    assert taken.shared == 400
    assert 0 < taken.registers < 256


def test_what_is_no_cubin_is_refused() -> None:
    with pytest.raises(FormatError, match="no cubin"):
        resources(b"text")
    with open("/proc/self/exe", "rb") as file, pytest.raises(FormatError, match="machine 62"):
        resources(file.read())
