"""Gather, scatter, selection by index and by mask, and search."""

from __future__ import annotations

from typing import Any

import deepseek as ds
from adapt import Entry, same, via


def indexed(x: Any, key: Any) -> Any:
    return x[tuple(key) if isinstance(key, list) else key]


def put(x: Any, indices: Any, values: Any, accumulate: bool = False) -> Any:
    made = ds.positive(x)
    key = tuple(indices)
    made[key] = made[key] + values if accumulate else values
    return made


ENTRIES: dict[str, Entry] = {
    "__getitem__": via("getitem", indexed),
    "gather": same("gather"),
    "take_along_dim": via("take_along_axis", lambda x, i, dim=None: ds.take_along_axis(
        x if dim is not None else ds.reshape(x, (-1,)), i if dim is not None else ds.reshape(i, (-1,)), axis=-1 if dim is None else dim)),
    "index_select": via("take", lambda x, dim, index: ds.take(x, index, axis=dim)),
    "take": via("take", lambda x, index: ds.take(ds.reshape(x, (-1,)), index, axis=0)),
    "scatter_add": same("scatter_add"),
}
