"""`ds.onnx.export`: a function or Module becomes an ONNX file that was checked and run.

The function is traced on placeholders, named sizes being symbolic, and the graph translated.
Parameters become initializers under their state-dict keys. The model passes ONNX's checker with
strict shape inference, runs in onnxruntime where that is installed, and must agree with deepseek
at sizes that were traced and others before the file appears.
"""

from __future__ import annotations

import inspect
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, TraceError, unknown
from deepseek.frontend.tensor import Tensor, no_grad, tracing, view_of
from deepseek.frontend.tracer import Trace, begin
from deepseek.ir.graph import Graph
from deepseek.ir.shape import Shape, active
from deepseek.nn.module import Module
from deepseek.onnx.builder import KNOWN
from deepseek.onnx.dims import Dims
from deepseek.onnx.finish import assembled
from deepseek.onnx.finish import check as check_model
from deepseek.onnx.places import roots, state_keys
from deepseek.onnx.proof import prove
from deepseek.onnx.report import Report
from deepseek.onnx.storage import drafted
from deepseek.onnx.translate import Translator
from deepseek.onnx.versions import OPSETS
from deepseek.ops import asarray


def export(
    model: Callable[..., Any],
    args: Any,
    path: str | os.PathLike[str],
    *,
    dynamic: Mapping[Any, Mapping[int, str]] | None = None,
    opset: int = 21,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    external_data: bool | None = None,
    examples: Sequence[Any] = (),
    check: bool = True,
) -> Report:
    """Write `model(*args)` as an ONNX file, prove that it computes the same, and say how.

    `args` are one tensor or a tuple, perhaps nested; what is not a tensor is fixed. `dynamic` names
    sizes that may differ when the model runs: `{"x": {0: "batch"}}`, by the input's name or
    position; they are at least 1. A Module, or one that a function calls, is exported as in
    evaluation. `opset` is 13 to 26; what it lacks is written in operators that it has.
    `external_data` puts the weights into a file beside the model: True, False, or None for models
    of 2 GB and more.

    With `check` onnxruntime (or, where that is missing or lacks a kernel, ONNX's own evaluator)
    runs the model on `args` and at two other sizes where some are dynamic, and the results must be
    deepseek's. Those inputs are rows of `args` left out or repeated; `examples` are further `args`
    to run instead, for inputs that have to fit each other. The report is returned and written into
    the model's metadata.

    Raises ArgumentError for wrong arguments, TraceError for functions that no graph can say, and
    CompileError for what ONNX cannot say, naming the op and the line it was called at, and for
    results that differ. The file appears when all is well and not before.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> net, path = ds.nn.Linear(3, 2), f"{folder.name}/net.onnx"
    >>> report = ds.onnx.export(net, ds.ones(4, 3), path, dynamic={0: {0: "n"}})
    >>> report.outputs
    {'output': 'float32[n, 2]'}
    """
    if opset not in OPSETS:
        raise unknown("ONNX opset", opset, OPSETS)
    args = tuple(args) if isinstance(args, (tuple, list)) else (args,)
    leaves = dict(_leaves(args, _parameters(model, len(args))))
    names = _names("input_names", input_names, list(leaves))
    inputs = {n: asarray(x) for n, x in zip(names, leaves.values(), strict=True)}
    args = _rebuilt(args, iter(inputs.values()))
    dims = Dims(inputs, dynamic or {})

    others = [_example(x, len(args), names, model) for x in examples]

    def compute(arrays: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        out = _flat(model(*_rebuilt(args, map(asarray, arrays))))
        return [t.numpy() for t in out.values()]

    with evaluating(roots(model).values()), no_grad():
        proto, report, b = _translated(model, args, inputs, dims, output_names, opset)
        report.path = os.fspath(path)
        held = {t.name: b.held[t.name] for t in proto.graph.initializer}
        with drafted(proto, held, path, external_data) as draft:
            source = draft.source
            report.checks = check_model(b, source)
            if check:
                arrays = {n: np.asarray(x.numpy()) for n, x in inputs.items()}
                prove(source, report, arrays, dims, compute, others)
            proto.metadata_props.add(key="deepseek.report", value=report.json())
            report.data = draft.data
            report.bytes = draft.publish(path)
    return report


def _example(
    args: Any, count: int, names: Sequence[str], model: Callable[..., Any]
) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of further arguments. Raises ArgumentError unless they are as many."""
    args = tuple(args) if isinstance(args, (tuple, list)) else (args,)
    leaves = [asarray(x).numpy() for _, x in _leaves(args, _parameters(model, count))]
    if len(args) != count or len(leaves) != len(names):
        raise ArgumentError(
            f"export: an example has {len(leaves)} tensors in {len(args)} arguments; wanted "
            f"{len(names)} in {count}, for {list(names)}"
        )
    return dict(zip(names, leaves, strict=True))


def _translated(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    inputs: Mapping[str, Tensor],
    dims: Dims,
    output_names: Sequence[str] | None,
    opset: int,
) -> tuple[Any, Report, Translator]:
    """The model without its weights, the account of it, and who holds the weights."""
    b = Translator(opset)
    modules = roots(model)
    trace = begin()
    with active(dims.sizes):
        shapes = [dims.shape(n, x) for n, x in inputs.items()]
        with b.places.watching(modules):
            graph, results = traced(trace, model, args, list(inputs.values()), shapes)
        outputs = _names("output_names", output_names, results)
        if set(inputs) & set(outputs):
            raise ArgumentError(
                f"export: inputs {list(inputs)} and outputs {outputs} share a name\n"
                "  help: give other output_names=..."
            )
        for name, value in zip(inputs, graph.inputs, strict=False):
            b.dtypes[name] = value.type.dtype
        for symbol, (name, axis) in dims.places.items():
            b.sizes[symbol] = b.node("Shape", name, start=axis, end=axis + 1)
        hidden = initializers(b, trace, state_keys(modules), [*inputs, *outputs])
        names = b.graph(graph, [*inputs, *hidden])
    conditions = dims.conditions()
    taken = dict(zip(inputs, [v.type for v in graph.inputs], strict=False))
    given = dict(zip(outputs, [v.type for v in graph.outputs], strict=True))
    title = getattr(model, "__name__", type(model).__name__)
    proto = assembled(b, names, taken, given, dims.names, title)
    report = Report(
        path="", opset=opset, ir_version=b.ir_version, whole=b.whole, opened=b.opened,
        inputs={n: dims.type_text(t) for n, t in taken.items()},
        outputs={n: dims.type_text(t) for n, t in given.items()},
        operators=Counter(n.op_type for n in proto.graph.node), conditions=conditions,
    )  # fmt: skip
    return proto, report, b


# --------------------------------------------------------------------------------- arguments


def _parameters(model: Callable[..., Any], count: int) -> list[str]:
    """The names of the positional parameters."""
    called = model.forward if isinstance(model, Module) else model
    try:
        parameters = list(inspect.signature(called).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    names: list[str] = []
    for p in parameters:
        if p.kind is p.VAR_POSITIONAL:
            names += [f"{p.name}_{i}" for i in range(count - len(names))]
        elif p.kind is not p.KEYWORD_ONLY:
            names.append(p.name)
    return names + [f"input_{i}" for i in range(len(names), count)]


def _leaves(tree: Any, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """The tensors and arrays of nested arguments, with names."""
    for name, x in zip(names, tree, strict=False):
        if isinstance(x, (Tensor, np.ndarray)):
            yield name, x
        elif isinstance(x, (tuple, list)):
            yield from _leaves(x, [f"{name}_{i}" for i in range(len(x))])
        elif isinstance(x, Mapping):
            yield from _leaves(x.values(), [f"{name}_{k}" for k in x])


def _rebuilt(tree: Any, leaves: Iterator[Tensor]) -> Any:
    """Nested arguments with their tensors replaced, in order."""
    if isinstance(tree, (Tensor, np.ndarray)):
        return next(leaves)
    if isinstance(tree, (tuple, list)):
        items = [_rebuilt(x, leaves) for x in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    if isinstance(tree, Mapping):
        return {k: _rebuilt(x, leaves) for k, x in tree.items()}
    return tree


def _flat(out: Any) -> dict[str, Tensor]:
    """The tensors of a result, with names."""
    if isinstance(out, Tensor):
        return {"output": out}
    items = out if isinstance(out, Mapping) else {f"output_{i}": x for i, x in enumerate(out)}
    found = {}
    for name, x in items.items():
        inner = {"": x} if isinstance(x, Tensor) else {f"_{k}": t for k, t in _flat(x).items()}
        found.update({f"{name}{k}": t for k, t in inner.items()})
    return found


def _names(option: str, wanted: Sequence[str] | None, names: list[str]) -> list[str]:
    """The names asked for, or those found. Raises ArgumentError unless there is one for each."""
    given = names if wanted is None else list(wanted)
    if len(given) != len(names) or len(set(given)) != len(given) or not all(given):
        raise ArgumentError(
            f"export: {option}={given}; wanted {len(names)} different names, for {names}"
        )
    return given


# ------------------------------------------------------------------------------------ tracing


@contextmanager
def evaluating(models: Iterable[Module]) -> Iterator[None]:
    """Modules in evaluation mode for a while."""
    modules = [m for model in models for m in model.modules()]
    training = [m for m in modules if m.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def traced(
    trace: Trace,
    model: Callable[..., Any],
    args: tuple[Any, ...],
    inputs: Sequence[Tensor],
    shapes: Sequence[Shape],
) -> tuple[Graph, list[str]]:
    """The graph of a call, what it read from outside as further inputs, and the results' names."""
    values = []
    for x, shape in zip(inputs, shapes, strict=True):
        placeholder = trace.placeholder(x.dtype, shape)
        trace.shown[x._value] = placeholder
        trace.show(x, placeholder)
        values.append(placeholder)
    with tracing(trace):
        try:
            results = _flat(model(*_rebuilt(args, iter(inputs))))
            outputs = [trace.inside(t._value) for t in results.values()]
        finally:
            rebound, _ = trace.finish()
    if rebound:
        changed = ", ".join(str(handle._value.type) for handle in rebound)
        raise TraceError(
            f"export: the function changes tensors that it did not make: {changed}\n"
            "  help: an ONNX model has no state; return the new values as results"
        )
    hidden = [h.placeholder for h in trace.hidden.values()]
    hidden += [n.placeholder for n in trace.numbers.values()]
    hidden += [v for d in trace.draws.values() for v in (d.seed, d.first)]
    return Graph([*values, *hidden], outputs), list(results)


def initializers(
    b: Translator, trace: Trace, keys: Mapping[int, str], taken: Sequence[str]
) -> list[str]:
    """A name for everything that the trace read from outside, state-dict keys where there are."""
    names = []
    for h in trace.hidden.values():
        key, array = keys.get(id(h.handle), ""), view_of(h.value)
        if not key and array.size <= KNOWN:  # nobody's parameter: as good as written down
            names.append(b.array(array, h.value.type.dtype))
            continue
        if not key or key in taken or key in b.held:
            key = b.name(key or "captured")
        names.append(b.initializer(key, array, h.value.type.dtype))
    for n in trace.numbers.values():
        names.append(b.number(n.number.current, n.placeholder.type.dtype))
    for d in trace.draws.values():
        for value in (d.seed, d.first):  # read by random ops only, which ONNX does not have
            names.append(b.name("draw"))
            b.dtypes[names[-1]] = value.type.dtype
    return names
