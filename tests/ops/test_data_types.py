"""Promotion, limits and kinds of dtypes against NumPy's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import deepseek as ds
from deepseek.errors import ArgumentError, DTypeError
from deepseek.ir.dtype import DTYPES

NAMES = [name for name in DTYPES if name not in ("bfloat16", "float16")]


@pytest.mark.parametrize("a, b", list(itertools.product(NAMES, NAMES)))
def test_types_meet_as_the_standard_says(a: str, b: str) -> None:
    wanted = np.result_type(a, b)
    kinds = {DTYPES[a].kind, DTYPES[b].kind}
    if kinds == {"i", "u"} and "uint64" in (a, b):
        with pytest.raises(DTypeError):
            ds.result_type(DTYPES[a], DTYPES[b])
    elif "f" in kinds and kinds & {"i", "u"}:  # which the standard leaves open
        assert ds.result_type(DTYPES[a], DTYPES[b]).kind == "f"
    else:
        assert ds.result_type(DTYPES[a], DTYPES[b]).numpy == wanted
        assert ds.can_cast(DTYPES[a], DTYPES[b]) == (wanted == np.dtype(b))


def test_limits() -> None:
    for name in ("float32", "float64", "float16"):
        mine, theirs = ds.finfo(DTYPES[name]), np.finfo(name)
        assert (mine.eps, mine.max, mine.min) == (theirs.eps, theirs.max, theirs.min)
        assert mine.smallest_normal == theirs.smallest_normal and mine.bits == theirs.bits
    assert ds.iinfo(ds.zeros(2, dtype=ds.uint8)).max == 255
    with pytest.raises(DTypeError, match="see ds.iinfo"):
        ds.finfo(ds.int8)
    with pytest.raises(DTypeError, match="see ds.finfo"):
        ds.iinfo(ds.float32)


def test_kinds() -> None:
    for name, dtype in DTYPES.items():
        assert ds.isdtype(dtype, "integral") == ("int" in name)
        assert ds.isdtype(dtype, ("signed integer", "real floating")) == (dtype.kind in "if")
        assert ds.isdtype(dtype, "numeric") == (name != "bool")
    with pytest.raises(ArgumentError, match="did you mean 'integral'"):
        ds.isdtype(ds.int8, "integer")


def test_python_numbers_are_weak() -> None:
    assert ds.result_type(ds.int8, 300) is ds.int8
    assert ds.result_type(ds.float16, 2.5) is ds.float16
    assert ds.result_type(ds.int8, 2.5) is ds.float32
    assert not ds.can_cast(ds.uint64, ds.int64)
