"""Gather, scatter, selection by index and by mask, and search."""

from __future__ import annotations

from typing import Any

from adapt import Entry, LeftOut, same, via

import deepseek as ds

CONVERTED = {"dtype to be equal to src.dtype": "what is put there is converted"}
QUIRK = "PyTorch lets an empty index of any shape pass"


def odd_empty(x: Any, dim: int, index: Any, *_: Any, **__: Any) -> str | None:
    return QUIRK if index.numel() == 0 and index.ndim != x.ndim else None


def put(x: Any, indices: Any, values: Any, accumulate: bool = False) -> Any:
    """index_put: an assignment to a copy, or an addition that counts places that come twice."""
    key = tuple(indices)
    made = ds.positive(x)
    if accumulate and (len(key) > 1 or key[0].dtype.is_bool):
        raise LeftOut("additions at places of a mask or of several indices")
    if accumulate:
        return ds.index_add(made, 0, key[0], ds.broadcast_to(values, made[key].shape))
    made[key] = values
    return made


def places(x: Any, as_tuple: bool = False) -> Any:
    if x.ndim == 0:
        raise LeftOut("places in a tensor without dims")
    found = ds.nonzero(x)
    return found if as_tuple else ds.stack(found, axis=-1)


def counted_places(x: Any, size: int, fill_value: int = -1) -> Any:
    if x.ndim == 0:
        raise LeftOut("places in a tensor without dims")
    return ds.stack(ds.nonzero(x, size=size, fill_value=fill_value), axis=-1)


def along(x: Any, index: Any, dim: int | None = None) -> Any:
    if dim is None:
        return ds.take_along_axis(ds.reshape(x, (-1,)), ds.reshape(index, (-1,)), axis=0)
    return ds.take_along_axis(x, index, axis=dim)


def found(edges: Any, x: Any, right: bool = False, side: str | None = None, sorter: Any = None,
          out_int32: bool = False) -> Any:  # fmt: skip
    side = side or ("right" if right else "left")
    made = ds.searchsorted(edges, x, side=side, sorter=sorter)
    return made.astype(ds.int32) if out_int32 else made


ENTRIES: dict[str, Entry] = {
    "__getitem__": via("getitem", lambda x, key: x[key]),
    "gather": same(
        "gather",
        left_out=odd_empty,
        lenient={"Size does not match": "dims of size 1 broadcast, as the array API says"},
    ),
    "take_along_dim": via("take_along_axis", along),
    "index_select": via(
        "take", lambda x, dim, index: ds.take(x, ds.reshape(index, (-1,)), axis=dim)
    ),
    "take": via("take", lambda x, index: ds.take(ds.reshape(x, (-1,)), index, axis=0)),
    "scatter_add": same("scatter_add", left_out=odd_empty, lenient=CONVERTED),
    "scatter": same("scatter", left_out=odd_empty, lenient=CONVERTED),
    "index_put": via("setitem index_add", put),
    "masked_select": via(
        "getitem nonzero",
        lambda x, mask: ds.broadcast_arrays(x, mask)[0][ds.broadcast_arrays(x, mask)[1]],
    ),
    "nonzero": via("nonzero stack", places),
    "nonzero_static": via("nonzero stack", counted_places),
    "argwhere": via("nonzero stack", places),
    "searchsorted": via("searchsorted", found),
    "bucketize": via(
        "searchsorted",
        lambda x, edges, right=False, out_int32=False: found(edges, x, right, out_int32=out_int32),
    ),
}
