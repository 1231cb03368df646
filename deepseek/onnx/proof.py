"""The proof of an export: the model runs beside deepseek at several sizes and must agree.

In flow the model as bytes or a file, the example's arrays and the named sizes; out flow the runs
that were made. The sizes are those of the example and two that the trace has not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, CompileError, DeepseekError
from deepseek.ir import scalar
from deepseek.ir.dtype import DTYPES
from deepseek.onnx.dims import Dims
from deepseek.onnx.finish import rename
from deepseek.onnx.report import Report, Trial

BFLOAT16 = 16  # ONNX's number for the type
TOLERANCE = {"float64": 1e-7, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
SHAPES = 3  # how many sizes are tried where some are open

# Sizes to try beside the traced one, the first that the model allows: odd, least, doubled ...
OTHERS: Sequence[Callable[[int, int], int]] = (
    lambda size, turn: size + 1 + turn,
    lambda size, turn: 1,
    lambda size, turn: size * 2,
    lambda size, turn: max(1, size // 2),
    lambda size, turn: size + 1,
    lambda size, turn: size * 3,
    lambda size, turn: max(1, size - 1),
    lambda size, turn: size + 2,
    lambda size, turn: size * 4,
)


Arrays = Mapping[str, np.ndarray[Any, Any]]


class Runner:
    """A model made ready in onnxruntime, or in ONNX's own evaluator where that lacks a kernel."""

    def __init__(self, model: Any) -> None:
        """`model` is a ModelProto, or the path of a file."""
        import onnx

        proto = onnx.load(model, load_external_data=False) if isinstance(model, str) else model
        self.inputs = [i.name for i in proto.graph.input]
        ends = [*proto.graph.input, *proto.graph.output]
        narrow = [v.name for v in ends if v.type.tensor_type.elem_type == BFLOAT16]
        self.narrow: set[str] = set()
        self.outputs = [o.name for o in proto.graph.output]
        self.session: Any = None
        if find_spec("onnxruntime") is not None and not (narrow and isinstance(model, str)):
            self.session = opened(widened(model, narrow) if narrow else model)
        if self.session is not None:
            import onnxruntime

            self.name = f"onnxruntime {onnxruntime.__version__}"
            self.narrow = set(narrow)
        else:
            import onnx.reference

            self.session = onnx.reference.ReferenceEvaluator(model)
            self.name = f"onnx.reference {onnx.__version__}"

    def __call__(self, inputs: Mapping[str, Any]) -> list[Any]:
        """The outputs for named inputs."""
        given = {name: np.asarray(inputs[name]) for name in self.inputs}
        given |= {n: a.astype(np.float32) for n, a in given.items() if n in self.narrow}
        try:
            made = self.session.run(None, given)
        except Exception as error:  # each runtime has errors of its own
            shapes = ", ".join(f"{name} {array.shape}" for name, array in given.items())
            raise CompileError(
                f"export: {self.name} cannot run the model on {shapes}: {error}"
            ) from error
        brain = DTYPES["bfloat16"].numpy
        return [
            a.astype(brain) if name in self.narrow else a
            for name, a in zip(self.outputs, made, strict=True)
        ]


def widened(model: Any, names: Sequence[str]) -> Any:
    """The model with inputs and outputs of bfloat16, which NumPy does not know, as float32."""
    import onnx

    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    graph, casts = whole.graph, []
    inner = {name: f"{name}_bfloat16" for name in names}
    for node in graph.node:
        rename(node, inner)
    for ends, source in ((graph.input, True), (graph.output, False)):
        for end in ends:
            if end.name in inner:
                end.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
                pair = (end.name, inner[end.name]) if source else (inner[end.name], end.name)
                to = onnx.TensorProto.BFLOAT16 if source else onnx.TensorProto.FLOAT
                casts.append(onnx.helper.make_node("Cast", [pair[0]], [pair[1]], to=to))
    before = [n for n in casts if n.output[0] in inner.values()]
    nodes = [*before, *graph.node, *(n for n in casts if n not in before)]
    del graph.node[:]
    graph.node.extend(nodes)
    return whole


def opened(model: Any) -> Any:
    """onnxruntime's session, None where it has no kernel for an operator in these types."""
    import onnxruntime

    missing = onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised
    options.intra_op_num_threads = 1
    source = model if isinstance(model, str) else model.SerializeToString()
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except missing:
        return None


def run(model: Any, inputs: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """What ran the model, and its outputs."""
    runner = Runner(model)
    return runner.name, runner(inputs)


def prove(
    model: Any,
    report: Report,
    inputs: Arrays,
    dims: Dims,
    compute: Callable[[Sequence[np.ndarray[Any, Any]]], Sequence[np.ndarray[Any, Any]]],
    examples: Sequence[Arrays] = (),
) -> None:
    """Run the model and deepseek on the inputs and at other sizes; write the trials down.

    What is tried besides are the examples, or where there are none the inputs at sizes made up.
    Raises CompileError where results differ.
    """
    runner = Runner(model)
    report.runtime = runner.name
    most = 1 + len(examples) if examples else SHAPES
    for number, (sizes, arrays) in enumerate(trials(inputs, dims, examples)):
        named = {dims.names[symbol]: size for symbol, size in sizes.items()}
        try:
            wanted = compute(list(arrays.values()))
        except (DeepseekError, ArithmeticError, ValueError, IndexError) as error:
            if number == 0 or examples:
                raise
            refusal = str(error).splitlines()[0] if str(error) else type(error).__name__
            report.skipped.append(f"{named}: {refusal}")
            continue
        errors = compared(runner.name, report.outputs, wanted, runner(arrays), named)
        report.trials.append(Trial(named, errors))
        if len(report.trials) == most:
            return


def trials(
    inputs: Arrays, dims: Dims, examples: Sequence[Arrays]
) -> Iterator[tuple[dict[Any, int], Arrays]]:
    """Sizes, and arrays of them: the inputs first. Raises ArgumentError for unfit examples."""
    yield dict(dims.sizes.current), inputs
    for arrays in examples:
        sizes = dims.sizes_of(arrays)
        if not holds(dims, sizes):
            named = {dims.names[symbol]: size for symbol, size in sizes.items()}
            raise ArgumentError(
                f"export: an example of sizes {named}; the model holds only where "
                f"{' and '.join(dims.conditions())}"
            )
        yield sizes, arrays
    if not examples:
        for sizes in shapes_to_try(dims):
            yield sizes, {n: resized(n, a, dims, sizes) for n, a in inputs.items()}


def compared(
    runtime: str,
    names: Mapping[str, str],
    wanted: Sequence[Any],
    got: Sequence[Any],
    sizes: Mapping[str, int],
) -> dict[str, float]:
    """How far off each output is. Raises CompileError where that is too far."""
    errors = {}
    for name, array, value in zip(names, wanted, got, strict=True):
        errors[name] = difference(array, value)
        if errors[name] > TOLERANCE.get(array.dtype.name, 0.0):
            where = f" at {', '.join(f'{n}={s}' for n, s in sizes.items())}" if sizes else ""
            forms = f"{describe(value)} for {describe(array)}"
            far = f"by {errors[name]:.1e} of the largest element ({forms})"
            raise CompileError(
                f"export: {runtime} computes {name!r} otherwise{where}: it differs {far}\n"
                "  help: if inputs of these sizes do not belong together, pass others as "
                "examples=[...]; check=False writes the model all the same"
            )
    return errors


def describe(array: Any) -> str:
    return f"{np.asarray(array).dtype}{list(np.shape(array))}"


def difference(wanted: Any, got: Any) -> float:
    """The largest difference, in units of the largest finite element; inf where forms differ."""
    wanted, got = np.asarray(wanted), np.asarray(got)
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        return float("inf")
    if not wanted.size:
        return 0.0
    a, b = wanted.astype(np.float64), got.astype(np.float64)
    same = (wanted == got) | (np.isnan(a) & np.isnan(b))  # float64 does not hold every int64
    if same.all():
        return 0.0
    if not np.isfinite(a[~same]).all() or not np.isfinite(b[~same]).all():
        return float("inf")
    scale = max(np.abs(a[np.isfinite(a)]).max(), np.finfo(np.float32).tiny)
    return max(float(np.abs(a[~same] - b[~same]).max() / scale), float(np.finfo(np.float64).tiny))


# --------------------------------------------------------------------------------------- sizes


def shapes_to_try(dims: Dims) -> Iterator[dict[Any, int]]:
    """Sizes other than the traced ones for which what the trace took for granted holds."""
    traced = dict(dims.sizes.current)
    seen = [traced]
    for other in OTHERS if traced else ():
        for apart in (True, False):  # symbols of one size should differ, if they may
            sizes = {
                symbol: other(size, turn if apart else 0)
                for turn, (symbol, size) in enumerate(traced.items())
            }
            if sizes not in seen and holds(dims, sizes):
                seen.append(sizes)
                yield sizes
                break


def holds(dims: Dims, sizes: Mapping[Any, int]) -> bool:
    """Whether the trace would have taken the same turns at these sizes."""
    guards = dims.sizes.guards.values()
    return all(bool(scalar.evaluate(g.condition, sizes)) for g in guards)


def resized(
    name: str, array: np.ndarray[Any, Any], dims: Dims, sizes: Mapping[Any, int]
) -> np.ndarray[Any, Any]:
    """An example's array at other sizes: rows left out or repeated, in their order."""
    for axis, size in enumerate(array.shape):
        symbol = dims.axes.get((name, axis))
        wanted = size if symbol is None else sizes[symbol]
        if wanted != size:
            places = np.sort(np.random.default_rng(wanted).integers(0, size, wanted))
            array = np.take(array, places, axis)
    return array
