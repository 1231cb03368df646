"""Sorting against NumPy: stability, NaN, axes, every dtype; gradients follow the elements."""

from __future__ import annotations

import numpy as np
import pytest

import deepseek as ds
from deepseek.config import override
from deepseek.errors import ArgumentError
from deepseek.ir.dtype import DTYPES


@pytest.fixture(params=["reference", "cpu"], autouse=True)
def backend(request: pytest.FixtureRequest):  # noqa: ANN201
    with override(backend=request.param):
        yield


@pytest.mark.parametrize("dtype", list(DTYPES.values()), ids=str)
@pytest.mark.parametrize("shape", [(3, 17), (2, 300)])
def test_sort_is_stable_in_every_dtype(dtype, shape: tuple[int, ...]) -> None:  # noqa: ANN001
    low = 0 if dtype.kind in "bu" else -4
    x = np.random.default_rng(0).integers(low, 2 if dtype.is_bool else 5, shape).astype(dtype.numpy)
    order = np.argsort(x.astype(np.float64), axis=-1, kind="stable")
    t = ds.asarray(x)
    assert np.array_equal(t.argsort().numpy(), order)
    assert np.array_equal(t.sort().numpy(), np.take_along_axis(x, order, -1))
    down = np.argsort(-x.astype(np.float64), axis=-1, kind="stable")
    assert np.array_equal(t.argsort(descending=True).numpy(), down)


def test_sort_works_along_any_axis() -> None:
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    for axis in (0, 1, -1):
        assert np.array_equal(ds.asarray(x).sort(axis=axis).numpy(), np.sort(x, axis=axis))


def test_nan_is_the_largest() -> None:
    x = ds.asarray(np.array([2, np.nan, -np.inf, np.inf, 0], np.float32))
    assert x.argsort().tolist() == [2, 4, 0, 3, 1]
    assert x.argsort(descending=True).tolist() == [1, 3, 0, 4, 2]


def test_topk_takes_the_first_of_the_order() -> None:
    x = np.random.default_rng(0).permutation(24).reshape(2, 3, 4)
    values, indices = ds.topk(ds.asarray(x), 2, dim=1)
    assert np.array_equal(values.numpy(), -np.sort(-x, axis=1)[:, :2])
    assert np.array_equal(np.take_along_axis(x, indices.numpy(), 1), values.numpy())
    smallest, _ = ds.topk(ds.asarray(x), 3, largest=False)
    assert np.array_equal(smallest.numpy(), np.sort(x, axis=-1)[..., :3])
    with pytest.raises(ArgumentError, match="0 <= k <= 4"):
        ds.topk(ds.asarray(x), 5)


def test_gradients_follow_the_elements() -> None:
    x = ds.asarray([3.0, 1.0, 2.0], requires_grad=True)
    (x.sort() * ds.asarray([1.0, 10.0, 100.0])).sum().backward()
    assert x.grad.tolist() == [100, 1, 10]
