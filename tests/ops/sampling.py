"""From an op's Sample to a graph and the arrays to run it on.

A tuple of sizes becomes random elements of the dtype under test, an array stays as it is, a list of
either becomes a list of tensors; functions, numbers and None are passed on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepseek.frontend.tensor import Tensor, from_numpy, no_grad
from deepseek.ir.dtype import DTYPES, DType, dtype_of
from deepseek.ir.graph import Graph, input_value
from deepseek.ir.op import Op, Sample
from deepseek.ops.define import REGISTRY, isolated

SWEPT = [DTYPES[name] for name in ("float32", "float64", "bfloat16", "float16", "int32", "bool")]
THIN = ("float32", "int32")


@dataclass
class Case:
    """A sample of an op for one dtype: its arrays, and its call on as many tensors."""

    op: Op
    sample: Sample
    dtype: DType
    arrays: list[np.ndarray[Any, Any]]

    def call(self, tensors: list[Tensor]) -> list[Tensor]:
        """The op's results on the given tensors."""
        rest = iter(tensors)
        args = [self._filled(a, rest) for a in self.sample.args]
        assert self.op.function is not None
        return leaves(self.op.function(*args, **self.sample.kwargs))

    def _filled(self, arg: Any, tensors: Iterator[Tensor]) -> Any:
        if isinstance(arg, list):
            return [self._filled(a, tensors) for a in arg]
        return next(tensors) if is_operand(arg) else arg

    def graph(self) -> Graph:
        """The call recorded on placeholders."""
        values = [input_value(dtype_of(a.dtype), a.shape) for a in self.arrays]
        with isolated(), no_grad():
            out = self.call([Tensor(v) for v in values])
        return Graph(values, [t._value for t in out])

    def tensors(self, requires_grad: bool = False) -> list[Tensor]:
        """The arrays as tensors; float ones may require gradients."""
        made = []
        for array in self.arrays:
            dtype = dtype_of(array.dtype)
            made.append(from_numpy(array, dtype, requires_grad and dtype.is_float))
        return made


def is_operand(arg: Any) -> bool:
    return isinstance(arg, (tuple, np.ndarray, np.generic))


def leaves(out: Any) -> list[Tensor]:
    """The tensors of a nested result."""
    if isinstance(out, Tensor):
        return [out]
    if isinstance(out, dict):
        out = list(out.values())
    return [t for item in out for t in leaves(item)] if isinstance(out, (tuple, list)) else []


def operands(args: Any) -> Iterator[Any]:
    for arg in args:
        if isinstance(arg, list):
            yield from operands(arg)
        elif is_operand(arg):
            yield arg


def array_for(arg: Any, sample: Sample, dtype: DType, random: np.random.Generator) -> Any:
    """The elements for one operand of a sample."""
    if not isinstance(arg, tuple):
        arg = np.asarray(arg)
        return arg.astype(dtype.numpy) if arg.dtype.kind == "f" and dtype.is_float else arg
    if dtype.is_bool:
        return random.random(arg) < 0.5
    if dtype.is_float:
        return random.uniform(sample.low, sample.high, arg).astype(dtype.numpy)
    low = 0 if dtype.kind == "u" else int(np.floor(min(sample.low * 4, -8)))
    if sample.low >= 0:
        low = int(np.ceil(sample.low))
    high = max(int(sample.high) + (9 if sample.low < 0 else 0), low + 1)
    return random.integers(low, high, arg).astype(dtype.numpy)


def swept_dtypes(op: Op, sample: Sample) -> list[DType]:
    """The dtypes to try a sample in: one where nothing in it depends on the dtype."""
    free = [a for a in operands(sample.args) if isinstance(a, tuple)]
    floats = [a for a in operands(sample.args) if getattr(a, "dtype", np.dtype("O")).kind == "f"]
    if not free and not floats:
        return [DTYPES["float32"]]
    taken = op.dtypes or (DTYPES["float32"], DTYPES["float64"])
    if not free:
        taken = tuple(d for d in taken if d.is_float)
    return [d for d in SWEPT if d in taken]


def cases(every: bool = False, thin: bool = False) -> list[Case]:
    """Each op's samples in each of the swept dtypes.

    With `every`, the first sample in all that the op takes; with `thin`, the others in two only.
    """
    return [case for op in REGISTRY.values() for case in cases_of(op, every, thin)]


def cases_of(op: Op, every: bool = False, thin: bool = False) -> list[Case]:
    """The same for one op."""
    out = []
    assert op.samples is not None, op.name
    for number, sample in enumerate(op.samples()):
        dtypes = swept_dtypes(op, sample)
        if every and number == 0 and any(isinstance(a, tuple) for a in operands(sample.args)):
            dtypes = list(op.dtypes) or dtypes
        elif thin:
            dtypes = [d for d in dtypes if d.name in THIN] or dtypes
        for dtype in dtypes:
            random = np.random.default_rng(len(out))
            arrays = [array_for(a, sample, dtype, random) for a in operands(sample.args)]
            out.append(Case(op, sample, dtype, arrays))
    return out


def case_name(case: Case) -> str:
    """An id for pytest: the op, the shapes, the dtype."""
    shapes = "_".join("x".join(map(str, a.shape)) or "scalar" for a in case.arrays)
    extra = ",".join(f"{k}={_short(v)}" for k, v in case.sample.kwargs.items())
    return f"{case.op.name}[{shapes}|{extra}]{case.dtype}"


def _short(value: Any) -> str:
    return str(value).replace("deepseek.", "").replace(" ", "")[:30]
