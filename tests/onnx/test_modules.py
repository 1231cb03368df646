"""Layers with open sizes in old and new opsets: the operators they become, right at any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.onnx import Report, export

OPSETS = (13, 17, 21, 26)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


@pytest.fixture(autouse=True)
def seeded() -> None:
    ds.manual_seed(0)


def randn(*shape: int) -> ds.Tensor:
    return ds.randn(*shape, generator=ds.Generator(sum(shape)))


def whole(*numbers: int) -> ds.Tensor:
    return ds.asarray(np.array(numbers))


def proved(model: Any, args: Any, path: Path, opset: int, dynamic: Any) -> Report:
    """Exported, and run by onnxruntime at three sizes."""
    report = export(model, args, path, dynamic=dynamic, opset=opset)
    assert report.runtime is not None
    assert report.runtime.startswith("onnxruntime")
    assert len(report.trials) == 3, report.skipped
    assert max(report.errors.values()) < 1e-5
    return report


# ----------------------------------------------------------------------------------- recurrent

RECURRENT = [(nn.LSTM, "LSTM"), (nn.GRU, "GRU"), (nn.RNN, "RNN")]


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(("layer", "operator"), RECURRENT)
def test_recurrent_layers(layer: Any, operator: str, opset: int, path: Path) -> None:
    """One node for each direction of each layer, sequences of any and of different lengths."""
    net = layer(4, 6, num_layers=2, bidirectional=True, batch_first=True)
    dynamic = {0: {0: "batch", 1: "time"}, "lengths": {0: "batch"}}
    report = proved(net, (randn(3, 7, 4), None, whole(7, 3, 1)), path, opset, dynamic)
    assert report.operators[operator] == 4
    assert "Scan" not in report.operators
    names = {t.name for t in onnx.load(path).graph.initializer}
    assert set(net.state_dict()) <= names


@pytest.mark.parametrize(("layer", "operator"), RECURRENT)
@pytest.mark.parametrize("options", [{"bias": False}, {"bias": True}])
def test_recurrent_layers_from_given_states(
    layer: Any, operator: str, options: Any, path: Path
) -> None:
    net = layer(4, 6, **options)
    state = (randn(1, 3, 6), randn(1, 3, 6) * 2) if layer is nn.LSTM else randn(1, 3, 6)
    names = ["hx_0", "hx_1"] if layer is nn.LSTM else ["hx"]
    dynamic = {0: {0: "time", 1: "batch"}, **{name: {1: "batch"} for name in names}}
    report = proved(net, (randn(5, 3, 4), state), path, 21, dynamic)
    assert report.operators[operator] == 1


def test_a_relu_network(path: Path) -> None:
    report = proved(nn.RNN(4, 6, nonlinearity="relu"), randn(5, 3, 4), path, 17, {0: {0: "time"}})
    (node,) = [n for n in onnx.load(path).graph.node if n.op_type == "RNN"]
    (named,) = [a.strings for a in node.attribute if a.name == "activations"]
    assert list(named) == [b"Relu"]
    assert report.whole["rnn_layer"] == 1


@pytest.mark.parametrize(("dtype", "operator"), [("float16", "LSTM"), ("float64", "Scan")])
def test_recurrent_layers_of_other_types(dtype: str, operator: str, path: Path) -> None:
    net = nn.LSTM(4, 6).to(dtype)
    report = export(net, randn(5, 3, 4).astype(getattr(ds, dtype)), path)
    assert operator in report.operators
    assert report.errors["output_0"] < (1e-2 if dtype == "float16" else 1e-12)


def test_a_projected_state_is_a_scan(path: Path) -> None:
    report = proved(nn.LSTM(4, 6, proj_size=2), randn(5, 3, 4), path, 21, {0: {0: "time"}})
    assert report.operators["Scan"] == 1
    assert "LSTM" not in report.operators


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells(cell: Any, path: Path) -> None:
    proved(cell(4, 6), randn(3, 4), path, 21, {0: {0: "batch"}})


# ------------------------------------------------------------------------------- transformers


@pytest.mark.parametrize("opset", OPSETS)
def test_a_transformer(opset: int, path: Path) -> None:
    net = nn.Transformer(16, 4, 1, 1, 32, batch_first=True)
    seen = ds.asarray(np.triu(np.ones((5, 5), bool), 1))

    def f(source: ds.Tensor, target: ds.Tensor) -> ds.Tensor:
        return net(source, target, tgt_mask=seen)

    dynamic = {"source": {0: "batch", 1: "time"}, "target": {0: "batch"}}
    report = proved(f, (randn(2, 7, 16), randn(2, 5, 16)), path, opset, dynamic)
    assert report.operators["LayerNormalization"] == (0 if opset < 17 else 7)
    assert report.operators["Attention"] == (0 if opset < 23 else 3)
    names = {t.name for t in onnx.load(path).graph.initializer}
    assert "encoder.layers.0.self_attn.in_proj_weight" in names
    assert net.training


SEEN = np.arange(35).reshape(5, 7) % 3 > 0
HIDDEN = np.where(np.arange(5)[:, None] == 2, False, SEEN)


@pytest.mark.parametrize(
    "mask",
    [None, SEEN, np.where(SEEN, 0.5, -np.inf).astype(np.float32), HIDDEN,
     np.where(HIDDEN, 0, -np.inf).astype(np.float32)],
    ids=["none", "bool", "float", "bool, a row hidden", "float, a row hidden"],
)  # fmt: skip
def test_attention_with_masks(mask: Any, path: Path) -> None:
    """Rows that see nothing give zeros in ONNX too."""
    given = None if mask is None else ds.asarray(mask)

    def f(q: ds.Tensor, k: ds.Tensor) -> ds.Tensor:
        return nn.functional.scaled_dot_product_attention(q, k, k, given)

    for opset in (22, 26):
        dynamic = {"q": {0: "batch"}, "k": {0: "batch"}}
        report = proved(f, (randn(2, 3, 5, 8), randn(2, 3, 7, 8)), path, opset, dynamic)
        assert report.operators["Attention"] == (opset == 26)


def test_attention_with_shared_heads(path: Path) -> None:
    def f(q: ds.Tensor, k: ds.Tensor) -> ds.Tensor:
        return nn.functional.scaled_dot_product_attention(q, k, k, enable_gqa=True)

    for opset in (22, 26):
        dynamic = {"q": {0: "batch", 2: "time"}, "k": {0: "batch", 2: "length"}}
        report = proved(f, (randn(2, 6, 5, 8), randn(2, 2, 7, 8)), path, opset, dynamic)
        assert report.operators["Attention"] == (opset == 26)


@pytest.mark.parametrize("opset", [22, 26])
def test_attention_that_sees_the_past_only(opset: int, path: Path) -> None:
    def f(q: ds.Tensor, k: ds.Tensor) -> ds.Tensor:
        return nn.functional.scaled_dot_product_attention(q, k, k, is_causal=True)

    dynamic = {"q": {0: "batch", 2: "time"}, "k": {0: "batch", 2: "length"}}
    report = proved(f, (randn(2, 3, 5, 8), randn(2, 3, 7, 8)), path, opset, dynamic)
    assert report.operators["Attention"] == (opset == 26)


def test_attention_with_a_mask_that_is_given_later(path: Path) -> None:
    def f(q: ds.Tensor, k: ds.Tensor, mask: ds.Tensor) -> ds.Tensor:
        return nn.functional.scaled_dot_product_attention(q, k, k, mask)

    dynamic = {"q": {0: "batch", 2: "time"}, "k": {0: "batch", 2: "length"},
               "mask": {0: "time", 1: "length"}}  # fmt: skip
    args = (randn(2, 3, 5, 8), randn(2, 3, 7, 8), ds.asarray(SEEN))
    report = proved(f, args, path, 26, dynamic)
    assert report.operators["Attention"] == 1


# ------------------------------------------------------------------------- convolutions, pooling

OPEN = [
    (lambda: nn.Conv1d(2, 3, 3, padding=1), (2, 2, 9), {0: "n", 2: "t"}, "Conv"),
    (lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), (2, 2, 9, 8),
     {0: "n", 2: "h", 3: "w"}, "Conv"),
    (lambda: nn.Conv3d(2, 3, 3), (2, 2, 5, 6, 7), {0: "n", 2: "d", 3: "h", 4: "w"}, "Conv"),
    (lambda: nn.MaxPool2d(2), (2, 3, 8, 8), {0: "n", 2: "h", 3: "w"}, "MaxPool"),
    (lambda: nn.AvgPool2d(3, 2, 1), (2, 3, 8, 8), {0: "n", 2: "h", 3: "w"}, "AveragePool"),
    (lambda: nn.BatchNorm2d(3), (4, 3, 5, 5), {0: "n", 2: "h"}, "BatchNormalization"),
    (lambda: nn.InstanceNorm2d(3, affine=True), (4, 3, 5, 5), {0: "n", 2: "h"},
     "InstanceNormalization"),
]  # fmt: skip


@pytest.mark.parametrize("opset", [13, 26])
@pytest.mark.parametrize(("make", "shape", "open_", "operator"), OPEN, ids=lambda v: str(v)[:20])
def test_layers_of_open_sizes(
    make: Any, shape: Any, open_: Any, operator: str, opset: int, path: Path
) -> None:
    report = proved(make(), randn(*shape), path, opset, {0: open_})
    assert report.operators == {operator: 1}
