"""Writes by index and by mask against plain NumPy loops: values, gradients, repeats, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek.errors import ArgumentError, DeepseekError

RNG = np.random.default_rng(0)
Array = np.ndarray[Any, Any]


def numbers(*shape: int) -> Array:
    return RNG.integers(1, 5, shape).astype(np.float64) / 2


X, AT = numbers(4, 3, 5), np.array([3, 0, 3, 1, 3])
ROWS = RNG.integers(-3, 3, (2, 2, 4))
COMBINE: dict[str, Callable[[Array], Any]] = {
    "sum": np.sum, "prod": np.prod, "mean": np.mean, "amax": np.max, "amin": np.min,
}  # fmt: skip


def gathered(x: Array, index: Array, source: Array, how: str, include_self: bool) -> Array:
    """scatter_reduce along axis 1, one element at a time."""
    out = x.copy()
    arrived: dict[tuple[int, ...], list[float]] = {}
    for at in np.ndindex(index.shape):
        place = (at[0], int(index[at]) % x.shape[1], at[2])
        arrived.setdefault(place, [out[place]] if include_self else []).append(source[at])
    for place, values in arrived.items():
        out[place] = COMBINE[how](np.array(values))
    return out


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("how", COMBINE)
def test_updates_of_an_element_are_reduced(how: str, include_self: bool) -> None:
    source = numbers(3, 3, 5)
    wanted = gathered(X, ROWS, source, how, include_self)
    got = ds.scatter_reduce(
        ds.asarray(X), 1, ds.asarray(ROWS), ds.asarray(source), how, include_self=include_self
    )
    assert np.allclose(got.numpy(), wanted)


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("how", COMBINE)
def test_gradients_of_reduced_updates_are_those_of_differences(
    how: str, include_self: bool
) -> None:
    x, source = RNG.normal(size=(3, 4)), RNG.normal(size=(3, 6))
    if how == "prod":
        x[0, 1], source[0, 2], source[1, 1] = 0, 0, 0
    index = RNG.integers(0, 4, (3, 6))
    weights = RNG.normal(size=(3, 4))

    def total(a: Any, b: Any) -> Any:
        found = ds.scatter_reduce(a, 1, ds.asarray(index), b, how, include_self=include_self)
        return (found * ds.asarray(weights)).sum()

    tensors = [ds.asarray(v, requires_grad=True) for v in (x, source)]
    total(*tensors).backward()
    for k, t in enumerate(tensors):
        step = RNG.normal(size=t.shape) * 1e-6
        ahead, behind = (
            [v + sign * step if i == k else v for i, v in enumerate((x, source))]
            for sign in (1, -1)
        )
        change = (
            float(total(*map(ds.asarray, ahead))) - float(total(*map(ds.asarray, behind)))
        ) / 2
        assert np.sum(t.grad.numpy() * step) == pytest.approx(change, rel=1e-4, abs=1e-12)


def test_slices_are_added_copied_and_filled() -> None:
    x, at = ds.asarray(X), ds.asarray(AT)
    source = numbers(5, 3, 5)
    added, copied, filled = X.copy(), X.copy(), X.copy()
    np.add.at(added, AT, 2 * source)
    for i, place in enumerate(AT):
        copied[place] = source[i]
    filled[AT] = 7
    assert np.allclose(ds.index_add(x, 0, at, ds.asarray(source), alpha=2).numpy(), added)
    assert np.array_equal(ds.index_copy(x, 0, at, ds.asarray(source)).numpy(), copied)
    assert np.array_equal(ds.index_fill(x, 0, at, 7).numpy(), filled)
    assert np.array_equal(ds.index_select(x, -1, at).numpy(), X[..., AT])
    whole = ds.index_reduce(x, 0, at, ds.asarray(source), "amax", include_self=False)
    wanted = X.copy()
    for place in set(AT):
        wanted[place] = source[place == AT].max(axis=0)
    assert np.array_equal(whole.numpy(), wanted)


def test_elements_are_put_into_the_flattened_tensor() -> None:
    at, values = np.array([[2, -1], [7, 2]]), numbers(4)
    wanted, added = X.copy(), X.copy()
    np.put(wanted, at, values)
    np.add.at(added.reshape(-1), at.reshape(-1), values)
    x, v = ds.asarray(X), ds.asarray(values)
    assert np.array_equal(ds.put(x, ds.asarray(at), v).numpy(), wanted)
    assert np.array_equal(ds.put(x, ds.asarray(at), v, accumulate=True).numpy(), added)
    assert np.array_equal(ds.take(x, ds.asarray(at)).numpy(), np.take(X, at))


def test_masks_fill_select_and_scatter() -> None:
    x, mask = ds.asarray(X), X > 1
    m, row = ds.asarray(mask), ds.asarray(np.arange(5) % 2 == 0)
    assert np.array_equal(ds.masked_fill(x, m, 9).numpy(), np.where(mask, 9, X))
    assert np.array_equal(ds.masked_select(x, m).numpy(), X[mask])
    assert np.array_equal(ds.masked_select(x, row).numpy(), X[..., ::2].reshape(-1))
    source = np.arange(100.0)
    wanted = X.copy()
    wanted[mask] = source[: mask.sum()]
    run = ds.jit(ds.masked_scatter)
    assert np.array_equal(run(x, m, ds.asarray(source)).numpy(), wanted)
    with pytest.raises(ArgumentError, match="ds.where"):
        ds.jit(ds.masked_select)(x, m)


def test_an_index_may_be_smaller_than_the_tensor_and_the_source() -> None:
    x, index, source = np.zeros((3, 4)), np.array([[1, 0], [3, 3]]), numbers(5, 6)
    wanted = x.copy()
    for i, j in np.ndindex(2, 2):
        wanted[i, index[i, j]] = source[i, j]
    got = ds.scatter(ds.asarray(x), 1, ds.asarray(index), ds.asarray(source))
    assert np.array_equal(got.numpy(), wanted)
    y = numbers(5, 6)
    taken = ds.gather(ds.asarray(y), 1, ds.asarray(index))
    assert np.array_equal(taken.numpy(), np.take_along_axis(y[:2], index, axis=1))


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "bfloat16", "float16"])
def test_every_dtype_is_written(dtype: str) -> None:
    x = ds.zeros(4, dtype=dtype)
    out = ds.scatter(x, 0, ds.asarray([2, 0]), ds.ones(2, dtype=dtype))
    assert out.dtype is x.dtype and out.astype(ds.int32).tolist() == [1, 0, 1, 0]


I, T = ds.asarray([0, 5]), ds.asarray(X)  # noqa: E741
REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: ds.scatter_reduce(T, 0, I, T, "max"), "one of 'sum'"),
    (lambda: ds.scatter(T, 0, I, 1), "of one shape"),
    (lambda: ds.scatter(T, 0, ds.zeros(5, 3, 6, dtype=ds.int64), 1), "at most as large"),
    (lambda: ds.index_add(T, 3, I, T), "axis 3"),
    (lambda: ds.index_select(T, 0, [4]), "-4 <= index < 4"),
    (lambda: ds.index_copy(T, 0, np.array([0, -5]), T), "index -5"),
    (lambda: ds.put(T, [60], 1.0), "index 60"),
    (lambda: ds.masked_select(T, T), "truth values"),
    (lambda: ds.scatter_elements(T, 0, I, T, combine="sub"), "unknown combine"),
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_bad_arguments_are_refused(case: int) -> None:
    call, said = REFUSED[case]
    with pytest.raises(DeepseekError) as error:
        call()
    assert said in str(error.value)
