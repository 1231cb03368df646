"""How scalars and vectors are written in LLVM IR, and what an expression becomes.

16-bit floats are carried as their bits (`i16`): conversions are written out where the target has no
instruction for them, and no text ever needs the type `half` or `bfloat` in a register. Booleans are
`i1` in registers and bytes in memory.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepseek.ir.dtype import DType, bfloat16, bool_, float16
from deepseek.ir.scalar import Expr

NOTHING: frozenset[str] = frozenset()

_REGISTER = {
    "bool": "i1", "int8": "i8", "int16": "i16", "int32": "i32", "int64": "i64",
    "uint8": "i8", "uint16": "i16", "uint32": "i32", "uint64": "i64",
    "float16": "i16", "bfloat16": "i16", "float32": "float", "float64": "double",
}  # fmt: skip

SUFFIX = {"i1": "i1", "i8": "i8", "i16": "i16", "i32": "i32", "i64": "i64",
          "float": "f32", "double": "f64", "half": "f16"}  # fmt: skip


@dataclass(slots=True, frozen=True)
class Value:
    """Operands of an expression: one, or one a copy in a vector context; lanes 0 means scalar.

    `reads` names the buffers that the kernel also writes and the value was loaded from.
    """

    ops: tuple[str, ...]
    lanes: int = 0
    level: int = 0
    reads: frozenset[str] = NOTHING

    def op(self, copy: int) -> str:
        return self.ops[copy] if len(self.ops) > 1 else self.ops[0]


@dataclass(slots=True, frozen=True)
class Place:
    """Where an access goes. Lane l of copy c is element `pointer + stride * (c * lanes + l)`.

    A stride of None means that `offsets` has each lane's own distance from the pointer; 0 means
    that all lanes share one address. A run-time stride is an operand. Aligned: each register of
    neighbours begins at a multiple of its size.
    """

    pointer: str
    level: int
    reads: frozenset[str]
    stride: int | str | None
    offsets: Value | None = None
    aligned: bool = False


def register_type(dtype: DType) -> str:
    """The type of a scalar of this dtype in a register."""
    return _REGISTER[dtype.name]


def memory_type(dtype: DType) -> str:
    """The type of an element of this dtype in memory."""
    return "i8" if dtype is bool_ else _REGISTER[dtype.name]


def vector_type(scalar: str, lanes: int) -> str:
    return f"<{lanes} x {scalar}>" if lanes else scalar


def mangled(scalar: str, lanes: int) -> str:
    """A type as intrinsics' names spell it."""
    return f"v{lanes}{SUFFIX[scalar]}" if lanes else SUFFIX[scalar]


def is_half(dtype: DType) -> bool:
    return dtype is float16 or dtype is bfloat16


def literal(e: Expr) -> str:
    """A constant as an operand."""
    return literal_of(e.attr, e.dtype)


def literal_of(value: Any, dtype: DType) -> str:
    if dtype is bool_:
        return "true" if value else "false"
    if is_half(dtype):
        return str(int(np.asarray(value, np.float64).astype(dtype.numpy).view(np.int16)))
    if dtype.is_float:
        return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"
    if dtype.kind == "u" and value >= 1 << (dtype.bits - 1):
        value -= 1 << dtype.bits
    return str(value)


def iota(lanes: int, scale: int = 1, start: int = 0, scalar: str = "i32") -> str:
    """The constant vector start, start + scale, …"""
    return "<" + ", ".join(f"{scalar} {start + scale * i}" for i in range(lanes)) + ">"
