"""Tables that integers look up, one by one and in bags, against NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.config import override
from deepseek.errors import ArgumentError, DeepseekError, ShapeError

Array = np.ndarray
rng = np.random.default_rng(3)
TABLE = rng.standard_normal((7, 4)).astype(np.float32)
FLAT = np.array([3, 0, 3, 6, 2, 2, 1])
CUTS = np.array([0, 2, 2, 5])
MATRIX = np.array([[1, 6, 1], [2, 2, 0], [5, 5, 5]])


def bags_of(indices: Array, offsets: Array | None) -> list[Array]:
    if offsets is None:
        return list(indices)
    return np.split(indices, offsets[1:])


def reduced(
    indices: Array, offsets: Array | None, mode: str, padding: int | None = None,
    weights: Array | None = None,
) -> Array:  # fmt: skip
    table, out = TABLE.astype(np.float64), []
    shares = bags_of(np.ones(indices.shape) if weights is None else weights, offsets)
    for bag, share in zip(bags_of(indices, offsets), shares, strict=True):
        kept = bag != padding
        rows = table[bag[kept]] * share[kept, None]
        out.append(getattr(rows, mode)(0) if len(rows) else np.zeros(4))
    return np.stack(out)


def bag_layer(**settings: Any) -> nn.EmbeddingBag:
    layer = nn.EmbeddingBag(7, 4, **settings)
    layer.load_state_dict({"weight": TABLE})
    return layer


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 2])
@pytest.mark.parametrize("cut", [True, False])
def test_bags(mode: str, padding: int | None, cut: bool) -> None:
    layer = bag_layer(mode=mode, padding_idx=padding)
    indices, offsets = (FLAT, CUTS) if cut else (MATRIX, None)
    expected = reduced(indices, offsets, mode, padding)
    given = [ds.asarray(indices), *([ds.asarray(offsets)] if cut else [])]
    compiled = ds.jit(lambda *xs: layer(*xs))
    for out in (layer(*given), compiled(*given)):
        np.testing.assert_allclose(out.numpy(), expected, rtol=2e-6, atol=2e-6)


def test_the_mean_is_usual_and_the_repr_pytorchs() -> None:
    layer = bag_layer()
    out = layer(ds.asarray(MATRIX)).numpy()
    np.testing.assert_allclose(out, reduced(MATRIX, None, "mean"), rtol=2e-6, atol=2e-6)
    assert repr(layer) == "EmbeddingBag(7, 4, mode='mean')"
    assert repr(bag_layer(padding_idx=-1, max_norm=2, mode="sum")) == (
        "EmbeddingBag(7, 4, max_norm=2.0, mode='sum', padding_idx=6)"
    )
    assert list(layer.state_dict()) == ["weight"]


@pytest.mark.parametrize("cut", [True, False])
def test_weights_of_samples_and_their_gradients(cut: bool) -> None:
    layer = bag_layer(mode="sum", padding_idx=2)
    indices, offsets = (FLAT, CUTS) if cut else (MATRIX, None)
    shares = rng.standard_normal(indices.shape).astype(np.float32)
    weights = ds.asarray(shares, requires_grad=True)
    out = layer(ds.asarray(indices), None if offsets is None else ds.asarray(offsets), weights)
    expected = reduced(indices, offsets, "sum", 2, shares)
    np.testing.assert_allclose(out.numpy(), expected, rtol=2e-6, atol=2e-6)
    out.sum().backward()
    slopes = np.where(indices == 2, 0, TABLE.astype(np.float64)[indices].sum(-1))
    np.testing.assert_allclose(weights.grad.numpy(), slopes, rtol=1e-5, atol=1e-5)
    rows = np.zeros(7)
    np.add.at(rows, indices, np.where(indices == 2, 0, shares))
    np.testing.assert_allclose(layer.weight.grad.numpy()[:, 1], rows, rtol=1e-5, atol=1e-5)


def test_the_last_offset_ends_the_last_bag() -> None:
    layer = bag_layer(mode="sum", include_last_offset=True)
    out = layer(ds.asarray(FLAT), ds.asarray([0, 3, 5])).numpy()
    np.testing.assert_allclose(out, reduced(FLAT[:5], np.array([0, 3]), "sum"), rtol=2e-6)


def test_gradients_by_frequency() -> None:
    bags = bag_layer(mode="sum", scale_grad_by_freq=True)
    table = nn.Embedding.from_pretrained(ds.asarray(TABLE), False, scale_grad_by_freq=True)
    for layer in (bags, table):
        layer(ds.asarray(MATRIX)).sum().backward()
        used = [1.0 if row in MATRIX else 0.0 for row in range(7)]
        np.testing.assert_allclose(layer.weight.grad.numpy()[:, 0], used, rtol=1e-6)
    assert np.array_equal(table(ds.asarray(FLAT)).numpy(), TABLE[FLAT])


@pytest.mark.parametrize("norm", [1.0, 2.0])
def test_rows_that_are_looked_up_are_limited_in_place(norm: float) -> None:
    indices = np.array([[1, 3], [3, 0]])
    expected = TABLE.astype(np.float64)
    for row in (0, 1, 3):
        size = np.linalg.norm(expected[row], norm)
        expected[row] *= min(1.0, 0.75 / (size + 1e-7))
    layer = nn.Embedding(7, 4, max_norm=0.75, norm_type=norm)
    weight = layer.weight

    def step(indices: ds.Tensor) -> ds.Tensor:
        out = layer(indices)
        out.sum().backward()
        return out

    for called in (step, ds.jit(step, keep_grads=True)):
        layer.zero_grad()
        layer.load_state_dict({"weight": TABLE})
        out = called(ds.asarray(indices))
        np.testing.assert_allclose(out.numpy(), expected[indices], rtol=3e-6)
        np.testing.assert_allclose(layer.weight.numpy(), expected, rtol=3e-6)
        assert layer.weight is weight and weight.requires_grad and weight.is_leaf
        assert weight.grad.numpy()[:, 0].tolist() == [1, 1, 0, 2, 0, 0, 0]


def test_given_rows() -> None:
    layer = nn.Embedding.from_pretrained(ds.asarray(TABLE), padding_idx=-2)
    assert not layer.weight.requires_grad and layer.padding_idx == 5
    assert np.array_equal(layer.weight.numpy(), TABLE)
    assert repr(layer) == "Embedding(7, 4, padding_idx=5)"
    free = nn.EmbeddingBag.from_pretrained(ds.asarray(TABLE), freeze=False, mode="max")
    assert free.weight.requires_grad and free.mode == "max"
    with pytest.raises(ShapeError, match="wanted a matrix"):
        nn.Embedding.from_pretrained(ds.ones(3))
    with pytest.raises(ShapeError, match=r"shape \(7, 4\); wanted \(6, 4\)"):
        nn.Embedding(6, 4, _weight=ds.asarray(TABLE))


WRONG: list[tuple[Any, str]] = [
    (lambda: nn.Embedding(3, 2, sparse=True), "sparse=True"),
    (lambda: nn.EmbeddingBag(3, 2, mode="min"), "unknown mode 'min'; valid: sum, mean, max"),
    (lambda: nn.EmbeddingBag(3, 2, padding_idx=3), "EmbeddingBag: got padding_idx=3"),
    (lambda: bag_layer()(ds.asarray(FLAT)), "without offsets"),
    (lambda: bag_layer()(ds.asarray(MATRIX), ds.asarray(CUTS)), "wanted two vectors"),
    (lambda: bag_layer()(ds.asarray(FLAT), [1, 3]), "offsets that start with 1"),
    (lambda: bag_layer()(ds.asarray(FLAT), [0, 9]), "index 9 for an axis of size 8"),
    (lambda: bag_layer()(ds.ones((2, 2))), "wanted integer indices"),
    (lambda: bag_layer()(ds.asarray(MATRIX), None, ds.ones((3, 3))), "wanted mode='sum'"),
    (lambda: bag_layer(mode="sum")(ds.asarray(MATRIX), None, ds.ones(3)), "the shape of the"),
    (lambda: ds.embedding_bag(MATRIX, ds.asarray(TABLE), padding_idx=7), "padding_idx=7"),
    (lambda: ds.embedding_bag(MATRIX, ds.ones(3)), "wanted a float table"),
]


@pytest.mark.parametrize(("call", "words"), WRONG, ids=[words for _, words in WRONG])
def test_what_is_wrong_is_named(call: Any, words: str) -> None:
    with pytest.raises(DeepseekError, match=words):
        call()


def test_indices_are_looked_at_where_checks_are_asked_for() -> None:
    layer = nn.Embedding(3, 2)
    with override(verify=1), pytest.raises(ShapeError, match="index 3 for an axis of size 3"):
        layer(ds.asarray([0, 3]))
    with pytest.raises(ArgumentError, match="padding_idx=5"):
        nn.Embedding(3, 2, padding_idx=5)
