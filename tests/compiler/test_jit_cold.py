"""A first call with nothing compiled before: what compiling enters is no part of the trace."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import deepseek as ds

w = ds.zeros(3)  # pending when the trace reads it


@ds.jit
def f(x):
    return x + w


print(f(ds.ones(3)).tolist())
"""


def test_a_pending_tensor_is_computed_inside_a_trace() -> None:
    environment = {"DS_CACHE_SIZE": "0", "DS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "[1.0, 1.0, 1.0]\n", done.stderr
