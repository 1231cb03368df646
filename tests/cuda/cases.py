"""Many samples of the op sweep as one graph, so that their kernels are one module.

In flow cases; out flow their results, and those of their gradients, on a backend, beside what the
graph means in float64.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from compare import assert_near
from sampling import Case, case_name, cases_of

from deepseek import autograd, passes
from deepseek.backends import Backend
from deepseek.compiler.compile import compile_graph
from deepseek.frontend.tensor import Tensor, from_numpy, no_grad
from deepseek.ir.dtype import dtype_of
from deepseek.ir.graph import Graph, input_value
from deepseek.ir.interpret import interpret
from deepseek.kernel.ir import Kernel
from deepseek.ops.define import REGISTRY, isolated
from deepseek.program.build import build

CHAIN = 4.0  # where each 16-bit op rounds on its own, a chain of them may lose a few digits more
SCALE = 0.25  # of cotangents and operands, about
GRADIENT = 8.0  # a gradient is a chain of several ops

Array = np.ndarray[Any, Any]


def results(graphs: Sequence[Graph], arrays: Sequence[Sequence[Array]], backend: Backend
            ) -> list[list[Array]]:  # fmt: skip
    """What each graph gives for its arrays, computed as one program."""
    whole = Graph([v for g in graphs for v in g.inputs], [v for g in graphs for v in g.outputs])
    tensors = [from_numpy(a, dtype_of(a.dtype), False) for some in arrays for a in some]
    program = compile_graph(whole, backend)
    buffers = iter(program.run([t._value.data for t in tensors]))
    return [[shown(next(buffers), v.type) for v in g.outputs] for g in graphs]


def kernels_of(graphs: Sequence[Graph], backend: Backend) -> dict[str, Kernel]:
    """The kernels that graphs become, by a name made of the text: each text once."""
    whole = Graph([v for g in graphs for v in g.inputs], [v for g in graphs for v in g.outputs])
    context = passes.PassContext(lambda node: None)
    fused = passes.run_passes(whole, context)

    def optimize(body: Graph) -> Graph:
        return passes.run_passes(body, passes.PassContext(context.claim))

    program = build(fused, (), backend.lanes(), None, (), optimize, "graphs")
    found = {}
    for kernel in program.kernels:
        digest = hashlib.sha256(backend.emit(kernel).encode()).hexdigest()
        found[f"k_{digest[:16]}"] = kernel
    return found


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


@functools.cache
def forward_cases() -> list[Case]:
    """The op sweep: all dtypes for the first sample of each op, two for the others."""
    return [c for op in REGISTRY.values() for c in cases_of(op, every=True, thin=True)]


@functools.cache
def backward_cases() -> list[Case]:
    """Cases of differentiable ops in each float type, small ones that have a gradient."""
    return [c for c in forward_cases() if c.op.differentiable and _has_gradient(c)]


def _has_gradient(case: Case) -> bool:
    floats = [a for a in case.arrays if dtype_of(a.dtype).is_float]
    smooth = floats and all(np.isfinite(a.astype(np.float64)).all() for a in floats)
    # These say by design that some results or inputs have none.
    meant = case.op.name != "while_loop" and "padding_idx" not in case.sample.kwargs
    return bool(smooth) and meant and all(0 < a.size < 2000 for a in floats)


def gradient(case: Case) -> tuple[Graph, list[Array]] | None:
    """A case's gradient as a graph of its inputs and cotangents, with arrays for these."""
    graph = case.graph()
    floats = [v for v in graph.inputs if v.type.dtype.is_float]
    flows = autograd.dependents(graph, floats).__contains__
    reached = [v for v in graph.outputs if v.type.dtype.is_float and flows(v)]
    if not reached:
        return None
    with isolated(), no_grad():
        seeds = [Tensor(input_value(v.type.dtype, v.type.shape)) for v in reached]
        found = autograd.cotangents(reached, seeds, floats, flows)
    outputs = [found[v]._value for v in floats if v in found]
    random = np.random.default_rng(1)
    given = [random.uniform(0.5, 1.5, v.type.shape).astype(v.type.dtype.numpy) for v in reached]
    return Graph([*graph.inputs, *(s._value for s in seeds)], outputs), [*case.arrays, *given]


def check_backward(cases: Sequence[Case], backend: Backend) -> int:
    """Hold the gradients of cases against their meaning; returns how many there were."""
    found = [(case, made) for case in cases if (made := gradient(case)) is not None]
    graphs, arrays = [g for _, (g, _) in found], [a for _, (_, a) in found]
    if not found:
        return 0
    got = results(graphs, arrays, backend)
    for (case, _), graph, given, outputs in zip(found, graphs, arrays, got, strict=True):
        with np.errstate(all="ignore"):
            wanted = interpret(graph, given, wide=True)
        for array, exact in zip(outputs, wanted, strict=True):
            chain = CHAIN if array.dtype.itemsize == 2 else 1
            tolerance = GRADIENT * case.op.tolerance * chain
            # The terms of a gradient may cancel, so that its scale is not less than theirs.
            near, far = np.append(array, array.dtype.type(SCALE)), np.append(exact, SCALE)
            assert_near(near, far, tolerance, f"gradient of {case_name(case)}")
    return len(found)
