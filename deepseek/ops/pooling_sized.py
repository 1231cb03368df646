"""Pooling to given sizes, and back: adaptive and fractional pooling, unpooling.

PyTorch's names and arguments; `regions` and `windowed` have the records behind them.
"""

from __future__ import annotations

from typing import Any

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ops.conv import spatial
from deepseek.ops.define import describe, shape_of
from deepseek.ops.pooling import Spread, refuse_rank, window_of
from deepseek.ops.random import Generator, rand
from deepseek.ops.regions import adaptive_avg_pool, adaptive_max_pool, fractional_max
from deepseek.ops.windowed import avg_pool, last, max_pool, max_pool_indices, max_unpool

__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d",
    "adaptive_max_pool2d", "adaptive_max_pool3d", "fractional_max_pool2d",
    "fractional_max_pool3d", "max_unpool1d", "max_unpool2d", "max_unpool3d",
]  # fmt: skip

Ints = tuple[int, ...]


def _sizes(op: str, rank: int, x: Tensor, output_size: Any) -> Ints:
    """The sizes wanted, x's own for None."""
    refuse_rank(op, rank, x)
    given = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * rank
    if len(given) == rank and None in given:
        given = [int(n) if s is None else s for s, n in zip(given, x.shape[-rank:], strict=True)]
    return spatial(op, "output_size", given, rank, 0)


def _even(x: Tensor, sizes: Ints) -> Ints | None:
    """The window of parts that do not overlap, where all have one size."""
    given = x.shape[-len(sizes) :]
    if any(s == 0 or n % s for n, s in zip(given, sizes, strict=True)):
        return None
    return tuple(int(n) // s for n, s in zip(given, sizes, strict=True))


def _adaptive_avg(op: str, rank: int, x: Tensor, output_size: Any) -> Tensor:
    sizes = _sizes(op, rank, x, output_size)
    if all(s == 1 for s in sizes):
        return x.mean(axis=last(rank), keepdims=True)
    window = _even(x, sizes)
    if window is None:
        return adaptive_avg_pool(x, sizes)
    return avg_pool(x, window, window, (0,) * rank, True)


def _adaptive_max(op: str, rank: int, x: Tensor, output_size: Any, return_indices: bool) -> Any:
    sizes = _sizes(op, rank, x, output_size)
    window = _even(x, sizes)
    if window is None:
        found = adaptive_max_pool(x, sizes)
        return found if return_indices else found[0]
    given = (window, window, (0,) * rank, (1,) * rank)
    values = max_pool(x, *given)
    return (values, max_pool_indices(x, *given)) if return_indices else values


def adaptive_avg_pool1d(
    x: Tensor, output_size: Any
) -> Tensor:  # fmt: skip
    """The means of `output_size` parts of (batch, channels, length).

    Part i goes from floor(i * n / size) to ceil((i + 1) * n / size), so that parts may overlap.
    None stands for the input's own size.

    >>> ds.adaptive_avg_pool1d(ds.arange(5.0).reshape(1, 1, 5), 2).tolist()
    [[[1.0, 3.0]]]
    """
    return _adaptive_avg("adaptive_avg_pool1d", 1, x, output_size)


def adaptive_avg_pool2d(
    x: Tensor, output_size: Any
) -> Tensor:  # fmt: skip
    """The means of `output_size` parts of (batch, channels, height, width).

    >>> ds.adaptive_avg_pool2d(ds.ones(1, 3, 7, 9), (None, 4)).shape
    (1, 3, 7, 4)
    """
    return _adaptive_avg("adaptive_avg_pool2d", 2, x, output_size)


def adaptive_avg_pool3d(
    x: Tensor, output_size: Any
) -> Tensor:  # fmt: skip
    """The means of `output_size` parts of (batch, channels, depth, height, width).

    >>> ds.adaptive_avg_pool3d(ds.ones(1, 3, 4, 5, 6), 1).shape
    (1, 3, 1, 1, 1)
    """
    return _adaptive_avg("adaptive_avg_pool3d", 3, x, output_size)


def adaptive_max_pool1d(
    x: Tensor, output_size: Any, return_indices: bool = False
) -> Any:  # fmt: skip
    """The largest elements of `output_size` parts of (batch, channels, length).

    The parts are those of `adaptive_avg_pool1d`, the indices those of `max_pool1d`.

    >>> ds.adaptive_max_pool1d(ds.arange(5.0).reshape(1, 1, 5), 2).tolist()
    [[[2.0, 4.0]]]
    """
    return _adaptive_max("adaptive_max_pool1d", 1, x, output_size, return_indices)


def adaptive_max_pool2d(
    x: Tensor, output_size: Any, return_indices: bool = False
) -> Any:  # fmt: skip
    """The largest elements of `output_size` parts of (batch, channels, height, width).

    >>> values, indices = ds.adaptive_max_pool2d(ds.ones(1, 1, 5, 5), 2, return_indices=True)
    >>> indices.tolist()
    [[[[0, 2], [10, 12]]]]
    """
    return _adaptive_max("adaptive_max_pool2d", 2, x, output_size, return_indices)


def adaptive_max_pool3d(
    x: Tensor, output_size: Any, return_indices: bool = False
) -> Any:  # fmt: skip
    """The largest elements of `output_size` parts of (batch, channels, depth, height, width).

    >>> ds.adaptive_max_pool3d(ds.ones(1, 3, 4, 5, 6), 2).shape
    (1, 3, 2, 2, 2)
    """
    return _adaptive_max("adaptive_max_pool3d", 3, x, output_size, return_indices)


def _fractional(
    op: str, rank: int, x: Tensor, kernel_size: Spread, output_size: Any, output_ratio: Any,
    return_indices: bool, samples: Tensor | None, generator: Generator | None,
) -> Any:  # fmt: skip
    refuse_rank(op, rank, x)
    window = spatial(op, "kernel_size", kernel_size, rank)
    if (output_size is None) == (output_ratio is None):
        raise op_error(
            ArgumentError, op, f"output_size={output_size} and output_ratio={output_ratio}",
            "one of them", user_line(),
        )  # fmt: skip
    given = [int(n) for n in x.shape[-rank:]]
    if output_size is None:
        ratios = (output_ratio,) * rank if isinstance(output_ratio, float) else output_ratio
        output_size = [int(n * r) for n, r in zip(given, ratios, strict=True)]
    sizes = spatial(op, "output_size", output_size, rank)
    if any(s + k - 1 > n for s, k, n in zip(sizes, window, given, strict=True)):
        raise op_error(
            ShapeError, op, f"{describe(x)}, windows {window} and output_size {sizes}",
            "windows that fit side by side, or overlap", user_line(),
        )  # fmt: skip
    alone = x.ndim == rank + 1
    x = x.reshape((1, *shape_of(x))) if alone else x
    if samples is None:
        samples = rand(*shape_of(x)[:2], rank, generator=generator)
    found = fractional_max(x, window, sizes, samples)
    parts = tuple(t.reshape(shape_of(t)[1:]) for t in found) if alone else found
    return parts if return_indices else parts[0]


def fractional_max_pool2d(
    x: Tensor, kernel_size: Spread, output_size: Any = None, output_ratio: Any = None,
    return_indices: bool = False, _random_samples: Tensor | None = None,
    *, generator: Generator | None = None,
) -> Any:  # fmt: skip
    """The largest elements of windows placed at random, `output_size` of them on each axis.

    From (batch, channels, height, width); the windows' starts follow Graham's pseudo-random
    sequences (Fractional Max-Pooling, 2014), one for each channel and axis, shifted by
    `_random_samples` (batch, channels, 2) from 0 to 1.

    >>> ds.fractional_max_pool2d(ds.ones(1, 1, 7, 7), 2, output_size=4).shape
    (1, 1, 4, 4)
    """
    return _fractional(
        "fractional_max_pool2d", 2, x, kernel_size, output_size, output_ratio, return_indices,
        _random_samples, generator,
    )  # fmt: skip


def fractional_max_pool3d(
    x: Tensor, kernel_size: Spread, output_size: Any = None, output_ratio: Any = None,
    return_indices: bool = False, _random_samples: Tensor | None = None,
    *, generator: Generator | None = None,
) -> Any:  # fmt: skip
    """The largest elements of windows placed at random, `output_size` of them on each axis.

    From (batch, channels, depth, height, width); the windows' starts follow Graham's pseudo-random
    sequences (Fractional Max-Pooling, 2014), one for each channel and axis, shifted by
    `_random_samples` (batch, channels, 3) from 0 to 1.

    >>> ds.fractional_max_pool3d(ds.ones(1, 1, 7, 7, 7), 2, output_ratio=0.5).shape
    (1, 1, 3, 3, 3)
    """
    return _fractional(
        "fractional_max_pool3d", 3, x, kernel_size, output_size, output_ratio, return_indices,
        _random_samples, generator,
    )  # fmt: skip


def _max_unpool(
    op: str, rank: int, x: Tensor, indices: Tensor, kernel_size: Spread, stride: Spread | None,
    padding: Spread, output_size: Any,
) -> Tensor:  # fmt: skip
    refuse_rank(op, rank, x)
    window, steps = window_of(op, rank, kernel_size, stride)
    pads = spatial(op, "padding", padding, rank, 0)
    counts = [int(n) for n in x.shape[-rank:]]
    sizes = [
        (n - 1) * s - 2 * p + k for n, s, p, k in zip(counts, steps, pads, window, strict=True)
    ]
    if output_size is not None:
        given = list(output_size)[-rank:]
        if any(not -s < g - n < s for g, n, s in zip(given, sizes, steps, strict=True)):
            raise op_error(
                ArgumentError, op, f"output_size={tuple(output_size)}",
                f"sizes that differ from {tuple(sizes)} by less than the stride", user_line(),
            )  # fmt: skip
        sizes = given
    return max_unpool(x, indices, tuple(sizes))


def max_unpool1d(
    x: Tensor, indices: Tensor, kernel_size: Spread, stride: Spread | None = None,
    padding: Spread = 0, output_size: Any = None,
) -> Tensor:  # fmt: skip
    """The inverse of `max_pool1d`: its results where they came from, zeros elsewhere.

    `output_size` chooses among the sizes that pooling brings to x's. Raises ArgumentError for
    others.

    >>> x = ds.arange(4.0).reshape(1, 1, 4)
    >>> values, indices = ds.max_pool1d(x, 2, return_indices=True)
    >>> ds.max_unpool1d(values, indices, 2).tolist()
    [[[0.0, 1.0, 0.0, 3.0]]]
    """
    return _max_unpool("max_unpool1d", 1, x, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    x: Tensor, indices: Tensor, kernel_size: Spread, stride: Spread | None = None,
    padding: Spread = 0, output_size: Any = None,
) -> Tensor:  # fmt: skip
    """The inverse of `max_pool2d`: its results where they came from, zeros elsewhere.

    >>> at = ds.asarray([[[[3]]]])
    >>> ds.max_unpool2d(ds.full((1, 1, 1, 1), 7.0), at, 2).tolist()
    [[[[0.0, 0.0], [0.0, 7.0]]]]
    """
    return _max_unpool("max_unpool2d", 2, x, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    x: Tensor, indices: Tensor, kernel_size: Spread, stride: Spread | None = None,
    padding: Spread = 0, output_size: Any = None,
) -> Tensor:  # fmt: skip
    """The inverse of `max_pool3d`: its results where they came from, zeros elsewhere.

    >>> x, at = ds.ones(1, 1, 2, 2, 2), ds.arange(8).reshape(1, 1, 2, 2, 2)
    >>> ds.max_unpool3d(x, at, 2).shape
    (1, 1, 4, 4, 4)
    """
    return _max_unpool("max_unpool3d", 3, x, indices, kernel_size, stride, padding, output_size)
