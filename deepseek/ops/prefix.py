"""Prefix folds: the result at each position is the fold of everything up to it along one axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepseek.errors import ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor, record
from deepseek.ir.dtype import dtype_of, int64, uint64
from deepseek.ir.op import Kind, Sample
from deepseek.ir.shape import TensorType
from deepseek.ops import forms
from deepseek.ops.define import (
    NUMERIC,
    as_tensor,
    axis_of,
    converted,
    describe,
    op_of,
    primitive,
)
from deepseek.ops.reduce import fold

__all__ = ["cumsum", "cumulative_sum"]


def _cumulative_sum_vjp(g: Tensor, y: Tensor, x: Tensor, *, axis: int) -> tuple[Tensor]:
    return (g.flip(axis).cumulative_sum(axis=axis).flip(axis),)


def _infer(x: TensorType, *, axis: int) -> tuple[TensorType, ...]:
    return (x,)


@primitive(
    Kind.PREFIX,
    infer=_infer,
    meaning=fold("add", lambda dtype: 0),
    reference=lambda x, *, axis: np.cumsum(x, axis=axis, dtype=x.dtype),
    vjp=_cumulative_sum_vjp,
    takes=NUMERIC,
    samples=lambda: [
        Sample(((37,),)),
        Sample(((3, 5, 4),), {"axis": 1}),
        Sample(((3, 5),), {"axis": -1}),
        Sample(((3, 4),), {"axis": 0, "include_initial": True}),
        Sample(((2, 0),), {"axis": 1}),
    ],
    tolerance=32,
    method="cumulative_sum",
    precision="high",
    onnx=forms.cumulative_sum,
)
def cumulative_sum(
    x: Tensor, /, axis: int | None = None, *, dtype: Any = None, include_initial: bool = False
) -> Tensor:
    """The running sum along an axis, in 64 bits for integers; `include_initial` adds a 0 before."""
    x = as_tensor(x, "cumulative_sum")
    if axis is None:
        if x.ndim != 1:
            raise op_error(
                ShapeError, "cumulative_sum", f"{describe(x)} and no axis", "an axis", user_line(),
                "pass axis=..., or flatten first",
            )  # fmt: skip
        axis = 0
    axis = axis_of("cumulative_sum", x, axis)
    if dtype is not None:
        x = converted(x, dtype_of(dtype))
    elif not x.dtype.is_float:
        x = converted(x, uint64 if x.dtype.kind == "u" else int64)
    out: Tensor = record(op_of(cumulative_sum), x, axis=axis)
    if include_initial:
        before = [(int(i == axis), 0) for i in range(x.ndim)]
        return out.pad(before)
    return out


def cumsum(x: Tensor, /, dim: int, *, dtype: Any = None) -> Tensor:
    """PyTorch's name for `cumulative_sum`."""
    return cumulative_sum(x, axis=dim, dtype=dtype)


for _name, _method in {"cumsum": cumsum}.items():
    setattr(Tensor, _name, _method)
