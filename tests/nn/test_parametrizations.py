"""Weights that are computed from others, and sequences as one padded tensor."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn, optim
from deepseek.errors import DeepseekError
from deepseek.nn.utils import parametrizations, parametrize, rnn

Array = np.ndarray
rng = np.random.default_rng(6)


def random(*shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def lengths(weight: Array, dim: int | None) -> Array:
    weight = weight.astype(np.float64)
    if dim is None:
        return np.sqrt((weight**2).sum())
    others = tuple(i for i in range(weight.ndim) if i != dim)
    return np.sqrt((weight**2).sum(others, keepdims=True))


@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm(dim: int | None) -> None:
    layer = nn.Conv1d(3, 4, 2)
    before = layer.weight.numpy().copy()
    assert parametrizations.weight_norm(layer, dim=dim) is layer
    keys = ["bias", "parametrizations.weight.original0", "parametrizations.weight.original1"]
    assert list(layer.state_dict()) == keys
    np.testing.assert_allclose(layer.weight.numpy(), before, rtol=2e-6)
    g, v = random(*lengths(before, dim).shape), random(4, 3, 2)
    layer.load_state_dict({keys[1]: g, keys[2]: v}, strict=False)
    x = ds.asarray(random(2, 3, 5))
    plain = nn.Conv1d(3, 4, 2)
    wanted = g * v / lengths(v, dim)
    plain.load_state_dict({"weight": wanted, "bias": layer.bias})
    for call in (layer, ds.jit(layer)):
        np.testing.assert_allclose(call(x).numpy(), plain(x).numpy(), rtol=2e-5, atol=2e-5)
    # The gradient of a direction is at right angles to it.
    layer(x).sum().backward()
    plain(x).sum().backward()
    g_slope, v_slope = (getattr(layer.parametrizations["weight"], f"original{i}").grad.numpy()
                        for i in (0, 1))  # fmt: skip
    slope = plain.weight.grad.numpy().astype(np.float64)
    axes = None if dim is None else tuple(i for i in range(3) if i != dim)
    along = (slope * v / lengths(v, dim)).sum(axes, keepdims=dim is not None)
    np.testing.assert_allclose(g_slope, along, rtol=2e-5, atol=2e-5)
    across = (slope - along * v / lengths(v, dim)) * g / lengths(v, dim)
    np.testing.assert_allclose(v_slope, across, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("layer", "dim"),
    [(nn.Linear(5, 7), 0), (nn.Conv2d(2, 5, 3), 0), (nn.ConvTranspose1d(4, 3, 2), 1)],
    ids=["Linear", "Conv2d", "ConvTranspose1d"],
)
def test_spectral_norm(layer: nn.Module, dim: int) -> None:
    ds.manual_seed(0)
    before = layer.weight.numpy().astype(np.float64)
    parametrizations.spectral_norm(layer, n_power_iterations=20)
    assert list(layer.state_dict())[1:] == [
        f"parametrizations.weight.{name}" for name in ("original", "0._u", "0._v")
    ]
    for _ in range(10):
        layer.weight.evaluate()
    layer.eval()
    matrix = np.moveaxis(before, dim, 0).reshape(before.shape[dim], -1)
    wanted = before / np.linalg.norm(matrix, 2)
    np.testing.assert_allclose(layer.weight.numpy(), wanted, rtol=1e-4, atol=1e-5)
    state = {k: v.numpy().copy() for k, v in layer.state_dict().items()}
    layer.weight.evaluate()
    assert all(np.array_equal(v.numpy(), state[k]) for k, v in layer.state_dict().items())


@pytest.mark.parametrize("how", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_training_compiled_and_not(how: Any) -> None:
    x, y = ds.asarray(random(16, 4)), ds.asarray(random(16, 2))

    def losses(compiled: bool) -> list[float]:
        ds.manual_seed(1)
        model = nn.Sequential(how(nn.Linear(4, 8)), nn.Tanh(), how(nn.Linear(8, 2)))
        optimizer = optim.SGD(model.parameters(), lr=0.1)

        def step(x: ds.Tensor, y: ds.Tensor) -> ds.Tensor:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        call = ds.jit(step) if compiled else step
        return [call(x, y).item() for _ in range(5)]

    eager = losses(False)
    assert eager[-1] < eager[0]
    np.testing.assert_allclose(losses(True), eager, rtol=1e-5)


class Doubled(nn.Module):
    def forward(self, x: ds.Tensor) -> ds.Tensor:
        return x * 2

    def right_inverse(self, x: ds.Tensor) -> ds.Tensor:
        return x / 2


class Symmetric(nn.Module):
    def forward(self, x: ds.Tensor) -> ds.Tensor:
        return (x + x.mT) / 2


def test_setting_chaining_and_removing() -> None:
    layer = nn.Linear(3, 3)
    first = layer.weight.numpy().copy()
    parametrize.register_parametrization(layer, "weight", Doubled())
    parametrize.register_parametrization(layer, "bias", Doubled())
    assert parametrize.is_parametrized(layer) and parametrize.is_parametrized(layer, "bias")
    assert parametrize.type_before_parametrizations(layer) is nn.Linear
    assert isinstance(layer, nn.Linear) and repr(layer).startswith("ParametrizedLinear(")
    np.testing.assert_allclose(layer.weight.numpy(), first)
    value = random(3, 3)
    layer.weight = ds.asarray(value)
    np.testing.assert_allclose(layer.weight.numpy(), value)
    np.testing.assert_allclose(layer.parametrizations["weight"].original.numpy(), value / 2)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    np.testing.assert_allclose(layer.weight.numpy(), (value + value.T) / 2, rtol=1e-6)
    twin = copy.deepcopy(layer)
    twin.bias = ds.ones(3)
    assert not np.array_equal(twin.bias.numpy(), layer.bias.numpy())
    parametrize.remove_parametrizations(layer, "weight")
    np.testing.assert_allclose(layer.weight.numpy(), (value + value.T) / 2, rtol=1e-6)
    assert not parametrize.is_parametrized(layer, "weight")
    parametrize.remove_parametrizations(layer, "bias", leave_parametrized=False)
    assert type(layer) is nn.Linear and layer.weight.requires_grad
    assert sorted(layer.state_dict()) == ["bias", "weight"]


def test_a_compiled_function_notices_parametrizations() -> None:
    layer, x = nn.Linear(3, 2), ds.asarray(random(4, 3))
    call = ds.jit(layer)
    plain = call(x).numpy() - layer.bias.numpy()
    parametrize.register_parametrization(layer, "weight", Symmetrized())
    np.testing.assert_allclose(call(x).numpy() - layer.bias.numpy(), 3 * plain, rtol=1e-4)
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    np.testing.assert_allclose(call(x).numpy() - layer.bias.numpy(), plain, rtol=1e-4)


class Symmetrized(nn.Module):
    def forward(self, x: ds.Tensor) -> ds.Tensor:
        return x * 3


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("side", ["right", "left"])
def test_padded_sequences(batch_first: bool, side: str) -> None:
    given = [random(n, 2, 3) for n in (4, 0, 2)]
    wanted = np.full((3, 4, 2, 3), -1, np.float32)
    for row, x in zip(wanted, given, strict=True):
        start = 0 if side == "right" else 4 - len(x)
        row[start : start + len(x)] = x
    padded = rnn.pad_sequence([ds.asarray(x) for x in given], batch_first, -1, side)
    expected = wanted if batch_first else wanted.swapaxes(0, 1)
    assert np.array_equal(padded.numpy(), expected)
    if side == "right":
        for counts in ([4, 0, 2], ds.asarray([4, 0, 2])):
            back = rnn.unpad_sequence(padded, counts, batch_first)
            for got, x in zip(back, given, strict=True):
                assert np.array_equal(got.numpy(), x)


WRONG: list[tuple[Any, str]] = [
    (lambda: parametrizations.weight_norm(nn.Linear(2, 2), "wait"), "unknown parameter of Linear"),
    (lambda: parametrizations.weight_norm(nn.Linear(2, 2, bias=False), "bias"), "valid: weight"),
    (lambda: parametrizations.spectral_norm(nn.Linear(2, 2), n_power_iterations=0), "wanted 1"),
    (lambda: parametrize.remove_parametrizations(nn.Linear(2, 2), "weight"), "not parametrized"),
    (lambda: parametrize.remove_parametrizations(
        parametrizations.weight_norm(nn.Linear(2, 2)), "weight", False), "original0, original1"),
    (lambda: rnn.pad_sequence([]), "got no tensors"),
    (lambda: rnn.pad_sequence([ds.ones((2, 3)), ds.ones((2, 4))]), "differ in the first size"),
    (lambda: rnn.pad_sequence([ds.ones(2)], padding_side="top"), "unknown padding_side 'top'"),
    (lambda: rnn.unpad_sequence(ds.ones((3, 2)), [1]), "one for each of 2"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "words"), WRONG, ids=[words for _, words in WRONG])
def test_what_is_wrong_is_named(call: Any, words: str) -> None:
    with pytest.raises(DeepseekError, match=words):
        call()
