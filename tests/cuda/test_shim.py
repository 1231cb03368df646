"""Emitted CUDA text, run on the CPU: bit for bit the kernels' interpreter, in any order of threads.

And the shim itself: threads that do not meet are a message, not a hang.
"""

from __future__ import annotations

import ctypes
import functools
import re

import numpy as np
import pytest
import shim_run
from kernels import kernels_of
from random_kernels import BUFFERS, inputs, random_kernel
from samples import SAMPLES, Array, Sample

from deepseek.backends.cuda import BACKEND
from deepseek.ir.dtype import DTYPES, DType
from deepseek.ir.scalar import call, const, load, var
from deepseek.kernel.interpret import interpret
from deepseek.kernel.ir import VECTOR, Axis, Buffer, Carry, Fold, Kernel, Store

pytestmark = pytest.mark.skipif(shim_run.missing() is not None, reason=str(shim_run.missing()))

SEEDS = [*range(22), 413, 698]
ORDERS = (0, 1, 7)  # threads from first to last, from last to first, shuffled


@functools.cache
def random_kernels() -> shim_run.Library:
    return shim_run.Library([(f"k{seed}", random_kernel(seed)) for seed in SEEDS])


@pytest.mark.parametrize("seed", SEEDS)
def test_random_kernels_agree_with_the_interpreter(seed: int) -> None:
    kernel = random_kernel(seed)
    for sizes in ((2, 3), (5, 7), (37, 18)):
        wanted = inputs(seed)
        interpret(kernel, wanted, sizes)
        for order in ORDERS:
            got = inputs(seed)
            random_kernels().run(f"k{seed}", kernel, got, sizes, order)
            for buffer, a, b in zip(BUFFERS, got, wanted, strict=False):
                what = f"{buffer.name} at {sizes} in order {order}"
                np.testing.assert_array_equal(a, b, what)


# ------------------------------------------------------------------------- hand-written kernels

GUARD = 64  # elements behind each buffer that must stay as they are


@functools.cache
def sample_kernels() -> shim_run.Library:
    return shim_run.Library([(s.kernel.name, s.kernel) for s in SAMPLES.values()])


def run(
    sample: Sample, arrays: list[Array], sizes: tuple[int, ...], order: int,
    alias: dict[int, int] | None = None,
) -> list[Array]:  # fmt: skip
    """The buffers after the run; `alias[k]` shares buffer k's."""
    whole = [np.concatenate([a, np.ones(GUARD, a.dtype)]) for a in arrays]
    for k, other in (alias or {}).items():
        whole[k] = whole[other]
    sample_kernels().run(sample.kernel.name, sample.kernel, whole, sizes, order)
    for array in whole:
        assert np.all(array[-GUARD:] == np.ones(1, array.dtype)), "written past the end"
    return [array[:-GUARD] for array in whole]


def assert_same(got: Array, wanted: Array, tolerance: float, name: str) -> None:
    if got.dtype.kind in "biu":
        np.testing.assert_array_equal(got, wanted, name)
        return
    a, b = got.astype(np.float64), wanted.astype(np.float64)
    scale = np.max(np.abs(b[np.isfinite(b)]), initial=1e-30)
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_do_what_the_interpreter_says(name: str) -> None:
    sample = SAMPLES[name]
    for number, sizes in enumerate(sample.sizes):
        given = sample.buffers(sizes, number)
        wanted = [b.copy() for b in given]
        interpret(sample.kernel, wanted, list(sizes))
        for order in ORDERS:
            results = run(sample, given, sizes, order)
            for buffer, got, exact in zip(sample.kernel.globals(), results, wanted, strict=True):
                what = f"{buffer.name} at {sizes} in order {order}"
                assert_same(got, exact, sample.tolerance, what)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["silu", "softmax64_m", "softmax16_m", "columns", "interleaved_3"])
def test_an_output_may_lie_on_its_input(name: str, order: int) -> None:
    sample = SAMPLES[name]
    sizes = sample.sizes[-1]
    given = sample.buffers(sizes)
    apart = run(sample, given, sizes, 0)
    together = run(sample, given, sizes, order, alias={len(given) - 1: 0})
    np.testing.assert_array_equal(together[0], apart[-1])


@pytest.mark.parametrize("offset", [0, 1, 4])
@pytest.mark.parametrize("length", [4096, 5003, 3])
def test_packs_are_taken_where_pointers_allow(length: int, offset: int) -> None:
    (kernel,) = kernels_of("elementwise")
    assert "Pack<float, 4>" in BACKEND.emit(kernel)
    library = shim_run.Library([("chain", kernel)])
    x, y = np.random.default_rng(0).uniform(-1, 1, (2, length + offset)).astype(np.float32)
    given = [a.copy()[offset:] for a in (x, y)]
    wanted, got = (np.zeros(length + offset + GUARD, np.float32)[offset:] for _ in range(2))
    interpret(kernel, [*given, wanted], [length])
    for order in ORDERS:
        library.run("chain", kernel, [*given, got], [length], order)
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
        got[:] = 0


# ------------------------------------------------------------------------------- the shim itself

WRONG = """
extern "C" __global__ void divergent(float* y) {
  if (threadIdx.x < 40) __syncthreads();
  y[threadIdx.x] = 1.0f;
}
extern "C" __global__ void two_places(float* y) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  y[threadIdx.x] = 1.0f;
}
extern "C" __global__ void lacks_lanes(float* y) {
  float x = 1.0f;
  if (threadIdx.x % 2 == 0) x += lane_after(x, 1);
  y[threadIdx.x] = x;
}
extern "C" __global__ void racing(float* y) {
  __shared__ float s[64];
  s[threadIdx.x] = float(threadIdx.x);
  y[threadIdx.x] = s[63 - threadIdx.x];
}
extern "C" __global__ void right(float* y) {
  __shared__ float s[64];
  s[threadIdx.x] = float(threadIdx.x);
  __syncthreads();
  y[threadIdx.x] = s[63 - threadIdx.x];
}
"""


@functools.cache
def wrong() -> ctypes.CDLL:
    names = ("divergent", "two_places", "lacks_lanes", "racing", "right")
    wrappers = [
        f'extern "C" const char* run_{name}(float* y, unsigned order) {{'
        f" return shim::launched(1, 64, 1, order, [&] {{ {name}(y); }}); }}"
        for name in names
    ]
    return shim_run.compiled((WRONG, *wrappers))


def run_wrong(name: str, order: int) -> tuple[str, Array]:
    """What the shim complains about, and the result."""
    y = np.zeros(64, np.float32)
    function = getattr(wrong(), f"run_{name}")
    function.restype = ctypes.c_char_p
    error = function(ctypes.c_void_p(y.ctypes.data), order)
    return (error or b"").decode(), y


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("divergent", r"divergent barrier: thread \d+ waits at __syncthreads in line \d+, "
                      r"thread \d+ has ended"),
        ("two_places", r"divergent barrier: .* in line \d+, .* in line \d+"),
        ("lacks_lanes", r"missing lane: thread \d+ waits for its warp"),
    ],
)  # fmt: skip
def test_threads_that_do_not_meet_are_told_of(name: str, message: str, order: int) -> None:
    error, _ = run_wrong(name, order)
    assert re.match(message, error), error


def test_a_race_shows_in_some_order() -> None:
    results = [run_wrong("racing", order)[1] for order in ORDERS]
    assert not all(np.array_equal(results[0], r) for r in results[1:])
    for order in ORDERS:
        error, y = run_wrong("right", order)
        assert not error
        np.testing.assert_array_equal(y, np.arange(64, dtype=np.float32)[::-1])


def test_every_type_travels_through_shuffles() -> None:
    """The lanes of a fold over each type are merged in the kernels' order."""
    kernels = {dtype: total_of(dtype) for dtype in DTYPES.values()}
    library = shim_run.Library([(f"total_{d.name}", kernel) for d, kernel in kernels.items()])
    for dtype, kernel in kernels.items():
        x = np.arange(70).astype(dtype.numpy)
        wanted, got = np.zeros(1, dtype.numpy), np.zeros(1, dtype.numpy)
        interpret(kernel, [x, wanted], [])
        library.run(f"total_{dtype.name}", kernel, [x, got], [])
        np.testing.assert_array_equal(got, wanted, dtype.name)


def total_of(dtype: DType) -> Kernel:
    """The sum of 70 elements, or whether all are true."""
    i = var("i", low=0, extent=70)
    mine, other = var("s", dtype), var("o", dtype)
    fn = "bitxor" if dtype.is_bool else "add"
    x = load("x", dtype, i)
    carry = Carry(mine, const(0, dtype), call(fn, mine, x), other, call(fn, mine, other))
    fold = Fold((Axis(i, const(70), VECTOR),), (carry,), lanes=32)
    buffers = (Buffer("x", dtype), Buffer("y", dtype, written=True))
    return Kernel("total", buffers, (), (fold, Store("y", const(0), mine)))
