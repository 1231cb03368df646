"""What depends on values: places that are not zero, unique elements, counts and searches.

Against NumPy, on both backends; with a size the same inside jit, without one a clear error there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek.config import override
from deepseek.errors import ArgumentError, ShapeError

RNG = np.random.default_rng(0)


@pytest.fixture(params=["reference", "cpu"], autouse=True)
def backend(request: pytest.FixtureRequest):  # noqa: ANN201
    with override(backend=request.param):
        yield


ARRAYS = [
    RNG.integers(0, 3, (4, 5)),
    RNG.integers(0, 2, (2, 3, 4)).astype(bool),
    RNG.integers(-1, 2, 17).astype(np.float32),
    np.zeros((3, 2)),
    np.zeros((0, 2), np.int64),
    np.ones(1, np.uint8),
]


@pytest.mark.parametrize("x", ARRAYS, ids=lambda x: f"{x.dtype}{x.shape}")
def test_nonzero(x: Any) -> None:
    got = ds.nonzero(ds.asarray(x))
    for mine, wanted in zip(got, np.nonzero(x), strict=True):
        assert np.array_equal(mine.numpy(), wanted) and mine.dtype is ds.int64
    assert np.array_equal(ds.argwhere(ds.asarray(x)).numpy(), np.argwhere(x))
    assert np.array_equal(ds.flatnonzero(ds.asarray(x)).numpy(), np.flatnonzero(x))
    assert int(ds.count_nonzero(ds.asarray(x))) == np.count_nonzero(x)


@pytest.mark.parametrize("size", [1, 3, 9])
def test_nonzero_of_a_size_is_part_of_the_graph(size: int) -> None:
    x = np.array([[0, 2, 0], [4, 0, 5]])
    found = np.argwhere(x)[:size]
    wanted = np.full((size, 2), -1)
    wanted[: len(found)] = found

    @ds.jit
    def places(t: ds.Tensor) -> ds.Tensor:
        return ds.argwhere(t, size=size, fill_value=-1)

    assert np.array_equal(places(ds.asarray(x)).numpy(), wanted)


@pytest.mark.parametrize(
    "x",
    [*ARRAYS, np.array([3.0, np.nan, -0.0, 0.0, np.nan, 3.0])],
    ids=lambda x: f"{x.dtype}{x.shape}",
)
def test_unique_follows_the_array_api(x: Any) -> None:
    got = ds.unique_all(ds.asarray(x))
    options = {"return_index": True, "return_inverse": True, "return_counts": True}
    wanted = np.unique(x, equal_nan=False, **options)
    for mine, other in zip(got, wanted, strict=True):
        assert np.array_equal(mine.numpy().ravel(), other.ravel(), equal_nan=x.dtype.kind == "f")
    assert got.inverse_indices.shape == x.shape
    values = got.values.numpy()
    assert np.array_equal(values[got.inverse_indices.numpy()], x, equal_nan=x.dtype.kind == "f")


def test_unique_of_a_size_is_part_of_the_graph() -> None:
    counted = ds.jit(lambda t: ds.unique_counts(t, size=4, fill_value=-9))
    values, counts = counted(ds.asarray([5, 1, 5, 2]))
    assert values.tolist() == [1, 2, 5, -9] and counts.tolist() == [1, 1, 2, 0]
    values, counts = counted(ds.asarray([7, 6, 5, 4, 3]))
    assert values.tolist() == [3, 4, 5, 6] and counts.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_unique_slices(axis: int) -> None:
    x = RNG.integers(0, 2, (6, 2, 3))
    x[4] = x[1]
    got = ds.unique(ds.asarray(x), dim=axis, return_inverse=True, return_counts=True)
    wanted = np.unique(x, axis=axis, return_inverse=True, return_counts=True)
    for mine, other in zip(got, wanted, strict=True):
        assert np.array_equal(mine.numpy(), other.reshape(mine.shape))


def test_runs() -> None:
    x = ds.asarray([1, 1, 2, 2, 2, 1])
    values, inverse, counts = ds.unique_consecutive(x, return_inverse=True, return_counts=True)
    assert values.tolist() == [1, 2, 1] and counts.tolist() == [2, 3, 1]
    assert inverse.tolist() == [0, 0, 1, 1, 1, 2]
    rows = ds.asarray([[1, 2], [1, 2], [1, 3]])
    assert ds.unique_consecutive(rows, dim=0).tolist() == [[1, 2], [1, 3]]


@pytest.mark.parametrize(
    "function",
    [ds.nonzero, ds.unique, ds.unique_counts, ds.unique_consecutive, ds.bincount, ds.argwhere],
    ids=lambda f: f.__name__,
)
def test_without_a_size_jit_says_what_to_do(function: Any) -> None:
    with pytest.raises(ArgumentError) as caught:
        ds.jit(lambda x: function(x))(ds.asarray([1, 2, 2]))
    text = str(caught.value)
    assert "size" in text and "help: pass size=" in text
    assert "test_selection.py" in text


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.uint8, np.float64])
@pytest.mark.parametrize("size", [1, 2, 7, 64, 1000])
def test_binary_search(size: int, dtype: Any) -> None:
    line = np.sort(RNG.integers(0, 50, size).astype(dtype))
    values = RNG.integers(0, 60, (3, 11)).astype(dtype)
    for side in ("left", "right"):
        got = ds.searchsorted(ds.asarray(line), ds.asarray(values), side=side)
        assert np.array_equal(got.numpy(), np.searchsorted(line, values, side=side))
    shuffled = RNG.permutation(line)
    order = np.argsort(shuffled)
    got = ds.searchsorted(ds.asarray(shuffled), ds.asarray(values), sorter=ds.asarray(order))
    assert np.array_equal(got.numpy(), np.searchsorted(line, values))


def test_searching_refuses_what_does_not_fit() -> None:
    with pytest.raises(ShapeError, match="rows for the values' rows"):
        ds.searchsorted(ds.zeros(2, 3), ds.zeros(3, 1))
    with pytest.raises(ArgumentError, match="'left' or 'right'"):
        ds.searchsorted(ds.zeros(3), ds.zeros(1), side="middle")
    with pytest.raises(ShapeError, match="a vector"):
        ds.bucketize(ds.zeros(3), ds.zeros(2, 2))


def test_counts() -> None:
    x = RNG.integers(0, 9, 50)
    weights = RNG.uniform(size=50).astype(np.float32)
    got = ds.bincount(ds.asarray(x), minlength=12)
    assert np.array_equal(got.numpy(), np.bincount(x, minlength=12))
    got = ds.bincount(ds.asarray(x), ds.asarray(weights))
    assert np.allclose(got.numpy(), np.bincount(x, weights), rtol=1e-5)
    with pytest.raises(ArgumentError, match="below 0"):
        ds.bincount(ds.asarray([1, -1]))
    y = RNG.normal(size=200).astype(np.float32)
    for bins, ends in ((10, (-2.0, 2.0)), (7, None)):
        got, edges = ds.histogram(ds.asarray(y), bins, range=ends)
        wanted, places = np.histogram(y, bins, ends)
        assert np.array_equal(got.numpy(), wanted) and np.allclose(edges.numpy(), places, atol=1e-6)
    density = ds.histogram(ds.asarray(y), 5, density=True)[0]
    assert np.allclose(density.numpy(), np.histogram(y, 5, density=True)[0], rtol=1e-5)
    assert np.array_equal(ds.histc(ds.asarray(y), 8, -1, 1).numpy(), np.histogram(y, 8, (-1, 1))[0])
    assert ds.histc(ds.asarray([2.0, 2.0]), 2).tolist() == [0, 2]


WAYS = ["linear", "lower", "higher", "nearest", "midpoint"]


@pytest.mark.parametrize("way", WAYS)
def test_quantiles(way: str) -> None:
    x = RNG.normal(size=(2, 7, 3)).astype(np.float32)
    for dim in (None, 1, -1):
        for q in (0.3, [0.0, 0.45, 1.0]):
            for keep in (False, True):
                got = ds.quantile(ds.asarray(x), q, dim, keep, interpolation=way)
                wanted = np.quantile(x, q, axis=dim, keepdims=keep, method=way)
                assert got.shape == wanted.shape and np.allclose(got.numpy(), wanted, atol=1e-6)


def test_medians() -> None:
    x = RNG.permutation(24).reshape(4, 6)
    values, places = ds.median(ds.asarray(x), 1, True)
    assert np.array_equal(values.numpy()[:, 0], np.sort(x)[:, 2])
    assert np.array_equal(np.take_along_axis(x, places.numpy(), 1), values.numpy())
    assert int(ds.median(ds.asarray(x))) == 11
    gaps = ds.asarray([np.nan, 3.0, 1.0, 2.0])
    assert np.isnan(float(ds.median(gaps))) and float(ds.nanmedian(gaps)) == 2
    assert ds.kthvalue(ds.asarray(x), 2, 0)[0].tolist() == np.sort(x, axis=0)[1].tolist()
    with pytest.raises(ArgumentError, match="1 <= k <= 6"):
        ds.kthvalue(ds.asarray(x), 7)
    with pytest.raises(ArgumentError, match="one at least"):
        ds.median(ds.zeros(0))
