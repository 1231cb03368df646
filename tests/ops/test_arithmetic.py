"""What no record covers whole: options, edges, and gradients where a plain formula would break."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek.config import override
from deepseek.errors import ArgumentError
from deepseek.nn import functional as F


@pytest.fixture(params=["reference", "cpu"], autouse=True)
def backend(request: pytest.FixtureRequest):  # noqa: ANN201
    with override(backend=request.param):
        yield


def gradient(function: Callable[[ds.Tensor], ds.Tensor], *values: float) -> list[float]:
    x = ds.asarray(list(values), requires_grad=True)
    function(x).sum().backward()
    assert x.grad is not None
    found: list[float] = x.grad.tolist()
    return found


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_division_by_mode(dtype: Any) -> None:
    a, b = np.array([7, -7, 7, -7, 0], dtype), np.array([2, 2, -2, -2, 5], dtype)
    left, right = ds.asarray(a), ds.asarray(b)
    floor = ds.div(left, right, rounding_mode="floor").numpy()
    trunc = ds.div(left, right, rounding_mode="trunc").numpy()
    assert floor.dtype == trunc.dtype == dtype
    assert np.array_equal(floor, np.floor(a / b)) and np.array_equal(trunc, np.trunc(a / b))
    assert np.allclose(ds.div(left, right).numpy(), a / b)
    with pytest.raises(ArgumentError, match="'trunc' or 'floor'"):
        ds.div(left, right, rounding_mode="up")


def test_integer_minimum_divides_as_in_numpy() -> None:
    low = np.iinfo(np.int32).min
    x, y = np.array([low, low, low], np.int32), np.array([7, -7, 2], np.int32)
    assert np.array_equal(ds.remainder(ds.asarray(x), ds.asarray(y)).numpy(), np.remainder(x, y))
    assert np.array_equal(ds.fmod(ds.asarray(x), ds.asarray(y)).numpy(), np.fmod(x, y))
    assert np.array_equal(ds.asarray(x).abs().numpy(), np.abs(x))


def test_rounding_to_decimals() -> None:
    x = np.array([1.2345, -0.55, 2.5, 1e6, np.inf, np.nan], np.float32)
    for decimals in (-2, 0, 1, 3):
        got = ds.round(ds.asarray(x), decimals=decimals).numpy()
        assert np.allclose(got, np.round(x, decimals), equal_nan=True)
    assert ds.round(ds.asarray([3, 4])).dtype is ds.int64
    assert ds.floor(ds.asarray([3, -4])).tolist() == [3, -4]
    assert ds.isnan(ds.asarray([3, 4])).tolist() == [False, False]
    assert ds.isfinite(ds.asarray([True])).tolist() == [True]


def test_equality_of_whole_tensors() -> None:
    x = ds.asarray([1.0, math.nan])
    assert not bool(ds.array_equal(x, x)) and not bool(ds.array_equal(x, ds.ones(3)))
    assert bool(ds.array_equal(ds.arange(3), ds.asarray([0.0, 1.0, 2.0])))
    assert bool(ds.allclose(x, x, equal_nan=True)) and not bool(ds.allclose(x, x))
    assert ds.isclose(ds.asarray([2**62]), ds.asarray([2**62 + 2**50])).tolist() == [False]
    assert ds.isreal(x).tolist() == [True, True]


def test_float_parts() -> None:
    x = np.array([0.0, -0.0, 5e-324, -1.5, 2.0**1000, np.inf, np.nan])
    mantissa, exponent = ds.frexp(ds.asarray(x))
    wanted = np.frexp(x)
    assert np.array_equal(mantissa.numpy(), wanted[0], equal_nan=True)
    assert np.array_equal(exponent.numpy(), np.where(np.isfinite(x), wanted[1], 0))
    assert np.array_equal(np.signbit(mantissa.numpy()), np.signbit(x))
    finite = ds.asarray(x[:5])
    back = ds.ldexp(*(part[:5] for part in ds.frexp(finite))).numpy()
    assert np.array_equal(back[[0, 1, 3]], x[[0, 1, 3]])
    y = ds.float_power(ds.asarray([2, 3]), ds.asarray([-1, 2]))
    assert y.dtype is ds.float64 and np.allclose(y.numpy(), [0.5, 9])


def test_a_power_beyond_the_range_stays_there() -> None:
    big = ds.asarray(np.array([8.6e15, 4.1e16, 1.4e17]))
    assert np.all(np.isinf(ds.pow(2.0, big).numpy()))
    assert np.all(ds.pow(2.0, -big).numpy() == 0)


EDGE_GRADIENTS: list[tuple[str, Callable[[ds.Tensor], ds.Tensor], list[float], list[float]]] = [
    ("softplus", ds.softplus, [0.0, -200.0, 200.0], [0.5, 0, 1]),
    ("logsigmoid", ds.logsigmoid, [0.0, -200.0, 200.0], [0.5, 1, 0]),
    ("logaddexp", lambda x: ds.logaddexp(x, 1000.0), [1000.0, -math.inf, 2000.0], [0.5, 0, 1]),
    ("elu", ds.elu, [0.0, 500.0, -500.0], [1, 1, 0]),
    ("hardtanh", ds.hardtanh, [-1.0, 0.5, 1.0], [0, 1, 0]),
    ("hardswish", ds.hardswish, [-3.0, 0.0, 3.0], [0, 0.5, 1]),
    ("hardsigmoid", ds.hardsigmoid, [-3.0, 0.0, 3.0], [0, 1 / 6, 0]),
    ("relu6", ds.relu6, [0.0, 1.0, 6.0], [0, 1, 0]),
    ("softshrink", ds.softshrink, [0.5, -2.0, 0.0], [0, 1, 0]),
    ("sinc", ds.sinc, [0.0], [0]),
    ("hypot", lambda x: ds.hypot(x, 0.0), [0.0, -3.0], [0, -1]),
    ("norm", lambda x: ds.vector_norm(x), [0.0, 0.0], [0, 0]),
    ("small norm", lambda x: ds.vector_norm(x, 0.5), [0.0, 0.0], [0, 0]),
    ("cdist", lambda x: ds.cdist(x.reshape(1, 2), ds.zeros(1, 2)), [0.0, 0.0], [0, 0]),
    ("logsumexp", ds.logsumexp, [-math.inf, -math.inf], [0, 0]),
    ("xlogy", lambda x: ds.xlogy(x, 0.0), [0.0], [0]),
    ("nan_to_num", ds.nan_to_num, [math.nan, 1.0, math.inf], [0, 1, 0]),
    ("cumprod", lambda x: ds.cumprod(x, 0), [2.0, 0.0, 3.0, 0.0], [1, 8, 0, 0]),
    ("cummax", lambda x: ds.cummax(x, 0)[0], [1.0, 3.0, 3.0, 2.0], [1, 1, 2, 0]),
]  # fmt: skip


@pytest.mark.parametrize("case", EDGE_GRADIENTS, ids=lambda c: c[0])
def test_gradients_at_edges(case: Any) -> None:
    _, function, at, wanted = case
    assert np.allclose(gradient(function, *at), wanted, atol=1e-6)


def test_a_zero_logit_has_the_gradient_of_the_sigmoid() -> None:
    target = ds.asarray([1.0, 0.0])
    loss = lambda x: F.binary_cross_entropy_with_logits(x, target, reduction="sum")  # noqa: E731
    assert np.allclose(gradient(loss, 0.0, 0.0), [-0.5, 0.5])
    certain = lambda x: F.binary_cross_entropy(x, target, reduction="sum")  # noqa: E731
    assert np.isfinite(gradient(certain, 1.0, 0.0)).all()
    assert np.isfinite(gradient(certain, 0.0, 1.0)).all()


def test_variances_below_eps_keep_their_gradient() -> None:
    def loss(v: ds.Tensor) -> ds.Tensor:
        return F.gaussian_nll_loss(ds.zeros(1), ds.zeros(1), v, eps=0.5)

    assert gradient(loss, 0.1) == [1.0] and gradient(loss, 0.5) == [1.0]


def test_triplets_by_another_distance() -> None:
    a, p, n = (ds.asarray([[v, 0.0]]) for v in (0.0, 1.0, 3.0))
    manhattan = lambda x, y: (x - y).abs().sum(axis=-1)  # noqa: E731
    loss = F.triplet_margin_with_distance_loss
    assert float(loss(a, p, n, distance_function=manhattan, margin=3.0)) == 1
    assert float(loss(a, p, n, distance_function=manhattan, margin=3.0, swap=True)) == 2
    wanted = F.triplet_margin_loss(a, p, n, margin=3.0)
    assert np.allclose(float(loss(a, p, n, margin=3.0)), float(wanted))


def test_other_names_are_the_same_functions() -> None:
    x = ds.asarray([0.5, -0.25])
    for mine, other in (
        ("asin", "arcsin"),
        ("multiply", "mul"),
        ("equal", "eq"),
        ("clip", "clamp"),
    ):
        args = (x,) if mine == "asin" else (x, x)
        got, wanted = getattr(ds, other)(*args), getattr(ds, mine)(*args)
        assert np.array_equal(got.numpy(), wanted.numpy())
        assert np.array_equal(getattr(x, other)(*args[1:]).numpy(), wanted.numpy())
