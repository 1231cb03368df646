"""Nested arguments: flattening to tensors and numbers, and building the same shape again.

A structure is hashable and says everything about the arguments but the tensors and numbers: it is
the first part of a signature, and the runtime's dispatcher holds calls against it. Strings, None,
dtypes and the like count by value, other objects by identity.
"""

from __future__ import annotations

import types
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np

from deepseek.errors import TraceError
from deepseek.frontend.guards import copied, is_plain, is_plain_inside, same
from deepseek.frontend.number import Number
from deepseek.frontend.tensor import Tensor
from deepseek.ir.scalar import Expr
from deepseek.ir.shape import Dim
from deepseek.ops.random import Generator

TENSOR, NUMBER, GENERATOR, SIZE = "tensor", "number", "generator", "size"
DICTS = (dict, OrderedDict)
CONSTANTS = (tuple, frozenset)  # of plain values, as keys of dicts


class Static:
    """An argument that is part of the signature; `by_value`, held against `copied`, or else by
    identity. In results: what is given each time, or where `fresh` a copy of it.
    """

    __slots__ = ("value", "by_value", "copied", "fresh")

    def __init__(self, value: Any, fresh: bool = False) -> None:
        self.value = value
        self.by_value = is_plain(value) or type(value) in CONSTANTS and is_plain_inside(value)
        self.copied = copied(value) if self.by_value else None
        self.fresh = fresh

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Static):
            return False
        if self.by_value:
            return same(self.value, other.copied)
        return self.value is other.value

    def __hash__(self) -> int:
        if not self.by_value:
            return id(self.value)
        return hash((type(self.value), repr(self.value)))


def flatten(obj: Any, leaves: list[Any]) -> Any:
    """The structure of obj; tensors, arrays, numbers and generators are appended to `leaves`."""
    kind = type(obj)
    if isinstance(obj, (Tensor, np.ndarray, np.floating)):
        leaves.append(obj)
        return TENSOR
    if kind is float or kind is int and -(2**63) <= obj < 2**63:
        leaves.append(obj)
        return NUMBER, kind
    if kind is Generator:
        leaves.append(obj)
        return GENERATOR
    if kind in (tuple, list) or isinstance(obj, tuple) and hasattr(kind, "_fields"):
        return kind, tuple([flatten(item, leaves) for item in obj])
    if kind in DICTS:
        keys = tuple([Static(key) for key in obj])
        return kind, keys, tuple([flatten(item, leaves) for item in obj.values()])
    return Static(obj)


def unflatten(structure: Any, leaves: Iterator[Any]) -> Any:
    """An object of the given structure around other leaves."""
    if isinstance(structure, Static):
        return structure.value
    if isinstance(structure, str) or structure[0] in (NUMBER, SIZE):
        return next(leaves)
    if structure[0] in DICTS:
        keys = [key.value for key in structure[1]]
        values = [unflatten(s, leaves) for s in structure[2]]
        return structure[0](zip(keys, values, strict=True))
    items = [unflatten(s, leaves) for s in structure[1]]
    if hasattr(structure[0], "_fields"):
        return structure[0](*items)
    return structure[0](items)


def statics(structure: Any) -> list[Any]:
    """The objects that a structure holds by identity."""
    if isinstance(structure, Static):
        return [] if structure.by_value else [structure.value]
    if isinstance(structure, str) or structure[0] in (NUMBER, SIZE):
        return []
    return [obj for part in structure[-1] for obj in statics(part)]


def result_structure(obj: Any, leaves: list[Tensor], sizes: list[Expr], given: list[Any]) -> Any:
    """The structure of a result: tensors go to `leaves`, sizes to `sizes`, numbers are what they
    are now. Raises TraceError for an object that may hold traced tensors, unless it was `given`.
    """
    if isinstance(obj, Tensor):
        leaves.append(obj)
        return TENSOR
    if type(obj) is Dim:
        sizes.append(obj.expr)
        return SIZE, obj.expr
    if type(obj) is Number:
        return Static(int(obj) if isinstance(obj.current, int) else float(obj))
    if isinstance(obj, tuple | list):
        return type(obj), tuple([result_structure(x, leaves, sizes, given) for x in obj])
    if type(obj) in DICTS:
        keys = tuple([Static(key) for key in obj])
        parts = [result_structure(x, leaves, sizes, given) for x in obj.values()]
        return type(obj), keys, tuple(parts)
    known = (types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type)
    if isinstance(obj, known) or any(obj is x for x in given):
        return Static(obj)
    if is_plain_inside(obj):
        return Static(obj, fresh=not is_plain(obj))
    raise TraceError(
        f"a function under @ds.jit returned a {type(obj).__name__}\n"
        "  help: return tensors, numbers, strings, None, and tuples, lists, dicts and namedtuples "
        "of these"
    )
