"""Truth of many elements, closeness and equality; NaN is equal to nothing by default."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import bool_, float64
from deepseek.ir.op import Kind, Sample
from deepseek.ir.shape import same_shape
from deepseek.ops import forms
from deepseek.ops.comparison import equal
from deepseek.ops.create import full
from deepseek.ops.define import (
    ALL,
    BOOLEAN,
    as_tensor,
    composite,
    converted,
    primitive,
    promoted,
    shape_of,
)
from deepseek.ops.elementwise import abs, subtract
from deepseek.ops.methods import method
from deepseek.ops.reductions import Axis, fold, fold_samples, folded_type, reduced

__all__ = ["all", "allclose", "any", "array_equal", "isclose", "isreal"]

EDGES = np.array([0.0, 1.0, 1.000001, 1.1, np.inf, -np.inf, np.nan], np.float32)


def _truth(x: Any, name: str) -> Tensor:
    out = as_tensor(x, name)
    return out if out.dtype is bool_ else out != 0


def _truth_samples() -> list[Sample]:
    return [*fold_samples()(), Sample((np.arange(24).reshape(2, 3, 4) % 5 == 0,), {"axis": (0, 2)})]


@primitive(
    Kind.REDUCE,
    infer=folded_type(bool_),
    meaning=fold("bitor", lambda dtype: False),
    reference=lambda x, *, axes: np.any(x, axis=axes),
    takes=BOOLEAN,
    samples=_truth_samples,
    method="any",
    onnx=forms.some,
)
def any(x: Tensor, /, axis: Axis = None, keepdims: bool = False) -> Tensor:  # noqa: A001
    """Whether some element is true (or not 0) over some axes, all by default; false for none.

    Raises ShapeError for axes that x does not have.

    >>> ds.any(ds.asarray([[0, 1], [0, 0]]), axis=1)
    tensor([ True, False])
    """
    return reduced(any, _truth(x, "any"), axis, keepdims)


@primitive(
    Kind.REDUCE,
    infer=folded_type(bool_),
    meaning=fold("bitand", lambda dtype: True),
    reference=lambda x, *, axes: np.all(x, axis=axes),
    takes=BOOLEAN,
    samples=_truth_samples,
    method="all",
    onnx=forms.every,
)
def all(x: Tensor, /, axis: Axis = None, keepdims: bool = False) -> Tensor:  # noqa: A001
    """Whether every element is true (or not 0) over some axes, all by default; true for none.

    Raises ShapeError for axes that x does not have.

    >>> ds.all(ds.asarray([[1, 1], [0, 1]]), axis=1)
    tensor([ True, False])
    """
    return reduced(all, _truth(x, "all"), axis, keepdims)


@composite(
    reference=lambda a, b, rtol, atol, equal_nan: np.isclose(a, b, rtol, atol, equal_nan),
    samples=lambda: [
        Sample(((3, 7), (3, 7))),
        Sample((EDGES, EDGES.reshape((7, 1)))),
        Sample((EDGES, EDGES.reshape((7, 1))), {"equal_nan": True, "rtol": 0.5}),
        Sample(((3, 7), (7,)), {"atol": 1.0}),
        Sample((np.array([10, 11]), np.array([10, 12])), {"rtol": 0.1}),
        Sample(((0, 3), (3,))),
    ],
    takes=ALL,
    method="isclose",
)
def isclose(
    a: Tensor, b: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Tensor:
    """Whether |a - b| <= atol + rtol * |b|, for each element; equal infinities are close.

    Raises ArgumentError for a tolerance below 0.

    >>> ds.isclose(ds.asarray([1.0, 2.0]), ds.asarray([1.0000001, 2.1]))
    tensor([ True, False])
    """
    if rtol < 0 or atol < 0:
        got = f"rtol={rtol} and atol={atol}"
        raise op_error(ArgumentError, "isclose", got, "both 0 or more", user_line())
    a, b = promoted("isclose", (a, b), ALL)
    if not a.dtype.is_float:
        a, b = converted(a, float64), converted(b, float64)
    near = (abs(subtract(a, b)) <= atol + rtol * abs(b)) & (abs(b) < math.inf)
    out: Tensor = near | (a == b)
    return out | ((a != a) & (b != b)) if equal_nan else out


@method("allclose")
def allclose(
    a: Tensor, b: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Tensor:
    """Whether all elements are close: `isclose` as one truth value.

    >>> ds.allclose(ds.asarray([1.0, 2.0]), ds.asarray([1.0000001, 2.0]))
    tensor(True)
    """
    return all(isclose(a, b, rtol, atol, equal_nan))


def array_equal(a: Tensor, b: Tensor) -> Tensor:
    """Whether two tensors have the same shape and elements, as one truth value.

    >>> ds.array_equal(ds.ones(2), ds.ones(2)), ds.array_equal(ds.ones(2), ds.ones(3))
    (tensor(True), tensor(False))
    """
    a, b = as_tensor(a, "array_equal"), as_tensor(b, "array_equal")
    if not same_shape(shape_of(a), shape_of(b)):
        return full((), False)
    return all(equal(a, b))


@method("isreal")
def isreal(x: Tensor) -> Tensor:
    """True for each element, since there are no complex numbers.

    >>> ds.isreal(ds.asarray([1.0, np.nan]))
    tensor([ True,  True])
    """
    return full(shape_of(x), True, dtype=bool_)
