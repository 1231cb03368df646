"""Reductions, scans along an axis, and statistics."""

from __future__ import annotations

from typing import Any

from adapt import Entry, same, via

import deepseek as ds


def spread(kind: str) -> Any:
    """`var` or `std` with PyTorch's two ways to say what is subtracted from the count."""

    def call(x: Any, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *,
             correction: Any = None) -> Any:  # fmt: skip
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        if correction is None:
            correction = 1 if unbiased is None else int(unbiased)
        function = getattr(ds, kind)
        return function(x, axis=dim if dim != () and dim != [] else None, correction=correction,
                        keepdims=keepdim)  # fmt: skip

    return call


def with_mean(kind: str) -> Any:
    def call(x: Any, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *,
             correction: Any = None) -> Any:  # fmt: skip
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        first = spread(kind)(x, dim, unbiased, keepdim, correction=correction)
        return first, ds.mean(x, axis=dim, keepdims=keepdim)

    return call


def extreme(kind: str) -> Any:
    """max or min along a dim: the values and where they were found."""

    def call(x: Any, dim: int, keepdim: bool = False) -> Any:
        values = getattr(ds, kind)(x, axis=dim, keepdims=keepdim)
        return values, getattr(ds, "arg" + kind)(x, axis=dim, keepdims=keepdim)

    return call


def every_axis(function: Any) -> Any:
    """An empty list of dims means all of them."""

    def call(x: Any, dim: Any = None, keepdim: bool = False, **rest: Any) -> Any:
        return function(x, axis=None if dim in ((), []) else dim, keepdims=keepdim, **rest)

    return call


def summed(name: str) -> Any:
    def call(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
        x = x if dtype is None else x.astype(dtype)
        axis = None if dim in ((), []) else dim
        return getattr(ds, name)(x, axis=axis, keepdims=keepdim)

    return call


def ordered(x: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    return (
        ds.sort(x, axis=dim, descending=descending),
        ds.argsort(x, axis=dim, descending=descending),
    )


def every_axis_of(name: str) -> Any:
    def call(x: Any, dim: Any = None, **rest: Any) -> Any:
        return getattr(ds, name)(x, axis=None if dim in ((), []) else dim, **rest)

    return call


def matrix_norm(x: Any, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False,  # noqa: A002
                dtype: Any = None) -> Any:  # fmt: skip
    x = x if dtype is None else x.astype(dtype)
    return ds.linalg.matrix_norm(x, ord=ord, axis=dim, keepdims=keepdim)


def any_norm(x: Any, ord: Any = None, dim: Any = None, keepdim: bool = False,  # noqa: A002
             dtype: Any = None) -> Any:  # fmt: skip
    """Of vectors, or of matrices where there are two dims and an order."""
    pair = isinstance(dim, (tuple, list)) and len(dim) == 2 or dim is None and x.ndim == 2
    if ord is not None and pair:
        return matrix_norm(x, ord, (0, 1) if dim is None else dim, keepdim, dtype)
    x = x if dtype is None else x.astype(dtype)
    return ds.vector_norm(x, 2 if ord is None else ord, dim, keepdim)


ENTRIES: dict[str, Entry] = {
    "sum": via("sum", summed("sum")),
    "mean": via("mean", summed("mean")),
    "prod": via("prod", summed("prod")),
    "nansum": via("nansum", summed("nansum")),
    "nanmean": via("nanmean", summed("nanmean")),
    "amax": via("max", lambda x, dim=None, keepdim=False: every_axis(ds.max)(x, dim, keepdim)),
    "amin": via("min", lambda x, dim=None, keepdim=False: every_axis(ds.min)(x, dim, keepdim)),
    "aminmax": via(
        "min max",
        lambda x, dim=None, keepdim=False: (
            ds.min(x, axis=dim, keepdims=keepdim),
            ds.max(x, axis=dim, keepdims=keepdim),
        ),
    ),
    "max.reduction_no_dim": same("max"),
    "min.reduction_no_dim": same("min"),
    "max.reduction_with_dim": via("max argmax", extreme("max")),
    "min.reduction_with_dim": via("min argmin", extreme("min")),
    "any": via("any", lambda x, dim=None, keepdim=False: ds.any(x, axis=dim, keepdims=keepdim)),
    "all": via("all", lambda x, dim=None, keepdim=False: ds.all(x, axis=dim, keepdims=keepdim)),
    "var": via("var", spread("var")),
    "var.unbiased": via("var", spread("var")),
    "std": via("std", spread("std")),
    "std.unbiased": via("std", spread("std")),
    "var_mean": via("var mean", with_mean("var")),
    "var_mean.unbiased": via("var mean", with_mean("var")),
    "std_mean": via("std mean", with_mean("std")),
    "std_mean.unbiased": via("std mean", with_mean("std")),
    "sort": via("sort argsort", ordered),
    "msort": via("sort", lambda x: ds.sort(x, axis=0)),
    "argsort": via(
        "argsort",
        lambda x, dim=-1, descending=False, stable=False: ds.argsort(
            x, axis=dim, descending=descending
        ),
    ),
    "logsumexp": same("logsumexp"),
    "trace": same("trace", lenient={"expected a matrix": "takes stacks of matrices too"}),
    "cdist": via("cdist", lambda x, y, p=2.0, compute_mode=None: ds.cdist(x, y, p)),
    "count_nonzero": via("count_nonzero", every_axis_of("count_nonzero")),
    "linalg.norm": via("vector_norm linalg.matrix_norm", any_norm),
    "linalg.norm.subgradients_at_zero": via("vector_norm linalg.matrix_norm", any_norm),
    "linalg.matrix_norm": via("linalg.matrix_norm", matrix_norm),
    "norm.nuc": via(
        "linalg.matrix_norm",
        lambda x, p, dim=None, keepdim=False: matrix_norm(
            x, p, (0, 1) if dim is None else dim, keepdim
        ),
    ),
    "trapz": same("trapezoid"),
    "histogram": via(
        "histogram",
        lambda x, bins, range=None, weight=None, density=False: ds.histogram(
            x, bins, range=range, weight=weight, density=density
        ),
    ),
    # The gradient of weights is a difference of large terms, which vanishes for two observations.
    "cov": same("cov", scale=10.0, lenient={"cannot be negative": "values are not looked at"}),
    "dist": via("norm subtract", lambda x, y, p=2: ds.norm(ds.subtract(x, y), p)),
}
