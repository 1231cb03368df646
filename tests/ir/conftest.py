"""Toy ops for tests of the IR, which knows none by name: one per form that a graph can take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deepseek.errors import ShapeError
from deepseek.ir.dtype import DType, float32, int64
from deepseek.ir.graph import CONSTANT, INPUT, Graph, Value, constant, input_value, node
from deepseek.ir.op import Kind, Op
from deepseek.ir.shape import TensorType, tensor_type


def _same(*types: TensorType, **_: Any) -> tuple[TensorType, ...]:
    if any(t is not types[0] for t in types):
        raise ShapeError("toys take equal types")
    return types[:1]


class Toys:
    """Builders of small graphs."""

    ADD = Op("toy.add", Kind.ELEMENTWISE, _same, reference=lambda a, b: a + b)
    NEG = Op("toy.neg", Kind.ELEMENTWISE, _same, reference=lambda a: -a)
    SCALE = Op("toy.scale", Kind.ELEMENTWISE, _same, reference=lambda a, *, by: a * by)
    SORT = Op("toy.sort", Kind.ORDER, lambda x, **_: (x, tensor_type(int64, x.shape)))
    NOTE = Op("toy.note", Kind.HOST, _same, reference=lambda a: a)
    CALL = Op(
        "toy.call",
        Kind.CONTROL,
        lambda *_, body: tuple(v.type for v in body.outputs),
        reference=lambda *xs, run, body: run(body, xs),
    )
    named = {op.name: op for op in (ADD, NEG, SCALE, SORT, NOTE, CALL, INPUT, CONSTANT)}

    def ops(self, name: str) -> Op:
        return self.named[name]

    def input(self, *shape: Any, dtype: DType = float32) -> Value:
        return input_value(dtype, shape)

    def constant(self, elements: Any, dtype: DType = float32) -> Value:
        return constant(np.asarray(elements, dtype.numpy), dtype)

    def add(self, a: Value, b: Value) -> Value:
        return node(self.ADD, (a, b), {}).outputs[0]

    def neg(self, a: Value) -> Value:
        return node(self.NEG, (a,), {}).outputs[0]

    def note(self, a: Value) -> Value:
        return node(self.NOTE, (a,), {}).outputs[0]

    def scale(self, a: Value, by: Any) -> Value:
        return node(self.SCALE, (a,), {"by": by}).outputs[0]

    def sort(self, a: Value, **attrs: Any) -> tuple[Value, ...]:
        return node(self.SORT, (a,), attrs).outputs

    def call(self, body: Graph, *inputs: Value) -> tuple[Value, ...]:
        return node(self.CALL, inputs, {"body": body}).outputs


@pytest.fixture
def toy() -> Toys:
    return Toys()
