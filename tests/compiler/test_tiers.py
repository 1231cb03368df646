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


def test_numbers_that_differ_each_time_compile_nothing() -> None:
    x = ds.asarray(np.arange(6, dtype=np.float32))

    def result(number: float) -> float:
        return float((x * number + number).sum())

    result(0.53125)
    before = ds.counters.programs
    for number in (0.78125, -1.28125, 3.40625):
        assert result(number) == pytest.approx(21 * number)
    assert ds.counters.programs == before


@pytest.mark.parametrize("dtype", [ds.bool_, ds.uint8, ds.int64, ds.float16, ds.bfloat16])
@pytest.mark.parametrize("number", [0, 1, -2, 3.75, -0.0, 300])
def test_a_single_number_is_converted_as_many_are(dtype: ds.DType, number: float) -> None:
    one, many = (ds.full(shape, number, dtype=dtype).numpy() for shape in ((), (2,)))
    np.testing.assert_array_equal(one, many[0])
    assert np.signbit(one.astype(np.float64)) == np.signbit(many[0].astype(np.float64))
