"""Closeness as op records mean it: epsilons of the dtype, relative to the result's scale."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np


def assert_close(got: Any, wanted: Any, tolerance: float, what: str) -> None:
    """Raises AssertionError where two results differ by more than the tolerance allows."""
    got, wanted = np.asarray(got), np.asarray(wanted)
    assert got.dtype == wanted.dtype, f"{what}: {got.dtype} instead of {wanted.dtype}"
    assert_near(got, wanted, tolerance, what)


def assert_near(got: Any, wanted: Any, tolerance: float, what: str) -> None:
    """The same for a wanted result that may be in a wider type."""
    got, wanted = np.asarray(got), np.asarray(wanted)
    assert got.shape == wanted.shape, f"{what}: shape {got.shape} instead of {wanted.shape}"
    if not is_float(got.dtype):
        assert np.array_equal(got, wanted), f"{what}: {got} instead of {wanted}"
        return
    epsilon = float(ml_dtypes.finfo(got.dtype).eps)
    a, b = got.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(b)
    assert np.array_equal(np.isnan(a), np.isnan(b)), f"{what}: NaN elsewhere"
    infinite = np.isinf(b)
    assert np.array_equal(a[infinite], b[infinite]), f"{what}: infinities differ"
    if not finite.any():
        return
    scale = max(float(np.abs(b[finite]).max()), float(ml_dtypes.finfo(got.dtype).tiny))
    error = float(np.abs(a[finite] - b[finite]).max()) / scale / epsilon
    assert error <= tolerance, f"{what}: off by {error:.3g} epsilons of {got.dtype}"


def is_float(dtype: Any) -> bool:
    return np.dtype(dtype).kind == "f" or np.dtype(dtype) == ml_dtypes.bfloat16
