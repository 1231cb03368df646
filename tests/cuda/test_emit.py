"""Emitted CUDA text: golden files, and what holds of every text."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from kernels import CALLS, kernels_of

from deepseek.backends.cuda import BACKEND, launch_of
from deepseek.config import override
from deepseek.errors import ArgumentError
from deepseek.ir.dtype import DTYPES, float32, int64
from deepseek.ir.scalar import add, call, const, load, mul, var
from deepseek.kernel.ir import GRID, VECTOR, Axis, Buffer, Kernel, Loop, Store


@pytest.mark.parametrize("name", CALLS)
def test_golden_texts(name: str, golden: Callable[[str, str], None]) -> None:
    texts = [BACKEND.emit(kernel, kernel.name) for kernel in kernels_of(name)]
    assert texts
    golden(name, "\n".join(texts))


def copy_of(size: int) -> str:
    """A strided copy of so many elements, as text."""
    i, j = var("i", low=0, extent=size), var("j", low=0, extent=4)
    index = add(mul(i, const(4)), j)
    store = Store("y", index, load("x", float32, index))
    body = Loop(Axis(i, const(size), GRID), (Loop(Axis(j, const(4), VECTOR), (store,)),))
    buffers = (Buffer("x", float32), Buffer("y", float32, written=True))
    return BACKEND.emit(Kernel("copy", buffers, (), (body,)))


def test_indices_are_as_wide_as_they_must_be() -> None:
    assert "int64" not in copy_of(1 << 20)
    wide = copy_of(1 << 30)
    assert re.search(r"int64\(i\) \* 4", wide), wide


def test_integers_of_the_user_wrap_and_indices_do_not() -> None:
    i = var("i", low=0, extent=8)
    total = call("add", load("x", int64, i), const(1 << 62))
    buffers = (Buffer("x", int64), Buffer("y", int64, written=True))
    loop = Loop(Axis(i, const(8), VECTOR), (Store("y", i, total),))
    text = BACKEND.emit(Kernel("add", buffers, (), (loop,)))
    assert "y[i] = wrapping_add<int64>(x[i], 4611686018427387904ll);" in text


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_every_type_has_a_name(dtype) -> None:  # type: ignore[no-untyped-def]
    i = var("i", low=0, extent=8)
    buffers = (Buffer("x", dtype), Buffer("y", dtype, written=True))
    loop = Loop(Axis(i, const(8), VECTOR), (Store("y", i, load("x", dtype, i)),))
    text = BACKEND.emit(Kernel("copy", buffers, (), (loop,)))
    name = {"int32": "int", "float32": "float", "float64": "double"}.get(dtype.name, dtype.name)
    assert f"const {name}* x, {name}* y" in text


def test_users_lines_are_comments() -> None:
    kernel = kernels_of("softmax")[0]
    lines = [line for line in BACKEND.emit(kernel).splitlines() if line.startswith("//   ")]
    assert lines == [f"//   {line}" for line in kernel.lines]
    assert "kernels.py" in lines[0]


def test_inputs_whose_memory_is_taken_are_not_restricted() -> None:
    (kernel,) = kernels_of("softmax")
    assert "const float* x0, float* y0" in BACKEND.emit(kernel)
    (kernel,) = kernels_of("sum_columns")
    assert "const float* __restrict__ x0" in BACKEND.emit(kernel)


def test_launches_cover_the_tasks() -> None:
    (softmax,) = kernels_of("softmax")
    launch = launch_of(softmax)
    assert launch.block == (32, 4)
    assert launch.blocks.value == 16
    assert launch.scratch.value == 0


def test_architectures_have_names() -> None:
    assert BACKEND.target() == "cuda sm_80"
    with override(cuda_arch="sm_90a"):
        assert BACKEND.target() == "cuda sm_90a"
    with pytest.raises(ArgumentError, match="sm_70.*sm_80"), override(cuda_arch="sm_70"):
        pass
