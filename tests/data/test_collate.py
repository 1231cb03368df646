"""default_collate and default_convert."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

import deepseek as ds
from deepseek.data import default_collate, default_convert
from deepseek.errors import ArgumentError, DTypeError, ShapeError


class Point(NamedTuple):
    x: Any
    y: Any


def test_numbers() -> None:
    for items, dtype in [
        ([1, 2], ds.int64), ([1.5, 2], None), ([0.1, 0.2], ds.float32), ([True, False], ds.bool)
    ]:  # fmt: skip
        batch = default_collate(items)
        assert batch.tolist() == pytest.approx(items)
        assert dtype is None or batch.dtype == dtype
    assert default_collate([np.float64(0.1)]).dtype == ds.float64
    assert default_collate([np.int8(3), np.int8(4)]).dtype == ds.int8


@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "bool", "uint16", "int64"])
def test_arrays_and_tensors_are_stacked(shape: tuple[int, ...], dtype: str) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    arrays = [np.full(shape, i, np.float32).astype(kind) for i in range(4)]
    expected = np.stack(arrays)
    for items in (arrays, [ds.asarray(a) for a in arrays]):
        batch = default_collate(items)
        assert batch.dtype.name == dtype and batch.shape == (4, *shape)
        assert batch.numpy().tobytes() == expected.tobytes()


def test_pending_tensors_and_odd_strides() -> None:
    x = ds.arange(6).reshape((2, 3))
    assert default_collate([x.T * 2, x.T]).tolist() == [
        [[0, 6], [2, 8], [4, 10]],
        [[0, 3], [1, 4], [2, 5]],
    ]
    a = np.arange(12).reshape(3, 4)[::-1, ::2].T
    assert default_collate([a, a]).tolist() == [a.tolist()] * 2


def test_containers_keep_their_form() -> None:
    items = [
        {"p": Point(np.ones(2) * i, (i, [f"name{i}", None is i])), "b": b"x"} for i in range(3)
    ]
    batch = default_collate(items)
    assert type(batch) is dict and list(batch) == ["p", "b"]
    assert type(batch["p"]) is Point and batch["p"].x.tolist() == [[0, 0], [1, 1], [2, 2]]
    numbers, (names, flags) = batch["p"].y
    assert numbers.tolist() == [0, 1, 2] and names == ["name0", "name1", "name2"]
    assert flags.tolist() == [False] * 3 and batch["b"] == [b"x"] * 3
    assert type(default_collate([(1, 2), (3, 4)])) is list
    assert type(default_collate([OrderedDict(a=1)])) is OrderedDict
    assert default_collate([defaultdict(int, a=1)])["a"].tolist() == [1]
    assert default_collate([(), ()]) == [] and default_collate([{}, {}]) == {}


def test_mixed_dtypes_are_promoted_as_numpy_does() -> None:
    assert default_collate([np.int8(1), np.float32(2)]).dtype == ds.float32
    assert default_collate([1, 2.5]).dtype == ds.float64


@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        ([], ArgumentError, "got no items"),
        ([None], ArgumentError, "got None; wanted tensors"),
        ([{"a": (1, {1})}], ArgumentError, r"got a set at item\['a'\]\[1\]"),
        ([np.ones(2), np.ones(3)], ShapeError, r"shapes \(2,\), \(3,\); wanted equal"),
        ([Point(1, np.ones(2)), Point(1, 3)], ShapeError, r"\(2,\), \(\) at item.y"),
        ([1, "a"], ArgumentError, "got a int and a str"),
        ([(1, 2), (1,)], ArgumentError, "a tuple of 2, a tuple of 1; wanted items of one form"),
        ([(1,), 1], ArgumentError, "a tuple of 1, a int"),
        ([{"a": 1}, {"b": 1}], ArgumentError, "an item lacks 'a'"),
        ([{"a": {"c": 1}}, {"a": 1}], ArgumentError, r"lacks 'c' at item\['a'\]"),
        ([np.array(["a"])], DTypeError, "arrays of <U1"),
        ([np.array([1j])], DTypeError, "complex128"),
        ([np.array([None])], DTypeError, "object"),
    ],
)
def test_what_does_not_fit_is_named(items: list[Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        default_collate(items)


def test_convert() -> None:
    item = {"a": np.arange(3), "b": (np.float32(1), "text"), "c": [Point(1, np.ones(1))]}
    made = default_convert(item)
    assert made["a"].dtype == ds.int64 and isinstance(made["a"], ds.Tensor)
    assert made["b"][0].dtype == ds.float32 and made["b"][1] == "text"
    assert made["c"][0].x == 1 and isinstance(made["c"][0].y, ds.Tensor)
    assert default_convert(np.array(["a"])).tolist() == ["a"]
