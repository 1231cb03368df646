"""Differences and integrals along an axis: diff, gradients by finite differences, trapezoids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.op import Sample
from deepseek.ops.activation import floating
from deepseek.ops.define import ALL, as_tensor, axes_of, axis_of, composite, converted, describe
from deepseek.ops.elementwise import logical_xor, subtract
from deepseek.ops.methods import method
from deepseek.ops.prefix import cumulative_sum
from deepseek.ops.view import concat

__all__ = ["cumulative_trapezoid", "diff", "gradient", "trapezoid"]


def _ends(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """x without its last, and without its first element on an axis."""
    rest = max(x.shape[axis] - 1, 0)
    return x.narrow(axis, 0, rest), x.narrow(axis, x.shape[axis] - rest, rest)


def _diff_reference(x: Any, n: int, axis: int, prepend: Any, append: Any) -> Any:
    given = {"prepend": prepend, "append": append}
    return np.diff(x, n=n, axis=axis, **{k: v for k, v in given.items() if v is not None})


@composite(
    reference=_diff_reference,
    samples=lambda: [
        Sample(((3, 7),)),
        Sample(((5, 3),), {"n": 2, "axis": 0}),
        Sample(((2, 3), 1, 1, (2, 1), (2, 2))),
        Sample((np.array([True, True, False]),)),
        Sample(((3, 2),), {"n": 3}),
        Sample(((3, 0),)),
    ],
    takes=ALL,
    method="diff",
)
def diff(
    x: Tensor, n: int = 1, axis: int = -1, prepend: Tensor | None = None,
    append: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The differences of neighbours along an axis, taken n times; whether truth values differ.

    `prepend` and `append` are joined to x before, if n is not 0. Raises ArgumentError for n below
    0.

    >>> ds.diff(ds.asarray([1, 4, 9, 16]), n=2)
    tensor([2, 2])
    """
    if n < 0:
        raise op_error(ArgumentError, "diff", f"n={n}", "n >= 0", user_line())
    axis = axis_of("diff", x, axis)
    if n == 0:
        return x
    parts = [p for p in (prepend, x, append) if p is not None]
    x = concat(parts, axis=axis) if len(parts) > 1 else x
    for _ in range(n):
        low, high = _ends(x, axis)
        x = logical_xor(high, low) if x.dtype.is_bool else subtract(high, low)
    return x


# ---------------------------------------------------------------------------------------- integrals


def _strips(y: Tensor, x: Tensor | None, dx: float, dim: int, op: str) -> tuple[Tensor, int]:
    """The area between each two neighbours on an axis."""
    y = floating(y)
    axis = axis_of(op, y, dim)
    low, high = _ends(y, axis)
    middle = (low + high) * 0.5
    if x is None:
        return middle * dx, axis
    before, after = _ends(x, axis if x.ndim == y.ndim else x.ndim - 1)
    width = subtract(after, before)
    if x.ndim == 1 and y.ndim > 1:
        width = width.reshape((-1,) + (1,) * (y.ndim - axis - 1))
    return middle * converted(width, y.dtype), axis


def _trapezoid_samples() -> list[Sample]:
    return [
        Sample(((3, 7),)),
        Sample(((5, 3),), {"dx": 0.5, "dim": 0}),
        Sample(((2, 5, 3), (5,)), {"dim": 1}),
        Sample(((2, 5), (2, 5))),
        Sample(((3, 1),)),
    ]


def _strips_reference(y: Any, x: Any, dx: float, dim: int) -> Any:
    y = np.moveaxis(y, dim, -1)
    if x is not None:
        dx = np.diff(x if x.ndim == 1 else np.moveaxis(x, dim, -1))
    return np.moveaxis((y[..., 1:] + y[..., :-1]) / 2 * dx, -1, dim)


@composite(
    reference=lambda y, x, dx, dim: np.sum(_strips_reference(y, x, dx, dim), axis=dim),
    samples=_trapezoid_samples,
    tolerance=32,
    precision="high",
)
def trapezoid(y: Tensor, x: Tensor | None = None, dx: float = 1.0, dim: int = -1) -> Tensor:
    """The integral of y along an axis by the trapezoidal rule, at points x or in steps of dx.

    >>> ds.trapezoid(ds.asarray([1.0, 2.0, 3.0]), dx=2)
    tensor(8.)
    """
    strips, axis = _strips(y, x, dx, dim, "trapezoid")
    return strips.sum(axis=axis)


@composite(
    reference=lambda y, x, dx, dim: np.cumsum(_strips_reference(y, x, dx, dim), axis=dim),
    samples=_trapezoid_samples,
    tolerance=32,
    precision="high",
)
def cumulative_trapezoid(
    y: Tensor, x: Tensor | None = None, dx: float = 1.0, dim: int = -1
) -> Tensor:
    """The running integral of y along an axis, one element shorter: see `trapezoid`.

    >>> ds.cumulative_trapezoid(ds.asarray([1.0, 2.0, 3.0]), dx=2)
    tensor([3., 8.])
    """
    strips, axis = _strips(y, x, dx, dim, "cumulative_trapezoid")
    return cumulative_sum(strips, axis)


# ---------------------------------------------------------------------------------------- gradients


def _steps(x: Tensor, axis: int, spacing: float | Tensor) -> tuple[Any, Any, Any, Any]:
    """The steps before and after each inner point of an axis, the first and the last step."""
    if not isinstance(spacing, Tensor):
        return spacing, spacing, spacing, spacing
    places = converted(spacing, x.dtype).reshape((-1,) + (1,) * (x.ndim - axis - 1))
    low, high = _ends(places, 0)
    steps = high - low
    count = x.shape[axis]
    return *_ends(steps, 0), steps.narrow(0, 0, 1), steps.narrow(0, count - 2, 1)


def _slopes(x: Tensor, axis: int, spacing: float | Tensor, edge_order: int) -> Tensor:
    """Derivatives along an axis: of the parabola through three points, at the ends of the order."""
    count = x.shape[axis]
    if count <= edge_order:
        raise op_error(
            ShapeError, "gradient", describe(x), f"more than {edge_order} elements on axis {axis}",
            user_line(),
        )  # fmt: skip

    def at(start: int, length: int) -> Tensor:
        return x.narrow(axis, start, length)

    before, after, first, last = _steps(x, axis, spacing)
    inner = count - 2
    low, here, high = at(0, inner), at(1, inner), at(2, inner)
    near, far = (here - low) / before, (high - here) / after
    middle = (near * after + far * before) / (before + after)
    ends = [(at(1, 1) - at(0, 1)) / first, (at(count - 1, 1) - at(count - 2, 1)) / last]
    if edge_order == 2:
        # The parabola's slope at its end: as far beyond the chord's as the next chord's is behind.
        second = _pick(near, far, axis, inner)
        ends = [
            ends[0] - (second[0][1] - second[0][0]) * _share(before, after, 0, inner),
            ends[1] + (second[1][1] - second[1][0]) * _share(after, before, inner - 1, inner),
        ]
    return concat([ends[0], middle, ends[1]], axis=axis)


def _pick(near: Tensor, far: Tensor, axis: int, inner: int) -> list[tuple[Tensor, Tensor]]:
    """The chords (near, far) at the first and the last inner point."""
    return [(near.narrow(axis, k, 1), far.narrow(axis, k, 1)) for k in (0, inner - 1)]


def _share(step: Any, other: Any, at: int, inner: int) -> Any:
    """The outer step's share of the two beside an inner point."""
    share = step / (step + other)
    return share.narrow(0, at, 1) if isinstance(share, Tensor) else share


@method("gradient")
def gradient(
    x: Tensor, *, spacing: Any = 1, dim: int | Sequence[int] | None = None, edge_order: int = 1
) -> list[Tensor]:
    """The derivatives along some axes (all by default) by finite differences of second order.

    `spacing` is a number (None is 1), or for each axis a number or a vector of coordinates;
    `edge_order` is the order of the differences at both ends. Raises ArgumentError for other orders
    than 1 and 2, or spacings that are not one for each axis.

    >>> ds.gradient(ds.asarray([1.0, 4.0, 9.0, 16.0]))
    [tensor([3., 4., 6., 7.])]
    """
    if edge_order not in (1, 2):
        raise op_error(ArgumentError, "gradient", f"edge_order={edge_order}", "1 or 2", user_line())
    x = floating(as_tensor(x, "gradient"))
    axes = axes_of("gradient", x, dim)
    if isinstance(dim, (tuple, list)):
        axes = tuple(axis_of("gradient", x, d) for d in dim)
    spacing = 1 if spacing is None else spacing
    steps = list(spacing) if isinstance(spacing, (tuple, list)) else [spacing] * len(axes)
    if len(steps) != len(axes):
        got = f"{len(steps)} spacings for {len(axes)} axes"
        raise op_error(ArgumentError, "gradient", got, "one for each", user_line())
    return [_slopes(x, a, s, edge_order) for a, s in zip(axes, steps, strict=True)]
