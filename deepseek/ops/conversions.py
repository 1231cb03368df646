"""Making and converting tensors under the names that PyTorch and NumPy have for it; constants.

Nothing here is an op of its own: tensors are values, so that a copy is the value once more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, op_error, user_line
from deepseek.frontend.devices import checked_device, moved
from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import (
    DType,
    bfloat16,
    bool_,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
)
from deepseek.ops.create import array, asarray
from deepseek.ops.define import as_tensor, converted
from deepseek.ops.elementwise import positive
from deepseek.ops.methods import method

__all__ = ["clone", "e", "from_numpy", "inf", "nan", "newaxis", "pi", "tensor"]

e, pi, inf, nan = math.e, math.pi, math.inf, math.nan
newaxis = None


def tensor(
    data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """PyTorch's name for `array`: a new leaf with a copy of data.

    Raises DTypeError for dtypes that deepseek does not have.

    >>> ds.tensor([1.0, 2.0], requires_grad=True)
    tensor([1., 2.], requires_grad=True)
    """
    return array(data, dtype=dtype, device=device, requires_grad=requires_grad)


def from_numpy(x: Any, /) -> Tensor:
    """PyTorch's name for `asarray` of a NumPy array; the elements are copied, the dtype is kept.

    Raises ArgumentError for anything but an array.

    >>> ds.from_numpy(np.asarray([1, 2], np.int32))
    tensor([1, 2], dtype=int32)
    """
    if not isinstance(x, np.ndarray):
        raise op_error(ArgumentError, "from_numpy", repr(x), "a NumPy array", user_line())
    return asarray(x)


@method("clone", "copy")
def clone(x: Tensor, /) -> Tensor:
    """x as a tensor of its own; gradients flow through it. Only what is changed in place needs it.

    >>> x = ds.asarray([1, 2])
    >>> y = ds.clone(x)
    >>> y += 1
    >>> x, y
    (tensor([1, 2]), tensor([2, 3]))
    """
    return positive(as_tensor(x, "clone"))


@method("cuda")
def _on_a_gpu(x: Tensor, /, device: Any = None) -> Tensor:
    """x on a CUDA device, the current one by default. Raises BackendError where there is none."""
    return moved(x, checked_device("cuda" if device is None else device))


@method("cpu")
def _on_the_processor(x: Tensor, /) -> Tensor:
    """x in the processor's memory."""
    return moved(x, None)


def _in_dtype(name: str, dtype: DType) -> Callable[[Tensor], Tensor]:
    def convert(x: Tensor, /) -> Tensor:
        return converted(x, dtype)

    convert.__name__ = convert.__qualname__ = name
    convert.__doc__ = f"PyTorch's name for `astype(ds.{dtype.name})`."
    return convert


for _name, _dtype in {
    "float": float32, "double": float64, "half": float16, "bfloat16": bfloat16, "bool": bool_,
    "char": int8, "byte": uint8, "short": int16, "int": int32, "long": int64,
}.items():  # fmt: skip
    method(_name)(_in_dtype(_name, _dtype))
