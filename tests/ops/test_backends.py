"""Every op on every backend against the graph's meaning in float64, in all swept dtypes.

The samples of an op are computed in one flush, so that their kernels are compiled together.
"""

from __future__ import annotations

import numpy as np
import pytest
from compare import assert_near
from sampling import case_name, cases_of

import deepseek as ds
from deepseek.config import override
from deepseek.frontend.tensor import hooks
from deepseek.ir.interpret import interpret
from deepseek.ops.define import REGISTRY

BACKENDS = ["reference", "cpu"]
# Where each 16-bit op rounds on its own, a chain of them may lose a few digits more.
CHAIN = 4.0


@pytest.mark.parametrize("op", list(REGISTRY))
@pytest.mark.parametrize("backend", BACKENDS)
def test_backend_agrees_with_meaning(backend: str, op: str) -> None:
    tried = cases_of(REGISTRY[op], every=True, thin=True)
    assert tried
    with override(backend=backend):
        results = [case.call(case.tensors()) for case in tried]
        hooks.evaluate([t._value for outputs in results for t in outputs])
        for case, outputs in zip(tried, results, strict=True):
            with np.errstate(all="ignore"):
                wanted = interpret(case.graph(), case.arrays, wide=True)
            for got, exact in zip(outputs, wanted, strict=True):
                tolerance = case.op.tolerance * (CHAIN if got.dtype.bits == 16 else 1)
                assert_near(got.numpy(), exact, tolerance, f"{case_name(case)} on {backend}")


def test_every_backend_is_swept() -> None:
    assert set(BACKENDS) <= set(ds.backends.names())
