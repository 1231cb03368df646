"""Losses that hold the layer which makes scores of classes, against NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.errors import DeepseekError

Array = np.ndarray
rng = np.random.default_rng(4)
X = rng.standard_normal((6, 8)).astype(np.float32)
TARGET = np.array([0, 3, 4, 9, 10, 19])


def log_softmax(x: Array) -> Array:
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def adaptive(**options: Any) -> nn.AdaptiveLogSoftmaxWithLoss:
    ds.manual_seed(0)
    return nn.AdaptiveLogSoftmaxWithLoss(8, 20, [4, 10], div_value=2.0, **options)


def all_logs(layer: nn.Module) -> Array:
    """P(class) = P(cluster) * P(class in the cluster)."""
    w = {k: v.numpy().astype(np.float64) for k, v in layer.state_dict().items()}
    head = log_softmax(X @ w["head.weight"].T + w.get("head.bias", 0))
    tails = [log_softmax(X @ w[f"tail.{i}.0.weight"].T @ w[f"tail.{i}.1.weight"].T) for i in (0, 1)]
    return np.hstack([head[:, :4], tails[0] + head[:, 4:5], tails[1] + head[:, 5:6]])


@pytest.mark.parametrize("head_bias", [False, True])
def test_adaptive_softmax(head_bias: bool) -> None:
    layer = adaptive(head_bias=head_bias)
    logs = all_logs(layer)
    np.testing.assert_allclose(np.exp(logs).sum(1), 1)
    x, target = ds.asarray(X), ds.asarray(TARGET)
    for call in (layer, ds.jit(lambda *xs: layer(*xs))):
        output, loss = call(x, target)
        np.testing.assert_allclose(output.numpy(), logs[np.arange(6), TARGET], rtol=1e-5)
        np.testing.assert_allclose(loss.item(), -logs[np.arange(6), TARGET].mean(), rtol=1e-5)
    np.testing.assert_allclose(layer.log_prob(x).numpy(), logs, rtol=1e-5, atol=1e-6)
    assert np.array_equal(layer.predict(x).numpy(), logs.argmax(1))
    alone = layer(x[3], target[3])
    assert alone.output.shape == ()
    np.testing.assert_allclose(alone.output.item(), logs[3, 9], rtol=1e-5)


def test_adaptive_softmax_has_pytorchs_keys_and_gradients() -> None:
    layer = adaptive()
    assert {k: v.shape for k, v in layer.state_dict().items()} == {
        "head.weight": (6, 8), "tail.0.0.weight": (4, 8), "tail.0.1.weight": (6, 4),
        "tail.1.0.weight": (2, 8), "tail.1.1.weight": (10, 2),
    }  # fmt: skip
    layer = layer.double()
    weight, move = layer.head.weight, rng.standard_normal((6, 8))
    layer(ds.asarray(X.astype(np.float64)), ds.asarray(TARGET)).loss.backward()
    assert all(p.grad is not None for p in layer.parameters())
    start, ends = weight.numpy().copy(), []
    for step in (1e-6, -1e-6):
        layer.load_state_dict({"head.weight": start + step * move}, strict=False)
        ends.append(layer(ds.asarray(X.astype(np.float64)), ds.asarray(TARGET)).loss.item())
    slope = (weight.grad.numpy() * move).sum()
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-6, rtol=1e-6)


def classes_at(scores: Array, target: Array, weight: Array, ignored: int, smooth: float) -> Any:
    """Each sample's loss and its weight; classes on axis 1."""
    logs = np.moveaxis(log_softmax(scores), 1, -1)
    losses, shares = np.zeros(target.shape), np.zeros(target.shape)
    for at in np.ndindex(target.shape):
        c = target[at]
        if c != ignored:
            plain = -logs[at][c] * weight[c]
            losses[at] = (1 - smooth) * plain - smooth * (logs[at] * weight).mean()
            shares[at] = weight[c]
    return losses, shares


@pytest.mark.parametrize("places", [(), (2, 3)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_scores_inside_of_the_loss(places: tuple[int, ...], reduction: str) -> None:
    ds.manual_seed(1)
    weight = np.linspace(0.5, 2, 5).astype(np.float32)
    loss = nn.LinearCrossEntropyLoss(
        8, 5, out_features=places, bias=True, reduction=reduction, weight=ds.asarray(weight),
        ignore_index=2, label_smoothing=0.1,
    )  # fmt: skip
    target = rng.integers(0, 5, (6, *places))
    w = {k: v.numpy().astype(np.float64) for k, v in loss.state_dict().items()}
    assert list(w) == ["weight", "linear.weight", "linear.bias"]
    scores = (X @ w["linear.weight"].T + w["linear.bias"]).reshape(6, 5, *places)
    losses, shares = classes_at(scores, target, weight, 2, 0.1)
    wanted = {"none": losses, "sum": losses.sum(), "mean": losses.sum() / shares.sum()}[reduction]
    for call in (loss, ds.jit(lambda *xs: loss(*xs))):
        out = call(ds.asarray(X), ds.asarray(target))
        np.testing.assert_allclose(out.numpy(), wanted, rtol=2e-5, atol=1e-6)


WRONG: list[tuple[Any, str]] = [
    (lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 20, []), r"cutoffs=\[\]"),
    (lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5, 5]), r"cutoffs=\[5, 5\]"),
    (lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 20, [0]), "between 1 and 19"),
    (lambda: adaptive()(ds.asarray(X), ds.asarray(TARGET[:3])), "wanted .batch, features"),
    (lambda: adaptive()(ds.asarray(X), np.array([0, 1, 2, 3, 4, 20])), "index 20 for an axis"),
    (lambda: nn.LinearCrossEntropyLoss(8, 5, label_smoothing=2), "label_smoothing=2"),
    (lambda: nn.LinearCrossEntropyLoss(8, 5, weight=ds.ones(4)), "weight of shape"),
]


@pytest.mark.parametrize(("call", "words"), WRONG, ids=[words for _, words in WRONG])
def test_what_is_wrong_is_named(call: Any, words: str) -> None:
    with pytest.raises(DeepseekError, match=words):
        call()
