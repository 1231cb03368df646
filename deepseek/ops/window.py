"""Sliding windows, for pooling: two views that are each other's adjoint.

A window has a size, a stride and a dilation on each of the last axes. Elements that several windows
share are copied apart here, and added up by a reduction where a gradient comes back.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deepseek.errors import ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor, record
from deepseek.ir import scalar
from deepseek.ir.op import Kind, Sample
from deepseek.ir.scalar import TRUE, Expr, call, const
from deepseek.ir.shape import Shape, Size, TensorType, exprs, is_positive, tensor_type
from deepseek.ops.define import (
    as_tensor,
    minus,
    op_of,
    plus,
    primitive,
    quotient,
    shape_of,
)
from deepseek.ops.slicing import affine, divided, slice_

__all__ = ["spread_windows", "windows"]

Index = tuple[Expr, ...]
Types = tuple[TensorType, ...]
Ints = tuple[int, ...]


def window_count(size: Size, window: int, stride: int, dilation: int) -> Size:
    """How many windows fit on an axis."""
    room = minus(size, dilation * (window - 1) + 1)
    if isinstance(room, int) and room < 0:
        return 0
    return plus(quotient(room, stride), 1)


def _windows_infer(
    x: TensorType, *, window: Ints, stride: Ints, dilation: Ints, apart: bool
) -> Types:
    spatial = len(window)
    end = x.rank - spatial if apart else x.rank
    sizes = x.shape[end - spatial : end]
    counts = tuple(map(window_count, sizes, window, stride, dilation))
    if not all(map(is_positive, counts)):
        raise op_error(
            ShapeError, "windows", f"{x}, windows {window}, dilation {dilation}",
            "windows that fit into the last axes", user_line(),
        )  # fmt: skip
    return (tensor_type(x.dtype, (*x.shape[: end - spatial], *counts, *window)),)


def _windows_meaning(
    index: Index, read: Any, inputs: Types, out: TensorType,
    *, window: Ints, stride: Ints, dilation: Ints, apart: bool,
) -> Expr:  # fmt: skip
    n = len(window)
    lead, places, within = index[: -2 * n], index[-2 * n : -n], index[-n:]
    at = [
        scalar.add(affine(y, s, 0), affine(k, d, 0))
        for y, s, k, d in zip(places, stride, within, dilation, strict=True)
    ]
    return read(0, (*lead, *at, *within) if apart else (*lead, *at))  # type: ignore[no-any-return]


def _windows_reference(x: Any, *, window: Ints, stride: Ints, dilation: Ints, apart: bool) -> Any:
    n = len(window)
    end = x.ndim - n if apart else x.ndim
    shape = x.shape[end - n : end]
    counts: list[Any] = [
        window_count(*args) for args in zip(shape, window, stride, dilation, strict=True)
    ]
    at = []
    for axis in range(n):
        grid = (
            np.arange(counts[axis])[:, None] * stride[axis]
            + np.arange(window[axis]) * dilation[axis]
        )
        place: list[Any] = [None] * (2 * n)
        place[axis] = place[n + axis] = slice(None)
        at.append(grid[tuple(place)])
    within = np.ix_(*[np.arange(k) for k in window]) if apart else ()
    return x[(..., *at, *within)]


def _windows_vjp(
    g: Tensor, y: Tensor, x: Tensor, *, window: Ints, stride: Ints, dilation: Ints, apart: bool
) -> tuple[Tensor]:
    n = len(window)
    end = x.ndim - n if apart else x.ndim
    sizes = shape_of(x)[end - n : end]
    if (
        not apart
        and dilation == (1,) * n
        and all(k <= s for k, s in zip(window, stride, strict=True))
    ):
        return (record(op_of(join_windows), g, size=sizes, stride=stride),)
    back: Tensor = record(op_of(spread_windows), g, size=sizes, stride=stride, dilation=dilation)
    return (back if apart else back.sum(axis=tuple(range(-n, 0))),)


def _window_samples() -> list[Sample]:
    return [
        Sample(((2, 3, 11),), {"window": (3,), "stride": (2,)}),
        Sample(((2, 9, 8),), {"window": (3, 2), "stride": (2, 3), "dilation": (2, 1)}),
        Sample(((1, 5, 4, 6),), {"window": (2, 2, 3)}),
        Sample(((0, 5),), {"window": (2,)}),
        Sample(((2, 9, 3),), {"window": (3,), "stride": (2,), "apart": True}),
    ]


@primitive(
    Kind.VIEW,
    infer=_windows_infer,
    meaning=_windows_meaning,
    reference=_windows_reference,
    vjp=_windows_vjp,
    samples=_window_samples,
)
def windows(
    x: Tensor, /, window: Ints, stride: Ints | None = None, dilation: Ints | None = None,
    apart: bool = False,
) -> Tensor:  # fmt: skip
    """Sliding windows over the last axes: out[..., y, k] = x[..., y * stride + k * dilation].

    With `apart`, x has the window axes itself: out[..., y, k] = x[..., y * stride + k * dilation,
    k]. Raises ShapeError where no window fits.

    >>> ds.windows(ds.arange(4), (2,))
    tensor([[0, 1],
            [1, 2],
            [2, 3]])
    """
    ones = (1,) * len(window)
    out: Tensor = record(
        op_of(windows), as_tensor(x, "windows"), window=tuple(window), stride=tuple(stride or ones),
        dilation=tuple(dilation or ones), apart=apart,
    )  # fmt: skip
    return out


def _spread_infer(g: TensorType, *, size: Shape, stride: Ints, dilation: Ints) -> Types:
    n = len(size)
    return (tensor_type(g.dtype, (*g.shape[: -2 * n], *size, *g.shape[-n:])),)


def _spread_meaning(
    index: Index,
    read: Any,
    inputs: Types,
    out: TensorType,
    *,
    size: Shape,
    stride: Ints,
    dilation: Ints,
) -> Expr:
    n = len(size)
    lead, places, within = index[: -2 * n], index[-2 * n : -n], index[-n:]
    at, inside = [], TRUE
    for p, s, k, d, count in zip(
        places, stride, within, dilation, inputs[0].shape[-2 * n : -n], strict=True
    ):
        y, guard = divided(scalar.sub(p, affine(k, d, 0)), s, count)
        at.append(y)
        inside = scalar.and_(inside, guard)
    return read(0, (*lead, *at, *within), inside)  # type: ignore[no-any-return]


def _spread_reference(g: Any, *, size: Ints, stride: Ints, dilation: Ints) -> Any:
    n = len(size)
    window, counts = g.shape[-n:], g.shape[-2 * n : -n]
    out = np.zeros((*g.shape[: -2 * n], *size, *window), g.dtype)
    for k in np.ndindex(*window):
        at = tuple(
            slice(i * d, i * d + (c - 1) * s + 1, s)
            for i, d, c, s in zip(k, dilation, counts, stride, strict=True)
        )
        out[(..., *at, *k)] = g[(..., *k)]
    return out


def _spread_vjp(
    u: Tensor, y: Tensor, g: Tensor, *, size: Shape, stride: Ints, dilation: Ints
) -> tuple[Tensor]:
    shape = shape_of(g)
    window = tuple(s for s in shape[-len(size) :] if isinstance(s, int))
    found = windows(u, window, stride, dilation, apart=True)
    # More windows may fit than there were.
    return (slice_(found, start=(0,) * g.ndim, shape=shape) if shape_of(found) != shape else found,)


@primitive(
    Kind.VIEW,
    infer=_spread_infer,
    meaning=_spread_meaning,
    reference=_spread_reference,
    vjp=_spread_vjp,
    samples=lambda: [
        Sample(((2, 3, 5, 3),), {"size": (11,), "stride": (2,)}),
        Sample(((2, 3, 2, 3, 2),), {"size": (9, 8), "stride": (2, 3), "dilation": (2, 1)}),
        Sample(((0, 4, 2),), {"size": (5,)}),
    ],
)
def spread_windows(
    g: Tensor, /, size: Shape, stride: Ints | None = None, dilation: Ints | None = None
) -> Tensor:
    """Window elements back where they came from: out[..., y * stride + k * dilation, k] = g[..., y,
    k].

    The adjoint of `windows(..., apart=True)`; 0 where no window element came from.

    >>> ds.spread_windows(ds.ones(2, 2), (3,))
    tensor([[1., 0.],
            [1., 1.],
            [0., 1.]])
    """
    ones = (1,) * len(size)
    out: Tensor = record(
        op_of(spread_windows), as_tensor(g, "spread_windows"), size=tuple(size),
        stride=tuple(stride or ones), dilation=tuple(dilation or ones),
    )  # fmt: skip
    return out


def _join_infer(g: TensorType, *, size: Shape, stride: Ints) -> Types:
    return (tensor_type(g.dtype, (*g.shape[: -2 * len(size)], *size)),)


def _join_meaning(
    index: Index, read: Any, inputs: Types, out: TensorType, *, size: Shape, stride: Ints
) -> Expr:
    n = len(size)
    counts, window = exprs(inputs[0].shape[-2 * n : -n]), exprs(inputs[0].shape[-n:])
    steps = [const(s) for s in stride]
    places = [scalar.floordiv(p, s) for p, s in zip(index[-n:], steps, strict=True)]
    within = [scalar.mod(p, s) for p, s in zip(index[-n:], steps, strict=True)]
    inside = scalar.and_(
        *[call("lt", y, c) for y, c in zip(places, counts, strict=True)],
        *[call("lt", k, w) for k, w in zip(within, window, strict=True)],
    )
    return read(0, (*index[:-n], *places, *within), inside)  # type: ignore[no-any-return]


def _join_reference(g: Any, *, size: Ints, stride: Ints) -> Any:
    n = len(size)
    return _spread_reference(g, size=size, stride=stride, dilation=(1,) * n).sum(
        axis=tuple(range(-n, 0)), dtype=g.dtype
    )


def _join_vjp(u: Tensor, y: Tensor, g: Tensor, *, size: Shape, stride: Ints) -> tuple[Tensor]:
    window = tuple(s for s in shape_of(g)[-len(size) :] if isinstance(s, int))
    return (windows(u, window, stride),)


@primitive(
    Kind.VIEW,
    infer=_join_infer,
    meaning=_join_meaning,
    reference=_join_reference,
    vjp=_join_vjp,
    samples=lambda: [
        Sample(((2, 3, 5, 2),), {"size": (11,), "stride": (2,)}),
        Sample(((2, 3, 2, 2, 3),), {"size": (7, 8), "stride": (2, 4)}),
    ],
)
def join_windows(g: Tensor, /, size: Shape, stride: Ints) -> Tensor:
    """Windows that do not overlap, put back: out[..., y * stride + k] = g[..., y, k], else 0."""
    out: Tensor = record(
        op_of(join_windows), as_tensor(g, "join_windows"), size=tuple(size), stride=tuple(stride)
    )
    return out
