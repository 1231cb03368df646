"""Random numbers that are made of uniform ones: distributions, choices and permutations.

All come from the one stream of `random`: the same bits on every backend, a new draw each call.
"""

from __future__ import annotations

import math
from typing import Any

from deepseek.errors import ArgumentError, DTypeError, op_error, user_line
from deepseek.frontend.devices import checked_device
from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import DType, dtype_of, float32, float64, int64
from deepseek.ir.shape import shape_of as given_shape
from deepseek.ops.activation import widened
from deepseek.ops.create import finished
from deepseek.ops.define import as_tensor, axis_of, converted, describe, shape_of
from deepseek.ops.elementwise import maximum, minimum, where
from deepseek.ops.index import take
from deepseek.ops.methods import method
from deepseek.ops.ordering import sort_
from deepseek.ops.random import Generator, gumbel, rand, randint, randperm
from deepseek.ops.searching import searchsorted
from deepseek.ops.special import ndtr, ndtri
from deepseek.ops.transcendental import log, log1p

__all__ = ["exponential", "multinomial", "permutation", "randint_like", "truncated_normal"]


def _dtype(op: str, dtype: Any) -> DType:
    made = float32 if dtype is None else dtype_of(dtype)
    if not made.is_float:
        raise op_error(ArgumentError, op, f"dtype {made}", "a float dtype", user_line())
    return made


def exponential(
    scale: Any = 1.0, size: Any = (), *, dtype: Any = None, generator: Generator | None = None,
    device: Any = None, requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Numbers drawn from the exponential distribution with the given mean (float32 by default).

    Raises ArgumentError unless the mean is above 0.

    >>> ds.exponential(2.0, (2, 3)).shape
    (2, 3)
    """
    checked_device(device)
    made = _dtype("exponential", dtype)
    if not isinstance(scale, Tensor) and not 0 < scale < math.inf:
        raise op_error(
            ArgumentError, "exponential", f"scale={scale}", "a mean above 0", user_line()
        )
    u = rand(given_shape(size), dtype=made.accumulator, generator=generator)
    return finished(converted(log1p(-u) * -scale, made), requires_grad, device)


def truncated_normal(
    mean: float = 0.0, std: float = 1.0, low: float = -2.0, high: float = 2.0, size: Any = (), *,
    dtype: Any = None, generator: Generator | None = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Numbers drawn from the normal distribution, but from low to high only (float32 by default).

    By the inverse of the distribution function. Raises ArgumentError unless low < high.

    >>> x = ds.truncated_normal(0.0, 1.0, -1.0, 1.0, 100)
    >>> ds.all(ds.abs(x) <= 1)
    tensor(True)
    """
    checked_device(device)
    made = _dtype("truncated_normal", dtype)
    if not low < high or std <= 0:
        got = f"low={low}, high={high}, std={std}"
        raise op_error(ArgumentError, "truncated_normal", got, "low < high, std > 0", user_line())
    # The tail that is farther from the middle has the digits: it is turned to the left.
    turned = low + high > 2 * mean
    left, right = ((mean - high) / std, (mean - low) / std) if turned else (
        (low - mean) / std, (high - mean) / std)  # fmt: skip
    first, last = (ndtr(as_tensor(v, "truncated_normal", float64)) for v in (left, right))
    u = rand(given_shape(size), dtype=float64, generator=generator)
    x = ndtri(first + (last - first) * u)
    x = minimum(maximum(x, left), right) * (-std if turned else std) + mean
    return finished(converted(x, made), requires_grad, device)


def randint_like(
    x: Tensor, /, low: int, high: int | None = None, *, dtype: Any = None,
    generator: Generator | None = None, device: Any = None,
) -> Tensor:  # fmt: skip
    """`randint` of x's shape and (by default) dtype.

    >>> ds.randint_like(ds.zeros(2, 3), 10).dtype
    deepseek.float32
    """
    made = x.dtype if dtype is None else dtype
    device = x._value.type.device if device is None else device
    return randint(low, high, shape_of(x), dtype=made, generator=generator, device=device)


def permutation(x: Tensor | int, /, *, axis: int = 0, generator: Generator | None = None) -> Tensor:
    """The slices of x along an axis in random order, or 0 ... x - 1 for an int.

    >>> ds.permutation(ds.asarray([3, 1, 2])).sort()
    tensor([1, 2, 3])
    """
    if isinstance(x, int):
        return randperm(x, generator=generator)
    at = axis_of("permutation", x, axis)
    return take(x, randperm(x.shape[at], generator=generator), axis=at)


@method("multinomial")
def multinomial(
    p: Tensor, num_samples: int, replacement: bool = False, *, generator: Generator | None = None
) -> Tensor:
    """Places (int64) drawn by probabilities along the last axis, which need not have the sum 1.

    p is a vector or a matrix of distributions, the result has num_samples places for each. Without
    replacement each place is drawn once at most, those of probability 0 last (by the largest of
    log(p) plus Gumbel noise). Raises ArgumentError for more samples than places. DTypeError unless
    p is of floats.

    >>> ds.multinomial(ds.asarray([0.0, 3.0, 0.0]), 2, replacement=True)
    tensor([1, 1])
    """
    p = as_tensor(p, "multinomial")
    if not p.dtype.is_float:
        raise op_error(DTypeError, "multinomial", describe(p), "floats", user_line())
    if p.ndim not in (1, 2) or num_samples < 1:
        raise op_error(
            ArgumentError, "multinomial", f"{describe(p)} and {num_samples} samples",
            "a vector or matrix of probabilities, and a sample at least", user_line(),
        )  # fmt: skip
    places = p.shape[-1]
    wide = widened(p)
    if replacement:
        ends = wide.cumulative_sum(axis=-1)
        # Shares in (0, 1], so that a place without a share is never met.
        u = 1 - rand((*shape_of(p)[:-1], num_samples), dtype=wide.dtype, generator=generator)
        return minimum(searchsorted(ends, u * ends.narrow(-1, places - 1, 1)), places - 1)
    if num_samples > places:
        raise op_error(
            ArgumentError, "multinomial", f"{num_samples} samples without replacement",
            f"at most {places}", user_line(),
        )  # fmt: skip
    noise = gumbel(shape_of(p), dtype=wide.dtype, generator=generator)
    scores = where(wide > 0, log(where(wide > 0, wide, 1)) + noise, -math.inf)
    return converted(sort_(scores, descending=True)[1].narrow(-1, 0, num_samples), int64)
