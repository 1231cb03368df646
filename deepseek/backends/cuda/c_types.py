"""Element types and constants as CUDA C++ writes them.

In flow DTypes, int64 expressions and constants; out flow type names of the prelude and literals. An
int64 expression is computed in 32 bits where its bounds say that it fits.
"""

from __future__ import annotations

import math

import numpy as np

from deepseek.ir.dtype import DType, float32, float64, int32, int64, uint32, uint64
from deepseek.ir.scalar import Expr, bounds

NAMES = {"int32": "int", "float32": "float", "float64": "double"}
INT_LOW, INT_HIGH = -(1 << 31), (1 << 31) - 1
STEPPED = 1 << 30  # a loop variable below it may be stepped on without leaving 32 bits


def c_type(dtype: DType) -> str:
    """The name of a type: C's own where it has a short one, else the prelude's."""
    return NAMES.get(dtype.name, dtype.name)


def is_half(dtype: DType) -> bool:
    return dtype.is_float and dtype.bits == 16


def fits_int(e: Expr) -> bool:
    """Whether the values of an int64 expression are known to fit 32 bits."""
    low, high = bounds(e)
    return low is not None and high is not None and low >= INT_LOW and high <= INT_HIGH


def value_type(e: Expr) -> str:
    """The type in which an expression is computed."""
    return "int" if e.dtype is int64 and fits_int(e) else c_type(e.dtype)


def counter_type(extent: Expr) -> str:
    """The type of a loop variable that runs up to an extent, in steps."""
    high = bounds(extent)[1]
    return "int" if high is not None and high <= STEPPED else "int64"


def literal(value: bool | int | float, dtype: DType) -> str:
    """A constant of a type."""
    if dtype.is_bool:
        return "true" if value else "false"
    if dtype.is_float:
        return _float_literal(float(value), dtype)
    if dtype in (int32, int64):
        return _signed_literal(int(value))
    if dtype is uint32:
        return f"{value}u"
    if dtype is uint64:
        return f"{value}ull"
    return f"{dtype.name}({value})"


def _signed_literal(value: int) -> str:
    suffix = "" if INT_LOW <= value <= INT_HIGH else "ll"
    if value in (INT_LOW, -(1 << 63)):  # C reads the minus apart from the number
        return f"({value + 1}{suffix} - 1)"
    return f"{value}{suffix}"


def _float_literal(value: float, dtype: DType) -> str:
    if is_half(dtype):
        return f"to_{dtype.name}({_float_literal(value, float32)})"
    suffix = "" if dtype is float64 else "f"
    if math.isfinite(value):
        shortest = repr(value) if dtype is float64 else str(np.float32(value))
        return shortest + suffix if "." in shortest or "e" in shortest else f"{shortest}.0{suffix}"
    name = "NAN" if math.isnan(value) else "INFINITY"
    sign = "-" if value < 0 else ""
    return f"{sign}{name}{'64' if dtype is float64 else '32'}"
