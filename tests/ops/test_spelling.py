"""The keywords of both standards are taken by functions, methods and composites."""

from __future__ import annotations

import inspect

import pytest

import deepseek as ds
from deepseek.nn import functional as F


def test_both_standards_are_spoken() -> None:
    x = ds.arange(12, dtype=ds.float32).reshape(3, 4)
    wanted = x.numpy().sum(1, keepdims=True).tolist()
    assert x.sum(axis=1, keepdims=True).numpy().tolist() == wanted
    assert x.sum(dim=1, keepdim=True).numpy().tolist() == wanted
    assert ds.sum(x, dim=1, keepdim=True).numpy().tolist() == wanted
    assert ds.concat([x, x], dim=1).shape == (3, 8)
    same = F.softmax(x, dim=0).numpy() == F.softmax(x, axis=0).numpy()
    assert same.all()


def test_the_signature_stays() -> None:
    assert list(inspect.signature(ds.mean).parameters)[1] == "axis"
    assert list(inspect.signature(ds.softmax).parameters)[1] == "dim"


def test_both_at_once_and_neither() -> None:
    with pytest.raises(TypeError):
        ds.sum(ds.ones(2, 2), 0, dim=1)
    with pytest.raises(TypeError, match="dmi"):
        ds.sum(ds.ones(2, 2), dmi=1)
