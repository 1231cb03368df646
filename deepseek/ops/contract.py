"""Contractions: matmul and convolution with its two gradients, each a sum of products over an index
map.

The public functions bring their arguments into one form: matmul to equal batch axes, convolution to
(batch, channels, *spatial) with explicit padding pairs. 16-bit floats are summed in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deepseek.errors import ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor, record
from deepseek.ir import scalar
from deepseek.ir.op import Contraction, Kind, Operand, Sample
from deepseek.ir.scalar import TRUE, ZERO, Expr, as_expr, call, const, var
from deepseek.ir.shape import (
    Shape,
    Size,
    TensorType,
    is_positive,
    is_true,
    numel,
    same,
    tensor_type,
)
from deepseek.ir.shape import broadcast as broadcast_shapes
from deepseek.ops import forms
from deepseek.ops.define import (
    FLOATS,
    NUMERIC,
    describe,
    expanded,
    minus,
    op_of,
    plus,
    primitive,
    promoted,
    quotient,
    shape_of,
    times,
)

__all__ = ["convolution", "convolution_input_grad", "convolution_weight_grad", "matmul"]

Types = tuple[TensorType, ...]
Ints = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]


def index_variables(prefix: str, sizes: Sequence[Size]) -> tuple[Expr, ...]:
    """One index variable for each size."""
    return tuple(var(f"{prefix}{i}", low=0, extent=as_expr(s)) for i, s in enumerate(sizes))


# ----------------------------------------------------------------------------------------- matmul


def _matmul_infer(a: TensorType, b: TensorType) -> Types:
    alike = a.rank == b.rank >= 2 and all(map(same, a.shape[:-2], b.shape[:-2]))
    if not alike or not same(a.shape[-1], b.shape[-2]):
        raise op_error(
            ShapeError, "matmul", (a, b), "[..., m, k] and [..., k, n]", user_line(),
        )  # fmt: skip
    return (tensor_type(a.dtype, (*a.shape[:-1], b.shape[-1])),)


def _matmul_meaning(inputs: Types, out: TensorType) -> Contraction:
    axes = index_variables("i", out.shape)
    (k,) = index_variables("k", inputs[0].shape[-1:])
    *batch, i, j = axes
    return Contraction(axes, (k,), Operand((*batch, i, k)), Operand((*batch, k, j)))


@primitive(
    Kind.CONTRACT,
    infer=_matmul_infer,
    meaning=_matmul_meaning,
    reference=lambda a, b: np.einsum("...ik,...kj->...ij", a, b),
    vjp=lambda g, y, a, b: (g @ b.mT, a.mT @ g),
    takes=NUMERIC,
    samples=lambda: [
        Sample(((5, 7), (7, 3))),
        Sample(((2, 3, 5, 4), (2, 3, 4, 6))),
        Sample(((2, 1, 3, 4), (5, 4, 2))),
        Sample(((2, 3, 4), (4, 5))),
        Sample(((4,), (4,))),
        Sample(((4,), (2, 4, 3))),
        Sample(((2, 3, 4), (4,))),
        Sample(((3, 0), (0, 2))),
        Sample(((0, 3), (3, 2))),
        Sample(((33, 17), (17, 40))),
    ],
    tolerance=32,
    precision="low",
    method=("__matmul__", "__rmatmul__", "matmul"),
    onnx="MatMul",
)
def matmul(a: Tensor, b: Tensor, /) -> Tensor:
    """The matrix product; leading axes broadcast, vectors are rows on the left, columns else.

    Raises ShapeError where the inner sizes differ.

    >>> ds.matmul(ds.asarray([[1, 2], [3, 4]]), ds.asarray([1, 10]))
    tensor([21, 43])
    """
    a, b = promoted("matmul", (a, b), NUMERIC)
    left, right = shape_of(a), shape_of(b)
    if not left or not right or not same(left[-1], right[-2] if len(right) > 1 else right[0]):
        raise op_error(
            ShapeError, "matmul", (describe(a), describe(b)),
            "axes (..., m, k) and (..., k, n), or a vector of size k on either side",
            user_line(),
        )  # fmt: skip
    rows = () if len(left) == 1 else left[-2:-1]
    columns = () if len(right) == 1 else right[-1:]
    if len(left) == 1:
        a = a.reshape((1, *left))
    if len(right) == 1:
        b = b.reshape((*right, 1))
    return _batched(a, b).reshape((*_batch(a, b), *rows, *columns))


def _batch(a: Tensor, b: Tensor) -> Shape:
    try:
        return broadcast_shapes([shape_of(a)[:-2], shape_of(b)[:-2]])
    except ShapeError as error:
        raise op_error(
            ShapeError, "matmul", (describe(a), describe(b)),
            f"leading axes that broadcast ({error})", user_line(),
        ) from None  # fmt: skip


def _batched(a: Tensor, b: Tensor) -> Tensor:
    """The product of stacks of matrices, batch axes merged or dropped where that is free."""
    left, right = shape_of(a), shape_of(b)
    if len(right) == 2:  # one matrix for all rows
        a = a.reshape((numel(left[:-1]), left[-1]))
    else:
        batch = _batch(a, b)
        a = expanded(a, (*batch, *left[-2:])).reshape((numel(batch), *left[-2:]))
        b = expanded(b, (*batch, *right[-2:])).reshape((numel(batch), *right[-2:]))
    out: Tensor = record(op_of(matmul), a, b)
    return out


# ------------------------------------------------------------------------------------ convolution


def output_size(size: Size, window: int, stride: int, pads: tuple[int, int], dilation: int) -> Size:
    """How many places a window of a convolution has on an axis."""
    room = minus(plus(size, pads[0] + pads[1]), dilation * (window - 1) + 1)
    return plus(quotient(room, stride), 1)


def _spatial_index(
    y: Sequence[Expr], k: Sequence[Expr], sizes: Sequence[Size], stride: Ints, padding: Pairs,
    dilation: Ints,
) -> tuple[tuple[Expr, ...], Expr]:  # fmt: skip
    """Where output place y and window element k meet the input, and whether that is inside."""
    at, inside = [], TRUE
    for i, j, n, s, (low, _), d in zip(y, k, sizes, stride, padding, dilation, strict=True):
        p = scalar.add(scalar.mul(i, const(s)), scalar.sub(scalar.mul(j, const(d)), const(low)))
        at.append(p)
        inside = scalar.and_(inside, call("le", ZERO, p), call("lt", p, as_expr(n)))
    return tuple(at), inside


def _of_group(outer: Expr, inner: Expr, outer_size: Size, inner_size: Size) -> Expr:
    """The channel `inner` of the group that channel `outer` belongs to."""
    group = scalar.floordiv(outer, as_expr(outer_size))
    return scalar.add(scalar.mul(group, as_expr(inner_size)), inner)


def _convolution_infer(
    x: TensorType, w: TensorType, *, stride: Ints, padding: Pairs, dilation: Ints, groups: int
) -> Types:
    n = len(stride)
    if x.rank != n + 2 or w.rank != n + 2:
        raise op_error(
            ShapeError, "convolution", (x, w),
            f"(batch, channels, {n} sizes) and (channels out, channels in / groups, {n} sizes)",
            user_line(),
        )  # fmt: skip
    whole = is_true(call("eq", scalar.mod(as_expr(w.shape[0]), const(groups)), ZERO))
    if not same(x.shape[1], times(w.shape[1], groups)) or not whole:
        raise op_error(
            ShapeError, "convolution", f"{x}, weight {w} and {groups} groups",
            "channels in = weight's second size * groups, channels out divisible by groups",
            user_line(),
        )  # fmt: skip
    sizes = tuple(map(output_size, x.shape[2:], _window(w), stride, padding, dilation))
    if not all(map(is_positive, sizes)):
        raise op_error(
            ShapeError, "convolution", f"{x}, weight {w} and padding {padding}",
            "an input at least as large as the dilated window", user_line(),
        )  # fmt: skip
    return (tensor_type(x.dtype, (x.shape[0], w.shape[0], *sizes)),)


def _window(w: TensorType) -> Ints:
    sizes = tuple(s for s in w.shape[2:] if isinstance(s, int))
    if len(sizes) != w.rank - 2:
        raise op_error(
            ShapeError, "convolution", f"weight {w}", "a window of known size", user_line()
        )
    return sizes


def _convolution_meaning(
    inputs: Types, out: TensorType, *, stride: Ints, padding: Pairs, dilation: Ints, groups: int
) -> Contraction:
    x, w = inputs
    axes = index_variables("i", out.shape)
    folded = index_variables("k", w.shape[1:])
    (b, o, *y), (c, *k) = axes, folded
    channel = _of_group(o, c, quotient(w.shape[0], groups), w.shape[1])
    at, inside = _spatial_index(y, k, x.shape[2:], stride, padding, dilation)
    return Contraction(axes, folded, Operand((b, channel, *at), inside), Operand((o, c, *k)))


def _patches(x: Any, window: Ints, stride: Ints, padding: Pairs, dilation: Ints) -> Any:
    """x (batch, channels, *sizes) as (batch, channels, *places, *window)."""
    x = np.pad(x, ((0, 0), (0, 0), *padding))
    spans = [d * (k - 1) + 1 for k, d in zip(window, dilation, strict=True)]
    axes = tuple(range(2, x.ndim))
    views = np.lib.stride_tricks.sliding_window_view(x, spans, axis=axes)
    places = tuple(slice(None, None, s) for s in stride)
    return views[(slice(None), slice(None), *places, *(slice(None, None, d) for d in dilation))]


def _convolution_reference(
    x: Any, w: Any, *, stride: Ints, padding: Pairs, dilation: Ints, groups: int
) -> Any:
    n = len(stride)
    patches = _patches(x, w.shape[2:], stride, padding, dilation)
    patches = patches.reshape(x.shape[0], groups, w.shape[1], *patches.shape[2:])
    weights = w.reshape(groups, -1, *w.shape[1:])
    y, k = "pqr"[:n], "uvw"[:n]
    out = np.einsum(f"bgc{y}{k},goc{k}->bgo{y}", patches, weights)
    return out.reshape(out.shape[0], w.shape[0], *out.shape[3:])


def _convolution_vjp(
    g: Tensor, y: Tensor, x: Tensor, w: Tensor, **attrs: Any
) -> tuple[Tensor, Tensor]:
    return (
        convolution_input_grad(g, w, size=shape_of(x)[2:], **attrs),
        convolution_weight_grad(x, g, size=_window(w._value.type), **attrs),
    )


def _convolution_samples() -> list[Sample]:
    def sample(x: Ints, w: Ints, **kwargs: Any) -> Sample:
        n = len(x) - 2
        plain = {"stride": (1,) * n, "padding": ((0, 0),) * n, "dilation": (1,) * n, "groups": 1}
        return Sample((x, w), plain | kwargs)

    return [
        sample((2, 3, 11), (4, 3, 3), padding=((1, 1),)),
        sample((2, 3, 7, 6), (5, 3, 3, 2), stride=(2, 1), padding=((1, 0), (2, 1))),
        sample((1, 4, 9, 8), (6, 2, 3, 3), dilation=(2, 2), groups=2, padding=((2, 2), (2, 2))),
        sample((2, 3, 5, 5), (3, 1, 3, 3), groups=3, padding=((1, 1), (1, 1)), stride=(2, 2)),
        sample((1, 2, 4, 5, 3), (3, 2, 2, 3, 1), stride=(1, 2, 1), padding=((0, 1),) * 3),
        sample((2, 16, 8, 8), (8, 16, 1, 1)),
        sample((0, 2, 5), (3, 2, 3)),
    ]


@primitive(
    Kind.CONTRACT,
    infer=_convolution_infer,
    meaning=_convolution_meaning,
    reference=_convolution_reference,
    vjp=_convolution_vjp,
    takes=FLOATS,
    samples=_convolution_samples,
    tolerance=32,
    precision="low",
    onnx=forms.convolution,
)
def convolution(
    x: Tensor, w: Tensor, /, *, stride: Ints, padding: Pairs, dilation: Ints, groups: int
) -> Tensor:
    """out[b, o, y] = sum over c, k of x[b, c, y * stride + k * dilation - padding] * w[o, c, k].

    Over any number of axes; `padding` has a pair for each. Behind `conv1d`, `conv2d` and `conv3d`.

    >>> options = {"stride": (1,), "padding": ((1, 1),), "dilation": (1,), "groups": 1}
    >>> ds.convolution(ds.ones(1, 1, 4), ds.ones(1, 1, 3), **options)
    tensor([[[2., 3., 3., 2.]]])
    """
    out: Tensor = record(
        op_of(convolution), x, w, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    return out


# ------------------------------------------------------------------------- gradient of the input


def _input_grad_infer(
    g: TensorType, w: TensorType, *, size: Shape, stride: Ints, padding: Pairs, dilation: Ints,
    groups: int,
) -> Types:  # fmt: skip
    channels = times(w.shape[1], groups)
    return (tensor_type(g.dtype, (g.shape[0], channels, *size)),)


def _input_grad_meaning(
    inputs: Types, out: TensorType, *, size: Shape, stride: Ints, padding: Pairs, dilation: Ints,
    groups: int,
) -> Contraction:  # fmt: skip
    g, w = inputs
    axes = index_variables("i", out.shape)
    per_group = quotient(w.shape[0], groups)
    folded = index_variables("k", (per_group, *w.shape[2:]))
    (b, c, *p), (o, *k) = axes, folded
    at, inside = [], TRUE
    for i, j, n, s, (low, _), d in zip(p, k, g.shape[2:], stride, padding, dilation, strict=True):
        # The place y with y * stride == p + low - k * dilation, if there is one.
        ahead = scalar.sub(scalar.add(i, const(low)), scalar.mul(j, const(d)))
        y = scalar.floordiv(ahead, const(s))
        at.append(y)
        inside = scalar.and_(inside, call("le", ZERO, ahead), call("lt", y, as_expr(n)))
        if s > 1:
            inside = scalar.and_(inside, call("eq", scalar.mod(ahead, const(s)), ZERO))
    channel = _of_group(c, o, w.shape[1], per_group)
    within = scalar.mod(c, as_expr(w.shape[1]))
    return Contraction(
        axes, folded, Operand((b, channel, *at), inside), Operand((channel, within, *k))
    )


def _input_grad_reference(
    g: Any, w: Any, *, size: Ints, stride: Ints, padding: Pairs, dilation: Ints, groups: int
) -> Any:
    n = len(size)
    cotangent = g.reshape(g.shape[0], groups, w.shape[0] // groups, *g.shape[2:])
    weights = w.reshape(groups, -1, *w.shape[1:])
    y, k = "pqr"[:n], "uvw"[:n]
    parts = np.einsum(f"bgo{y},goc{k}->bgc{y}{k}", cotangent, weights)
    parts = parts.reshape(g.shape[0], groups * w.shape[1], *parts.shape[3:])
    whole = [s + low + high for s, (low, high) in zip(size, padding, strict=True)]
    out: Any = np.zeros((*parts.shape[:2], *whole), g.dtype)
    for at in np.ndindex(*w.shape[2:]):
        into = tuple(
            slice(i * d, i * d + (count - 1) * s + 1, s)
            for i, d, s, count in zip(at, dilation, stride, g.shape[2:], strict=True)
        )
        out[(..., *into)] += parts[(..., *at)]
    inner = tuple(slice(low, low + s) for s, (low, _) in zip(size, padding, strict=True))
    return out[(..., *inner)]


def _input_grad_vjp(
    u: Tensor, y: Tensor, g: Tensor, w: Tensor, *, size: Shape, **attrs: Any
) -> tuple[Tensor, Tensor]:
    found = convolution(u, w, **attrs)
    for axis, places in enumerate(shape_of(g)):
        if not same(shape_of(found)[axis], places):  # more windows fit than there were
            found = found.narrow(axis, 0, places)
    return found, convolution_weight_grad(u, g, size=_window(w._value.type), **attrs)


def _input_grad_samples() -> list[Sample]:
    adjoints = [
        Sample((_output_shape(s), s.args[1]), {"size": s.args[0][2:]} | s.kwargs)
        for s in _convolution_samples()
    ]
    apart = {"stride": (1,), "padding": ((0, 0),), "dilation": (2,), "groups": 1}
    return [*adjoints, Sample(((2, 3, 4), (3, 2, 2)), {"size": (7,)} | apart)]


def _output_shape(sample: Sample) -> Any:
    x, w = sample.args
    kwargs = sample.kwargs
    places = map(output_size, x[2:], w[2:], kwargs["stride"], kwargs["padding"], kwargs["dilation"])
    return (x[0], w[0], *places)


@primitive(
    Kind.CONTRACT,
    infer=_input_grad_infer,
    meaning=_input_grad_meaning,
    reference=_input_grad_reference,
    vjp=_input_grad_vjp,
    takes=FLOATS,
    samples=_input_grad_samples,
    tolerance=32,
    precision="low",
    onnx=forms.convolution_input_grad,
)
def convolution_input_grad(
    g: Tensor,
    w: Tensor,
    /,
    *,
    size: Shape,
    stride: Ints,
    padding: Pairs,
    dilation: Ints,
    groups: int,
) -> Tensor:
    """The cotangent of a convolution's input of the given size; see `convolution`."""
    out: Tensor = record(
        op_of(convolution_input_grad), g, w, size=size, stride=stride, padding=padding,
        dilation=dilation, groups=groups,
    )  # fmt: skip
    return out


# ------------------------------------------------------------------------ gradient of the weight


def _weight_grad_infer(
    x: TensorType, g: TensorType, *, size: Ints, stride: Ints, padding: Pairs, dilation: Ints,
    groups: int,
) -> Types:  # fmt: skip
    return (tensor_type(x.dtype, (g.shape[1], quotient(x.shape[1], groups), *size)),)


def _weight_grad_meaning(
    inputs: Types, out: TensorType, *, size: Ints, stride: Ints, padding: Pairs, dilation: Ints,
    groups: int,
) -> Contraction:  # fmt: skip
    x, g = inputs
    axes = index_variables("i", out.shape)
    folded = index_variables("k", (g.shape[0], *g.shape[2:]))
    (o, c, *k), (b, *y) = axes, folded
    channel = _of_group(o, c, quotient(g.shape[1], groups), out.shape[1])
    at, inside = _spatial_index(y, k, x.shape[2:], stride, padding, dilation)
    return Contraction(axes, folded, Operand((b, channel, *at), inside), Operand((b, o, *y)))


def _weight_grad_reference(
    x: Any, g: Any, *, size: Ints, stride: Ints, padding: Pairs, dilation: Ints, groups: int
) -> Any:
    n = len(size)
    patches = _patches(x, size, stride, padding, dilation)
    places = tuple(slice(0, count) for count in g.shape[2:])
    patches = patches[(slice(None), slice(None), *places)]
    patches = patches.reshape(x.shape[0], groups, x.shape[1] // groups, *patches.shape[2:])
    cotangent = g.reshape(g.shape[0], groups, g.shape[1] // groups, *g.shape[2:])
    y, k = "pqr"[:n], "uvw"[:n]
    out = np.einsum(f"bgc{y}{k},bgo{y}->goc{k}", patches, cotangent)
    return out.reshape(-1, *out.shape[2:])


def _weight_grad_vjp(
    v: Tensor, y: Tensor, x: Tensor, g: Tensor, *, size: Ints, **attrs: Any
) -> tuple[Tensor, Tensor]:
    return (
        convolution_input_grad(g, v, size=shape_of(x)[2:], **attrs),
        convolution(x, v, **attrs),
    )


def _weight_grad_samples() -> list[Sample]:
    return [
        Sample((s.args[0], _output_shape(s)), {"size": s.args[1][2:]} | s.kwargs)
        for s in _convolution_samples()
    ]


@primitive(
    Kind.CONTRACT,
    infer=_weight_grad_infer,
    meaning=_weight_grad_meaning,
    reference=_weight_grad_reference,
    vjp=_weight_grad_vjp,
    takes=FLOATS,
    samples=_weight_grad_samples,
    tolerance=32,
    precision="low",
    onnx=forms.convolution_weight_grad,
)
def convolution_weight_grad(
    x: Tensor,
    g: Tensor,
    /,
    *,
    size: Ints,
    stride: Ints,
    padding: Pairs,
    dilation: Ints,
    groups: int,
) -> Tensor:
    """The cotangent of a convolution's weight of the given window; see `convolution`."""
    out: Tensor = record(
        op_of(convolution_weight_grad), x, g, size=size, stride=stride, padding=padding,
        dilation=dilation, groups=groups,
    )  # fmt: skip
    return out
