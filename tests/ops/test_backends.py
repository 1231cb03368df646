"""Every op on every backend against the graph's meaning in float64, in all swept dtypes.

The samples of an op are computed in one flush, so that their kernels are compiled together. The
lower levels of the CPU get one sample of each op.
"""

from __future__ import annotations

import numpy as np
import pytest
from compare import assert_near
from sampling import Case, case_name, cases_of

import deepseek as ds
from deepseek.config import override
from deepseek.frontend.tensor import hooks
from deepseek.ir.interpret import interpret
from deepseek.ops.define import REGISTRY

BACKENDS = ["reference", "cpu"]
LOWER_LEVELS = ["v3", "v2"]
# Where each 16-bit op rounds on its own, a chain of them may lose a few digits more.
CHAIN = 4.0


def check(tried: list[Case], what: str, **options: str) -> None:
    """Compute the cases with the given options in one flush and compare each."""
    assert tried
    with override(**options):
        results = [case.call(case.tensors()) for case in tried]
        hooks.evaluate([t._value for outputs in results for t in outputs])
        for case, outputs in zip(tried, results, strict=True):
            with np.errstate(all="ignore"):
                wanted = interpret(case.graph(), case.arrays, wide=True)
            for got, exact in zip(outputs, wanted, strict=True):
                tolerance = case.op.tolerance * (CHAIN if got.dtype.bits == 16 else 1)
                assert_near(got.numpy(), exact, tolerance, f"{case_name(case)} on {what}")


@pytest.mark.parametrize("op", list(REGISTRY))
@pytest.mark.parametrize("backend", BACKENDS)
def test_backend_agrees_with_meaning(backend: str, op: str) -> None:
    check(cases_of(REGISTRY[op], every=True, thin=True), backend, backend=backend)


@pytest.mark.parametrize("op", list(REGISTRY))
@pytest.mark.parametrize("level", LOWER_LEVELS)
def test_lower_level_agrees_with_meaning(level: str, op: str) -> None:
    found = cases_of(REGISTRY[op])
    first = [case for case in found if case.sample is found[0].sample]
    check(first, level, backend="cpu", cpu_level=level)


def test_every_backend_is_swept() -> None:
    assert set(BACKENDS) <= set(ds.backends.names())
