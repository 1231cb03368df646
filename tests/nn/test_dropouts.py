"""Dropout: what is dropped together, what is kept, and its statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.errors import ArgumentError, DeepseekError

SHAPES = {
    nn.Dropout1d: [(8, 16, 3), (64, 3)],
    nn.Dropout2d: [(8, 16, 3, 2), (8, 16, 3)],
    nn.Dropout3d: [(8, 16, 2, 1, 2), (64, 2, 2, 2)],
}
CASES = [(kind, shape) for kind, shapes in SHAPES.items() for shape in shapes]


@pytest.mark.parametrize(("kind", "shape"), CASES)
@pytest.mark.parametrize("compiled", [False, True])
def test_channels_go_together(kind: Any, shape: tuple[int, ...], compiled: bool) -> None:
    ds.manual_seed(4)
    layer = kind(0.25)
    out = (ds.jit(lambda x: layer(x)) if compiled else layer)(ds.ones(shape)).numpy()
    unbatched = kind is not nn.Dropout2d and len(shape) == {nn.Dropout1d: 2, nn.Dropout3d: 4}[kind]
    channels = out.reshape(shape[0] if unbatched else shape[0] * shape[1], -1)
    assert np.all(channels == channels[:, :1])
    assert set(np.unique(out)) == {np.float32(0), np.float32(1 / 0.75)}
    assert 0.1 < (channels[:, 0] == 0).mean() < 0.45


@pytest.mark.parametrize("kind", [nn.Dropout, *SHAPES, nn.AlphaDropout, nn.FeatureAlphaDropout])
def test_evaluation_and_ends(kind: Any) -> None:
    x = ds.randn(*(SHAPES[kind][0] if kind in SHAPES else (4, 3, 2)))
    assert np.array_equal(kind().eval()(x).numpy(), x.numpy())
    assert np.array_equal(kind(0.0)(x).numpy(), x.numpy())
    assert not kind(1.0)(x).numpy().any()
    assert repr(kind(0.2)) == f"{kind.__name__}(p=0.2, inplace=False)"
    assert kind().state_dict() == {}
    with pytest.raises(ArgumentError, match=f"{kind.__name__}: got p=-0.5"):
        kind(-0.5)


def test_alpha_dropout_keeps_mean_and_variance() -> None:
    ds.manual_seed(1)
    x = ds.randn(400, 500)
    for p in (0.1, 0.5):
        out = nn.AlphaDropout(p)(x).numpy().astype(np.float64)
        assert abs(out.mean()) < 0.02 and abs(out.var() - 1) < 0.03
        values, counts = np.unique(out, return_counts=True)
        low = values[counts.argmax()]
        assert abs((out == low).mean() - p) < 0.01
        # Those that stay are one affine map of what they were.
        kept = out != low
        slope, start = np.polyfit(x.numpy()[kept], out[kept], 1)
        saturated = -1.7580993408473766
        assert abs(slope - ((1 + p * saturated**2) * (1 - p)) ** -0.5) < 1e-4
        assert abs(low - (slope * saturated + start)) < 1e-4


def test_whole_channels_saturate() -> None:
    ds.manual_seed(1)
    out = nn.FeatureAlphaDropout(0.5)(ds.ones((20, 10, 7))).numpy()
    assert np.all(out == out[..., :1]) and len(np.unique(out)) == 2
    assert 0.35 < (out[..., 0] == out.min()).mean() < 0.65


def test_draws_differ_and_seeds_repeat() -> None:
    x, layer = ds.ones((16, 16, 2)), nn.Dropout1d()
    ds.manual_seed(3)
    first, second = layer(x).numpy(), layer(x).numpy()
    assert not np.array_equal(first, second)
    ds.manual_seed(3)
    assert np.array_equal(layer(x).numpy(), first)
    step = ds.jit(lambda x: layer(x))
    assert not np.array_equal(step(x).numpy(), step(x).numpy())


def test_gradients_go_where_values_went() -> None:
    ds.manual_seed(0)
    x = ds.asarray(np.ones((8, 8, 2), np.float32), requires_grad=True)
    out = nn.Dropout1d(0.5)(x)
    out.sum().backward()
    assert np.array_equal(x.grad.numpy(), out.numpy())


WRONG: list[tuple[Any, str]] = [
    (lambda: ds.dropout1d(ds.ones(3)), "dropout1d"),
    (lambda: ds.dropout2d(ds.ones((3, 3))), "dropout2d"),
    (lambda: ds.dropout3d(ds.ones((3, 3, 3))), "dropout3d"),
    (lambda: ds.dropout1d(ds.ones((3, 3), dtype=ds.int64)), "wanted a float tensor"),
    (lambda: ds.alpha_dropout(ds.ones(3), 2.0), "p=2.0"),
    (lambda: ds.feature_alpha_dropout(ds.ones(3), training=True), "channels"),
]


@pytest.mark.parametrize(("call", "words"), WRONG, ids=[words for _, words in WRONG])
def test_what_is_wrong_is_named(call: Any, words: str) -> None:
    with pytest.raises(DeepseekError, match=words):
        call()
