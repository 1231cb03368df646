"""Images at other sizes: interpolate, as PyTorch defines it.

Axis by axis, the last one first, each result is a weighted sum of taps: reads at computed places,
whose gradient adds back to where they were read. Repeated elements are views.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, DTypeError, ShapeError, op_error, unknown, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import DType, float32, float64, int64
from deepseek.ir.graph import Node
from deepseek.ir.op import Sample
from deepseek.ir.shape import Shape, Size, size_of
from deepseek.ops import forms
from deepseek.ops.activation import widened
from deepseek.ops.create import arange
from deepseek.ops.define import (
    composite,
    converted,
    describe,
    filled,
    is_size,
    minus,
    shape_of,
)
from deepseek.ops.elementwise import add, maximum, minimum
from deepseek.ops.index import take
from deepseek.ops.pooling_sized import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
)
from deepseek.ops.transcendental import floor

__all__ = ["interpolate", "resize", "upsample"]

Ints = tuple[int, ...]
CUBIC = -0.75  # the slope of the cubic kernel at 1, PyTorch's choice
MODES = {
    "nearest": (1, 2, 3), "nearest-exact": (1, 2, 3), "linear": (1,), "bilinear": (2,),
    "bicubic": (2,), "trilinear": (3,), "area": (1, 2, 3),
}  # fmt: skip
"""Modes of interpolate and the number of axes that each is for."""


def clamped(place: Tensor, size: Size) -> Tensor:
    return minimum(maximum(place, 0), filled((), minus(size, 1), place.dtype))


def cubic_weights(t: Tensor) -> list[Tensor]:
    """Keys' convolution kernel at t + 1, t, 1 - t and 2 - t (1981), for 0 <= t < 1."""
    a = CUBIC

    def near(d: Tensor) -> Tensor:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Tensor) -> Tensor:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return [far(t + 1), near(t), near(1 - t), far(2 - t)]


# ------------------------------------------------------------------------------------ interpolate


def _position(i: Tensor, given: Size, made: Size, align_corners: bool, scale: Any) -> Tensor:
    """Where result places i are on an axis of the input, as a float."""
    if align_corners:
        if is_size(made, 1):
            return i * 0
        step = _ratio(minus(given, 1), minus(made, 1), i.dtype)
        aligned: Tensor = i * step
        return aligned
    step = _ratio(given, made, i.dtype) if scale is None else 1 / scale
    centred: Tensor = (i + 0.5) * step - 0.5
    return centred


def _ratio(a: Size, b: Size, dtype: DType) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        return a / b
    return filled((), a, dtype) / filled((), b, dtype)


def _resize_taps(
    mode: str, given: Size, made: Size, align_corners: bool, scale: Any, dtype: DType
) -> list[tuple[Tensor, Tensor | None]]:
    """The taps of one axis: places to read, and their weights."""
    if mode.startswith("nearest"):
        at, n = arange(made), filled((), given, int64)
        half = int(mode == "nearest-exact")
        if scale is None:
            place = (at * 2 + half) * n // (filled((), made, int64) * 2)
        else:
            place = converted(floor((converted(at, float64) + half / 2) / scale), int64)
        return [(clamped(place, given), None)]
    i = converted(arange(made), dtype)
    source = _position(i, given, made, align_corners, scale)
    if mode != "bicubic":
        source = maximum(source, 0)
    low = floor(source)
    place, t = converted(low, int64), source - low
    if mode == "bicubic":
        return [(clamped(place + (k - 1), given), w) for k, w in enumerate(cubic_weights(t))]
    return [(clamped(place, given), 1 - t), (clamped(place + 1, given), t)]


def _resize_reference(
    x: Any, size: Ints, mode: str, align_corners: bool, scales: tuple[float, ...] | None
) -> Any:
    out = np.asarray(x, np.float64) if x.dtype.kind == "f" else x
    for axis, made in enumerate(size, x.ndim - len(size)):
        given, scale = x.shape[axis], None if scales is None else scales[axis - x.ndim]
        i = np.arange(made)
        if mode.startswith("nearest"):
            half = 0.5 if mode == "nearest-exact" else 0
            at = (i + half) / scale if scale else (i + half) * given / made
            out = np.take(out, np.clip(np.floor(at), 0, given - 1).astype(int), axis=axis)
            continue
        step = 1 / scale if scale else given / made
        at = i * ((given - 1) / max(made - 1, 1)) if align_corners else (i + 0.5) * step - 0.5
        at = at if mode == "bicubic" else np.maximum(at, 0)
        weights = np.zeros((made, given))
        for row, source in enumerate(at):
            low = int(np.floor(source))
            for place in range(low - 1, low + 3):
                d = np.abs(source - place)
                near = (CUBIC + 2) * d**3 - (CUBIC + 3) * d**2 + 1
                far = CUBIC * (d**3 - 5 * d**2 + 8 * d - 4)
                cubic = near if d <= 1 else far if d < 2 else 0.0
                weight = cubic if mode == "bicubic" else max(0.0, 1 - d)
                weights[row, np.clip(place, 0, given - 1)] += weight
        out = np.moveaxis(np.tensordot(weights, out, (1, axis)), 0, axis)
    return out.astype(x.dtype)


@forms.form("Resize")
def _resize_form(b: Any, node: Node, x: str) -> Any:
    """Resize; tensors without a batch, and scales that are no float32, are written out."""
    (type_,), a = forms.types_of(node), node.attrs
    scales = a["scales"] or ()
    if type_.rank != len(a["size"]) + 2 or any(float(np.float32(s)) != s for s in scales):
        return None
    if not type_.dtype.is_float or type_.dtype is float64 or type_.numel == 0:
        return None
    kind = {"bicubic": "cubic"}.get(a["mode"], "nearest" if "nearest" in a["mode"] else "linear")
    where_ = "align_corners" if a["align_corners"] else "half_pixel"
    attrs: dict[str, Any] = {"mode": kind, "coordinate_transformation_mode": where_}
    if kind == "nearest":
        exact = a["mode"] == "nearest-exact"
        attrs["coordinate_transformation_mode"] = "half_pixel" if exact else "asymmetric"
        attrs["nearest_mode"] = "round_prefer_ceil" if exact else "floor"
    if kind == "cubic":
        attrs["cubic_coeff_a"] = CUBIC
    if scales:
        return b.node("Resize", x, "", b.array((1, 1, *scales), float32), **attrs)
    sizes = b.shape((*type_.shape[:2], *map(size_of, a["size"])))
    return b.node("Resize", x, "", "", sizes, **attrs)


def _resize_samples() -> list[Sample]:
    def sample(shape: Ints, size: Ints, mode: str, align: bool = False, scales: Any = None) -> Any:
        rest = {"size": size, "mode": mode, "align_corners": align, "scales": scales}
        return Sample((shape,), rest)

    return [
        sample((2, 3, 5), (10,), "nearest"),
        sample((1, 2, 5, 7), (4, 14), "nearest"),
        sample((1, 2, 5, 7), (8, 3), "nearest-exact"),
        sample((2, 1, 7), (8,), "nearest", scales=(1.25,)),
        sample((2, 3, 5), (8,), "linear"),
        sample((1, 2, 5, 4), (3, 9), "bilinear"),
        sample((1, 2, 5, 4), (8, 3), "bilinear", True),
        sample((1, 2, 4, 5), (9, 8), "bilinear", scales=(2.3, 1.7)),
        sample((1, 2, 5, 4), (7, 3), "bicubic"),
        sample((1, 1, 3, 4), (5, 8), "bicubic", True),
        sample((1, 1, 3, 2, 4), (4, 5, 2), "trilinear"),
        sample((1, 2, 5, 1), (1, 4), "bilinear", True),
    ]


@composite(
    reference=_resize_reference, samples=_resize_samples, tolerance=32,
    onnx=_resize_form,
)  # fmt: skip
def resize(
    x: Tensor, size: Any, mode: str, align_corners: bool, scales: tuple[float, ...] | None
) -> Tensor:
    """x with its last axes sampled at other places; `interpolate` says how.

    Raises DTypeError for integers in modes that mix elements.

    >>> ds.resize(ds.arange(3.0), (5,), "linear", True, None).tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0]
    """
    n = len(size)
    given = shape_of(x)[-n:]
    if mode == "nearest" or mode == "nearest-exact":
        repeated = _repeated(x, given, size, scales)
        if repeated is not None:
            return repeated
    elif not x.dtype.is_float:
        raise op_error(
            DTypeError, "interpolate", f"{describe(x)} in mode {mode!r}", "floats", user_line(),
            "convert with x.astype(ds.float32)",
        )  # fmt: skip
    places = float64 if x.dtype is float64 else float32
    # The last axis first: later passes then read whole rows.
    out = x if mode.startswith("nearest") else widened(x)
    for i in reversed(range(n)):
        scale = None if scales is None else scales[i]
        taps = _resize_taps(mode, given[i], size_of(size[i]), align_corners, scale, places)
        axis = x.ndim - n + i
        column = (-1, *(1,) * (n - i - 1))
        parts = [
            found if weight is None else found * converted(weight, out.dtype).reshape(column)
            for found, weight in [(take(out, place, axis=axis), w) for place, w in taps]
        ]
        out = functools.reduce(add, parts)
    return converted(out, x.dtype)


def _repeated(x: Tensor, given: Shape, size: Any, scales: Any) -> Tensor | None:
    """x with each element repeated, where every size is a multiple: views only."""
    if not all(isinstance(s, int) and isinstance(n, int) for s, n in zip(size, given, strict=True)):
        return None
    times = [s / n if n else 0 for s, n in zip(size, given, strict=True)]
    if any(k < 1 or k % 1 for k in times) or (scales is not None and list(scales) != times):
        return None
    lead = shape_of(x)[: x.ndim - len(size)]
    apart = [s for n in given for s in (n, 1)]
    wide = [s for n, k in zip(given, times, strict=True) for s in (n, int(k))]
    return x.reshape((*lead, *apart)).broadcast_to((*lead, *wide)).reshape((*lead, *size))


def interpolate(
    x: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: bool | None = None, recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:  # fmt: skip
    """(batch, channels, *sizes) sampled at other sizes, given as `size` or by `scale_factor`.

    `mode` is "nearest", "nearest-exact", "area", or by the number of axes "linear", "bilinear",
    "bicubic" or "trilinear". With `align_corners` the outermost elements keep their places, without
    their outer edges do. A scale factor also says where samples are taken, unless it is recomputed
    from the sizes. Raises ArgumentError for options that do not go together, and for `antialias`.
    ShapeError for a mode that is for other numbers of axes.

    >>> x = ds.asarray([[[1.0, 2.0]]])
    >>> ds.interpolate(x, scale_factor=2).tolist()
    [[[1.0, 1.0, 2.0, 2.0]]]
    >>> ds.interpolate(x, size=3, mode="linear", align_corners=True).tolist()
    [[[1.0, 1.5, 2.0]]]
    """
    rank = x.ndim - 2
    if mode not in MODES:
        raise unknown("mode of interpolate", mode, MODES)
    if rank not in MODES[mode]:
        raise op_error(
            ShapeError, "interpolate", f"{describe(x)} in mode {mode!r}",
            f"(batch, channels, *sizes) with {' or '.join(map(str, MODES[mode]))} sizes",
            user_line(),
        )  # fmt: skip
    if antialias:
        raise op_error(
            ArgumentError, "interpolate", "antialias=True", "antialias=False", user_line(),
            "average before: ds.avg_pool2d, or mode='area'",
        )  # fmt: skip
    smooth = mode in ("linear", "bilinear", "bicubic", "trilinear")
    if align_corners is not None and not smooth:
        raise op_error(
            ArgumentError, "interpolate", f"align_corners={align_corners} in mode {mode!r}",
            "none: it is for linear and cubic modes", user_line(),
        )  # fmt: skip
    sizes, scales = _sizes(x, rank, size, scale_factor, bool(recompute_scale_factor))
    if mode == "area":
        pools = (adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d)
        return pools[rank - 1](x, sizes)
    return resize(x, sizes, mode, bool(align_corners), scales)


def _sizes(
    x: Tensor, rank: int, size: Any, scale_factor: Any, recompute: bool
) -> tuple[Shape, tuple[float, ...] | None]:
    """The sizes wanted, and the factors that places follow, if they do."""
    if (size is None) == (scale_factor is None) or (recompute and size is not None):
        raise op_error(
            ArgumentError, "interpolate",
            f"size={size}, scale_factor={scale_factor} and recompute_scale_factor={recompute}",
            "either a size or a scale factor, which may be recomputed", user_line(),
        )  # fmt: skip
    given = size if scale_factor is None else scale_factor
    each = tuple(given) if isinstance(given, (tuple, list)) else (given,) * rank
    fits = len(each) == rank and all(k > 0 for k in each)
    if not fits:
        raise op_error(
            ArgumentError, "interpolate", f"{describe(x)} and {given}",
            f"one positive number, or {rank} of them", user_line(),
        )  # fmt: skip
    if scale_factor is None:
        return tuple(size_of(s) for s in each), None
    whole = [int(k) if float(k).is_integer() else None for k in each]
    sizes = tuple(
        size_of(n * w) if w is not None else _scaled(n, k)
        for n, k, w in zip(x.shape[2:], each, whole, strict=True)
    )
    if any(is_size(s, 0) for s in sizes):
        raise op_error(
            ShapeError, "interpolate", f"{describe(x)} and scale_factor={scale_factor}",
            "at least one element on each axis", user_line(),
        )  # fmt: skip
    exact = recompute or None not in whole
    return sizes, None if exact else tuple(float(k) for k in each)


def _scaled(n: Any, factor: float) -> Size:
    """floor(n * factor); of a size that is left open where the factor is a simple fraction."""
    part = Fraction(factor)
    if part.denominator > 64:
        return math.floor(float(n) * factor)
    return size_of(n * part.numerator // part.denominator)


def upsample(
    x: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: bool | None = None,
) -> Tensor:  # fmt: skip
    """PyTorch's older name for `interpolate`.

    >>> ds.upsample(ds.ones(1, 1, 2), scale_factor=2).shape
    (1, 1, 4)
    """
    return interpolate(x, size, scale_factor, mode, align_corners)
