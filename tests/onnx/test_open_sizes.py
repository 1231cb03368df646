"""Every op with a size left open: exported for one, right for two others that were not traced.

One axis of the first operand is open, and with it all axes of the others that have its size. An op
may refuse that (a window has to be known, an index of a fixed size is given), saying so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from exporting import least_opset, unspeakable
from sampling import Case, case_name, cases

import deepseek as ds
from deepseek.errors import CompileError, ShapeError
from deepseek.onnx import Report, export

CASES = [c for c in cases(thin=True) if c.arrays and not unspeakable(c.graph())]

LEFT_OUT = {
    "ctc_loss": "lengths have to fit the sizes",
    "slice": "takes the sizes of its result as they are",
}


def first_of_each() -> list[Case]:
    """A sample of every op whose first operand has axes of several elements."""
    found: dict[str, Case] = {}
    for case in CASES:
        if open_axes(case) and case.op.name not in LEFT_OUT:
            found.setdefault(case.op.name, case)
    return list(found.values())


def open_axes(case: Case) -> list[int]:
    return [axis for axis, size in enumerate(case.arrays[0].shape[:2]) if size > 1]


def exported(case: Case, axis: int, opset: int, path: Path) -> Report | None:
    """The proof at several sizes; None where the op refuses to have that size open."""
    size = case.arrays[0].shape[axis]
    dynamic = {
        i: {a: "n" for a, s in enumerate(x.shape) if s == size and (i > 0 or a == axis)}
        for i, x in enumerate(case.arrays)
    }

    def call(*tensors: ds.Tensor) -> Any:
        return tuple(case.call(list(tensors)))

    try:
        least = max(opset, least_opset(case.graph()))
        return export(call, tuple(case.tensors()), path, dynamic=dynamic, opset=least)
    except (CompileError, ShapeError) as error:
        text = str(error)
        refused = any(t in text for t in ("'n' was fixed", "whose size is left open"))
        if isinstance(error, CompileError) and not refused:
            raise
        assert "sampling.py" in text  # the line that fixed it
        return None


@pytest.mark.parametrize("case", first_of_each(), ids=case_name)
def test_an_op_with_an_open_size(case: Case, tmp_path: Path) -> None:
    report = exported(case, open_axes(case)[0], 21, tmp_path / "model.onnx")
    if report is not None:
        assert len(report.trials) >= 2, report.skipped


def test_most_ops_take_open_sizes(tmp_path: Path) -> None:
    """What refuses is the exception: of the first hundred ops at most a tenth."""
    chosen = first_of_each()[:100]
    reports = [exported(c, open_axes(c)[0], 17, tmp_path / "model.onnx") for c in chosen]
    assert sum(r is None for r in reports) <= len(chosen) // 10


@pytest.mark.slow
@pytest.mark.parametrize("opset", [13, 17, 26])
def test_every_sample_with_each_size_open(opset: int, tmp_path: Path) -> None:
    wrong = []
    for case in CASES:
        for axis in open_axes(case) if case.op.name not in LEFT_OUT else []:
            try:
                exported(case, axis, opset, tmp_path / "model.onnx")
            except CompileError as error:
                wrong.append(f"{case_name(case)}, axis {axis}: {error}")
    assert wrong == []
