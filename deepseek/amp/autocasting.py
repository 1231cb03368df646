"""`autocast`: which user code computes in a 16-bit type, as a context manager or a decorator.

It sets the state that recording asks for (`frontend/precision.py`); nothing else happens here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from deepseek.errors import DTypeError, unknown
from deepseek.frontend.precision import computing_in
from deepseek.frontend.tensor import state
from deepseek.ir.dtype import DType, bfloat16, dtype_of, float16

__all__ = ["autocast", "get_autocast_dtype", "is_autocast_enabled"]

DEFAULTS = {"cpu": bfloat16}  # what each device is fastest in
DTYPES = (bfloat16, float16)


class autocast(computing_in):  # noqa: N801  (PyTorch's name)
    """Let ops compute in a 16-bit float type where that is good enough.

    Inside, matrix products, convolutions and attention convert their float32 inputs to `dtype`
    (bfloat16 unless given, or float16); softmax, losses, norms, sums, powers, exponentials and
    logarithms convert 16-bit inputs to float32; all other ops compute in the widest type they get.
    float64 is left alone. Gradients have the types of what they are gradients of, so those of
    float32 parameters are float32. `enabled=False` switches an autocast around it off.

    It serves as a context manager, any number of times and nested, and as a decorator; inside and
    around `@ds.jit`. `cache_enabled` is taken for PyTorch's sake: a weight is converted once for
    a compiled step anyway.

    Raises ArgumentError for an unknown device type and DTypeError for other dtypes.

    >>> a = ds.ones((2, 3))
    >>> with ds.amp.autocast("cpu", dtype=ds.bfloat16):
    ...     y = a @ a.T
    ...     z = ds.softmax(y, axis=-1)
    >>> print(y.dtype, z.dtype)
    bfloat16 float32
    """

    def __init__(
        self,
        device_type: str = "cpu",
        dtype: Any = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> None:
        kind = str(device_type).partition(":")[0]
        if kind not in DEFAULTS:
            raise unknown("device type of autocast", kind, DEFAULTS)
        low = DEFAULTS[kind] if dtype is None else dtype_of(dtype)
        if low not in DTYPES:
            raise DTypeError(
                f"autocast: got dtype {low}; wanted bfloat16 or float16\n"
                "  help: pass enabled=False to compute in float32"
            )
        super().__init__(low if enabled else None)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        dtype = self.dtype

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with computing_in(dtype):
                return function(*args, **kwargs)

        return wrapped

    def __repr__(self) -> str:
        return f"autocast(dtype={self.dtype})" if self.dtype else "autocast(enabled=False)"


def is_autocast_enabled(device_type: str = "cpu") -> bool:
    """Whether an autocast is going on in this thread.

    >>> with ds.amp.autocast("cpu"):
    ...     print(ds.amp.is_autocast_enabled())
    True
    """
    return device_type in DEFAULTS and state.autocast is not None


def get_autocast_dtype(device_type: str = "cpu") -> DType:
    """The dtype of the autocast that is going on, else the one that it would have by default.

    Raises ArgumentError for an unknown device type.

    >>> print(ds.amp.get_autocast_dtype("cpu"))
    bfloat16
    """
    if device_type not in DEFAULTS:
        raise unknown("device type of autocast", device_type, DEFAULTS)
    return state.autocast or DEFAULTS[device_type]
