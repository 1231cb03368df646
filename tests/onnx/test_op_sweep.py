"""Every sample of every op, written in ONNX and run, against the op's reference.

onnxruntime runs what it has kernels for, ONNX's own evaluator the rest (bfloat16 above all).
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from exporting import least_opset, model_of, unspeakable
from sampling import Case, case_name, cases

from deepseek.errors import CompileError
from deepseek.ir.dtype import bfloat16
from deepseek.ir.interpret import interpret
from deepseek.ir.op import Kind
from deepseek.onnx.proof import difference, run
from deepseek.onnx.versions import OPSETS, first, forms_of
from deepseek.ops.define import REGISTRY

CASES = cases()
OPSETS_TESTED = (13, 17, 21, 26)
TOLERANCE = {"float64": 1e-7, "float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}


BITS = {"nextafter", "frexp_mantissa", "frexp_exponent"}


EVALUATOR = {
    ("logsumexp", "bfloat16"): "sums in bfloat16, without taking the largest off",
    ("log_softmax", "bfloat16"): "sums in bfloat16, without taking the largest off",
    ("nll_loss", "bfloat16"): "sums in bfloat16",
    ("cross_entropy", "bfloat16"): "sums in bfloat16",
    ("batch_norm", "bfloat16"): "rounds each step to bfloat16",
    ("pad", "bfloat16"): "knows no negative padding",
    ("fold", "bfloat16"): "knows no negative padding",
    ("sort", "bfloat16"): "does not order it",
    ("quantile", "bfloat16"): "does not order it",
    ("convolution_input_grad", "bfloat16"): "ConvTranspose fails with groups and without a batch",
    ("convolution_input_grad", "float64"): "ConvTranspose fails with groups and without a batch",
}
"""Where ONNX's evaluator falls short, which runs what onnxruntime cannot: only checked, not run."""


REFUSED: list[Case] = []
EXPORTED: list[Case] = []
for _case in CASES:
    if (_graph := _case.graph()).outputs:  # a barrier gives nothing
        (REFUSED if unspeakable(_graph) else EXPORTED).append(_case)


def computes_the_same(case: Case, opset: int) -> None:
    graph = case.graph()
    least = least_opset(graph)
    if opset < least:
        with pytest.raises(CompileError, match=f"export with opset={least} or a later one"):
            model_of(graph, opset)
        return
    model, _ = model_of(graph, opset)
    assert model.opset_import[0].version == opset
    if (case.op.name, case.dtype.name) in EVALUATOR:
        return
    runtime, got = run(model, {f"x{i}": a for i, a in enumerate(case.arrays)})
    brain = case.sample.kwargs.get("dtype") is bfloat16
    common = case.dtype.name in ("float32", "int32", "bool")
    assert runtime.startswith("onnxruntime") or brain or not common
    for wanted, result in zip(interpret(graph, case.arrays), got, strict=True):
        error = difference(wanted, result)
        assert error <= TOLERANCE.get(wanted.dtype.name, 0), f"{runtime} is off by {error}"


def first_of_each(opset: int) -> list[Case]:
    """A sample of every op, another one in each opset."""
    found: dict[str, list[Case]] = {}
    for case in EXPORTED:
        found.setdefault(case.op.name, []).append(case)
    return [cases[opset % len(cases)] for cases in found.values()]


def wrong(cases: Iterable[Case], opset: int) -> list[str]:
    """The cases that come out otherwise in an opset."""
    found = []
    for case in cases:
        try:
            computes_the_same(case, opset)
        except (AssertionError, CompileError) as error:
            found.append(f"{case_name(case)}: {error}")
    return found


THIN = [c for c in EXPORTED if c.dtype.name in ("float32", "int32", "bool")]


@pytest.mark.parametrize(
    ("case", "opset"),
    [(c, OPSETS_TESTED[i % len(OPSETS_TESTED)]) for i, c in enumerate(THIN)],
    ids=lambda value: case_name(value) if isinstance(value, Case) else str(value),
)
def test_onnx_computes_the_same(case: Case, opset: int) -> None:
    """Every sample in one of the opsets, by turns."""
    computes_the_same(case, opset)


@pytest.mark.parametrize("opset", OPSETS_TESTED)
def test_each_op_in_every_opset(opset: int) -> None:
    """One sample of each op, in the opsets where most operators changed."""
    assert wrong(first_of_each(opset), opset) == []


@pytest.mark.slow
@pytest.mark.parametrize("opset", [n for n in OPSETS if n not in OPSETS_TESTED])
def test_each_op_in_the_opsets_between(opset: int) -> None:
    assert wrong(first_of_each(opset), opset) == []


@pytest.mark.slow
@pytest.mark.parametrize("opset", OPSETS_TESTED)
def test_every_sample_of_every_dtype_in_every_opset(opset: int) -> None:
    assert wrong(EXPORTED, opset) == []


@pytest.mark.parametrize("case", REFUSED, ids=case_name)
def test_what_onnx_cannot_say_is_an_error(case: Case) -> None:
    with pytest.raises(CompileError) as caught:
        model_of(case.graph())
    text = str(caught.value)
    assert text.startswith(f"op '{case.op.name}'")
    assert "sampling.py" in text  # the line that called it
    assert "help: " in text


def test_random_and_host_ops_are_the_ones_that_onnx_cannot_say() -> None:
    names = {c.op.name for c in REFUSED}
    assert {"random_bits", "dropout", "inv", "solve"} <= names
    assert {c.op.name for c in CASES} - names > set(WHOLE)


def test_names_in_records_are_operators_that_need_no_more() -> None:
    """A record names an operator only where the op's attributes need no translation."""
    names = {op.name: f for op in REGISTRY.values() for f in forms_of(op.onnx) if type(f) is str}
    assert names
    for name, operator in names.items():
        assert first(operator) in OPSETS, name
        op = REGISTRY[name]
        for case in [c for c in CASES if c.op is op]:
            made = next(n for n in case.graph().nodes if n.op is op)
            assert op.kind is Kind.REDUCE or not made.attrs, name


WHOLE = {
    "relu": "Relu", "gelu": "Gelu", "softmax": "Softmax", "log_softmax": "LogSoftmax",
    "cross_entropy": "SoftmaxCrossEntropyLoss", "layer_norm": "LayerNormalization",
    "instance_norm": "InstanceNormalization", "linear": "Gemm", "embedding": "Gather",
    "max_pool": "MaxPool", "avg_pool": "AveragePool", "mean": "ReduceMean",
    "nll_loss": "NegativeLogLikelihoodLoss", "logsumexp": "ReduceLogSumExp",
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_composites_are_written_whole(name: str) -> None:
    case = next(c for c in CASES if c.op.name == name and c.dtype.name == "float32")
    model, b = model_of(case.graph())
    assert [n.op_type for n in model.graph.node] == [WHOLE[name]]
    assert b.whole == {name: 1}
