"""The interpreter's results against the runtime's, and the rules that it enforces."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from making import Array, elements, first_samples, graph_of, program_of, run_native
from sampling import Case, case_name

from deepseek.errors import VerifyError
from deepseek.ir.dtype import float32
from deepseek.ir.scalar import const, size_var
from deepseek.ir.shape import tensor_type
from deepseek.program import ir
from deepseek.program.interpret import interpret, run_extern
from deepseek.program.ir import Copy, For, Host, If, Program, Ref, Slot, While
from deepseek.program.verify import verify

CASES = first_samples()


def assert_same(got: Array, wanted: Array, what: str) -> None:
    """Equal, or for floats as close as two ways of computing transcendentals come."""
    if np.dtype(wanted.dtype).kind != "f" and wanted.dtype != ml_dtypes.bfloat16:
        assert np.array_equal(got, wanted), what
        return
    assert np.array_equal(np.isnan(got), np.isnan(wanted)), what
    here = ~np.isnan(wanted)
    a, b = got[here].astype(np.float64), wanted[here].astype(np.float64)
    scale = max(1.0, float(np.abs(b[np.isfinite(b)]).max(initial=0)))
    tolerance = 8 * float(ml_dtypes.finfo(wanted.dtype).eps) * scale
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance, err_msg=what)


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_interpreter_agrees_with_runtime(case: Case) -> None:
    program = program_of(case.graph())
    verify(program)
    wanted = elements(program, interpret(program, case.arrays))
    got = elements(program, run_native(program, case.arrays))
    for number, pair in enumerate(zip(got, wanted, strict=True)):
        assert_same(*pair, what=f"{case_name(case)}, output {number}")


def test_symbolic_sizes() -> None:
    n = size_var("n0")
    program = program_of(graph_of(lambda x: (x.sum(axis=0), x.exp()), (n, 3)), [n])
    for size in (2, 5, 33):
        x = np.random.default_rng(size).normal(size=(size, 3)).astype(np.float32)
        wanted = elements(program, interpret(program, [x], (size,)))
        got = elements(program, run_native(program, [x], (size,)))
        for pair in zip(got, wanted, strict=True):
            assert_same(*pair, what=f"n = {size}")
        np.testing.assert_allclose(wanted[0], x.sum(axis=0), rtol=1e-5, atol=1e-5)


def counted(limit: int) -> tuple[Program, Array]:
    """Steps by hand: count in a byte up to `limit` rows of a table, then choose."""
    byte = tensor_type(float32, ())
    table = tensor_type(float32, (limit,))
    slots = (
        Slot(ir.INPUT, table, "x"),
        Slot(ir.OUTPUT, table, "y"),
        Slot(ir.TEMP, byte, "flag"),
        Slot(ir.TEMP, byte, "tries"),
    )

    def start(views: list[memoryview], sizes: tuple[int, ...]) -> None:
        views[0][:4] = b"\0\0\0\0"

    def test(views: list[memoryview], sizes: tuple[int, ...]) -> None:
        views[1][0] = views[0][0] < 3

    def step(views: list[memoryview], sizes: tuple[int, ...]) -> None:
        count = bytes([views[0][0] + 1])
        views[1][0:1] = count

    body = (
        Host(start, (Ref(3),), 1),
        While((Host(test, (Ref(3), Ref(2)), 1),), Ref(2), (Host(step, (Ref(3), Ref(3)), 1),)),
        For(
            0,
            const(limit),
            (Copy(Ref(1, const(0), 0, const(4)), Ref(0, const(0), 0, const(4)), const(4)),),
        ),
        If(Ref(3), (Copy(Ref(1), Ref(3), const(1)),), (Copy(Ref(1, const(4)), Ref(3), const(1)),)),
    )
    return Program((), slots, body, (1,), (), "counted"), np.arange(limit, dtype=np.float32)


def test_control_flow_by_hand() -> None:
    program, x = counted(5)
    verify(program)
    (wanted,) = interpret(program, [x])
    (got,) = run_native(program, [x])
    assert wanted[0] == 3
    assert np.array_equal(wanted[4:], x.view(np.uint8)[4:])
    assert np.array_equal(got, wanted)


def test_empty_temporaries_of_host_steps() -> None:
    empty = tensor_type(float32, (0,))
    seen: list[int] = []
    slots = (Slot(ir.INPUT, empty, "x"), Slot(ir.TEMP, empty, "t"), Slot(ir.OUTPUT, empty, "y"))

    def look(views: list[memoryview], sizes: tuple[int, ...]) -> None:
        seen.extend(len(view) for view in views)

    body = (Host(look, (Ref(0), Ref(1)), 1), Host(look, (Ref(1), Ref(2)), 1))
    program = Program((), slots, body, (2,), (), "empty")
    (out,) = run_native(program, [np.zeros(0, np.float32)])
    assert out.size == 0
    assert seen == [0, 0, 0, 0]


def test_memory_starts_out_unwritten() -> None:
    slots = (Slot(ir.OUTPUT, tensor_type(float32, (4,)), "y"),)
    (out,) = interpret(Program((), slots, (), (0,), ()), [])
    assert out.tobytes() == b"\xa5" * 16


def test_wrong_input_and_reference_are_refused() -> None:
    program = program_of(graph_of(lambda x: x + 1, (16,)))
    with pytest.raises(VerifyError, match="input 0 has 8 bytes; wanted 64"):
        interpret(program, [np.zeros(2, np.float32)])
    copy = Copy(Ref(1, const(100)), Ref(0), const(4))
    slots = program.slots
    with pytest.raises(VerifyError, match="begins at byte 100 of 64"):
        interpret(Program((), slots, (copy,), (1,), ()), [np.zeros(16, np.float32)])
    with pytest.raises(VerifyError, match="'nap' is unknown; known: sort"):
        run_extern("nap", [], [])
