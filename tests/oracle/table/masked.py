"""Reductions of what a mask lets through: `where` with the reduction's neutral value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from adapt import Entry, LeftOut, via

import deepseek as ds


def hidden(x: Any, mask: Any, value: Any) -> Any:
    return x if mask is None else ds.where(mask, x, value)


def axes(dim: Any) -> Any:
    return None if dim in ((), []) else dim


def reduced(name: str, value: float, check: str = "all") -> Entry:
    def call(x: Any, dim: Any = None, *, keepdim: bool = False, dtype: Any = None,
             mask: Any = None) -> Any:  # fmt: skip
        x = x if dtype is None else x.astype(dtype)
        function = getattr(ds, name)
        return function(hidden(x, mask, value), axis=axes(dim), keepdims=keepdim)

    return via(f"where {name}", call, check=check)


def along(name: str, value: float) -> Entry:
    def call(x: Any, dim: int, *, dtype: Any = None, mask: Any = None) -> Any:
        x = x if dtype is None else x.astype(dtype)
        return function_of(name)(hidden(x, mask, value), dim)

    return via(f"where {name}", call)


def function_of(name: str) -> Callable[..., Any]:
    return getattr(ds, name, None) or getattr(ds.nn.functional, name)


def average(x: Any, dim: Any = None, *, keepdim: bool = False, dtype: Any = None,
            mask: Any = None) -> Any:  # fmt: skip
    x = x if dtype is None else x.astype(dtype)
    if mask is None:
        return ds.mean(x, axis=axes(dim), keepdims=keepdim)
    there = ds.broadcast_to(mask, x.shape).astype(x.dtype)
    total = ds.sum(ds.where(mask, x, 0), axis=axes(dim), keepdims=keepdim)
    return total / ds.sum(there, axis=axes(dim), keepdims=keepdim)


def norm(x: Any, ord: Any = 2.0, dim: Any = None, *, keepdim: bool = False,  # noqa: A002
         dtype: Any = None, mask: Any = None) -> Any:  # fmt: skip
    x = x if dtype is None else x.astype(dtype)
    neutral = INFINITE if ord == -INFINITE else 0
    if ord <= 0 and ord != -INFINITE and mask is not None:
        raise LeftOut("norms of a negative order, which count what is left out")
    return ds.vector_norm(hidden(x, mask, neutral), ord, axes(dim), keepdim)


def normalized(x: Any, ord: Any, dim: int, *, eps: float = 1e-12, dtype: Any = None,  # noqa: A002
               mask: Any = None) -> Any:  # fmt: skip
    return hidden(x, mask, 0) / ds.maximum(
        norm(x, ord, dim, keepdim=True, dtype=dtype, mask=mask), eps
    )


def variance(x: Any, dim: Any = None, unbiased: Any = None, *, correction: Any = None,
             keepdim: bool = False, dtype: Any = None, mask: Any = None) -> Any:  # fmt: skip
    """The mean square distance from the mean, of what there is."""
    x = x if dtype is None else x.astype(dtype)
    if correction is None:
        correction = 1 if unbiased is None else int(unbiased)
    mask = ds.broadcast_to(ds.asarray(True) if mask is None else mask, x.shape)
    count = ds.sum(mask.astype(x.dtype), axis=axes(dim), keepdims=True)
    middle = ds.sum(ds.where(mask, x, 0), axis=axes(dim), keepdims=True) / count
    squares = ds.sum(ds.where(mask, ds.square(x - middle), 0), axis=axes(dim), keepdims=True)
    found = squares / ds.maximum(count - correction, 0)
    return found if keepdim else ds.squeeze(found, axes(dim) if x.ndim else ())


INFINITE = float("inf")

ENTRIES: dict[str, Entry] = {
    "masked.sum": reduced("sum", 0),
    "masked.prod": reduced("prod", 1),
    "masked.amax": reduced("max", -INFINITE),
    "masked.amin": reduced("min", INFINITE),
    "masked.argmax": reduced("argmax", -INFINITE, "values"),
    "masked.argmin": reduced("argmin", INFINITE, "values"),
    "masked.logsumexp": reduced("logsumexp", -INFINITE),
    "masked.mean": via("where sum divide", average),
    "masked.var": via("where sum divide", variance),
    "masked.std": via("where sum divide sqrt", lambda *args, **k: ds.sqrt(variance(*args, **k))),
    "masked.norm": via("where vector_norm", norm),
    "masked.normalize": via("where vector_norm maximum divide", normalized),
    "masked.cumsum": along("cumsum", 0),
    "masked.cumprod": along("cumprod", 1),
    "masked.softmax": along("softmax", -INFINITE),
    "masked.log_softmax": along("log_softmax", -INFINITE),
    "masked.softmin": along("softmin", INFINITE),
    "masked.logaddexp": via("where logaddexp", lambda x, y, dtype=None, input_mask=None,
                            other_mask=None: ds.logaddexp(hidden(x, input_mask, -INFINITE),
                                                          hidden(y, other_mask, -INFINITE))),
}  # fmt: skip
