"""Both spellings of a keyword: the array API has `axis`, `keepdims`, `k`; PyTorch `dim`,
`keepdim`, `diagonal`.

In flows a public function; out flows one that takes the other standard's keywords too, under the
same signature. A call without keywords costs one frame more.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

OTHERS = {
    "axis": ("dim", "dims"),
    "axes": ("dim", "dims"),
    "dim": ("axis",),
    "dims": ("axes", "axis"),
    "keepdims": ("keepdim",),
    "keepdim": ("keepdims",),
    "diagonal": ("k",),
}


def in_both_spellings(function: F) -> F:
    """The function, taking `dim` where it says `axis`, and so on."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return function
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    known = {
        other: name for name in names for other in OTHERS.get(name, ()) if other not in names
    }
    if not known:
        return function

    @functools.wraps(function)
    def spelled(*args: Any, **kwargs: Any) -> Any:
        if kwargs:
            kwargs = {known.get(k, k): v for k, v in kwargs.items()}
        return function(*args, **kwargs)

    return spelled  # type: ignore[return-value]
