"""Opsets: the newest form that fits is taken, older ones get what they have, the rest is an error.

Forms are held against the opsets themselves: each is good from where it says it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from sampling import Case, cases_of

import deepseek as ds
from deepseek.errors import CompileError
from deepseek.ir.op import REGISTRY, Kind, Op, Sample
from deepseek.nn import functional as F
from deepseek.onnx import export
from deepseek.onnx.older import WAYS
from deepseek.onnx.translate import Translator
from deepseek.onnx.versions import OPSETS, Unavailable, first, fitting, forms_of, since
from deepseek.ops.define import composite
from deepseek.ops.forms import form


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def randn(*shape: int) -> ds.Tensor:
    return ds.randn(*shape, generator=ds.Generator(sum(shape)))


def written(case: Case, opset: int) -> Translator:
    graph = case.graph()
    b = Translator(opset)
    names = [f"x{i}" for i in range(len(graph.inputs))]
    b.dtypes.update(zip(names, [v.type.dtype for v in graph.inputs], strict=True))
    b.graph(graph, names)
    return b


# ------------------------------------------------------------------------------- the mechanism


def test_the_newest_form_that_fits_is_taken() -> None:
    @form("Add", since=15)
    def middle(b: Any, node: Any, x: str) -> None:
        """Not called."""

    @form("Add", since=20)
    def new(b: Any, node: Any, x: str) -> None:
        """Not called."""

    given = (middle, new, "Add", "Gelu")
    assert [since(f) for f in given] == [15, 20, 13, 20]
    assert fitting(forms_of(given), 13) == ["Add"]
    assert fitting(forms_of(given), 19) == [middle, "Add"]
    assert fitting(forms_of(given), 26) == [new, "Gelu", middle, "Add"]
    assert forms_of(None) == ()
    assert forms_of("Add") == ("Add",)


def test_a_record_with_several_forms(path: Path) -> None:
    """Each opset takes the newest it has; a form that declines leaves it to the next one."""

    @form("Softsign", since=20)
    def declines(b: Any, node: Any, x: str) -> None:
        seen.append(b.opset)

    @form("Softsign", since=17)
    def newer(b: Any, node: Any, x: str) -> Any:
        return b.node("Softsign", x)

    @form("Div")
    def older(b: Any, node: Any, x: str) -> Any:
        return b.node("Div", x, b.node("Add", b.number(1, b.dtypes[x]), b.node("Abs", x)))

    seen: list[int] = []

    @composite(
        reference=lambda x: x / (1 + np.abs(x)), samples=lambda: [Sample(((3,),))],
        onnx=(older, declines, newer),
    )  # fmt: skip
    def toy_softsign(x: ds.Tensor) -> ds.Tensor:
        return x / (1 + x.abs())

    try:
        found = {n: set(export(toy_softsign, randn(3), path, opset=n).operators) for n in OPSETS}
    finally:
        del REGISTRY["toy_softsign"]
    assert all(found[n] == {"Add", "Abs", "Div"} for n in range(13, 17))
    assert all(found[n] == {"Softsign"} for n in range(17, 27))
    assert seen == list(range(20, 27))


def test_what_a_form_began_is_forgotten(path: Path) -> None:
    @form("Gelu", since=13)
    def hasty(b: Any, node: Any, x: str) -> Any:
        return b.node("Gelu", b.node("Sinh", x))

    @composite(reference=lambda x: np.tanh(x), samples=lambda: [Sample(((3,),))], onnx=hasty)
    def toy_tanh(x: ds.Tensor) -> ds.Tensor:
        return x.tanh()

    try:
        report = export(toy_tanh, randn(3), path, opset=19)
    finally:
        del REGISTRY["toy_tanh"]
    assert report.operators == {"Tanh": 1}
    assert (report.whole, report.opened) == ({}, {"toy_tanh": 1})


def test_what_an_opset_lacks_is_an_error_that_names_a_later_one(path: Path) -> None:
    @form("ImageDecoder")
    def only(b: Any, node: Any, x: str) -> Any:
        return b.node("ImageDecoder", x, dtype=ds.uint8)

    op = REGISTRY["inv"]
    before, op.onnx = op.onnx, only
    try:
        for opset in (13, 19):
            with pytest.raises(CompileError, match=r"op 'inv'"):
                export(lambda x: ds.inv(x), randn(3, 3), path, opset=opset)
    finally:
        op.onnx = before

    def f(x: ds.Tensor) -> ds.Tensor:
        return x.exp()

    exp = REGISTRY["exp"]
    old, exp.onnx, meaning = exp.onnx, only, exp.meaning
    only.since = 13  # type: ignore[attr-defined]
    exp.meaning = lambda x: op  # type: ignore[return-value]  # not to be reached
    exp.kind, kind = REGISTRY["inv"].kind, exp.kind
    try:
        with pytest.raises(CompileError, match=r"opset 19 has no ImageDecoder") as caught:
            export(f, randn(3), path, opset=19, check=False)
    finally:
        exp.onnx, exp.meaning, exp.kind = old, meaning, kind
    assert "return x.exp()" in str(caught.value)
    assert "help: export with opset=20 or a later one" in str(caught.value)
    assert not path.exists()


def test_an_operator_of_no_opset() -> None:
    with pytest.raises(Unavailable, match=r"opset 26 has no Nothing, which no opset here has"):
        Translator(26).node("Nothing")
    with pytest.raises(CompileError, match=r"no opset in 13 to 26 has 'Nothing'"):
        since("Nothing")


# ------------------------------------------------------------------------- forms and their opsets


def with_forms() -> Iterator[tuple[Op, Any]]:
    for op in REGISTRY.values():
        for one in forms_of(op.onnx):
            yield op, one


@pytest.mark.parametrize(
    ("op", "one"), list(with_forms()), ids=lambda v: v.name if isinstance(v, Op) else ""
)
def test_a_form_is_good_from_where_it_says(op: Op, one: Any) -> None:
    """In its first opset a form writes at least one sample, and it does not lack an operator."""
    opset = since(one)
    assert opset in OPSETS
    before, wrote = op.onnx, 0
    op.onnx = one
    try:
        for case in cases_of(op):
            b = written(case, opset)
            wrote += op.name not in b.opened and bool(b.scopes[0] or op.kind is Kind.CREATE)
    finally:
        op.onnx = before
    assert wrote, f"{op.name}: no sample is written by its form in opset {opset}"


def test_ways_of_writing_an_operator_cover_all_opsets() -> None:
    """From the first opset that has an operator, or that something stands in for it, each fits."""
    for operator, ways in WAYS.items():
        starts = sorted(since(w) for w in ways)
        assert len(set(starts)) == len(starts), operator
        assert starts[0] in (OPSETS.start, first(operator)), operator
        for opset in OPSETS:
            assert opset < starts[0] or fitting(ways, opset), (operator, opset)


CHANGED = [
    (lambda x: F.gelu(x), {19: {"Erf", "Mul", "Add"}, 20: {"Gelu"}}),
    (lambda x: F.layer_norm(x, (4,)), {16: {"ReduceMean", "Sqrt"}, 17: {"LayerNormalization"}}),
    (lambda x: x.mean(axis=0), {17: {"ReduceMean"}, 18: {"ReduceMean"}}),
    (lambda x: x.sum(axis=0), {13: {"ReduceSum"}, 26: {"ReduceSum"}}),
    (lambda x: F.mish(x), {17: {"Tanh"}, 18: {"Mish"}}),
    (lambda x: F.hardswish(x), {13: {"Clip"}, 14: {"HardSwish"}}),
    (lambda x: x.scatter_add(0, ds.zeros(1, 4, dtype=ds.int64), x[:1]),
     {15: {"Equal", "ReduceSum"}, 16: {"ScatterElements"}}),
]  # fmt: skip


@pytest.mark.parametrize(("f", "expected"), CHANGED, ids=range(len(CHANGED)))
def test_operators_on_both_sides_of_a_change(f: Any, expected: Any, path: Path) -> None:
    for opset, wanted in expected.items():
        report = export(f, randn(3, 4), path, opset=opset, dynamic={0: {0: "n"}})
        assert wanted <= set(report.operators), opset
        assert len(report.trials) == 3
        assert report.runtime == f"onnxruntime {onnxruntime.__version__}"


@pytest.mark.parametrize("opset", OPSETS)
def test_a_network_in_every_opset(opset: int, path: Path) -> None:
    ds.manual_seed(0)
    net = ds.nn.Sequential(
        ds.nn.Conv2d(1, 4, 3, padding=1), ds.nn.BatchNorm2d(4), ds.nn.GELU(), ds.nn.MaxPool2d(2),
        ds.nn.Flatten(), ds.nn.Linear(36, 8), ds.nn.LayerNorm(8), ds.nn.Softmax(-1),
    )  # fmt: skip
    report = export(net, randn(2, 1, 6, 6), path, opset=opset, dynamic={0: {0: "batch"}})
    model = onnx.load(path)
    assert model.opset_import[0].version == opset
    assert model.ir_version == report.ir_version <= 13
    assert report.errors["output"] < 1e-5
    assert [t.sizes["batch"] for t in report.trials] == [2, 3, 1]
