"""Normalisation of layers, batches, instances, groups and channels, as composites.

Statistics take two plain passes over the data, in float32 where that is narrower.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.op import Sample
from deepseek.ir.shape import Size, same
from deepseek.ops import forms_nn
from deepseek.ops.activation import widened
from deepseek.ops.define import (
    composite,
    converted,
    describe,
    filled,
    is_size,
    quotient,
    shape_of,
)
from deepseek.ops.elementwise import pow_, stop_gradient
from deepseek.ops.reductions import element_count

__all__ = [
    "batch_norm", "group_norm", "instance_norm", "layer_norm", "local_response_norm", "rms_norm",
]  # fmt: skip


def standardized(x: Tensor, axes: Sequence[int], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """x with mean 0 and variance 1 over some axes; its mean and variance, those axes kept."""
    mean = x.mean(axis=axes, keepdims=True)
    distance = x - mean
    variance = (distance * distance).mean(axis=axes, keepdims=True)
    return distance * (variance + eps).rsqrt(), mean, variance


def _channels(x: Tensor, vector: Tensor) -> Tensor:
    """A value for each channel (axis 1) of x, in shape and dtype to compute with."""
    return widened(vector).reshape((1, -1) + (1,) * (x.ndim - 2))


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """y * weight + bias for each channel."""
    if weight is not None:
        y = y * _channels(y, weight)
    return y if bias is None else y + _channels(y, bias)


# ------------------------------------------------------------------------------------- layer norm


def _last_axes(op: str, x: Tensor, normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    """The axes that a normalized_shape stands for. Raises ShapeError unless it has their sizes."""
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    last = shape_of(x)[x.ndim - len(shape) :]
    if not 0 < len(shape) <= x.ndim or not all(map(same, last, shape)):
        raise op_error(
            ShapeError, op, f"{describe(x)} and normalized_shape {shape}",
            "the sizes of its last axes", user_line(),
        )  # fmt: skip
    return tuple(range(x.ndim - len(shape), x.ndim))


def _layer_norm_reference(x: Any, normalized_shape: Any, weight: Any, bias: Any, eps: float) -> Any:
    count = 1 if isinstance(normalized_shape, int) else len(normalized_shape)
    axes = tuple(range(-count, 0))
    y = (x - np.mean(x, axes, keepdims=True)) / np.sqrt(np.var(x, axes, keepdims=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


@composite(
    reference=_layer_norm_reference,
    samples=lambda: [
        Sample(((3, 37), 37, (37,), (37,))),
        Sample(((2, 3, 5),), {"normalized_shape": (3, 5)}),
        Sample(((2, 3, 5), 5, (5,)), {"eps": 1e-3}),
        Sample(((0, 5),), {"normalized_shape": (5,)}),
    ],
    tolerance=64,
    precision="high",
    onnx=forms_nn.layer_norm,
)
def layer_norm(
    x: Tensor, normalized_shape: int | Sequence[int], weight: Tensor | None = None,
    bias: Tensor | None = None, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """x with mean 0 and variance 1 over its last axes, times weight, plus bias (Ba et al. 2016).

    `normalized_shape` are their sizes: ShapeError if x ends otherwise.

    >>> ds.layer_norm(ds.asarray([[1.0, 3.0], [0.0, 10.0]]), 2)
    tensor([[-1.,  1.],
            [-1.,  1.]])
    """
    axes = _last_axes("layer_norm", x, normalized_shape)
    y, _, _ = standardized(widened(x), axes, eps)
    if weight is not None:
        y = y * widened(weight)
    if bias is not None:
        y = y + widened(bias)
    return converted(y, x.dtype)


# ------------------------------------------------------------------------------------- batch norm


def _batch_norm_reference(
    x: Any, running_mean: Any, running_var: Any, weight: Any, bias: Any, training: bool,
    momentum: float, eps: float,
) -> Any:  # fmt: skip
    axes = (0, *range(2, x.ndim))
    shape = (1, -1) + (1,) * (x.ndim - 2)
    if training:
        mean, var = np.mean(x, axis=axes), np.var(x, axis=axes)
    else:
        mean, var = running_mean, running_var
    y = (x - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + eps)
    y = y if weight is None else y * weight.reshape(shape)
    y = y if bias is None else y + bias.reshape(shape)
    if not training or running_mean is None:
        return y
    count = x.size / x.shape[1]
    unbiased = var * count / (count - 1)
    return (
        y,
        running_mean * (1 - momentum) + mean * momentum,
        running_var * (1 - momentum) + unbiased * momentum,
    )


def _batch_norm_samples() -> list[Sample]:
    ones = np.linspace(0.5, 2, 5).astype(np.float32)
    train = {"training": True, "momentum": 0.1, "eps": 1e-5}
    return [
        Sample(((4, 5, 3, 2), (5,), ones, (5,), (5,)), train),
        Sample(((6, 5), (5,), ones, None, None), train),
        Sample(((6, 5, 3), None, None, (5,), (5,)), train),
        Sample(((4, 5, 3, 2), (5,), ones, (5,), (5,)), train | {"training": False}),
        Sample(((2, 5), (5,), ones, None, (5,)), train | {"training": False, "eps": 1e-3}),
    ]


@composite(
    reference=_batch_norm_reference,
    samples=_batch_norm_samples,
    tolerance=64,
    precision="high",
    onnx=forms_nn.batch_norm,
)
def batch_norm_(
    x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None,
    bias: Tensor | None, training: bool, momentum: float, eps: float,
) -> Any:  # fmt: skip
    """Batch normalisation as a function: training gives new running statistics as well."""
    wide = widened(x)
    if not training:
        assert running_mean is not None and running_var is not None
        y = (wide - _channels(x, running_mean)) * (_channels(x, running_var) + eps).rsqrt()
        return converted(_affine(y, weight, bias), x.dtype)
    axes = (0, *range(2, x.ndim))
    y, mean, variance = standardized(wide, axes, eps)
    out = converted(_affine(y, weight, bias), x.dtype)
    if running_mean is None or running_var is None:
        return out
    count = element_count(shape_of(x), axes)
    return (
        out,
        _moved(running_mean, mean, momentum),
        _moved(running_var, _unbiased(variance, count), momentum),
    )


def _unbiased(variance: Tensor, count: Size) -> Tensor:
    number = filled((), count, variance.dtype)
    return variance * (number / (number - 1))


def _moved(running: Tensor, now: Tensor, momentum: float) -> Tensor:
    """A running statistic moved towards the present one."""
    now = stop_gradient(now.reshape(shape_of(running)))
    return converted(
        stop_gradient(widened(running)) * (1 - momentum) + now * momentum, running.dtype
    )


def batch_norm(
    x: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
    weight: Tensor | None = None, bias: Tensor | None = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """x with mean 0 and variance 1 in each channel (axis 1), times weight, plus bias.

    In training by the batch's own statistics, towards which running_mean and running_var (variance
    over n - 1) are moved by `momentum`, unless the batch is empty; otherwise by running_mean and
    running_var. Ioffe and Szegedy 2015. Raises ShapeError for fewer than two axes, parts that have
    not one number for each channel, or one value for each channel in training; ArgumentError for
    missing statistics.

    >>> ds.batch_norm(ds.asarray([[1.0, 5.0], [3.0, 5.0]]), None, None, training=True)
    tensor([[-1.,  0.],
            [ 1.,  0.]])
    """
    if x.ndim < 2:
        raise op_error(ShapeError, "batch_norm", describe(x), "(batch, channels, ...)", user_line())
    if not training and (running_mean is None or running_var is None):
        raise op_error(
            ArgumentError,
            "batch_norm",
            "no running statistics",
            "them, or training=True",
            user_line(),
        )
    if training and is_size(element_count(shape_of(x), (0, *range(2, x.ndim))), 1):
        raise op_error(
            ShapeError, "batch_norm", f"{describe(x)} in training",
            "more than one value for each channel", user_line(),
            "use a larger batch, or training=False",
        )  # fmt: skip
    given = {"running_mean": running_mean, "running_var": running_var, "weight": weight}
    for name, part in (given | {"bias": bias}).items():
        if part is not None and (part.ndim != 1 or not same(shape_of(part)[0], shape_of(x)[1])):
            raise op_error(
                ShapeError, "batch_norm", f"{describe(x)} and {name} {describe(part)}",
                "(batch, channels, ...) and one number for each channel", user_line(),
            )  # fmt: skip
    if training and any(is_size(s, 0) for s in shape_of(x)):
        running_mean = running_var = None  # nothing to be moved towards
    args = (running_mean, running_var, weight, bias)
    done = batch_norm_(x, *args, bool(training), float(momentum), float(eps))
    if not isinstance(done, tuple):
        return done  # type: ignore[no-any-return]
    out, mean, variance = done
    assert running_mean is not None and running_var is not None
    running_mean._rebind(mean._value)
    running_var._rebind(variance._value)
    return out  # type: ignore[no-any-return]


# ---------------------------------------------------------------------------------- instance norm


def _instance_norm_reference(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    axes = tuple(range(2, x.ndim))
    shape = (1, -1) + (1,) * (x.ndim - 2)
    y = (x - np.mean(x, axes, keepdims=True)) / np.sqrt(np.var(x, axes, keepdims=True) + eps)
    y = y if weight is None else y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


@composite(
    reference=_instance_norm_reference,
    samples=lambda: [
        Sample(((2, 3, 4, 5), (3,), (3,)), {"eps": 1e-5}),
        Sample(((2, 3, 4, 5, 2), None, None), {"eps": 1e-5}),
        Sample(((1, 3, 17), (3,), None), {"eps": 1e-3}),
    ],
    tolerance=64,
    precision="high",
    onnx=forms_nn.instance_norm,
)
def instance_norm_(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Each channel of each sample with mean 0 and variance 1, times weight, plus bias."""
    y, _, _ = standardized(widened(x), tuple(range(2, x.ndim)), eps)
    return converted(_affine(y, weight, bias), x.dtype)


def instance_norm(
    x: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None,
    weight: Tensor | None = None, bias: Tensor | None = None, use_input_stats: bool = True,
    momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """x with mean 0 and variance 1 in each channel of each sample, times weight, plus bias.

    Running statistics, where given, are moved towards the mean of the samples' statistics; without
    `use_input_stats` they are what x is normalised by. Ulyanov et al. 2016. Raises ShapeError for
    fewer than three axes.

    >>> ds.instance_norm(ds.asarray([[[1.0, 3.0], [0.0, 10.0]]]))
    tensor([[[-1.,  1.],
             [-1.,  1.]]])
    """
    if x.ndim < 3:
        raise op_error(
            ShapeError, "instance_norm", describe(x), "(batch, channels, sizes...)", user_line()
        )
    if not use_input_stats:
        return batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    if running_mean is not None and running_var is not None:
        axes = tuple(range(2, x.ndim))
        still = stop_gradient(widened(x))
        variance = still.var(axis=axes, correction=1).mean(axis=0)
        running_mean._rebind(_moved(running_mean, still.mean(axis=(0, *axes)), momentum)._value)
        running_var._rebind(_moved(running_var, variance, momentum)._value)
    return instance_norm_(x, weight, bias, float(eps))


# ------------------------------------------------------------------------------ groups of channels


def _group_norm_reference(x: Any, num_groups: int, weight: Any, bias: Any, eps: float) -> Any:
    width = int(np.prod(x.shape[1:])) // num_groups
    groups = x.reshape((x.shape[0], num_groups, width))
    mean, var = groups.mean(-1, keepdims=True), groups.var(-1, keepdims=True)
    y = ((groups - mean) / np.sqrt(var + eps)).reshape(x.shape)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    y = y if weight is None else y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


@composite(
    reference=_group_norm_reference,
    samples=lambda: [
        Sample(((2, 6, 4, 5), 3, (6,), (6,))),
        Sample(((3, 4), 2), {"eps": 1e-3}),
        Sample(((1, 6, 7), 1, (6,))),
        Sample(((0, 4, 3), 2)),
    ],
    tolerance=64,
    precision="high",
    onnx=forms_nn.group_norm,
)
def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """Each group of channels of each sample with mean 0 and variance 1 (Wu and He, 2018).

    x is (batch, channels, ...); weight and bias have an element for each channel. Raises ShapeError
    unless the groups divide the channels.

    >>> ds.group_norm(ds.asarray([[1.0, 3.0, 5.0, 5.0]]), 2, eps=0.0)[0, :2]
    tensor([-1.,  1.])
    """
    if x.ndim < 2 or num_groups < 1 or x.shape[1] % num_groups:
        raise op_error(
            ShapeError, "group_norm", f"{describe(x)} and {num_groups} groups",
            "(batch, channels, ...) of channels that the groups divide", user_line(),
        )  # fmt: skip
    batch, channels, *sizes = shape_of(x)
    grouped = (batch, num_groups, quotient(channels, num_groups), *sizes)
    wide = widened(x).reshape(grouped)
    y, _, _ = standardized(wide, tuple(range(2, wide.ndim)), eps)
    return converted(_affine(y.reshape(shape_of(x)), weight, bias), x.dtype)


def _rms_norm_reference(x: Any, normalized_shape: Any, weight: Any, eps: Any) -> Any:
    count = 1 if isinstance(normalized_shape, int) else len(normalized_shape)
    square = np.mean(x * x, tuple(range(-count, 0)), keepdims=True)
    y = x / np.sqrt(square + (np.finfo(x.dtype).eps if eps is None else eps))
    return y if weight is None else y * weight


@composite(
    reference=_rms_norm_reference,
    samples=lambda: [
        Sample(((3, 37), 37, (37,))),
        Sample(((2, 3, 5),), {"normalized_shape": (3, 5), "eps": 1e-3}),
        Sample(((0, 5), 5)),
    ],
    tolerance=64,
    precision="high",
    onnx=forms_nn.rms_norm,
)
def rms_norm(
    x: Tensor, normalized_shape: int | Sequence[int], weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:  # fmt: skip
    """x over the root of its mean square over its last axes, times weight.

    By default eps is the epsilon of the dtype that x is summed in (Zhang and Sennrich, 2019).
    Raises ShapeError unless `normalized_shape` are the sizes of x's last axes.

    >>> ds.rms_norm(ds.asarray([1.0, 7.0]), (2,), eps=0.0)
    tensor([0.2, 1.4])
    """
    axes = _last_axes("rms_norm", x, normalized_shape)
    wide = widened(x)
    least = float(np.finfo(wide.dtype.numpy).eps) if eps is None else eps
    y = wide * ((wide * wide).mean(axis=axes, keepdims=True) + least).rsqrt()
    return converted(y if weight is None else y * widened(weight), x.dtype)


# --------------------------------------------------------------------------- neighbouring channels


def _local_response_reference(x: Any, size: int, alpha: float, beta: float, k: float) -> Any:
    squares = np.zeros_like(x)
    for c in range(x.shape[1]):
        some = x[:, max(c - size // 2, 0) : c + (size - 1) // 2 + 1]
        squares[:, c] = np.sum(some * some, axis=1) / size
    return x / (k + alpha * squares) ** beta


@composite(
    reference=_local_response_reference,
    samples=lambda: [
        Sample(((2, 7, 3, 2), 3)),
        Sample(((2, 4, 5), 4), {"alpha": 0.5, "beta": 0.5, "k": 2.0}),
        Sample(((0, 3, 2), 2)),
    ],
    tolerance=32,
    precision="high",
    onnx=forms_nn.local_response_norm,
)
def local_response_norm(
    x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """x over (k + alpha * s)**beta, s the mean square of `size` neighbouring channels.

    x is (batch, channels, sizes...); channels beyond the ends count as 0 (Krizhevsky et al., 2012).
    Raises ShapeError for fewer axes, or a size below 1.

    >>> x = ds.ones(1, 3, 1)
    >>> ds.local_response_norm(x, 3, alpha=3.0, beta=1.0).reshape(3)
    tensor([0.33333334, 0.25      , 0.33333334])
    """
    if x.ndim < 3 or size < 1:
        raise op_error(
            ShapeError, "local_response_norm", f"{describe(x)} and size {size}",
            "(batch, channels, sizes...) and a size above 0", user_line(),
        )  # fmt: skip
    wide = widened(x)
    around = [(0, 0)] * x.ndim
    around[1] = (size // 2, (size - 1) // 2)
    squares = (wide * wide).pad(around)
    channels = shape_of(x)[1]
    total = squares.narrow(1, 0, channels)
    for start in range(1, size):
        total = total + squares.narrow(1, start, channels)
    return converted(wide / pow_(k + total * (alpha / size), beta), x.dtype)
