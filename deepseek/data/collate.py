"""From a list of items to one batch: `default_collate` and `default_convert`.

Arrays, tensors and numbers of equal place in the items are stacked along a new first axis; tuples,
lists, dicts and NamedTuples keep their form around them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from deepseek._runtime import Buffer
from deepseek.errors import ArgumentError, DTypeError, ShapeError
from deepseek.frontend.tensor import Tensor, hooks, leaf
from deepseek.ir.dtype import DType, bool_, dtype_of, float32, int64
from deepseek.ops.create import asarray


def default_collate(batch: Sequence[Any]) -> Any:
    """The items of a batch as one: tensors and arrays stacked, containers kept.

    Tensors, NumPy arrays and scalars give a tensor with a new first axis; Python numbers a 1-d
    tensor (bool, int64, float32, as `ds.asarray` takes them); strings and bytes a list. Of a
    tuple or list come lists, of a NamedTuple a NamedTuple, of a mapping one with the same keys.
    Raises ShapeError, DTypeError or ArgumentError, naming the place in the item, where items do
    not fit together.

    >>> batch = ds.data.default_collate([{"x": np.ones(3), "y": 0}, {"x": np.zeros(3), "y": 1}])
    >>> batch["x"].shape, batch["y"].tolist()
    ((2, 3), [0, 1])
    """
    items = list(batch)
    if not items:
        raise ArgumentError("default_collate: got no items; wanted at least one")
    return _collated(items, "")


def default_convert(item: Any) -> Any:
    """An item as it is, its NumPy arrays and scalars made tensors: for loaders without batches.

    >>> ds.data.default_convert({"x": np.arange(3), "name": "a"})["x"].shape
    (3,)
    """
    if isinstance(item, (np.ndarray, np.generic)) and item.dtype.kind not in "SUO":
        return asarray(item)
    if isinstance(item, Mapping):
        return _mapping_like(item, {k: default_convert(v) for k, v in item.items()})
    if isinstance(item, tuple):
        parts = [default_convert(part) for part in item]
        return type(item)(*parts) if hasattr(item, "_fields") else parts
    return [default_convert(part) for part in item] if isinstance(item, list) else item


def _collated(items: list[Any], place: str) -> Any:
    """One batch from what stands at one place of all items."""
    first = items[0]
    if isinstance(first, (Tensor, np.ndarray, np.generic)) or type(first) in NUMBERS:
        return stacked(items, place)
    if isinstance(first, (str, bytes)):
        return items
    if isinstance(first, Mapping):
        columns = {key: [_at(item, key, place) for item in items] for key in first}
        parts = {key: _collated(column, f"{place}[{key!r}]") for key, column in columns.items()}
        return _mapping_like(first, parts)
    if isinstance(first, (tuple, list)):
        _check_lengths(items, place)
        fields = getattr(first, "_fields", None)
        names = [f".{name}" for name in fields] if fields else [f"[{i}]" for i in range(len(first))]
        rows = zip(zip(*items, strict=True), names, strict=True)
        made = [_collated(list(column), place + name) for column, name in rows]
        return type(first)(*made) if fields else made
    raise ArgumentError(
        f"default_collate: got {_kind(first)}{_where(place)}; wanted tensors, arrays, numbers, "
        "strings, or tuples, lists and dicts of them\n  help: pass a collate_fn of your own"
    )


NUMBERS: dict[type, DType] = {bool: bool_, int: int64, float: float32}


def stacked(items: list[Any], place: str = "") -> Tensor:
    """Tensors, arrays or numbers as one tensor with a new first axis: one copy of the elements."""
    pending = [i._value for i in items if isinstance(i, Tensor) and i._value.data is None]
    if pending:
        hooks.evaluate(pending)
    arrays = []
    for item in items:
        if isinstance(item, Tensor):
            arrays.append(item.numpy())
        elif isinstance(item, (np.ndarray, np.generic)):
            arrays.append(np.asarray(item))
        elif type(item) in NUMBERS:
            arrays.append(np.asarray(item, NUMBERS[type(item)].numpy))
        else:
            raise ArgumentError(
                f"default_collate: got {_kind(items[0])} and {_kind(item)}{_where(place)}; "
                "wanted items of one form"
            )
    shapes = dict.fromkeys(a.shape for a in arrays)
    if len(shapes) > 1:
        raise ShapeError(
            f"default_collate: got shapes {', '.join(map(str, shapes))}{_where(place)}; wanted "
            "equal ones\n  help: pad the items, or pass a collate_fn of your own"
        )
    return filled_by(
        lambda out: np.stack(arrays, out=out, casting="unsafe"),
        _common_dtype(arrays, place),
        (len(arrays), *arrays[0].shape),
    )


def gathered(tensor: Tensor, rows: np.ndarray[Any, Any]) -> Tensor:
    """Rows of a tensor; each number lies in range."""
    array, dtype = tensor.numpy(), tensor.dtype
    bits = array.view(f"u{dtype.itemsize}")

    def fill(out: np.ndarray[Any, Any]) -> None:
        np.take(bits, rows, axis=0, out=out.view(bits.dtype), mode="clip")

    return filled_by(fill, dtype, (len(rows), *array.shape[1:]))


def filled_by(
    fill: Callable[[np.ndarray[Any, Any]], Any], dtype: DType, shape: tuple[int, ...]
) -> Tensor:
    """A new tensor whose memory `fill` writes, seen as an array."""
    data = Buffer.allocate(math.prod(shape) * dtype.itemsize, "batch")
    if data.nbytes:
        with data.writable_view() as view:
            fill(np.frombuffer(view, np.uint8).view(dtype.numpy).reshape(shape))
    return Tensor(leaf(data, dtype, shape))


def _common_dtype(arrays: list[np.ndarray[Any, Any]], place: str) -> DType:
    """The dtype that all can be held in."""
    kinds = dict.fromkeys(a.dtype for a in arrays)
    try:
        return dtype_of(np.result_type(*kinds))
    except (ArgumentError, DTypeError, TypeError):
        raise DTypeError(
            f"default_collate: got arrays of {', '.join(map(str, kinds))}{_where(place)}; wanted "
            "numbers that deepseek has\n  help: convert them in the dataset"
        ) from None


def _at(item: Any, key: Any, place: str) -> Any:
    if not isinstance(item, Mapping) or key not in item:
        raise ArgumentError(
            f"default_collate: an item lacks {key!r}{_where(place)}; wanted the keys of the first"
        )
    return item[key]


def _check_lengths(items: list[Any], place: str) -> None:
    sizes = [len(i) if isinstance(i, (tuple, list)) else None for i in items]
    if len(set(sizes)) > 1:
        got = ", ".join(dict.fromkeys(_kind(i) for i in items))
        raise ArgumentError(
            f"default_collate: got {got}{_where(place)}; wanted items of one form and length\n"
            "  help: pass a collate_fn of your own"
        )


def _mapping_like(first: Mapping[Any, Any], parts: dict[Any, Any]) -> Any:
    """The parts in a mapping of the same type, where one can be made of a dict."""
    try:
        return type(first)(parts)  # type: ignore[call-arg]
    except TypeError:
        return parts


def _kind(value: Any) -> str:
    size = f" of {len(value)}" if isinstance(value, (tuple, list)) else ""
    return f"a {type(value).__name__}{size}" if value is not None else "None"


def _where(place: str) -> str:
    return f" at item{place}" if place else ""
