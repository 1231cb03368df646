"""The pieces of an ONNX model: nodes, initializers and sizes, under names that stand for values.

`Builder` is what the `onnx=` functions of op records are given. A value is its name; the builder
knows each one's dtype, casts around operators whose schema does not take it, computes symbolic
sizes, and writes the user's line, the module and the op on every node. Out flow NodeProtos and
initializers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np

from deepseek.errors import BackendError, CompileError, Line, format_line
from deepseek.ir import scalar
from deepseek.ir.dtype import DTYPES, DType, int64
from deepseek.ir.scalar import Expr
from deepseek.ir.shape import Shape, Size
from deepseek.onnx.older import WAYS
from deepseek.onnx.scalars import DIRECT, SPECIAL
from deepseek.onnx.versions import fitting, schema

ONNX_NAMES = {d: d.name.upper() for d in DTYPES.values()} | {
    DTYPES["float32"]: "FLOAT",
    DTYPES["float64"]: "DOUBLE",
}
DTYPE_OF_ONNX = {name.lower(): dtype for dtype, name in ONNX_NAMES.items()}
CARRIERS = {
    "f": ("float32", "float64"),
    "i": ("int64", "int32", "float64", "float32"),
    "u": ("uint64", "int64", "uint32", "int32", "float64", "float32"),
    "b": ("int32", "int64", "float32"),
}
"""What an operator computes in, by kind, where it does not take the type itself."""

NODE_METADATA = 10  # the first IR version whose nodes have properties; before, a text
KNOWN = 1024  # arrays of at most so many elements are computed while exporting


class Builder:
    """Collects nodes; `line`, `scope` and `module` say whose they are."""

    def __init__(self, opset: int) -> None:
        if find_spec("onnx") is None:
            raise BackendError(
                "export needs the onnx package, which is not installed\n"
                "  help: pip install 'deepseek[onnx]'"
            )
        import onnx

        newest = onnx.defs.onnx_opset_version()
        if opset > newest:
            raise BackendError(
                f"export to opset {opset} needs a newer onnx package: {onnx.__version__} knows "
                f"opsets to {newest}\n  help: pip install -U onnx, or pass opset={newest}"
            )
        self.onnx = onnx
        self.opset = opset
        opsets = [onnx.helper.make_opsetid("", opset)]
        self.ir_version: int = onnx.helper.find_min_ir_version_for(opsets)
        self.scopes: list[list[Any]] = [[]]
        self.held: dict[str, np.ndarray[Any, Any]] = {}  # the initializers' elements
        self.dtypes: dict[str, DType] = {}
        self.known: dict[str, np.ndarray[Any, Any]] = {}
        self.expanded: dict[str, tuple[str, Shape, Shape]] = {}  # its source, and both shapes
        self.sizes: dict[Expr, str] = {}
        self.constants: dict[Any, str] = {}
        self.line: Line | None = None
        self.scope: list[str] = []  # the ops being written, outermost first
        self.module = ""  # the path of the module that they belong to
        self.count = 0

    # ------------------------------------------------------------------------------ nodes

    def name(self, hint: str) -> str:
        """A name that nothing else has."""
        self.count += 1
        return f"{hint}_{self.count}"

    def node(
        self,
        operator: str,
        *inputs: str,
        outputs: int = 1,
        dtype: DType | None = None,
        **attrs: Any,
    ) -> Any:
        """Add a node; gives its output's name, or a tuple of them.

        The signature is that of the newest opset; older ones get what they have instead. An empty
        name leaves an optional input out. `dtype` is that of outputs whose type the inputs do not
        settle. Raises Unavailable for what the opset does not have.
        """
        ways = fitting(WAYS.get(operator, ()), self.opset)
        if ways:
            more = {"outputs": outputs} if outputs != 1 else {}
            return ways[0](self, *inputs, **attrs, **more)
        return self.plain(operator, *inputs, outputs=outputs, dtype=dtype, **attrs)

    def plain(
        self,
        operator: str,
        *inputs: str,
        outputs: int = 1,
        dtype: DType | None = None,
        **attrs: Any,
    ) -> Any:
        """The same with the signature that the operator has in this opset."""
        described = schema(operator, self.opset)
        bound: dict[str, tuple[DType, DType]] = {}
        for i, value in enumerate(inputs):
            if value:
                self._bind(described, i, self.dtypes[value], bound)
        given = [
            self.cast(v, bound[_parameter(described.inputs, i).type_str][1])
            if v and _parameter(described.inputs, i).type_str in bound
            else v
            for i, v in enumerate(inputs)
        ]
        made = [self.name(operator.lower()) for _ in range(outputs)]
        self.append(operator, given, made, attrs)
        return self._typed(described, made, bound, dtype)

    def append(
        self, operator: str, inputs: Sequence[str], outputs: Sequence[str], attrs: dict[str, Any]
    ) -> None:
        """Add a node as it is."""
        name = f"{'/'.join(self.scope)}/{outputs[0]}"
        node = self.onnx.helper.make_node(operator, inputs, outputs, name=name, **attrs)
        origin = self.origin()
        if self.ir_version >= NODE_METADATA:
            for key, value in origin.items():
                node.metadata_props.add(key=f"deepseek.{key}", value=value)
        elif origin:
            node.doc_string = "\n".join(f"{key}: {value}" for key, value in origin.items())
        self.scopes[-1].append(node)

    def origin(self) -> dict[str, str]:
        """Where the nodes that are being written come from."""
        line = "" if self.line is None else formatted(self.line)
        found = {"op": "/".join(self.scope), "line": line, "module": self.module}
        return {key: value for key, value in found.items() if value}

    def _bind(
        self, described: Any, i: int, dtype: DType, bound: dict[str, tuple[DType, DType]]
    ) -> None:
        """Settle what the type variable of input i is, and what is computed in."""
        parameter = _parameter(described.inputs, i)
        if parameter.type_str in bound or len(parameter.types) == 0:
            return
        allowed = {DTYPE_OF_ONNX.get(t[7:-1]) for t in parameter.types if t.startswith("tensor(")}
        carrier = dtype
        if dtype not in allowed:
            fitting = [DTYPES[n] for n in CARRIERS[dtype.kind] if DTYPES[n] in allowed]
            if not fitting:
                raise CompileError(f"ONNX operator {described.name} takes nothing like {dtype}")
            carrier = fitting[0]
        bound[parameter.type_str] = (dtype, carrier)

    def _typed(
        self,
        described: Any,
        made: list[str],
        bound: dict[str, tuple[DType, DType]],
        dtype: DType | None,
    ) -> Any:
        """The outputs in the types that were asked for."""
        out = []
        for i, value in enumerate(made):
            parameter = _parameter(described.outputs, i)
            variable = parameter.type_str
            if len(parameter.types) == 1:
                (variable,) = parameter.types
            elif variable in bound:
                asked, carrier = bound[variable]
                self.dtypes[value] = carrier
                out.append(self.cast(value, asked))
                continue
            fixed = DTYPE_OF_ONNX.get(variable[7:-1]) if variable.startswith("tensor(") else dtype
            assert fixed is not None, (described.name, variable)
            self.dtypes[value] = fixed
            out.append(value)
        return out[0] if len(out) == 1 else tuple(out)

    def cast(self, value: str, dtype: DType) -> str:
        """The value in another dtype."""
        if self.dtypes[value] is dtype:
            return value
        if value in self.expanded:  # stays one that need not be
            source, shape, target = self.expanded[value]
            return self.expand(self.cast(source, dtype), shape, target)
        if value in self.known:
            return self.array(scalar.convert(self.known[value], dtype), dtype)
        made = self.name("cast")
        self.append("Cast", [value], [made], {"to": self.code(dtype)})
        self.dtypes[made] = dtype
        return made

    def code(self, dtype: DType) -> int:
        """ONNX's number for a dtype."""
        return int(getattr(self.onnx.TensorProto, ONNX_NAMES[dtype]))

    @contextmanager
    def inside(self, name: str, line: Line | None) -> Iterator[None]:
        """Nodes added meanwhile belong to an op; the outermost line stays."""
        before = self.line
        self.scope.append(name)
        self.line = before if len(self.scope) > 1 and before is not None else line
        try:
            yield
        finally:
            self.scope.pop()
            self.line = before

    # ------------------------------------------------------------------------- constants

    def initializer(self, name: str, array: np.ndarray[Any, Any], dtype: DType) -> str:
        """A constant under a name of its own."""
        self.held[name] = np.ascontiguousarray(array, dtype.numpy).reshape(np.shape(array))
        self.dtypes[name] = dtype
        return name

    def tensor(self, name: str) -> Any:
        """An initializer as ONNX has it, its elements still to be filled in."""
        dims = self.held[name].shape
        return self.onnx.TensorProto(name=name, data_type=self.code(self.dtypes[name]), dims=dims)

    def array(self, elements: Any, dtype: DType = int64) -> str:
        """A constant; equal ones are the same."""
        array = np.asarray(elements).astype(dtype.numpy)
        key = (dtype, array.shape, array.tobytes())
        if key not in self.constants:
            name = self.initializer(self.name("constant"), array, dtype)
            self.constants[key] = name
            if array.size <= KNOWN:
                self.known[name] = array
        return self.constants[key]

    # ---------------------------------------------------------------------------- sizes

    def size(self, size: Size) -> str:
        """A size as an int64 tensor of shape [1]."""
        if isinstance(size, int):
            return self.array([size])
        if size.fn == "const":
            return self.array([size.attr])
        with self.outermost():  # once, where every scope can see it
            return self.expression(size, self.sizes)

    def shape(self, shape: Shape) -> str:
        """A shape as an int64 tensor of one axis."""
        if all(isinstance(s, int) for s in shape):
            return self.array(np.array(shape, np.int64))
        parts: list[str] = []
        run: list[int] = []
        for s in shape:
            if isinstance(s, int):
                run.append(s)
                continue
            parts += [self.array(run)] * bool(run) + [self.size(s)]
            run = []
        parts += [self.array(run)] * bool(run)
        return parts[0] if len(parts) == 1 else str(self.node("Concat", *parts, axis=0))

    @contextmanager
    def outermost(self) -> Iterator[None]:
        """Nodes added meanwhile go to the main graph."""
        scopes = self.scopes
        self.scopes = scopes[:1]
        try:
            yield
        finally:
            self.scopes = scopes

    # --------------------------------------------------------------- reshaping, broadcasting

    def reshape(self, value: str, source: Shape, target: Shape) -> str:
        """The value in another shape, with as few computed sizes as can be."""
        if 0 in target:
            return str(self.node("Reshape", value, self.shape(target), allowzero=1))
        written: list[int] = []
        for axis, size in enumerate(target):
            if isinstance(size, int):
                written.append(size)
            elif axis < len(source) and source[axis] is size:
                written.append(0)  # as it is
            else:
                written.append(-1)
        if written.count(-1) > 1:
            return str(self.node("Reshape", value, self.shape(target)))
        return str(self.node("Reshape", value, self.array(np.array(written, np.int64))))

    def empty(self, shape: Shape, dtype: DType) -> str:
        """A tensor without elements."""
        made = self.node("ConstantOfShape", self.shape(shape), dtype=DTYPES["float32"])
        return self.cast(made, dtype)

    def expand(self, value: str, source: Shape, target: Shape) -> str:
        """The value broadcast to a shape; operators that broadcast themselves use it as it was."""
        if 0 in target:  # onnxruntime may take such an Expand for one that does nothing
            return self.empty(target, self.dtypes[value])
        # A size that is there already may be written as 1.
        lead = len(target) - len(source)
        written = tuple(
            1 if isinstance(size, Expr) and axis >= lead and source[axis - lead] is size else size
            for axis, size in enumerate(target)
        )
        made = str(self.node("Expand", value, self.shape(written)))
        self.expanded[made] = (value, source, target)
        return made

    def unexpanded(self, values: Sequence[str], shapes: Sequence[Shape], out: Shape) -> list[str]:
        """The values with broadcasts undone where the operator's own gives the same shape."""
        pairs = zip(values, shapes, strict=True)
        sources = [self.expanded.get(v, (v, s))[:2] for v, s in pairs]
        if _broadcast([s for _, s in sources]) == out:
            return [v for v, _ in sources]
        for kept in range(len(values)):
            mixed = [s if i != kept else shapes[i] for i, (_, s) in enumerate(sources)]
            if _broadcast(mixed) == out:
                return [v if i != kept else values[i] for i, (v, _) in enumerate(sources)]
        return list(values)

    # ------------------------------------------------------------------------ expressions

    def expression(self, e: Expr, env: dict[Expr, str]) -> str:
        """A scalar expression over named values, elementwise; `env` is extended by what it made."""
        for part in scalar.walk([e]):
            if part not in env:
                env[part] = self._expression(part, [env[a] for a in part.args])
        return env[e]

    def _expression(self, e: Expr, args: list[str]) -> str:
        if e.fn == "const":
            return self.array(np.asarray(e.attr), e.dtype)
        if e.fn == "cast":
            return self.cast(args[0], e.dtype)
        if e.fn == "bitcast":
            made = self.node("BitCast", args[0], dtype=e.dtype, to=self.code(e.dtype))
            return str(made)
        special = SPECIAL.get(e.fn)
        if special is not None:
            return special(self, e.args[0].dtype, *args)
        if e.fn in DIRECT:
            return str(self.node(DIRECT[e.fn], *args))
        raise CompileError(f"the scalar function {e.fn!r} has no ONNX form")

    def number(self, value: float, dtype: DType) -> str:
        """A 0-d constant."""
        return self.array(np.asarray(value), dtype)


@functools.lru_cache(4096)
def formatted(line: Line) -> str:
    return format_line(line)


def _parameter(parameters: Sequence[Any], i: int) -> Any:
    """The schema's parameter for a position; the last one may be variadic."""
    return parameters[min(i, len(parameters) - 1)]


def _broadcast(shapes: Sequence[Shape]) -> Shape | None:
    """The shape that shapes broadcast to, sizes being equal only if they are the same."""
    rank = max(map(len, shapes), default=0)
    out: list[Size] = []
    for axis in range(-rank, 0):
        size: Size = 1
        for shape in shapes:
            if len(shape) >= -axis and shape[axis] != 1:
                if size != 1 and size != shape[axis]:
                    return None
                size = shape[axis]
        out.append(size)
    return tuple(out)
