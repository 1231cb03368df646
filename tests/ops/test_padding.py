"""Padding: what stands around."""

from __future__ import annotations

import numpy as np
import pytest

import deepseek as ds
from deepseek.config import override


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_what_is_put_around_keeps_its_sign(backend: str) -> None:
    def padded(x: ds.Tensor) -> ds.Tensor:
        return ds.pad(x, (1, 1), value=-0.0)

    with override(backend=backend):
        for function in (padded, ds.jit(padded)):
            signs = np.signbit(function(ds.ones(2)).numpy())
            assert signs.tolist() == [True, False, False, True]
