"""A compiled call of every op gives what the eager one gives, on every sample."""

from __future__ import annotations

from typing import Any

import pytest
from compare import assert_near
from sampling import Case, cases_of

import deepseek as ds
from deepseek.frontend.tensor import Tensor
from deepseek.ops.define import REGISTRY


def tried(op: str) -> list[Case]:
    found = cases_of(REGISTRY[op])
    return [c for c in found if c.dtype.name in ("float32", "int32", "bool")] or found


@pytest.mark.parametrize("op", list(REGISTRY))
def test_jit_agrees_with_eager(op: str) -> None:
    samples = tried(op)

    @ds.jit
    def together(tensors: list[list[Tensor]]) -> Any:
        return [case.call(list(ts)) for case, ts in zip(samples, tensors, strict=True)]

    compiled = together([case.tensors() for case in samples])
    for case, results in zip(samples, compiled, strict=True):
        for got, wanted in zip(results, case.call(case.tensors()), strict=True):
            assert_near(got.numpy(), wanted.numpy(), case.op.tolerance, f"{op} {case.sample}")
