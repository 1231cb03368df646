"""Functions of the op files as methods of Tensor.

In flows a function with the names of its methods, or a method's name before its file is loaded; out
flow attributes of Tensor: the function in both spellings, or what loads it on first use.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from deepseek.frontend.tensor import Tensor
from deepseek.ops.spelling import in_both_spellings

F = TypeVar("F", bound=Callable[..., Any])

METHODS: dict[str, str] = {}
"""By the name of a method of Tensor, the module that defines it."""


def attribute(name: str, value: Any, home: str) -> None:
    """Give Tensor a method or property as it is; `home` is the module that says so."""
    METHODS[name] = home
    setattr(Tensor, name, value)


def method(*names: str, home: str = "") -> Callable[[F], F]:
    """A decorator for a plain function that is to be a method of Tensor under these names.

    `home` is the module that says so where the function is another's.
    """

    def attach(function: F) -> F:
        for name in names:
            spelled = as_method(in_both_spellings(function), name)
            attribute(name, spelled, home or function.__module__)
        return function

    return attach


def as_method(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The function as a Tensor method; reflected dunders swap their operands."""
    reflected = name.startswith("__r") and name not in ("__rshift__", "__repr__")

    def swapped(self: Tensor, other: Any) -> Any:
        return function(other, self)

    if not name.startswith("__"):
        return function
    target = swapped if reflected else function

    @functools.wraps(function)
    def operator(self: Tensor, *args: Any) -> Any:
        if args and not is_operand(args[0]):
            return NotImplemented
        return target(self, *args)

    return operator


def is_operand(x: Any) -> bool:
    """Whether x can stand beside a tensor in arithmetic."""
    return isinstance(x, (Tensor, bool, int, float, np.ndarray, np.generic)) or hasattr(
        x, "_number"
    )


class OnDemand:
    """A method whose file is loaded when the method is first looked up; the file replaces this."""

    def __init__(self, name: str, load: Callable[[], object]) -> None:
        self.name = name
        self.load = load

    def __get__(self, instance: Tensor | None, owner: type[Tensor]) -> Any:
        self.load()
        if vars(Tensor)[self.name] is self:
            raise AttributeError(f"type object 'Tensor' has no attribute {self.name!r}")
        return getattr(owner if instance is None else instance, self.name)
