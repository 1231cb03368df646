"""Norms by groups, mean squares and neighbours against NumPy in float64; norms without a bias."""

from __future__ import annotations

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.errors import ArgumentError

Array = np.ndarray
rng = np.random.default_rng(5)


def random(*shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def check(layer: nn.Module, x: Array, expected: Array) -> None:
    """Called as it is and compiled."""
    compiled = ds.jit(lambda x: layer(x))
    for out in (layer(ds.asarray(x)), compiled(ds.asarray(x))):
        assert out.shape == expected.shape
        np.testing.assert_allclose(out.numpy(), expected, rtol=3e-5, atol=3e-5)


def column(v: Array, x: Array) -> Array:
    return v.reshape((-1,) + (1,) * (x.ndim - 2))


@pytest.mark.parametrize("shape", [(2, 6), (3, 6, 5), (2, 6, 3, 4)])
@pytest.mark.parametrize("groups", [1, 3, 6])
def test_group_norm(shape: tuple[int, ...], groups: int) -> None:
    layer = nn.GroupNorm(groups, 6, eps=1e-3)
    weight, bias = random(6), random(6)
    layer.load_state_dict({"weight": weight, "bias": bias})
    x = random(*shape) * 3 + 1
    split = x.astype(np.float64).reshape(len(x), groups, -1)
    scaled = (split - split.mean(2, keepdims=True)) / np.sqrt(split.var(2, keepdims=True) + 1e-3)
    expected = scaled.reshape(x.shape) * column(weight, x) + column(bias, x)
    check(layer, x, expected)
    assert repr(layer) == f"GroupNorm({groups}, 6, eps=0.001, affine=True, bias=True)"


def test_group_norm_settings() -> None:
    assert list(nn.GroupNorm(2, 4).state_dict()) == ["weight", "bias"]
    assert list(nn.GroupNorm(2, 4, bias=False).state_dict()) == ["weight"]
    assert nn.GroupNorm(2, 4, affine=False).state_dict() == {}
    with pytest.raises(ArgumentError, match="num_groups=4, num_channels=6"):
        nn.GroupNorm(4, 6)


@pytest.mark.parametrize("sizes", [(5,), (3, 5)])
def test_rms_norm(sizes: tuple[int, ...]) -> None:
    layer = nn.RMSNorm(sizes, eps=1e-2)
    weight = random(*sizes)
    layer.load_state_dict({"weight": weight})
    x = random(4, 3, 5)
    axes = tuple(range(-len(sizes), 0))
    square = (x.astype(np.float64) ** 2).mean(axes, keepdims=True)
    check(layer, x, x / np.sqrt(square + 1e-2) * weight)
    assert repr(layer) == f"RMSNorm({sizes}, eps=0.01, elementwise_affine=True)"
    assert nn.RMSNorm(3, elementwise_affine=False).state_dict() == {}
    assert nn.RMSNorm(3).eps is None


def neighbours(x: Array, before: int, after: int) -> Array:
    """The sum of the squares of neighbouring channels."""
    x = x.astype(np.float64)
    out = np.zeros_like(x)
    for c in range(x.shape[1]):
        out[:, c] = (x[:, max(c - before, 0) : c + after + 1] ** 2).sum(1)
    return out


@pytest.mark.parametrize("size", [1, 3, 4])
def test_local_response_norm(size: int) -> None:
    x = random(2, 6, 3, 2)
    layer = nn.LocalResponseNorm(size, alpha=0.3, beta=0.6, k=2.0)
    squares = neighbours(x, size // 2, (size - 1) // 2)
    check(layer, x, x / (2 + 0.3 * squares / size) ** 0.6)
    assert repr(layer) == f"LocalResponseNorm({size}, alpha=0.3, beta=0.6, k=2.0)"


@pytest.mark.parametrize("size", [3, 4, 5])
def test_cross_map_norm(size: int) -> None:
    x = random(2, 6, 3, 2)
    layer = nn.CrossMapLRN2d(size, alpha=0.3, k=2)
    reach = (size - 1) // 2
    check(layer, x, x / (2 + 0.3 * neighbours(x, reach, reach) / size) ** 0.75)


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.BatchNorm1d(3, bias=False), random(4, 3)),
        (nn.BatchNorm2d(3, bias=False), random(4, 3, 2, 2)),
        (nn.InstanceNorm1d(3, affine=True, bias=False), random(4, 3, 5)),
        (nn.GroupNorm(1, 3, bias=False), random(4, 3, 5)),
    ],
    ids=lambda v: type(v).__name__,
)
def test_norms_without_a_bias(layer: nn.Module, x: Array) -> None:
    assert [n for n, _ in layer.named_parameters()] == ["weight"] and layer.bias is None
    assert "bias=False" in repr(layer)
    layer.load_state_dict({"weight": np.array([1.0, 2.0, 3.0])}, strict=False)
    axes = (0, *range(2, x.ndim))
    if isinstance(layer, nn.InstanceNorm1d):
        axes = (2,)
    if isinstance(layer, nn.GroupNorm):
        axes = (1, 2)
    wide = x.astype(np.float64)
    scaled = (wide - wide.mean(axes, keepdims=True)) / np.sqrt(wide.var(axes, keepdims=True) + 1e-5)
    out = layer(ds.asarray(x))
    expected = scaled * column(np.array([1.0, 2.0, 3.0]), x)
    np.testing.assert_allclose(out.numpy(), expected, rtol=3e-5, atol=3e-5)
    out.sum().backward()
    assert layer.weight.grad is not None


def test_gradients_of_norms_in_float64() -> None:
    """Central differences along random directions."""
    x = rng.standard_normal((2, 6, 4))
    for layer in (nn.GroupNorm(2, 6), nn.RMSNorm((6, 4), eps=1e-5), nn.LocalResponseNorm(3, 0.5)):
        layer = layer.double()
        weights = ds.asarray(rng.standard_normal(x.shape))
        given = ds.asarray(x, requires_grad=True)
        (layer(given) * weights).sum().backward()
        move = rng.standard_normal(x.shape)
        step = 1e-5
        ends = [(layer(ds.asarray(x + s * move)) * weights).sum().item() for s in (step, -step)]
        slope = (given.grad.numpy() * move).sum()
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-6)


def test_batch_norm_wants_a_positive_eps() -> None:
    with pytest.raises(ArgumentError, match="BatchNorm1d: got eps=0"):
        nn.BatchNorm1d(3, eps=0)
