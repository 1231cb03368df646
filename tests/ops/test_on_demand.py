"""Op files are loaded when they are needed, and found whether or not the contents know of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from deepseek import ops
from deepseek.frontend.tensor import Tensor


def run(code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


LOADED = "print(*sorted(m for m in sys.modules if m.startswith('deepseek.ops.')))"


def test_importing_loads_no_op_file_and_nothing_slow() -> None:
    of_ours = run(f"import sys, deepseek; {LOADED}")
    known = ("contents", "define", "methods", "spelling")
    assert of_ours == [f"deepseek.ops.{name}" for name in known]
    slow = run(
        "import numpy, sys; before = set(sys.modules); import deepseek;"
        "print(*(m for m in ('logging', 'pathlib', 'urllib.parse', 'llvmlite') "
        "if m in set(sys.modules) - before))"
    )
    assert slow == []


def test_a_sum_loads_few_files() -> None:
    loaded = run(f"import sys, deepseek as ds; (ds.ones(3) + 1).sum().item(); {LOADED}")
    assert len(loaded) < 25, loaded
    assert "deepseek.ops.conv" not in loaded


MISSING = """
import sys, types
contents = types.ModuleType("deepseek.ops.contents")
contents.FUNCTIONS = contents.RECORDS = contents.METHODS = ""
sys.modules["deepseek.ops.contents"] = contents
import deepseek as ds
"""


@pytest.mark.parametrize(
    "use",
    [
        "print(ds.exp(ds.zeros(2)).numpy().tolist())",
        "print(ds.ones(2).tanh().exp().log().atanh().round().numpy().tolist())",
        "from deepseek.ir.op import REGISTRY, resolve; assert resolve('exp.vjp');"
        "assert 'exp' in REGISTRY and 'exq' not in REGISTRY; print([1.0, 1.0])",
    ],
    ids=["function", "method", "record"],
)
def test_what_the_contents_lack_is_found(use: str) -> None:
    assert run(MISSING + use) == ["[1.0,", "1.0]"]


def test_a_name_that_nobody_has() -> None:
    with pytest.raises(AttributeError, match="'deepseek.ops' has no attribute 'exq'"):
        _ = ops.exq
    with pytest.raises(AttributeError, match="'Tensor' object has no attribute 'exq'"):
        _ = ops.zeros(3).exq
    assert not hasattr(ops.zeros(3), "__array_function__")


@pytest.mark.parametrize("name", ["shape", "dtype", "grad"])
def test_a_property_that_fails_is_no_missing_method(name: str) -> None:
    without_value = Tensor.__new__(Tensor)
    with pytest.raises(AttributeError):
        getattr(without_value, name)
