"""Each rule of the verifier, broken by one change to a program that keeps them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from making import graph_of, program_of

from deepseek.errors import VerifyError
from deepseek.ir.dtype import float32, int32
from deepseek.ir.scalar import call, const, size_var
from deepseek.ir.shape import tensor_type
from deepseek.program import ir
from deepseek.program.ir import Copy, Extern, For, Host, If, Launch, Program, Ref, Slot, While
from deepseek.program.verify import verify

N = size_var("n0")
VECTOR = tensor_type(float32, (16,))


def valid() -> Program:
    """exp(sum of rows) with a temp between, through an in-place takeover elsewhere."""
    graph = graph_of(lambda x, y: (x.sum(axis=1).exp().sort()[0] + 1, y * 2), (N, 4), (16,))
    program = program_of(graph, [N], takes={1: 1})
    verify(program)
    return program


def launch(program: Program) -> tuple[int, Launch]:
    return next((i, s) for i, s in enumerate(program.body) if isinstance(s, Launch))


def with_step(program: Program, at: int, step: Any) -> Program:
    return replace(program, body=(*program.body[:at], step, *program.body[at + 1 :]))


def with_row(**changes: Any) -> Callable[[Program], Program]:
    def change(program: Program) -> Program:
        at, step = launch(program)
        row = replace(step.rows[0], **{k: f(step.rows[0]) for k, f in changes.items()})
        return with_step(program, at, replace(step, rows=(row, *step.rows[1:])))

    return change


def with_slot(which: str, **changes: Any) -> Callable[[Program], Program]:
    def change(program: Program) -> Program:
        at = next(i for i, s in enumerate(program.slots) if s.kind == which)
        slot = replace(program.slots[at], **changes)
        return replace(program, slots=(*program.slots[:at], slot, *program.slots[at + 1 :]))

    return change


def after(*steps: Any) -> Callable[[Program], Program]:
    """The steps, after those of the program, on two more slots: a temp and a constant."""

    def change(program: Program) -> Program:
        extra = (
            Slot(ir.TEMP, VECTOR, "t"),
            Slot(ir.CONSTANT, VECTOR, "c", array=np.zeros(16, np.float32)),
        )
        first = len(program.slots)
        body = tuple(shifted(s, first) for s in steps)
        return replace(program, slots=program.slots + extra, body=program.body + body)

    return change


def shifted(step: Any, by: int) -> Any:
    """The step with slots counted from `by`."""

    def ref(r: Ref) -> Ref:
        return replace(r, slot=r.slot + by)

    match step:
        case Copy():
            return replace(step, target=ref(step.target), source=ref(step.source))
        case Extern() | Host():
            return replace(step, refs=tuple(map(ref, step.refs)))
        case If():
            parts = {
                k: tuple(shifted(s, by) for s in getattr(step, k)) for k in ("then", "otherwise")
            }
            return replace(step, predicate=ref(step.predicate), **parts)
        case While():
            parts = {
                k: tuple(shifted(s, by) for s in getattr(step, k)) for k in ("condition", "body")
            }
            return replace(step, predicate=ref(step.predicate), **parts)
        case For():
            return replace(step, body=tuple(shifted(s, by) for s in step.body))


FROM_CONSTANT = Copy(Ref(0), Ref(1), const(64))
READ_TEMP = Copy(Ref(0, const(4)), Ref(0), const(4))

BROKEN: dict[str, tuple[Callable[[Program], Program], str]] = {
    "kind": (with_slot(ir.TEMP, kind="tmp"), "no such kind: 'tmp'"),
    "unknown symbol": (lambda p: replace(p, symbols=()), "which is no symbol of the program"),
    "size function": (
        with_slot(ir.TEMP, type=tensor_type(float32, (call("abs", N),))),
        "uses abs, which sizes cannot",
    ),
    "elements without constant": (with_slot(ir.INPUT, array=np.zeros(1)), "constants have"),
    "constant's type": (
        lambda p: with_slot(ir.CONSTANT, array=np.zeros(16, np.int32))(after()(p)),
        "its elements are int32",
    ),
    "takeover by temp": (with_slot(ir.TEMP, takes=0), "only an output can take over"),
    "takeover of output": (with_slot(ir.OUTPUT, takes=2), "which is no input"),
    "takeover of other size": (with_slot(ir.OUTPUT, takes=1), "which has another size"),
    "no slot": (with_row(refs=lambda r: (Ref(99), *r.refs[1:])), "%99 names no slot"),
    "loop outside": (
        with_row(refs=lambda r: (Ref(r.refs[0].slot, const(0), 3, const(4)), *r.refs[1:])),
        "names loop 3 outside it",
    ),
    "offset outside": (
        after(FROM_CONSTANT, Copy(Ref(0, const(65)), Ref(1), const(0))), "begins outside",
    ),
    "buffers": (with_row(refs=lambda r: r.refs[:-1]), "1 buffers and"),
    "sizes": (with_row(sizes=lambda r: (*r.sizes, N)), "wants"),
    "grid": (with_row(grid=lambda r: const(12345)), "a grid of 12345 tasks"),
    "dtype": (with_slot(ir.INPUT, type=tensor_type(int32, (N, 4))), "wants float32"),
    "input written": (with_row(refs=lambda r: (*r.refs[:-1], r.refs[0])), "which is an input"),
    "no kernel": (
        lambda p: with_step(p, launch(p)[0], replace(launch(p)[1], kernel=77)),
        "there is no kernel 77",
    ),
    "rows share": (
        lambda p: with_step(p, launch(p)[0], replace(launch(p)[1], rows=launch(p)[1].rows[:1] * 2)),
        "rows 0 and 1 both write",
    ),
    "read before write": (after(READ_TEMP), "before anything is written there"),
    "constant written": (
        after(FROM_CONSTANT, Copy(Ref(1), Ref(0), const(4))), "which is a constant",
    ),
    "written in one branch only": (
        after(If(Ref(1), (FROM_CONSTANT,), ()), READ_TEMP), "before anything is written there",
    ),
    "written in a body only": (
        after(While((), Ref(1), (FROM_CONSTANT,)), READ_TEMP), "before anything is written there",
    ),
    "predicate": (after(If(Ref(0), (), ())), "before anything is written there"),
    "loop twice": (after(For(0, const(1), ()), For(0, const(1), ())), "loop 0 exists twice"),
    "routine": (after(FROM_CONSTANT, Extern("nap", (Ref(1), Ref(0)))), "no routine 'nap'"),
    "host": (after(Host(lambda views, sizes: None, (Ref(1),), 2)), "writes 2 of 1 buffers"),
    "output never written": (
        lambda p: replace(p, slots=(*p.slots, Slot(ir.OUTPUT, VECTOR))), "is never written",
    ),
    "output written twice": (
        lambda p: replace(p, body=(*p.body, p.body[-1])), "writes the output %",
    ),
    "read after takeover": (
        lambda p: after(Copy(Ref(0), Ref(1 - len(p.slots)), const(4)))(p),
        "after it was taken over by %",
    ),
    "result": (lambda p: replace(p, outputs=(99,)), "result %99 is neither"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_rule(name: str) -> None:
    change, message = BROKEN[name]
    with pytest.raises(VerifyError) as caught:
        verify(change(valid()))
    assert message in str(caught.value)


def test_written_in_both_branches() -> None:
    verify(after(If(Ref(1), (FROM_CONSTANT,), (FROM_CONSTANT,)), READ_TEMP)(valid()))


def test_written_in_a_condition_or_loop() -> None:
    verify(after(While((FROM_CONSTANT,), Ref(0), (READ_TEMP,)), READ_TEMP)(valid()))
    verify(after(For(0, N, (FROM_CONSTANT,)), READ_TEMP)(valid()))
