"""Counting what a call compiles, for all tests of the compiler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest

import deepseek as ds
from deepseek.config import override


@dataclass
class Work:
    """What was traced, and which programs and kernels were compiled, in a block."""

    traces: int = 0
    programs: int = 0
    kernels: int = 0


@pytest.fixture
def work() -> Callable[[], object]:
    """`with work() as done:` counts; `done.traces` and the others are right after the block.

    Nothing comes from the disk: what another test compiled would not be counted.
    """

    @contextmanager
    def counting() -> Iterator[Work]:
        counters = ds.counters
        before = (counters.traces, counters.programs, counters.kernels)
        done = Work()
        try:
            with override(cache_size=0):
                yield done
        finally:
            after = (counters.traces, counters.programs, counters.kernels)
            done.traces, done.programs, done.kernels = (
                a - b for a, b in zip(after, before, strict=True)
            )

    return counting


@pytest.fixture
def x() -> ds.Tensor:
    return ds.asarray(np.arange(6, dtype=np.float32).reshape(2, 3))
