"""Layers that take their sizes from the first input, or from a state dict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.errors import ArgumentError, ShapeError

# A lazy layer, the plain one of the same sizes, and an input.
LAYERS: dict[str, tuple[Any, Any, tuple[int, ...]]] = {
    "Linear": (lambda: nn.LazyLinear(4), lambda: nn.Linear(3, 4), (5, 3)),
    "Conv1d": (lambda: nn.LazyConv1d(4, 3), lambda: nn.Conv1d(2, 4, 3), (5, 2, 8)),
    "Conv2d": (
        lambda: nn.LazyConv2d(4, 3, groups=2, padding="same"),
        lambda: nn.Conv2d(6, 4, 3, groups=2, padding="same"),
        (6, 8, 9),
    ),
    "Conv3d": (lambda: nn.LazyConv3d(2, 2), lambda: nn.Conv3d(3, 2, 2), (1, 3, 4, 4, 4)),
    "ConvTranspose2d": (
        lambda: nn.LazyConvTranspose2d(4, 3, stride=2, groups=2),
        lambda: nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2),
        (2, 6, 4, 4),
    ),
    "BatchNorm1d": (lambda: nn.LazyBatchNorm1d(1e-3), lambda: nn.BatchNorm1d(3, 1e-3), (5, 3)),
    "InstanceNorm2d": (
        lambda: nn.LazyInstanceNorm2d(affine=True),
        lambda: nn.InstanceNorm2d(3, affine=True),
        (3, 4, 5),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_first_input_gives_the_size(name: str) -> None:
    lazy, plain, shape = LAYERS[name]
    layer, wanted = lazy(), plain()
    held = list(layer.parameters())
    ds.manual_seed(3)
    wanted.reset_parameters()
    x = ds.asarray(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    ds.manual_seed(3)
    found = layer(x)
    assert type(layer) is type(wanted) and repr(layer) == repr(wanted)
    assert np.array_equal(found.numpy(), wanted(x).numpy()), "the same draws, the same layer"
    assert all(a is b for a, b in zip(held, layer.parameters(), strict=True))
    found.square().sum().backward()
    assert all(p.grad.shape == p.shape for p in held)
    assert np.array_equal(ds.jit(layer)(x).numpy(), layer(x).numpy())


@pytest.mark.parametrize("name", LAYERS)
def test_a_state_dict_gives_the_size(name: str) -> None:
    lazy, plain, shape = LAYERS[name]
    saved, model = nn.Sequential(nn.ReLU(), plain()), nn.Sequential(nn.ReLU(), lazy())
    model.load_state_dict(saved.state_dict())
    assert repr(model) == repr(saved)
    x = ds.randn(*shape)
    assert np.array_equal(model(x).numpy(), saved(x).numpy())


def test_what_a_lazy_layer_refuses() -> None:
    with pytest.raises(ArgumentError, match="call the layer with one batch before"):
        ds.jit(nn.LazyLinear(2))(ds.ones(1, 3))
    with pytest.raises(
        ShapeError, match="'LazyConv2d': got float32.2, 3.; wanted a tensor of"
    ):
        nn.LazyConv2d(1, 1)(ds.ones(2, 3))
    with pytest.raises(
        ArgumentError, match="3 channels; wanted a multiple of groups=2"
    ):
        nn.LazyConv2d(2, 1, groups=2)(ds.ones(1, 3, 4, 4))


def test_an_optimizer_may_hold_the_parameters_before() -> None:
    layer = nn.LazyLinear(1)
    optimizer = ds.optim.SGD(layer.parameters(), lr=0.1)
    x = ds.ones(4, 2)
    layer(x).sum().backward()
    before = layer.weight.numpy().copy()
    optimizer.step()
    np.testing.assert_allclose(layer.weight.numpy(), before - 0.4, rtol=1e-5)
