"""Reductions: each is a fold over the axes in `axes`, which the result drops.

The public functions take array API arguments (`axis`, `keepdims`); 16-bit floats are carried in
float32.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deepseek.errors import ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor, record
from deepseek.ir import scalar
from deepseek.ir.dtype import DType, dtype_of, float32, int64, uint64
from deepseek.ir.op import Folding, Kind, Sample
from deepseek.ir.scalar import Expr, call, cast, const
from deepseek.ir.scalar import where as choose
from deepseek.ir.shape import Shape, TensorType, numel, simplify, tensor_type
from deepseek.ops import forms, forms_flow, forms_nn
from deepseek.ops.define import (
    FLOATS,
    NUMERIC,
    as_tensor,
    axes_of,
    composite,
    converted,
    filled,
    is_size,
    op_of,
    primitive,
    promoted,
    shape_of,
)
from deepseek.ops.elementwise import where

__all__ = ["argmax", "argmin", "max", "mean", "min", "prod", "sum", "var"]

Axis = int | Sequence[int] | None
Carries = tuple[Expr, ...]


def without(shape: Shape, axes: Sequence[int]) -> Shape:
    """A shape less some axes."""
    return tuple(s for i, s in enumerate(shape) if i not in axes)


def kept(shape: Shape, axes: Sequence[int]) -> Shape:
    """A shape with size 1 at some axes."""
    return tuple(1 if i in axes else s for i, s in enumerate(shape))


def reduced(
    function: Callable[..., Any], x: Tensor, axis: Axis, keepdims: bool, **attrs: Any
) -> Tensor:
    """Record a reduction of x."""
    source = shape_of(x)
    axes = axes_of(op_of(function).name, x, axis)
    if axes:
        out: Tensor = record(op_of(function), x, axes=axes, **attrs)
    else:  # each element is reduced on its own
        alone = x.reshape((*source, 1))
        out = record(op_of(function), alone, axes=(len(source),), **attrs)
    return out.reshape(kept(source, axes)) if keepdims and axes else out


def spread(y: Tensor, x: Tensor, axes: Sequence[int]) -> Tensor:
    """A reduction's result (or its cotangent) broadcast back over the axes of x."""
    source = shape_of(x)
    return y.reshape(kept(source, axes)).broadcast_to(source)


def folded_type(dtype: DType | None = None) -> Callable[..., tuple[TensorType, ...]]:
    def infer(x: TensorType, *, axes: tuple[int, ...], **_: Any) -> tuple[TensorType, ...]:
        return (tensor_type(dtype or x.dtype, without(x.shape, axes)),)

    return infer


def chosen_type(dtype: DType | None, name: str) -> Callable[..., tuple[TensorType, ...]]:
    def infer(x: TensorType, *, axes: tuple[int, ...], **_: Any) -> tuple[TensorType, ...]:
        found = without(x.shape, axes)
        nothing = builtins.any(is_size(x.shape[a], 0) for a in axes)
        if nothing and not builtins.any(is_size(s, 0) for s in found):
            raise op_error(
                ShapeError, name, f"{x} over axes {axes}", "at least one element to choose from",
                user_line(),
            )  # fmt: skip
        return (tensor_type(dtype or x.dtype, found),)

    return infer


def fold_samples(empty: bool = True, **kwargs: Any) -> Callable[[], list[Sample]]:
    def samples() -> list[Sample]:
        some = [
            Sample(((3, 37),), {"axis": 1} | kwargs),
            Sample(((5, 3, 7),), {"axis": (0, 2), "keepdims": True} | kwargs),
            Sample(((5, 3, 2),), {"axis": -3} | kwargs),
            Sample(((4, 5),), dict(kwargs)),
            Sample(((),), dict(kwargs)),
        ]
        if empty:
            some += [
                Sample(((3, 0),), {"axis": 1} | kwargs),
                Sample(((0, 3),), {"axis": 1} | kwargs),
            ]
        return some

    return samples


def fold(fn: str, neutral: Callable[[DType], Any]) -> Callable[..., Folding]:
    """The folding by an associative scalar function."""

    def meaning(dtype: DType, **_: Any) -> Folding:
        carried = dtype.accumulator
        return Folding(
            init=(const(neutral(carried), carried),),
            step=lambda carries, element, position: (call(fn, carries[0], element),),
            merge=lambda a, b: (call(fn, a[0], b[0]),),
            finish=lambda carries, count: (cast(carries[0], dtype),),
        )

    return meaning


def lowest(dtype: DType) -> float | int:
    """The smallest value of a dtype."""
    return -np.inf if dtype.is_float else int(np.iinfo(dtype.numpy).min)


def highest(dtype: DType) -> float | int:
    """The largest value of a dtype."""
    return np.inf if dtype.is_float else int(np.iinfo(dtype.numpy).max)


def _wide_integer(dtype: DType) -> DType:
    """The array API's default result of adding or multiplying many elements."""
    if dtype.is_float:
        return dtype
    return uint64 if dtype.kind == "u" else int64


def _summand(name: str, x: Any, dtype: Any) -> Tensor:
    x = as_tensor(x, name)
    return converted(x, _wide_integer(x.dtype) if dtype is None else dtype_of(dtype))


# ------------------------------------------------------------------------------- sums and products


@primitive(
    Kind.REDUCE,
    infer=folded_type(),
    meaning=fold("add", lambda dtype: 0),
    reference=lambda x, *, axes: np.sum(x, axis=axes, dtype=x.dtype),
    vjp=lambda g, y, x, *, axes: (spread(g, x, axes),),
    takes=NUMERIC,
    samples=fold_samples(),
    tolerance=32,
    method="sum",
    precision="high",
    onnx=forms.total,
)
def sum(  # noqa: A001
    x: Tensor, /, axis: Axis = None, keepdims: bool = False, *, dtype: Any = None
) -> Tensor:
    """The sum over some axes (all by default); integers in 64 bits, truth values are counted.

    Raises ShapeError for axes that x does not have.

    >>> ds.sum(ds.asarray([[1, 2], [3, 4]]), axis=0)
    tensor([4, 6])
    """
    return reduced(sum, _summand("sum", x, dtype), axis, keepdims)


def _prod_vjp(g: Tensor, y: Tensor, x: Tensor, *, axes: tuple[int, ...]) -> tuple[Tensor]:
    # The product of the others. Where one of these is zero it is zero, but not its derivative.
    is_zero = x == 0
    zeros = where(is_zero, x, 0)
    nonzero = where(is_zero, 1, x)
    others = spread(nonzero.prod(axis=axes), x, axes) / nonzero
    finite = where(others * 0 == 0, others, 0)  # an infinity times zero would be NaN
    one_zero = finite * (spread(zeros.sum(axis=axes), x, axes) - zeros)
    count = spread(is_zero.sum(axis=axes), x, axes) - is_zero.astype(int64)
    found = where(count == 0, others, where(count == 1, one_zero, 0))
    return (spread(g, x, axes) * found,)


@primitive(
    Kind.REDUCE,
    infer=folded_type(),
    meaning=fold("mul", lambda dtype: 1),
    reference=lambda x, *, axes: np.prod(x, axis=axes, dtype=x.dtype),
    vjp=_prod_vjp,
    takes=NUMERIC,
    samples=fold_samples(),
    tolerance=64,
    method="prod",
    precision="high",
    onnx=forms_flow.product,
)
def prod(x: Tensor, /, axis: Axis = None, keepdims: bool = False, *, dtype: Any = None) -> Tensor:
    """The product over some axes (all by default). Integers multiply in 64 bits, wrapping.

    >>> ds.prod(ds.asarray([[1, 2], [3, 4]]), axis=1)
    tensor([ 2, 12])
    """
    return reduced(prod, _summand("prod", x, dtype), axis, keepdims)


def _mean_reference(x: Any, axis: Any, keepdims: bool) -> Any:
    return np.mean(np.asarray(x), axis=axis, keepdims=keepdims)


def element_count(shape: Shape, axes: Sequence[int]) -> Any:
    """How many elements a reduction takes in: an int, or an expression over size symbols."""
    return simplify(numel(tuple(shape[a] for a in axes)))


def over_count(total: Tensor, count: Any) -> Tensor:
    """total / count, where the count may be symbolic."""
    return total / (count if isinstance(count, int) else filled((), count, total.dtype))


@composite(
    reference=_mean_reference,
    samples=fold_samples(),
    tolerance=32,
    method="mean",
    precision="high",
    onnx=forms_nn.reduced("ReduceMean"),
)
def mean(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The mean over some axes (all by default); integers as float32, NaN for none.

    >>> ds.mean(ds.asarray([[1, 2], [3, 4]]), axis=0)
    tensor([2., 3.])
    """
    axes = axes_of("mean", x, axis)
    dtype = x.dtype if x.dtype.is_float else float32
    total = converted(x, dtype.accumulator).sum(axis=axes, keepdims=keepdims)
    return converted(over_count(total, element_count(shape_of(x), axes)), dtype)


# ------------------------------------------------------------------------------ variance (Welford)


def _variance(dtype: DType, *, correction: float, **_: Any) -> Folding:
    """Carried: how many, their mean, the sum of their squared distances from it."""
    carried = dtype.accumulator
    zero, one = const(0, carried), const(1, carried)

    def step(carries: Carries, element: Expr, position: Expr) -> Carries:
        count, average, squares = carries
        more = call("add", count, one)
        distance = call("sub", element, average)
        moved = call("add", average, call("div", distance, more))
        grown = call("add", squares, call("mul", distance, call("sub", element, moved)))
        return more, moved, grown

    def merge(a: Carries, b: Carries) -> Carries:
        count = call("add", a[0], b[0])
        divisor = call("maximum", count, one)
        distance = call("sub", b[1], a[1])
        share = call("div", b[0], divisor)
        average = call("add", a[1], call("mul", distance, share))
        between = call("mul", call("mul", distance, distance), call("mul", a[0], share))
        return count, average, call("add", call("add", a[2], b[2]), between)

    def finish(carries: Carries, count: Expr) -> Carries:
        free = call("sub", cast(count, carried), const(correction, carried))
        return (cast(call("div", carries[2], call("maximum", free, zero)), dtype),)

    return Folding((zero, zero, zero), step, merge, finish)


def _variance_reference(x: Any, *, axes: tuple[int, ...], correction: float) -> Any:
    count = np.prod([x.shape[a] for a in axes], dtype=np.int64)
    squares = np.sum(np.square(x - np.mean(x, axis=axes, keepdims=True)), axis=axes)
    return squares / x.dtype.type(builtins.max(count - correction, 0))


def _variance_vjp(
    g: Tensor, y: Tensor, x: Tensor, *, axes: tuple[int, ...], correction: float
) -> tuple[Tensor]:
    free = filled((), element_count(shape_of(x), axes), x.dtype) - correction
    distance = x - x.mean(axis=axes, keepdims=True)
    return (spread(g, x, axes) * distance * (2.0 / free),)


@primitive(
    Kind.REDUCE,
    infer=folded_type(),
    meaning=_variance,
    reference=_variance_reference,
    vjp=_variance_vjp,
    takes=FLOATS,
    samples=lambda: [
        *fold_samples(empty=False)()[:4],
        *fold_samples(empty=False, correction=1)()[:4],
    ],
    tolerance=64,
    method="var",
    precision="high",
    onnx=forms.variance,
)
def var(x: Tensor, /, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """The variance over some axes: squared distances from the mean, over (count - correction).

    >>> ds.var(ds.asarray([1.0, 3.0])), ds.var(ds.asarray([1.0, 3.0]), correction=1)
    (tensor(1.), tensor(2.))
    """
    (x,) = promoted("var", (x,), FLOATS)
    return reduced(var, x, axis, keepdims, correction=float(correction))


# ------------------------------------------------------------------------------ extremes


def _extreme_vjp(g: Tensor, y: Tensor, x: Tensor, *, axes: tuple[int, ...]) -> tuple[Tensor]:
    # Elements that share the extreme share its gradient.
    chosen = (x == spread(y, x, axes)).astype(x.dtype)
    return (chosen * spread(g / chosen.sum(axis=axes), x, axes),)


@primitive(
    Kind.REDUCE,
    infer=chosen_type(None, "max"),
    meaning=fold("maximum", lowest),
    reference=lambda x, *, axes: np.max(x, axis=axes),
    vjp=_extreme_vjp,
    takes=NUMERIC,
    samples=fold_samples(empty=False),
    method=("max", "amax"),
    onnx="ReduceMax",
)
def max(x: Tensor, /, axis: Axis = None, keepdims: bool = False) -> Tensor:  # noqa: A001
    """The largest element over some axes; NaN if there is one. Equal ones share the gradient.

    Raises ShapeError where there is no element to choose from.

    >>> ds.max(ds.asarray([[1, 5], [4, 2]]), axis=1, keepdims=True)
    tensor([[5],
            [4]])
    """
    (x,) = promoted("max", (x,), NUMERIC)
    return reduced(max, x, axis, keepdims)


@primitive(
    Kind.REDUCE,
    infer=chosen_type(None, "min"),
    meaning=fold("minimum", highest),
    reference=lambda x, *, axes: np.min(x, axis=axes),
    vjp=_extreme_vjp,
    takes=NUMERIC,
    samples=fold_samples(empty=False),
    method=("min", "amin"),
    onnx="ReduceMin",
)
def min(x: Tensor, /, axis: Axis = None, keepdims: bool = False) -> Tensor:  # noqa: A001
    """The smallest element over some axes; NaN if there is one. Equal ones share the gradient.

    Raises ShapeError where there is no element to choose from.

    >>> ds.min(ds.asarray([[1, 5], [4, 2]]), axis=1)
    tensor([1, 2])
    """
    (x,) = promoted("min", (x,), NUMERIC)
    return reduced(min, x, axis, keepdims)


def _position(better: str, neutral: Callable[[DType], Any]) -> Callable[..., Folding]:
    """Carried: the best element and where it was first. A NaN beats every number."""

    def beats(a: Expr, b: Expr) -> Expr:
        ahead = call("lt", b, a) if better == "larger" else call("lt", a, b)
        if not a.dtype.is_float:
            return ahead
        return call("bitor", ahead, scalar.and_(call("ne", a, a), call("eq", b, b)))

    def meaning(dtype: DType, **_: Any) -> Folding:
        carried = dtype.accumulator

        def step(carries: Carries, element: Expr, position: Expr) -> Carries:
            wins = beats(element, carries[0])
            return choose(wins, element, carries[0]), choose(wins, position, carries[1])

        def merge(a: Carries, b: Carries) -> Carries:
            # Partial results may interleave, so equals are told apart by their positions.
            level = scalar.and_(scalar.not_(beats(a[0], b[0])), call("lt", b[1], a[1]))
            wins = call("bitor", beats(b[0], a[0]), level)
            return choose(wins, b[0], a[0]), choose(wins, b[1], a[1])

        return Folding(
            init=(const(neutral(carried), carried), scalar.ZERO),
            step=step,
            merge=merge,
            finish=lambda carries, count: (carries[1],),
        )

    return meaning


def _position_reference(find: Callable[..., Any]) -> Callable[..., Any]:
    def reference(x: Any, *, axes: tuple[int, ...]) -> Any:
        last = np.moveaxis(x, axes, range(-len(axes), 0))
        outer = x.ndim - len(axes)
        flat = last.reshape(*last.shape[:outer], math.prod(last.shape[outer:]))
        return find(flat, axis=-1).astype(np.int64)

    return reference


def _position_samples() -> list[Sample]:
    ties = np.array([[1, 3, 3, 0], [2, 2, 2, 2], [0, 1, 0, 1]])
    return [
        Sample(((3, 37),), {"axis": 1}),
        Sample(((5, 3, 7),), {"axis": -2, "keepdims": True}),
        Sample(((4, 5),)),
        Sample(((),)),
        Sample((ties,), {"axis": 1}),
        Sample((np.array([1.0, np.nan, 3.0, np.nan], np.float32),)),
        Sample((np.full((2, 20), -np.inf, np.float32),), {"axis": 1}),
        Sample((np.full((2, 20), np.inf, np.float32),), {"axis": 1}),
    ]


@primitive(
    Kind.REDUCE,
    infer=chosen_type(int64, "argmax"),
    meaning=_position("larger", lowest),
    reference=_position_reference(np.argmax),
    takes=NUMERIC,
    samples=_position_samples,
    method="argmax",
    onnx=forms.position("ArgMax"),
)
def argmax(x: Tensor, /, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Where the largest element is on an axis or in the flat tensor, int64; the first of equals.

    Raises ShapeError where there is no element to choose from.

    >>> ds.argmax(ds.asarray([[1, 5], [4, 2]]), axis=1), ds.argmax(ds.asarray([[1, 5], [4, 2]]))
    (tensor([1, 0]), tensor(1))
    """
    (x,) = promoted("argmax", (x,), NUMERIC)
    return reduced(argmax, x, axis, keepdims)


@primitive(
    Kind.REDUCE,
    infer=chosen_type(int64, "argmin"),
    meaning=_position("smaller", highest),
    reference=_position_reference(np.argmin),
    takes=NUMERIC,
    samples=_position_samples,
    method="argmin",
    onnx=forms.position("ArgMin"),
)
def argmin(x: Tensor, /, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Where the smallest element is on an axis or in the flat tensor, int64; the first of equals.

    Raises ShapeError where there is no element to choose from.

    >>> ds.argmin(ds.asarray([[1, 5], [4, 2]]), axis=1)
    tensor([0, 1])
    """
    (x,) = promoted("argmin", (x,), NUMERIC)
    return reduced(argmin, x, axis, keepdims)
