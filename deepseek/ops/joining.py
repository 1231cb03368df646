"""Tensors joined and repeated: stacks, tiles, repeats, blocks and products of places.

All are views and concatenations of their arguments; `repeat` by a tensor of counts also reads.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor, state
from deepseek.ir.shape import Size, numel, size_of
from deepseek.ops.create import arange
from deepseek.ops.define import (
    ALL,
    as_tensor,
    axis_of,
    describe,
    is_size,
    promoted,
    several,
    shape_of,
    times,
)
from deepseek.ops.index import take
from deepseek.ops.methods import method
from deepseek.ops.slicing import padded
from deepseek.ops.view import broadcast_to, concat, expand_dims, stack

__all__ = [
    "atleast_1d", "atleast_2d", "atleast_3d", "block_diag", "cartesian_prod", "cat",
    "column_stack", "combinations", "concatenate", "dstack", "hstack", "kron", "repeat",
    "repeat_interleave", "row_stack", "tile", "vstack",
]  # fmt: skip


def _each(arrays: tuple[Any, ...], change: Callable[[Any], Tensor]) -> Any:
    """The change of one tensor, or of each of several, which may come in one list."""
    if len(arrays) == 1 and isinstance(arrays[0], (list, tuple)):
        return tuple(map(change, arrays[0]))
    return change(arrays[0]) if len(arrays) == 1 else tuple(map(change, arrays))


def atleast_1d(*arrays: Any) -> Any:
    """Each tensor with one axis, if it had none.

    >>> ds.atleast_1d(ds.asarray(3)).tolist()
    [3]
    """

    def change(given: Any) -> Tensor:
        x = as_tensor(given, "atleast_1d")
        return x if x.ndim else x.reshape((1,))

    return _each(arrays, change)


def atleast_2d(*arrays: Any) -> Any:
    """Each tensor with at least two axes, new ones in front.

    >>> ds.atleast_2d(ds.asarray([1, 2])).tolist()
    [[1, 2]]
    """

    def change(given: Any) -> Tensor:
        x = as_tensor(given, "atleast_2d")
        return x.reshape((*(1,) * (2 - x.ndim), *shape_of(x)))

    return _each(arrays, change)


def atleast_3d(*arrays: Any) -> Any:
    """Each tensor with at least three axes: (n,) becomes (1, n, 1) and (m, n) becomes (m, n, 1).

    >>> ds.atleast_3d(ds.asarray([1, 2])).shape
    (1, 2, 1)
    """

    def change(given: Any) -> Tensor:
        x = as_tensor(given, "atleast_3d")
        if x.ndim == 2:
            return x.reshape((*shape_of(x), 1))
        return x.reshape((1, *(shape_of(x) or (1,)), 1)) if x.ndim < 2 else x

    return _each(arrays, change)


def _joined(op: str, arrays: Any, axis: int | None) -> Tensor:
    """concat, whose errors name another op."""
    try:
        return concat(several(op, arrays), axis=axis)
    except ShapeError as error:
        raise ShapeError(str(error).replace("op 'concat'", f"op '{op}'")) from None


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """PyTorch's name for `concat`.

    >>> ds.cat([ds.zeros(1), ds.ones(2)]).tolist()
    [0.0, 1.0, 1.0]
    """
    return _joined("cat", tensors, dim)


def concatenate(arrays: Sequence[Tensor], /, axis: int | None = 0) -> Tensor:
    """NumPy's name for `concat`.

    >>> ds.concatenate([ds.zeros(1), ds.ones(2)]).tolist()
    [0.0, 1.0, 1.0]
    """
    return _joined("concatenate", arrays, axis)


def hstack(arrays: Sequence[Tensor], /) -> Tensor:
    """The tensors joined along the second axis, those of one axis along that.

    >>> ds.hstack([ds.asarray([1]), ds.asarray([2, 3])]).tolist()
    [1, 2, 3]
    """
    made = [atleast_1d(a) for a in several("hstack", arrays)]
    return _joined("hstack", made, 0 if made[0].ndim == 1 else 1)


def vstack(arrays: Sequence[Tensor], /) -> Tensor:
    """The tensors joined along the first axis, those of one axis as rows.

    >>> ds.vstack([ds.asarray([1, 2]), ds.asarray([3, 4])]).tolist()
    [[1, 2], [3, 4]]
    """
    return _joined("vstack", [atleast_2d(a) for a in several("vstack", arrays)], 0)


def row_stack(arrays: Sequence[Tensor], /) -> Tensor:
    """Another name for `vstack`.

    >>> ds.row_stack([ds.asarray([1, 2]), ds.asarray([3, 4])]).tolist()
    [[1, 2], [3, 4]]
    """
    return vstack(arrays)


def dstack(arrays: Sequence[Tensor], /) -> Tensor:
    """The tensors joined along the third axis, brought to three axes by `atleast_3d`.

    >>> ds.dstack([ds.asarray([1, 2]), ds.asarray([3, 4])]).tolist()
    [[[1, 3], [2, 4]]]
    """
    return _joined("dstack", [atleast_3d(a) for a in several("dstack", arrays)], 2)


def column_stack(arrays: Sequence[Tensor], /) -> Tensor:
    """The tensors joined along the second axis, those of one axis (or none) as columns.

    >>> ds.column_stack([ds.asarray([1, 2]), ds.asarray([3, 4])]).tolist()
    [[1, 3], [2, 4]]
    """
    made = [as_tensor(a, "column_stack") for a in several("column_stack", arrays)]
    columns = [a if a.ndim > 1 else a.reshape((-1, 1)) for a in made]
    return _joined("column_stack", columns, 1)


# --------------------------------------------------------------------------------------- repeats


@method("tile")
def tile(x: Tensor, repetitions: Any, /, *more: int) -> Tensor:
    """x side by side with itself so many times on each axis (PyTorch's `Tensor.repeat`).

    Raises ArgumentError for negative numbers.

    >>> ds.tile(ds.asarray([1, 2]), (2, 2)).tolist()
    [[1, 2, 1, 2], [1, 2, 1, 2]]
    """
    x = as_tensor(x, "tile")
    given = repetitions if isinstance(repetitions, (tuple, list)) else (repetitions,)
    counts: list[Size] = [size_of(n) for n in (*given, *more)]
    if any(isinstance(n, int) and n < 0 for n in counts):
        raise op_error(
            ArgumentError, "tile", f"{counts}", "numbers that are not negative", user_line()
        )
    rank = max(x.ndim, len(counts))
    counts = [*[1] * (rank - len(counts)), *counts]
    source = (*(1,) * (rank - x.ndim), *shape_of(x))
    if all(is_size(n, 1) for n in counts):
        return x.reshape(source)
    apart = [s for size in source for s in (1, size)]
    wide = [s for pair in zip(counts, source, strict=True) for s in pair]
    repeated = x.reshape(tuple(apart)).broadcast_to(tuple(wide))
    return repeated.reshape(tuple(times(n, s) for n, s in zip(counts, source, strict=True)))


@method("repeat")
def repeat(x: Tensor, repeats: Any, /, *, axis: int | None = None, total: Any = None) -> Tensor:
    """x with each element (or slice of an axis) repeated: all so often, or each as often as told.

    Without an axis x is flattened. A tensor of counts is looked at, unless `total` says what they
    add up to: then it may be computed inside `@ds.jit`. Raises ShapeError unless there is a count
    for each element. (PyTorch's `Tensor.repeat` is `tile`.) ArgumentError for negative counts, and
    where the total is missing.

    >>> ds.repeat(ds.asarray([1, 2]), 2).tolist()
    [1, 1, 2, 2]
    >>> ds.repeat(ds.asarray([[1, 2], [3, 4]]), ds.asarray([2, 1]), axis=0).tolist()
    [[1, 2], [1, 2], [3, 4]]
    """
    x = as_tensor(x, "repeat")
    if axis is None:
        x, axis = x.reshape((-1,)), 0
    axis = axis_of("repeat", x, axis)
    source = shape_of(x)
    if isinstance(repeats, (list, tuple, np.ndarray)):
        repeats = np.asarray(repeats, np.int64)
        repeats = int(repeats.reshape(())) if repeats.size == 1 else repeats
    if not isinstance(repeats, (Tensor, np.ndarray)):
        count = size_of(repeats)
        wide = (*source[: axis + 1], count, *source[axis + 1 :])
        if isinstance(count, int) and count < 0:
            raise op_error(ArgumentError, "repeat", f"{count} repeats", "at least 0", user_line())
        whole = (*source[:axis], times(source[axis], count), *source[axis + 1 :])
        return broadcast_to(expand_dims(x, axis + 1), wide).reshape(whole)
    if repeats.ndim > 1 or (repeats.ndim and not is_size(source[axis], int(repeats.shape[0]))):
        raise op_error(
            ShapeError, "repeat", f"{describe(x)} and repeats of shape {tuple(repeats.shape)}",
            f"one number, or one for each of {source[axis]}", user_line(),
        )  # fmt: skip
    if total is None:
        if isinstance(repeats, Tensor):
            if state.trace is not None:
                raise op_error(
                    ArgumentError, "repeat", "a tensor of counts inside a compiled function",
                    "a size that does not depend on values", user_line(),
                    "say what they add up to: total=...",
                )  # fmt: skip
            repeats = repeats.numpy()
        if (repeats < 0).any():
            raise op_error(ArgumentError, "repeat", repeats, "counts of at least 0", user_line())
        return take(x, np.repeat(np.arange(int(x.shape[axis])), repeats), axis=axis)
    # Element i of the result comes from the first one whose repeats reach beyond i.
    counts = as_tensor(repeats, "repeat").broadcast_to((source[axis],))
    ends = counts.cumulative_sum(axis=0)
    places = (ends <= arange(total).reshape((-1, 1))).sum(axis=1)
    return take(x, places, axis=axis)


@method("repeat_interleave")
def repeat_interleave(
    x: Tensor, /, repeats: Any, dim: int | None = None, *, output_size: int | None = None
) -> Tensor:
    """PyTorch's name for `repeat`.

    >>> ds.repeat_interleave(ds.asarray([1, 2]), ds.asarray([1, 2])).tolist()
    [1, 2, 2]
    """
    return repeat(x, repeats, axis=dim, total=output_size)


# ---------------------------------------------------------------------------- blocks and products


def block_diag(*arrays: Any) -> Tensor:
    """A matrix with the given ones along its diagonal; a vector is a row, a number 1 x 1.

    Raises ShapeError for more than two axes, or no matrix at all.

    >>> ds.block_diag(ds.ones(1, 2), ds.asarray(3.0)).tolist()
    [[1.0, 1.0, 0.0], [0.0, 0.0, 3.0]]
    """
    if not arrays:
        raise op_error(ShapeError, "block_diag", "nothing", "at least one matrix", user_line())
    blocks = [atleast_2d(t) for t in promoted("block_diag", arrays, ALL)]
    for block in blocks:
        if block.ndim > 2:
            raise op_error(
                ShapeError, "block_diag", describe(block), "at most two axes", user_line()
            )
    widths = [int(b.shape[1]) for b in blocks]
    rows = []
    for i, block in enumerate(blocks):
        rows.append(padded(block, (0, sum(widths[:i])), (0, sum(widths[i + 1 :]))))
    return concat(rows, axis=0)


def kron(a: Tensor, b: Tensor, /) -> Tensor:
    """The Kronecker product: b scaled by each element of a, in a's order.

    >>> ds.kron(ds.asarray([1, 10]), ds.asarray([1, 2])).tolist()
    [1, 2, 10, 20]
    """
    a, b = promoted("kron", (a, b), ALL)
    rank = max(a.ndim, b.ndim)
    left, right = ((*(1,) * (rank - t.ndim), *shape_of(t)) for t in (a, b))
    rows = a.reshape(tuple(s for size in left for s in (size, 1)))
    columns = b.reshape(tuple(s for size in right for s in (1, size)))
    out: Tensor = rows * columns
    return out.reshape(tuple(times(m, n) for m, n in zip(left, right, strict=True)))


def cartesian_prod(*tensors: Tensor) -> Tensor:
    """Every choice of one element from each of some vectors, a row each; of one vector, itself.

    Raises ShapeError for what are no vectors.

    >>> ds.cartesian_prod(ds.asarray([1, 2]), ds.asarray([3, 4])).tolist()
    [[1, 3], [1, 4], [2, 3], [2, 4]]
    """
    made = promoted("cartesian_prod", tensors, ALL) if tensors else []
    if not made or any(t.ndim > 1 for t in made):
        raise op_error(
            ShapeError, "cartesian_prod", [describe(t) for t in made], "at least one vector",
            user_line(),
        )  # fmt: skip
    made = [t.reshape((-1,)) for t in made]
    if len(made) == 1:
        return made[0]
    sizes = tuple(shape_of(t)[0] for t in made)
    columns = []
    for i, t in enumerate(made):
        place = tuple(-1 if k == i else 1 for k in range(len(made)))
        columns.append(broadcast_to(t.reshape(place), sizes).reshape((numel(sizes),)))
    return stack(columns, axis=1)


def combinations(x: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    """Every choice of r elements of a vector, in order, a row each.

    Raises ShapeError unless x is a vector and r at least 0.

    >>> ds.combinations(ds.asarray([1, 2, 3])).tolist()
    [[1, 2], [1, 3], [2, 3]]
    """
    x = as_tensor(x, "combinations")
    if x.ndim != 1 or r < 0:
        raise op_error(
            ShapeError, "combinations", f"{describe(x)} and r={r}", "a vector, and r >= 0",
            user_line(),
        )  # fmt: skip
    choose = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    places = np.array(list(choose(range(int(x.shape[0])), r)), np.int64)
    return take(x, places.reshape((-1, r)) if r else np.zeros((0,), np.int64), axis=0)
