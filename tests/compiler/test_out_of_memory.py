"""Too little memory for a run: the error names the user's line, and what would need most."""

from __future__ import annotations

import numpy as np
import pytest

import deepseek as ds
from deepseek import config
from deepseek.errors import OutOfMemoryError

N = 600
BYTES = 4 * N * N


@pytest.fixture
def x():
    return ds.ones((N, N)).evaluate()


def limited(blocks):
    """Room for so many matrices more than there are now."""
    ds.empty_cache()
    return config.override(memory_limit=ds.memory_stats()["in_use"] + int(blocks * BYTES))


def test_a_compiled_call_names_its_line_and_the_largest_buffer(x):
    @ds.jit
    def f(x):
        y = x @ x
        z = ds.concat([y, y + 1, y + 2])
        return z @ z.mT  # the large one

    wanted = f(x).numpy()[0, 0]
    with limited(4), pytest.raises(OutOfMemoryError) as caught:
        f(x)  # the call
    text = str(caught.value)
    assert "out of memory: asked for" in text
    assert "the call" in text and "test_out_of_memory.py:" in text
    assert f"the largest tensor: {9 * BYTES:,} bytes" in text and "the large one" in text
    assert f(x).numpy()[0, 0] == wanted


def test_sizes_that_were_not_traced_are_reckoned(x):
    f = ds.jit(lambda x: ds.concat([x, x + 1]))
    for n in (2, 3, 4):
        f(ds.ones((n, 2)))
    with limited(1), pytest.raises(OutOfMemoryError, match=f"{2 * BYTES:,} bytes"):
        f(x.reshape((-1, 2)))


def test_nothing_changed_where_memory_lacked(x):
    total, count = ds.zeros((N, N)).evaluate(), ds.zeros(()).evaluate()

    @ds.jit
    def f(x):
        nonlocal total, count
        total += x
        count += 1
        return ds.concat([x, total]), ds.rand((2,))

    f(x)
    state = ds.default_generator.get_state()
    with limited(1.5), pytest.raises(OutOfMemoryError):
        f(x)
    assert ds.default_generator.get_state() == state
    assert count.item() == 1 and np.unique(total.numpy()) == [1]
    f(x)
    assert count.item() == 2 and np.unique(total.numpy()) == [2]


def test_eager_code_names_its_line(x):
    for _ in range(4):  # op by op, and as one program
        with limited(3), pytest.raises(OutOfMemoryError) as caught:
            ds.concat([x] * 5).numpy()  # here
        assert "# here" in str(caught.value) and f"{5 * BYTES:,} bytes" in str(caught.value)
    with limited(3), pytest.raises(OutOfMemoryError) as caught:
        y = ds.concat([x] * 5)  # recorded
        y.numpy()  # wanted
    assert "# recorded" in str(caught.value) and "# wanted" in str(caught.value)
