"""Images at the places of a grid: grid_sample and affine_grid, as PyTorch defines them.

In flow images and, for each element wanted, where it is in them: from -1 to 1 on each axis, the
last axis first. Out flow weighted sums of taps: reads of the image flattened, at computed places.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepseek.errors import ShapeError, op_error, unknown, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import float32, float64, int64
from deepseek.ir.op import Sample
from deepseek.ir.shape import Shape, Size, numel, same, size_of
from deepseek.ops import forms_nn
from deepseek.ops.activation import widened
from deepseek.ops.contracting import einsum
from deepseek.ops.create import arange, ones
from deepseek.ops.define import composite, converted, describe, filled, is_size, shape_of
from deepseek.ops.elementwise import abs, maximum, minimum, where
from deepseek.ops.index import take_along_axis
from deepseek.ops.resample import CUBIC, cubic_weights
from deepseek.ops.transcendental import floor, round_
from deepseek.ops.view import stack

__all__ = ["affine_grid", "grid_sample"]

Ints = tuple[int, ...]
MODES = ("bilinear", "nearest", "bicubic")
PADDINGS = ("zeros", "border", "reflection")


@dataclass
class Tap:
    """What an axis adds to a weighted sum: a place, its weight, and whether there is an element.

    Each broadcasts with the result.
    """

    place: Tensor
    weight: Tensor | None = None
    inside: Tensor | None = None


def _number(size: Size, like: Tensor) -> Any:
    return size if isinstance(size, int) else filled((), size, like.dtype)


def _unnormalized(g: Tensor, size: Size, align_corners: bool) -> Tensor:
    """From -1 ... 1 to places of elements."""
    n = _number(size, g)
    out: Tensor = (g + 1) * 0.5 * (n - 1) if align_corners else ((g + 1) * n - 1) * 0.5
    return out


def _inside(at: Tensor, size: Size, padding_mode: str, align_corners: bool) -> Tensor:
    """Places brought into an axis, where the padding mode says so."""
    if padding_mode == "zeros":
        return at
    last = _number(size, at) - 1
    if padding_mode == "reflection":
        edge, span = (0.0, last) if align_corners else (-0.5, last + 1)
        if isinstance(span, int) and span == 0:
            return at * 0
        from_edge = abs(at - edge)
        turns = floor(from_edge / span)
        rest = from_edge - turns * span
        odd = turns - floor(turns * 0.5) * 2
        at = where(odd == 0, rest, span - rest) + edge
    return minimum(maximum(at, 0), last)


def _tap(place: Tensor, weight: Tensor | None, size: Size, padding_mode: str) -> Tap:
    """The tap at a whole place, which may be outside."""
    n = filled((), size, int64)
    at = converted(place, int64)
    there = None
    if padding_mode == "zeros":
        there = (place >= 0) & (place < _number(size, place))
    return Tap(minimum(maximum(at, 0), n - 1), weight, there)


def _taps(g: Tensor, size: Size, mode: str, padding_mode: str, align_corners: bool) -> list[Tap]:
    """The taps of one axis for normalized places."""
    raw = _unnormalized(g, size, align_corners)
    if mode == "bicubic":
        low = floor(raw)
        places = [_inside(low + (k - 1), size, padding_mode, align_corners) for k in range(4)]
        pairs = zip(places, cubic_weights(raw - low), strict=True)
        return [_tap(p, w, size, padding_mode) for p, w in pairs]
    at = _inside(raw, size, padding_mode, align_corners)
    if mode == "nearest":
        return [_tap(round_(at), None, size, padding_mode)]
    low = floor(at)
    t = at - low
    return [_tap(low, 1 - t, size, padding_mode), _tap(low + 1, t, size, padding_mode)]


def _weighted(flat: Tensor, axes: Sequence[Sequence[Tap]], sizes: Shape) -> Tensor:
    """The sum over combinations of the axes' taps of weight times element of the last axis.

    The taps have the batch, an axis of size 1 for the channels, and the axes of the result.
    """
    total: Tensor | None = None
    for taps in itertools.product(*axes):
        place: Tensor | None = None
        weight: Tensor | None = None
        inside: Tensor | None = None
        for tap, size in zip(taps, sizes, strict=True):
            place = tap.place if place is None else place * filled((), size, int64) + tap.place
            if tap.weight is not None:
                weight = tap.weight if weight is None else weight * tap.weight
            if tap.inside is not None:
                inside = tap.inside if inside is None else inside & tap.inside
        assert place is not None
        lead, spots = shape_of(flat)[:-1], shape_of(place)[2:]
        rows = place.reshape((*shape_of(place)[:2], numel(spots)))
        rows = rows.broadcast_to((*lead, numel(spots)))
        value = take_along_axis(flat, rows, axis=-1).reshape((*lead, *spots))
        if weight is not None:
            value = value * converted(weight, value.dtype)
        if inside is not None:
            value = where(inside, value, 0)
        total = value if total is None else total + value
    assert total is not None
    return total


def _grid_sample_reference(
    x: Any, grid: Any, mode: str, padding_mode: str, align_corners: bool
) -> Any:
    sizes = x.shape[2:]
    out = np.zeros((*x.shape[:2], *grid.shape[1:-1]))

    def reflected(v: float, n: int) -> float:
        low, high = (0.0, n - 1.0) if align_corners else (-0.5, n - 0.5)
        while high > low and not low <= v <= high:
            v = 2 * low - v if v < low else 2 * high - v
        return v if high > low else 0.0

    def placed(v: float, n: int) -> float:
        if padding_mode == "reflection":
            v = reflected(v, n)
        return v if padding_mode == "zeros" else min(max(v, 0.0), n - 1.0)

    def taps(v: float, n: int) -> list[tuple[int, float]]:
        v = (v + 1) / 2 * (n - 1) if align_corners else ((v + 1) * n - 1) / 2
        if mode == "bicubic":
            low, found = int(np.floor(v)), []
            for p in range(low - 1, low + 3):
                d = np.abs(v - p)
                near = (CUBIC + 2) * d**3 - (CUBIC + 3) * d**2 + 1
                far = CUBIC * (d**3 - 5 * d**2 + 8 * d - 4)
                found.append((int(placed(float(p), n)), near if d <= 1 else far))
            return found
        v = placed(v, n)
        if mode == "nearest":
            return [(int(np.round(v)), 1.0)]
        low = int(np.floor(v))
        return [(low, low + 1 - v), (low + 1, v - low)]

    for at in np.ndindex(grid.shape[0], *grid.shape[1:-1]):
        axes = [taps(float(v), n) for v, n in zip(grid[at][::-1], sizes, strict=True)]
        for combination in itertools.product(*axes):
            place = tuple(p for p, _ in combination)
            if all(0 <= p < n for p, n in zip(place, sizes, strict=True)):
                weight = np.prod([w for _, w in combination])
                out[(at[0], slice(None), *at[1:])] += weight * x[(at[0], slice(None), *place)]
    return out.astype(x.dtype)


def _grid_samples() -> list[Sample]:
    def sample(shape: Ints, grid: Ints, **options: Any) -> Sample:
        places = np.random.default_rng(0).uniform(-1.4, 1.4, (*grid, len(grid) - 1))
        kwargs = {"mode": "bilinear", "padding_mode": "zeros", "align_corners": False} | options
        return Sample((shape, places.astype(np.float32)), kwargs)

    image, grid = (2, 3, 4, 5), (2, 3, 6)
    return [
        sample(image, grid),
        sample(image, grid, padding_mode="border", align_corners=True),
        sample(image, grid, padding_mode="reflection"),
        sample(image, grid, padding_mode="reflection", align_corners=True),
        sample(image, grid, mode="nearest"),
        sample(image, grid, mode="bicubic", padding_mode="border"),
        sample(image, grid, mode="bicubic", align_corners=True),
        sample((1, 2, 3, 4, 5), (1, 2, 3, 2)),
        sample((1, 2, 3, 1, 4), (1, 2, 3, 2), padding_mode="reflection", align_corners=True),
        sample((0, 2, 3, 4), (0, 2, 3)),
    ]


@composite(
    reference=_grid_sample_reference, samples=_grid_samples, tolerance=64,
    onnx=forms_nn.grid_sample,
)  # fmt: skip
def grid_sample(
    x: Tensor, grid: Tensor, mode: str = "bilinear", padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:  # fmt: skip
    """Elements of (batch, channels, *sizes) at the places of a grid (batch, *places, axes).

    Each place has a coordinate for each axis, the last axis first, from -1 to 1: from the outer
    edges of the outermost elements, or with `align_corners` from their middles. `mode` is
    "bilinear" (of two axes or three), "nearest" or "bicubic" (of two); `padding_mode`, for what is
    outside, "zeros", "border" or "reflection". Raises ShapeError and ArgumentError for others.

    >>> image = ds.asarray([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> ds.grid_sample(image, ds.zeros(1, 1, 1, 2)).tolist()
    [[[[2.5]]]]
    """
    for name, given, valid in (("mode", mode, MODES), ("padding_mode", padding_mode, PADDINGS)):
        if given not in valid:
            raise unknown(f"{name} of grid_sample", given, valid)
    n = x.ndim - 2
    fits = n in (2, 3) and grid.ndim == x.ndim and is_size(shape_of(grid)[-1], n)
    if not fits or not same(shape_of(x)[0], shape_of(grid)[0]) or (mode == "bicubic" and n == 3):
        raise op_error(
            ShapeError, "grid_sample", f"{describe(x)}, grid {describe(grid)} and mode {mode!r}",
            "(batch, channels, 2 or 3 sizes) and (batch, *places, axes); for 'bicubic' 2 sizes",
            user_line(),
        )  # fmt: skip
    batch, channels, *sizes = shape_of(x)
    exact = grid if grid.dtype is float64 else converted(grid, float32)
    axes = []
    for i, size in enumerate(sizes):
        g = exact[..., n - 1 - i]
        g = g.reshape((batch, 1, *shape_of(g)[1:]))
        axes.append(_taps(g, size, mode, padding_mode, bool(align_corners)))
    flat = widened(x).reshape((batch, channels, numel(tuple(sizes))))
    return converted(_weighted(flat, axes, tuple(sizes)), x.dtype)


def _affine_reference(theta: Any, size: Ints, align_corners: bool) -> Any:
    lines = []
    for n in size[2:]:
        line = np.linspace(-1, 1, n) if n > 1 else np.zeros(n)
        lines.append(line if align_corners else line * (n - 1) / n)
    grids = np.meshgrid(*lines, indexing="ij")[::-1]
    base = np.stack([*grids, np.ones(size[2:])], axis=-1)
    return np.einsum("...k,bik->b...i", base, theta).astype(theta.dtype)


@composite(
    reference=_affine_reference,
    samples=lambda: [
        Sample(((2, 2, 3),), {"size": (2, 3, 4, 5)}),
        Sample(((1, 2, 3),), {"size": (1, 1, 1, 3), "align_corners": True}),
        Sample(((2, 3, 4),), {"size": (2, 1, 2, 3, 4)}),
    ],
    tolerance=32,
    onnx=forms_nn.affine_grid,
)
def affine_grid(theta: Tensor, size: Any, align_corners: bool | None = None) -> Tensor:
    """The grid that `grid_sample` takes for affine maps (batch, n, n + 1) of images of a size.

    `size` is (batch, channels, n sizes), n being 2 or 3. Raises ShapeError for others.

    >>> ds.affine_grid(ds.asarray([[[1.0, 0, 0], [0, 1, 0]]]), (1, 1, 1, 2), True).tolist()
    [[[[-1.0, 0.0], [1.0, 0.0]]]]
    """
    sizes = [size_of(s) for s in size][2:]
    n = len(sizes)
    fits = n in (2, 3) and theta.ndim == 3 and same(shape_of(theta)[0], size_of(size[0]))
    if not fits or not all(map(is_size, shape_of(theta)[1:], (n, n + 1))):
        raise op_error(
            ShapeError, "affine_grid", f"{describe(theta)} and size {tuple(size)}",
            "(batch, n, n + 1) and (batch, channels, n sizes) for n of 2 or 3", user_line(),
        )  # fmt: skip
    carried = theta.dtype.accumulator
    lines = []
    for i, count in enumerate(sizes):
        at = converted(arange(count), carried)
        steps = _number(count, at)
        if is_size(count, 1):
            line = at * 0
        elif align_corners:
            line = at * (2 / (steps - 1)) - 1
        else:
            line = (at * 2 + 1) / steps - 1
        lines.append(line.reshape(tuple(-1 if k == i else 1 for k in range(n))))
    parts = [t.broadcast_to(tuple(sizes)) for t in lines[::-1]]
    base = stack([*parts, ones(*sizes, dtype=carried)], axis=-1)
    return converted(einsum("...k,bik->b...i", base, converted(theta, carried)), theta.dtype)
