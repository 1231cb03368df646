"""What the sweeps of exported samples share: a graph as a model, and whether ONNX can say it."""

from __future__ import annotations

from typing import Any

from deepseek.ir.graph import Graph
from deepseek.ir.op import Kind
from deepseek.ir.scalar import var
from deepseek.onnx.finish import assembled, check
from deepseek.onnx.scalars import since_of
from deepseek.onnx.translate import Translator
from deepseek.onnx.versions import OPSETS, forms_of, since


def model_of(graph: Graph, opset: int = 21) -> tuple[Any, Translator]:
    """The checked model of a graph, and who wrote it."""
    b = Translator(opset)
    inputs = {f"x{i}": v.type for i, v in enumerate(graph.inputs)}
    for name, type_ in inputs.items():
        b.dtypes[name] = type_.dtype
    results = b.graph(graph, list(inputs))
    outputs = {f"y{i}": v.type for i, v in enumerate(graph.outputs)}
    model = assembled(b, results, inputs, outputs, {}, "test")
    for tensor in model.graph.initializer:
        tensor.raw_data = b.held[tensor.name].tobytes()
    check(b, model)
    return model, b


def least_opset(graph: Graph) -> int:
    """The opset from which a graph can be said: later than the first where it looks at bits."""
    least = OPSETS.start
    for node in graph.nodes:
        op = node.op
        if any(since(f) == OPSETS.start for f in forms_of(op.onnx)):
            continue
        if op.kind is Kind.ELEMENTWISE and op.meaning is not None:
            scalars = [var(f"x{i}", v.type.dtype) for i, v in enumerate(node.inputs)]
            least = max(least, since_of(op.meaning(*scalars, **node.attrs)))
        elif op.expand is not None:
            types = tuple(v.type for v in node.inputs)
            least = max(least, least_opset(op.expand(types, node.attrs)))
    return least


def unspeakable(graph: Graph) -> bool:
    """Whether a graph draws random numbers or calls the host: ONNX has neither generator nor us."""
    for node in graph.nodes:
        if forms_of(node.op.onnx):
            continue
        if node.op.kind in (Kind.RANDOM, Kind.HOST, Kind.COLLECTIVE):
            return True
        if node.op.expand is not None:
            types = tuple(v.type for v in node.inputs)
            if unspeakable(node.op.expand(types, node.attrs)):
                return True
    return False
