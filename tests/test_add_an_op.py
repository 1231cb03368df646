"""docs/add-an-op.md adds an op in one function: executing just this gives everything else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek.config import override
from deepseek.ir.op import REGISTRY

DOCUMENT = Path(__file__).parents[1] / "docs" / "add-an-op.md"
POINTS = np.array([-30.0, -4.0, -1.5, -0.25, 0.1, 0.5, 2.0, 6.0, 40.0])

Mish = Callable[[ds.Tensor], ds.Tensor]


@pytest.fixture(scope="module")
def mish() -> Iterator[Mish]:
    """What the document's block defines, and nothing but that; deepseek's own is put aside."""
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (block,) = (text for text in blocks if "def mish(" in text)
    functions = re.findall(r"^def (\w+)", block, re.MULTILINE)
    assert functions == ["mish"], "one function"
    own = REGISTRY["mish"]
    del REGISTRY["mish"]
    before = set(REGISTRY)
    namespace: dict[str, Any] = {"__name__": "mish"}
    exec(compile(block, "mish.py", "exec"), namespace)
    assert set(REGISTRY) - before == {"mish"} and REGISTRY["mish"] is not own
    yield namespace["mish"]
    REGISTRY["mish"] = own


def plain(x: np.ndarray) -> np.ndarray:
    return x * np.tanh(np.logaddexp(0, x))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_it_runs_on_both_backends(mish: Mish, backend: str, dtype: str) -> None:
    with override(backend=backend):
        x = ds.asarray(POINTS).astype(getattr(ds, dtype))
        got = mish(x).astype(ds.float64).numpy()
    tolerance = {"float64": 1e-14, "float32": 1e-6, "float16": 4e-3, "bfloat16": 3e-2}[dtype]
    wanted = plain(x.astype(ds.float64).numpy())
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_its_gradient_is_that_of_central_differences(mish: Mish, backend: str) -> None:
    step = 1e-6
    with override(backend=backend):
        x = ds.asarray(POINTS)
        x.requires_grad_()
        (mish(x) * ds.asarray(np.arange(1.0, 10.0))).sum().backward()
        assert x.grad is not None
        got = x.grad.numpy()
    slopes = (plain(POINTS + step) - plain(POINTS - step)) / (2 * step)
    np.testing.assert_allclose(got, np.arange(1.0, 10.0) * slopes, rtol=1e-7, atol=1e-8)


def test_its_second_derivative_exists(mish: Mish) -> None:
    step = 1e-5
    x = ds.asarray(POINTS)
    first = ds.grad(lambda x: mish(x).sum())
    second = ds.grad(lambda x: first(x).sum())(x).numpy()
    slopes = (first(x + step).numpy() - first(x - step).numpy()) / (2 * step)
    np.testing.assert_allclose(second, slopes, rtol=1e-6, atol=1e-8)


def test_jit_gives_what_eager_gives(mish: Mish) -> None:
    def training(x: ds.Tensor, w: ds.Tensor) -> tuple[ds.Tensor, ds.Tensor]:
        loss, grads = ds.value_and_grad(lambda w: mish(x @ w).sum())(w)
        return loss, grads

    x, w = ds.randn(12, 16), ds.randn(16, 24)
    for eager, compiled in zip(training(x, w), ds.jit(training)(x, w), strict=True):
        np.testing.assert_allclose(compiled.numpy(), eager.numpy(), rtol=1e-5, atol=1e-5)


def test_it_fuses_into_one_kernel(mish: Mish) -> None:
    explained = ds.explain(lambda x: 2 * mish(x) + 1, ds.randn(100, 100))
    assert explained.counts["launches"] == 1
    assert any("mish" in line for line in explained.kernels[0].lines)


def test_it_is_exported_to_onnx(mish: Mish, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "mish.onnx"
    x = ds.asarray(POINTS.astype(np.float32))
    ds.onnx.export(mish, (x,), path, dynamic={0: {0: "n"}})
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count in (9, 4):
        given = POINTS[:count].astype(np.float32)
        (got,) = session.run(None, {session.get_inputs()[0].name: given})
        np.testing.assert_allclose(got, plain(given), rtol=1e-6, atol=1e-6)
