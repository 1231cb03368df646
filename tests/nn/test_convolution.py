"""Padding, transposed convolutions and pools against plain loops in float64."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.errors import ArgumentError, ShapeError

MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", [1, (2, 1), "same"])
def test_padding_modes(mode: str, padding: Any) -> None:
    layer = nn.Conv2d(2, 3, (3, 4), padding=padding, padding_mode=mode)
    plain = nn.Conv2d(2, 3, (3, 4))
    plain.load_state_dict(layer.state_dict())
    x = np.random.default_rng(0).standard_normal((2, 2, 6, 7)).astype(np.float32)
    sizes = {"same": ((1, 1), (1, 2)), 1: ((1, 1), (1, 1))}.get(padding, ((2, 2), (1, 1)))
    wanted = plain(ds.asarray(np.pad(x, ((0, 0), (0, 0), *sizes), mode=MODES[mode])))
    np.testing.assert_allclose(layer(ds.asarray(x)).numpy(), wanted.numpy(), atol=1e-6)
    assert f"padding_mode='{mode}'" in repr(layer)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("Reflection", "reflect"),
        ("Replication", "edge"),
        ("Circular", "wrap"),
        ("Zero", "constant"),
    ],
)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_padding_modules(name: str, mode: str, rank: int) -> None:
    amounts = [(1, 2), (0, 3), (2, 1)][:rank]  # from the last axis on
    flat = tuple(n for pair in amounts for n in pair)
    x = np.arange(2 * 4**rank, dtype=np.float32).reshape((1, 2) + (4,) * rank)
    layer = getattr(nn, f"{name}Pad{rank}d")(flat)
    wanted = np.pad(x, [(0, 0), (0, 0), *amounts[::-1]], mode=mode)
    np.testing.assert_array_equal(layer(ds.asarray(x)).numpy(), wanted)
    one = getattr(nn, f"{name}Pad{rank}d")(1)
    assert one.padding == (1,) * (2 * rank)


def test_constant_padding() -> None:
    out = nn.ConstantPad1d((1, 0), 7.0)(ds.zeros(1, 1, 2))
    assert out.numpy().tolist() == [[[7.0, 0.0, 0.0]]]
    assert repr(nn.ConstantPad2d(1, 3.5)) == "ConstantPad2d(padding=(1, 1, 1, 1), value=3.5)"


def transposed(x: Any, weight: Any, bias: Any, layer: Any) -> Any:
    """Each input element spreads its share over the result."""
    groups, rank = layer.groups, x.ndim - 2
    outs = weight.shape[1]
    sizes = [
        (x.shape[2 + i] - 1) * layer.stride[i] + layer.dilation[i] * (weight.shape[2 + i] - 1) + 1
        for i in range(rank)
    ]
    full = [s + layer.output_padding[i] for i, s in enumerate(sizes)]
    out = np.zeros((len(x), outs * groups, *full))
    per = x.shape[1] // groups
    for b, c in np.ndindex(x.shape[:2]):
        first = c // per * outs
        for at in np.ndindex(x.shape[2:]):
            for tap in np.ndindex(weight.shape[2:]):
                to = tuple(
                    a * layer.stride[i] + t * layer.dilation[i]
                    for i, (a, t) in enumerate(zip(at, tap, strict=True))
                )
                spot = (b, slice(first, first + outs), *to)
                out[spot] += x[(b, c, *at)] * weight[(c, slice(None), *tap)]
    for i in range(rank):
        p = layer.padding[i]
        out = np.moveaxis(np.moveaxis(out, 2 + i, 0)[p : full[i] - p], 0, 2 + i)
    return out if bias is None else out + bias.reshape((-1,) + (1,) * rank)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1, "output_padding": 1},
        {"groups": 2, "bias": False, "stride": 3},
        {"dilation": 2, "padding": 1},
    ],
    ids=str,
)
def test_transposed_convolution(rank: int, options: dict[str, Any]) -> None:
    layer = getattr(nn, f"ConvTranspose{rank}d")(4, 6, 3, **options)
    x = np.random.default_rng(1).standard_normal((2, 4, 4, 3, 2)[: rank + 2])
    weight = layer.weight.numpy().astype(np.float64)
    bias = None if layer.bias is None else layer.bias.numpy().astype(np.float64)
    wanted = transposed(x, weight, bias, layer)
    given = ds.asarray(x.astype(np.float32))
    for run in (layer, ds.jit(layer)):
        np.testing.assert_allclose(run(given).numpy(), wanted, atol=1e-5)


def test_the_size_of_a_transposed_convolution() -> None:
    layer = nn.ConvTranspose2d(1, 1, 3, stride=2, padding=1)
    x = ds.ones(1, 1, 4, 5)
    assert layer(x).shape == (1, 1, 7, 9)
    assert layer(x, output_size=(8, 9)).shape == (1, 1, 8, 9)
    with pytest.raises(ShapeError, match="7 to 8"):
        layer(x, output_size=(9, 9))
    with pytest.raises(ArgumentError, match="padding_mode"):
        nn.ConvTranspose2d(1, 1, 3, padding_mode="reflect")
    assert list(layer.state_dict()) == ["weight", "bias"] and layer.weight.shape == (1, 1, 3, 3)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_more_pools(rank: int) -> None:
    shape = (2, 3) + (6,) * rank
    x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    blocks = x.reshape((2, 3) + (3, 2) * rank)
    inner = tuple(range(3, 3 + 2 * rank, 2))
    given = ds.asarray(x)
    peak = blocks.max(axis=inner)
    adaptive = getattr(nn, f"AdaptiveMaxPool{rank}d")(3)
    np.testing.assert_array_equal(adaptive(given).numpy(), peak)
    norms = (np.abs(blocks.astype(np.float64)) ** 2).sum(axis=inner) ** 0.5
    got = getattr(nn, f"LPPool{rank}d")(2, 2)(given).numpy()
    np.testing.assert_allclose(got, norms, rtol=1e-5)
    pool = getattr(nn, f"MaxPool{rank}d")(2, return_indices=True)
    values, indices = pool(given)
    back = getattr(nn, f"MaxUnpool{rank}d")(2)(values, indices).numpy()
    spread = peak
    for axis in itertools.islice(itertools.count(2), rank):
        spread = spread.repeat(2, axis=axis)
    np.testing.assert_array_equal(back, np.where(x == spread, x, 0))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: nn.Conv2d(1, 1, 3, padding="foo"), "padding='foo'; wanted 'same', 'valid'"),
        (lambda: nn.Conv1d(1, 1, 3, stride=2, padding="same"), "wanted stride 1"),
        (lambda: nn.ConvTranspose2d(1, 1, 3, padding="same"), "wanted a number"),
    ],
)
def test_paddings_that_mean_nothing_are_refused_when_the_layer_is_made(
    make: Any, said: str
) -> None:
    with pytest.raises(ds.errors.ArgumentError, match=said):
        make()
