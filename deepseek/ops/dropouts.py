"""Dropout of whole channels, and dropout that keeps mean 0 and variance 1: PyTorch's functions.

In flow float tensors and a probability, out flow tensors of the same shape and dtype. Each call
draws once from a generator; the records below are pure functions of (seed, draw).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, DTypeError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import uint32
from deepseek.ir.op import Sample
from deepseek.ir.shape import Shape
from deepseek.ops.define import composite, describe, filled, shape_of
from deepseek.ops.elementwise import where
from deepseek.ops.random import Generator, next_draw, philox_reference, random_bits
from deepseek.ops.rectifiers import SELU_ALPHA, SELU_SCALE

__all__ = ["alpha_dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout"]

# What SELU tends to on the left, and so what stands for a dropped element.
SATURATED = -SELU_ALPHA * SELU_SCALE


def _mask_shape(shape: Shape, channels: bool) -> Shape:
    """One element for each of x, or for each channel of each sample."""
    return (*shape[:2], *(1 for _ in shape[2:])) if channels else shape


def _kept(x: Tensor, seed: Tensor, draw: Tensor, p: float, channels: bool) -> Tensor:
    """Where the bits of (seed, draw) say that an element stays."""
    bits = random_bits(seed, draw, _mask_shape(shape_of(x), channels))
    return bits >= filled((), int(p * 2**32), uint32)


def _kept_reference(x: Any, seed: Any, draw: Any, p: float, channels: bool) -> Any:
    shape: Any = _mask_shape(x.shape, channels)
    low, high = np.uint64(0xFFFFFFFF), np.uint64(32)
    at = np.arange(math.prod(shape), dtype=np.uint64)
    number = np.asarray(draw).astype(np.uint64)
    words = np.broadcast_arrays(at, at >> high, number & low, number >> high)
    key = np.array([np.uint64(seed) & low, np.uint64(seed) >> high])
    bits = philox_reference(np.stack(words, axis=-1), key)[..., 0].reshape(shape)
    return bits >= int(p * 2**32)


def _samples(**kwargs: Any) -> list[Sample]:
    return [
        Sample(((3, 37), np.uint64(7), np.int64(1)), {"p": 0.5, **kwargs}),
        Sample(((2, 5, 3, 2), np.uint64(7), np.int64(2)), {"p": 0.1, **kwargs}),
        Sample(((0, 3, 2), np.uint64(7), np.int64(3)), {"p": 0.5, **kwargs}),
        Sample(((4, 5), np.uint64(7), np.int64(3)), {"p": 1.0, **kwargs}),
    ]


def _feature_reference(x: Any, seed: Any, draw: Any, p: float) -> Any:
    if p == 1:
        return np.zeros_like(x)
    return np.where(_kept_reference(x, seed, draw, p, True), x / x.dtype.type(1 - p), 0)


@composite(reference=_feature_reference, samples=_samples)
def feature_dropout_(x: Tensor, seed: Tensor, draw: Tensor, p: float) -> Tensor:
    """x with each channel of each sample dropped where the bits of (seed, draw) say so."""
    if p == 1:
        return x * 0
    return where(_kept(x, seed, draw, p, True), x * (1 / (1 - p)), 0)


def _affine(p: float) -> tuple[float, float]:
    """(a, b): a * x + b has mean 0 and variance 1 again after a share p became SATURATED."""
    a = 1 / math.sqrt((SATURATED * SATURATED * p + 1) * (1 - p))
    return a, -a * p * SATURATED


def _alpha_reference(x: Any, seed: Any, draw: Any, p: float, channels: bool) -> Any:
    if p == 1:
        return np.zeros_like(x)
    a, b = _affine(p)
    return a * np.where(_kept_reference(x, seed, draw, p, channels), x, SATURATED) + b


@composite(
    reference=_alpha_reference,
    samples=lambda: [*_samples(channels=False), *_samples(channels=True)],
)
def alpha_dropout_(x: Tensor, seed: Tensor, draw: Tensor, p: float, channels: bool) -> Tensor:
    """x with elements or channels saturated where the bits of (seed, draw) say so, then scaled."""
    if p == 1:
        return x * 0
    a, b = _affine(p)
    return where(_kept(x, seed, draw, p, channels), x * a + b, a * SATURATED + b)


# ------------------------------------------------------------------------------------- functions


def _checked(op: str, x: Tensor, p: float, ranks: tuple[int, ...], wanted: str) -> None:
    """Raise unless p is a probability, and x float with a right number of axes."""
    if not 0 <= p <= 1:
        raise op_error(ArgumentError, op, f"p={p}", "a probability", user_line())
    if not x.dtype.is_float:
        raise op_error(DTypeError, op, describe(x), "a float tensor", user_line())
    if ranks and x.ndim not in ranks:
        raise op_error(ShapeError, op, describe(x), wanted, user_line())


def _feature_dropout(x: Tensor, p: float, training: bool, generator: Generator | None) -> Tensor:
    """Channels of (batch, channels, ...) dropped in training."""
    if not training or p == 0:
        return x
    out: Tensor = feature_dropout_(x, *next_draw(generator), float(p))
    return out


def dropout1d(
    x: Tensor, p: float = 0.5, training: bool = True, *, generator: Generator | None = None
) -> Tensor:
    """x (batch, channels, length), or without a batch, with whole channels set to 0.

    In training each channel of each sample is dropped with probability p, the others are divided by
    1 - p (Tompson et al., 2015). Raises ShapeError for other numbers of axes, DTypeError unless x
    is float, ArgumentError unless 0 <= p <= 1.

    >>> sorted(set(ds.dropout1d(ds.ones((1, 64, 3)), 0.5).sum(axis=-1).tolist()[0]))
    [0.0, 6.0]
    """
    _checked("dropout1d", x, p, (2, 3), "(batch, channels, length) or (channels, length)")
    if x.ndim == 2:
        return _feature_dropout(x[None], p, training, generator)[0]
    return _feature_dropout(x, p, training, generator)


def dropout2d(
    x: Tensor, p: float = 0.5, training: bool = True, *, generator: Generator | None = None
) -> Tensor:
    """`dropout1d` for (batch, channels, height, width).

    Three axes are taken for (batch, channels, length), as PyTorch does.

    >>> ds.dropout2d(ds.ones((2, 3, 4, 4)), p=1.0).sum().item()
    0.0
    """
    wanted = "(batch, channels, height, width) or (batch, channels, length)"
    _checked("dropout2d", x, p, (3, 4), wanted)
    return _feature_dropout(x, p, training, generator)


def dropout3d(
    x: Tensor, p: float = 0.5, training: bool = True, *, generator: Generator | None = None
) -> Tensor:
    """`dropout1d` for (batch, channels, depth, height, width), or without a batch.

    >>> ds.dropout3d(ds.ones((2, 3, 2, 2, 2)), training=False).sum().item()
    48.0
    """
    wanted = "(batch, channels, depth, height, width), or without a batch"
    _checked("dropout3d", x, p, (4, 5), wanted)
    if x.ndim == 4:
        return _feature_dropout(x[None], p, training, generator)[0]
    return _feature_dropout(x, p, training, generator)


def alpha_dropout(
    x: Tensor, p: float = 0.5, training: bool = False, *, generator: Generator | None = None
) -> Tensor:
    """x, in training with elements set to what SELU tends to on the left, with probability p.

    Then scaled and moved so that mean 0 and variance 1 are kept (Klambauer et al., 2017). Raises
    ArgumentError unless 0 <= p <= 1, DTypeError unless x is float.

    >>> len(set(ds.alpha_dropout(ds.ones(64), training=True).tolist()))
    2
    """
    _checked("alpha_dropout", x, p, (), "")
    if not training or p == 0:
        return x
    out: Tensor = alpha_dropout_(x, *next_draw(generator), float(p), False)
    return out


def feature_alpha_dropout(
    x: Tensor, p: float = 0.5, training: bool = False, *, generator: Generator | None = None
) -> Tensor:
    """`alpha_dropout` of whole channels of x (batch, channels, ...).

    Raises ShapeError for fewer than two axes.

    >>> x = ds.feature_alpha_dropout(ds.ones((2, 3, 64)), training=True)
    >>> bool((x == x[..., :1]).all())
    True
    """
    _checked("feature_alpha_dropout", x, p, (), "")
    if not training or p == 0:
        return x
    if x.ndim < 2:
        raise op_error(
            ShapeError, "feature_alpha_dropout", describe(x), "(batch, channels, ...)", user_line()
        )
    out: Tensor = alpha_dropout_(x, *next_draw(generator), float(p), True)
    return out
