"""Losses against NumPy in float64, with their gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.errors import ArgumentError

Array = np.ndarray
REDUCE: dict[str, Callable[[Array], Array]] = {"mean": np.mean, "sum": np.sum, "none": np.asarray}
rng = np.random.default_rng(11)
x = rng.standard_normal((4, 5))
y = rng.standard_normal((4, 5))


def check(loss: nn.Module, target: Array, function: Callable[[Array], Array]) -> None:
    """Value and gradient, the latter by central differences."""
    given = ds.asarray(x, dtype=ds.float64, requires_grad=True)
    out = loss(given, ds.asarray(target))
    np.testing.assert_allclose(out.numpy(), function(x), rtol=1e-10, atol=1e-12)
    out.sum().backward()
    for at in np.ndindex(*x.shape):
        step = np.zeros_like(x)
        step[at] = 1e-6
        slope = (np.sum(function(x + step)) - np.sum(function(x - step))) / 2e-6
        assert abs(given.grad.numpy()[at] - slope) < 1e-7, at


@pytest.mark.parametrize("reduction", REDUCE)
def test_plain_losses(reduction: str) -> None:
    reduce = REDUCE[reduction]
    check(nn.MSELoss(reduction), y, lambda x: reduce((x - y) ** 2))
    check(nn.L1Loss(reduction), y, lambda x: reduce(np.abs(x - y)))


def log_softmax(x: Array) -> Array:
    return x - np.log(np.exp(x).sum(1, keepdims=True))


labels = np.array([3, 0, -100, 4])
WEIGHT = np.array([1.0, 2, 0.5, 3, 1])


def class_loss(
    logs: Array, reduction: str, weight: Array, ignore: int = -100, smoothing: float = 0.0
) -> Array:
    keep = labels != ignore
    at = np.where(keep, labels, 0)
    hit = -logs[np.arange(4), at] * weight[at]
    smooth = -(logs * weight).sum(1) / 5
    losses = np.where(keep, (1 - smoothing) * hit + smoothing * smooth, 0)
    if reduction == "mean":
        return losses.sum() / (weight[at] * keep).sum()
    return REDUCE[reduction](losses)


@pytest.mark.parametrize("reduction", REDUCE)
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_class_losses(reduction: str, weight: Array | None) -> None:
    given = None if weight is None else ds.asarray(weight, dtype=ds.float64)
    w = np.ones(5) if weight is None else weight
    check(
        nn.CrossEntropyLoss(given, reduction=reduction, label_smoothing=0.1),
        labels,
        lambda x: class_loss(log_softmax(x), reduction, w, smoothing=0.1),
    )
    check(
        nn.NLLLoss(given, reduction=reduction), labels, lambda x: class_loss(x, reduction, w)
    )


def test_another_class_is_ignored() -> None:
    loss = nn.CrossEntropyLoss(ignore_index=4)
    classes = np.array([3, 0, 1, 4])
    logs = log_softmax(x)
    expected = -np.mean([logs[0, 3], logs[1, 0], logs[2, 1]])
    assert abs(loss(ds.asarray(x), ds.asarray(classes)).item() - expected) < 1e-6


def test_cross_entropy_with_probabilities() -> None:
    target = np.exp(y) / np.exp(y).sum(1, keepdims=True)
    check(nn.CrossEntropyLoss(), target, lambda x: -(log_softmax(x) * target).sum(1).mean())


@pytest.mark.parametrize("reduction", REDUCE)
def test_binary_cross_entropy(reduction: str) -> None:
    target = rng.random((4, 5))
    positive, weight = rng.random(5) + 0.5, rng.random((4, 5))

    def function(x: Array) -> Array:
        p = 1 / (1 + np.exp(-x))
        losses = -(positive * target * np.log(p) + (1 - target) * np.log(1 - p))
        return REDUCE[reduction](losses * weight)

    loss = nn.BCEWithLogitsLoss(
        ds.asarray(weight, dtype=ds.float64),
        reduction=reduction,
        pos_weight=ds.asarray(positive, dtype=ds.float64),
    )
    check(loss, target, function)


def test_binary_cross_entropy_does_not_overflow() -> None:
    loss = nn.BCEWithLogitsLoss(reduction="none")
    out = loss(ds.asarray([1e4, -1e4, 1e4, 0.0]), ds.asarray([1.0, 0.0, 0.0, 1.0]))
    np.testing.assert_allclose(out.numpy(), [0, 0, 1e4, np.log(2)], rtol=1e-6)


def test_weights_are_part_of_the_state() -> None:
    loss = nn.CrossEntropyLoss(ds.ones(3))
    assert list(loss.state_dict()) == ["weight"]
    assert nn.CrossEntropyLoss().state_dict() == {}
    assert repr(nn.MSELoss("sum")) == "MSELoss(reduction='sum')"


def test_an_unknown_reduction_lists_the_valid_ones() -> None:
    with pytest.raises(ArgumentError, match="unknown reduction 'avg'; valid: mean, sum, none"):
        nn.MSELoss("avg")
