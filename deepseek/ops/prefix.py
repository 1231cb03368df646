"""Prefix folds: the result at each position is the fold of everything up to it along one axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deepseek.errors import ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor, record
from deepseek.ir import scalar
from deepseek.ir.dtype import DType, dtype_of, int64, uint64
from deepseek.ir.graph import Node
from deepseek.ir.op import Folding, Kind, Sample
from deepseek.ir.scalar import Expr, call, cast, const
from deepseek.ir.scalar import where as choose
from deepseek.ir.shape import TensorType, tensor_type
from deepseek.ops import forms
from deepseek.ops.control import scan
from deepseek.ops.create import full_like, ones_like, zeros_like
from deepseek.ops.define import (
    FLOATS,
    NUMERIC,
    as_tensor,
    axis_of,
    converted,
    describe,
    is_size,
    op_of,
    primitive,
    promoted,
    shape_of,
    trace_body,
)
from deepseek.ops.elementwise import stop_gradient, where
from deepseek.ops.index import take_along_axis
from deepseek.ops.methods import method
from deepseek.ops.reductions import Carries, fold, highest, lowest
from deepseek.ops.transcendental import isfinite, logaddexp
from deepseek.ops.view import moveaxis

__all__ = [
    "cummax", "cummin", "cumprod", "cumsum", "cumulative_argmax", "cumulative_argmin",
    "cumulative_prod", "cumulative_sum", "logcumsumexp",
]  # fmt: skip


def scanned(init: Callable[[Tensor], Any], step: Callable[..., Any]) -> forms.Form:
    """How a prefix op is written in ONNX: as a scan of the rows along its axis."""

    def rows(tensors: Sequence[Tensor], attrs: dict[str, Any]) -> Tensor:
        (x,), axis = tensors, attrs["axis"]
        empty = is_size(shape_of(x)[axis], 0)
        row = x.sum(axis=axis) if empty else x.narrow(axis, 0, 1).squeeze(axis)
        out = scan(step, init(row), moveaxis(x, axis, 0))[1]
        return moveaxis(out, 0, axis)

    @forms.form("Scan")
    def write(b: Any, node: Node, x: str) -> Any:
        graph = trace_body(rows, forms.types_of(node), node.attrs)
        return b.graph(graph, [x])[0]

    return write


def _cumulative_sum_vjp(g: Tensor, y: Tensor, x: Tensor, *, axis: int) -> tuple[Tensor]:
    return (_from_here_on(g, axis),)


def _from_here_on(x: Tensor, axis: int) -> Tensor:
    """The running sum from the end."""
    return x.flip(axis).cumulative_sum(axis=axis).flip(axis)


def _infer(x: TensorType, *, axis: int) -> tuple[TensorType, ...]:
    return (x,)


@primitive(
    Kind.PREFIX,
    infer=_infer,
    meaning=fold("add", lambda dtype: 0),
    reference=lambda x, *, axis: np.cumsum(x, axis=axis, dtype=x.dtype),
    vjp=_cumulative_sum_vjp,
    takes=NUMERIC,
    samples=lambda: [
        Sample(((37,),)),
        Sample(((3, 5, 4),), {"axis": 1}),
        Sample(((3, 5),), {"axis": -1}),
        Sample(((3, 4),), {"axis": 0, "include_initial": True}),
        Sample(((2, 0),), {"axis": 1}),
    ],
    tolerance=32,
    method="cumulative_sum",
    precision="high",
    onnx=forms.cumulative_sum,
)
def cumulative_sum(
    x: Tensor, /, axis: int | None = None, *, dtype: Any = None, include_initial: bool = False
) -> Tensor:
    """The running sum along an axis, in 64 bits for integers; `include_initial` adds a 0 before.

    >>> ds.cumulative_sum(ds.asarray([1, 2, 3]))
    tensor([1, 3, 6])
    """
    x, axis = _operand("cumulative_sum", x, axis, dtype)
    out: Tensor = record(op_of(cumulative_sum), x, axis=axis)
    return _after(out, 0, axis) if include_initial else out


@method("cumsum")
def cumsum(x: Tensor, /, dim: int, *, dtype: Any = None) -> Tensor:
    """PyTorch's name for `cumulative_sum`.

    >>> ds.cumsum(ds.asarray([1, 2, 3]), 0)
    tensor([1, 3, 6])
    """
    return cumulative_sum(x, axis=dim, dtype=dtype)


def _operand(op: str, x: Any, axis: int | None, dtype: Any) -> tuple[Tensor, int]:
    """x in the dtype to fold in, integers in 64 bits, and the axis counted from the front."""
    x = as_tensor(x, op)
    if axis is None:
        if x.ndim != 1:
            raise op_error(
                ShapeError, op, f"{describe(x)} and no axis", "an axis", user_line(),
                "pass axis=..., or flatten first",
            )  # fmt: skip
        axis = 0
    axis = axis_of(op, x, axis)
    if dtype is not None:
        x = converted(x, dtype_of(dtype))
    elif not x.dtype.is_float:
        x = converted(x, uint64 if x.dtype.kind == "u" else int64)
    return x, axis


def _after(out: Tensor, first: float, axis: int) -> Tensor:
    """A result with its initial value in front."""
    before = [(int(i == axis), 0) for i in range(out.ndim)]
    padded: Tensor = out.pad(before, value=first)
    return padded


# ---------------------------------------------------------------------------------------- products


def _cumulative_prod_vjp(g: Tensor, y: Tensor, x: Tensor, *, axis: int) -> tuple[Tensor]:
    # x[i] gets the sum over k >= i of g[k] and the product of x[..k] without x[i]. Where none of
    # these is zero, that is the product of what is not zero over x[i]. Where one is, it is zero,
    # but not its derivative by that one; where several are, so is that.
    is_zero = x == 0
    zeros, nonzero = where(is_zero, x, 0), where(is_zero, 1, x)
    count = converted(is_zero, int64).cumulative_sum(axis=axis)
    terms = g * cumulative_prod(nonzero, axis=axis)
    finite = where(isfinite(terms), terms, 0)  # an infinity times zero would be NaN
    with_zero = finite * zeros.cumulative_sum(axis=axis)

    def later(given: Tensor, zeros_so_far: int) -> Tensor:
        """The sum of what comes from i on, of terms with so many zeros."""
        return _from_here_on(where(count == zeros_so_far, given, 0), axis)

    nothing_else = where(is_zero, later(terms, 1), later(terms, 0))
    at_zero = later(with_zero, 2) - zeros * later(finite, 2)
    return ((nothing_else + where(is_zero, at_zero, later(with_zero, 1))) / nonzero,)


@primitive(
    Kind.PREFIX,
    infer=_infer,
    meaning=fold("mul", lambda dtype: 1),
    reference=lambda x, *, axis: np.cumprod(x, axis=axis, dtype=x.dtype),
    vjp=_cumulative_prod_vjp,
    takes=NUMERIC,
    samples=lambda: [
        Sample(((37,),)),
        Sample(((3, 5, 4),), {"axis": 1}),
        Sample(((3, 4),), {"axis": 0, "include_initial": True}),
        Sample(((2, 0),), {"axis": 1}),
    ],
    tolerance=64,
    method="cumulative_prod",
    precision="high",
    onnx=(
        forms.cumulative_prod, scanned(ones_like, lambda product, row: (product * row,) * 2),
    ),  # fmt: skip
)
def cumulative_prod(
    x: Tensor, /, axis: int | None = None, *, dtype: Any = None, include_initial: bool = False
) -> Tensor:
    """The running product along an axis, integers in 64 bits; `include_initial` puts 1 before.

    >>> ds.cumulative_prod(ds.asarray([1, 2, 3]), include_initial=True)
    tensor([1, 1, 2, 6])
    """
    x, axis = _operand("cumulative_prod", x, axis, dtype)
    out: Tensor = record(op_of(cumulative_prod), x, axis=axis)
    return _after(out, 1, axis) if include_initial else out


@method("cumprod")
def cumprod(x: Tensor, /, dim: int, *, dtype: Any = None) -> Tensor:
    """PyTorch's name for `cumulative_prod`.

    >>> ds.cumprod(ds.asarray([1, 2, 3]), 0)
    tensor([1, 2, 6])
    """
    return cumulative_prod(x, axis=dim, dtype=dtype)


# ---------------------------------------------------------------------------------------- extremes


def _last_extreme(better: str, neutral: Callable[[DType], Any]) -> Callable[..., Folding]:
    """Carried: the best element and where it was last. A NaN beats every number."""

    def wins(new: Expr, old: Expr) -> Expr:
        ahead = call("le", old, new) if better == "larger" else call("le", new, old)
        if not new.dtype.is_float:
            return ahead
        return call("bitor", call("ne", new, new), ahead)

    def meaning(dtype: DType, **_: Any) -> Folding:
        carried = dtype.accumulator

        def join(a: Carries, b: Carries) -> Carries:
            later = wins(b[0], a[0])
            return choose(later, b[0], a[0]), choose(later, b[1], a[1])

        return Folding(
            init=(const(neutral(carried), carried), scalar.ZERO),
            step=lambda carries, element, position: join(carries, (element, position)),
            merge=join,
            finish=lambda carries, count: (carries[1],),
        )

    return meaning


def _argument_scan(better: str, neutral: Callable[[DType], Any]) -> forms.Form:
    def init(row: Tensor) -> Any:
        places = zeros_like(row, dtype=int64)
        return full_like(row, neutral(row.dtype)), places, places

    def step(state: Any, row: Tensor) -> Any:
        best, place, now = state
        later = (row >= best if better == "larger" else row <= best) | (row != row)
        place = where(later, now, place)
        return (where(later, row, best), place, now + 1), place

    return scanned(init, step)


def _extreme_reference(accumulate: Any, x: Any, axis: int) -> Any:
    best = accumulate(x, axis=axis)
    places = np.moveaxis(np.broadcast_to(np.arange(x.shape[axis]), np.moveaxis(x, axis, -1).shape),
                         -1, axis)  # fmt: skip
    met = (x == best) | (x != x)
    return np.maximum.accumulate(np.where(met, places, 0), axis=axis)


def _extreme_samples() -> list[Sample]:
    ties = np.array([[1, 3, 3, 0], [2, 2, 2, 2], [0, 1, 0, 1]])
    return [
        Sample(((37,),), {"axis": 0}),
        Sample(((3, 5, 4),), {"axis": 1}),
        Sample((ties,), {"axis": 1}),
        Sample((np.array([-np.inf, 1.0, np.nan, 3.0, np.nan], np.float32),), {"axis": 0}),
        Sample(((2, 0),), {"axis": 1}),
    ]


@primitive(
    Kind.PREFIX,
    infer=lambda x, *, axis: (tensor_type(int64, x.shape),),
    meaning=_last_extreme("larger", lowest),
    reference=lambda x, *, axis: _extreme_reference(np.maximum.accumulate, x, axis),
    takes=NUMERIC,
    samples=_extreme_samples,
    onnx=_argument_scan("larger", lowest),
)
def cumulative_argmax(x: Tensor, /, axis: int) -> Tensor:
    """Where along the axis the largest element so far is, the last of equals.

    >>> ds.cumulative_argmax(ds.asarray([3, 1, 3, 5]), 0)
    tensor([0, 0, 2, 3])
    """
    (x,) = promoted("cumulative_argmax", (x,), NUMERIC)
    out: Tensor = record(op_of(cumulative_argmax), x, axis=axis_of("cumulative_argmax", x, axis))
    return out


@primitive(
    Kind.PREFIX,
    infer=lambda x, *, axis: (tensor_type(int64, x.shape),),
    meaning=_last_extreme("smaller", highest),
    reference=lambda x, *, axis: _extreme_reference(np.minimum.accumulate, x, axis),
    takes=NUMERIC,
    samples=_extreme_samples,
    onnx=_argument_scan("smaller", highest),
)
def cumulative_argmin(x: Tensor, /, axis: int) -> Tensor:
    """Where along the axis the smallest element so far is, the last of equals.

    >>> ds.cumulative_argmin(ds.asarray([3, 1, 3, 1]), 0)
    tensor([0, 1, 1, 3])
    """
    (x,) = promoted("cumulative_argmin", (x,), NUMERIC)
    out: Tensor = record(op_of(cumulative_argmin), x, axis=axis_of("cumulative_argmin", x, axis))
    return out


@method("cummax")
def cummax(x: Tensor, /, dim: int) -> tuple[Tensor, Tensor]:
    """(values, indices) of the largest element so far along an axis, the last of equals.

    >>> ds.cummax(ds.asarray([1, 3, 2]), 0)
    (tensor([1, 3, 3]), tensor([0, 1, 1]))
    """
    places = cumulative_argmax(x, dim)
    return take_along_axis(x, places, axis=dim), places


@method("cummin")
def cummin(x: Tensor, /, dim: int) -> tuple[Tensor, Tensor]:
    """(values, indices) of the smallest element so far along an axis, the last of equals.

    >>> ds.cummin(ds.asarray([3, 1, 2]), 0)
    (tensor([3, 1, 1]), tensor([0, 1, 1]))
    """
    places = cumulative_argmin(x, dim)
    return take_along_axis(x, places, axis=dim), places


# ------------------------------------------------------------------------------------ log of a sum


def _log_sum(dtype: DType, **_: Any) -> Folding:
    """Carried: the largest element, and the sum of exponentials less it."""
    carried = dtype.accumulator
    zero, nothing = const(0, carried), const(-math.inf, carried)

    def shrunk(total: Expr, by: Expr, largest: Expr) -> Expr:
        # Equals are told apart from infinities, whose distance is NaN.
        factor = call("exp", call("sub", by, largest))
        return choose(call("eq", by, largest), total, call("mul", total, factor))

    def merge(a: Carries, b: Carries) -> Carries:
        largest = call("maximum", a[0], b[0])
        return largest, call("add", shrunk(a[1], a[0], largest), shrunk(b[1], b[0], largest))

    def finish(carries: Carries, count: Expr) -> Carries:
        return (cast(call("add", carries[0], call("log", carries[1])), dtype),)

    one = const(1, carried)
    return Folding((nothing, zero), lambda c, element, at: merge(c, (element, one)), merge, finish)


LARGEST_EXPONENT = 80.0  # whose power is finite in float32


def _log_sum_vjp(g: Tensor, y: Tensor, x: Tensor, *, axis: int) -> tuple[Tensor]:
    # x[i] gets the sum over j >= i of g[j] exp(x[i] - y[j]): for each sign of g, in logarithms.
    def part(size: Tensor) -> Tensor:
        flows = (size > 0) & (y > -math.inf)
        logs = where(flows, where(flows, size, 1).log() - where(flows, y, 0), -math.inf)
        return (logcumsumexp(logs.flip(axis), axis).flip(axis) + x).exp()

    # Zeros have no logarithm, and add nothing, but derivatives by them are needed.
    none = where(g == 0, g, 0)
    top = stop_gradient(x.max(axis=axis, keepdims=True)) if not is_size(shape_of(x)[axis], 0) else x
    top = where(isfinite(top), top, 0)
    up, down = x - top, top - y
    rest = where(up <= 0, up, -math.inf).exp() * _from_here_on(
        none * where(down < LARGEST_EXPONENT, down, -math.inf).exp(), axis
    )
    return (part(g) - part(-g) + rest,)


@primitive(
    Kind.PREFIX,
    infer=_infer,
    meaning=_log_sum,
    reference=lambda x, *, axis: np.logaddexp.accumulate(x, axis=axis),
    vjp=_log_sum_vjp,
    takes=FLOATS,
    samples=lambda: [
        Sample(((37,),), {"dim": 0}),
        Sample(((3, 5, 4),), {"dim": 1}),
        Sample((np.array([-np.inf, -1000.0, 1000.0, 0.0, np.nan], np.float32),), {"dim": 0}),
        Sample(((2, 0),), {"dim": 1}),
    ],
    tolerance=32,
    method="logcumsumexp",
    precision="high",
    onnx=scanned(lambda row: full_like(row, -math.inf), lambda c, row: (logaddexp(c, row),) * 2),
)
def logcumsumexp(x: Tensor, /, dim: int) -> Tensor:
    """The logarithm of the running sum of exp(x) along an axis, without overflow.

    >>> ds.logcumsumexp(ds.asarray([-np.inf, 1000.0]), 0)
    tensor([ -inf, 1000.])
    """
    (x,) = promoted("logcumsumexp", (x,), FLOATS)
    out: Tensor = record(op_of(logcumsumexp), x, axis=axis_of("logcumsumexp", x, dim))
    return out
