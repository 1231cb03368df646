"""Shapes and symbolic sizes.

A shape is a tuple of sizes, each an int or, in a graph that serves many sizes, an int64 `Expr` over
size symbols. User code meets such a size as a `Dim`. While a graph is traced, a `Sizes` environment
is active: it knows what each symbol stands for now, and keeps a guard for every question that was
answered from that: "are these two equal?", "is this smaller?". The graph is right for all
sizes that give the same answers.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from deepseek.errors import Line, ShapeError, user_line
from deepseek.ir import scalar
from deepseek.ir.dtype import DType
from deepseek.ir.scalar import Expr

Size = int | Expr
Shape = tuple[Size, ...]


@dataclass(frozen=True)
class Guard:
    """A condition over size symbols that a graph relies on, and the line that asked."""

    condition: Expr
    line: Line


class Sizes:
    """What the size symbols of one trace stand for, and what the trace asked about them.

    Whoever can make the trace again with numbers, `repeatable`, may let symbols stand for 1.
    """

    def __init__(self, current: dict[Expr, int] | None = None, repeatable: bool = False) -> None:
        self.current: dict[Expr, int] = dict(current or {})
        self.repeatable = repeatable
        self.guards: dict[Expr, Guard] = {}
        self._equal: dict[Expr, Expr] = {}

    def symbol(self, size: int) -> Expr:
        """A fresh symbol that stands for `size` now. A size of 0 never becomes a symbol."""
        symbol = scalar.size_var(f"n{len(self.current)}")
        self.current[symbol] = size
        return symbol

    def value(self, size: Size) -> int:
        """What a size is now."""
        if isinstance(size, int):
            return size
        return int(scalar.evaluate(size, self.current))

    def settled(self, size: Size) -> Size:
        """The size with every symbol replaced by the one it is known to equal."""
        if isinstance(size, int) or not self._equal:
            return size
        return simplify(scalar.substitute(size, self._equal))

    def ask(self, condition: Expr) -> bool:
        """The truth of a condition now; it is kept as a guard."""
        if condition.fn == "const":
            return bool(condition.attr)
        answer = bool(scalar.evaluate(condition, self.current))
        kept = condition if answer else scalar.not_(condition)
        if kept not in self.guards:
            self.guards[kept] = Guard(kept, user_line(2))
            if kept.fn == "eq":
                self._unify(*kept.args)
        return answer

    def _unify(self, a: Expr, b: Expr) -> None:
        a, b = scalar.substitute(a, self._equal), scalar.substitute(b, self._equal)
        if a.fn != "var":
            a, b = b, a
        if a.fn == "var" and a is not b:
            step = {a: b}
            self._equal = {k: scalar.substitute(v, step) for k, v in self._equal.items()} | step


class NumberNeeded(BaseException):
    """What a trace has to do depends on whether a symbolic size is 1, and now it is.

    An axis of size 1 is spread, or left out. So the trace is made again with numbers for these
    symbols. No Exception, since no code that is traced is to catch it.
    """

    def __init__(self, symbols: Sequence[Expr]) -> None:
        super().__init__(*symbols)
        self.symbols = symbols


class _Active(threading.local):
    sizes: Sizes | None = None


_active = _Active()


@contextmanager
def active(sizes: Sizes) -> Iterator[Sizes]:
    """Answer questions about symbols from `sizes` in this thread."""
    before = _active.sizes
    _active.sizes = sizes
    try:
        yield sizes
    finally:
        _active.sizes = before


def current_sizes() -> Sizes | None:
    """The environment of the trace that is going on in this thread."""
    return _active.sizes


def simplify(size: Size) -> Size:
    """A constant expression as an int."""
    if isinstance(size, Expr) and size.fn == "const":
        return int(size.attr)
    return size


def same(a: Size, b: Size) -> bool:
    """Whether two sizes are equal; asks the active trace where symbols differ."""
    if a is b:
        return True
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    sizes = _active.sizes
    if sizes is None:
        return scalar.as_expr(a) is scalar.as_expr(b)
    a, b = sizes.settled(a), sizes.settled(b)
    return sizes.ask(scalar.call("eq", scalar.as_expr(a), scalar.as_expr(b)))


def same_shape(a: Shape, b: Shape) -> bool:
    return a is b or a == b or (len(a) == len(b) and all(map(same, a, b)))


def is_true(condition: Expr) -> bool:
    """The answer to a question about sizes; without an active trace it must be a constant."""
    if condition.fn == "const":
        return bool(condition.attr)
    if _active.sizes is None:
        raise ShapeError(f"the sizes here are symbolic, and nothing says whether {condition}")
    return _active.sizes.ask(condition)


def is_one(size: Size) -> bool:
    """Whether a size is 1. Raises NumberNeeded where a symbolic one is 1 in the active trace."""
    if isinstance(size, int):
        return size == 1
    sizes = _active.sizes
    if sizes is None or not sizes.repeatable:
        return False
    if sizes.ask(scalar.call("eq", size, scalar.ONE)):
        raise NumberNeeded(scalar.variables(size))
    return False


def is_positive(size: Size) -> bool:
    """Whether a size is 1 or more; asks the active trace, and takes it for granted without one."""
    if isinstance(size, int):
        return size > 0
    sizes = _active.sizes
    if sizes is None or not sizes.current:
        return True
    return sizes.ask(scalar.call("lt", scalar.ZERO, size))


def size_of(dim: Any) -> Size:
    """A Dim's expression, or anything else with `__index__` as an int."""
    if type(dim) is Dim:  # asked first, since a Dim passes for an int
        return dim.expr
    if isinstance(dim, int):
        return int(dim)
    if isinstance(dim, Expr):
        return simplify(dim)
    return int(dim.__index__())


def shape_of(dims: Any) -> Shape:
    """A shape from an int, a Dim or a sequence of them."""
    if isinstance(dims, (tuple, list)):
        return tuple(size_of(d) for d in dims)
    return (size_of(dims),)


def numel(shape: Shape) -> Size:
    """The number of elements."""
    if all(type(s) is int for s in shape):
        out = 1
        for s in shape:
            out *= s  # type: ignore[operator]
        return out
    return simplify(scalar.product(shape))


@functools.lru_cache(maxsize=1 << 12)
def exprs(shape: Shape) -> tuple[Expr, ...]:
    """The sizes as expressions."""
    return tuple(scalar.as_expr(s) for s in shape)


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """The shape that the given shapes broadcast to (array API). Raises ShapeError."""
    rank = max(map(len, shapes), default=0)
    out: list[Size] = []
    for axis in range(-rank, 0):
        size: Size = 1
        for shape in shapes:
            if len(shape) < -axis:
                continue
            other = shape[axis]
            if type(size) is int and size == 1:
                size = other
            elif type(other) is int and other == 1:
                continue
            elif not (same(size, other) or is_one(size) or is_one(other)):
                raise ShapeError(f"sizes {size} and {other} of axis {axis} do not broadcast")
        out.append(size)
    return tuple(out)


def normalize_axis(axis: int, rank: int) -> int:
    """An axis counted from the front. Raises ShapeError if there is none such."""
    axis = int(axis)
    if not -rank <= axis < rank:
        span = f"-{rank} <= axis < {rank}" if rank else "no axis, since the tensor has none"
        raise ShapeError(f"axis {axis}; wanted {span}")
    return axis % rank


def normalize_axes(axis: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Sorted axes counted from the front; all of them for None. Raises ShapeError."""
    if axis is None:
        return tuple(range(rank))
    given = (axis,) if isinstance(axis, int) else tuple(axis)
    axes = sorted(normalize_axis(a, rank) for a in given)
    if len(set(axes)) != len(axes):
        raise ShapeError(f"axes {given}; wanted each axis once")
    return tuple(axes)


class TensorType:
    """The dtype and shape of a value. Interned: equal types are the same object."""

    __slots__ = ("dtype", "shape", "static", "numel", "__weakref__")
    dtype: DType
    shape: Shape
    static: bool
    numel: Size

    def __repr__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> Size:
        count = self.numel
        if isinstance(count, int):
            return count * self.dtype.itemsize
        return scalar.mul(count, scalar.const(self.dtype.itemsize))


_types: dict[tuple[DType, Shape], TensorType] = {}


def tensor_type(dtype: DType, shape: Shape) -> TensorType:
    """The interned type."""
    key = (dtype, shape)
    found = _types.get(key)
    if found is None:
        found = TensorType()
        found.dtype = dtype
        found.shape = tuple(simplify(s) for s in shape)
        found.static = all(type(s) is int for s in found.shape)
        found.numel = numel(found.shape)
        found = _types.setdefault((dtype, found.shape), found)
    return found


class Dim:
    """A symbolic size: an expression and, inside its trace, a current value.

    Arithmetic stays symbolic. Comparing it, or using it where Python needs a number, answers from
    the current value and keeps a guard, so a function that did so is traced again when the answer
    changes.
    """

    __slots__ = ("expr", "sizes")

    def __init__(self, expr: Expr, sizes: Sizes) -> None:
        self.expr = expr
        self.sizes = sizes

    # isinstance(dim, int) holds, so that code which checks for a number accepts a Dim.
    __class__ = property(lambda self: int)

    def __index__(self) -> int:
        value = self.sizes.value(self.expr)
        self.sizes.ask(scalar.call("eq", self.expr, scalar.const(value)))
        return value

    __int__ = __index__

    def __float__(self) -> float:
        return float(self.__index__())

    def __bool__(self) -> bool:
        return self.sizes.ask(scalar.call("ne", self.expr, scalar.ZERO))

    def __hash__(self) -> int:
        return hash(self.__index__())

    def __repr__(self) -> str:
        return f"{self.expr}={self.sizes.value(self.expr)}"

    def __format__(self, spec: str) -> str:
        return format(self.sizes.value(self.expr), spec)

    def _compare(self, fn: str, other: Any, swap: bool = False) -> bool:
        if type(other) is not Dim and not isinstance(other, int):
            return NotImplemented  # type: ignore[no-any-return]
        pair = self.expr, scalar.as_expr(size_of(other))
        return self.sizes.ask(scalar.call(fn, *(pair[::-1] if swap else pair)))

    def __eq__(self, other: object) -> bool:
        return self._compare("eq", other)

    def __ne__(self, other: object) -> bool:
        return self._compare("ne", other)

    def __lt__(self, other: Any) -> bool:
        return self._compare("lt", other)

    def __le__(self, other: Any) -> bool:
        return self._compare("le", other)

    def __gt__(self, other: Any) -> bool:
        return self._compare("lt", other, swap=True)

    def __ge__(self, other: Any) -> bool:
        return self._compare("le", other, swap=True)

    def _combine(self, fn: str, other: Any, swap: bool = False) -> Any:
        if type(other) is not Dim and not isinstance(other, int):
            return NotImplemented
        pair = self.expr, scalar.as_expr(size_of(other))
        return dim(scalar.call(fn, *(pair[::-1] if swap else pair)), self.sizes)

    def __add__(self, other: Any) -> Any:
        return self._combine("add", other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return self._combine("sub", other)

    def __rsub__(self, other: Any) -> Any:
        return self._combine("sub", other, swap=True)

    def __mul__(self, other: Any) -> Any:
        return self._combine("mul", other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        return self._combine("floordiv", other)

    def __rfloordiv__(self, other: Any) -> Any:
        return self._combine("floordiv", other, swap=True)

    def __mod__(self, other: Any) -> Any:
        return self._combine("mod", other)

    def __rmod__(self, other: Any) -> Any:
        return self._combine("mod", other, swap=True)

    def __neg__(self) -> Any:
        return dim(scalar.neg(self.expr), self.sizes)

    def __truediv__(self, other: Any) -> float:
        return float(self) / float(other)

    def __rtruediv__(self, other: Any) -> float:
        return float(other) / float(self)

    def __pow__(self, other: Any) -> Any:
        return self.__index__() ** other

    def __rpow__(self, other: Any) -> Any:
        return other ** self.__index__()

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other


def dim(size: Size, sizes: Sizes | None) -> int:
    """A size as user code sees it: an int, or a Dim of the given trace."""
    size = simplify(size)
    if isinstance(size, int):
        return size
    if sizes is None:
        raise ShapeError(f"the size {size} is known only inside the trace it comes from")
    return Dim(size, sizes)  # type: ignore[return-value]
