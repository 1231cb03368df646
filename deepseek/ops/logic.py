"""Closeness and equality of tensors, which compare by value; NaN is equal to nothing by default."""

from __future__ import annotations

import math

import numpy as np

from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import bool_, float64
from deepseek.ir.op import Sample
from deepseek.ir.shape import same_shape
from deepseek.ops.create import full
from deepseek.ops.define import ALL, as_tensor, composite, converted, method, promoted, shape_of
from deepseek.ops.elementwise import abs, equal, subtract
from deepseek.ops.reduce import all

__all__ = ["allclose", "array_equal", "isclose", "isreal"]

EDGES = np.array([0.0, 1.0, 1.000001, 1.1, np.inf, -np.inf, np.nan], np.float32)


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

    >>> ds.isclose(ds.asarray([1.0, 2.0]), ds.asarray([1.0000001, 2.1]))
    tensor([ True, False])
    """
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
