"""Bags of embeddings, each reduced to one vector, and what embedding tables are held to.

In flow integer indices and a table (rows, features), out flows one vector for each bag. A bag is a
row of a matrix of indices, or a stretch of a vector that `offsets` cuts up.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deepseek.config import options
from deepseek.errors import ArgumentError, ShapeError, op_error, unknown, user_line
from deepseek.frontend.tensor import Tensor, state
from deepseek.ir.dtype import int64
from deepseek.ir.op import Sample
from deepseek.ir.shape import same_shape
from deepseek.ops.activation import widened
from deepseek.ops.create import full, zeros
from deepseek.ops.define import (
    as_tensor,
    composite,
    converted,
    describe,
    expanded,
    filled,
    is_size,
    plus,
    shape_of,
)
from deepseek.ops.elementwise import logical_and, maximum, stop_gradient, where
from deepseek.ops.index import indices_of, scatter_add, take
from deepseek.ops.reductions import lowest
from deepseek.ops.scattering import scatter_elements
from deepseek.ops.slicing import narrow
from deepseek.ops.vector_norms import vector_norm

__all__ = ["embedding_bag"]

MODES = ("sum", "mean", "max")


# --------------------------------------------------------------------------------------- the table


def _renorm_reference(weight: Any, indices: Any, max_norm: float, norm_type: float) -> Any:
    out = weight.copy()
    for row in set(np.ravel(indices).tolist()):
        norm = np.linalg.norm(weight[row], norm_type)
        if norm > max_norm:
            out[row] = weight[row] * (max_norm / (norm + 1e-7))
    return out


@composite(
    reference=_renorm_reference,
    samples=lambda: [
        Sample(((5, 3), np.array([[1, 4], [1, 0]])), {"max_norm": 1.0}),
        Sample(((4, 6), np.array([3, 0])), {"max_norm": 0.5, "norm_type": 1.0}),
        Sample(((4, 6), np.zeros((0,), np.int64)), {"max_norm": 0.5}),
    ],
    tolerance=32,
)
def embedding_renorm(
    weight: Tensor, indices: Tensor, max_norm: float, norm_type: float = 2.0
) -> Tensor:
    """The table with the rows at the given indices scaled down to a p-norm of max_norm at most."""
    flat = indices.reshape((-1,))
    norms = vector_norm(widened(weight), norm_type, -1)
    used = _row_counts(flat, weight) > 0
    scale = where(logical_and(used, norms > max_norm), max_norm / (norms + 1e-7), 1)
    scaled = widened(weight) * scale.reshape((-1, 1))
    return converted(scaled, weight.dtype)


def _row_counts(indices: Tensor, weight: Tensor) -> Tensor:
    """How often each row is looked up."""
    none = expanded(filled((), 0, int64), shape_of(weight)[:1])
    return scatter_add(none, 0, indices, filled((), 1, int64))


def by_frequency(weight: Tensor, indices: Tensor) -> Tensor:
    """The table, with each row's gradient over the number of times that it is looked up."""
    counts = maximum(_row_counts(indices.reshape((-1,)), weight), 1)
    still = stop_gradient(weight)
    return still + (weight - still) / converted(counts, weight.dtype).reshape((-1, 1))


# ----------------------------------------------------------------------------------------- the bags


def _bag_reference(
    input: Any, weight: Any, offsets: Any, per_sample_weights: Any, mode: str,  # noqa: A002
    include_last_offset: bool, padding_idx: Any,
) -> Any:  # fmt: skip
    if offsets is None:
        bags = [np.arange(i, i + input.shape[1]) for i in range(0, input.size, input.shape[1] or 1)]
        bags = bags if input.shape[1] else [np.arange(0)] * len(input)
    else:
        ends = [*offsets[1:], *(() if include_last_offset else (input.size,))]
        bags = [np.arange(a, b) for a, b in zip(offsets, ends, strict=False)]
    flat, out = np.ravel(input), np.zeros((len(bags), weight.shape[1]), weight.dtype)
    for i, bag in enumerate(bags):
        bag = np.array([j for j in bag if flat[j] != padding_idx], np.int64)
        rows = weight[flat[bag]]
        if per_sample_weights is not None:
            rows = rows * np.ravel(per_sample_weights)[bag, None]
        if len(rows):
            out[i] = getattr(np, mode)(rows, axis=0)
    return out


def _bag_samples() -> list[Sample]:
    matrix, vector = np.array([[1, 4, 1], [0, 0, 2]]), np.array([3, 0, 3, 1, 2, 2])
    cuts = np.array([0, 2, 2, 5, 6], np.int32)
    plain: dict[str, Any] = {"include_last_offset": False, "padding_idx": None}
    out = [Sample((matrix, (5, 3), None, None), plain | {"mode": m}) for m in MODES]
    out += [Sample((vector, (4, 6), cuts, None), plain | {"mode": m}) for m in MODES]
    padded = plain | {"padding_idx": 2}
    out += [Sample((vector, (4, 6), cuts, None), padded | {"mode": m}) for m in MODES]
    out += [Sample((matrix, (5, 3), None, None), padded | {"mode": m}) for m in MODES]
    last = {"include_last_offset": True, "padding_idx": None, "mode": "sum"}
    out += [
        Sample((matrix, (5, 3), None, (2, 3)), plain | {"mode": "sum"}),
        Sample((vector, (4, 6), cuts, (6,)), padded | {"mode": "sum"}),
        Sample((vector, (4, 6), np.array([0, 2, 4]), None), last),
        Sample((np.zeros((2, 0), np.int64), (4, 6), None, None), plain | {"mode": "max"}),
        Sample((np.zeros(0, np.int64), (4, 6), np.array([0, 0]), None), plain | {"mode": "mean"}),
    ]
    return out


@composite(reference=_bag_reference, samples=_bag_samples, tolerance=32)
def embedding_bag_(
    input: Tensor, weight: Tensor, offsets: Tensor | None,  # noqa: A002
    per_sample_weights: Tensor | None, mode: str, include_last_offset: bool,
    padding_idx: int | None,
) -> Tensor:  # fmt: skip
    """The rows of weight at the indices of each bag: their sum, mean or elementwise maximum."""
    column = (*shape_of(input), 1)
    rows = widened(take(weight, input, axis=0))
    if per_sample_weights is not None:
        rows = rows * widened(per_sample_weights).reshape(column)
    here = None if padding_idx is None else (input != padding_idx).reshape(column)
    if offsets is None:
        return converted(_matrix_bags(rows, here, mode), weight.dtype)
    bags = _bag_of_each(input, offsets)
    reduced = _vector_bags(rows, here, bags, shape_of(offsets)[0], mode)
    if include_last_offset:
        reduced = narrow(reduced, 0, 0, plus(shape_of(offsets)[0], -1))
    return converted(reduced, weight.dtype)


def _matrix_bags(rows: Tensor, here: Tensor | None, mode: str) -> Tensor:
    """Rows (bags, length, features) reduced over the length."""
    if mode == "max":
        if is_size(shape_of(rows)[1], 0):
            return rows.sum(axis=1)
        if here is None:
            return rows.max(axis=1)
        highest = where(here, rows, lowest(rows.dtype)).max(axis=1)
        return where(here.any(axis=1), highest, 0)
    total = (rows if here is None else where(here, rows, 0)).sum(axis=1)
    if mode == "sum":
        return total
    if here is None:
        return total / maximum(filled((), shape_of(rows)[1], rows.dtype), 1)
    return total / maximum(converted(here, rows.dtype).sum(axis=1), 1)


def _bag_of_each(input: Tensor, offsets: Tensor) -> Tensor:  # noqa: A002
    """The number of the bag that each index of a vector is in: how many bags start before it."""
    count = shape_of(input)[0]
    none = zeros(plus(count, 1), dtype=int64)
    starts = scatter_add(none, 0, converted(offsets, int64), filled((), 1, int64))
    return maximum(narrow(starts.cumulative_sum(axis=0), 0, 0, count) - 1, 0)


def _vector_bags(rows: Tensor, here: Tensor | None, bags: Tensor, count: Any, mode: str) -> Tensor:
    """Rows (length, features) reduced over those of each bag."""
    place = expanded(bags.reshape((-1, 1)), shape_of(rows))
    shape = (count, shape_of(rows)[1])
    one = filled((), 1, rows.dtype)
    counted = expanded(one, (shape_of(rows)[0], 1)) if here is None else converted(here, rows.dtype)
    if mode != "sum":
        counts = scatter_add(zeros(count, 1, dtype=rows.dtype), 0, bags.reshape((-1, 1)), counted)
    if mode == "max":
        low = lowest(rows.dtype)
        live = rows if here is None else where(here, rows, low)
        start = full(shape, low, dtype=rows.dtype)
        return where(counts > 0, scatter_elements(start, 0, place, live, combine="maximum"), 0)
    live = rows if here is None else where(here, rows, 0)
    total = scatter_add(zeros(shape, dtype=rows.dtype), 0, place, live)
    return total if mode == "sum" else total / maximum(counts, 1)


def embedding_bag(
    input: Tensor, weight: Tensor, offsets: Tensor | None = None, *,  # noqa: A002
    mode: str = "mean", scale_grad_by_freq: bool = False,
    per_sample_weights: Tensor | None = None, include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:  # fmt: skip
    """The sum, mean or elementwise maximum of weight's rows at each bag of indices.

    `input` is (bags, length), or a vector that is cut up by `offsets` (bags), the places where bags
    start, of which the first is 0; with `include_last_offset` the last of them is where the last
    bag ends. Rows at `padding_idx` do not count; a bag of none is 0. `per_sample_weights`, shaped
    like `input`, weigh the rows of a sum. `scale_grad_by_freq` divides each row's gradient by the
    number of times it is looked up. Out come (bags, features) of weight's dtype.

    Raises ShapeError, DTypeError and ArgumentError where the arguments do not fit each other.

    >>> table = ds.asarray([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> ds.embedding_bag(ds.asarray([0, 2, 1]), table, ds.asarray([0, 2]), mode="sum")
    tensor([[6., 8.],
            [3., 4.]])
    """
    op = "embedding_bag"
    if mode not in MODES:
        raise unknown("mode", mode, MODES)
    weight = as_tensor(weight, op)
    if weight.ndim != 2 or not weight.dtype.is_float:
        got = f"weight {describe(weight)}"
        raise op_error(ShapeError, op, got, "a float table (rows, features)", user_line())
    rows = shape_of(weight)[0]
    input = indices_of(op, input, rows)  # noqa: A001
    if offsets is not None:
        offsets = _offsets(op, offsets, input)
    elif input.ndim != 2:
        got = f"indices {describe(input)} without offsets"
        raise op_error(ShapeError, op, got, "(bags, length), or offsets", user_line())
    if per_sample_weights is not None:
        if mode != "sum":
            got = f"per_sample_weights with mode={mode!r}"
            raise op_error(ArgumentError, op, got, "mode='sum'", user_line())
        if not same_shape(shape_of(per_sample_weights), shape_of(input)):
            got = f"per_sample_weights {describe(per_sample_weights)}"
            raise op_error(ShapeError, op, got, "the shape of the indices", user_line())
    if padding_idx is not None:
        padding_idx = _row(op, padding_idx, rows)
    if scale_grad_by_freq:
        weight = by_frequency(weight, input)
    out: Tensor = embedding_bag_(
        input, weight, offsets, per_sample_weights, mode, bool(include_last_offset), padding_idx
    )
    return out


def _row(op: str, padding_idx: int, rows: Any) -> int:
    """A row counted from the front. Raises ArgumentError."""
    if isinstance(rows, int) and not -rows <= padding_idx < rows:
        got = f"padding_idx={padding_idx}"
        raise op_error(ArgumentError, op, got, f"a row of {rows}", user_line())
    return padding_idx + rows if padding_idx < 0 else padding_idx


def _offsets(op: str, offsets: Any, input: Tensor) -> Tensor:  # noqa: A002
    """Where the bags of a vector of indices start. Raises unless both are vectors of integers."""
    places = indices_of(op, offsets, plus(shape_of(input)[0], 1) if input.ndim else 1)
    if input.ndim != 1 or places.ndim != 1:
        got = f"indices {describe(input)}, offsets {describe(places)}"
        raise op_error(ShapeError, op, got, "two vectors", user_line())
    checked = (options.eager or options.verify) and state.trace is None
    values = offsets if not isinstance(offsets, Tensor) else places.numpy() if checked else None
    if values is not None and len(values) and int(values[0]):
        got = f"offsets that start with {values[0]}"
        raise op_error(ArgumentError, op, got, "0, where the first bag starts", user_line())
    return places
