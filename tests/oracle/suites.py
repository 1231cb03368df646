"""Other projects' own tests, run with deepseek in their array library's place: einops.

In flows the name of a suite; out flows one result for each of its tests. Tests that never called
our backend (those of other frameworks, or of the parser alone) are left out.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import einops._backends
import numpy as np
import pytest
from ops import Result

import deepseek as ds

FILES = ("test_ops", "test_einsum", "test_other", "test_packing")


class DeepseekBackend(einops._backends.AbstractBackend):  # type: ignore[misc]
    """What einops asks of an array library."""

    framework_name = "deepseek"
    calls = 0

    def is_appropriate_type(self, tensor: Any) -> bool:
        DeepseekBackend.calls += isinstance(tensor, ds.Tensor)
        return isinstance(tensor, ds.Tensor)

    def from_numpy(self, x: Any) -> ds.Tensor:
        DeepseekBackend.calls += 1
        made = ds.asarray(np.asarray(x).copy())
        return made.requires_grad_() if made.dtype.is_float else made

    def to_numpy(self, x: ds.Tensor) -> Any:
        return x.numpy()

    def arange(self, start: int, stop: int) -> ds.Tensor:
        return ds.arange(start, stop)

    def shape(self, x: ds.Tensor) -> Any:
        return tuple(x.shape)

    def reshape(self, x: ds.Tensor, shape: Any) -> ds.Tensor:
        return ds.reshape(x, shape)

    def transpose(self, x: ds.Tensor, axes: Sequence[int]) -> ds.Tensor:
        return ds.permute_dims(x, axes)

    def reduce(self, x: ds.Tensor, operation: str, axes: Any) -> ds.Tensor:
        return getattr(ds, operation)(x, axis=tuple(axes))

    def stack_on_zeroth_dimension(self, tensors: list[ds.Tensor]) -> ds.Tensor:
        return ds.stack(tensors)

    def add_axis(self, x: ds.Tensor, new_position: int) -> ds.Tensor:
        return ds.expand_dims(x, new_position)

    def add_axes(self, x: ds.Tensor, n_axes: int, pos2len: dict[int, int]) -> ds.Tensor:
        for position in sorted(pos2len):
            x = ds.expand_dims(x, position)
        return ds.broadcast_to(x, tuple(pos2len.get(i, s) for i, s in enumerate(x.shape)))

    def tile(self, x: ds.Tensor, repeats: Any) -> ds.Tensor:
        return ds.tile(x, repeats)

    def concat(self, tensors: list[ds.Tensor], axis: int) -> ds.Tensor:
        return ds.concat(tensors, axis=axis)

    def is_float_type(self, x: ds.Tensor) -> bool:
        return bool(x.dtype.is_float)

    def einsum(self, pattern: str, *x: ds.Tensor) -> ds.Tensor:
        return ds.einsum(pattern, *x)


class Watch:
    """A pytest plugin that notes how each test ended and whether it used our backend."""

    def __init__(self) -> None:
        self.before = 0
        self.found: list[Result] = []

    def pytest_runtest_setup(self, item: Any) -> None:
        self.before = DeepseekBackend.calls

    def pytest_runtest_logreport(self, report: Any) -> None:
        name = report.nodeid.rpartition("/")[2]
        if report.when == "call" and report.outcome == "failed":
            text = str(getattr(report.longrepr, "reprcrash", report.longrepr))
            self.found.append({"kind": "forward", "sample": name, "why": text[-300:]})
        elif report.when == "call" and report.outcome == "passed":
            used = DeepseekBackend.calls > self.before
            why = None if used else "a test that does without our backend"
            self.found.append(
                {"kind": "forward" if used else "left_out", "sample": name, "why": why}
            )
        elif report.outcome == "skipped":
            why = "a test for another framework"
            self.found.append({"kind": "left_out", "sample": name, "why": why})


def database() -> dict[str, Any]:
    return {"einops": "einops.tests"}


def ours_of(name: str) -> Any:
    return DeepseekBackend


def run(package: str, most: int, start: int) -> Iterator[Result]:
    """The results of all tests of the suite."""
    yield {"kind": "begin", "number": 1, "sample": package}
    if start:
        return
    # einops collects its backends from the attributes of a module, by name.
    einops._backends.CupyBackend = DeepseekBackend
    os.environ["EINOPS_TEST_BACKENDS"] = "numpy,deepseek"
    einops._backends._type2backend[ds.Tensor] = DeepseekBackend()
    einsum_tests = importlib.import_module("einops.tests.test_einsum")
    if "deepseek" not in einsum_tests.valid_backends_functional:
        einsum_tests.valid_backends_functional = ["numpy", "deepseek"]
    watch = Watch()
    names = [f"{package}.{name}" for name in FILES]
    pytest.main(["-q", "-p", "no:cacheprovider", "--pyargs", *names], plugins=[watch])
    yield from watch.found
