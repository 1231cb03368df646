"""Emitted code against the interpreter, on every level this machine can run."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from samples import SAMPLES, Array, Sample

from deepseek import _runtime
from deepseek.backends.cpu.compile import assembly, compile_kernels
from deepseek.backends.cpu.emit import emit, grid_extent, scratch_bytes, shared_by_tasks
from deepseek.backends.cpu.target import TARGETS, Target, runs_here
from deepseek.config import override
from deepseek.errors import ArgumentError, CompileError
from deepseek.ir.dtype import float32
from deepseek.ir.scalar import const, evaluate, load, size_var, var
from deepseek.kernel.interpret import interpret
from deepseek.kernel.ir import VECTOR, Axis, Buffer, Kernel, Loop, Store

LEVELS = [level for level, target in TARGETS.items() if runs_here(target)]
GUARD = 64  # elements behind each buffer that must stay as they are


@functools.cache
def code(level: str) -> _runtime.Code:
    """All samples in one object."""
    target = TARGETS[level]
    texts = [(name, emit(s.kernel, target)) for name, s in SAMPLES.items()]
    with override(verify=1):
        return _runtime.Code(compile_kernels(texts, target))


def run(level: str, sample: Sample, arrays: list[Array], sizes: tuple[int, ...], pieces: int = 1,
        alias: dict[int, int] | None = None) -> list[Array]:  # fmt: skip
    """The buffers after the run, in `pieces` ranges of the grid; `alias[k]` shares buffer k's."""
    env = {s: np.int64(v) for s, v in zip(sample.kernel.sizes, sizes, strict=True)}
    tasks = int(evaluate(grid_extent(sample.kernel), env))
    scratch = int(evaluate(scratch_bytes(sample.kernel), env))
    whole = [np.concatenate([a, np.ones(GUARD, a.dtype)]) for a in arrays]
    buffers = [_runtime.Buffer.copy_of(w.view(np.uint8)) for w in whole]
    for k, other in (alias or {}).items():
        buffers[k] = buffers[other]
    edges = [tasks * k // pieces for k in range(pieces + 1)]
    for begin, end in zip(edges, edges[1:], strict=False):
        _runtime.call_kernel(
            code(level), sample.kernel.name, buffers, list(sizes), begin, end, scratch
        )
    results = [np.frombuffer(memoryview(b), w.dtype) for b, w in zip(buffers, whole, strict=True)]
    for result in results:
        margin = result[-GUARD:]
        assert np.all(margin == np.ones(1, margin.dtype)), "written past the end"
    return [r[:-GUARD] for r in results]


def assert_same(got: Array, wanted: Array, tolerance: float, name: str) -> None:
    if got.dtype.kind in "biu":
        np.testing.assert_array_equal(got, wanted, name)
        return
    a, b = got.astype(np.float64), wanted.astype(np.float64)
    scale = np.max(np.abs(b[np.isfinite(b)]), initial=1e-30)
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", SAMPLES)
def test_emitted_code_does_what_the_interpreter_says(name: str, level: str) -> None:
    sample = SAMPLES[name]
    for number, sizes in enumerate(sample.sizes):
        given = sample.buffers(sizes, number)
        wanted = [b.copy() for b in given]
        interpret(sample.kernel, wanted, list(sizes))
        results = run(level, sample, given, sizes, pieces=1 + number % 3)
        for buffer, got, exact in zip(sample.kernel.globals(), results, wanted, strict=True):
            assert_same(got, exact, sample.tolerance, f"{buffer.name} at {sizes}")


@pytest.mark.parametrize("name", ["silu", "softmax64_m", "softmax16_m", "columns", "interleaved_3"])
def test_an_output_may_lie_on_its_input(name: str) -> None:
    sample = SAMPLES[name]
    sizes = sample.sizes[-1]
    given = sample.buffers(sizes)
    apart = run(LEVELS[0], sample, given, sizes)
    together = run(LEVELS[0], sample, given, sizes, alias={len(given) - 1: 0})
    np.testing.assert_array_equal(together[0], apart[-1])


@pytest.mark.parametrize("name", ["softmax64_m", "welford", "halves_float16"])
@pytest.mark.skipif(len(LEVELS) < 2, reason="one level only")
def test_folds_give_the_same_bits_on_all_levels_with_fma(name: str) -> None:
    sample = SAMPLES[name]
    sizes = sample.sizes[-1]
    results = []
    for level in LEVELS:
        if TARGETS[level].has_fma:
            results.append(run(level, sample, sample.buffers(sizes), sizes))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_levels_compile_anywhere_and_the_same_each_time(target: Target) -> None:
    kernel = SAMPLES["softmax64_m"].kernel
    first, again = emit(kernel, target), emit(kernel, target)
    assert first == again
    one, two = (compile_kernels([("k", text)], target) for text in (first, again))
    assert one == two
    text = assembly([("k", first)], target)
    registers = {"v4": "zmm", "v3": "ymm", "v2": "xmm"}
    assert registers[target.level] in text
    assert ("vfmadd" in text) == target.has_fma


def test_a_streamed_output_may_lie_on_its_input() -> None:
    sample = SAMPLES["streamed"]
    given = sample.buffers((33,))
    apart = run(LEVELS[0], sample, [given[0], given[0]], (33,))
    together = run(LEVELS[0], sample, given, (33,), alias={1: 0})
    np.testing.assert_array_equal(together[0], apart[1])


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_streamed_outputs_are_written_past_the_caches(target: Target) -> None:
    text = assembly([("k", emit(SAMPLES["streamed"].kernel, target))], target)
    registers = {"v4": "zmm", "v3": "ymm", "v2": "xmm"}
    lines = [line for line in text.splitlines() if "movntps" in line]
    assert lines and all(registers[target.level] in line for line in lines)
    assert text.count("sfence") == 1
    plain = assembly([("k", emit(SAMPLES["silu"].kernel, target))], target)
    assert "movnt" not in plain and "sfence" not in plain


def test_no_outside_symbols_are_needed() -> None:
    for level in LEVELS:
        assert set(code(level).symbols) == set(SAMPLES)  # loading refuses anything else


def test_unbound_variables_are_named() -> None:
    n, i, stray = size_var("n"), var("i", low=0), var("stray", float32)
    kernel = Kernel(
        "broken", (Buffer("o", float32, written=True),), (n,),
        (Loop(Axis(i, n, VECTOR), (Store("o", i, stray),)),),
    )  # fmt: skip
    with pytest.raises(CompileError, match="'stray'"):
        emit(kernel, TARGETS["v3"])


def test_bad_text_is_an_error() -> None:
    with pytest.raises(CompileError, match="not valid LLVM IR"):
        compile_kernels([("k", "define void @kernel() {")], TARGETS["v2"])


def test_levels_are_chosen_by_option() -> None:
    from deepseek.backends.cpu.target import current_target, target_of

    with override(cpu_level="v2"):
        assert current_target().level == "v2"
    with pytest.raises(ArgumentError, match="v4, v3, v2"):
        target_of("v5")


def test_constant_kernels_have_constant_scratch() -> None:
    kernel = Kernel("k", (Buffer("t", float32, "shared", const(17)),), (), ())
    assert scratch_bytes(kernel) is const(128)
    assert grid_extent(kernel) is const(1)
    assert load("t", float32, const(0)).dtype is float32


def test_what_all_tasks_of_a_row_need_is_done_once() -> None:
    """Scratch that depends on the outer grid axis alone is filled in front of the inner tasks."""
    sample = SAMPLES["shared_scratch"]
    body = sample.kernel.body
    for _ in sample.kernel.grid():
        assert isinstance(body[0], Loop)
        body = body[0].body
    common, rest = shared_by_tasks(body, sample.kernel.grid()[-1].var)
    assert common == body[:1] and rest == body[1:]
    alone, both = shared_by_tasks(body, sample.kernel.grid()[0].var)
    assert alone == () and both == body
