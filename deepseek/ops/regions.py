"""Uneven windows reduced: the records behind adaptive and fractional pooling.

Such windows are reads at computed places: so many elements from each of the starts on, some of
which do not count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from deepseek.frontend.tensor import Tensor, record
from deepseek.ir.dtype import int64
from deepseek.ir.op import Sample
from deepseek.ir.shape import Size, numel
from deepseek.ops.activation import widened
from deepseek.ops.create import arange
from deepseek.ops.define import (
    composite,
    converted,
    filled,
    minus,
    op_of,
    plus,
    quotient,
    shape_of,
)
from deepseek.ops.elementwise import minimum, where
from deepseek.ops.index import take, take_along_axis
from deepseek.ops.reductions import argmax, lowest
from deepseek.ops.transcendental import floor
from deepseek.ops.windowed import flat_place, last

__all__ = ["adaptive_avg_pool", "adaptive_max_pool"]

Ints = tuple[int, ...]


def regions(size: Size, count: int) -> tuple[Tensor, Tensor, Size]:
    """Starts and lengths of the parts of an axis that adaptive pooling reduces, and the most.

    Part i goes from floor(i * size / count) to ceil((i + 1) * size / count).
    """
    at, n = arange(count), filled((), size, int64)
    start = at * n // count
    length = ((at + 1) * n + (count - 1)) // count - start
    return start, length, plus(quotient(plus(size, count - 1), count), 1)


def _read(x: Tensor, starts: Sequence[Tensor], reach: Sequence[Size]) -> Tensor:
    """(..., places, elements) for each of the last axes in turn: windows of equal reach.

    Where a window goes beyond an axis, its last element is repeated.
    """
    first = x.ndim - len(starts)
    for axis, (start, count) in enumerate(zip(starts, reach, strict=True), first):
        place = start.reshape((-1, 1)) + arange(count)
        x = take(x, minimum(place, filled((), minus(shape_of(x)[axis], 1), int64)), axis=axis)
        order = [a for a in range(x.ndim) if a != axis + 1]
        x = x.permute_dims((*order, axis + 1))
    return x


def _counting(lengths: Sequence[Tensor], reach: Sequence[Size]) -> Tensor:
    """Which elements of the windows count: (*places, *elements)."""
    n = len(lengths)
    out: Tensor | None = None
    for i, (length, count) in enumerate(zip(lengths, reach, strict=True)):
        place = tuple(-1 if k == i else 1 for k in range(n))
        there = arange(count).reshape(place) < length.reshape((*place, *(1,) * n))
        out = there if out is None else out & there
    assert out is not None
    return out


def _adaptive_parts(shape: Ints, output_size: Ints) -> Any:
    """(place in the result, slices of the input) of a NumPy reference."""
    for at in np.ndindex(*output_size):
        parts = zip(at, shape[-len(output_size) :], output_size, strict=True)
        yield at, tuple(slice(i * n // c, -(-(i + 1) * n // c)) for i, n, c in parts)


def _adaptive_avg_reference(x: Any, output_size: Ints) -> Any:
    n = len(output_size)
    out = np.empty((*x.shape[:-n], *output_size), x.dtype)
    for at, part in _adaptive_parts(x.shape, output_size):
        out[(..., *at)] = x[(..., *part)].mean(axis=last(n))
    return out


@composite(
    reference=_adaptive_avg_reference,
    samples=lambda: [
        Sample(((2, 3, 7),), {"output_size": (3,)}),
        Sample(((1, 2, 5, 8),), {"output_size": (4, 3)}),
        Sample(((2, 3, 4, 5),), {"output_size": (5, 2, 1)}),
    ],
    tolerance=16,
)
def adaptive_avg_pool(x: Tensor, output_size: Ints) -> Tensor:
    """The means of parts of the last axes, which overlap where the sizes do not divide.

    >>> ds.adaptive_avg_pool(ds.arange(5.0), (2,)).tolist()
    [1.0, 3.0]
    """
    n = len(output_size)
    out = widened(x)
    for i, count in enumerate(output_size):
        axis = x.ndim - n + i
        start, length, reach = regions(shape_of(x)[axis], count)
        seen = _read(out.swapaxes(axis, -1), [start], [reach])
        counts = where(_counting([length], [reach]), seen, 0).sum(axis=-1)
        out = (counts / converted(length, out.dtype)).swapaxes(axis, -1)
    return converted(out, x.dtype)


def _adaptive_max_reference(x: Any, output_size: Ints) -> Any:
    n = len(output_size)
    lead, sizes = x.shape[:-n], x.shape[-n:]
    values = np.empty((*lead, *output_size), x.dtype)
    indices = np.empty((*lead, *output_size), np.int64)
    numbers = np.arange(math.prod(sizes)).reshape(sizes)
    for at, part in _adaptive_parts(x.shape, output_size):
        found = x[(..., *part)].reshape(*lead, -1)
        values[(..., *at)] = found.max(axis=-1)
        indices[(..., *at)] = numbers[part].reshape(-1)[found.argmax(axis=-1)]
    return values, indices


@composite(
    reference=_adaptive_max_reference,
    samples=lambda: [
        Sample(((2, 3, 7),), {"output_size": (3,)}),
        Sample(((1, 2, 5, 8),), {"output_size": (4, 3)}),
        Sample(((2, 3, 4, 5),), {"output_size": (5, 2, 1)}),
    ],
)
def adaptive_max_pool(x: Tensor, output_size: Ints) -> tuple[Tensor, Tensor]:
    """The largest elements of parts of the last axes, and where they are in these flattened.

    >>> values, indices = ds.adaptive_max_pool(ds.asarray([1.0, 3.0, 2.0]), (2,))
    >>> values.tolist(), indices.tolist()
    ([3.0, 3.0], [1, 1])
    """
    n = len(output_size)
    sizes = shape_of(x)[-n:]
    starts, lengths, reach = zip(*map(regions, sizes, output_size), strict=True)
    seen = where(_counting(lengths, reach), _read(x, starts, reach), lowest(x.dtype))
    best: Tensor = record(op_of(argmax), seen, axes=tuple(range(seen.ndim - n, seen.ndim)))
    return _at(x, flat_place(best, starts, reach, sizes, (1,) * n), n)


def _at(x: Tensor, places: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """(the elements of x's last n axes flattened at some places, these places)."""
    lead = shape_of(x)[:-n]
    flat = x.reshape((*lead, numel(shape_of(x)[-n:])))
    some = places.reshape((*lead, numel(shape_of(places)[len(lead) :])))
    return take_along_axis(flat, some, axis=-1).reshape(shape_of(places)), places


def fractional_max(
    x: Tensor, kernel_size: Ints, output_size: Ints, samples: Tensor
) -> tuple[Tensor, Tensor]:
    """(values, indices) of windows whose starts are spread pseudo-randomly (Graham, 2014).

    `samples` (batch, channels, axes), from 0 to 1, shift the sequence of starts of each axis; the
    last window ends where the axis does. As in PyTorch, of two axes the last one's come first.
    """
    n = len(kernel_size)
    samples = samples.flip(-1) if n == 2 else samples
    sizes = shape_of(x)[-n:]
    # One axis for each of the result's, then one for each of the window's.
    place: Tensor | None = None
    for i, (size, k, count) in enumerate(zip(sizes, kernel_size, output_size, strict=True)):
        u = samples[..., i : i + 1]
        room = converted(filled((), minus(size, k), int64), u.dtype)
        alpha = room / max(count - 1, 1)
        steps = converted(arange(count), u.dtype)
        start = converted(floor((steps + u) * alpha), int64) - converted(floor(u * alpha), int64)
        start = where(arange(count) == count - 1, filled((), minus(size, k), int64), start)
        lead = shape_of(start)[:-1]
        out_axes = tuple(count if a == i else 1 for a in range(n))
        within = arange(k).reshape(tuple(k if a == i else 1 for a in range(n)))
        at = start.reshape((*lead, *out_axes, *(1,) * n)) + within
        place = at if place is None else place * filled((), size, int64) + at
    assert place is not None
    lead, count = shape_of(x)[:-n], math.prod(output_size)
    wide = place.broadcast_to((*lead, *output_size, *kernel_size))
    places = wide.reshape((*lead, count, math.prod(kernel_size)))
    flat = x.reshape((*lead, numel(sizes)))
    every = places.reshape((*lead, count * math.prod(kernel_size)))
    seen = take_along_axis(flat, every, axis=-1).reshape(shape_of(places))
    best = seen.argmax(axis=-1, keepdims=True)
    chosen = take_along_axis(places, best, axis=-1).reshape((*lead, *output_size))
    return _at(x, chosen, n)
