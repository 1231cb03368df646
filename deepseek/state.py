"""Nested state as JSON and tensors, and back: the types are those that went in.

`Encoder` turns dicts (of any simple keys), lists, tuples, numbers, strings, bytes and None into
JSON values, in which what JSON lacks is an object with one key such as "$tuple"; tensors and arrays
are named there and collected. `Decoder` builds data only.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError
from deepseek.frontend.tensor import Tensor, from_numpy
from deepseek.ir.dtype import DTYPES, DType, dtype_of

FLOATS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


class Encoder:
    """Collects the tensors of one part under the names of their places."""

    def __init__(self, part: str) -> None:
        self.part = part
        self.tensors: dict[str, Tensor] = {}

    def encode(self, value: Any, place: str = "") -> Any:
        """The JSON value for a piece of state. Raises ArgumentError, naming the place."""
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else {"$float": str(value)}
        if isinstance(value, (Tensor, np.ndarray, np.generic)):
            return self._tensor(value, place)
        if kind in (list, tuple):
            items = [self.encode(item, inner(place, i)) for i, item in enumerate(value)]
            return items if kind is list else {"$tuple": items}
        if kind in (dict, OrderedDict):
            return self._mapping(value, place)
        if kind is bytes:
            return {"$bytes": value.hex()}
        if kind is DType:
            return {"$dtype": value.name}
        raise ArgumentError(
            f"save_checkpoint: got {place or 'a value'} of type {kind.__name__} in {self.part!r}; "
            "wanted tensors, arrays, numbers, strings, bytes, None, or dicts, lists and tuples "
            "of them"
        )

    def _mapping(self, value: dict[Any, Any], place: str) -> Any:
        plain = all(type(key) is str and not key.startswith("$") for key in value)
        if plain and type(value) is dict:
            return {key: self.encode(item, inner(place, key)) for key, item in value.items()}
        for key in value:
            if not simple(key):
                raise ArgumentError(
                    f"save_checkpoint: got a key of type {type(key).__name__} in {self.part!r}"
                    f"{' at ' + place if place else ''}; wanted strings, numbers or tuples of them"
                )
        pairs = [
            [self.encode(key), self.encode(item, inner(place, key))] for key, item in value.items()
        ]
        return {"$dict" if type(value) is dict else "$ordered": pairs}

    def _tensor(self, value: Any, place: str) -> Any:
        name = place or "value"
        while name in self.tensors or name == "__metadata__":
            name += "_"
        if isinstance(value, Tensor):
            self.tensors[name] = value
            return {"$tensor": name}
        try:
            dtype = dtype_of(value.dtype)
        except ArgumentError:
            raise ArgumentError(
                f"save_checkpoint: got {place or 'an array'} of {value.dtype} in {self.part!r}; "
                f"wanted one of {', '.join(DTYPES)}"
            ) from None
        self.tensors[name] = from_numpy(value, dtype)
        return {"$array" if isinstance(value, np.ndarray) else "$scalar": name}


def inner(place: str, key: Any) -> str:
    """The name of a place within another."""
    return f"{place}.{key}" if place else str(key)


def simple(key: Any) -> bool:
    """Whether something can be a key."""
    if type(key) is tuple:
        return all(simple(item) for item in key)
    return key is None or type(key) in (bool, int, float, str, bytes)


class Decoder:
    """Builds state from JSON values and tensors. What is damaged raises ValueError or KeyError."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def decode(self, value: Any) -> Any:
        """The piece of state that a JSON value stands for."""
        if isinstance(value, list):
            return [self.decode(item) for item in value]
        if not isinstance(value, dict):
            return value
        tag = next(iter(value), "")
        if not tag.startswith("$"):
            return {key: self.decode(item) for key, item in value.items()}
        (content,) = value.values()
        return self._tagged(tag, content)

    def _tagged(self, tag: str, content: Any) -> Any:
        if tag == "$tuple":
            return tuple(self.decode(item) for item in content)
        if tag in ("$dict", "$ordered"):
            pairs = [(self.decode(key), self.decode(item)) for key, item in content]
            return dict(pairs) if tag == "$dict" else OrderedDict(pairs)
        if tag == "$tensor":
            return self.tensors[content]
        if tag == "$array":
            return self.tensors[content].numpy().copy()
        if tag == "$scalar":
            return self.tensors[content].numpy()[()]
        if tag == "$float":
            return FLOATS[content]
        if tag == "$bytes":
            return bytes.fromhex(content)
        if tag == "$dtype":
            return DTYPES[content]
        raise ValueError(f"it has the unknown mark {tag!r}")
