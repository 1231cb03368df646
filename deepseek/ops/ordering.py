"""Order: stable sorting, run by a routine of the runtime. NaN counts as the largest value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, op_error, user_line
from deepseek.frontend.tensor import Tensor, record
from deepseek.ir.dtype import DTYPES, int64
from deepseek.ir.op import Kind, Sample
from deepseek.ir.shape import Size, TensorType, numel, tensor_type
from deepseek.ops import forms
from deepseek.ops.define import (
    ALL,
    as_tensor,
    axis_of,
    describe,
    expanded,
    filled,
    op_of,
    primitive,
    shape_of,
)
from deepseek.ops.index import scatter_add
from deepseek.ops.methods import method

__all__ = ["argsort", "kthvalue", "sort", "topk"]

Types = Sequence[TensorType]


def _reference(x: Any, *, descending: bool) -> Any:
    if descending:
        # Stable from the other end: the order of the reversed array, reversed.
        back = np.argsort(x[..., ::-1], axis=-1, kind="stable")
        order = x.shape[-1] - 1 - back[..., ::-1]
    else:
        order = np.argsort(x, axis=-1, kind="stable")
    return np.take_along_axis(x, order, axis=-1), order.astype(np.int64)


def _vjp(g: Any, y: Any, x: Tensor, *, descending: bool) -> tuple[Any]:
    if g[0] is None:
        return (None,)
    zeros = expanded(filled((), 0, x.dtype), shape_of(x))
    return (scatter_add(zeros, -1, y[1], g[0]),)


def _infer(x: TensorType, *, descending: bool) -> tuple[TensorType, ...]:
    return x, tensor_type(int64, x.shape)


def _sizes(inputs: Types, outputs: Types, *, descending: bool) -> tuple[Size, ...]:
    """What the runtime's routine takes: rows, elements in a row, number of the dtype, direction."""
    (x,) = inputs
    return numel(x.shape[:-1]), x.shape[-1], list(DTYPES.values()).index(x.dtype), int(descending)


def _samples() -> list[Sample]:
    ties = np.array([[3, 1, 3, 1, 2], [0, 0, 0, 0, 0]])
    return [
        Sample(((3, 37),)),
        Sample(((4, 3, 5),), {"axis": 1, "descending": True}),
        Sample((ties,)),
        Sample((ties,), {"descending": True}),
        Sample((np.array([2, np.nan, -np.inf, 1, np.nan], np.float32),)),
        Sample((np.array([2, np.nan, -np.inf, 1, np.nan], np.float32),), {"descending": True}),
        Sample(((0, 3),), {"axis": 0}),
    ]


@primitive(
    Kind.ORDER,
    infer=_infer,
    meaning=_sizes,
    reference=_reference,
    vjp=_vjp,
    takes=ALL,
    samples=_samples,
    routine="sort",
    onnx=forms.sort,
)
def sort_(x: Tensor, /, *, axis: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    """(values, indices) of x in order along an axis; equal elements stay in theirs."""
    x = as_tensor(x, "sort")
    axis = axis_of("sort", x, axis)
    values, indices = record(op_of(sort_), x.swapaxes(axis, -1), descending=bool(descending))
    return values.swapaxes(axis, -1), indices.swapaxes(axis, -1)


@method("sort")
def sort(x: Tensor, /, axis: int = -1, descending: bool = False, *, stable: bool = True) -> Tensor:
    """x in order along an axis; equal elements stay in theirs. NaN counts as the largest.

    >>> ds.sort(ds.asarray([3, 1, 2]), descending=True)
    tensor([3, 2, 1])
    """
    return sort_(x, axis=axis, descending=descending)[0]


@method("argsort")
def argsort(
    x: Tensor, /, axis: int = -1, descending: bool = False, *, stable: bool = True
) -> Tensor:
    """The indices that bring x in order along an axis; equal elements stay in theirs.

    >>> ds.argsort(ds.asarray([3, 1, 2]))
    tensor([1, 2, 0])
    """
    return sort_(x, axis=axis, descending=descending)[1]


@method("topk")
def topk(
    x: Tensor,
    k: int,
    dim: int = -1,
    largest: bool = True,
    sorted: bool = True,  # noqa: A002
) -> tuple[Tensor, Tensor]:
    """(values, indices) of the k largest (or smallest) elements along an axis, in order.

    Raises ArgumentError where there are not as many.

    >>> ds.topk(ds.asarray([3, 1, 2]), 2)
    (tensor([3, 2]), tensor([0, 2]))
    """
    axis = axis_of("topk", x, dim)
    if not 0 <= k <= x.shape[axis]:
        raise op_error(
            ArgumentError, "topk", f"{describe(x)} and k={k}", f"0 <= k <= {x.shape[axis]}",
            user_line(),
        )  # fmt: skip
    values, indices = sort_(x, axis=axis, descending=largest)
    return values.narrow(axis, 0, k), indices.narrow(axis, 0, k)


@method("kthvalue")
def kthvalue(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """(values, indices) of the k-th smallest element along an axis, k counted from 1.

    Raises ArgumentError where there are not as many.

    >>> ds.kthvalue(ds.asarray([30, 10, 20]), 2)
    (tensor(20), tensor(2))
    """
    axis = axis_of("kthvalue", x, dim)
    if not 1 <= k <= x.shape[axis]:
        raise op_error(
            ArgumentError, "kthvalue", f"{describe(x)} and k={k}", f"1 <= k <= {x.shape[axis]}",
            user_line(),
        )  # fmt: skip
    values, indices = (t.narrow(axis, k - 1, 1) for t in sort_(x, axis=axis))
    return (values, indices) if keepdim else (values.squeeze(axis), indices.squeeze(axis))
