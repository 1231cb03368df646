"""Programs that try to break the dispatcher: objects that are half made, keys and values that run
code when they are compared, containers that shrink meanwhile, results that are changed.
"""

from __future__ import annotations

import numpy as np
import pytest

import deepseek as ds
from deepseek.config import override


def vec(*values: float) -> ds.Tensor:
    return ds.asarray(np.array(values, np.float32)).evaluate()


@pytest.mark.parametrize("verify", [0, 1, 2])
def test_gradients_of_several_arguments_are_read(verify):
    """What hangs on one argument does not take the place of the next."""
    a, b = (vec(1, 2).requires_grad_() for _ in range(2))

    def step(a, b, factor):
        (b * b * factor).sum().backward()
        return a.grad, b.grad

    with override(verify=verify):
        compiled = ds.jit(step)
        for i in range(1, 4):
            none, gradient = compiled(a, b, 2.0)
            assert none is None
            np.testing.assert_array_equal(gradient.numpy(), [4 * i, 8 * i])
