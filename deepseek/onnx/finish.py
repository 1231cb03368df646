"""The last steps of an export: prune, name, assemble, check and run the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from deepseek.errors import CompileError
from deepseek.ir import scalar
from deepseek.ir.scalar import Expr
from deepseek.ir.shape import Size, TensorType
from deepseek.onnx.builder import Builder
from deepseek.onnx.tidy import reads, tidy

LARGEST = 2**31 - 1  # what a protobuf message can hold
BFLOAT16 = 16  # ONNX's number for the type
TOLERANCE = {"float64": 1e-7, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}


def finish(
    b: Builder,
    results: Sequence[str],
    inputs: Mapping[str, TensorType],
    outputs: Mapping[str, TensorType],
    dims: Mapping[Expr, str],
    title: str,
) -> Any:
    """The checked model. `results` are the names of the outputs' values."""
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
        [t for name, t in b.initializers.items() if name in used],
    )
    opset = helper.make_opsetid("", b.opset)
    model = helper.make_model(
        graph,
        opset_imports=[opset],
        ir_version=helper.find_min_ir_version_for([opset]),
        producer_name="deepseek",
    )
    size = model.ByteSize()
    if size > LARGEST:
        raise CompileError(f"export: the model has {size:,} bytes; an ONNX file holds {LARGEST:,}")
    b.onnx.checker.check_model(model, full_check=True)
    b.onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    return model


def pruned(
    nodes: Sequence[Any], wanted: Sequence[str], renamed: Mapping[str, str], outputs: Sequence[str]
) -> list[Any]:
    """The nodes that the outputs depend on, some values under other names."""
    for node in nodes:
        rename(node, renamed)
    needed = {*wanted, *outputs}
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed |= reads(node)
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


# ----------------------------------------------------------------------------------- running


def compare(
    model: Any, inputs: Mapping[str, Any], wanted: Mapping[str, Any]
) -> tuple[str, dict[str, float]]:
    """(what ran the model, how far each output is off). Raises CompileError where that is too far.

    onnxruntime is asked first; types it has no kernels for are left to ONNX's own evaluator.
    """
    runtime, got = run(model, inputs)
    errors = {}
    for (name, array), value in zip(wanted.items(), got, strict=True):
        errors[name] = difference(array, value)
        if errors[name] > TOLERANCE.get(array.dtype.name, 0.0):
            raise CompileError(
                f"export: {runtime} computes {name!r} otherwise: it differs by {errors[name]:.1e} "
                "of the largest element\n  help: pass check=False to write the model all the same"
            )
    return runtime, errors


def run(model: Any, inputs: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """What ran the model, and its outputs."""
    inputs = {name: np.asarray(array) for name, array in inputs.items()}
    ends = [*model.graph.input, *model.graph.output]
    narrow = any(v.type.tensor_type.elem_type == BFLOAT16 for v in ends)  # unknown to NumPy there
    if find_spec("onnxruntime") is not None and not narrow:
        import onnxruntime

        missing = onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        try:
            session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            return f"onnxruntime {onnxruntime.__version__}", list(session.run(None, inputs))
        except missing:
            pass
    import onnx.reference

    evaluator = onnx.reference.ReferenceEvaluator(model)
    return f"onnx.reference {onnx.__version__}", list(evaluator.run(None, inputs))


def difference(wanted: Any, got: Any) -> float:
    """The largest difference, in units of the largest finite element; inf where forms differ."""
    wanted, got = np.asarray(wanted), np.asarray(got)
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        return float("inf")
    if not wanted.size:
        return 0.0
    a, b = wanted.astype(np.float64), got.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    if not np.isfinite(a[~same]).all() or not np.isfinite(b[~same]).all():
        return float("inf")
    scale = max(np.abs(a[np.isfinite(a)]).max(), np.finfo(np.float32).tiny)
    return float(np.abs(a[~same] - b[~same]).max() / scale)
