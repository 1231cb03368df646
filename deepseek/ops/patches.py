"""Patches of images side by side, and channels traded for places.

unfold and fold are sliding windows and their adjoint with the windows' elements as channels; the
shuffles are reshapes and permutations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.graph import Node
from deepseek.ir.op import Sample
from deepseek.ops import forms, forms_nn
from deepseek.ops.conv import spatial
from deepseek.ops.define import (
    ALL,
    NUMERIC,
    axis_of,
    composite,
    describe,
    quotient,
    shape_of,
    times,
)
from deepseek.ops.methods import method
from deepseek.ops.slicing import padded
from deepseek.ops.view import moveaxis
from deepseek.ops.window import spread_windows, window_count, windows

__all__ = [
    "channel_shuffle", "fold", "native_channel_shuffle", "pixel_shuffle", "pixel_unshuffle",
    "unfold",
]  # fmt: skip

Spread = int | Sequence[int]


def _options(
    op: str, kernel_size: Spread, dilation: Spread, padding: Spread, stride: Spread
) -> tuple[tuple[int, ...], ...]:
    return (
        spatial(op, "kernel_size", kernel_size, 2), spatial(op, "dilation", dilation, 2),
        spatial(op, "padding", padding, 2, 0), spatial(op, "stride", stride, 2),
    )  # fmt: skip


def _twice(given: Any) -> tuple[int, int]:
    return (given, given) if isinstance(given, int) else (given[0], given[1])


def _unfold_reference(x: Any, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> Any:
    (kh, kw), (dh, dw), (ph, pw), (sh, sw) = map(_twice, (kernel_size, dilation, padding, stride))
    x = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(ph, ph), (pw, pw)])
    rows = range(0, x.shape[-2] - dh * (kh - 1), sh)
    columns = range(0, x.shape[-1] - dw * (kw - 1), sw)
    parts = [
        x[..., r : r + dh * (kh - 1) + 1 : dh, c : c + dw * (kw - 1) + 1 : dw]
        for r in rows
        for c in columns
    ]
    return np.stack([p.reshape(*x.shape[:-3], -1) for p in parts], axis=-1)


@composite(
    reference=_unfold_reference,
    samples=lambda: [
        Sample(((2, 3, 5, 6),), {"kernel_size": (2, 3)}),
        Sample(((3, 7, 6),), {"kernel_size": 3, "stride": 2, "padding": (1, 2)}),
        Sample(((1, 2, 7, 8),), {"kernel_size": 2, "dilation": (3, 2), "padding": 1}),
    ],
    takes=NUMERIC,
)
def unfold(
    x: Tensor, kernel_size: Spread, dilation: Spread = 1, padding: Spread = 0, stride: Spread = 1
) -> Tensor:
    """The windows of (batch, channels, height, width) as (batch, channels * window, places).

    Zeros are padded. Raises ShapeError where no window fits. (`Tensor.unfold` slides along one
    axis.)

    >>> ds.unfold(ds.arange(6).reshape(1, 1, 2, 3), 2).tolist()
    [[[0, 1], [1, 2], [3, 4], [4, 5]]]
    """
    kernel, spacing, pads, steps = _options("unfold", kernel_size, dilation, padding, stride)
    if x.ndim not in (3, 4):
        raise op_error(
            ShapeError, "unfold", describe(x), "(batch, channels, height, width)", user_line()
        )
    whole = x.reshape((1, *shape_of(x))) if x.ndim == 3 else x
    seen = windows(padded(whole, (0, 0, *pads), (0, 0, *pads)), kernel, steps, spacing)
    seen = seen.permute_dims((0, 1, 4, 5, 2, 3))
    batch, channels, *_, rows, columns = shape_of(seen)
    out = seen.reshape((batch, times(channels, math.prod(kernel)), times(rows, columns)))
    return out.reshape(shape_of(out)[1:]) if x.ndim == 3 else out


def _fold_reference(
    x: Any, output_size: Any, kernel_size: Any, dilation: Any, padding: Any, stride: Any
) -> Any:
    (kh, kw), (dh, dw), (ph, pw), (sh, sw) = map(_twice, (kernel_size, dilation, padding, stride))
    height, width = _twice(output_size)
    parts = x.reshape(*x.shape[:-2], -1, kh, kw, x.shape[-1])
    out = np.zeros((*parts.shape[:-3], height + 2 * ph, width + 2 * pw), x.dtype)
    columns = (width + 2 * pw - dw * (kw - 1) - 1) // sw + 1
    for place in range(x.shape[-1]):
        r, c = place // columns * sh, place % columns * sw
        out[..., r : r + dh * (kh - 1) + 1 : dh, c : c + dw * (kw - 1) + 1 : dw] += parts[
            ..., place
        ]
    return out[..., ph : ph + height, pw : pw + width]


@composite(
    reference=_fold_reference,
    samples=lambda: [
        Sample(((2, 18, 16),), {"output_size": (5, 6), "kernel_size": (2, 3)}),
        Sample(
            ((18, 16),), {"output_size": (7, 6), "kernel_size": 3, "stride": 2, "padding": (1, 2)}
        ),
        Sample(
            ((1, 8, 48),),
            {"output_size": (7, 8), "kernel_size": 2, "dilation": (3, 2), "padding": 1},
        ),
    ],
    takes=NUMERIC,
    tolerance=16,
    onnx=forms_nn.fold,
)
def fold(
    x: Tensor, output_size: Spread, kernel_size: Spread, dilation: Spread = 1, padding: Spread = 0,
    stride: Spread = 1,
) -> Tensor:  # fmt: skip
    """The sums of windows put back: (batch, channels * window, places) as images of a given size.

    The adjoint of `unfold` with the same options. Raises ShapeError where sizes do not fit.

    >>> ds.fold(ds.ones(1, 4, 2), (2, 3), 2).tolist()
    [[[[1.0, 2.0, 1.0], [1.0, 2.0, 1.0]]]]
    """
    kernel, spacing, pads, steps = _options("fold", kernel_size, dilation, padding, stride)
    sizes = spatial("fold", "output_size", output_size, 2)
    framed = tuple(n + 2 * p for n, p in zip(sizes, pads, strict=True))
    counts = tuple(map(window_count, framed, kernel, steps, spacing))
    batch = shape_of(x)[:-2]
    area, places = math.prod(kernel), times(*counts)
    if x.ndim not in (2, 3) or x.shape[-2] % area or shape_of(x)[-1] != places:
        raise op_error(
            ShapeError, "fold", f"{describe(x)} for images of {sizes} and windows of {kernel}",
            f"(batch, channels * {area}, {places})", user_line(),
        )  # fmt: skip
    channels = quotient(shape_of(x)[-2], area)
    seen = x.reshape((*batch, channels, *kernel, *counts))
    n = len(batch) + 1
    seen = seen.permute_dims((*range(n), n + 2, n + 3, n, n + 1))
    total = spread_windows(seen, framed, steps, spacing).sum(axis=(-2, -1), dtype=x.dtype)
    frame = ((0,) * n, tuple(-p for p in pads))
    return padded(total, (*frame[0], *frame[1]), (*frame[0], *frame[1]))


@method("unfold")
def _unfold_along(x: Tensor, /, dimension: int, size: int, step: int = 1) -> Tensor:
    """Slices of `size` elements along an axis, a new last axis, `step` apart (`Tensor.unfold`)."""
    axis = axis_of("unfold", x, dimension)
    if size < 0 or step < 1 or size > x.shape[axis]:
        raise op_error(
            ArgumentError, "unfold", f"{describe(x)}, size {size} and step {step}",
            f"at most {x.shape[axis]} elements, and a step of at least 1", user_line(),
        )  # fmt: skip
    seen: Tensor = windows(moveaxis(x, axis, -1), (size,), (step,))
    return moveaxis(seen, -2, axis)


# ---------------------------------------------------------------------------------------- shuffles


def _image(op: str, x: Tensor, least: int = 3) -> None:
    if x.ndim < least:
        raise op_error(ShapeError, op, describe(x), "(..., channels, height, width)", user_line())


def _shuffle_reference(x: Any, upscale_factor: int) -> Any:
    r = upscale_factor
    *lead, channels, height, width = x.shape
    out = np.empty((*lead, channels // r**2, height * r, width * r), x.dtype)
    for i, j in np.ndindex(r, r):
        out[..., i::r, j::r] = x[..., i * r + j :: r**2, :, :]
    return out


@forms.form("DepthToSpace")
def _shuffle_form(b: Any, node: Node, x: str) -> Any:
    """DepthToSpace of a batch of images; of floats, as runtimes have it."""
    (type_,) = forms.types_of(node)
    if type_.rank != 4 or not type_.dtype.is_float:
        return None
    return b.node("DepthToSpace", x, blocksize=node.attrs["upscale_factor"], mode="CRD")


@composite(
    reference=_shuffle_reference,
    samples=lambda: [
        Sample(((2, 8, 3, 5),), {"upscale_factor": 2}),
        Sample(((9, 1, 2),), {"upscale_factor": 3}),
        Sample(((0, 4, 2, 2),), {"upscale_factor": 2}),
    ],
    takes=ALL,
    onnx=_shuffle_form,
)
def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    """(..., channels * r * r, height, width) as (..., channels, height * r, width * r).

    Shi et al., Real-Time Single Image and Video Super-Resolution, 2016. Raises ShapeError unless
    the channels divide.

    >>> ds.pixel_shuffle(ds.arange(4).reshape(1, 4, 1, 1), 2).tolist()
    [[[[0, 1], [2, 3]]]]
    """
    _image("pixel_shuffle", x)
    r = int(upscale_factor)
    *lead, channels, height, width = shape_of(x)
    if r < 1 or x.shape[-3] % (r * r):
        raise op_error(
            ShapeError, "pixel_shuffle", f"{describe(x)} and upscale_factor={upscale_factor}",
            "channels that the factor's square divides", user_line(),
        )  # fmt: skip
    n = len(lead)
    parts = x.reshape((*lead, quotient(channels, r * r), r, r, height, width))
    parts = parts.permute_dims((*range(n + 1), n + 3, n + 1, n + 4, n + 2))
    return parts.reshape((*lead, quotient(channels, r * r), times(height, r), times(width, r)))


def _unshuffle_reference(x: Any, downscale_factor: int) -> Any:
    r = downscale_factor
    parts = [x[..., i::r, j::r] for i, j in np.ndindex(r, r)]
    out = np.stack(parts, axis=-3)
    return out.reshape(*x.shape[:-3], -1, *out.shape[-2:])


@composite(
    reference=_unshuffle_reference,
    samples=lambda: [
        Sample(((2, 2, 6, 4),), {"downscale_factor": 2}),
        Sample(((1, 3, 6),), {"downscale_factor": 3}),
    ],
    takes=ALL,
)
def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    """The inverse of `pixel_shuffle`. Raises ShapeError unless height and width divide.

    >>> ds.pixel_unshuffle(ds.arange(4).reshape(1, 1, 2, 2), 2).tolist()
    [[[[0]], [[1]], [[2]], [[3]]]]
    """
    _image("pixel_unshuffle", x)
    r = int(downscale_factor)
    *lead, channels, height, width = shape_of(x)
    if r < 1 or x.shape[-2] % r or x.shape[-1] % r:
        raise op_error(
            ShapeError, "pixel_unshuffle", f"{describe(x)} and downscale_factor={r}",
            "a height and width that the factor divides", user_line(),
        )  # fmt: skip
    n = len(lead)
    parts = x.reshape((*lead, channels, quotient(height, r), r, quotient(width, r), r))
    parts = parts.permute_dims((*range(n + 1), n + 2, n + 4, n + 1, n + 3))
    return parts.reshape((*lead, times(channels, r * r), quotient(height, r), quotient(width, r)))


def _channels_reference(x: Any, groups: int) -> Any:
    order = np.arange(x.shape[1]).reshape(groups, -1).T.reshape(-1)
    return x[:, order]


@composite(
    reference=_channels_reference,
    samples=lambda: [
        Sample(((2, 6, 3, 2),), {"groups": 3}),
        Sample(((1, 4, 5),), {"groups": 2}),
        Sample(((0, 4, 5, 1),), {"groups": 4}),
    ],
    takes=ALL,
)
def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Channels (the second axis) dealt out: the first of each group, then the second of each.

    Zhang et al., ShuffleNet, 2017. Raises ShapeError unless the groups divide the channels.

    >>> ds.channel_shuffle(ds.arange(4).reshape(1, 4, 1), 2).tolist()
    [[[0], [2], [1], [3]]]
    """
    _image("channel_shuffle", x)
    batch, channels, *rest = shape_of(x)
    if groups < 1 or x.shape[1] % groups:
        raise op_error(
            ShapeError, "channel_shuffle", f"{describe(x)} and {groups} groups",
            "groups that divide the channels", user_line(),
        )  # fmt: skip
    parts = x.reshape((batch, groups, quotient(channels, groups), *rest))
    return parts.swapaxes(1, 2).reshape(shape_of(x))


def native_channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """PyTorch's other name for `channel_shuffle`.

    >>> ds.native_channel_shuffle(ds.arange(4).reshape(1, 4, 1), 2).tolist()
    [[[0], [2], [1], [3]]]
    """
    return channel_shuffle(x, groups)
