"""Elementwise ops: the body of each function is its scalar meaning.

Arguments promote (array API, Python numbers weak) and broadcast. Float functions take integers as
float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, op_error, user_line
from deepseek.frontend.tensor import Tensor, record
from deepseek.ir import scalar
from deepseek.ir.dtype import DTYPES, dtype_of
from deepseek.ir.op import Kind, Sample
from deepseek.ir.scalar import Expr, call, const
from deepseek.ir.shape import TensorType, tensor_type
from deepseek.ops import forms, forms_math
from deepseek.ops.define import (
    ALL,
    FLOATS,
    as_tensor,
    broadcasted,
    converted,
    describe,
    elementwise,
    elementwise_samples,
    op_of,
    primitive,
    promoted,
)
from deepseek.ops.methods import method

__all__ = [
    "abs", "add", "astype", "clip", "detach", "divide", "floor_divide", "logical_and",
    "logical_not", "logical_or", "logical_xor", "maximum", "minimum", "multiply", "negative",
    "positive", "pow", "remainder", "sign", "square", "stop_gradient", "subtract", "where",
]  # fmt: skip

# ------------------------------------------------------------------ mixed types: cast and choose


def _astype_samples() -> list[Sample]:
    return [Sample(((5, 7),), {"dtype": d}, low=0, high=100) for d in DTYPES.values()]


@primitive(
    Kind.ELEMENTWISE,
    infer=lambda x, *, dtype: (tensor_type(dtype, x.shape),),
    meaning=lambda x, *, dtype: scalar.cast(x, dtype),
    reference=lambda x, *, dtype: scalar.convert(x, dtype),
    vjp=lambda g, y, x, *, dtype: (g.astype(x.dtype) if dtype.is_float else None,),
    samples=_astype_samples,
    method=("astype",),
    onnx=forms.cast,
)
def astype(x: Tensor, /, dtype: Any, *, copy: bool = True) -> Tensor:
    """x with its elements converted to `dtype`; float to integer truncates, to bool is `x != 0`.

    >>> ds.asarray([1.9, -1.9, 0.0]).astype(ds.int8)
    tensor([ 1, -1,  0], dtype=int8)
    """
    x = as_tensor(x, "astype")
    return converted(x, dtype_of(dtype))


def _where_infer(condition: TensorType, a: TensorType, b: TensorType) -> tuple[TensorType, ...]:
    return (a,)


def _where_vjp(g: Tensor, y: Tensor, condition: Tensor, a: Tensor, b: Tensor) -> tuple[Any, ...]:
    return None, where(condition, g, 0), where(condition, 0, g)


def _where_samples() -> list[Sample]:
    truth = np.arange(15).reshape(3, 5) % 2 == 0
    return [
        Sample((truth, (3, 5), (3, 5))),
        Sample((truth, (5,), (3, 1))),
        Sample((truth[0], (), ())),
    ]


@primitive(
    Kind.ELEMENTWISE,
    infer=_where_infer,
    meaning=lambda condition, a, b: call("where", condition, a, b),
    reference=lambda condition, a, b: np.where(condition, a, b),
    vjp=_where_vjp,
    samples=_where_samples,
    onnx="Where",
)
def where(condition: Tensor, a: Tensor | float, b: Tensor | float, /) -> Tensor:
    """Elements of a where the condition holds, else of b; all three broadcast, a and b promote.

    >>> x = ds.asarray([-1.0, 2.0])
    >>> ds.where(x > 0, x, 0)
    tensor([0., 2.])
    """
    test = as_tensor(condition, "where")
    if not test.dtype.is_bool:
        test = test != 0
    a, b = promoted("where", (a, b), ALL)
    out: Tensor = record(op_of(where), *broadcasted("where", (test, a, b)))
    return out


@elementwise(takes=ALL, reference=np.copy)
def stop_gradient(x: Expr) -> Expr:
    """x, taken as a constant by gradients.

    >>> x = ds.asarray([3.0], requires_grad=True)
    >>> (x * ds.stop_gradient(x)).backward()
    >>> x.grad
    tensor([3.])
    """
    return x


# -------------------------------------------------------------------------------------- arithmetic


@elementwise(
    reference=np.add,
    vjp=lambda g, y, a, b: (g, g),
    method=("__add__", "__radd__", "add"),
    onnx="Add",
)
def add(a: Expr, b: Expr) -> Expr:
    """a + b.

    >>> ds.add(ds.asarray([1, 2]), ds.asarray([0.5, 10]))
    tensor([ 1.5, 12. ])
    """
    return call("add", a, b)


@elementwise(
    reference=np.subtract,
    vjp=lambda g, y, a, b: (g, -g),
    method=("__sub__", "__rsub__", "subtract", "sub"),
    onnx="Sub",
)
def subtract(a: Expr, b: Expr) -> Expr:
    """a - b.

    >>> ds.subtract(ds.asarray([1, 2]), 5)
    tensor([-4, -3])
    """
    return call("sub", a, b)


@elementwise(
    reference=np.multiply,
    vjp=lambda g, y, a, b: (g * b, g * a),
    method=("__mul__", "__rmul__", "multiply", "mul"),
    onnx="Mul",
)
def multiply(a: Expr, b: Expr) -> Expr:
    """a * b.

    >>> ds.multiply(ds.asarray([[1], [2]]), ds.asarray([10, 20]))
    tensor([[10, 20],
            [20, 40]])
    """
    return call("mul", a, b)


@elementwise(
    takes=FLOATS,
    reference=np.divide,
    vjp=lambda g, y, a, b: (g / b, -g * y / b),
    method=("__truediv__", "__rtruediv__", "divide", "div"),
    onnx="Div",
    domain=(0.5, 2.0),
)
def divide(a: Expr, b: Expr) -> Expr:
    """a / b; integers are divided as float32.

    >>> ds.divide(ds.asarray([1, 3]), 2)
    tensor([0.5, 1.5])
    """
    return call("div", a, b)


def _divided_reference(divide: Callable[..., Any]) -> Callable[..., Any]:
    """A division of NumPy's that gives 0 where an integer is divided by zero."""

    def reference(a: Any, b: Any) -> Any:
        if np.asarray(a).dtype.kind == "f":
            return divide(a, b)
        return np.where(b == 0, 0, divide(a, np.where(b == 0, 1, b)))

    return reference


def _division_samples() -> list[Sample]:
    edges = np.array([-np.inf, -7.0, -0.5, -0.0, 0.0, 2.5, np.inf, np.nan], np.float32)
    return [*elementwise_samples(2, (0.5, 9.0)), Sample((edges, edges.reshape((8, 1))))]


@elementwise(
    reference=_divided_reference(np.floor_divide),
    method=("__floordiv__", "__rfloordiv__", "floor_divide"),
    samples=_division_samples,
)
def floor_divide(a: Expr, b: Expr) -> Expr:
    """The largest integer not above a / b; integers divided by zero give 0.

    >>> ds.floor_divide(ds.asarray([7, -7, 7]), ds.asarray([2, 2, 0]))
    tensor([ 3, -4,  0])
    """
    return call("floordiv", a, b)


@elementwise(
    reference=_divided_reference(np.mod),
    vjp=lambda g, y, a, b: (g, -g * floor_divide(a, b)),
    method=("__mod__", "__rmod__", "remainder"),
    samples=_division_samples,
)
def remainder(a: Expr, b: Expr) -> Expr:
    """What floor division leaves: 0 or of the sign of b, exact; integers modulo zero give 0.

    >>> ds.remainder(ds.asarray([5.5, -5.5]), 2)
    tensor([1.5, 0.5])
    """
    return call("mod", a, b)


def _power_reference(a: Any, b: Any) -> Any:
    if a.dtype.kind in "iu":
        return np.where(b < 0, 0, np.power(a, np.maximum(b, 0)))
    return np.power(a, b)


def _power_vjp(g: Tensor, y: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    from_a = g * where(b == 0, 0.0, b * pow_(a, b - 1))
    return from_a, g * where(a == 0, 0.0, y * where(a == 0, 1.0, a).log())


@elementwise(
    reference=_power_reference,
    vjp=_power_vjp,
    precision="high",
    onnx="Pow",
    domain=(0.5, 4.0),
    tolerance=16,
)
def pow_(a: Expr, b: Expr) -> Expr:
    """a to the power b; integers to a negative power give 0."""
    if a.dtype.kind != "i":
        return call("pow", a, b)
    zero = const(0, b.dtype)
    return call("where", call("lt", b, zero), zero, call("pow", a, call("maximum", b, zero)))


@method("__pow__", "__rpow__", "pow")
def pow(a: Tensor | float, b: Tensor | float, /) -> Tensor:  # noqa: A001
    """a to the power b. Integers stay integers: ArgumentError for a negative number as exponent.

    >>> ds.pow(ds.asarray([2, 3]), 3), ds.pow(ds.asarray([2.0, 4.0]), -0.5)
    (tensor([ 8, 27]), tensor([0.7071, 0.5   ]))
    """
    if type(b) is int and isinstance(a, Tensor):
        if b < 0 and a.dtype.is_integer:
            raise op_error(
                ArgumentError, "pow", f"{describe(a)} and the exponent {b}",
                "an exponent that is not negative", user_line(), "write x.astype(ds.float32) ** n",
            )  # fmt: skip
        if 1 <= b <= 4 and not a.dtype.is_bool:
            half = a if b < 3 else square(a)
            return a if b == 1 else multiply(half, a) if b == 3 else square(half)
    return pow_(a, b)


@elementwise(
    reference=np.negative, vjp=lambda g, y, x: (-g,), method=("__neg__", "negative"), onnx="Neg"
)
def negative(x: Expr) -> Expr:
    """-x; unsigned integers wrap.

    >>> ds.negative(ds.asarray([1, -2]))
    tensor([-1,  2])
    """
    return call("neg", x)


@elementwise(takes=ALL, reference=np.copy, vjp=lambda g, y, x: (g,), method=("__pos__", "positive"))
def positive(x: Expr) -> Expr:
    """x itself.

    >>> ds.positive(ds.asarray([1, -2]))
    tensor([ 1, -2])
    """
    return x


@elementwise(
    reference=np.sign, vjp=lambda g, y, x: (None,), method="sign", onnx=forms.of_32_bits("Sign")
)
def sign(x: Expr) -> Expr:
    """-1, 0 or 1; NaN for NaN.

    >>> ds.sign(ds.asarray([-2.0, 0.0, np.nan]))
    tensor([-1.,  0., nan])
    """
    zero, one = const(0, x.dtype), const(1, x.dtype)
    if x.dtype.kind == "u":
        return call("minimum", x, one)
    below = const(-1, x.dtype)
    signed = call("where", call("lt", x, zero), below, x)
    return call("where", call("lt", zero, x), one, signed)


@elementwise(
    reference=np.abs,
    vjp=lambda g, y, x: (g * sign(x),),
    method=("__abs__", "abs"),
    onnx="Abs",
)
def abs(x: Expr) -> Expr:  # noqa: A001
    """|x|.

    >>> ds.abs(ds.asarray([-2, 0, 3]))
    tensor([2, 0, 3])
    """
    return x if x.dtype.kind == "u" else call("abs", x)


@elementwise(
    reference=np.square, vjp=lambda g, y, x: (2 * g * x,), method="square", precision="high",
    onnx=None,
)  # fmt: skip
def square(x: Expr) -> Expr:
    """x * x.

    >>> ds.square(ds.asarray([-3, 4]))
    tensor([ 9, 16])
    """
    return call("mul", x, x)


@elementwise(
    reference=np.minimum,
    vjp=lambda g, y, a, b: (where(a <= b, g, 0), where(a <= b, 0, g)),
    method="minimum",
    onnx=forms.of_32_bits("Min"),
)
def minimum(a: Expr, b: Expr) -> Expr:
    """The smaller of two; NaN if either is NaN.

    >>> ds.minimum(ds.asarray([1.0, 5.0, np.nan]), 3)
    tensor([ 1.,  3., nan])
    """
    return call("minimum", a, b)


@elementwise(
    reference=np.maximum,
    vjp=lambda g, y, a, b: (where(a >= b, g, 0), where(a >= b, 0, g)),
    method="maximum",
    onnx=forms.of_32_bits("Max"),
)
def maximum(a: Expr, b: Expr) -> Expr:
    """The larger of two; NaN if either is NaN.

    >>> ds.maximum(ds.asarray([1.0, 5.0, np.nan]), 3)
    tensor([ 3.,  5., nan])
    """
    return call("maximum", a, b)


# ------------------------------------------------------------------------- logic


def _truth(x: Expr) -> Expr:
    """Whether x is not 0."""
    return x if x.dtype.is_bool else call("ne", x, const(0, x.dtype))


@elementwise(
    takes=ALL, reference=np.logical_and, method="logical_and", onnx=forms_math.of_truths("And")
)
def logical_and(a: Expr, b: Expr) -> Expr:
    """Whether both are true, or not 0.

    >>> ds.logical_and(ds.asarray([True, True]), ds.asarray([True, False]))
    tensor([ True, False])
    """
    return call("bitand", _truth(a), _truth(b))


@elementwise(
    takes=ALL, reference=np.logical_or, method="logical_or", onnx=forms_math.of_truths("Or")
)
def logical_or(a: Expr, b: Expr) -> Expr:
    """Whether one of them is true, or not 0.

    >>> ds.logical_or(ds.asarray([True, False]), ds.asarray([False, False]))
    tensor([ True, False])
    """
    return call("bitor", _truth(a), _truth(b))


@elementwise(
    takes=ALL, reference=np.logical_xor, method="logical_xor", onnx=forms_math.of_truths("Xor")
)
def logical_xor(a: Expr, b: Expr) -> Expr:
    """Whether just one of them is true, or not 0.

    >>> ds.logical_xor(ds.asarray([True, False]), ds.asarray([True, True]))
    tensor([False,  True])
    """
    return call("bitxor", _truth(a), _truth(b))


@elementwise(
    takes=ALL, reference=np.logical_not, method="logical_not", onnx=forms_math.of_truths("Not")
)
def logical_not(x: Expr) -> Expr:
    """Whether x is false, or 0.

    >>> ds.logical_not(ds.asarray([0, 3]))
    tensor([ True, False])
    """
    return scalar.not_(_truth(x))


@method("detach")
def detach(x: Tensor, /) -> Tensor:
    """x without its history: gradients do not flow through the result.

    >>> x = ds.asarray([3.0], requires_grad=True)
    >>> (x * ds.detach(x)).backward()
    >>> x.grad
    tensor([3.])
    """
    return stop_gradient(x)


@method("clip", "clamp")
def clip(
    x: Tensor,
    /,
    min: Tensor | float | None = None,
    max: Tensor | float | None = None,  # noqa: A002
) -> Tensor:
    """x limited to [min, max]; None leaves a side open.

    >>> ds.clip(ds.asarray([-1.0, 0.5, 2.0]), 0, 1)
    tensor([0. , 0.5, 1. ])
    """
    if min is not None:
        x = maximum(x, min)
    if max is not None:
        x = minimum(x, max)
    return as_tensor(x, "clip")
