"""Whether our results are PyTorch's: one rule for values, dtypes, shapes and gradients.

The reference is PyTorch in float64 on the same float32 inputs. Our result is equal where it is
within EPSILONS epsilons of the result's scale of it, or where its distance from it, root mean
square, is no more than MARGIN times that of PyTorch's own float32 result: an op on an
ill-conditioned input cannot be asked for more.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import torch
from adapt import as_numpy

EPSILONS = 32.0
MARGIN = 4.0


def is_float(dtype: Any) -> bool:
    return np.dtype(dtype).kind == "f" or np.dtype(dtype) == ml_dtypes.bfloat16


def difference(
    got: Any,
    narrow: Any,
    wide: Any,
    check: str = "all",
    tolerance: float = 1.0,
    least: float = 0.0,
) -> str | None:
    """How a result of ours differs from PyTorch's in float32 and float64; None where it does not.

    `narrow` gives dtype and shape, `wide` the values.
    """
    a = np.asarray(got.numpy() if hasattr(got, "numpy") else got)
    b, c = (as_numpy(x) if isinstance(x, torch.Tensor) else np.asarray(x) for x in (narrow, wide))
    if a.shape != b.shape:
        return f"shape {a.shape} instead of {b.shape}"
    if b.dtype.kind == "c":
        return f"dtype {a.dtype} instead of {b.dtype}"
    if check != "values" and isinstance(narrow, torch.Tensor) and a.dtype != b.dtype:
        return f"dtype {a.dtype} instead of {b.dtype}"
    if check == "type":
        return None
    if not is_float(a.dtype) and not is_float(b.dtype):
        if np.array_equal(a, b) or np.array_equal(a, c):
            return None
        return f"{shown(a)} instead of {shown(b)}"
    return distance(a, b, c, tolerance, least)


def distance(a: Any, narrow: Any, wide: Any, tolerance: float, least: float) -> str | None:
    """How floats differ."""
    epsilon = float(ml_dtypes.finfo(a.dtype if is_float(a.dtype) else np.float32).eps)
    with np.errstate(all="ignore"):
        # What overflows in the narrow type is infinite there; what the wide one could tell apart
        # may not be.
        rounded = wide.astype(narrow.dtype).astype(np.float64)
        a, b = a.astype(np.float64), narrow.astype(np.float64)
    special = ~np.isfinite(rounded) | ~np.isfinite(b)
    alike = agree(a, rounded) | agree(a, b)
    if not alike[special].all() or not np.isfinite(a[~special]).all():
        return f"NaN or infinity elsewhere: {shown(a)} instead of {shown(rounded)}"
    a, b, c = (x[~special] for x in (a, b, wide.astype(np.float64)))
    if not a.size:
        return None
    scale = max(float(np.abs(c).max()), least, float(ml_dtypes.finfo(np.float32).tiny))
    worst = float(np.abs(a - c).max()) / scale / epsilon
    if worst <= EPSILONS * tolerance:
        return None
    ours, theirs = (float(np.sqrt(np.mean(np.square(x - c)))) for x in (a, b))
    if ours <= MARGIN * theirs:
        return None
    at = int(np.abs(a - c).argmax())
    return (
        f"off by {worst:.3g} epsilons (PyTorch's float32 by "
        f"{float(np.abs(b - c).max()) / scale / epsilon:.3g}): {a[at]:.9g} instead of {c[at]:.9g}"
    )


def agree(a: Any, b: Any) -> Any:
    return (a == b) | (np.isnan(a) & np.isnan(b))


def shown(x: Any) -> str:
    text = np.array2string(np.asarray(x), threshold=8, edgeitems=3, precision=6)
    return " ".join(text.split())[:120]
