"""The last steps of writing a model: prune, name and assemble it, and have ONNX check it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from deepseek.errors import CompileError
from deepseek.ir import scalar
from deepseek.ir.scalar import Expr
from deepseek.ir.shape import Size, TensorType
from deepseek.onnx.builder import Builder
from deepseek.onnx.tidy import reads, tidy

CHECKS = ["onnx.checker, full", "strict shape inference with data propagation"]


def assembled(
    b: Builder,
    results: Sequence[str],
    inputs: Mapping[str, TensorType],
    outputs: Mapping[str, TensorType],
    dims: Mapping[Expr, str],
    title: str,
) -> Any:
    """The model, but for its initializers' elements, which `b.held` has.

    `results` are the names of the outputs' values.
    """
    helper = b.onnx.helper
    b.scopes[0] = tidy(b, b.scopes[0], results)
    renamed: dict[str, str] = {}
    made = {o for n in b.scopes[0] for o in n.output}
    for value, name in zip(results, outputs, strict=True):
        if value in made and value not in renamed:
            renamed[value] = name
        else:
            b.append("Identity", [value], [name], {})
    nodes = pruned(b.scopes[0], [renamed.get(r, r) for r in results], renamed, list(outputs))
    used = set().union(*(reads(n) for n in nodes))
    graph = helper.make_graph(
        nodes,
        title,
        [_info(b, name, t, dims) for name, t in inputs.items()],
        [_info(b, name, t, dims) for name, t in outputs.items()],
        [b.tensor(name) for name in b.held if name in used],
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", b.opset)],
        ir_version=b.ir_version,
        producer_name="deepseek",
    )


def check(b: Builder, source: Any) -> list[str]:
    """What a model, or a model's file, passed. Raises CompileError where ONNX finds it wrong."""
    model = b.onnx.load(source, load_external_data=False) if isinstance(source, str) else source
    infer = b.onnx.shape_inference
    try:
        b.onnx.checker.check_model(source, full_check=True)
        infer.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (b.onnx.checker.ValidationError, infer.InferenceError) as error:
        raise CompileError(f"export: ONNX finds the model wrong: {error}") from error
    return list(CHECKS)


def pruned(
    nodes: Sequence[Any], wanted: Sequence[str], renamed: Mapping[str, str], outputs: Sequence[str]
) -> list[Any]:
    """The nodes that the outputs depend on, some values under other names."""
    for node in nodes:
        rename(node, renamed)
    return needed_for({*wanted, *outputs}, nodes)


def needed_for(wanted: set[str], nodes: Sequence[Any]) -> list[Any]:
    """The nodes that some values depend on, in bodies too."""
    kept = []
    for node in reversed(nodes):
        if not wanted.intersection(node.output):
            continue
        for attribute in node.attribute:
            if attribute.HasField("g"):
                inner = needed_for({o.name for o in attribute.g.output}, attribute.g.node)
                inner = [copy.deepcopy(n) for n in inner]
                del attribute.g.node[:]
                attribute.g.node.extend(inner)
        kept.append(node)
        wanted |= reads(node)
    return kept[::-1]


def rename(node: Any, names: Mapping[str, str]) -> None:
    """Give values other names, in bodies too."""
    for i, name in enumerate(node.input):
        node.input[i] = names.get(name, name)
    for i, name in enumerate(node.output):
        node.output[i] = names.get(name, name)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            for inner in attribute.g.node:
                rename(inner, names)


def _info(b: Builder, name: str, type_: TensorType, dims: Mapping[Expr, str]) -> Any:
    shape = [_dim(s, dims) for s in type_.shape]
    return b.onnx.helper.make_tensor_value_info(name, b.code(type_.dtype), shape)


def _dim(size: Size, dims: Mapping[Expr, str]) -> int | str:
    if isinstance(size, int):
        return size
    return scalar.substitute(size, {s: scalar.var(n, low=1) for s, n in dims.items()}).text
