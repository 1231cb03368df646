"""The op sweep on emitted CUDA text, which runs on the CPU: forward and backward, all types.

What is run here is spread over the sweep; `make cuda-full` runs all of it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import shim_run
from cases import backward_cases, check, check_backward, forward_cases

from deepseek import backends
from deepseek.config import override

pytestmark = pytest.mark.skipif(shim_run.missing() is not None, reason=str(shim_run.missing()))

FORWARD, BACKWARD = 8, 12  # of so many cases, one is run
PARTS = 6  # modules of the shim's compiler


@pytest.fixture(autouse=True)
def on_shim(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The shim as the backend that programs find by name."""
    monkeypatch.setitem(backends._own(), shim_run.BACKEND.name, lambda: shim_run.BACKEND)
    with override(backend=shim_run.BACKEND.name):
        yield


@pytest.mark.parametrize("part", range(PARTS))
def test_forward(part: int) -> None:
    cases = forward_cases()[::FORWARD][part::PARTS]
    before = shim_run.RAN["kernels"]
    check(cases, [case.graph() for case in cases], shim_run.BACKEND)
    assert shim_run.RAN["kernels"] - before > len(cases) // 2


@pytest.mark.parametrize("part", range(PARTS))
def test_backward(part: int) -> None:
    before = shim_run.RAN["kernels"]
    ran = check_backward(backward_cases()[::BACKWARD][part::PARTS], shim_run.BACKEND)
    assert ran > 3
    assert shim_run.RAN["kernels"] - before > ran // 2
