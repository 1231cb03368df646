"""Questions about dtypes, as the array API asks them: promotion, limits, kinds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from deepseek.errors import ArgumentError, DTypeError, op_error, unknown, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import DType, dtype_of, promote
from deepseek.ops.define import filled, result_dtype
from deepseek.ops.methods import is_operand

__all__ = ["can_cast", "finfo", "iinfo", "isdtype", "result_type"]

KINDS = {
    "bool": "b", "signed integer": "i", "unsigned integer": "u", "integral": "iu",
    "real floating": "f", "complex floating": "", "numeric": "iuf",
}  # fmt: skip


@dataclass(frozen=True)
class FloatLimits:
    """What `finfo` gives."""

    dtype: DType
    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float


@dataclass(frozen=True)
class IntegerLimits:
    """What `iinfo` gives."""

    dtype: DType
    bits: int
    max: int
    min: int


def _asked(type: Any) -> DType:  # noqa: A002
    return type.dtype if isinstance(type, Tensor) else dtype_of(type)


def finfo(type: Any, /) -> FloatLimits:  # noqa: A002
    """The limits of a float dtype, or of a tensor's. Raises DTypeError for others.

    >>> ds.finfo(ds.float16).max, ds.finfo(ds.bfloat16).eps
    (65504.0, 0.0078125)
    """
    dtype = _asked(type)
    if not dtype.is_float:
        raise op_error(DTypeError, "finfo", dtype, "a float dtype", user_line(), "see ds.iinfo")
    limits: Any = ml_dtypes.finfo(dtype.numpy)  # type: ignore[no-untyped-call]
    numbers = (limits.eps, limits.max, limits.min, limits.smallest_normal)
    return FloatLimits(dtype, dtype.bits, *(float(v) for v in numbers))


def iinfo(type: Any, /) -> IntegerLimits:  # noqa: A002
    """The limits of an integer dtype, or of a tensor's. Raises DTypeError for others.

    >>> ds.iinfo(ds.int8).min, ds.iinfo(ds.uint16).max
    (-128, 65535)
    """
    dtype = _asked(type)
    if not dtype.is_integer:
        raise op_error(DTypeError, "iinfo", dtype, "an integer dtype", user_line(), "see ds.finfo")
    limits = np.iinfo(dtype.numpy)
    return IntegerLimits(dtype, dtype.bits, int(limits.max), int(limits.min))


def isdtype(dtype: Any, kind: Any) -> bool:
    """Whether a dtype is of a kind, is the given dtype, or is one of a tuple of these.

    Kinds: "bool", "signed integer", "unsigned integer", "integral", "real floating",
    "complex floating", "numeric". Raises ArgumentError for other names.

    >>> ds.isdtype(ds.float32, "real floating"), ds.isdtype(ds.int8, ("bool", ds.int16))
    (True, False)
    """
    asked = dtype_of(dtype)
    if isinstance(kind, tuple):
        return any(isdtype(asked, k) for k in kind)
    if not isinstance(kind, str):
        return asked is dtype_of(kind)
    if kind not in KINDS:
        raise unknown("kind of dtype", kind, KINDS)
    return asked.kind in KINDS[kind]


def result_type(*arrays_and_dtypes: Any) -> DType:
    """The dtype that tensors, dtypes and (weak) Python numbers meet in.

    Raises DTypeError where there is none, ArgumentError for no arguments.

    >>> ds.result_type(ds.int32, ds.ones(2), 3)
    deepseek.float32
    """
    if not arrays_and_dtypes:
        raise op_error(ArgumentError, "result_type", "nothing", "one at least", user_line())
    args = [a if is_operand(a) else filled((), 0, dtype_of(a)) for a in arrays_and_dtypes]
    return result_dtype("result_type", args)


def can_cast(from_: Any, to: Any, /) -> bool:
    """Whether promotion leads from a tensor or dtype to a dtype.

    >>> ds.can_cast(ds.int32, ds.int64), ds.can_cast(ds.float32, ds.int64)
    (True, False)
    """
    source, target = _asked(from_), dtype_of(to)
    try:
        return promote(source, target) is target
    except DTypeError:
        return False
