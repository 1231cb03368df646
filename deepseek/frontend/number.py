"""Numbers inside a trace: arguments and hyper-parameters that may differ at the next call.

A `Number` stands for a Python int or float that a compiled function takes as a 0-d input.
Arithmetic with numbers and tensors stays symbolic. Wherever Python needs the number itself (a
branch, an index, `math.sqrt`), it gets the current value and the trace keeps a guard, so that
another value is traced anew.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from deepseek.frontend.tensor import Tensor


class Number:
    """A number with a 0-d tensor behind it. `guard()` pins what it came from to the current value.
    """

    __slots__ = ("_tensor", "current", "guard")

    def __init__(self, tensor: Tensor, current: int | float, guard: Callable[[], None]) -> None:
        self._tensor = tensor
        self.current = current
        self.guard = guard

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

    def __index__(self) -> int:
        return operator.index(self._pinned())  # type: ignore[arg-type]

    def __hash__(self) -> int:
        return hash(self._pinned())

    def __repr__(self) -> str:
        return f"{self.current!r}"

    def __format__(self, spec: str) -> str:
        return format(self._pinned(), spec)


def _binary(name: str, compute: Callable[[Any, Any], Any]) -> None:
    tensor_op = getattr(operator, name)

    def forward(self: Number, other: Any) -> Any:
        return _apply(self, other, False)

    def reflected(self: Number, other: Any) -> Any:
        return _apply(self, other, True)

    def _apply(self: Number, other: Any, swap: bool) -> Any:
        if isinstance(other, Tensor):
            return NotImplemented
        if not isinstance(other, (int, float, Number)):
            return NotImplemented
        mine, theirs = (self.current, _current(other))
        a, b = (theirs, mine) if swap else (mine, theirs)
        left, right = self._tensor, _tensor_of(other)
        if swap:
            left, right = right, left
        return Number(tensor_op(left, right), compute(a, b), _both(self, other))

    setattr(Number, f"__{name}__", forward)
    setattr(Number, f"__r{name}__", reflected)


def _current(x: Any) -> Any:
    return x.current if isinstance(x, Number) else x


def _tensor_of(x: Any) -> Any:
    return x._tensor if isinstance(x, Number) else x


def _both(a: Any, b: Any) -> Callable[[], None]:
    def guard() -> None:
        for x in (a, b):
            if isinstance(x, Number):
                x.guard()

    return guard


def _compare(name: str) -> None:
    compute = getattr(operator, name)

    def method(self: Number, other: Any) -> Any:
        if isinstance(other, Tensor):
            return NotImplemented
        return compute(self._pinned(), float(other) if isinstance(other, Number) else other)

    setattr(Number, f"__{name}__", method)


for _name in ("add", "sub", "mul", "truediv", "pow"):
    _binary(_name, getattr(operator, _name))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    _compare(_name)


def _unary(name: str) -> None:
    compute = getattr(operator, name)

    def method(self: Number) -> Number:
        return Number(compute(self._tensor), compute(self.current), self.guard)

    setattr(Number, f"__{name}__", method)


_unary("neg")
_unary("abs")


def _rounded(name: str) -> None:
    compute = getattr(operator, name)

    def forward(self: Number, other: Any) -> Any:
        return compute(self._pinned(), other)

    def reflected(self: Number, other: Any) -> Any:
        return compute(other, self._pinned())

    setattr(Number, f"__{name}__", forward)
    setattr(Number, f"__r{name}__", reflected)


for _name in ("floordiv", "mod"):
    _rounded(_name)
