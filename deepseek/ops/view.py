"""Views: each result element is one input element (or a fill value), found by an index map.

`meaning(index, read, inputs, out, **attrs)` is that map. Nothing here moves memory by itself: maps
compose into the kernels that read them. Adjoints are views again, followed by a sum where elements
are shared.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

import numpy as np

from deepseek.errors import ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor, record
from deepseek.ir import scalar
from deepseek.ir.op import Kind, Sample
from deepseek.ir.scalar import ONE, ZERO, Expr, as_expr, call
from deepseek.ir.shape import (
    Shape,
    Size,
    TensorType,
    exprs,
    numel,
    same,
    same_shape,
    tensor_type,
)
from deepseek.ir.shape import broadcast as broadcast_shapes
from deepseek.ir.shape import shape_of as given_shape
from deepseek.ops import forms
from deepseek.ops.define import (
    ALL,
    as_tensor,
    axes_of,
    axis_of,
    broadcasted,
    describe,
    is_size,
    op_of,
    plus,
    primitive,
    promoted,
    quotient,
    several,
    shape_of,
)
from deepseek.ops.methods import attribute

__all__ = [
    "broadcast_arrays", "broadcast_to", "concat", "expand_dims", "flatten", "matrix_transpose",
    "moveaxis", "permute_dims", "reshape", "squeeze", "stack", "swapaxes",
]  # fmt: skip

Index = tuple[Expr, ...]
Types = tuple[TensorType, ...]


def linear_index(index: Sequence[Expr], shape: Sequence[Expr]) -> Expr:
    """The row-major position of an index."""
    at = ZERO
    for i, size in zip(index, shape, strict=True):
        at = scalar.add(scalar.mul(at, size), i)
    return at


def delinearized(at: Expr, shape: Sequence[Expr]) -> Index:
    """The index at a row-major position."""
    out: list[Expr] = []
    stride = ONE
    for axis in range(len(shape) - 1, -1, -1):
        if shape[axis] is ONE:
            out.append(ZERO)
            continue
        i = scalar.floordiv(at, stride)
        out.append(scalar.mod(i, shape[axis]) if axis else i)
        stride = scalar.mul(stride, shape[axis])
    return tuple(reversed(out))


def reshaped_index(index: Index, target: Index, source: Index) -> Index:
    """Where element `index` of shape `target` is in shape `source`.

    Axes that only merge or split among themselves are mapped apart from the others, so that the
    maps of common reshapes have no division left.
    """
    from_source = _prefix_products(source)
    from_target = _prefix_products(target)
    cuts = [(from_source[p], from_target[p]) for p in from_source if p in from_target]
    out: list[Expr] = []
    before = (0, 0)
    for cut in cuts:
        into, outof = builtins.slice(before[0], cut[0]), builtins.slice(before[1], cut[1])
        out.extend(delinearized(linear_index(index[outof], target[outof]), source[into]))
        before = cut
    return tuple(out)


def _prefix_products(sizes: Index) -> dict[Expr, int]:
    """After how many axes each product of leading sizes is last reached."""
    product = ONE
    reached = {ONE: 0}
    for i, size in enumerate(sizes):
        product = scalar.mul(product, size)
        reached[product] = i + 1
    return reached


def _reshape_meaning(
    index: Index, read: Any, inputs: Types, out: TensorType, *, shape: Shape
) -> Expr:
    source = exprs(inputs[0].shape)
    if ZERO in source:
        return read(0, (ZERO,) * len(source))  # type: ignore[no-any-return]
    target = exprs(out.shape)
    ends = scalar.product(source), scalar.product(target)
    if ends[0] is not ends[1]:  # equal by a guard only
        return read(0, delinearized(linear_index(index, target), source))  # type: ignore[no-any-return]
    return read(0, reshaped_index(index, target, source))  # type: ignore[no-any-return]


def _reshape_infer(x: TensorType, *, shape: Shape) -> Types:
    if not same(x.numel, numel(shape)):
        raise op_error(
            ShapeError, "reshape", f"{x} and shape {shape}", f"a shape of {x.numel} elements",
            user_line(),
        )  # fmt: skip
    return (tensor_type(x.dtype, shape),)


def _resolved(x: Tensor, shape: Shape) -> Shape:
    """A shape with its -1, if there is one, replaced by what is left."""
    unknown = [i for i, s in enumerate(shape) if is_size(s, -1)]
    if not unknown:
        return shape
    rest = numel(tuple(s for i, s in enumerate(shape) if i != unknown[0]))
    if len(unknown) > 1 or is_size(rest, 0):
        raise op_error(
            ShapeError, "reshape", f"{describe(x)} and shape {shape}",
            "at most one -1, and no size 0 beside it", user_line(),
        )  # fmt: skip
    filler = quotient(x._value.type.numel, rest)
    return (*shape[: unknown[0]], filler, *shape[unknown[0] + 1 :])


@primitive(
    Kind.VIEW,
    infer=_reshape_infer,
    meaning=_reshape_meaning,
    reference=lambda x, *, shape: np.reshape(x, shape),
    vjp=lambda g, y, x, *, shape: (g.reshape(shape_of(x)),),
    samples=lambda: [
        Sample(((4, 6),), {"shape": (3, 8)}),
        Sample(((2, 3, 5),), {"shape": (6, 5)}),
        Sample(((6, 5),), {"shape": (2, -1, 5, 1)}),
        Sample(((2, 3, 4, 5),), {"shape": (2, 12, 5)}),
        Sample(((2, 6, 5),), {"shape": (4, 3, 5)}),
        Sample(((3, 0),), {"shape": (0, 7)}),
        Sample(((1, 1),), {"shape": ()}),
        Sample(((),), {"shape": (1,)}),
    ],
    method=("reshape", "view"),
    onnx=forms.reshape,
)
def reshape(x: Tensor, /, shape: Any, *more: int, copy: bool | None = None) -> Tensor:
    """The same elements in another shape, row-major; one size may be -1.

    Raises ShapeError where the numbers of elements differ.

    >>> ds.reshape(ds.arange(6), (2, -1)).tolist()
    [[0, 1, 2], [3, 4, 5]]
    """
    x = as_tensor(x, "reshape")
    wanted = _resolved(x, given_shape(shape) + given_shape(more))
    if wanted == shape_of(x):
        return x
    out: Tensor = record(op_of(reshape), x, shape=wanted)
    return out


def flatten(x: Tensor, /, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """x with the axes from start_dim to end_dim merged into one; ShapeError for axes out of order.

    >>> ds.flatten(ds.zeros(2, 3, 4), 1).shape
    (2, 12)
    """
    source = shape_of(x)
    if not source:
        return x.reshape((1,))
    first, last = axis_of("flatten", x, start_dim), axis_of("flatten", x, end_dim)
    if first > last:
        got = f"{describe(x)} and the axes {start_dim} to {end_dim}"
        raise op_error(ShapeError, "flatten", got, "a first axis before the last", user_line())
    return x.reshape((*source[:first], numel(source[first : last + 1]), *source[last + 1 :]))


def expand_dims(x: Tensor, /, axis: int | Sequence[int] = 0) -> Tensor:
    """x with new axes of size 1 at the given places of the result; ShapeError for places beyond it.

    >>> ds.expand_dims(ds.zeros(2, 3), (0, -1)).shape
    (1, 2, 3, 1)
    """
    given = (axis,) if isinstance(axis, int) else tuple(axis)
    rank = x.ndim + len(given)
    axes = sorted(axis_of("expand_dims", x, a, rank) for a in given)
    shape = list(shape_of(x))
    for a in axes:
        shape.insert(a, 1)
    return x.reshape(tuple(shape))


def squeeze(x: Tensor, /, axis: int | Sequence[int] | None = None) -> Tensor:
    """x without the given axes, of size 1 (else ShapeError); without all such axes by default.

    >>> ds.squeeze(ds.zeros(1, 3, 1)).shape, ds.squeeze(ds.zeros(1, 3, 1), axis=0).shape
    ((3,), (3, 1))
    """
    source = shape_of(x)
    if axis is None:
        axes: tuple[int, ...] = tuple(i for i, s in enumerate(source) if is_size(s, 1))
    else:
        axes = axes_of("squeeze", x, axis)
    for a in axes:
        if not is_size(source[a], 1):
            raise op_error(
                ShapeError,
                "squeeze",
                f"{describe(x)} and axis {a}",
                "an axis of size 1",
                user_line(),
            )
    return x.reshape(tuple(s for i, s in enumerate(source) if i not in axes))


# ------------------------------------------------------------------------------------ permutation


def _permute_meaning(
    index: Index, read: Any, inputs: Types, out: TensorType, *, axes: tuple[int, ...]
) -> Expr:
    return read(0, tuple(index[axes.index(a)] for a in range(len(axes))))  # type: ignore[no-any-return]


@primitive(
    Kind.VIEW,
    infer=lambda x, *, axes: (tensor_type(x.dtype, tuple(x.shape[a] for a in axes)),),
    meaning=_permute_meaning,
    reference=lambda x, *, axes: np.transpose(x, axes),
    vjp=lambda g, y, x, *, axes: (g.permute_dims(tuple(axes.index(a) for a in range(len(axes)))),),
    samples=lambda: [
        Sample(((3, 37),), {"axes": (1, 0)}),
        Sample(((2, 3, 5),), {"axes": (2, 0, 1)}),
        Sample(((2, 3, 4, 5),), {"axes": (0, 2, 1, -1)}),
        Sample(((0, 3),), {"axes": (1, 0)}),
    ],
    method=("permute_dims",),
    onnx=forms.renamed("Transpose", perm="axes"),
)
def permute_dims(x: Tensor, /, axes: Sequence[int]) -> Tensor:
    """x with its axes in another order. Raises ShapeError unless each axis is named once.

    >>> ds.permute_dims(ds.zeros(2, 3, 4), (2, 0, 1)).shape
    (4, 2, 3)
    """
    x = as_tensor(x, "permute_dims")
    order = tuple(axis_of("permute_dims", x, a) for a in axes)
    if sorted(order) != list(range(x.ndim)):
        raise op_error(
            ShapeError, "permute_dims", f"{describe(x)} and axes {tuple(axes)}",
            "each of its axes once", user_line(),
        )  # fmt: skip
    if order == tuple(range(x.ndim)):
        return x
    out: Tensor = record(op_of(permute_dims), x, axes=order)
    return out


def swapaxes(x: Tensor, /, axis1: int, axis2: int) -> Tensor:
    """x with two axes exchanged.

    >>> ds.swapaxes(ds.zeros(2, 3, 4), 0, 2).shape
    (4, 3, 2)
    """
    order = list(range(x.ndim))
    a, b = axis_of("swapaxes", x, axis1), axis_of("swapaxes", x, axis2)
    order[a], order[b] = b, a
    return permute_dims(x, order)


def moveaxis(x: Tensor, /, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """x with some axes moved to other places, the rest in order; ShapeError for axes given twice.

    >>> ds.moveaxis(ds.zeros(2, 3, 4), 0, -1).shape
    (3, 4, 2)
    """
    moved = [axis_of("moveaxis", x, a) for a in ((source,) if isinstance(source, int) else source)]
    places = [
        axis_of("moveaxis", x, a)
        for a in ((destination,) if isinstance(destination, int) else destination)
    ]
    if len(moved) != len(places) or len({*moved}) < len(moved) or len({*places}) < len(places):
        raise op_error(
            ShapeError, "moveaxis", f"{describe(x)} and axes from {source} to {destination}",
            "as many places as axes, and each of them once", user_line(),
        )  # fmt: skip
    order = [a for a in range(x.ndim) if a not in moved]
    for place, a in sorted(zip(places, moved, strict=True)):
        order.insert(place, a)
    return permute_dims(x, order)


def matrix_transpose(x: Tensor, /) -> Tensor:
    """x with its last two axes exchanged, also `x.mT`. Raises ShapeError for fewer axes.

    >>> ds.matrix_transpose(ds.zeros(5, 2, 3)).shape
    (5, 3, 2)
    """
    if x.ndim < 2:
        raise op_error(
            ShapeError, "matrix_transpose", describe(x), "at least two axes", user_line()
        )
    return swapaxes(x, -1, -2)


def _t(x: Tensor) -> Tensor:
    """The transpose of a matrix."""
    if x.ndim != 2:
        raise op_error(
            ShapeError, "T", describe(x), "a tensor of two axes", user_line(),
            "write x.mT for the last two axes, or x.permute_dims(axes)",
        )  # fmt: skip
    return swapaxes(x, 0, 1)


# ------------------------------------------------------------------------------------- broadcasting


def _broadcast_infer(x: TensorType, *, shape: Shape) -> Types:
    try:
        fits = same_shape(broadcast_shapes([x.shape, shape]), shape)
    except ShapeError:
        fits = False
    if not fits:
        raise op_error(
            ShapeError, "broadcast_to", f"{x} and shape {shape}",
            "a shape whose last sizes equal the tensor's, or are 1 there", user_line(),
        )  # fmt: skip
    return (tensor_type(x.dtype, shape),)


def _broadcast_meaning(
    index: Index, read: Any, inputs: Types, out: TensorType, *, shape: Shape
) -> Expr:
    source = inputs[0].shape
    lead = len(shape) - len(source)
    return read(0, tuple(ZERO if s == 1 else index[lead + i] for i, s in enumerate(source)))  # type: ignore[no-any-return]


def _broadcast_vjp(g: Tensor, y: Tensor, x: Tensor, *, shape: Shape) -> tuple[Tensor]:
    source = shape_of(x)
    lead = len(shape) - len(source)
    shared = [
        lead + i for i, s in enumerate(source) if s == 1 and shape[lead + i] != 1
    ]
    axes = (*range(lead), *shared)
    return (g.sum(axis=axes).reshape(source) if axes else g,)


@primitive(
    Kind.VIEW,
    infer=_broadcast_infer,
    meaning=_broadcast_meaning,
    reference=lambda x, *, shape: np.broadcast_to(x, shape),
    vjp=_broadcast_vjp,
    samples=lambda: [
        Sample(((3, 1),), {"shape": (3, 37)}),
        Sample(((5,),), {"shape": (2, 3, 5)}),
        Sample(((),), {"shape": (2, 2)}),
        Sample(((1, 3, 1),), {"shape": (2, 3, 4)}),
        Sample(((1,),), {"shape": (0,)}),
    ],
    method=("broadcast_to",),
    onnx=forms.broadcast,
)
def broadcast_to(x: Tensor, /, shape: Any, *more: int) -> Tensor:
    """x repeated along new leading axes and axes of size 1. Raises ShapeError for other growth.

    >>> ds.broadcast_to(ds.asarray([[1], [2]]), (2, 2)).tolist()
    [[1, 1], [2, 2]]
    """
    x = as_tensor(x, "broadcast_to")
    wanted = given_shape(shape) + given_shape(more)
    if wanted == shape_of(x):
        return x
    out: Tensor = record(op_of(broadcast_to), x, shape=wanted)
    return out


def broadcast_arrays(*arrays: Tensor) -> list[Tensor]:
    """The tensors broadcast against each other. Raises ShapeError where sizes do not go together.

    >>> [x.shape for x in ds.broadcast_arrays(ds.zeros(3, 1), ds.zeros(4))]
    [(3, 4), (3, 4)]
    """
    return broadcasted("broadcast_arrays", arrays) if arrays else []


# --------------------------------------------------------------------------------- joining


def _concat_infer(*inputs: TensorType, axis: int) -> Types:
    first = inputs[0]
    total: Size = 0
    for x in inputs:
        others = [
            (a, b) for i, (a, b) in enumerate(zip(first.shape, x.shape, strict=False)) if i != axis
        ]
        if x.rank != first.rank or not builtins.all(same(a, b) for a, b in others):
            raise op_error(
                ShapeError, "concat", inputs, f"shapes that differ at axis {axis} only", user_line()
            )
        total = plus(total, x.shape[axis])
    return (tensor_type(first.dtype, (*first.shape[:axis], total, *first.shape[axis + 1 :])),)


def _concat_meaning(index: Index, read: Any, inputs: Types, out: TensorType, *, axis: int) -> Expr:
    ends: list[Size] = []
    for x in inputs:
        ends.append(plus(ends[-1] if ends else 0, x.shape[axis]))
    value: Expr | None = None
    for k in range(len(inputs) - 1, -1, -1):
        start = as_expr(ends[k - 1] if k else 0)
        place = scalar.sub(index[axis], start)
        before_end = call("lt", index[axis], as_expr(ends[k]))
        guard = scalar.and_(call("le", start, index[axis]), before_end)
        part = read(k, (*index[:axis], place, *index[axis + 1 :]), guard)
        value = part if value is None else call("where", before_end, part, value)
    assert value is not None
    return value


def _concat_vjp(g: Tensor, y: Tensor, *xs: Tensor, axis: int) -> tuple[Tensor, ...]:
    out = []
    start: Size = 0
    for x in xs:
        size = shape_of(x)[axis]
        out.append(g.narrow(axis, start, size))
        start = plus(start, size)
    return tuple(out)


@primitive(
    Kind.VIEW,
    infer=_concat_infer,
    meaning=_concat_meaning,
    reference=lambda *xs, axis: np.concatenate(xs, axis=axis),
    vjp=_concat_vjp,
    samples=lambda: [
        Sample(([(3, 5), (3, 2)],), {"axis": 1}),
        Sample(([(2, 3), (1, 3), (4, 3)],), {"axis": 0}),
        Sample(([(2, 0, 2), (2, 3, 2)],), {"axis": -2}),
        Sample(([(5,)],)),
    ],
    onnx=forms.renamed("Concat", axis="axis"),
)
def concat(arrays: Sequence[Tensor], /, axis: int | None = 0) -> Tensor:
    """The tensors joined along an axis; flattened first for None. dtypes promote.

    Raises ShapeError where sizes differ elsewhere, or for no tensors.

    >>> ds.concat([ds.asarray([[1, 2]]), ds.asarray([[3, 4]])], axis=1)
    tensor([[1, 2, 3, 4]])
    """
    tensors = promoted("concat", several("concat", arrays), ALL)
    if axis is None:
        tensors, axis = [t.reshape((-1,)) for t in tensors], 0
    axis = axis_of("concat", tensors[0], axis)
    out: Tensor = record(op_of(concat), *tensors, axis=axis)
    return out


def stack(arrays: Sequence[Tensor], /, axis: int = 0) -> Tensor:
    """The tensors joined along a new axis. Raises ShapeError for unequal shapes or no tensors.

    >>> ds.stack([ds.asarray([1, 2]), ds.asarray([3, 4])], axis=1).tolist()
    [[1, 3], [2, 4]]
    """
    parts = [as_tensor(a, "stack") for a in several("stack", arrays)]
    if not all(same_shape(shape_of(p), shape_of(parts[0])) for p in parts):
        raise op_error(ShapeError, "stack", [*map(describe, parts)], "one shape", user_line())
    return concat([expand_dims(p, axis) for p in parts], axis=axis)


for _name, _method in {
    "flatten": flatten, "expand_dims": expand_dims, "squeeze": squeeze,
    "swapaxes": swapaxes, "T": property(_t), "mT": property(matrix_transpose),
}.items():  # fmt: skip
    attribute(_name, _method, __name__)
