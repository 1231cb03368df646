"""Views that leave out, replace or fill in elements: slice, slice_update, pad, and what follows
from them.

A slice has a start, a step (never 0) and a result size for each axis. Its adjoint is a pad with
room between the elements, and the other way round.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from types import NoneType
from typing import Any

import numpy as np

from deepseek.errors import ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor, record
from deepseek.ir import scalar
from deepseek.ir.op import Kind, Sample
from deepseek.ir.scalar import TRUE, ZERO, Expr, as_expr, call, const
from deepseek.ir.shape import Shape, Size, TensorType, is_true, size_of, tensor_type
from deepseek.ops import forms
from deepseek.ops.define import (
    as_tensor,
    axes_of,
    axis_of,
    converted,
    describe,
    filled,
    is_size,
    minus,
    op_of,
    plus,
    primitive,
    shape_of,
    times,
)
from deepseek.ops.methods import method
from deepseek.ops.view import concat

__all__ = ["flip", "fliplr", "flipud", "narrow", "roll", "rot90", "slice_update"]

Index = tuple[Expr, ...]
Types = tuple[TensorType, ...]
Ints = tuple[int, ...]


def is_less(a: Size, b: Size) -> bool:
    """Whether a < b; asks the active trace where symbols leave it open."""
    if isinstance(a, int) and isinstance(b, int):
        return a < b
    return is_true(call("lt", as_expr(a), as_expr(b)))


def affine(i: Expr, step: int, start: Size) -> Expr:
    """i * step + start."""
    return scalar.add(scalar.mul(i, const(step)), as_expr(start))


def divided(at: Expr, step: int, count: Size) -> tuple[Expr, Expr]:
    """(i, guard): the i with i * step == at, and whether there is one in 0 <= i < count."""
    guard = call("le", ZERO, at)
    if step != 1:
        guard = scalar.and_(guard, call("eq", scalar.mod(at, const(step)), ZERO))
    i = scalar.floordiv(at, const(step))
    return i, scalar.and_(guard, call("lt", i, as_expr(count)))


# ------------------------------------------------------------------------------------------ slice


def _slice_meaning(
    index: Index,
    read: Any,
    inputs: Types,
    out: TensorType,
    *,
    start: Shape,
    step: Ints,
    shape: Shape,
) -> Expr:
    at = tuple(affine(i, k, s) for i, k, s in zip(index, step, start, strict=True))
    return read(0, at)  # type: ignore[no-any-return]


def _slices(start: Sequence[int], step: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    """Python slices of the same elements."""
    out = []
    for s, k, n in zip(start, step, shape, strict=True):
        end = s + k * n
        out.append(slice(s, end if end >= 0 else None, k) if n else slice(0, 0))
    return tuple(out)


def _slice_vjp(
    g: Tensor, y: Tensor, x: Tensor, *, start: Shape, step: Ints, shape: Shape
) -> tuple[Tensor]:
    low: list[Size] = []
    high: list[Size] = []
    for s, k, n, size in zip(start, step, shape, shape_of(x), strict=True):
        last = plus(s, times(k, minus(n, 1)))
        first = s if k > 0 else last
        if is_size(n, 0):
            low.append(0)
            high.append(size)
        else:
            low.append(first)
            high.append(minus(minus(size, 1), last if k > 0 else s))
    backwards = tuple(i for i, k in enumerate(step) if k < 0)
    if backwards:
        g = flip(g, backwards)
    return (padded(g, tuple(low), tuple(high), tuple(builtins.abs(k) - 1 for k in step)),)


def _slice_samples() -> list[Sample]:
    return [
        Sample(((5, 7),), {"start": (1, 2), "step": (1, 1), "shape": (3, 5)}),
        Sample(((37,),), {"start": (36,), "step": (-1,), "shape": (37,)}),
        Sample(((9, 4),), {"start": (7, 0), "step": (-3, 2), "shape": (3, 2)}),
        Sample(((10,),), {"start": (1,), "step": (3,), "shape": (3,)}),
        Sample(((4, 3),), {"start": (2, 1), "step": (1, 1), "shape": (0, 2)}),
        Sample(((),), {"start": (), "step": (), "shape": ()}),
    ]


@primitive(
    Kind.VIEW,
    infer=lambda x, *, start, step, shape: (tensor_type(x.dtype, shape),),
    meaning=_slice_meaning,
    reference=lambda x, *, start, step, shape: x[_slices(start, step, shape)],
    vjp=_slice_vjp,
    samples=_slice_samples,
    onnx=forms.sliced,
)
def slice_(x: Tensor, /, *, start: Shape, shape: Shape, step: Ints | None = None) -> Tensor:
    """The elements at start + i * step for 0 <= i < shape, on each axis."""
    step = (1,) * len(start) if step is None else step
    out: Tensor = record(op_of(slice_), x, start=tuple(start), step=tuple(step), shape=tuple(shape))
    return out


def _update_infer(x: TensorType, v: TensorType, *, start: Shape, step: Ints) -> Types:
    ranks = {x.rank, v.rank, len(start), len(step)}
    if len(ranks) > 1 or not all(map(_has_room, x.shape, v.shape, start, step)):
        raise op_error(
            ShapeError, "slice_update", f"{x}, {v}, start={start} and step={step}",
            "places that the first tensor has, for every element of the second", user_line(),
        )  # fmt: skip
    return (x,)


def _has_room(size: Size, count: Size, start: Size, step: int) -> bool:
    """Whether an axis has the places start + i * step, as far as numbers say."""
    if not isinstance(size, int) or not isinstance(count, int) or not isinstance(start, int):
        return True
    return not count or 0 <= start < size and 0 <= start + (count - 1) * step < size


def _update_meaning(
    index: Index, read: Any, inputs: Types, out: TensorType, *, start: Shape, step: Ints
) -> Expr:
    at, inside = [], TRUE
    for i, s, k, n in zip(index, start, step, inputs[1].shape, strict=True):
        ahead = scalar.sub(i, as_expr(s)) if k > 0 else scalar.sub(as_expr(s), i)
        place, guard = divided(ahead, builtins.abs(k), n)
        at.append(place)
        inside = scalar.and_(inside, guard)
    return scalar.where(inside, read(1, tuple(at), inside), read(0, index))


def _update_reference(x: Any, v: Any, *, start: Ints, step: Ints) -> Any:
    out = x.copy()
    out[_slices(start, step, v.shape)] = v
    return out


def _update_vjp(
    g: Tensor, y: Tensor, x: Tensor, v: Tensor, *, start: Shape, step: Ints
) -> tuple[Tensor, Tensor]:
    hole = filled((), 0, g.dtype).broadcast_to(shape_of(v))
    return (
        slice_update(g, hole, start=start, step=step),
        slice_(g, start=start, step=step, shape=shape_of(v)),
    )


@primitive(
    Kind.VIEW,
    infer=_update_infer,
    meaning=_update_meaning,
    reference=_update_reference,
    vjp=_update_vjp,
    samples=lambda: [
        Sample(((5, 7), (3, 5)), {"start": (1, 2)}),
        Sample(((9, 4), (3, 2)), {"start": (7, 0), "step": (-3, 2)}),
        Sample(((6,), (0,)), {"start": (2,)}),
        Sample(((), ()), {"start": ()}),
    ],
)
def slice_update(x: Tensor, v: Tensor, /, *, start: Shape, step: Ints | None = None) -> Tensor:
    """x with the elements at start + i * step replaced by those of v, of x's dtype.

    Raises ShapeError where v goes beyond x.

    >>> ds.slice_update(ds.zeros(5), ds.ones(2), start=(1,), step=(2,))
    tensor([0., 1., 0., 1., 0.])
    """
    step = (1,) * len(start) if step is None else step
    v = converted(as_tensor(v, "slice_update"), x.dtype)
    out: Tensor = record(op_of(slice_update), x, v, start=tuple(start), step=tuple(step))
    return out


# ------------------------------------------------------------------------------------------ pad


def _padded_size(size: Size, low: Size, high: Size, interior: int) -> Size:
    inner = size
    if interior:
        grown = plus(times(minus(size, 1), interior + 1), 1)
        inner = 0 if is_size(size, 0) else grown
    return plus(plus(inner, low), high)


def _pad_infer(x: TensorType, *, low: Shape, high: Shape, interior: Ints, value: float) -> Types:
    shape = tuple(map(_padded_size, x.shape, low, high, interior))
    if any(isinstance(s, int) and s < 0 for s in shape):
        raise op_error(
            ShapeError, "pad", f"{x}, {low} before and {high} after", "sizes that are not negative",
            user_line(),
        )  # fmt: skip
    return (tensor_type(x.dtype, shape),)


def _pad_meaning(
    index: Index, read: Any, inputs: Types, out: TensorType,
    *, low: Shape, high: Shape, interior: Ints, value: float,
) -> Expr:  # fmt: skip
    at, inside = [], TRUE
    for i, before, between, n in zip(index, low, interior, inputs[0].shape, strict=True):
        place, guard = divided(scalar.sub(i, as_expr(before)), between + 1, n)
        at.append(place)
        inside = scalar.and_(inside, guard)
    element = read(0, tuple(at), inside)
    filling = const(value, element.dtype)
    if inside is TRUE or filling is const(0, element.dtype):  # which -0.0 is not
        return element  # type: ignore[no-any-return]
    return scalar.where(inside, element, filling)


def _pad_reference(x: Any, *, low: Ints, high: Ints, interior: Ints, value: float) -> Any:
    sizes: list[Any] = [
        _padded_size(*args) for args in zip(x.shape, low, high, interior, strict=True)
    ]
    spaced = [(n - 1) * (k + 1) + 1 if n else 0 for n, k in zip(x.shape, interior, strict=True)]
    inner = np.full(spaced, value).astype(x.dtype)
    inner[tuple(slice(None, None, k + 1) for k in interior)] = x
    out = np.full(sizes, value).astype(x.dtype)
    into = tuple(slice(max(b, 0), max(b, 0) + max(min(n, s - b) - max(-b, 0), 0))
                 for b, n, s in zip(low, spaced, sizes, strict=True))  # fmt: skip
    outof = tuple(slice(max(-b, 0), max(min(n, s - b), max(-b, 0)))
                  for b, n, s in zip(low, spaced, sizes, strict=True))  # fmt: skip
    out[into] = inner[outof]
    return out


def _pad_vjp(
    g: Tensor, y: Tensor, x: Tensor, *, low: Shape, high: Shape, interior: Ints, value: float
) -> tuple[Tensor]:
    cropped = padded(g, tuple(minus(0, b) for b in low), tuple(minus(0, a) for a in high))
    if not any(interior):
        return (cropped,)
    steps = tuple(k + 1 for k in interior)
    return (slice_(cropped, start=(0,) * x.ndim, step=steps, shape=shape_of(x)),)


@primitive(
    Kind.VIEW,
    infer=_pad_infer,
    meaning=_pad_meaning,
    reference=_pad_reference,
    vjp=_pad_vjp,
    samples=lambda: [
        Sample(((3, 5),), {"padding": ((1, 2), (0, 3))}),
        Sample(((3, 5),), {"padding": (2, 1), "value": 7}),
        Sample(((6, 5),), {"padding": ((-1, 2), (2, -3))}),
        Sample(((4,),), {"padding": ((2, -1),), "interior": (2,), "value": 1}),
        Sample(((0, 3),), {"padding": ((2, 1), (0, 0))}),
        Sample(((),), {"padding": ()}),
    ],
    onnx=forms.padded,
)
def pad_(
    x: Tensor, /, padding: Sequence[Any], value: float = 0, interior: Sequence[int] | None = None
) -> Tensor:
    """x with `value` around it, and between neighbours; negative amounts crop."""
    x = as_tensor(x, "pad")
    pairs = padding_pairs(x, padding)
    low, high = (tuple(size_of(p[side]) for p in pairs) for side in (0, 1))
    return padded(x, low, high, tuple(interior or (0,) * x.ndim), value)


def padding_pairs(x: Tensor, padding: Sequence[Any]) -> list[Any]:
    """A pair (before, after) for each axis, from such pairs or a flat list from the last axis."""
    given = list(padding)
    if given and not isinstance(given[0], (tuple, list)):
        pairs = [(given[i], given[i + 1]) for i in range(0, len(given) - 1, 2)]
        pairs = [(0, 0)] * (x.ndim - len(pairs)) + pairs[::-1]
        fits = len(given) % 2 == 0 and len(pairs) == x.ndim
    else:
        pairs = [tuple(p) for p in given]
        fits = len(pairs) == x.ndim and all(len(p) == 2 for p in pairs)
    if not fits:
        raise op_error(
            ShapeError, "pad", f"{describe(x)} and padding {given}",
            "a pair for each axis, or a flat list of pairs from the last axis on", user_line(),
        )  # fmt: skip
    return pairs


def padded(
    x: Tensor, low: Shape, high: Shape, interior: Ints | None = None, value: float = 0
) -> Tensor:
    """x padded by so much before and after on each axis, and between neighbours."""
    interior = interior or (0,) * len(low)
    if all(is_size(s, 0) for s in (*low, *high, *interior)):
        return x
    out: Tensor = record(op_of(pad_), x, low=low, high=high, interior=interior, value=value)
    return out


# ------------------------------------------------------------------------------ plain functions


def flip(x: Tensor, /, axis: int | Sequence[int] | None = None) -> Tensor:
    """x with its elements in reverse order along some axes (all by default).

    >>> ds.flip(ds.asarray([[1, 2], [3, 4]]), axis=1)
    tensor([[2, 1],
            [4, 3]])
    """
    x = as_tensor(x, "flip")
    axes = axes_of("flip", x, axis)
    source = shape_of(x)
    start = tuple(minus(s, 1) if i in axes else 0 for i, s in enumerate(source))
    return slice_(
        x, start=start, shape=source, step=tuple(-1 if i in axes else 1 for i in range(x.ndim))
    )


def _flipped(x: Tensor, /, *axes: Any, axis: int | Sequence[int] | None = None) -> Tensor:
    """`flip`, the axes given as one argument or as several."""
    given = axes[0] if len(axes) == 1 else axes or axis
    return flip(x, given)


def fliplr(x: Tensor, /) -> Tensor:
    """x with its second axis reversed.

    >>> ds.fliplr(ds.asarray([[1, 2], [3, 4]])).tolist()
    [[2, 1], [4, 3]]
    """
    return flip(x, axis_of("fliplr", as_tensor(x, "fliplr"), 1))


def flipud(x: Tensor, /) -> Tensor:
    """x with its first axis reversed.

    >>> ds.flipud(ds.asarray([[1, 2], [3, 4]])).tolist()
    [[3, 4], [1, 2]]
    """
    return flip(x, axis_of("flipud", as_tensor(x, "flipud"), 0))


def rot90(x: Tensor, /, k: int = 1, axes: Sequence[int] = (0, 1)) -> Tensor:
    """x turned by k right angles, from the first of two axes towards the second.

    Raises ShapeError unless these are two of its axes.

    >>> ds.rot90(ds.asarray([[1, 2], [3, 4]])).tolist()
    [[2, 4], [1, 3]]
    """
    x = as_tensor(x, "rot90")
    found = [axis_of("rot90", x, a) for a in axes]
    if len(found) != 2 or found[0] == found[1]:
        raise op_error(
            ShapeError, "rot90", f"{describe(x)} and axes {tuple(axes)}", "two of its axes",
            user_line(),
        )  # fmt: skip
    first, second = found
    order = list(range(x.ndim))
    order[first], order[second] = second, first
    if k % 4 == 2:
        return flip(x, found)
    if k % 4 == 1:
        return flip(x, second).permute_dims(order)
    return flip(x.permute_dims(order), second) if k % 4 == 3 else x


def narrow(x: Tensor, /, dim: int, start: Size, length: Size) -> Tensor:
    """The elements from start to start + length along one axis; below 0 from the end.

    Raises ShapeError where they are not all there.

    >>> ds.narrow(ds.asarray([1, 2, 3, 4]), 0, 1, 2)
    tensor([2, 3])
    """
    source = shape_of(x)
    axis = axis_of("narrow", x, dim)
    start, length, total = size_of(start), size_of(length), source[axis]
    if isinstance(start, int) and isinstance(length, int) and isinstance(total, int):
        begin = start + total if start < 0 else start
        if begin < 0 or length < 0 or begin + length > total:
            raise op_error(
                ShapeError, "narrow", f"{describe(x)} and {length} elements from {start} on",
                f"elements within the {total} of axis {axis}", user_line(),
            )  # fmt: skip
        start = begin
    if is_size(start, 0) and length == source[axis]:
        return x
    starts = tuple(start if i == axis else 0 for i in range(x.ndim))
    return slice_(x, start=starts, shape=(*source[:axis], length, *source[axis + 1 :]))


def roll(
    x: Tensor, /, shift: int | Sequence[int], axis: int | Sequence[int] | None = None
) -> Tensor:
    """x with its elements moved on by `shift` along an axis, those at the end to the front.

    Several shifts go with as many axes; without an axis, x is rolled as if it were flat. Raises
    ShapeError for unequal numbers of them.

    >>> ds.roll(ds.asarray([1, 2, 3, 4]), 1)
    tensor([4, 1, 2, 3])
    """
    if not isinstance(shift, int) or not isinstance(axis, (int, NoneType)):
        shifts = (shift,) if isinstance(shift, int) else tuple(shift)
        axes = (axis,) if isinstance(axis, (int, NoneType)) else tuple(axis)
        if len(shifts) != len(axes):
            raise op_error(
                ShapeError, "roll", f"{describe(x)} with shift {shift} and axis {axis}",
                "as many shifts as axes", user_line(),
            )  # fmt: skip
        for each, along in zip(shifts, axes, strict=True):
            x = roll(x, each, along)
        return x
    if axis is None:
        return roll(x.reshape(-1), shift, 0).reshape(shape_of(x))
    axis = axis_of("roll", x, axis)
    total = x.shape[axis]
    if total == 0:
        return x
    back = shift % total
    parts = [narrow(x, axis, total - back, back), narrow(x, axis, 0, total - back)]
    return concat(parts, axis=axis)


method("flip")(_flipped)
for _function in (fliplr, flipud, narrow, roll, rot90):
    method(_function.__name__)(_function)
