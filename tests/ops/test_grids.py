"""Grids, triangles and steps against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

import deepseek as ds
from deepseek.errors import ArgumentError, ShapeError


@pytest.mark.parametrize("rows", [0, 1, 3, 6])
@pytest.mark.parametrize("columns", [0, 1, 4, 6])
@pytest.mark.parametrize("offset", [-7, -2, -1, 0, 1, 3, 8])
def test_triangles(rows: int, columns: int, offset: int) -> None:
    for mine, theirs in (
        (ds.tril_indices, np.tril_indices), (ds.triu_indices, np.triu_indices)
    ):  # fmt: skip
        wanted = np.stack(theirs(rows, offset, columns))
        got = mine(rows, columns, offset)
        assert got.shape == wanted.shape and np.array_equal(got.numpy(), wanted)


def test_large_triangles_are_exact() -> None:
    n = 3001
    rows, columns = ds.tril_indices(n, n).numpy()
    wanted_rows, wanted_columns = np.tril_indices(n)
    assert np.array_equal(rows, wanted_rows) and np.array_equal(columns, wanted_columns)


@pytest.mark.parametrize("indexing", ["xy", "ij"])
def test_meshgrid(indexing: str) -> None:
    vectors = [np.arange(3), np.arange(4.0, dtype=np.float32), np.arange(2)]
    for count in (1, 2, 3):
        wanted = np.meshgrid(*vectors[:count], indexing=indexing)
        got = ds.meshgrid(*(ds.asarray(v) for v in vectors[:count]), indexing=indexing)
        for a, b in zip(got, wanted, strict=True):
            assert a.numpy().dtype == b.dtype and np.array_equal(a.numpy(), b)


def test_grids_refuse_what_does_not_fit() -> None:
    with pytest.raises(ArgumentError, match="'xy' or 'ij'"):
        ds.meshgrid(ds.arange(2), indexing="yx")
    with pytest.raises(ShapeError, match="vectors"):
        ds.meshgrid(ds.zeros(2, 2))


def test_logspace() -> None:
    got = ds.logspace(-2, 3, 11, base=2.0, dtype=ds.float64).numpy()
    assert np.allclose(got, np.logspace(-2, 3, 11, base=2.0), rtol=1e-15)
    assert np.array_equal(ds.tri(3, 5, 1).numpy(), np.tri(3, 5, 1, dtype=np.float32))


@pytest.mark.parametrize("edge_order", [1, 2])
def test_gradients_by_differences(edge_order: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 6))
    t = ds.asarray(x)
    places = [np.cumsum(rng.uniform(0.5, 1, n)) for n in x.shape]
    cases = [
        (ds.gradient(t, edge_order=edge_order), np.gradient(x, edge_order=edge_order)),
        (ds.gradient(t, spacing=2.0, edge_order=edge_order),
         np.gradient(x, 2.0, edge_order=edge_order)),
        (ds.gradient(t, spacing=[ds.asarray(p) for p in places], edge_order=edge_order),
         np.gradient(x, *places, edge_order=edge_order)),
        (ds.gradient(t, dim=-1, edge_order=edge_order),
         [np.gradient(x, axis=-1, edge_order=edge_order)]),
    ]  # fmt: skip
    for got, wanted in cases:
        for a, b in zip(got, wanted, strict=True):
            assert np.allclose(a.numpy(), b, rtol=1e-12)
    with pytest.raises(ShapeError, match=f"more than {edge_order}"):
        ds.gradient(ds.zeros(edge_order), edge_order=edge_order)
