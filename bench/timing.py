"""Measuring inside a worker: how far results are from the reference, and how calls are batched."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np


def distance(got: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> float:
    """|got - wanted| / |wanted|; infinite where a result is not finite."""
    difference = np.subtract(got, wanted, dtype=np.float64).ravel()
    norm = float(np.linalg.norm(np.asarray(wanted).ravel()))
    away = float(np.linalg.norm(difference)) / max(norm, 1e-30)
    return away if np.isfinite(away) else float("inf")


def calls_in(call: Callable[[], Any], seconds: float) -> int:
    """How many calls take about so long, found by doubling; at least one."""
    batch = 1
    while True:
        began = time.perf_counter()
        for _ in range(batch):
            call()
        took = time.perf_counter() - began
        if took >= seconds / 4 or batch >= 1 << 20:
            return max(1, round(batch * seconds / took))
        batch *= 2
