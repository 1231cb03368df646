"""Numbers inside a trace: arguments and hyper-parameters that may differ at the next call.

A `Number` stands for a Python int or float that a compiled function takes as a 0-d input.
Arithmetic with numbers and tensors stays symbolic. Wherever Python needs the number itself (a
branch, an index, `math.sqrt`), it gets the current value and the trace keeps a guard, so that
another value is traced anew.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import float64


class Number:
    """A number with a 0-d tensor behind it. `guard()` pins what it came from to the current value.

    `isinstance(number, float)` (or int) holds, as for the number it stands for.
    """

    __slots__ = ("_tensor", "current", "guard")

    def __init__(self, tensor: Tensor, current: int | float, guard: Callable[[], None]) -> None:
        self._tensor = tensor
        self.current = current
        self.guard = guard

    __class__ = property(lambda self: type(self.current))  # type: ignore[assignment]

    def _number(self) -> Tensor:
        """The 0-d tensor; ops take it as a weak scalar."""
        return self._tensor

    def _pinned(self) -> int | float:
        self.guard()
        return self.current

    def __bool__(self) -> bool:
        return bool(self._pinned())

    def __int__(self) -> int:
        return int(self._pinned())

    def __float__(self) -> float:
        return float(self._pinned())

    def __complex__(self) -> complex:
        return complex(self._pinned())

    def __index__(self) -> int:
        return operator.index(self._pinned())  # type: ignore[arg-type]

    def __hash__(self) -> int:
        return hash(self._pinned())

    def __repr__(self) -> str:
        return f"{self.current!r}"

    def __format__(self, spec: str) -> str:
        return format(self._pinned(), spec)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._pinned(), name)  # is_integer, bit_length and the like


def is_number(x: Any) -> bool:
    """Whether x is a Number: isinstance would ask what it stands for."""
    return type(x) is Number


def static(x: Any) -> Any:
    """An argument as a node's attribute: numbers plain, which the trace guards, lists tuples."""
    if isinstance(x, (list, tuple)):
        return tuple(map(static, x)) if type(x) in (list, tuple) else x
    return _settled(x)


def _current(x: Any) -> Any:
    return x.current if is_number(x) else x


def _settled(x: Any) -> Any:
    return x._pinned() if is_number(x) else x


def _both(a: Any, b: Any) -> Callable[[], None]:
    def guard() -> None:
        for x in (a, b):
            if is_number(x):
                x.guard()

    return guard


def _operand(x: Any, like: type) -> Any:
    """A Number's tensor, in float64 where the result is a float: what Python computes in."""
    if not is_number(x):
        return x
    tensor = x._tensor
    if like is float and tensor.dtype is not float64:
        tensor = tensor.astype(float64)
    return tensor


def _arithmetic(name: str) -> None:
    compute = getattr(operator, name)

    def apply(a: Any, b: Any) -> Any:
        if name == "pow" and not isinstance(_current(b), float):
            b = _settled(b)  # the sign of an integer exponent decides what comes out
        result = compute(_current(a), _current(b))
        if isinstance(result, complex):
            return compute(_settled(a), _settled(b))
        tensor = compute(_operand(a, type(result)), _operand(b, type(result)))
        return Number(tensor, result, _both(a, b)) if isinstance(tensor, Tensor) else tensor

    def forward(self: Number, other: Any) -> Any:
        return apply(self, other) if _is_plain_number(other) else NotImplemented

    def reflected(self: Number, other: Any) -> Any:
        return apply(other, self) if _is_plain_number(other) else NotImplemented

    setattr(Number, f"__{name}__", forward)
    setattr(Number, f"__r{name}__", reflected)


def _is_plain_number(x: Any) -> bool:
    return is_number(x) or isinstance(x, (int, float))


def _pinning(name: str, function: Callable[..., Any], reflect: bool) -> None:
    """A method that needs the number itself."""

    def forward(self: Number, *others: Any) -> Any:
        if any(isinstance(x, Tensor) for x in others):
            return NotImplemented
        return function(self._pinned(), *map(_settled, others))

    def reflected(self: Number, other: Any) -> Any:
        return NotImplemented if isinstance(other, Tensor) else function(other, self._pinned())

    setattr(Number, f"__{name}__", forward)
    if reflect:
        setattr(Number, f"__r{name}__", reflected)


def _unary(name: str) -> None:
    compute = getattr(operator, name)

    def method(self: Number) -> Number:
        return Number(compute(self._tensor), compute(self.current), self.guard)

    setattr(Number, f"__{name}__", method)


for _name in ("add", "sub", "mul", "truediv", "pow"):
    _arithmetic(_name)
for _name in ("neg", "abs", "pos"):
    _unary(_name)
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    _pinning(_name, getattr(operator, _name), False)
for _name, _compute in {
    "floordiv": operator.floordiv, "mod": operator.mod, "divmod": divmod,
    "lshift": operator.lshift, "rshift": operator.rshift, "and": operator.and_,
    "or": operator.or_, "xor": operator.xor,
}.items():  # fmt: skip
    _pinning(_name, _compute, True)
for _name, _compute in {
    "invert": operator.invert, "round": round, "trunc": math.trunc, "floor": math.floor,
    "ceil": math.ceil,
}.items():  # fmt: skip
    _pinning(_name, _compute, False)
