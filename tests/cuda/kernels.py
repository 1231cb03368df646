"""Kernels that stand for the others: what a dozen calls become for the cuda backend.

In flow nothing; out flow the Kernels of each call, whose texts are kept as golden files.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import deepseek as ds
from deepseek import passes
from deepseek.backends.cuda import BACKEND
from deepseek.frontend.tensor import Tensor, no_grad
from deepseek.ir.dtype import DType, bfloat16, float16, float32, int32, int64
from deepseek.ir.graph import Graph, input_value
from deepseek.kernel.ir import Kernel
from deepseek.ops.define import isolated
from deepseek.program.build import build

Operand = tuple[DType, tuple[int, ...]]
Call = tuple[Callable[..., Tensor], Sequence[Operand]]


def chain(x: Tensor, y: Tensor) -> Tensor:
    return ds.tanh(x * y + 1.0) * ds.exp(-x)


CALLS: dict[str, Call] = {
    "elementwise": (chain, [(float32, (1000, 300)), (float32, (1000, 300))]),
    "half_elementwise": (lambda x: ds.gelu(x), [(bfloat16, (64, 1000))]),
    "broadcast": (lambda x, b: ds.relu(x + b), [(float16, (64, 100)), (float16, (100,))]),
    "softmax": (lambda x: ds.softmax(x, -1), [(float32, (64, 1000))]),
    "layer_norm": (lambda x: ds.layer_norm(x, (768,)), [(bfloat16, (64, 768))]),
    "sum_all": (lambda x: ds.sum(x), [(float32, (1000, 1000))]),
    "sum_columns": (lambda x: ds.sum(x, 0), [(float32, (500, 300))]),
    "argmax": (lambda x: ds.argmax(x, -1), [(int32, (40, 900))]),
    "transpose": (lambda x: ds.permute_dims(x, (1, 0)) * 2.0, [(float32, (500, 300))]),
    "padded": (lambda x: ds.pad(x, ((0, 0), (1, 1), (2, 3))), [(float32, (20, 40, 30))]),
    "cumulative_sum": (lambda x: ds.cumulative_sum(x, axis=-1), [(float32, (300, 500))]),
    "scatter_add": (
        lambda x, i, u: ds.scatter_add(x, 0, i, u),
        [(float32, (50, 64)), (int64, (20, 64)), (float32, (20, 64))],
    ),
    "matmul": (lambda a, b: ds.gelu(a @ b), [(float32, (100, 200)), (float32, (200, 300))]),
    "conv2d": (
        lambda x, w: ds.relu(ds.nn.functional.conv2d(x, w, padding=1)),
        [(float32, (2, 8, 20, 20)), (float32, (16, 8, 3, 3))],
    ),
    "power": (lambda x, y: x**y, [(float32, (1000,)), (float32, (1000,))]),
}


@functools.cache
def kernels_of(name: str) -> tuple[Kernel, ...]:
    """The kernels of a call, as the cuda backend gets them."""
    function, operands = CALLS[name]
    values = [input_value(dtype, shape) for dtype, shape in operands]
    with isolated(), no_grad():
        out = function(*(Tensor(v) for v in values))
    graph = Graph(values, [out._value])
    fused = passes.run_passes(graph, passes.PassContext(lambda node: None))
    program = build(fused, (), BACKEND.lanes(), None, (), lambda body: body, name)
    return tuple(program.kernels)
