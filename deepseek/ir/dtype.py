"""Element types.

A `DType` is one of thirteen singletons; compare them with `is`. This module also holds the array
API promotion rules, with two additions the standard leaves open: an integer meets a float in that
float, and float16 meets bfloat16 in float32. Python scalars are weak: they never widen an array's
kind.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from deepseek.errors import DTypeError, unknown


class DType:
    """An element type: its name, NumPy equivalent and size in bytes.

    >>> ds.float16.name, ds.float16.numpy, ds.float16.itemsize, ds.float16.is_float
    ('float16', dtype('float16'), 2, True)
    """

    __slots__ = ("name", "numpy", "itemsize", "kind", "bits")

    def __init__(self, name: str, numpy: Any, kind: str) -> None:
        self.name = name
        self.numpy: np.dtype[Any] = np.dtype(numpy)
        self.itemsize: int = self.numpy.itemsize
        self.bits: int = self.itemsize * 8
        self.kind = kind  # b(ool), i(nt), u(int), f(loat)

    @property
    def is_float(self) -> bool:
        return self.kind == "f"

    @property
    def is_integer(self) -> bool:
        return self.kind in "iu"

    @property
    def is_bool(self) -> bool:
        return self.kind == "b"

    @property
    def accumulator(self) -> DType:
        """The type sums and products are carried in: float32 for the 16-bit floats."""
        return float32 if self.kind == "f" and self.bits == 16 else self

    def __repr__(self) -> str:
        return f"deepseek.{self.name}"

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return dtype_of, (self.name,)


bool_ = DType("bool", np.bool_, "b")
int8 = DType("int8", np.int8, "i")
int16 = DType("int16", np.int16, "i")
int32 = DType("int32", np.int32, "i")
int64 = DType("int64", np.int64, "i")
uint8 = DType("uint8", np.uint8, "u")
uint16 = DType("uint16", np.uint16, "u")
uint32 = DType("uint32", np.uint32, "u")
uint64 = DType("uint64", np.uint64, "u")
float16 = DType("float16", np.float16, "f")
bfloat16 = DType("bfloat16", ml_dtypes.bfloat16, "f")
float32 = DType("float32", np.float32, "f")
float64 = DType("float64", np.float64, "f")

DTYPES: dict[str, DType] = {
    d.name: d
    for d in (bool_, int8, int16, int32, int64, uint8, uint16, uint32, uint64,
              float16, bfloat16, float32, float64)
}  # fmt: skip
_BY_NUMPY = {d.numpy: d for d in DTYPES.values()}
_SIGNED = {8: int8, 16: int16, 32: int32, 64: int64}


def dtype_of(given: Any) -> DType:
    """The DType named by a DType, a string, a Python type or a NumPy dtype.

    Raises ArgumentError, listing the valid names, for anything else.
    """
    if isinstance(given, DType):
        return given
    if given is bool:
        return bool_
    if given is int:
        return int64
    if given is float:
        return float32
    if isinstance(given, str) and given in DTYPES:
        return DTYPES[given]
    try:
        return _BY_NUMPY[np.dtype(given)]
    except (TypeError, KeyError):
        raise unknown("dtype", str(given), list(DTYPES)) from None


def promote(a: DType, b: DType) -> DType:
    """The type two arrays meet in. Raises DTypeError for uint64 with a signed integer."""
    if a is b:
        return a
    if a.kind == "b":
        return b
    if b.kind == "b":
        return a
    if a.kind == "f" or b.kind == "f":
        if a.kind != b.kind:
            return a if a.kind == "f" else b
        if a.bits == b.bits:
            return float32
        return a if a.bits > b.bits else b
    if a.kind == b.kind:
        return a if a.bits > b.bits else b
    signed, unsigned = (a, b) if a.kind == "i" else (b, a)
    if unsigned.bits == 64:
        raise DTypeError(
            f"{a.name} and {b.name} have no common integer type\n"
            f"  help: cast one of them, e.g. x.astype(ds.int64)"
        )
    return signed if signed.bits > unsigned.bits else _SIGNED[unsigned.bits * 2]


def promote_scalar(array: DType, scalar: Any) -> DType:
    """The type an array and a Python scalar meet in; the scalar is weak."""
    if isinstance(scalar, bool):
        return array
    if isinstance(scalar, int):
        return int64 if array.kind == "b" else array
    return array if array.kind == "f" else float32


def scalar_dtype(scalar: Any) -> DType:
    """The default type of a Python scalar on its own."""
    if isinstance(scalar, bool):
        return bool_
    return int64 if isinstance(scalar, int) else float32
