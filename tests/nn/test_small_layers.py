"""Bilinear, Unflatten, distances, resampling, folds and shuffles against NumPy in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.errors import ArgumentError, DeepseekError, ShapeError

Array = np.ndarray
rng = np.random.default_rng(11)


def random(*shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def unfolded(x: Array, size: int, padding: int = 0, stride: int = 1) -> Array:
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    rows = range(0, x.shape[2] - size + 1, stride)
    columns = range(0, x.shape[3] - size + 1, stride)
    patches = [x[:, :, i : i + size, j : j + size] for i in rows for j in columns]
    return np.stack([p.reshape(len(x), -1) for p in patches], -1)


def folded(x: Array, size: int, height: int, width: int) -> Array:
    channels = x.shape[1] // size**2
    out = np.zeros((len(x), channels, height, width))
    places = [(i, j) for i in range(height - size + 1) for j in range(width - size + 1)]
    for at, (i, j) in enumerate(places):
        out[:, :, i : i + size, j : j + size] += x[..., at].reshape(len(x), channels, size, size)
    return out


def linear(x: Array, size: int) -> Array:
    """The last axis at `size` places from its first element to its last."""
    at = np.linspace(0, x.shape[-1] - 1, size)
    low = np.minimum(at.astype(int), x.shape[-1] - 2)
    return x[..., low] * (1 - (at - low)) + x[..., low + 1] * (at - low)


def shuffled(x: Array, groups: int) -> Array:
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).swapaxes(1, 2).reshape(x.shape)


def enlarged(x: Array, r: int) -> Array:
    n, c, h, w = x.shape
    split = x.reshape(n, c // r**2, r, r, h, w).transpose(0, 1, 4, 2, 5, 3)
    return split.reshape(n, c // r**2, h * r, w * r)


def cosine(a: Array, b: Array) -> Array:
    return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))


IMAGE = random(2, 4, 3, 5)
LAYERS: list[tuple[nn.Module, tuple[Array, ...], Callable[..., Array], str]] = [
    (nn.Unflatten(1, (2, -1)), (IMAGE,), lambda x: x.reshape(2, 2, 2, 3, 5),
     "Unflatten(dim=1, unflattened_size=(2, -1))"),
    (nn.CosineSimilarity(), (IMAGE, random(2, 4, 3, 5)), cosine, "CosineSimilarity()"),
    (nn.PairwiseDistance(p=1), (random(3, 4), random(3, 4)),
     lambda a, b: np.abs(a - b + 1e-6).sum(-1), "PairwiseDistance(p=1)"),
    (nn.PairwiseDistance(keepdim=True), (random(3, 4), random(4)),
     lambda a, b: np.sqrt(((a - b + 1e-6) ** 2).sum(-1, keepdims=True)),
     "PairwiseDistance(keepdim=True)"),
    (nn.Upsample(scale_factor=2), (IMAGE,), lambda x: x.repeat(2, 2).repeat(2, 3),
     "Upsample(scale_factor=2.0, mode='nearest')"),
    (nn.Upsample((6, 5), mode="bilinear", align_corners=True), (IMAGE,),
     lambda x: linear(x.swapaxes(2, 3), 6).swapaxes(2, 3),
     "Upsample(size=(6, 5), mode='bilinear')"),
    (nn.UpsamplingNearest2d(scale_factor=3), (IMAGE,), lambda x: x.repeat(3, 2).repeat(3, 3),
     "UpsamplingNearest2d(scale_factor=3.0, mode='nearest')"),
    (nn.UpsamplingBilinear2d(size=(3, 9)), (IMAGE,), lambda x: linear(x, 9),
     "UpsamplingBilinear2d(size=(3, 9), mode='bilinear')"),
    (nn.PixelShuffle(2), (IMAGE,), lambda x: enlarged(x, 2), "PixelShuffle(upscale_factor=2)"),
    (nn.PixelUnshuffle(2), (enlarged(IMAGE, 2),), lambda x: IMAGE,
     "PixelUnshuffle(downscale_factor=2)"),
    (nn.ChannelShuffle(2), (IMAGE,), lambda x: shuffled(x, 2), "ChannelShuffle(groups=2)"),
    (nn.Unfold(2, padding=1, stride=2), (IMAGE,), lambda x: unfolded(x, 2, 1, 2),
     "Unfold(kernel_size=2, dilation=1, padding=1, stride=2)"),
    (nn.Fold((4, 5), 2), (random(2, 12, 12),), lambda x: folded(x, 2, 4, 5),
     "Fold(output_size=(4, 5), kernel_size=2, dilation=1, padding=0, stride=1)"),
]  # fmt: skip


@pytest.mark.parametrize(("layer", "given", "wanted", "text"), LAYERS, ids=[c[3] for c in LAYERS])
def test_layer(layer: nn.Module, given: tuple[Array, ...], wanted: Any, text: str) -> None:
    expected = wanted(*(x.astype(np.float64) for x in given))
    tensors = [ds.asarray(x) for x in given]
    compiled = ds.jit(lambda *xs: layer(*xs))
    for out in (layer(*tensors), compiled(*tensors)):
        assert out.shape == expected.shape
        np.testing.assert_allclose(out.numpy(), expected, rtol=2e-5, atol=2e-5)
    assert repr(layer) == text
    assert layer.state_dict() == {}


@pytest.mark.parametrize("bias", [True, False])
def test_bilinear(bias: bool) -> None:
    ds.manual_seed(2)
    layer = nn.Bilinear(3, 4, 5, bias=bias)
    assert list(layer.state_dict()) == ["weight", "bias"][: 1 + bias]
    assert layer.weight.shape == (5, 3, 4) and np.abs(layer.weight.numpy()).max() <= 3**-0.5
    a, b = random(2, 7, 3), random(2, 7, 4)
    weight = layer.weight.numpy().astype(np.float64)
    expected = np.einsum("...i,kij,...j->...k", a, weight, b)
    expected += layer.bias.numpy() if bias else 0
    out = layer(ds.asarray(a), ds.asarray(b))
    np.testing.assert_allclose(out.numpy(), expected, rtol=2e-5, atol=2e-5)
    out.sum().backward()
    slope = np.einsum("ni,nj->ij", a.reshape(-1, 3), b.reshape(-1, 4))
    for row in layer.weight.grad.numpy():
        np.testing.assert_allclose(row, slope, rtol=2e-5, atol=2e-5)
    text = f"Bilinear(in1_features=3, in2_features=4, out_features=5, bias={bias})"
    assert repr(layer) == text


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: nn.Bilinear(0, 2, 3), "in1_features=0"),
    (lambda: nn.Bilinear(2, 3, 4)(ds.ones((1, 2)), ds.ones((1, 2))), "bilinear"),
    (lambda: nn.Unflatten(1, (4, 2))(ds.ones((2, 6))), "reshape|unflatten"),
    (lambda: nn.PixelShuffle(3)(ds.ones((1, 4, 2, 2))), "pixel_shuffle"),
    (lambda: nn.ChannelShuffle(3)(ds.ones((1, 4, 2, 2))), "channel_shuffle"),
    (lambda: nn.Upsample(mode="nearest")(ds.ones((1, 1, 2, 2))), "interpolate"),
    (lambda: nn.Upsample(scale_factor=2, mode="cubist")(ds.ones((1, 1, 2, 2))), "cubist"),
    (lambda: nn.CircularPad1d(1)(ds.ones((2, 3, 4, 5))), "CircularPad1d.*wanted 3 axes"),
    (lambda: nn.Linear(2.5, 3), "got 2.5; wanted integers"),
    (lambda: nn.Linear(-1, 3), "got -1; wanted integers"),
]


@pytest.mark.parametrize(("call", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_is_wrong_is_named(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(DeepseekError, match=words):
        call()


def test_mean_pooling_by_another_divisor() -> None:
    x = random(2, 3, 4, 6)
    layer = nn.AvgPool2d(2, divisor_override=3)
    expected = x.astype(np.float64).reshape(2, 3, 2, 2, 3, 2).sum((3, 5)) / 3
    np.testing.assert_allclose(layer(ds.asarray(x)).numpy(), expected, rtol=2e-5, atol=2e-5)
    assert repr(layer) == "AvgPool2d(kernel_size=2, stride=2, padding=0)"
    with pytest.raises(TypeError, match="divisor_override"):
        nn.AvgPool1d(2, divisor_override=3)


def test_losses_tell_what_is_not_usual() -> None:
    assert repr(nn.HuberLoss()) == "HuberLoss()"
    assert repr(nn.HuberLoss("sum", 2.0)) == "HuberLoss(reduction='sum', delta=2.0)"
    assert repr(nn.ReflectionPad2d(1)) == "ReflectionPad2d((1, 1, 1, 1))"
    assert repr(nn.ConstantPad1d(1, 2.5)) == "ConstantPad1d(padding=(1, 1), value=2.5)"
    assert repr(nn.Hardshrink(0.25)) == "Hardshrink(0.25)"


def test_triplets_by_any_distance() -> None:
    def city(a: ds.Tensor, b: ds.Tensor) -> ds.Tensor:
        return ds.abs(a - b).sum(axis=-1)

    a, p, n = (random(4, 3) for _ in range(3))
    loss = nn.TripletMarginWithDistanceLoss(distance_function=city, margin=0.5, swap=True)
    near, far = np.abs(a - p).sum(-1), np.abs(a - n).sum(-1)
    expected = np.maximum(0.5 + near - np.minimum(far, np.abs(p - n).sum(-1)), 0).mean()
    tensors = [ds.asarray(x) for x in (a, p, n)]
    for out in (loss(*tensors), ds.jit(lambda *xs: loss(*xs))(*tensors)):
        np.testing.assert_allclose(out.item(), expected, rtol=2e-5)
    plain = nn.TripletMarginWithDistanceLoss()
    same = nn.TripletMarginLoss()
    assert plain(*tensors).item() == same(*tensors).item()
    with pytest.raises(TypeError):
        nn.TripletMarginWithDistanceLoss(city)
    with pytest.raises(ArgumentError, match="unknown reduction 'max'"):
        nn.TripletMarginWithDistanceLoss(reduction="max")


def test_shapes_are_refused_early() -> None:
    with pytest.raises(ShapeError, match="CrossMapLRN2d"):
        nn.CrossMapLRN2d(3)(ds.ones((2, 3, 4)))
