"""Eager code that meets the same graph again and again: op by op first, then compiled whole."""

from __future__ import annotations

import numpy as np
import pytest

import deepseek as ds


@pytest.mark.parametrize("times", [1, 2, 5])
def test_values_with_history_are_inputs_like_others(times: int) -> None:
    """A computed value that requires gradients keeps its node; no rule may look past it."""
    x = np.arange(6, dtype=np.float32)
    for _ in range(times):
        leaf = ds.asarray(x, requires_grad=True)
        seen = leaf.reshape((2, 3))
        minus = ds.negative(leaf)
        np.testing.assert_array_equal(seen.numpy(), x.reshape(2, 3))
        np.testing.assert_array_equal(minus.numpy(), -x)
        again = seen.reshape((3, 2))
        np.testing.assert_array_equal(again.numpy(), x.reshape(3, 2))
        back = ds.negative(minus)
        np.testing.assert_array_equal(back.numpy(), x)
        (again * ds.asarray(x.reshape(3, 2))).sum().backward()
        assert leaf.grad is not None
        np.testing.assert_array_equal(leaf.grad.numpy(), x)
