"""Shapes: views, joins and splits. Ours are values, so PyTorch's views and copies are the same."""

from __future__ import annotations

from typing import Any

import torch
from adapt import Entry, same, via

import deepseek as ds

ANY_RANK = {"<= 2": "turns the dims round, however many there are"}
OLD_EMPTY = "PyTorch lets a tensor of shape (0,) pass whatever the others' shapes"


def sizes(given: Any) -> Any:
    """A shape that is given as one tuple or number by number."""
    return given[0] if len(given) == 1 and isinstance(given[0], (tuple, list)) else given


def not_bits(x: Any, *shape: Any, **_: Any) -> str | None:
    return "the bits as another dtype" if any(isinstance(s, torch.dtype) for s in shape) else None


def permuted(x: Any, dims: Any) -> Any:
    return ds.permute_dims(x, dims)


def ravelled(x: Any) -> Any:
    return ds.reshape(x, (-1,))


def transposed(x: Any) -> Any:
    return ds.permute_dims(x, tuple(range(x.ndim))[::-1])


def expanded(x: Any, *shape: Any) -> Any:
    shape = sizes(shape)
    lead = len(shape) - x.ndim
    return ds.broadcast_to(
        x, tuple(x.shape[i - lead] if s == -1 and i >= lead else s for i, s in enumerate(shape))
    )


def selected(x: Any, dim: int, index: int) -> Any:
    return ds.take(x, ds.asarray(index), axis=dim)


def squeezed(x: Any, dim: Any = None) -> Any:
    """PyTorch leaves alone what is not of size one."""
    if dim is None:
        return ds.squeeze(x)
    dims = dim if isinstance(dim, (tuple, list)) else (dim,)
    if x.ndim == 0 and all(d in (0, -1) for d in dims):
        return ds.positive(x)
    ones = tuple(d for d in dims if x.shape[d] == 1)
    return ds.squeeze(x, ones) if ones else ds.positive(x)


def unbound(x: Any, dim: int = 0) -> Any:
    return ds.unstack(x, axis=dim)


def joined(*tensors: Any, dim: int = 0, axis: Any = None) -> Any:
    """cat: PyTorch lets tensors of shape (0,) through whatever the others are."""
    items = tensors[0] if isinstance(tensors[0], (list, tuple)) else tensors
    return ds.concat(items, axis=dim if axis is None else axis)


def rows(arrays: Any) -> Any:
    return [ds.reshape(a, (1, -1)) if a.ndim < 2 else a for a in arrays]


def diagonals(x: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    return ds.diagonal(x, offset, dim1, dim2)


def cast(x: Any, *args: Any, dtype: Any = None, **_: Any) -> Any:
    """`to`: the dtype by itself, as another tensor's, or among other things."""
    for given in args:
        if isinstance(given, (ds.DType, ds.Tensor)):
            dtype = given.dtype if isinstance(given, ds.Tensor) else given
    return ds.positive(x) if dtype is None else x.astype(dtype)


def halved(x: Any, dim: Any, more: int) -> Any:
    """Rolled by half of its sizes, rounded down or up."""
    dims = range(x.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    shifts = [(x.shape[d] + more) // 2 for d in dims]
    return ds.roll(x, tuple(shifts), tuple(dims))


ENTRIES: dict[str, Entry] = {
    "permute": via("permute_dims", permuted),
    "permute_copy": via("permute_dims", permuted),
    "transpose": same("swapaxes"),
    "transpose_copy": same("swapaxes"),
    "t": via("permute_dims", transposed, lenient=ANY_RANK),
    "t_copy": via("permute_dims", transposed, lenient=ANY_RANK),
    "T": via("permute_dims", transposed),
    "H": via("permute_dims", transposed),
    "mT": via("matrix_transpose", ds.matrix_transpose),
    "mH": via("matrix_transpose", ds.matrix_transpose),
    "movedim": same("moveaxis"),
    "reshape": same("reshape"),
    "view": same("reshape", left_out=not_bits),
    "view_copy": same("reshape", left_out=not_bits),
    "reshape_as": via("reshape", lambda x, y: ds.reshape(x, y.shape)),
    "view_as": via("reshape", lambda x, y: ds.reshape(x, y.shape)),
    "ravel": via("reshape", ravelled),
    "expand": via("broadcast_to", expanded),
    "expand_copy": via("broadcast_to", expanded),
    "expand_as": via("broadcast_to", lambda x, y: ds.broadcast_to(x, y.shape)),
    "broadcast_to": via("broadcast_to", expanded),
    "broadcast_tensors": same("broadcast_arrays"),
    "squeeze": via("squeeze", squeezed),
    "squeeze.multiple": via("squeeze", squeezed),
    "squeeze_copy": via("squeeze", squeezed),
    "unsqueeze": same("unsqueeze"),
    "unsqueeze_copy": same("unsqueeze"),
    "unbind": via("unstack", unbound),
    "unbind_copy": via("unstack", unbound),
    "cat": via(
        "concat",
        joined,
        left_out=lambda xs, *_, **__: (
            OLD_EMPTY if any(x.shape == (0,) for x in xs) and any(x.ndim != 1 for x in xs) else None
        ),
    ),
    "stack": via("stack", lambda xs, dim=0: ds.stack(xs, axis=dim)),
    "chunk": same("chunk"),
    "unsafe_chunk": same("chunk"),
    "split": same("split"),
    "split.list_args": same("split"),
    "unsafe_split": same("split"),
    "split_with_sizes": same("split"),
    "split_with_sizes_copy": same("split"),
    "narrow": same("narrow"),
    "narrow_copy": same("narrow"),
    "flip": same("flip"),
    "fliplr": via("flip", lambda x: ds.flip(x, 1)),
    "flipud": via("flip", lambda x: ds.flip(x, 0)),
    "select": via("take", selected),
    "slice": via(
        "getitem",
        lambda x, dim=0, start=None, end=None, step=1: x[
            (slice(None),) * (dim % x.ndim) + (slice(start, end, step),)
        ],
    ),
    "repeat": via("tile", lambda x, *s: ds.tile(x, sizes(s))),
    "tile": via("tile", lambda x, *s: ds.tile(x, sizes(s))),
    "repeat_interleave": via(
        "repeat", lambda x, repeats, dim=None, **_: ds.repeat(x, repeats, axis=dim)
    ),
    "unfold": via("Tensor.unfold", lambda x, *a: x.unfold(*a)),
    "unfold_copy": via("Tensor.unfold", lambda x, *a: x.unfold(*a)),
    "diagonal": via("diagonal", lambda x, *a, **k: diagonals(x, *a, **k)),
    "diagonal_copy": via("diagonal", lambda x, *a, **k: diagonals(x, *a, **k)),
    "linalg.diagonal": via(
        "diagonal", lambda x, offset=0, dim1=-2, dim2=-1: ds.diagonal(x, offset, dim1, dim2)
    ),
    "fft.fftshift": via("roll", lambda x, dim=None: halved(x, dim, 0)),
    "fft.ifftshift": via("roll", lambda x, dim=None: halved(x, dim, 1)),
    "rot90": via("rot90", lambda x, k=1, dims=(0, 1): ds.rot90(x, k, dims)),
    "meshgrid.variadic_tensors": via(
        "meshgrid", lambda *xs, indexing="ij": ds.meshgrid(*xs, indexing=indexing)
    ),
    "meshgrid.list_of_tensors": via(
        "meshgrid", lambda xs, indexing="ij": ds.meshgrid(*xs, indexing=indexing)
    ),
    "tril": via("tril", lambda x, diagonal=0: ds.tril(x, k=diagonal)),
    "triu": via("triu", lambda x, diagonal=0: ds.triu(x, k=diagonal)),
    "to": via("astype", cast),
    "sum_to_size": via(
        "sum",
        lambda x, *shape: ds.reshape(
            ds.sum(
                x,
                axis=tuple(
                    i
                    for i, s in enumerate(x.shape)
                    if i < x.ndim - len(sizes(shape))
                    or sizes(shape)[i - x.ndim + len(sizes(shape))] == 1 != s
                ),
                keepdims=True,
            ),
            sizes(shape),
        ),
    ),
}
