"""In which dtype an op computes inside `ds.amp.autocast`.

In flow the arguments of a public op function and the record's `precision` class; out flow the same
arguments, their float tensors in the dtype that the class asks for. This is the only rule there is:
eager and traced code record the same casts, so results have their dtypes as soon as they are
recorded, and the graph holds nothing but ordinary casts, which merging makes one per value.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from deepseek.frontend.tensor import Tensor, from_numpy, record, state
from deepseek.ir.dtype import DType, dtype_of, float32, float64
from deepseek.ir.op import REGISTRY, Kind, Op


class computing_in:  # noqa: N801
    """Context manager: the dtype of ops of the class "low" in this thread, None for their own."""

    def __init__(self, dtype: DType | None) -> None:
        self.dtype = dtype
        self._before: list[DType | None] = []

    def __enter__(self) -> None:
        self._before.append(state.autocast)
        state.autocast = self.dtype

    def __exit__(self, *_: object) -> None:
        state.autocast = self._before.pop()


def autocasting(op: Op, function: Callable[..., Any]) -> Callable[..., Any]:
    """An op's public function, which inside autocast converts its arguments first.

    The op is classed as a whole: what its body calls sees no autocast. "promote" needs no
    conversion, since ops promote by themselves; control flow has the classes of what is in it.
    """
    if op.precision == "promote" or op.kind is Kind.CONTROL:
        return function

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        low = state.autocast
        if low is None:
            return function(*args, **kwargs)
        dtype = low if op.precision == "low" else float32
        with computing_in(None):
            named = {name: converted(x, dtype) for name, x in kwargs.items()}
            return function(*[converted(x, dtype) for x in args], **named)

    return call


def converted(x: Any, dtype: DType) -> Any:
    """An argument with its float tensors in a dtype; those of float64 stay what they are."""
    if isinstance(x, (list, tuple)) and any(isinstance(part, Tensor) for part in x):
        return type(x)([converted(part, dtype) for part in x])
    if isinstance(x, np.ndarray) and x.dtype.kind == "f":
        x = from_numpy(x, dtype_of(x.dtype))
    if not isinstance(x, Tensor) or not x.dtype.is_float or x.dtype in (dtype, float64):
        return x
    return record(REGISTRY["astype"], x, dtype=dtype)
