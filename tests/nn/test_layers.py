"""Layers against NumPy in float64, written out by hand; their initial values; their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.errors import ArgumentError, ShapeError

Array = np.ndarray
rng = np.random.default_rng(7)


def values(layer: nn.Module) -> dict[str, Array]:
    return {k: v.numpy().astype(np.float64) for k, v in layer.state_dict().items()}


def random(*shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def close(got: ds.Tensor, wanted: Array, tolerance: float = 2e-5) -> None:
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got.numpy(), wanted, rtol=tolerance, atol=tolerance)


# ----------------------------------------------------------------- linear, embedding, dropout


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(4,), (2, 3), ()])
def test_linear(bias: bool, lead: tuple[int, ...]) -> None:
    layer = nn.Linear(5, 3, bias=bias)
    x, v = random(*lead, 5), values(layer)
    close(layer(ds.asarray(x)), x @ v["weight"].T + v.get("bias", 0))


def test_embedding() -> None:
    layer = nn.Embedding(6, 3, padding_idx=-1)
    table = layer.weight.numpy()
    assert layer.padding_idx == 5
    assert table[5].tolist() == [0.0] * 3 and np.all(table[:5] != 0)
    indices = np.array([[0, 5], [2, 2]])
    out = layer(ds.asarray(indices))
    close(out, table[indices])
    out.sum().backward()
    assert layer.weight.grad.numpy()[:, 0].tolist() == [1, 0, 2, 0, 0, 0]
    with pytest.raises(ArgumentError, match="padding_idx=6"):
        nn.Embedding(6, 3, padding_idx=6)


def test_dropout_scales_what_it_keeps() -> None:
    ds.manual_seed(0)
    layer = nn.Dropout(0.25)
    x = ds.ones((100, 100))
    out = layer(x).numpy()
    assert set(np.unique(out)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs((out == 0).mean() - 0.25) < 0.02
    assert not np.array_equal(out, layer(x).numpy())
    assert np.array_equal(layer.eval()(x).numpy(), x.numpy())
    with pytest.raises(ArgumentError, match="p=1.5"):
        nn.Dropout(1.5)


def test_flatten_and_identity() -> None:
    x = random(2, 3, 4, 5)
    close(nn.Flatten()(ds.asarray(x)), x.reshape(2, 60))
    close(nn.Flatten(2, 3)(ds.asarray(x)), x.reshape(2, 3, 20))
    close(nn.Identity(3, unused=4)(ds.asarray(x)), x)


# ------------------------------------------------------------------------------- convolution


def convolved(
    x: Array, w: Array, b: Array | float, stride: int, padding: int, dilation: int, groups: int
) -> Array:
    """Cross-correlation over all axes after the second, element by element."""
    rank = x.ndim - 2
    x = np.pad(x.astype(np.float64), [(0, 0), (0, 0)] + [(padding, padding)] * rank)
    kernel = w.shape[2:]
    sizes = [
        (n - dilation * (k - 1) - 1) // stride + 1
        for n, k in zip(x.shape[2:], kernel, strict=True)
    ]
    out = np.zeros((x.shape[0], w.shape[0], *sizes))
    per_group_in, per_group_out = w.shape[1], w.shape[0] // groups
    for o in range(w.shape[0]):
        channels = slice(o // per_group_out * per_group_in, (o // per_group_out + 1) * per_group_in)
        for place in product(*map(range, sizes)):
            window = tuple(
                slice(p * stride, p * stride + dilation * (k - 1) + 1, dilation)
                for p, k in zip(place, kernel, strict=True)
            )
            patch = x[(slice(None), channels, *window)]
            out[(slice(None), o, *place)] = (patch * w[o]).reshape(len(x), -1).sum(1)
    return out + np.reshape(b, (1, -1) + (1,) * rank)


CONVOLUTIONS = [
    (nn.Conv1d, (9,), {"stride": 2, "padding": 1}),
    (nn.Conv1d, (9,), {"dilation": 2, "bias": False}),
    (nn.Conv2d, (6, 5), {"padding": 1}),
    (nn.Conv2d, (6, 5), {"stride": 2, "groups": 2}),
    (nn.Conv3d, (4, 5, 4), {"padding": 1, "stride": 2}),
]


@pytest.mark.parametrize(("kind", "sizes", "options"), CONVOLUTIONS)
def test_convolution(kind: type[nn.Module], sizes: tuple[int, ...], options: dict) -> None:
    layer = kind(4, 6, 3, **options)
    x, v = random(2, 4, *sizes), values(layer)
    numbers = [options.get(k, d) for k, d in
               (("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1))]  # fmt: skip
    close(layer(ds.asarray(x)), convolved(x, v["weight"], v.get("bias", 0.0), *numbers))


def test_convolution_same_padding_and_its_words() -> None:
    layer = nn.Conv2d(1, 1, 3, padding="same")
    assert layer(ds.zeros((1, 1, 5, 6))).shape == (1, 1, 5, 6)
    assert "padding='same'" in repr(layer)
    with pytest.raises(ArgumentError, match="multiples of groups"):
        nn.Conv2d(3, 4, 3, groups=2)
    with pytest.raises(ArgumentError, match="unknown padding_mode 'mirror'; valid: zeros, reflect"):
        nn.Conv2d(1, 1, 3, padding_mode="mirror")


# -------------------------------------------------------------------------------------- pooling


def pooled(x: Array, size: int, stride: int, padding: int, how: Callable, fill: float) -> Array:
    x = np.pad(x.astype(np.float64), [(0, 0), (0, 0)] + [(padding, padding)] * (x.ndim - 2),
               constant_values=fill)  # fmt: skip
    sizes = [(n - size) // stride + 1 for n in x.shape[2:]]
    out = np.zeros((*x.shape[:2], *sizes))
    for place in product(*map(range, sizes)):
        window = tuple(slice(p * stride, p * stride + size) for p in place)
        patch = x[(slice(None), slice(None), *window)]
        out[(slice(None), slice(None), *place)] = how(patch, axis=tuple(range(2, x.ndim)))
    return out


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_pooling(rank: int) -> None:
    x = random(2, 3, *(7, 6, 5)[:rank])
    most = getattr(nn, f"MaxPool{rank}d")
    mean = getattr(nn, f"AvgPool{rank}d")
    close(most(2)(ds.asarray(x)), pooled(x, 2, 2, 0, np.max, 0.0))
    close(most(3, 2, 1)(ds.asarray(x)), pooled(x, 3, 2, 1, np.max, -np.inf))
    close(mean(2)(ds.asarray(x)), pooled(x, 2, 2, 0, np.mean, 0.0))
    close(mean(3, 1, 1)(ds.asarray(x)), pooled(x, 3, 1, 1, np.mean, 0.0))
    inside = pooled(np.ones_like(x), 3, 1, 1, np.mean, 0.0)
    counted = mean(3, 1, 1, count_include_pad=False)
    close(counted(ds.asarray(x)), pooled(x, 3, 1, 1, np.mean, 0.0) / inside)
    whole = getattr(nn, f"AdaptiveAvgPool{rank}d")(1)
    close(whole(ds.asarray(x)), x.mean(axis=tuple(range(2, x.ndim)), keepdims=True))


# ------------------------------------------------------------------------------- normalisation


def standard(x: Array, axes: tuple[int, ...], eps: float = 1e-5) -> Array:
    x = x.astype(np.float64)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def per_channel(v: Array, x: Array) -> Array:
    return v.reshape((1, -1) + (1,) * (x.ndim - 2))


SHAPES = {
    nn.BatchNorm1d: [(6, 3), (4, 3, 5)],
    nn.BatchNorm2d: [(4, 3, 5, 2)],
    nn.BatchNorm3d: [(2, 3, 2, 3, 4)],
}


@pytest.mark.parametrize(("kind", "shape"), [(k, s) for k, all_ in SHAPES.items() for s in all_])
def test_batch_norm(kind: type[nn.Module], shape: tuple[int, ...]) -> None:
    layer = kind(3)
    layer.load_state_dict({"weight": np.array([1, 2, 3]), "bias": np.array([0, 1, -1])}, False)
    weight, bias = np.array([1.0, 2, 3]), np.array([0.0, 1, -1])
    mean, var = np.zeros(3), np.ones(3)
    for step in range(3):
        x = random(*shape) * 2 + 1
        axes = (0, *range(2, x.ndim))
        out = standard(x, axes) * per_channel(weight, x) + per_channel(bias, x)
        close(layer(ds.asarray(x)), out)
        n = x.size // 3
        mean = 0.9 * mean + 0.1 * x.astype(np.float64).mean(axes)
        var = 0.9 * var + 0.1 * x.astype(np.float64).var(axes) * n / (n - 1)
        close(layer.running_mean, mean)
        close(layer.running_var, var)
        assert layer.num_batches_tracked.item() == step + 1
    assert not layer.running_mean.requires_grad
    x = random(*shape)
    scaled = (x - per_channel(mean, x)) / np.sqrt(per_channel(var, x) + 1e-5)
    expected = scaled * per_channel(weight, x) + per_channel(bias, x)
    close(layer.eval()(ds.asarray(x)), expected)
    assert layer.num_batches_tracked.item() == 3


def test_batch_norm_handles_stay() -> None:
    layer = nn.BatchNorm1d(2)
    handles = dict(layer.named_buffers())
    layer(ds.asarray(random(4, 2)))
    assert all(dict(layer.named_buffers())[k] is v for k, v in handles.items())


def test_batch_norm_with_the_plain_mean_over_batches() -> None:
    layer = nn.BatchNorm1d(2, momentum=None)
    batches = [random(5, 2) for _ in range(3)]
    for x in batches:
        layer(ds.asarray(x))
    close(layer.running_mean, np.mean([x.mean(0) for x in batches], axis=0))
    close(layer.running_var, np.mean([x.var(0, ddof=1) for x in batches], axis=0))


def test_batch_norm_without_statistics_or_weights() -> None:
    layer = nn.BatchNorm1d(2, affine=False, track_running_stats=False).eval()
    assert layer.state_dict() == {}
    x = random(5, 2)
    close(layer(ds.asarray(x)), standard(x, (0,)))


def test_batch_norm_says_what_it_wants() -> None:
    with pytest.raises(ShapeError, match="BatchNorm2d.*wanted 4 axes"):
        nn.BatchNorm2d(3)(ds.zeros((2, 3)))
    with pytest.raises(ShapeError, match="more than one value for each channel"):
        nn.BatchNorm1d(3)(ds.zeros((1, 3)))
    assert nn.BatchNorm1d(3).eval()(ds.zeros((1, 3))).shape == (1, 3)


def test_layer_norm() -> None:
    layer = nn.LayerNorm((3, 4), eps=1e-3)
    weight, bias = random(3, 4), random(3, 4)
    layer.load_state_dict({"weight": weight, "bias": bias})
    x = random(2, 5, 3, 4)
    close(layer(ds.asarray(x)), standard(x, (2, 3), 1e-3) * weight + bias)
    assert list(nn.LayerNorm(3, bias=False).state_dict()) == ["weight"]
    assert nn.LayerNorm(3, elementwise_affine=False).state_dict() == {}


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_instance_norm(rank: int) -> None:
    layer = getattr(nn, f"InstanceNorm{rank}d")(3, affine=True)
    layer.load_state_dict({"weight": np.array([1, 2, 3]), "bias": np.array([0, 1, -1])})
    x = random(2, 3, *(5, 4, 3)[:rank])
    expected = standard(x, tuple(range(2, x.ndim))) * per_channel(np.array([1, 2, 3]), x)
    expected += per_channel(np.array([0, 1, -1]), x)
    close(layer(ds.asarray(x)), expected)
    close(layer(ds.asarray(x[0])), expected[0])
    assert getattr(nn, f"InstanceNorm{rank}d")(3).state_dict() == {}


def test_instance_norm_with_running_statistics() -> None:
    layer = nn.InstanceNorm1d(2, track_running_stats=True)
    x = random(3, 2, 6)
    layer(ds.asarray(x))
    mean, var = 0.1 * x.mean((0, 2)), 0.9 + 0.1 * x.var(2, ddof=1).mean(0)
    close(layer.running_mean, mean)
    close(layer.running_var, var)
    scaled = (x - per_channel(mean, x)) / np.sqrt(per_channel(var, x) + 1e-5)
    close(layer.eval()(ds.asarray(x)), scaled)


# ---------------------------------------------------------------------------------- activations


def erf(x: Array) -> Array:
    return np.vectorize(math.erf)(x)


ACTIVATIONS: list[tuple[nn.Module, Callable[[Array], Array]]] = [
    (nn.ReLU(), lambda x: np.maximum(x, 0)),
    (nn.GELU(), lambda x: x * 0.5 * (1 + erf(x / np.sqrt(2)))),
    (
        nn.GELU("tanh"),
        lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    ),
    (nn.SiLU(), lambda x: x / (1 + np.exp(-x))),
    (nn.Sigmoid(), lambda x: 1 / (1 + np.exp(-x))),
    (nn.Tanh(), np.tanh),
    (nn.Softmax(0), lambda x: np.exp(x) / np.exp(x).sum(0, keepdims=True)),
    (nn.LogSoftmax(), lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True))),
]


@pytest.mark.parametrize(("layer", "function"), ACTIVATIONS, ids=[repr(a) for a, _ in ACTIVATIONS])
def test_activation(layer: nn.Module, function: Callable[[Array], Array]) -> None:
    x = random(3, 7) * 2
    close(layer(ds.asarray(x)), function(x.astype(np.float64)))


# ---------------------------------------------------------------------------------- initial values


def spread_evenly(x: Array, bound: float) -> None:
    """Even over [-bound, bound): range, mean and variance as they should be."""
    x = x.astype(np.float64).ravel()
    assert np.abs(x).max() <= bound
    assert np.abs(x).max() > 0.98 * bound
    assert abs(x.mean()) < 4 * bound / np.sqrt(3 * x.size)
    assert abs(x.var() / (bound**2 / 3) - 1) < 0.05


def test_layers_start_as_pytorchs_do() -> None:
    ds.manual_seed(0)
    linear = nn.Linear(100, 200)
    spread_evenly(linear.weight.numpy(), 1 / np.sqrt(100))
    assert np.abs(linear.bias.numpy()).max() <= 1 / np.sqrt(100)
    convolution = nn.Conv2d(8, 64, 5, groups=2)
    spread_evenly(convolution.weight.numpy(), 1 / np.sqrt(4 * 25))
    embedding = nn.Embedding(200, 50).weight.numpy()
    assert abs(embedding.mean()) < 0.03 and abs(embedding.std() - 1) < 0.03
    norm = nn.BatchNorm1d(3)
    assert norm.weight.numpy().tolist() == [1.0] * 3 and norm.bias.numpy().tolist() == [0.0] * 3
    attention = nn.MultiheadAttention(48, 4)
    spread_evenly(attention.in_proj_weight.numpy(), np.sqrt(6 / (48 * 4)))
    assert not attention.in_proj_bias.numpy().any() and not attention.out_proj.bias.numpy().any()


def test_a_seed_gives_the_same_layers() -> None:
    ds.manual_seed(3)
    first = nn.Linear(4, 4).weight.numpy().copy()
    other = nn.Linear(4, 4).weight.numpy().copy()
    ds.manual_seed(3)
    assert np.array_equal(nn.Linear(4, 4).weight.numpy(), first)
    assert not np.array_equal(first, other)


def test_init_functions() -> None:
    p = nn.Parameter(ds.zeros((40, 30, 5)))
    fan_in, fan_out = 150, 200
    assert nn.init.kaiming_normal_(p, nonlinearity="relu") is p
    assert abs(p.numpy().std() / np.sqrt(2 / fan_in) - 1) < 0.05
    nn.init.kaiming_uniform_(p, mode="fan_out", nonlinearity="tanh")
    spread_evenly(p.numpy(), 5 / 3 * np.sqrt(3 / fan_out))
    nn.init.xavier_normal_(p)
    assert abs(p.numpy().std() / np.sqrt(2 / (fan_in + fan_out)) - 1) < 0.05
    nn.init.constant_(p, 3)
    assert np.all(p.numpy() == 3) and p.requires_grad and p.is_leaf
    with pytest.raises(ArgumentError, match="unknown nonlinearity 'swish'; valid: linear"):
        nn.init.calculate_gain("swish")
    with pytest.raises(ArgumentError, match="unknown mode 'fan'"):
        nn.init.kaiming_normal_(p, mode="fan")
    with pytest.raises(ShapeError, match="two axes or more"):
        nn.init.xavier_uniform_(nn.Parameter(ds.zeros(3)))


# -------------------------------------------------------------------------------------- gradients


def test_gradients_reach_every_parameter() -> None:
    """Central differences in float64 through a network of many layers."""
    ds.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        nn.BatchNorm2d(2, track_running_stats=False),
        nn.GELU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.LayerNorm(8),
        nn.Linear(8, 3),
    ).double()
    x = ds.asarray(rng.standard_normal((3, 1, 4, 4)))
    y = ds.asarray(np.array([0, 2, 1]))
    loss = nn.CrossEntropyLoss()
    loss(model(x), y).backward()
    step = 1e-5
    for name, p in model.named_parameters():
        start = p.numpy().copy()
        for at in list(np.ndindex(*p.shape))[::5]:
            found = []
            for sign in (1, -1):
                moved = start.copy()
                moved[at] += sign * step
                model.load_state_dict({name: moved}, strict=False)
                found.append(loss(model(x), y).item())
            expected = (found[0] - found[1]) / (2 * step)
            assert abs(p.grad.numpy()[at] - expected) < 1e-7, (name, at)
        model.load_state_dict({name: start}, strict=False)
