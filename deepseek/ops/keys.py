"""What a key in `x[key]` means for a tensor: NumPy's rules, taken apart.

In flows a key of ints, slices, ..., None, integer tensors, truth values and masks; out flows a
`Key`: a slice and a reshape, and the advanced indices of what these give.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, DTypeError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import int64
from deepseek.ir.shape import Dim, Shape, Size, same, size_of
from deepseek.ops.create import zeros
from deepseek.ops.define import (
    as_tensor,
    converted,
    describe,
    is_size,
    minus,
    plus,
    quotient,
    shape_of,
)
from deepseek.ops.index import indices_of
from deepseek.ops.scattering import places_where
from deepseek.ops.slicing import is_less


@dataclass(frozen=True)
class Key:
    """A key taken apart: a slice and a reshape, then the advanced indices of what they give.

    `arrays` are (axis, index); without an axis the index picks from a new axis of size 1, as a
    truth value does. `masks` are (first axis, mask) whose values are not looked at. What the
    advanced indices give comes at axis `at`, or first (`front`) if they do not stand side by side.
    """

    start: Shape
    step: tuple[int, ...]
    sliced: Shape
    shape: Shape
    arrays: list[tuple[int | None, Tensor]]
    masks: list[tuple[int, Tensor]]
    at: int
    front: bool


def parse(x: Tensor, key: Any, op: str, keep_masks: bool = False) -> Key:
    """What a key means for x. Raises.

    A mask stands for the indices of its true elements, which needs its values; with `keep_masks`
    only masks whose values are known are looked at.
    """
    items = _expanded(x, list(key) if isinstance(key, tuple) else [key], op)
    source = shape_of(x)
    start: list[Size] = []
    step: list[int] = []
    sliced: list[Size] = []
    shape: list[Size] = []
    arrays: list[tuple[int | None, Tensor]] = []
    masks: list[tuple[int, Tensor]] = []
    advanced: list[int] = []
    at = 0

    def add(first: Size, stride: int, count: Size, keep: bool = True) -> None:
        start.append(first)
        step.append(stride)
        sliced.append(count)
        if keep:
            shape.append(count)

    for number, item in enumerate(items):
        axis, here = len(start), len(shape)
        if item is Ellipsis:
            continue
        if item is None:
            shape.append(1)
            continue
        if isinstance(item, slice):
            add(*_slice_of(item, source[axis], op))
            continue
        at = at if advanced else here
        advanced.append(number)
        if isinstance(item, int) and not isinstance(item, bool):
            add(_place(x, item, axis, op), 1, 1, keep=False)
            continue
        if isinstance(item, bool):
            arrays.append((None, zeros(int(item), dtype=int64)))
        elif not _is_mask(item):
            arrays.append((here, _index(x, item, axis, op)))
        else:
            _refuse_other_sizes(x, item, axis, op)
            if keep_masks and isinstance(item, Tensor):
                masks.append((here, item))
            else:
                places = places_where(item, op)
                found = [here + i if item.ndim else None for i in range(len(places))]
                arrays += [(a, as_tensor(p, op)) for a, p in zip(found, places, strict=True)]
        for size in source[axis : axis + _axes_taken(item)]:
            add(0, 1, size)
    apart = bool(advanced) and advanced != list(range(advanced[0], advanced[-1] + 1))
    return Key(tuple(start), tuple(step), tuple(sliced), tuple(shape), arrays, masks, at, apart)


def _index(x: Tensor, item: Any, axis: int, op: str) -> Tensor:
    """An integer index for an axis of x."""
    size = shape_of(x)[axis]
    index = indices_of(op, item, size)
    if is_size(size, 0) and not is_size(index._value.type.numel, 0):
        raise op_error(
            ShapeError, op, f"{describe(x)} and {describe(index)} for axis {axis}",
            "no index into an axis without elements", user_line(),
        )  # fmt: skip
    return converted(index, int64)


def _refuse_other_sizes(x: Tensor, mask: Any, axis: int, op: str) -> None:
    sizes = shape_of(mask) if isinstance(mask, Tensor) else mask.shape
    there = shape_of(x)[axis : axis + len(sizes)]
    if not all(map(same, sizes, there)):
        raise op_error(
            ShapeError, op, f"{describe(x)} and a mask of shape {sizes} from axis {axis} on",
            f"a mask of shape {there}", user_line(),
        )  # fmt: skip


def _expanded(x: Tensor, items: list[Any], op: str) -> list[Any]:
    """The items of a key, one for each axis or new axis, `...` written out."""
    items = [_item(i, op) for i in items]
    used = sum(map(_axes_taken, items))
    dots = [n for n, i in enumerate(items) if i is Ellipsis]
    if len(dots) > 1 or used > x.ndim:
        raise op_error(
            ShapeError, op, f"{describe(x)} and {used} indices", f"at most {x.ndim}, and one '...'",
            user_line(),
        )  # fmt: skip
    at = dots[0] if dots else len(items)
    written = [slice(None)] * (x.ndim - used)
    # Even one that stands for no axis keeps indices apart.
    return items[:at] + (written or items[at : at + 1]) + items[at + 1 :]


def _axes_taken(item: Any) -> int:
    """How many axes of a tensor an item is for."""
    if item is None or item is Ellipsis or isinstance(item, bool):
        return 0
    return int(item.ndim) if _is_mask(item) else 1


def _is_mask(item: Any) -> bool:
    if isinstance(item, Tensor):
        return item.dtype.is_bool
    return isinstance(item, np.ndarray) and item.dtype.kind == "b"


def _item(item: Any, op: str) -> Any:
    """One item of a key: an int, bool, slice, ..., None, integer tensor or mask. Raises for others.

    Integers and masks whose values are known stay NumPy arrays.
    """
    if item is None or item is Ellipsis or isinstance(item, (bool, slice)):
        return item
    if isinstance(item, list):
        item = np.asarray(item, None if item else np.int64)
    if isinstance(item, (Tensor, np.ndarray)):
        kind = item.dtype.kind
        if not (kind == "b" or kind in "iu"):
            got = describe(item) if isinstance(item, Tensor) else f"an array of {item.dtype}"
            raise op_error(
                DTypeError, op, f"the index {got}", "an integer tensor or a mask", user_line()
            )
        return item
    if isinstance(item, np.bool_):
        return bool(item)
    if hasattr(item, "__index__"):
        return item if isinstance(item, int) else int(item.__index__())
    raise op_error(
        ArgumentError, op, f"the index {item!r}",
        "integers, slices, '...', None, integer tensors or masks", user_line(),
    )  # fmt: skip


def _place(x: Tensor, i: int, axis: int, op: str) -> Size:
    size = shape_of(x)[axis]
    place = size_of(i)
    if is_less(place, 0):
        place = plus(place, size)
    if is_less(place, 0) or not is_less(place, size):
        raise op_error(
            ShapeError, op, f"{describe(x)} and index {i} for axis {axis}",
            f"-{size} <= index < {size}", user_line(),
        )  # fmt: skip
    return place


def _slice_of(item: slice, size: Size, op: str) -> tuple[Size, int, Size]:
    """(start, step, count) of a slice of an axis."""
    step = 1 if item.step is None else int(item.step)
    if step == 0:
        raise op_error(ArgumentError, op, "a slice with step 0", "another step", user_line())
    low: Size = 0 if step > 0 else -1
    high = size if step > 0 else minus(size, 1)

    def bound(given: Any, default: Size) -> Size:
        if given is None:
            return default
        place = size_of(given if isinstance(given, (int, Dim)) else given.__index__())
        if is_less(place, 0):
            place = plus(place, size)
            return low if is_less(place, low) else place
        return high if is_less(high, place) else place

    start = bound(item.start, low if step > 0 else high)
    stop = bound(item.stop, high if step > 0 else low)
    span = minus(stop, start) if step > 0 else minus(start, stop)
    if not is_less(0, span):
        return 0, step, 0
    return start, step, quotient(plus(span, abs(step) - 1), abs(step))
