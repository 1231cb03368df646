"""How ops are written in ONNX: what stands under `onnx` in a record that is no operator's name.

Each form takes the exporter's builder, the node and the names of its inputs, and gives the name(s)
of its outputs, or None where ONNX's operator does not mean the same; the op is then expanded, or
written by its scalar meaning. A record may hold several forms: the exporter tries those that its
opset has, the newest first. `form.operator` names the operator, for the documentation too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from deepseek.errors import CompileError
from deepseek.ir import scalar
from deepseek.ir.dtype import DType, bool_, float32, float64, int32, int64
from deepseek.ir.graph import Node
from deepseek.ir.op import Kind
from deepseek.ir.scalar import as_expr, const
from deepseek.ir.shape import Shape, TensorType, simplify

Form = Callable[..., Any]
BELOW_ALL = -(2**63)  # where a slice that runs backwards to the first element ends


def form(operator: str, since: int | None = None) -> Callable[[Form], Form]:
    """Decorator that says which operator a form writes, and from which opset the form is good.

    `since` is the opset that brought the operator unless the form needs a later one.
    """

    def decorate(function: Form) -> Form:
        function.operator = operator  # type: ignore[attr-defined]
        function.since = since  # type: ignore[attr-defined]
        return function

    return decorate


def renamed(operator: str, since: int | None = None, **attrs: str) -> Form:
    """The operator on the same inputs, each of its attributes from one of the op's."""

    @form(operator, since)
    def write(b: Any, node: Node, *inputs: str) -> Any:
        return b.node(operator, *inputs, **{k: node.attrs[v] for k, v in attrs.items()})

    return write


def uniform(b: Any, value: float, shape: Shape, dtype: DType) -> Any:
    """A constant of a known shape, all elements the same."""
    return b.array(np.full([s for s in shape if isinstance(s, int)], value), dtype)


def types_of(node: Node) -> list[TensorType]:
    return [v.type for v in node.inputs]


# --------------------------------------------------------------------------------- elementwise


@form("Cast")
def cast(b: Any, node: Node, x: str) -> Any:
    return b.fresh(x) if b.dtypes[x] is node.attrs["dtype"] else b.cast(x, node.attrs["dtype"])


def of_32_bits(operator: str) -> Form:
    """The operator, but for integers of 64 bits, which are written by their meaning.

    onnxruntime 1.31 takes their lower halves for the whole where it works on several at once.
    """

    @form(operator)
    def write(b: Any, node: Node, *inputs: str) -> Any:
        dtype = types_of(node)[0].dtype
        if dtype.is_integer and dtype.bits == 64:
            return None
        return b.node(operator, *b.operands(node, inputs))

    return write


# ---------------------------------------------------------------------------------- reductions


HALF = 2**32


def summed(b: Any, x: str, axes: str) -> Any:
    """ReduceSum. onnxruntime adds 64-bit integers as floats, so their halves are added apart."""
    dtype = b.dtypes[x]
    if not dtype.is_integer or dtype.bits < 64:
        return b.node("ReduceSum", x, axes, keepdims=0)
    x, half = b.cast(x, int64), b.number(HALF, int64)
    low = b.node("Mod", x, half)  # from 0 to HALF
    high = b.node("Div", b.node("Sub", x, low), half)
    sums = [b.node("ReduceSum", part, axes, keepdims=0) for part in (low, high)]
    return b.cast(b.node("Add", sums[0], b.node("Mul", sums[1], half)), dtype)


@form("ReduceSum")
def total(b: Any, node: Node, x: str) -> Any:
    """The sum; of integers that came from at most 32 bits no digit is lost."""
    axes = b.array(np.array(node.attrs["axes"], np.int64))
    before = node.inputs[0].node
    if before.op.kind is Kind.ELEMENTWISE and set(before.attrs) == {"dtype"}:
        (source,) = (v.type.dtype for v in before.inputs)
        if source.bits <= 32 and not source.is_float:
            return b.node("ReduceSum", x, axes, keepdims=0)
    return summed(b, x, axes)


@form("ReduceSum")
def variance(b: Any, node: Node, x: str) -> Any:
    """Squared distances from the mean over (count - correction)."""
    (type_,), axes = types_of(node), node.attrs["axes"]
    over = b.array(np.array(axes, np.int64))
    carried = type_.dtype.accumulator
    wide = b.cast(x, carried)
    distance = b.node("Sub", wide, b.node("ReduceMean", wide, over, keepdims=1))
    total = b.node("ReduceSum", b.node("Mul", distance, distance), over, keepdims=0)
    count = b.size(scalar.product(type_.shape[a] for a in axes))
    free = b.node("Sub", b.cast(b.node("Squeeze", count), carried),
                  b.number(node.attrs["correction"], carried))  # fmt: skip
    floor = b.node("Max", free, b.number(0, carried))
    return b.cast(b.node("Div", total, floor), type_.dtype)


def position(operator: str) -> Form:
    """ArgMax or ArgMin; several axes are merged into one first."""

    @form(operator)
    def write(b: Any, node: Node, x: str) -> Any:
        (type_,), axes = types_of(node), node.attrs["axes"]
        at = axes[0]
        if len(axes) > 1:
            kept = [a for a in range(type_.rank) if a not in axes]
            shape = tuple(type_.shape[a] for a in kept)
            if kept:
                x = b.node("Transpose", x, perm=[*kept, *axes])
            count = scalar.product(type_.shape[a] for a in axes)
            merged = (*shape, count.attr if count.fn == "const" else count)
            x, at = b.node("Reshape", x, b.shape(merged)), len(kept)
        return b.node(operator, x, axis=at, keepdims=0)

    return write


@form("ReduceSum")
def some(b: Any, node: Node, x: str) -> Any:
    """Whether the count of true elements is not 0."""
    axes = b.array(np.array(node.attrs["axes"], np.int64))
    count = b.node("ReduceSum", b.cast(x, int64), axes, keepdims=0)
    return b.node("Greater", count, b.number(0, int64))


@form("ReduceSum")
def every(b: Any, node: Node, x: str) -> Any:
    """Whether the count of false elements is 0."""
    return b.node("Not", some(b, node, b.node("Not", x)))


@form("CumSum")
def cumulative_sum(b: Any, node: Node, x: str) -> Any:
    return b.node("CumSum", x, b.number(node.attrs["axis"], int64))


@form("CumProd")
def cumulative_prod(b: Any, node: Node, x: str) -> Any:
    return b.node("CumProd", x, b.number(node.attrs["axis"], int64))


# --------------------------------------------------------------------------------------- views


@form("Reshape")
def reshape(b: Any, node: Node, x: str) -> Any:
    return b.reshape(x, types_of(node)[0].shape, node.outputs[0].type.shape)


@form("Expand")
def broadcast(b: Any, node: Node, x: str) -> Any:
    return b.expand(x, types_of(node)[0].shape, node.outputs[0].type.shape)


@form("Expand")
def filled(b: Any, node: Node) -> Any:
    """A number, or a size, broadcast."""
    value, dtype, shape = (node.attrs[k] for k in ("value", "dtype", "shape"))
    if isinstance(value, scalar.Expr):
        element = b.cast(b.node("Squeeze", b.size(value)), dtype)
    else:
        element = b.number(scalar.const(value, dtype).value, dtype)
    return b.expand(element, (), shape) if shape else element


@form("Slice")
def sliced(b: Any, node: Node, x: str) -> Any:
    """Slice, along the axes where something is left out or turned round."""
    (type_,) = types_of(node)
    start, step, shape = (node.attrs[k] for k in ("start", "step", "shape"))
    axes = [
        i
        for i, size in enumerate(type_.shape)
        if start[i] != 0 or step[i] != 1 or shape[i] is not size and shape[i] != size
    ]
    if not axes:
        return b.fresh(x)
    ends = tuple(_end(start[i], step[i], shape[i]) for i in axes)
    if None in ends:
        return None
    begins = tuple(0 if shape[i] == 0 else start[i] for i in axes)
    steps = [1 if shape[i] == 0 else step[i] for i in axes]
    return b.node(
        "Slice", x, b.shape(begins), b.shape(ends), b.array(np.array(axes)), b.array(steps)
    )


def _end(start: Any, step: int, count: Any) -> Any:
    """Where a slice ends; None where that might have to be counted from the other side."""
    if isinstance(count, int) and count == 0:
        return 0
    first, total = as_expr(start), as_expr(count)
    end = scalar.add(first, scalar.mul(total, const(step)))
    if end.fn == "const":
        return end.attr if end.attr >= 0 else BELOW_ALL
    return end if scalar.is_nonnegative(end) else None


@form("Pad")
def padded(b: Any, node: Node, x: str) -> Any:
    """Pad, which has no room for values between neighbours."""
    (type_,) = types_of(node)
    low, high, interior, value = (node.attrs[k] for k in ("low", "high", "interior", "value"))
    if any(interior) or not type_.rank or type_.numel == 0:
        return None
    return b.node("Pad", x, b.shape((*low, *high)), b.number(value, type_.dtype))


# ------------------------------------------------------------------------------ computed places


def _bounded(b: Any, indices: str, size: Any) -> str:
    """Indices moved into range; negative ones count from the end in ONNX too."""
    wide = b.cast(indices, int64)
    if isinstance(size, int) and wide in b.known:
        at = b.known[wide]
        if ((-size <= at) & (at < size)).all():
            return str(wide)
    last, first = scalar.sub(as_expr(size), scalar.ONE), scalar.neg(as_expr(size))
    low, high = (b.node("Squeeze", b.size(e)) for e in (first, last))
    return str(b.node("Clip", wide, low, high))


@form("Gather")
def take(b: Any, node: Node, x: str, indices: str) -> Any:
    (type_, _), axis = types_of(node), node.attrs["axis"]
    return b.node("Gather", x, _bounded(b, indices, type_.shape[axis]), axis=axis)


@form("GatherElements")
def take_along(b: Any, node: Node, x: str, indices: str) -> Any:
    (type_, _), axis = types_of(node), node.attrs["axis"]
    return b.node("GatherElements", x, _bounded(b, indices, type_.shape[axis]), axis=axis)


COMBINING = {
    "set": ("none", 11, "", ""),
    "add": ("add", 16, "Add", "ReduceSum"),
    "mul": ("mul", 16, "Mul", "ReduceProd"),
    "maximum": ("max", 18, "Max", "ReduceMax"),
    "minimum": ("min", 18, "Min", "ReduceMin"),
}
"""ScatterElements' reduction by how updates combine, its opset, and what does the same before."""


def combined(b: Any, x: str, places: str, updates: str, axis: int, rank: int, combine: str) -> Any:
    """x with updates put to places of an axis; in old opsets every place is compared."""
    reduction, since, operator, reducing = COMBINING[combine]
    if b.dtypes[x] is bool_ and combine != "set":
        wide, more = b.cast(x, int32), b.cast(updates, int32)
        return b.cast(combined(b, wide, places, more, axis, rank, combine), bool_)
    if b.opset >= since:
        return b.node("ScatterElements", x, places, updates, axis=axis, reduction=reduction)
    size = b.node("Squeeze", b.node("Shape", x, start=axis, end=axis + 1))
    rows = b.node("Range", b.number(0, int64), size, b.number(1, int64))
    column = b.node("Reshape", rows, b.array([-1] + [1] * (rank - axis)))
    here, row = b.array([axis]), b.array([axis + 1])
    below = b.node("Less", places, b.number(0, int64))
    places = b.node("Where", below, b.node("Add", places, size), places)
    hits = b.node("Equal", b.node("Unsqueeze", places, here), column)
    dtype = b.dtypes[updates]
    none = b.number(neutral(combine, dtype), dtype)
    chosen = b.node("Where", hits, b.node("Unsqueeze", updates, here), none)
    if combine == "add":
        return b.node(operator, x, summed(b, chosen, row))
    return b.node(operator, x, b.node(reducing, chosen, row, keepdims=0))


def neutral(combine: str, dtype: DType) -> float:
    """What leaves every number of a dtype as it is."""
    if combine in ("add", "mul"):
        return int(combine == "mul")
    sign = -1 if combine == "maximum" else 1
    if dtype.is_float:
        return sign * np.inf
    limits = np.iinfo(dtype.numpy)
    return int(limits.min if sign < 0 else limits.max)


@form("ScatterElements")
def scatter(b: Any, node: Node, x: str, indices: str, updates: str) -> Any:
    """Indices along an axis, updates of x's other sizes."""
    axis, how = node.attrs["axis"], node.attrs.get("combine", "add")
    x_type, places, _ = types_of(node)
    pairs = enumerate(zip(x_type.shape, places.shape, strict=True))
    alike = all(a is c or a == c for i, (a, c) in pairs if i != axis)
    if not alike and b.opset < COMBINING[how][1]:
        return None
    at = _bounded(b, indices, x_type.shape[axis])
    return combined(b, x, at, updates, axis, x_type.rank, how)


scatter_add = scatter


@form("TopK")
def sort(b: Any, node: Node, x: str) -> Any:
    """TopK of all elements of the last axis; equal ones stay in order.

    TopK knows no order for NaN, which is the largest here: floats are compared in a wider type,
    where NaN is infinite and infinity is some number beyond all others.
    """
    (type_,) = types_of(node)
    count, largest = b.size(type_.shape[-1]), int(node.attrs["descending"])
    if not type_.dtype.is_float:
        return b.node("TopK", x, count, outputs=2, axis=-1, largest=largest, sorted=1)
    nan = b.node("IsNaN", x)
    if type_.dtype is float64:  # there is no wider one: NaN is put behind infinity afterwards
        keys = b.node("Where", nan, b.number(np.inf, float64), x)
        _, order = b.node("TopK", keys, count, outputs=2, axis=-1, largest=largest, sorted=1)
        flags = b.node("GatherElements", b.cast(nan, int32), order, axis=-1)
        _, again = b.node("TopK", flags, count, outputs=2, axis=-1, largest=largest, sorted=1)
        order = b.node("GatherElements", order, again, axis=-1)
        return [b.node("GatherElements", x, order, axis=-1), order]
    wide = float64 if type_.dtype is float32 else float32
    beyond = b.number(float(np.finfo(wide.numpy).max), wide)
    finite = b.node("Min", b.cast(x, wide), beyond)
    keys = b.node("Where", nan, b.number(np.inf, wide), finite)
    _, order = b.node("TopK", keys, count, outputs=2, axis=-1, largest=largest, sorted=1)
    return [b.node("GatherElements", x, order, axis=-1), order]


# -------------------------------------------------------------------------------- contractions


@form("Conv")
def convolution(b: Any, node: Node, x: str, w: str) -> Any:
    a = node.attrs
    pads = [side[i] for i in (0, 1) for side in a["padding"]]
    return b.node(
        "Conv", x, w, strides=a["stride"], pads=pads, dilations=a["dilation"], group=a["groups"],
        kernel_shape=list(types_of(node)[1].shape[2:]),
    )  # fmt: skip


@form("ConvTranspose")
def convolution_input_grad(b: Any, node: Node, g: str, w: str) -> Any:
    """ConvTranspose; what the strides left over at the end comes as further padding."""
    a = node.attrs
    (cotangent, weight) = types_of(node)
    n, window = weight.rank - 2, weight.shape[2:]
    if not all(isinstance(size, int) for size in window):
        raise CompileError("a window whose size is left open")
    left = []
    for i, (low, high) in enumerate(a["padding"]):
        steps = scalar.mul(scalar.sub(as_expr(cotangent.shape[2 + i]), scalar.ONE),
                           const(a["stride"][i]))  # fmt: skip
        reach = (int(window[i]) - 1) * a["dilation"][i] + 1 - low - high  # type: ignore[arg-type]
        covered = scalar.add(steps, const(reach))
        left.append(simplify(scalar.sub(as_expr(a["size"][i]), covered)))
    fixed = {"strides": a["stride"], "dilations": a["dilation"], "group": a["groups"],
             "kernel_shape": list(window)}  # fmt: skip
    lows, highs = zip(*a["padding"], strict=True)
    fits = all(isinstance(v, int) and 0 <= v < s for v, s in zip(left, a["stride"], strict=True))
    if fits and min(*lows, *highs) >= 0:
        return b.node("ConvTranspose", g, w, pads=[*lows, *highs], output_padding=left, **fixed)
    # The whole reach with room around it; the window is cut out of that.
    whole = b.node("ConvTranspose", g, w, **fixed)
    before = [max(0, -low) for low in lows]
    room = [max(s, d) for s, d in zip(a["stride"], a["dilation"], strict=True)]
    behind = [max(0, -high) + r for high, r in zip(highs, room, strict=True)]
    wide = b.node("Pad", whole, b.array([0, 0, *before, 0, 0, *behind]),
                  b.number(0, cotangent.dtype))  # fmt: skip
    starts = [low + more for low, more in zip(lows, before, strict=True)]
    ends = tuple(
        simplify(scalar.add(as_expr(size), const(start)))
        for size, start in zip(a["size"], starts, strict=True)
    )
    return b.node("Slice", wide, b.array(starts), b.shape(ends), b.array(np.arange(2, 2 + n)))


@form("Conv")
def convolution_weight_grad(b: Any, node: Node, x: str, g: str) -> Any:
    """Conv of the input by the cotangent: batch and channels, strides and dilations swapped."""
    (type_, _), a = types_of(node), node.attrs
    groups, sizes = a["groups"], type_.shape[2:]
    channels, out = type_.shape[1], node.outputs[0].type
    if type_.numel == 0:
        return b.expand(b.number(0, out.dtype), (), out.shape)
    rank = len(sizes)
    spatial = tuple(range(2, 2 + rank))
    if groups > 1:  # (batch, groups * c, ...) as (c, groups * batch, ...)
        each = simplify(scalar.floordiv(as_expr(channels), const(groups)))
        split = (type_.shape[0], groups, each, *sizes)
        turned = b.node("Transpose", b.reshape(x, type_.shape, split),
                        perm=(2, 1, 0, *(s + 1 for s in spatial)))  # fmt: skip
        merged = (each, scalar.mul(as_expr(type_.shape[0]), const(groups)), *sizes)
        x = b.reshape(turned, (), tuple(simplify(as_expr(s)) for s in merged))
    else:
        x = b.node("Transpose", x, perm=(1, 0, *spatial))
    g = b.node("Transpose", g, perm=(1, 0, *spatial))
    pads = [side[i] for i in (0, 1) for side in a["padding"]]
    whole = b.node(
        "Conv", x, g, strides=a["dilation"], dilations=a["stride"], pads=pads, group=groups
    )
    ends, axes = b.array(np.array(a["size"])), b.array(np.array(spatial))
    window = b.node("Slice", whole, b.array([0] * rank), ends, axes)
    return b.node("Transpose", window, perm=(1, 0, *spatial))
