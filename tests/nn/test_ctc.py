"""CTCLoss against the sum over all paths and the recursion over prefixes, in NumPy float64."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.errors import DeepseekError

Array = np.ndarray
rng = np.random.default_rng(8)


def log_softmax(x: Array) -> Array:
    x = x.astype(np.float64)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def read(path: tuple[int, ...], blank: int) -> list[int]:
    """What a path says: repeats are one, blanks are nothing."""
    kept = [c for c, before in zip(path, (None, *path), strict=False) if c != before]
    return [c for c in kept if c != blank]


def by_paths(logs: Array, labels: list[int], blank: int) -> float:
    """-log of the sum over every path of classes that reads as the labels."""
    time, classes = logs.shape
    total = sum(
        np.exp(sum(logs[t, c] for t, c in enumerate(path)))
        for path in product(range(classes), repeat=time)
        if read(path, blank) == labels
    )
    return -np.log(total) if total else np.inf


def by_recursion(logs: Array, labels: list[int], blank: int) -> float:
    """The forward variables of Graves et al., 6.1, as probabilities."""
    extended = [blank, *(c for label in labels for c in (label, blank))]
    chance = np.zeros(len(extended))
    chance[0] = 1.0
    for step, row in enumerate(np.exp(logs)):
        new = np.zeros_like(chance)
        for s, label in enumerate(extended):
            ways = chance[s]
            if s and (step or s == 1):
                ways += chance[s - 1]
            if s > 1 and step and label not in (blank, extended[s - 2]):
                ways += chance[s - 2]
            new[s] = ways * row[label]
        chance = new
    return -np.log(chance[-2:].sum())


LABELS = [[1, 1], [2, 1], [2]]
TIMES = [5, 4, 3]
SCORES = rng.standard_normal((5, 3, 4)).astype(np.float32)


def padded(labels: list[list[int]]) -> Array:
    out = np.zeros((len(labels), max(map(len, labels))), np.int64)
    for row, given in zip(out, labels, strict=True):
        row[: len(given)] = given
    return out


def expected(blank: int = 0) -> Array:
    logs = log_softmax(SCORES)
    return np.array([by_paths(logs[:t, n], LABELS[n], blank) for n, t in enumerate(TIMES)])


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("blank", [0, 3])
@pytest.mark.parametrize("given", ["lists", "tensors", "one vector", "compiled", "both"])
def test_every_way_to_give_the_labels(reduction: str, blank: int, given: str) -> None:
    losses = expected(blank)
    wanted = {
        "none": losses, "sum": losses.sum(), "mean": (losses / [2, 2, 1]).mean(),
    }[reduction]  # fmt: skip
    layer: Any = nn.CTCLoss(blank, reduction)
    counts: Any = [len(labels) for labels in LABELS]
    times: Any = TIMES
    targets = np.concatenate(LABELS) if given in ("one vector", "both") else padded(LABELS)
    if given != "lists":
        times, counts = ds.asarray(times), ds.asarray(counts, dtype=ds.int32)
    if given in ("compiled", "both"):
        inner = layer
        layer = ds.jit(lambda *args: inner(*args))
    logs = ds.log_softmax(ds.asarray(SCORES), -1)
    out = layer(logs, ds.asarray(targets), times, counts)
    np.testing.assert_allclose(out.numpy(), wanted, rtol=1e-5)


def test_one_sample_without_a_batch() -> None:
    logs = ds.log_softmax(ds.asarray(SCORES[:, 0]), -1)
    out = nn.CTCLoss(reduction="none")(logs, ds.asarray([1, 1]), 5, 2)
    assert out.shape == ()
    np.testing.assert_allclose(out.item(), expected()[0], rtol=1e-5)


def test_long_sequences() -> None:
    """The logarithms carry what probabilities of float32, which end at e**-104, could not."""
    time, classes, labels = 200, 30, rng.integers(1, 30, 40).tolist()
    labels[3] = labels[4]
    scores = rng.standard_normal((time, 1, classes)).astype(np.float32)
    wanted = by_recursion(log_softmax(scores)[:, 0], labels, 0)
    assert wanted > 104
    logs = ds.log_softmax(ds.asarray(scores), -1)
    out = nn.CTCLoss(reduction="sum")(logs, ds.asarray([labels]), [time], [40])
    np.testing.assert_allclose(out.item(), wanted, rtol=1e-5)


def test_gradients_are_central_differences() -> None:
    def loss(scores: ds.Tensor) -> ds.Tensor:
        logs = ds.log_softmax(scores, -1)
        return nn.CTCLoss()(logs, ds.asarray(padded(LABELS)), TIMES, [2, 2, 1])

    x = ds.asarray(SCORES.astype(np.float64), requires_grad=True)
    loss(x).backward()
    for _ in range(3):
        move = rng.standard_normal(SCORES.shape)
        ends = [loss(ds.asarray(SCORES + s * 1e-6 * move)).item() for s in (1.0, -1.0)]
        slope = (x.grad.numpy() * move).sum()
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-6, rtol=1e-6, atol=1e-8)
    late = x.grad.numpy()[3:, 2]
    assert not late.any()  # beyond the sample's time


@pytest.mark.parametrize("zero", [False, True])
def test_labels_that_do_not_fit(zero: bool) -> None:
    """Three equal labels take five steps."""
    x = ds.asarray(SCORES[:4, :2], requires_grad=True)
    layer = nn.CTCLoss(reduction="none", zero_infinity=zero)
    out = layer(ds.log_softmax(x, -1), ds.asarray([[1, 1, 1], [1, 2, 3]]), [4, 4], [3, 3])
    fits = by_paths(log_softmax(SCORES)[:4, 1], [1, 2, 3], 0)
    np.testing.assert_allclose(out.numpy(), [0.0 if zero else np.inf, fits], rtol=1e-5)
    out[1].backward() if not zero else out.sum().backward()
    assert np.isfinite(x.grad.numpy()).all() and not x.grad.numpy()[:, 0].any()


def test_impossible_classes() -> None:
    """Probabilities of 0 leave the other ways, and gradients that are numbers."""
    scores = SCORES.copy()
    scores[1, :, 0] = -np.inf
    logs = log_softmax(scores)
    x = ds.asarray(scores, requires_grad=True)
    out = nn.CTCLoss(reduction="none")(
        ds.log_softmax(x, -1), ds.asarray(padded(LABELS)), TIMES, [2, 2, 1]
    )
    wanted = [by_paths(logs[:t, n], LABELS[n], 0) for n, t in enumerate(TIMES)]
    np.testing.assert_allclose(out.numpy(), wanted, rtol=1e-5)


def test_half_precision_is_summed_in_float32() -> None:
    logs = ds.log_softmax(ds.asarray(SCORES), -1).astype(ds.float16)
    out = nn.CTCLoss(reduction="none")(logs, ds.asarray(padded(LABELS)), TIMES, [2, 2, 1])
    assert out.dtype is ds.float16
    np.testing.assert_allclose(out.numpy().astype(np.float64), expected(), rtol=3e-3)


def test_repr() -> None:
    assert repr(nn.CTCLoss()) == "CTCLoss()"
    assert repr(nn.CTCLoss(2, zero_infinity=True)) == "CTCLoss(blank=2, zero_infinity=True)"


LOGS = ds.zeros((4, 2, 3))
TWO = np.array([[1, 2], [1, 1]])
WRONG: list[tuple[Any, str]] = [
    (lambda: ds.ctc_loss(ds.zeros(3), TWO, [4, 4], [2, 2]), "wanted .time, batch, classes"),
    (lambda: ds.ctc_loss(LOGS, TWO * 0.5, [4, 4], [2, 2]), "wanted integers"),
    (lambda: ds.ctc_loss(LOGS, TWO, [4, 4, 4], [2, 2]), "input_lengths .*one for each of 2"),
    (lambda: ds.ctc_loss(LOGS, TWO, [4, 5], [2, 2]), "input_lengths with 5; wanted 0 to 4"),
    (lambda: ds.ctc_loss(LOGS, TWO, [4, 4], [2, 3]), "target_lengths with 3; wanted 0 to 2"),
    (lambda: ds.ctc_loss(LOGS, TWO, [4.0, 4.0], [2, 2]), "input_lengths .*wanted integers"),
    (lambda: ds.ctc_loss(LOGS, TWO[:1], [4, 4], [2, 2]), "targets .*wanted .2, labels"),
    (lambda: ds.ctc_loss(LOGS, [1, 2, 1], [4, 4], [2, 2]), "sum to 4"),
    (lambda: ds.ctc_loss(LOGS, TWO, [4, 4], [2, 2], blank=3), "blank=3; wanted a class of 3"),
    (lambda: ds.ctc_loss(LOGS, TWO, [4, 4], [2, 2], reduction="max"), "reduction='max'"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "words"), WRONG, ids=[words for _, words in WRONG])
def test_what_is_wrong_is_named(call: Any, words: str) -> None:
    with pytest.raises(DeepseekError, match=words):
        call()
