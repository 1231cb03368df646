"""Nested arguments: flattening to tensors and numbers, and building the same shape again.

A structure is hashable and says everything about the arguments but the tensors and numbers: it is the first part of
a signature. Strings, None, dtypes and the like count by value, other objects by identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from deepseek.frontend.guards import PLAIN
from deepseek.frontend.number import Number
from deepseek.frontend.tensor import Tensor

TENSOR, NUMBER = "tensor", "number"


class Static:
    """An argument that is part of the signature; `by_value` or else by identity."""

    __slots__ = ("value", "by_value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self.by_value = isinstance(value, PLAIN)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Static):
            return False
        if self.by_value:
            return type(self.value) is type(other.value) and bool(self.value == other.value)
        return self.value is other.value

    def __hash__(self) -> int:
        return hash(self.value) if self.by_value else id(self.value)


def flatten(obj: Any, leaves: list[Any]) -> Any:
    """The structure of obj; tensors, arrays and numbers are appended to `leaves`."""
    if isinstance(obj, (Tensor, np.ndarray)):
        leaves.append(obj)
        return TENSOR
    kind = type(obj)
    if kind is int or kind is float:
        leaves.append(obj)
        return NUMBER, kind
    if isinstance(obj, tuple | list):
        return kind, tuple([flatten(item, leaves) for item in obj])
    if kind is dict:
        return dict, tuple(obj), tuple([flatten(item, leaves) for item in obj.values()])
    return Static(obj)


def unflatten(structure: Any, leaves: Iterator[Any]) -> Any:
    """An object of the given structure around other leaves."""
    if isinstance(structure, Static):
        return structure.value
    if structure is TENSOR or structure[0] is NUMBER:
        return next(leaves)
    if structure[0] is dict:
        return dict(zip(structure[1], [unflatten(s, leaves) for s in structure[2]], strict=True))
    items = [unflatten(s, leaves) for s in structure[1]]
    if hasattr(structure[0], "_fields"):
        return structure[0](*items)
    return structure[0](items)


def statics(structure: Any) -> list[Any]:
    """The objects that a structure holds by identity."""
    if isinstance(structure, Static):
        return [] if structure.by_value else [structure.value]
    if structure is TENSOR or structure[0] is NUMBER:
        return []
    return [obj for part in structure[-1] for obj in statics(part)]


def result_leaves(obj: Any, leaves: list[Tensor]) -> Any:
    """The structure of a result; tensors go to `leaves`, numbers are what they are now."""
    if isinstance(obj, Tensor):
        leaves.append(obj)
        return TENSOR
    if isinstance(obj, tuple | list):
        return type(obj), tuple([result_leaves(item, leaves) for item in obj])
    if type(obj) is dict:
        return dict, tuple(obj), tuple([result_leaves(item, leaves) for item in obj.values()])
    if isinstance(obj, Number):
        return Static(int(obj) if isinstance(obj.current, int) else float(obj))
    return Static(obj)
