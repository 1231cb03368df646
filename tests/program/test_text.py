"""Programs survive their text; what cannot be told as text is refused by name."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from making import first_samples, graph_of, program_of
from sampling import Case, case_name

from deepseek.errors import DeepseekError, FormatError
from deepseek.ir.dtype import float32
from deepseek.ir.graph import Graph, constant
from deepseek.ir.scalar import call, const, size_var
from deepseek.ir.shape import tensor_type
from deepseek.program import ir
from deepseek.program.ir import Copy, For, Host, If, Program, Ref, Slot, While
from deepseek.program.text import constants_of, parse_program, print_program

CASES = first_samples()
VECTOR = tensor_type(float32, (16,))


def assert_survives(program: Program) -> None:
    text = print_program(program)
    again = parse_program(text, constants_of(program))
    assert again == program
    assert print_program(again) == text
    for slot, other in zip(program.slots, again.slots, strict=True):
        if slot.array is not None:
            assert other.array is not None
            assert slot.array.tobytes() == other.array.tobytes()
            assert slot.array.dtype == other.array.dtype


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_samples_survive(case: Case) -> None:
    program = program_of(case.graph())
    if any(isinstance(step, Host) for step in ir.steps(program.body)):
        with pytest.raises(FormatError, match=f"host step '{case.op.name}'"):
            parse_program(print_program(program), constants_of(program))
    else:
        assert_survives(program)


def test_symbolic_sizes_survive() -> None:
    n = size_var("n0")
    program = program_of(graph_of(lambda x: x.sum(axis=1).exp(), (n, 4)), [n])
    assert "(n0)" in print_program(program)
    assert_survives(program)


def test_takeovers_and_labels_survive() -> None:
    program = program_of(graph_of(lambda x: x + 1, (16,)), takes={0: 0})
    assert "takes %0" in print_program(program)
    slots = (dataclasses.replace(program.slots[0], label='it\'s "x"\nkernel y'), *program.slots[1:])
    assert_survives(dataclasses.replace(program, slots=slots, name="a 'b'"))


def test_control_flow_survives() -> None:
    n = size_var("n0")
    slots = (
        Slot(ir.INPUT, VECTOR, "x"),
        Slot(ir.OUTPUT, VECTOR, "y"),
        Slot(ir.TEMP, tensor_type(float32, (n,)), "t"),
    )
    move = Copy(Ref(1), Ref(0), const(64), "move")
    part = Copy(Ref(1, const(4), 0, const(4)), Ref(0, call("add", n, const(8))), const(4))
    body = (
        If(Ref(0), (move,), (), "either"),
        While((move, move), Ref(1), (), "again"),
        For(0, n, (part, If(Ref(1), (), (move,)))),
    )
    assert_survives(Program((n,), slots, body, (1, 0, 1), (), "control"))


def test_large_constants_stand_outside() -> None:
    array = np.linspace(0, 1, 1000, dtype=np.float32)
    graph = graph_of(lambda x: x, (1000,))
    graph = Graph(graph.inputs, [constant(array, float32)])
    program = program_of(graph)
    assert len(print_program(program)) < 1000
    assert_survives(program)
    with pytest.raises(FormatError, match="the bytes of the constant"):
        parse_program(print_program(program))
    damaged = {key: value[::-1] for key, value in constants_of(program).items()}
    with pytest.raises(FormatError, match="is not the float32"):
        parse_program(print_program(program), damaged)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("program", "prognam", "line 1: got 'prognam'; wanted 'program'"),
        ("%1 =", "%2 =", "line 3: got '%2'; wanted %1"),
        ("= input", "= inputs", "wanted input, output, temp or constant"),
        ("launch 0", "launch 0.5", "wanted a whole number"),
        ("launch", "lunch", "wanted one of launch, extern"),
        ("output float32", "output float99", "wanted a dtype"),
    ],
)
def test_damaged_text_is_refused_with_its_line(old: str, new: str, message: str) -> None:
    text = print_program(program_of(graph_of(lambda x: x + 1, (16,))))
    assert old in text
    with pytest.raises(FormatError) as caught:
        parse_program(text.replace(old, new, 1))
    assert message in str(caught.value)


def test_cut_text_is_refused() -> None:
    text = print_program(program_of(graph_of(lambda x: x.sum(axis=0) * 2, (16, 3))))
    head = text.index("\nkernel ")
    for length in range(0, head, 7):
        with pytest.raises(DeepseekError):
            parse_program(text[:length])
