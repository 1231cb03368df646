"""The seed: programs of single ops, compiled when deepseek is built, for each CPU level.

In flow small eager programs, run here with an empty cache; out flows the pack of entries that they
leave, which lies in the installed package (`compiler.store.seed`). So a fresh process on a machine
that never compiled anything has its first results without a code generator.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import deepseek as ds
from deepseek.backends.cpu.target import TARGETS, runs_here
from deepseek.compiler.store import pack
from deepseek.config import override
from deepseek.frontend.tensor import Tensor

UNARY = [
    "negative", "abs", "square", "sqrt", "rsqrt", "exp", "log", "tanh", "sigmoid", "erf",
    "relu", "gelu", "silu", "sin", "cos", "reciprocal", "floor", "ceil", "round", "sign",
    "isnan", "isfinite",
]  # fmt: skip
BINARY = [
    "add", "subtract", "multiply", "divide", "pow", "maximum", "minimum", "equal", "not_equal",
    "less", "less_equal", "greater", "greater_equal",
]  # fmt: skip
INTEGER_BINARY = [
    "add", "subtract", "multiply", "floor_divide", "remainder", "equal", "less", "greater",
]  # fmt: skip
REDUCTIONS = [
    "sum", "mean", "max", "min", "argmax", "argmin", "all", "any",
]  # fmt: skip


def programs() -> Iterator[Callable[[], object]]:
    """What people try first: arithmetic, reductions, products and changes of shape."""
    for shape in (4,), (3, 5), (2, 3, 4):
        x = ds.arange(float(ds.zeros(shape).size)).reshape(shape) + 1
        row = ds.ones(shape[-1:])
        yield lambda s=shape: (ds.zeros(s), ds.ones(s), ds.full(s, 3.0), ds.rand(s), ds.randn(s))
        for name in UNARY:
            yield lambda n=name, x=x: getattr(ds, n)(x)
        for name in BINARY:
            for other in (x, row, 2.0):
                yield lambda n=name, x=x, y=other: getattr(ds, n)(x, y)
        for name in REDUCTIONS:
            for axis in (None, 0, -1):
                yield lambda n=name, x=x, a=axis: getattr(ds, n)(x, axis=a)
        yield lambda x=x: (ds.where(x > 2, x, 0.0), x.astype(ds.int64), x.astype(ds.float64))
        yield lambda x=x: (x[0], x[1:], x[..., -1], ds.flip(x, axis=0), ds.concat([x, x]))
        yield lambda x=x: (ds.softmax(x, axis=-1), ds.log_softmax(x, axis=-1))
        yield lambda x=x: (x.reshape(-1), x.cumulative_sum(axis=-1) if x.ndim else x)
        whole = x.astype(ds.int64)
        for name in INTEGER_BINARY:
            for other in (whole, 2):
                yield lambda n=name, x=whole, y=other: getattr(ds, n)(x, y)
        yield lambda x=whole: (x.sum(), x.max(), x.astype(ds.float32))
    yield lambda: (ds.rand(5), ds.randn(5), ds.rand(4, 6), ds.randn(4, 6))
    a, b, v = ds.ones((3, 4)), ds.ones((4, 5)), ds.ones(4)
    yield lambda: (a @ b, a @ v, v @ b, a.T, b.T @ a.T, v @ v)
    yield lambda: ds.linear(a, ds.ones((5, 4)), ds.ones(5))
    yield lambda: (ds.arange(5), ds.arange(5.0), ds.linspace(0, 1, 5), ds.eye(3))
    yield lambda: ds.cross_entropy(a, ds.zeros(3, dtype=ds.int64))


def values(found: object) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, tuple):
        for part in found:
            yield from values(part)


def build(path: Path) -> int:
    """Write the seed for every CPU level that this machine can run; returns its entries."""
    with tempfile.TemporaryDirectory() as folder, override(cache=folder, seed=False, promote=False):
        for level, target in TARGETS.items():
            if runs_here(target):
                with override(cpu_level=level):
                    for program in programs():
                        for result in values(program()):
                            result.numpy()
        return pack(path, ["programs"])
