"""`x[key]`, `x[key] = value` and the in-place operators of Tensor.

Basic keys (ints, slices, ..., None) become a slice and a reshape, integer tensors a take. A tensor
is a value: assignments and `+=` make the handle show a new one, and no other tensor changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, DTypeError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor, state
from deepseek.ir.dtype import DType, bool_, int64
from deepseek.ir.shape import Dim, Shape, Size, numel, same, size_of
from deepseek.ops import elementwise
from deepseek.ops.create import asarray
from deepseek.ops.define import (
    as_tensor,
    converted,
    describe,
    filled,
    minus,
    plus,
    quotient,
    shape_of,
)
from deepseek.ops.elementwise import stop_gradient, where
from deepseek.ops.index import in_range_tensor, take
from deepseek.ops.slicing import is_less, slice_, slice_update
from deepseek.ops.view import broadcast_arrays, permute_dims

__all__ = ["getitem", "setitem"]


@dataclass(frozen=True)
class Basic:
    """The basic part of a key, a slice and a reshape; `arrays` are (axis of that, index)."""

    start: Shape
    step: tuple[int, ...]
    sliced: Shape
    shape: Shape
    arrays: list[tuple[int, Tensor]]


def parse(x: Tensor, key: Any, op: str) -> Basic:
    """What a key of ints, slices, ..., None and integer tensors means for x. Raises."""
    items = _expanded(x, list(key) if isinstance(key, tuple) else [key], op)
    source = shape_of(x)
    start: list[Size] = []
    step: list[int] = []
    sliced: list[Size] = []
    shape: list[Size] = []
    arrays: list[tuple[int, Tensor]] = []
    for item in items:
        if item is None:
            shape.append(1)
            continue
        axis = len(start)
        size = source[axis]
        if isinstance(item, slice):
            first, stride, count = _slice_of(item, size, op)
            shape.append(count)
        elif isinstance(item, int):
            first, stride, count = _place(x, item, axis, op), 1, 1
        else:
            arrays.append((len(shape), item))
            first, stride, count = 0, 1, size
            shape.append(size)
        start.append(first)
        step.append(stride)
        sliced.append(count)
    return Basic(tuple(start), tuple(step), tuple(sliced), tuple(shape), arrays)


def _expanded(x: Tensor, items: list[Any], op: str) -> list[Any]:
    """The items of a key, one for each axis or new axis, `...` written out."""
    items = [_item(i, op) for i in items]
    used = sum(i is not None and i is not Ellipsis for i in items)
    dots = [n for n, i in enumerate(items) if i is Ellipsis]
    if len(dots) > 1 or used > x.ndim:
        raise op_error(
            ShapeError, op, f"{describe(x)} and {used} indices", f"at most {x.ndim}, and one '...'",
            user_line(),
        )  # fmt: skip
    at = dots[0] if dots else len(items)
    return items[:at] + [slice(None)] * (x.ndim - used) + items[at + 1 :]


def _item(item: Any, op: str) -> Any:
    """One item of a key: an int, a slice, ..., None or an integer tensor. Raises for others."""
    if item is None or item is Ellipsis or isinstance(item, slice):
        return item
    if isinstance(item, (list, np.ndarray)) or (isinstance(item, np.generic) and item.ndim):
        item = asarray(item)
    if isinstance(item, Tensor):
        if item.dtype is bool_:
            raise op_error(
                DTypeError, op, f"a mask {describe(item)}", "integer indices", user_line(),
                "how many elements a mask picks depends on its values: use ds.where(mask, x, 0) or "
                "index with mask.numpy().nonzero()",
            )  # fmt: skip
        if not item.dtype.is_integer:
            raise op_error(
                DTypeError, op, f"an index {describe(item)}", "an integer tensor", user_line()
            )
        return item
    if isinstance(item, (bool, np.bool_)):
        raise op_error(DTypeError, op, f"the index {item}", "an integer", user_line())
    if hasattr(item, "__index__"):
        return item if isinstance(item, int) else int(item.__index__())
    raise op_error(
        ArgumentError, op, f"the index {item!r}",
        "integers, slices, '...', None or integer tensors", user_line(),
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


def _sliced(x: Tensor, basic: Basic) -> Tensor:
    whole = basic.sliced == shape_of(x) and not any(s != 1 for s in basic.step)
    if not whole:
        x = slice_(x, start=basic.start, step=basic.step, shape=basic.sliced)
    return x.reshape(basic.shape)


def getitem(x: Tensor, key: Any) -> Tensor:
    """x[key]: ints, slices, ..., None and integer tensors, as in NumPy."""
    basic = parse(x, key, "getitem")
    out = _sliced(x, basic)
    if not basic.arrays:
        return out
    if len(basic.arrays) == 1:
        axis, index = basic.arrays[0]
        return take(out, index, axis=axis)
    return _taken(out, basic.arrays)


def _taken(x: Tensor, arrays: list[tuple[int, Tensor]]) -> Tensor:
    """x indexed by several integer tensors at once, which broadcast."""
    axes = [axis for axis, _ in arrays]
    places = broadcast_arrays(*(converted(i, int64) for _, i in arrays))
    adjacent = axes == list(range(axes[0], axes[0] + len(axes)))
    if not adjacent:  # as in NumPy, the indexed axes then come first
        rest = [a for a in range(x.ndim) if a not in axes]
        x, axes = permute_dims(x, axes + rest), list(range(len(axes)))
    source = shape_of(x)
    first, last = axes[0], axes[-1]
    at = in_range_tensor(places[0], source[first])
    for axis, place in zip(axes[1:], places[1:], strict=True):
        at = at * filled((), source[axis], int64) + in_range_tensor(place, source[axis])
    merged = numel(source[first : last + 1])
    return take(x.reshape((*source[:first], merged, *source[last + 1 :])), at, axis=first)


# -------------------------------------------------------------------------------------- assignment


def refuse_leaf(x: Tensor, what: str) -> None:
    """Raises where a change would lose the place gradients arrive at, as in PyTorch."""
    if x.requires_grad and x.is_leaf and state.grad:
        raise op_error(
            ArgumentError, what, f"{describe(x)}, a leaf that requires gradients",
            "a tensor that does not, or was computed", user_line(),
            "change it under ds.no_grad(), or compute a new tensor",
        )  # fmt: skip


def assigned(x: Tensor, value: Tensor) -> Tensor:
    """x showing another value; a leaf that requires gradients stays one."""
    if x.requires_grad and x.is_leaf:
        value = stop_gradient(value)  # gradients arrive here and go no further
        value._value.requires_grad = True
    return x._rebind(value._value)


def setitem(x: Tensor, key: Any, value: Any) -> None:
    """x[key] = value, converted to x's dtype and broadcast. The handle shows a new value."""
    refuse_leaf(x, "setitem")
    if _is_mask(key):
        mask = as_tensor(key, "setitem")
        v = converted(as_tensor(value, "setitem", x.dtype), x.dtype)
        if v.ndim or not _leads(mask, x):
            raise op_error(
                ShapeError, "setitem", f"a mask {describe(mask)} and a value {describe(v)}",
                f"a mask of x's first sizes {shape_of(x)} and a number", user_line(),
                "write x = ds.where(mask, value, x)",
            )  # fmt: skip
        wide = mask.reshape((*shape_of(mask), *(1,) * (x.ndim - mask.ndim)))
        assigned(x, where(wide, v, x))
        return
    basic = parse(x, key, "setitem")
    if basic.arrays:
        raise op_error(
            ArgumentError, "setitem", "an assignment to the places of an integer tensor",
            "ints and slices", user_line(), "use x.scatter_add(dim, index, src), or ds.where",
        )  # fmt: skip
    v = converted(as_tensor(value, "setitem", x.dtype), x.dtype)
    v = _fitted(v, basic, x)
    assigned(x, slice_update(x, v, start=basic.start, step=basic.step))


def _is_mask(key: Any) -> bool:
    return (
        getattr(key, "dtype", None) in (bool_, np.dtype(np.bool_)) and getattr(key, "ndim", 0) > 0
    )


def _leads(mask: Tensor, x: Tensor) -> bool:
    return mask.ndim <= x.ndim and all(map(same, shape_of(mask), shape_of(x)))


def _fitted(v: Tensor, basic: Basic, x: Tensor) -> Tensor:
    """A value in the shape of the slice that it replaces."""
    sizes = list(shape_of(v))
    while len(sizes) > len(basic.shape) and sizes[0] == 1:
        del sizes[0]
    try:
        return v.reshape(tuple(sizes)).broadcast_to(basic.shape).reshape(basic.sliced)
    except ShapeError:
        raise op_error(
            ShapeError, "setitem", f"a value {describe(v)}",
            f"one that broadcasts to {basic.shape}", user_line(),
        ) from None  # fmt: skip


def _in_place(name: str, symbol: str) -> Callable[[Tensor, Any], Tensor]:
    function = getattr(elementwise, name)

    def operator(self: Tensor, other: Any) -> Tensor:
        refuse_leaf(self, symbol)
        out: Tensor = function(self, other)
        if _kind(out.dtype) > _kind(self.dtype):
            raise op_error(
                DTypeError, symbol, (describe(self), describe(as_tensor(other, symbol))),
                f"a result that {self.dtype} can hold", user_line(), "write x = x op y",
            )  # fmt: skip
        if not _alike(shape_of(out), shape_of(self)):
            raise op_error(
                ShapeError, symbol, (describe(self), describe(as_tensor(other, symbol))),
                "a right side that broadcasts to the left", user_line(),
            )  # fmt: skip
        return assigned(self, converted(out, self.dtype))

    operator.__name__ = operator.__qualname__ = name
    return operator


def _kind(dtype: DType) -> int:
    return "biuf".index(dtype.kind) if dtype.kind != "u" else 1


def _alike(a: Shape, b: Shape) -> bool:
    return len(a) == len(b) and all(map(same, a, b))


for _symbol, _name in {
    "__iadd__": "add", "__isub__": "subtract", "__imul__": "multiply", "__itruediv__": "divide",
    "__ifloordiv__": "floor_divide", "__imod__": "remainder", "__ipow__": "pow",
    "__iand__": "bitwise_and", "__ior__": "bitwise_or", "__ixor__": "bitwise_xor",
    "__ilshift__": "bitwise_left_shift", "__irshift__": "bitwise_right_shift",
}.items():  # fmt: skip
    setattr(Tensor, _symbol, _in_place(_name, _symbol.strip("_")[1:] + "="))
for _plain, _name in {
    "add_": "add",
    "sub_": "subtract",
    "mul_": "multiply",
    "div_": "divide",
}.items():
    setattr(Tensor, _plain, _in_place(_name, _plain))
for _dunder, _method in {"__getitem__": getitem, "__setitem__": setitem}.items():
    setattr(Tensor, _dunder, _method)
