"""Building, interpreting and running contraction kernels: shared by the contraction tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deepseek import _runtime
from deepseek.backends.cpu.compile import compile_kernels
from deepseek.backends.cpu.emit import emit, grid_extent, scratch_bytes
from deepseek.backends.cpu.target import TARGETS, best_level
from deepseek.ir import scalar
from deepseek.ir.dtype import DType
from deepseek.ir.graph import Graph, Value
from deepseek.ir.scalar import Expr
from deepseek.kernel import lower
from deepseek.kernel.contraction import contract_region, nest_of
from deepseek.kernel.equation import equation_of
from deepseek.kernel.evaluate import Evaluator
from deepseek.kernel.interpret import interpret
from deepseek.kernel.ir import Buffer, Kernel
from deepseek.kernel.problem import Schedule
from deepseek.kernel.text import parse_kernel, print_kernel
from deepseek.kernel.verify import verify

Arrays = list[np.ndarray[Any, Any]]


class Compiled:
    """A contraction region's kernel, with its arguments in order."""

    def __init__(
        self,
        inputs: Sequence[Value],
        outputs: Sequence[Value],
        plan: Schedule | None = None,
        lanes: int = 16,
    ) -> None:
        body = Graph(inputs, outputs)
        sources = {v: Buffer(f"x{i}", v.type.dtype) for i, v in enumerate(inputs)}
        stored = {v: Buffer(f"y{i}", v.type.dtype, written=True) for i, v in enumerate(outputs)}
        evaluator = Evaluator(body, sources)
        shape = outputs[0].type.shape
        if plan is None:
            nest = contract_region(evaluator, shape, stored, lanes)
        else:
            nest = nest_of(equation_of(evaluator, shape, stored), plan)
        self.lowered = lower.assemble(body, nest, list(sources.values()), list(stored.values()))
        self.types = [v.type for v in outputs]

    @property
    def kernel(self) -> Kernel:
        return self.lowered.kernel

    def check_form(self) -> None:
        """The kernel is well-formed, and its text says all of it."""
        verify(self.kernel)
        assert parse_kernel(print_kernel(self.kernel)) == self.kernel

    def _arguments(
        self, arrays: Arrays, current: dict[Expr, int]
    ) -> tuple[Arrays, Arrays, list[int]]:
        given = [np.ascontiguousarray(arrays[i]).reshape(-1) for i in self.lowered.inputs]
        shapes = [
            tuple(int(scalar.evaluate(scalar.as_expr(s), current)) for s in t.shape)
            for t in self.types
        ]
        outputs = [
            np.zeros(shape, t.dtype.numpy) for shape, t in zip(shapes, self.types, strict=True)
        ]
        sizes = [int(scalar.evaluate(s, current)) for s in self.lowered.sizes]
        return given, outputs, sizes

    def interpreted(self, arrays: Arrays, current: dict[Expr, int] | None = None) -> Arrays:
        given, outputs, sizes = self._arguments(arrays, current or {})
        interpret(self.kernel, [*given, *(o.reshape(-1) for o in outputs)], sizes)
        return outputs

    def native(
        self,
        arrays: Arrays,
        current: dict[Expr, int] | None = None,
        level: str | None = None,
        runs: int = 1,
    ) -> Arrays:
        """What the code for a CPU level computes; its tasks are done in `runs` calls."""
        given, outputs, sizes = self._arguments(arrays, current or {})
        target = TARGETS[level or best_level()]
        code = _runtime.Code(compile_kernels([("f", emit(self.kernel, target))], target))
        buffers = [_runtime.Buffer.copy_of(as_bytes(a)) for a in (*given, *outputs)]
        env = dict(zip(self.kernel.sizes, sizes, strict=True))
        tasks = int(scalar.evaluate(grid_extent(self.kernel), env))
        scratch = int(scalar.evaluate(scratch_bytes(self.kernel), env))
        edges = [tasks * i // runs for i in range(runs + 1)]
        for begin, end in reversed(list(zip(edges, edges[1:], strict=False))):
            _runtime.call_kernel(code, "f", buffers, sizes, begin, end, scratch)
        return [
            np.frombuffer(memoryview(b), o.dtype).reshape(o.shape)
            for b, o in zip(buffers[len(given) :], outputs, strict=True)
        ]


def as_bytes(array: np.ndarray[Any, Any]) -> memoryview:
    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def whole_numbers(shape: Sequence[int], dtype: DType, seed: int = 0) -> np.ndarray[Any, Any]:
    """Small whole numbers: their sums of products are exact in every type but the 8-bit ones."""
    low = 0 if dtype.kind == "u" else -3
    drawn = np.random.default_rng(seed).integers(low, 4, shape)
    return drawn.astype(dtype.numpy)
