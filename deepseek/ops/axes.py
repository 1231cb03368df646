"""Names for views that NumPy and PyTorch have and the array API writes otherwise.

All of them are the reshapes, permutations and broadcasts of `view`; nothing here is an op of its
own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.shape import Shape, broadcast, numel
from deepseek.ir.shape import shape_of as given_shape
from deepseek.ops.define import as_tensor, axis_of, describe, is_size, quotient, shape_of
from deepseek.ops.methods import attribute, method
from deepseek.ops.view import (
    broadcast_arrays,
    broadcast_to,
    expand_dims,
    flatten,
    matrix_transpose,
    moveaxis,
    permute_dims,
    swapaxes,
)

__all__ = [
    "adjoint", "broadcast_shapes", "broadcast_tensors", "movedim", "permute", "ravel",
    "swapdims", "t", "transpose", "unflatten", "unsqueeze",
]  # fmt: skip


@method("unsqueeze")
def unsqueeze(x: Tensor, /, dim: int) -> Tensor:
    """PyTorch's name for `expand_dims`: x with a new axis of size 1 there, in the result.

    Raises ShapeError for an axis that the result does not have.

    >>> ds.unsqueeze(ds.zeros(2, 3), -1).shape
    (2, 3, 1)
    """
    return expand_dims(x, dim)


@method("transpose")
def transpose(x: Tensor, /, *axes: Any) -> Tensor:
    """x with two axes exchanged (PyTorch), in a given order of axes, or with all reversed (NumPy).

    Raises ShapeError for axes that x does not have.

    >>> x = ds.zeros(2, 3, 4)
    >>> ds.transpose(x, 0, 1).shape, ds.transpose(x, (2, 0, 1)).shape, ds.transpose(x).shape
    ((3, 2, 4), (4, 2, 3), (4, 3, 2))
    """
    x = as_tensor(x, "transpose")
    if len(axes) == 2 and all(isinstance(a, int) for a in axes):
        return swapaxes(x, *axes)
    if not axes or axes == (None,):
        return permute_dims(x, tuple(range(x.ndim))[::-1])
    return permute(x, *axes)


@method("permute")
def permute(x: Tensor, /, *dims: Any) -> Tensor:
    """PyTorch's name for `permute_dims`; the axes may be separate arguments.

    >>> ds.permute(ds.zeros(2, 3, 4), 2, 0, 1).shape
    (4, 2, 3)
    """
    one = len(dims) == 1 and not isinstance(dims[0], int)
    return permute_dims(as_tensor(x, "permute"), dims[0] if one else dims)


@method("movedim", "moveaxis")
def movedim(x: Tensor, /, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """PyTorch's name for `moveaxis`.

    >>> ds.movedim(ds.zeros(2, 3, 4), 0, -1).shape
    (3, 4, 2)
    """
    return moveaxis(as_tensor(x, "movedim"), source, destination)


@method("swapdims")
def swapdims(x: Tensor, /, dim0: int, dim1: int) -> Tensor:
    """PyTorch's name for `swapaxes`.

    >>> ds.swapdims(ds.zeros(2, 3), 0, 1).shape
    (3, 2)
    """
    return swapaxes(as_tensor(x, "swapdims"), dim0, dim1)


@method("t")
def t(x: Tensor, /) -> Tensor:
    """A matrix transposed; tensors of fewer axes as they are. Raises ShapeError for more.

    >>> ds.t(ds.zeros(2, 3)).shape
    (3, 2)
    """
    x = as_tensor(x, "t")
    if x.ndim > 2:
        raise op_error(ShapeError, "t", describe(x), "at most two axes", user_line(),
                       "write x.mT for the last two axes")  # fmt: skip
    return swapaxes(x, 0, 1) if x.ndim == 2 else x


@method("adjoint")
def adjoint(x: Tensor, /) -> Tensor:
    """x with its last two axes exchanged, as all numbers are real.

    >>> ds.adjoint(ds.zeros(4, 2, 3)).shape
    (4, 3, 2)
    """
    return matrix_transpose(as_tensor(x, "adjoint"))


@method("ravel")
def ravel(x: Tensor, /) -> Tensor:
    """x on one axis.

    >>> ds.ravel(ds.asarray([[1, 2], [3, 4]])).tolist()
    [1, 2, 3, 4]
    """
    return flatten(as_tensor(x, "ravel"))


@method("unflatten")
def unflatten(x: Tensor, /, dim: int, sizes: Sequence[int]) -> Tensor:
    """x with one axis split into several; one of the sizes may be -1.

    Raises ShapeError unless they multiply to the axis's.

    >>> ds.unflatten(ds.zeros(2, 6), 1, (3, -1)).shape
    (2, 3, 2)
    """
    x = as_tensor(x, "unflatten")
    axis, source, wanted = axis_of("unflatten", x, dim), shape_of(x), list(given_shape(sizes))
    known = numel(tuple(s for s in wanted if not is_size(s, -1)))
    if any(is_size(s, -1) for s in wanted) and not is_size(known, 0):
        wanted[[is_size(s, -1) for s in wanted].index(True)] = quotient(source[axis], known)
    return x.reshape((*source[:axis], *wanted, *source[axis + 1 :]))


@method("expand")
def _expand(x: Tensor, /, *sizes: Any) -> Tensor:
    """`broadcast_to`, where a size of -1 leaves an axis as it is.

    Raises ShapeError for other changes of a size that is not 1, and for -1 on a new axis.

    >>> ds.asarray([[1], [2]]).expand(-1, 3).tolist()
    [[1, 1, 1], [2, 2, 2]]
    """
    x = as_tensor(x, "expand")
    wanted = given_shape(sizes[0] if len(sizes) == 1 else sizes)
    new = len(wanted) - x.ndim
    if any(is_size(s, -1) and i < new for i, s in enumerate(wanted)):
        raise op_error(
            ShapeError, "expand", f"{describe(x)} and sizes {wanted}",
            "sizes of new axes, which come first", user_line(),
        )  # fmt: skip
    source = (*(1,) * new, *shape_of(x))
    return broadcast_to(x, tuple(source[i] if is_size(s, -1) else s for i, s in enumerate(wanted)))


def broadcast_tensors(*tensors: Tensor) -> list[Tensor]:
    """PyTorch's name for `broadcast_arrays`.

    >>> [x.shape for x in ds.broadcast_tensors(ds.zeros(2, 1), ds.zeros(3))]
    [(2, 3), (2, 3)]
    """
    return broadcast_arrays(*tensors)


def broadcast_shapes(*shapes: Any) -> Shape:
    """The shape that shapes broadcast to. Raises ShapeError if they do not.

    >>> ds.broadcast_shapes((2, 1), (3,))
    (2, 3)
    """
    return broadcast([given_shape(s) for s in shapes])


# ------------------------------------------------------------------------------ methods of Tensor


@method("expand_as")
def _expand_as(x: Tensor, /, other: Tensor) -> Tensor:
    """x broadcast to the other's shape."""
    return broadcast_to(x, shape_of(other))


@method("view_as", "reshape_as")
def _reshape_as(x: Tensor, /, other: Tensor) -> Tensor:
    """x in the other's shape."""
    return x.reshape(shape_of(other))


@method("contiguous")
def _contiguous(x: Tensor, /, memory_format: Any = None) -> Tensor:
    """x itself: every tensor's elements are in order."""
    if memory_format is not None:
        raise op_error(
            ArgumentError, "contiguous", f"memory_format={memory_format!r}",
            "none: the compiler chooses layouts", user_line(),
        )  # fmt: skip
    return x


@method("is_contiguous")
def _is_contiguous(x: Tensor, /) -> bool:
    """True: every tensor's elements are in order."""
    return True


@method("dim", "ndimension")
def _dim(x: Tensor, /) -> int:
    """How many axes x has."""
    return x.ndim


@method("numel", "nelement")
def _numel(x: Tensor, /) -> int:
    """How many elements x has."""
    return x.size


for _name in ("mH", "H"):  # all numbers are real
    attribute(_name, vars(Tensor)["mT" if _name == "mH" else "T"], __name__)
