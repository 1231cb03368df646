"""What an export proves, what it says about it, and how files come to be: whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import deepseek as ds
from deepseek.errors import ArgumentError, CompileError
from deepseek.ir.op import REGISTRY, Sample
from deepseek.onnx import export, storage
from deepseek.ops.define import composite
from deepseek.ops.forms import form


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def randn(*shape: int) -> ds.Tensor:
    return ds.randn(*shape, generator=ds.Generator(sum(shape)))


def run(path: Path, *arrays: Any) -> Any:
    opened = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [i.name for i in opened.get_inputs()]
    return opened.run(None, dict(zip(names, map(np.asarray, arrays), strict=True)))[0]


# -------------------------------------------------------------------------------------- trials


def test_three_shapes_two_of_them_unseen(path: Path) -> None:
    report = export(lambda x: x.softmax(0), randn(4, 3), path, dynamic={0: {0: "n", 1: "m"}})
    assert [t.sizes for t in report.trials] == [
        {"n": 4, "m": 3}, {"n": 5, "m": 5}, {"n": 1, "m": 1},
    ]  # fmt: skip
    assert report.skipped == []
    assert report.checks == ["onnx.checker, full", "strict shape inference with data propagation"]
    text = str(report)
    assert f"passed  onnxruntime {onnxruntime.__version__}, n=5, m=5: off by" in text


def test_one_shape_where_none_is_open(path: Path) -> None:
    report = export(lambda x: x + 1, randn(4), path)
    assert [t.sizes for t in report.trials] == [{}]
    assert "as given: off by 0.0e+00" in str(report)


def test_sizes_keep_to_what_was_taken_for_granted(path: Path) -> None:
    def halves(x: ds.Tensor) -> ds.Tensor:
        return x * 2 if x.shape[0] % 2 == 0 else x

    report = export(halves, randn(6), path, dynamic={0: {0: "n"}})
    assert all(t.sizes["n"] % 2 == 0 for t in report.trials)
    assert len({t.sizes["n"] for t in report.trials}) == 3


def test_sizes_that_deepseek_refuses_are_named(path: Path) -> None:
    def cautious(x: ds.Tensor) -> ds.Tensor:
        if x.numpy().shape[0] == 1:  # not seen by the trace, which shows sizes only
            raise ValueError("one row is not enough")
        return x + 1

    def f(x: ds.Tensor) -> ds.Tensor:
        return x + 1 if ds.frontend.tensor.state.trace is not None else cautious(x)

    report = export(f, randn(4), path, dynamic={0: {0: "n"}})
    assert report.skipped == ["{'n': 1}: one row is not enough"]
    assert [t.sizes["n"] for t in report.trials] == [4, 5, 8]
    assert "not run {'n': 1}: one row is not enough" in str(report)


def test_a_difference_at_another_size_is_an_error(path: Path) -> None:
    """A form that freezes the traced size passes there and nowhere else."""

    @form("Mul")
    def frozen(b: Any, node: Any, x: str) -> Any:
        return b.node("Mul", x, b.number(4, b.dtypes[x]))

    @composite(
        reference=lambda x: x * x.shape[0], samples=lambda: [Sample(((3,),))], onnx=frozen
    )  # fmt: skip
    def toy_sized(x: ds.Tensor) -> ds.Tensor:
        return x * x.shape[0]

    try:
        export(toy_sized, randn(4), path)
        before = path.read_bytes()
        with pytest.raises(CompileError, match=r"computes 'output' otherwise at n=5: it differs"):
            export(toy_sized, randn(4), path, dynamic={0: {0: "n"}})
    finally:
        del REGISTRY["toy_sized"]
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["model.onnx"]


def picked(x: ds.Tensor, at: ds.Tensor) -> ds.Tensor:
    """Rows of x; an index beyond it is the caller's mistake."""
    return x.take(at, axis=0).reshape(at.shape[0], -1)


def test_examples_are_run_instead_of_inputs_that_are_made_up(path: Path) -> None:
    sizes = {"x": {0: "rows"}, "at": {0: "count"}}
    given = (randn(5, 2), np.array([4, 0, 2]))
    others = [(randn(2, 2), np.array([1, 1, 0, 0])), (randn(7, 2), np.array([6]))]
    report = export(picked, given, path, dynamic=sizes, examples=others)
    assert [t.sizes for t in report.trials] == [
        {"rows": 5, "count": 3}, {"rows": 2, "count": 4}, {"rows": 7, "count": 1},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ((np.zeros((2, 3), np.float32), np.array([0])), r"'x' has the shape .2, 3.; wanted size 2"),
        ((np.zeros((2, 2), np.float32),), r"1 tensors in 1 arguments; wanted 2 in 2"),
    ],
)
def test_examples_that_do_not_fit(example: Any, message: str, path: Path) -> None:
    sizes = {"x": {0: "rows"}, "at": {0: "count"}}
    given = (randn(5, 2), np.array([4, 0, 2]))
    with pytest.raises(ArgumentError, match=message):
        export(picked, given, path, dynamic=sizes, examples=[example])
    assert not path.exists()


def test_an_example_has_to_keep_to_what_was_taken_for_granted(path: Path) -> None:
    def f(x: ds.Tensor) -> ds.Tensor:
        return x * 2 if x.shape[0] > 3 else -x

    with pytest.raises(ArgumentError, match=r"sizes {'n': 2}; the model holds only where 3 < n"):
        export(f, randn(5), path, dynamic={0: {0: "n"}}, examples=[randn(2)])


def test_the_report_is_in_the_metadata(path: Path) -> None:
    report = export(lambda x: x.exp(), randn(4), path, dynamic={0: {0: "n"}}, opset=17)
    held = {p.key: p.value for p in onnx.load(path).metadata_props}
    found = json.loads(held["deepseek.report"])
    assert found["opset"] == 17
    assert found["inputs"] == {"x": "float32[n]"}
    assert found["runtime"] == report.runtime
    assert [t["sizes"] for t in found["trials"]] == [t.sizes for t in report.trials]
    assert found["trials"][1]["errors"] == report.trials[1].errors
    assert str(path.parent) not in held["deepseek.report"]
    seen = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert "deepseek.report" in seen.get_modelmeta().custom_metadata_map


def test_not_run_unless_asked(path: Path) -> None:
    report = export(lambda x: x + 1, randn(3), path, check=False)
    assert report.runtime is None
    assert report.trials == []
    assert report.errors == {}
    assert "not run: check=False" in str(report)


def test_without_onnxruntime_the_evaluator_runs_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepseek.onnx.proof.find_spec", lambda name: None)
    report = export(lambda x: x + 1, randn(3), path, dynamic={0: {0: "n"}})
    assert report.runtime == f"onnx.reference {onnx.__version__}"
    assert len(report.trials) == 3


# -------------------------------------------------------------------------------- external data


def weighted() -> ds.nn.Module:
    ds.manual_seed(0)
    return ds.nn.Sequential(ds.nn.Linear(16, 32), ds.nn.ReLU(), ds.nn.Linear(32, 4))


def test_weights_in_a_file_of_their_own(path: Path) -> None:
    net, x = weighted(), randn(2, 16)
    report = export(net, x, path, external_data=True, dynamic={0: {0: "n"}})
    assert report.data is not None
    assert sorted(os.listdir(path.parent)) == sorted(["model.onnx", report.data])
    model = onnx.load(path, load_external_data=False)
    apart = {t.name for t in model.graph.initializer if t.external_data}
    assert apart == {"0.weight"}  # the others are small
    assert report.bytes == sum(p.stat().st_size for p in path.parent.iterdir())
    np.testing.assert_allclose(run(path, x.numpy()), net(x).numpy(), rtol=1e-5, atol=1e-6)
    onnx.checker.check_model(str(path), full_check=True)
    held = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    np.testing.assert_array_equal(held["0.weight"], net.state_dict()["0.weight"].numpy())


def test_models_too_large_for_one_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LARGEST", 2000)
    report = export(weighted(), randn(2, 16), path)
    assert report.data is not None
    monkeypatch.setattr(storage, "LARGEST", 2**31 - 1)
    assert export(weighted(), randn(2, 16), path).data is None
    assert os.listdir(path.parent) == ["model.onnx"]  # the old weights belong to nobody now


def test_another_export_replaces_weights_and_model_together(path: Path) -> None:
    net, x = weighted(), randn(2, 16)
    first = export(net, x, path, external_data=True)
    net[0].weight = ds.nn.Parameter(net[0].weight * 2)
    second = export(net, x, path, external_data=True)
    assert first.data != second.data
    assert sorted(os.listdir(path.parent)) == sorted(["model.onnx", second.data or ""])
    np.testing.assert_allclose(run(path, x.numpy()), net(x).numpy(), rtol=1e-5, atol=1e-6)


def test_a_failed_export_leaves_the_old_model_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x = weighted(), randn(2, 16)
    export(net, x, path, external_data=True)
    files = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    net[0].weight = ds.nn.Parameter(net[0].weight * 2)
    monkeypatch.setattr(REGISTRY["relu"], "onnx", "Sin")
    with pytest.raises(CompileError, match="otherwise"):
        export(net, x, path, external_data=True)
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == files


def test_files_beside_a_model_that_are_not_its_weights_stay(path: Path) -> None:
    other = path.parent / "model.0123456789ab.data"
    other.write_bytes(b"mine")
    export(lambda x: x + 1, randn(3), path)
    export(lambda x: x + 2, randn(3), path)
    path.write_bytes(b"not a model")
    export(lambda x: x + 2, randn(3), path)
    assert other.read_bytes() == b"mine"
