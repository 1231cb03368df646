"""Programs for tests: of op samples, of functions of tensors, with symbolic sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sampling import Case, cases

from deepseek import backends
from deepseek._runtime import Buffer
from deepseek.compiler.caches import compiled_kernels
from deepseek.frontend.tensor import Tensor, no_grad
from deepseek.ir.dtype import DTYPES
from deepseek.ir.graph import Graph, Value, input_value
from deepseek.ir.scalar import Expr
from deepseek.ir.shape import Size
from deepseek.ops.define import isolated
from deepseek.passes import PassContext, run_passes
from deepseek.program import ir
from deepseek.program.build import build
from deepseek.program.ir import Program
from deepseek.program.load import load

Array = np.ndarray[Any, Any]


def first_samples() -> list[Case]:
    """The samples of every op in the first dtype that each is swept in."""
    found: dict[tuple[str, int], Case] = {}
    for case in cases():
        found.setdefault((case.op.name, id(case.sample)), case)
    return list(found.values())


def graph_of(function: Callable[..., Any], *shapes: Sequence[Size]) -> Graph:
    """A function of float32 tensors as a graph."""
    values: list[Value] = [input_value(DTYPES["float32"], tuple(s)) for s in shapes]
    with isolated(), no_grad():
        out = function(*map(Tensor, values))
    return Graph(values, [t._value for t in (out if isinstance(out, tuple) else (out,))])


def program_of(graph: Graph, symbols: Sequence[Expr] = (), takes: Any = None) -> Program:
    """The cpu backend's program of a graph."""

    def optimize(body: Graph) -> Graph:
        return run_passes(body, PassContext())

    lanes = backends.load("cpu").lanes()
    return build(optimize(graph), symbols, lanes, takes, optimize=optimize)


def run_native(
    program: Program, arrays: Sequence[Array], symbols: tuple[int, ...] = ()
) -> list[Array]:
    """The bytes of the program's outputs, computed by the runtime."""
    loaded = load(program, compiled_kernels(backends.load("cpu"), program.kernels))
    given = [Buffer.copy_of(as_bytes(a)) for a in arrays]
    made = loaded.run(given, symbols)
    outputs = [i for i, s in enumerate(program.slots) if s.kind == ir.OUTPUT]
    inputs = [i for i, s in enumerate(program.slots) if s.kind == ir.INPUT]
    return [
        np.frombuffer(made[outputs.index(o)] if o in outputs else given[inputs.index(o)], np.uint8)
        for o in program.outputs
    ]


def as_bytes(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def elements(program: Program, results: Sequence[Array]) -> list[Array]:
    """Results as flat arrays of their own types."""
    return [
        r.view(program.slots[o].type.dtype.numpy)
        for o, r in zip(program.outputs, results, strict=True)
    ]
