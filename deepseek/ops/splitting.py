"""Tensors in pieces along an axis: split, chunk, tensor_split and their kin. Pieces are views."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from deepseek.errors import ArgumentError, DTypeError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.shape import same
from deepseek.ops.define import (
    as_tensor,
    axis_of,
    describe,
    is_size,
    minus,
    plus,
    quotient,
    shape_of,
    times,
)
from deepseek.ops.methods import method
from deepseek.ops.slicing import is_less, narrow

__all__ = [
    "chunk", "dsplit", "hsplit", "split", "split_with_sizes", "tensor_split", "unbind", "unstack",
    "vsplit",
]  # fmt: skip

Tensors = tuple[Tensor, ...]


@method("split")
def split(x: Tensor, /, split_size_or_sections: int | Sequence[int], dim: int = 0) -> Tensors:
    """x in pieces of one size (the last may be smaller), or of the given sizes, along an axis.

    Raises ShapeError unless given sizes add up to the axis's. (NumPy's `split`, which takes places
    to cut at, is `tensor_split`.) ArgumentError for a size below 1.

    >>> [p.tolist() for p in ds.split(ds.arange(5), 2)]
    [[0, 1], [2, 3], [4]]
    """
    x = as_tensor(x, "split")
    axis = axis_of("split", x, dim)
    total = x.shape[axis]
    if isinstance(split_size_or_sections, int):
        step = int(split_size_or_sections)
        if step < 0 or (step == 0 and total != 0):
            raise op_error(ArgumentError, "split", f"size {step}", "a positive size", user_line())
        sections = [min(step, int(total) - i) for i in range(0, int(total), step or 1)] or [0]
    else:
        sections = [int(s) for s in split_size_or_sections]
    if sum(sections) != total or any(s < 0 for s in sections):
        raise op_error(
            ShapeError, "split", f"{describe(x)} and sizes {sections}",
            f"sizes that add up to {total}", user_line(),
        )  # fmt: skip
    starts = [sum(sections[:i]) for i in range(len(sections))]
    return tuple(narrow(x, axis, a, s) for a, s in zip(starts, sections, strict=True))


@method("split_with_sizes")
def split_with_sizes(x: Tensor, /, split_sizes: Sequence[int], dim: int = 0) -> Tensors:
    """x in pieces of the given sizes along an axis.

    >>> [p.tolist() for p in ds.split_with_sizes(ds.arange(3), [1, 2])]
    [[0], [1, 2]]
    """
    return split(x, split_sizes, dim)


@method("chunk")
def chunk(x: Tensor, /, chunks: int, dim: int = 0) -> Tensors:
    """x in at most `chunks` pieces along an axis, all but the last of one size.

    Raises ArgumentError for fewer than one.

    >>> [p.tolist() for p in ds.chunk(ds.arange(5), 3)]
    [[0, 1], [2, 3], [4]]
    """
    if chunks < 1:
        raise op_error(ArgumentError, "chunk", f"{chunks} chunks", "at least one", user_line())
    x = as_tensor(x, "chunk")
    axis = axis_of("chunk", x, dim)
    total = shape_of(x)[axis]
    if is_size(total, 0):
        return (x,) * chunks
    each = quotient(plus(total, chunks - 1), chunks)
    before = times(each, chunks - 1)
    if is_less(before, total):  # no fewer pieces, of whatever size
        whole = [narrow(x, axis, times(each, i), each) for i in range(chunks - 1)]
        return (*whole, narrow(x, axis, before, minus(total, before)))
    total = int(x.shape[axis])
    return split(x, -(-total // chunks), dim)


@method("tensor_split")
def tensor_split(x: Tensor, /, indices_or_sections: Any, dim: int = 0) -> Tensors:
    """x in so many pieces, the first ones larger by one where that is needed, or cut at places.

    As NumPy's `array_split`. Raises ArgumentError for fewer than one piece.

    >>> [p.tolist() for p in ds.tensor_split(ds.arange(5), 3)]
    [[0, 1], [2, 3], [4]]
    >>> [p.tolist() for p in ds.tensor_split(ds.arange(5), (1, 4))]
    [[0], [1, 2, 3], [4]]
    """
    return _parts("tensor_split", as_tensor(x, "tensor_split"), indices_or_sections, dim)


def _parts(name: str, x: Tensor, given: Any, dim: int, equal: bool = False) -> Tensors:
    axis = axis_of(name, x, dim)
    if isinstance(given, Tensor):
        given = given.tolist()
    if isinstance(given, int) and given > 0:
        each = quotient(shape_of(x)[axis], given)
        if same(times(each, given), shape_of(x)[axis]):
            return tuple(narrow(x, axis, times(each, i), each) for i in range(given))
    total = int(x.shape[axis])
    if isinstance(given, int):
        if given < 1 or (equal and total % given):
            raise op_error(
                ArgumentError, name, f"{describe(x)} and {given} pieces of axis {axis}",
                f"a number that divides {total}" if equal else "at least one piece", user_line(),
            )  # fmt: skip
        size, more = divmod(total, given)
        cuts = [i * size + min(i, more) for i in range(1, given)]
    else:
        try:
            cuts = [operator.index(i) for i in given]
        except TypeError:
            raise op_error(
                DTypeError, name, f"{describe(x)} and {given!r}",
                "a number of pieces, or places as integers", user_line(),
            ) from None  # fmt: skip
    bounds = [slice(a, b).indices(total) for a, b in zip([0, *cuts], [*cuts, total], strict=True)]
    return tuple(narrow(x, axis, min(a, total), max(b - a, 0)) for a, b, _ in bounds)


@method("hsplit")
def hsplit(x: Tensor, /, indices_or_sections: Any) -> Tensors:
    """x cut along its second axis, or its only one, into equal pieces or at places.

    >>> [p.tolist() for p in ds.hsplit(ds.asarray([[1, 2], [3, 4]]), 2)]
    [[[1], [3]], [[2], [4]]]
    """
    x = _with_axes("hsplit", x, 1)
    return _parts("hsplit", x, indices_or_sections, 1 if x.ndim > 1 else 0, equal=True)


@method("vsplit")
def vsplit(x: Tensor, /, indices_or_sections: Any) -> Tensors:
    """x of at least two axes cut along the first one.

    >>> [p.tolist() for p in ds.vsplit(ds.asarray([[1, 2], [3, 4]]), 2)]
    [[[1, 2]], [[3, 4]]]
    """
    return _parts("vsplit", _with_axes("vsplit", x, 2), indices_or_sections, 0, equal=True)


@method("dsplit")
def dsplit(x: Tensor, /, indices_or_sections: Any) -> Tensors:
    """x of at least three axes cut along the third one.

    >>> [p.shape for p in ds.dsplit(ds.zeros(1, 2, 4), 2)]
    [(1, 2, 2), (1, 2, 2)]
    """
    return _parts("dsplit", _with_axes("dsplit", x, 3), indices_or_sections, 2, equal=True)


def _with_axes(name: str, x: Any, least: int) -> Tensor:
    out = as_tensor(x, name)
    if out.ndim < least:
        raise op_error(
            ShapeError, name, describe(out), f"a tensor of at least {least} axes", user_line()
        )
    return out


def unstack(x: Tensor, /, *, axis: int = 0) -> Tensors:
    """The slices of x along an axis, which they lose.

    >>> [p.tolist() for p in ds.unstack(ds.asarray([[1, 2], [3, 4]]), axis=1)]
    [[1, 3], [2, 4]]
    """
    x = as_tensor(x, "unstack")
    axis = axis_of("unstack", x, axis)
    return tuple(narrow(x, axis, i, 1).squeeze(axis) for i in range(int(x.shape[axis])))


@method("unbind")
def unbind(x: Tensor, /, dim: int = 0) -> Tensors:
    """PyTorch's name for `unstack`.

    >>> [p.tolist() for p in ds.unbind(ds.asarray([[1, 2], [3, 4]]))]
    [[1, 2], [3, 4]]
    """
    return unstack(x, axis=dim)
