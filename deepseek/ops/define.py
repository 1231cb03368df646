"""How an op is written down: decorators that turn one function into a record and a public function.

    @elementwise(...)   the body is the scalar meaning:       def exp(x): return call("exp", x)
    @primitive(...)     the body normalises the arguments and records the node
    @composite(...)     the body is the expansion, in other ops

Each adds the `Op` to REGISTRY and, where `method` says so, a method to Tensor. Nothing else has to
be edited for a new op: type rules of elementwise ops and composites, gradients of composites, every
backend, the ONNX table, the sweep test and the documentation follow from the record.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from deepseek.errors import ArgumentError, DTypeError, ShapeError, op_error, user_line
from deepseek.frontend.number import static
from deepseek.frontend.precision import autocasting
from deepseek.frontend.tensor import Tensor, from_numpy, no_grad, record, state
from deepseek.ir import scalar, shape
from deepseek.ir.dtype import DTYPES, DType, dtype_of, promote, promote_scalar, scalar_dtype
from deepseek.ir.graph import Graph, input_value
from deepseek.ir.op import REGISTRY, Kind, Op, Sample
from deepseek.ir.scalar import Expr
from deepseek.ir.shape import TensorType, tensor_type
from deepseek.ops.methods import is_operand, method

F = TypeVar("F", bound=Callable[..., Any])
Samples = Callable[[], Sequence[Sample]]
Size = shape.Size

FLOATS: tuple[DType, ...] = tuple(d for d in DTYPES.values() if d.is_float)
INTEGERS: tuple[DType, ...] = tuple(d for d in DTYPES.values() if d.is_integer)
NUMERIC: tuple[DType, ...] = INTEGERS + FLOATS
BOOLEAN: tuple[DType, ...] = (DTYPES["bool"],)
ALL: tuple[DType, ...] = BOOLEAN + NUMERIC


def register(op: Op, function: Any, names: str | Sequence[str]) -> Any:
    """Add a record to the registry and its function, which heeds autocast, to Tensor."""
    function.op = op
    op.function = autocasting(op, function)
    REGISTRY.add(op)
    return method(*((names,) if isinstance(names, str) else names))(op.function)


def op_of(function: Callable[..., Any]) -> Op:
    """The record of a public function."""
    return function.op  # type: ignore[attr-defined, no-any-return]


def as_tensor(x: Any, op: str, dtype: DType | None = None) -> Tensor:
    """A tensor from a tensor, number or array. `dtype` is what a Python number becomes."""
    if isinstance(x, Tensor):
        return x
    number = getattr(x, "_number", None)  # a number argument of a compiled function
    if number is not None:
        out: Tensor = number()
        return out if dtype is None else converted(out, dtype)
    if isinstance(x, (bool, int, float)):
        return filled((), x, dtype or scalar_dtype(x))
    if isinstance(x, (np.ndarray, np.generic)):
        return from_numpy(x, dtype_of(np.asarray(x).dtype))
    remedy = "make a tensor of it with ds.asarray" if isinstance(x, (list, tuple)) else None
    raise op_error(
        ArgumentError, op, f"{x!r} of type {type(x).__name__}",
        "a tensor, a NumPy array or a number", user_line(), remedy,
    )  # fmt: skip


def several(op: str, arrays: Any) -> tuple[Any, ...]:
    """The tensors of a list, a tuple or a tensor. Raises where there is none."""
    if not isinstance(arrays, Iterable):
        got, remedy = f"{arrays!r}", "put the tensors into one list"
        raise op_error(ArgumentError, op, got, "a list of tensors", user_line(), remedy)
    out = tuple(arrays)
    if not out:
        raise op_error(ShapeError, op, "nothing", "at least one tensor", user_line())
    return out


def filled(shape_: shape.Shape, value: Any, dtype: DType) -> Tensor:
    """A tensor of one value, which may be a size."""
    if type(value) is shape.Dim:
        value = shape.simplify(value.expr)
    elif isinstance(value, scalar.Expr):
        value = shape.simplify(value)
    if isinstance(value, float) and value == 0 and math.copysign(1, value) < 0 and dtype.is_float:
            return filled(shape_, 0.0, dtype).negative()
    if isinstance(value, float) and not math.isfinite(value):
        if dtype.is_integer:
            raise op_error(DTypeError, "full", f"{value} for {dtype}", "a number", user_line())
        value = math.nan if math.isnan(value) else value  # one object, equal to itself in tuples
    out: Tensor = record(REGISTRY["full"], shape=shape_, value=value, dtype=dtype)
    return out


def is_weak(x: Any) -> bool:
    """Whether x is a Python number, which never widens a tensor's kind."""
    return isinstance(x, (bool, int, float)) or hasattr(x, "_number")


def result_dtype(op: str, args: Sequence[Any]) -> DType:
    """The dtype that tensors, arrays and weak Python numbers meet in."""
    strong: DType | None = None
    for x in args:
        if not is_weak(x):
            dtype = x.dtype if isinstance(x, Tensor) else dtype_of(np.asarray(x).dtype)
            try:
                strong = dtype if strong is None else promote(strong, dtype)
            except DTypeError as error:
                got, _, remedy = str(error).partition("\n  help: ")
                raise op_error(DTypeError, op, got, "a common dtype", user_line(), remedy) from None
    for x in args:
        if is_weak(x):
            number = x.current if hasattr(x, "_number") else x
            if strong is None:
                strong = scalar_dtype(number)
            elif number is not True and number is not False:
                strong = promote_scalar(strong, number)
    assert strong is not None
    return strong


def promoted(op: str, args: Sequence[Any], takes: tuple[DType, ...]) -> list[Tensor]:
    """The arguments as tensors of one dtype out of `takes`; float ops take integers as float32."""
    if all([isinstance(x, Tensor) for x in args]):
        dtype = args[0].dtype
        if dtype in takes and all([x.dtype is dtype for x in args]):
            return list(args)
    for x in args:
        if not isinstance(x, Tensor) and not is_operand(x):
            as_tensor(x, op)
    dtype = result_dtype(op, args)
    if dtype not in takes:
        got = [describe(x) for x in args]
        if not dtype.is_float and takes is FLOATS:
            dtype = DTYPES["float32"]
        elif dtype.is_bool and DTYPES["int64"] in takes and BOOLEAN[0] not in takes:
            raise op_error(DTypeError, op, got, "numbers, not truth values", user_line(),
                           "convert with x.astype(ds.int64)")  # fmt: skip
        else:
            names = ", ".join(d.name for d in takes)
            raise op_error(DTypeError, op, got, f"one of {names}", user_line(),
                           "convert with x.astype(dtype)")  # fmt: skip
    return [converted(as_tensor(x, op, dtype if is_weak(x) else None), dtype) for x in args]


def of_one_type(args: Sequence[Any], takes: tuple[DType, ...]) -> bool:
    """Whether all are tensors of one type, its dtype out of `takes`: nothing to convert."""
    first = args[0]
    if not isinstance(first, Tensor):
        return False
    type_ = first._value.type
    for x in args:
        if not isinstance(x, Tensor) or x._value.type is not type_:
            return False
    return type_.dtype in takes


def converted(x: Tensor, dtype: DType) -> Tensor:
    """x in the given dtype."""
    return x if x.dtype is dtype else record(REGISTRY["astype"], x, dtype=dtype)


def describe(x: Any) -> str:
    """An argument as errors show it."""
    return str(x._value.type) if isinstance(x, Tensor) else repr(x)


def broadcasted(op: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors, each expanded to their common shape. Raises ShapeError."""
    shapes = [t._value.type.shape for t in tensors]
    first = shapes[0]
    if all(s is first or s == first for s in shapes):
        return list(tensors)
    try:
        target = shape.broadcast(shapes)
    except ShapeError as error:
        raise op_error(
            ShapeError, op, [describe(t) for t in tensors],
            f"shapes that broadcast ({error})", user_line(),
        ) from None  # fmt: skip
    return [expanded(t, target) for t in tensors]


def expanded(x: Tensor, target: shape.Shape) -> Tensor:
    """x broadcast to a shape it is known to broadcast to."""
    source = x._value.type.shape
    grows = any(s == 1 and t != 1 for s, t in zip(source, target, strict=False))
    if len(source) == len(target) and not grows:  # the other sizes are known to be equal
        return x
    return record(REGISTRY["broadcast_to"], x, shape=target)  # type: ignore[no-any-return]


# --------------------------------------------------------------------------------- sizes and axes


def _size_function(fn: str, on_ints: Callable[[int, int], int]) -> Callable[[Size, Size], Size]:
    def apply(a: Size, b: Size) -> Size:
        if isinstance(a, int) and isinstance(b, int):
            return on_ints(a, b)
        return shape.simplify(scalar.call(fn, scalar.as_expr(a), scalar.as_expr(b)))

    return apply


plus = _size_function("add", operator.add)
minus = _size_function("sub", operator.sub)
times = _size_function("mul", operator.mul)
quotient = _size_function("floordiv", operator.floordiv)


def shape_of(x: Tensor) -> shape.Shape:
    """The sizes of a tensor as the graph knows them: ints and expressions."""
    return x._value.type.shape


def is_size(size: Size, value: int) -> bool:
    """Whether a size is this number. Of a symbolic one only 0 and 1 are asked about: any other
    number is one that it happens to be.
    """
    if isinstance(size, int):
        return size == value
    return value == 1 and shape.is_one(size) or value == 0 and not shape.is_positive(size)


def axis_of(op: str, x: Tensor, axis: int, rank: int | None = None) -> int:
    """An axis of x (or of a tensor of the given rank) counted from the front. Raises ShapeError."""
    if isinstance(axis, Tensor) and axis.ndim:
        remedy = "several tensors go into one list"
        raise op_error(ArgumentError, op, f"axis {describe(axis)}", "a number", user_line(), remedy)
    try:
        return shape.normalize_axis(axis, x.ndim if rank is None else rank)
    except ShapeError as error:
        raise _axis_error(op, x, error) from None


def axes_of(op: str, x: Tensor, axis: int | Sequence[int] | None) -> tuple[int, ...]:
    """Sorted axes of x counted from the front; all of them for None. Raises ShapeError."""
    try:
        return shape.normalize_axes(axis, x.ndim)
    except ShapeError as error:
        raise _axis_error(op, x, error) from None


def _axis_error(op: str, x: Tensor, error: ShapeError) -> ShapeError:
    got, _, wanted = str(error).partition("; wanted ")
    return op_error(ShapeError, op, f"{describe(x)} with {got}", wanted, user_line())


# -------------------------------------------------------------------------------------- elementwise


def elementwise(
    *,
    reference: Callable[..., Any],
    vjp: Callable[..., Any] | None = None,
    takes: tuple[DType, ...] = NUMERIC,
    method: str | Sequence[str] = (),
    onnx: Any = None,
    precision: str = "promote",
    domain: tuple[float, float] = (-2.0, 2.0),
    samples: Samples | None = None,
    tolerance: float = 4.0,
) -> Callable[[Callable[..., Expr]], Callable[..., Tensor]]:
    """An op whose body is its scalar meaning: Exprs of one dtype in, an Expr out.

    Arguments promote and broadcast; `vjp(g, y, *xs)` gives the cotangent of each (or None).
    """

    def decorate(meaning: Callable[..., Expr]) -> Callable[..., Tensor]:
        name = meaning.__name__.rstrip("_")
        parameters = inspect.signature(meaning).parameters.values()
        arity = len(parameters)

        def infer(*types: TensorType) -> tuple[TensorType, ...]:
            scalars = [scalar.var(f"x{i}", t.dtype) for i, t in enumerate(types)]
            return (tensor_type(meaning(*scalars).dtype, types[0].shape),)

        @functools.wraps(meaning)
        def function(*args: Any) -> Tensor:
            if len(args) != arity:
                got = f"{len(args)} arguments"
                raise op_error(ArgumentError, name, got, f"{arity}", user_line())
            if not of_one_type(args, takes):
                args = tuple(broadcasted(name, promoted(name, args, takes)))
            return record(op, *args)  # type: ignore[no-any-return]

        function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [p.replace(kind=p.POSITIONAL_ONLY, annotation="Tensor | float") for p in parameters],
            return_annotation="Tensor",
        )
        op = Op(
            name, Kind.ELEMENTWISE, infer, meaning=meaning, reference=reference,
            vjp=vjp, precision=precision, onnx=onnx, dtypes=takes, tolerance=tolerance,
            samples=samples or (lambda: elementwise_samples(arity, domain)),
            differentiable=vjp is not None, doc=meaning.__doc__ or "",
        )  # fmt: skip
        return register(op, function, method)  # type: ignore[no-any-return]

    return decorate


def elementwise_samples(arity: int, domain: tuple[float, float]) -> list[Sample]:
    """Plain, odd-sized, empty, 0-d and (for several arguments) broadcasting shapes."""
    low, high = domain
    shapes: list[tuple[Any, ...]] = [((3, 37),) * arity, ((),) * arity, ((0, 3),) * arity]
    if arity > 1:
        shapes.append(((2, 3, 5),) + ((5,),) * (arity - 1))
        shapes.append(((4, 1),) + ((1, 3),) * (arity - 1))
    return [Sample(args, low=low, high=high) for args in shapes]


# ---------------------------------------------------------------------------------------- primitive


def primitive(
    kind: Kind,
    *,
    infer: Callable[..., Sequence[TensorType]],
    samples: Samples,
    meaning: Callable[..., Any] | None = None,
    reference: Callable[..., Any] | None = None,
    vjp: Callable[..., Any] | None = None,
    takes: tuple[DType, ...] = ALL,
    method: str | Sequence[str] = (),
    onnx: Any = None,
    precision: str = "promote",
    tolerance: float = 4.0,
    routine: str | None = None,
) -> Callable[[F], F]:
    """An op whose body normalises its arguments and calls `record(f.op, *tensors, **attrs)`.

    `vjp(g, y, *xs, **attrs)` gives the cotangent of each input (or None); for several outputs g and
    y are tuples. `reference(*arrays, **attrs)` is NumPy.
    """

    def decorate(function: F) -> F:
        name = function.__name__.rstrip("_")
        op = Op(
            name, kind, infer, meaning=meaning, reference=reference, vjp=vjp, precision=precision,
            onnx=onnx, dtypes=takes, samples=samples, tolerance=tolerance, routine=routine,
            differentiable=vjp is not None, doc=function.__doc__ or "",
        )  # fmt: skip
        return register(op, function, method)  # type: ignore[no-any-return]

    return decorate


# ---------------------------------------------------------------------------------------- composite


def composite(
    *,
    reference: Callable[..., Any],
    samples: Samples,
    takes: tuple[DType, ...] = FLOATS,
    method: str | Sequence[str] = (),
    onnx: Any = None,
    precision: str = "promote",
    tolerance: float = 8.0,
) -> Callable[[F], F]:
    """An op whose body is its expansion. Tensor arguments are inputs, everything else is static.

    The reference has the same parameters, on arrays. Type rule, gradient and lowering follow from
    the body.
    """

    def decorate(body: F) -> F:
        signature = inspect.signature(body)
        names = list(signature.parameters)

        def apply(tensors: Sequence[Tensor], attrs: dict[str, Any]) -> Any:
            given = iter(tensors)
            arguments = {n: attrs[n] if n in attrs else next(given) for n in names}
            ordered = [arguments.pop(n) for n in names[:positional]]
            return body(*ordered, **arguments)

        op = composite_op(body.__name__.rstrip("_"), apply, names)
        op.reference, op.samples, op.dtypes = reference, samples, takes
        op.onnx, op.precision, op.tolerance = onnx, precision, tolerance
        op.doc = body.__doc__ or ""
        found = signature.parameters.items()
        defaults = {n: p.default for n, p in found if p.default is not p.empty}
        positional = sum(p.kind is not p.KEYWORD_ONLY for p in signature.parameters.values())

        @functools.wraps(body)
        def function(*args: Any, **kwargs: Any) -> Any:
            if len(args) > positional or any(k not in names for k in kwargs):
                try:
                    signature.bind(*args, **kwargs)
                except TypeError as error:
                    got = str(error).removeprefix("got ")
                    wanted = str(signature)
                    raise op_error(ArgumentError, op.name, got, wanted, user_line()) from None
            given = dict(zip(names, args, strict=False))
            given.update(kwargs)
            tensors: list[Tensor] = []
            attrs: dict[str, Any] = {}
            for name in names:
                if name in given:
                    x = given[name]
                elif name in defaults:
                    x = defaults[name]
                else:
                    raise op_error(
                        ArgumentError, op.name, f"no {name!r}", f"arguments {signature}",
                        user_line(),
                    )  # fmt: skip
                if isinstance(x, (Tensor, np.ndarray)):
                    tensors.append(as_tensor(x, op.name))
                else:
                    attrs[name] = static(x)
            return record(op, *tensors, **attrs)

        return register(op, function, method)  # type: ignore[no-any-return]

    return decorate


def composite_op(name: str, apply: Callable[..., Any], parameters: Sequence[str] = ()) -> Op:
    """A COMPOSITE record whose expansion is what `apply(tensors, attrs)` records."""
    expansions: dict[Any, Graph] = {}

    def expand(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> Graph:
        """The expansion as a graph, remembered for static sizes."""
        try:
            key = (types, tuple(attrs.items()))
            found = expansions.get(key)
        except TypeError:  # an attribute that cannot be hashed
            return trace_body(apply, types, attrs)
        if found is None:
            found = trace_body(apply, types, attrs)
            if all(t.static for t in types):
                expansions[key] = found
        return found

    def infer(*types: TensorType, **attrs: Any) -> tuple[TensorType, ...]:
        return tuple(v.type for v in expand(types, attrs).outputs)

    return Op(name, Kind.COMPOSITE, infer, expand=expand, parameters=tuple(parameters))


def trace_body(
    apply: Callable[..., Any], types: Sequence[TensorType], attrs: dict[str, Any]
) -> Graph:
    """Record a composite's body on placeholder inputs."""
    values = [input_value(t.dtype, t.shape) for t in types]
    with isolated(), no_grad():
        out = apply([Tensor(v) for v in values], attrs)
    outputs = out if isinstance(out, tuple) else (out,)
    return Graph(values, [t._value for t in outputs])


class isolated:  # noqa: N801
    """Record outside the trace and the autocast that go on: a composite's body is a graph apart."""

    def __enter__(self) -> None:
        self._before = state.trace, state.autocast
        state.trace, state.autocast = _BodyTrace(state.trace), None

    def __exit__(self, *_: Any) -> None:
        state.trace, state.autocast = self._before


class _BodyTrace:
    """The trace of a composite's body: values are unknown, rebinding its own tensors harmless."""

    def __init__(self, outer: Any) -> None:
        self.outer = outer
        self.turn: Tensor | None = None  # of the body's collectives

    def admit(self, inputs: Any) -> Any:
        return inputs

    def note_rebind(self, tensor: Tensor) -> None:
        """Rebinding a body's own temporaries is harmless."""

    note_grad = note_grad_read = note_rebind
