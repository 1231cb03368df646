"""Many samples of the op sweep as one graph, so that their kernels are one module.

In flow cases; out flow their results, and those of their gradients, on a backend, beside what the
graph means in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from compare import assert_near
from sampling import Case, case_name, cases_of

from deepseek import autograd
from deepseek.backends import Backend
from deepseek.compiler.compile import compile_graph
from deepseek.frontend.tensor import Tensor, from_numpy
from deepseek.ir.dtype import dtype_of
from deepseek.ir.graph import Graph
from deepseek.ir.interpret import interpret
from deepseek.ops.define import REGISTRY, isolated

CHAIN = 4.0  # where each 16-bit op rounds on its own, a chain of them may lose a few digits more

Array = np.ndarray[Any, Any]


def results(graphs: Sequence[Graph], arrays: Sequence[Sequence[Array]], backend: Backend
            ) -> list[list[Array]]:  # fmt: skip
    """What each graph gives for its arrays, computed as one program."""
    whole = Graph([v for g in graphs for v in g.inputs], [v for g in graphs for v in g.outputs])
    tensors = [from_numpy(a, dtype_of(a.dtype), False) for some in arrays for a in some]
    program = compile_graph(whole, backend)
    buffers = iter(program.run([t._value.data for t in tensors]))
    return [[shown(next(buffers), v.type) for v in g.outputs] for g in graphs]


def shown(buffer: Any, type_: Any) -> Array:
    dtype = type_.dtype.numpy
    count = int(np.prod(type_.shape, dtype=np.int64))
    data = np.frombuffer(memoryview(buffer), np.uint8)[: count * dtype.itemsize]
    return data.view(dtype).reshape(type_.shape)


def check(cases: Sequence[Case], graphs: Sequence[Graph], backend: Backend) -> None:
    """Hold each case's graph against its meaning."""
    got = results(graphs, [case.arrays for case in cases], backend)
    for case, graph, outputs in zip(cases, graphs, got, strict=True):
        with np.errstate(all="ignore"):
            wanted = interpret(graph, case.arrays, wide=True)
        for array, exact in zip(outputs, wanted, strict=True):
            chain = CHAIN if array.dtype.itemsize == 2 else 1
            assert_near(array, exact, case.op.tolerance * chain, case_name(case))


def sampled(part: int = 0, parts: int = 1) -> Iterator[Case]:
    """Every parts-th case of the sweep, all dtypes for the first sample of each op."""
    found = (c for op in REGISTRY.values() for c in cases_of(op, every=True, thin=True))
    for number, case in enumerate(found):
        if number % parts == part:
            yield case
