"""nn.init: truncated normal, orthogonal, identities, sparse; all from the one generator."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.errors import DeepseekError


def parameter(*shape: int, dtype: Any = ds.float32) -> nn.Parameter:
    return nn.Parameter(ds.zeros(shape, dtype=dtype))


def normal_below(x: float) -> float:
    return (1 + math.erf(x / math.sqrt(2))) / 2


@pytest.mark.parametrize(("mean", "std", "a", "b"), [(0, 1, -2, 2), (1.0, 0.5, 0.8, 3.0)])
def test_a_normal_distribution_cut_off(mean: float, std: float, a: float, b: float) -> None:
    ds.manual_seed(0)
    p = parameter(200, 300)
    assert nn.init.trunc_normal_(p, mean, std, a, b) is p and p.requires_grad
    x = np.sort(p.numpy().ravel().astype(np.float64))
    assert x[0] >= a and x[-1] <= b
    low, high = (normal_below((edge - mean) / std) for edge in (a, b))
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):  # quantiles, by the distribution function
        at = normal_below((x[int(share * x.size)] - mean) / std)
        assert abs((at - low) / (high - low) - share) < 0.01


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (6, 2, 3), (5, 1)])
def test_orthogonal(shape: tuple[int, ...]) -> None:
    ds.manual_seed(1)
    w = nn.init.orthogonal_(parameter(*shape), gain=2.0).numpy().astype(np.float64)
    flat = w.reshape(shape[0], -1)
    product = flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat
    np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-5)


def test_orthogonal_matrices_are_equally_likely() -> None:
    """The mean over many is 0; without the signs, the diagonal of R would leave a bias."""
    ds.manual_seed(2)
    mean = np.mean([nn.init.orthogonal_(parameter(3, 3)).numpy() for _ in range(300)], axis=0)
    assert np.abs(mean).max() < 5 * (1 / math.sqrt(3)) / math.sqrt(300)


def test_identities_of_layers() -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, 5)).astype(np.float32)
    linear = nn.Linear(4, 6, bias=False)
    nn.init.eye_(linear.weight)
    out = linear(ds.asarray(x.swapaxes(1, 2))).numpy()
    assert np.array_equal(out[..., :4], x.swapaxes(1, 2)) and not out[..., 4:].any()
    layer = nn.Conv1d(4, 6, 3, padding=1, bias=False)
    nn.init.dirac_(layer.weight)
    out = layer(ds.asarray(x)).numpy()
    assert np.array_equal(out[:, :4], x) and not out[:, 4:].any()
    grouped = nn.Conv2d(4, 4, 3, padding=1, bias=False, groups=2)
    nn.init.dirac_(grouped.weight, groups=2)
    image = x.reshape(2, 4, 5, 1)
    assert np.array_equal(grouped(ds.asarray(image)).numpy(), image)


def test_sparse() -> None:
    ds.manual_seed(3)
    w = nn.init.sparse_(parameter(50, 40), 0.31, std=0.5).numpy()
    assert np.all((w == 0).sum(0) == 16)
    assert abs(w[w != 0].std() / 0.5 - 1) < 0.1
    assert len({tuple(c) for c in (w == 0).T}) == 40


@pytest.mark.parametrize(
    "draw",
    [nn.init.trunc_normal_, nn.init.orthogonal_, lambda p, **k: nn.init.sparse_(p, 0.5, **k)],
)
def test_seeds_repeat(draw: Callable[..., Any]) -> None:
    one, two = (draw(parameter(6, 5), generator=ds.Generator(9)).numpy().copy() for _ in range(2))
    assert np.array_equal(one, two) and one.any()
    low = draw(parameter(6, 5, dtype=ds.bfloat16), generator=ds.Generator(9)).numpy()
    np.testing.assert_allclose(low.astype(np.float32), one, atol=0.01)


def test_layers_without_inputs() -> None:
    """There is nothing to draw, and no fan to divide by."""
    layer = nn.Linear(0, 3)
    assert layer.weight.shape == (3, 0) and not layer.bias.numpy().any()
    assert not layer(ds.ones((2, 0))).numpy().any()
    for draw in (nn.init.kaiming_uniform_, nn.init.kaiming_normal_, nn.init.orthogonal_):
        empty = parameter(4, 0)
        assert draw(empty) is empty


WRONG: list[tuple[Callable[[], Any], str]] = [
    (lambda: nn.init.trunc_normal_(parameter(2), a=2, b=2), "a=2, b=2"),
    (lambda: nn.init.eye_(parameter(2)), "eye_: got"),
    (lambda: nn.init.dirac_(parameter(2, 2)), "dirac_: got"),
    (lambda: nn.init.dirac_(parameter(3, 2, 1), groups=2), "groups=2"),
    (lambda: nn.init.orthogonal_(parameter(2)), "orthogonal_: got"),
    (lambda: nn.init.sparse_(parameter(2, 2, 2), 0.5), "sparse_: got"),
    (lambda: nn.init.sparse_(parameter(2, 2), 1.5), "sparsity=1.5"),
]


@pytest.mark.parametrize(("call", "words"), WRONG, ids=[words for _, words in WRONG])
def test_what_is_wrong_is_named(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(DeepseekError, match=words):
        call()
