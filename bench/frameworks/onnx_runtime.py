"""onnxruntime: a body is recorded as an ONNX graph and run by a session; it does not train.

Inputs are bound once, and results stay in the session's own arena from call to call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime
from neutral import Case, Framework, NotSupported, Spec, Workload
from onnx import TensorProto, helper, numpy_helper

VARIANTS = {"onnxruntime": {"label": "onnxruntime", "environment": {}}}

OPSET, IR_VERSION = 21, 10


class Recorded:
    """A value of the ONNX graph that is being built."""

    def __init__(self, graph: Recorder, name: str, shape: tuple[int, ...]) -> None:
        self.graph = graph
        self.name = name
        self.shape = shape

    def __add__(self, other: Any) -> Recorded:
        return self.graph.op("Add", self, other)

    def __mul__(self, other: Any) -> Recorded:
        return self.graph.op("Mul", self, other)

    def __matmul__(self, other: Any) -> Recorded:
        return self.graph.op("MatMul", self, other)

    __radd__, __rmul__ = __add__, __mul__


class Recorder:
    """The ops, each of which adds a node. Shapes are known of inputs only."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def op(self, kind: str, *args: Any, **attributes: Any) -> Recorded:
        names = [a.name if isinstance(a, Recorded) else self.constant(a) for a in args]
        out = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [out], **attributes))
        return Recorded(self, out, ())

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        array = np.asarray(value, np.float32 if isinstance(value, float) else None)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def relu(self, x: Recorded) -> Recorded:
        return self.op("Relu", x)

    def gelu(self, x: Recorded) -> Recorded:
        return self.op("Gelu", x)

    def sigmoid(self, x: Recorded) -> Recorded:
        return self.op("Sigmoid", x)

    def softmax(self, x: Recorded) -> Recorded:
        return self.op("Softmax", x, axis=-1)

    def layer_norm(self, x: Recorded, weight: Recorded, bias: Recorded) -> Recorded:
        return self.op("LayerNormalization", x, weight, bias, axis=-1, epsilon=1e-5)

    def cross_entropy(self, logits: Recorded, labels: Recorded) -> Recorded:
        return self.op("SoftmaxCrossEntropyLoss", logits, labels, reduction="mean")

    def sum(self, x: Recorded, axis: int) -> Recorded:
        return self.op("ReduceSum", x, np.array([axis]), keepdims=0)

    def transpose(self, x: Recorded, axes: tuple[int, ...]) -> Recorded:
        return self.op("Transpose", x, perm=axes)

    def reshape(self, x: Recorded, shape: tuple[int, ...]) -> Recorded:
        return self.op("Reshape", x, np.array(shape))

    def concat(self, tensors: Sequence[Recorded], axis: int) -> Recorded:
        return self.op("Concat", *tensors, axis=axis)

    def take(self, x: Recorded, rows: Recorded) -> Recorded:
        return self.op("Gather", x, rows, axis=0)


class OnnxRuntime:
    versions = {"onnxruntime": onnxruntime.__version__}

    def __init__(self, threads: int) -> None:
        self.options = onnxruntime.SessionOptions()
        self.options.intra_op_num_threads = threads
        self.options.log_severity_level = 3

    def tensor(self, array: np.ndarray[Any, Any]) -> Any:
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)

    def arrays(self, out: Any) -> list[np.ndarray[Any, Any]]:
        return [value.numpy() for value in out]

    def session(
        self, body: Callable[..., Any], weights: Sequence[Any], args: Sequence[Spec]
    ) -> tuple[Any, Any]:
        """A session of the body with its weights, and a binding whose results the session keeps."""
        model, results = record(body, weights, args)
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), self.options, providers=["CPUExecutionProvider"]
        )
        binding = session.io_binding()
        for name in results:
            binding.bind_output(name, "cpu")
        return session, binding

    def function(
        self, body: Callable[..., Any], weights: Sequence[Any], args: Sequence[Spec]
    ) -> Callable[..., Any]:
        session, binding = self.session(body, weights, args)
        results = [output.name for output in session.get_outputs()]

        def run(*args: Any) -> Any:
            # What is bound has the shape of the last call from then on.
            binding.clear_binding_outputs()
            for name in results:
                binding.bind_output(name, "cpu")
            for i, value in enumerate(args):
                binding.bind_ortvalue_input(f"x{i}", value)
            session.run_with_iobinding(binding)
            return binding.get_outputs()

        return run

    def case(self, workload: Workload, inputs: list[Any]) -> Case:
        if workload.kind != "function":
            raise NotSupported("onnxruntime has no gradients")
        n = workload.parameters
        session, binding = self.session(workload.body, inputs[:n], workload.inputs[n:])
        for i, value in enumerate(inputs[n:]):
            binding.bind_ortvalue_input(f"x{i}", value)
        return Case(
            lambda: session.run_with_iobinding(binding),
            lambda _: self.arrays(binding.get_outputs()),
        )


def record(
    body: Callable[..., Any], weights: Sequence[Any], args: Sequence[Spec]
) -> tuple[Any, list[str]]:
    """The model of a body, its weights in it, and the names of its results."""
    graph = Recorder()
    held = [Recorded(graph, f"w{i}", tuple(w.shape())) for i, w in enumerate(weights)]
    given = [Recorded(graph, f"x{i}", spec.shape) for i, spec in enumerate(args)]
    out = body(graph, *held, *given)
    results = list(out) if isinstance(out, (tuple, list)) else [out]
    taken = []
    for value, spec in zip(given, args, strict=True):
        kind = TensorProto.INT64 if spec.below else TensorProto.FLOAT
        shape = [f"{value.name}.{i}" if n < 0 else n for i, n in enumerate(spec.shape)]
        taken.append(helper.make_tensor_value_info(value.name, kind, shape))
    made = [helper.make_tensor_value_info(r.name, TensorProto.FLOAT, None) for r in results]
    constants = [numpy_helper.from_array(w.numpy(), f"w{i}") for i, w in enumerate(weights)]
    constants += graph.constants
    model = helper.make_model(
        helper.make_graph(graph.nodes, "bench", taken, made, constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    return model, [r.name for r in results]


def make(variant: str, threads: int) -> Framework:
    return OnnxRuntime(threads)
