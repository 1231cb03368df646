"""Elementwise functions, comparisons, and what is made of two or three tensors of one shape."""

from __future__ import annotations

from typing import Any

from adapt import Entry, same, via

import deepseek as ds


def rounded(x: Any, decimals: int = 0) -> Any:
    """`round` to a number of decimals."""
    if decimals == 0:
        return ds.round(x)
    scale = 10.0 ** abs(decimals)
    return ds.round(x * scale) / scale if decimals > 0 else ds.round(x / scale) * scale


def truth(x: Any) -> Any:
    """What is not 0, for functions that take bools alone."""
    return x.astype(ds.bool) if isinstance(x, ds.Tensor) else bool(x)


def divided(x: Any, y: Any, rounding_mode: str | None = None) -> Any:
    if rounding_mode == "floor":
        return ds.floor_divide(x, y)
    return ds.trunc(ds.divide(x, y)) if rounding_mode == "trunc" else ds.divide(x, y)


def times(x: Any, alpha: Any) -> Any:
    return x if alpha == 1 else ds.multiply(x, alpha)


def clamped(x: Any, min: Any = None, max: Any = None) -> Any:  # noqa: A002
    return ds.clip(x, min, max)


def product_sum(x: Any, a: Any, b: Any, value: float = 1) -> Any:
    return ds.add(x, ds.multiply(value, ds.multiply(a, b)))


ENTRIES: dict[str, Entry] = {
    "neg": same("negative"),
    "sgn": same("sign"),
    "conj": same("positive"),
    "conj_physical": same("positive"),
    "resolve_conj": same("positive"),
    "resolve_neg": same("positive"),
    "real": same("positive"),
    "clone": via("positive", lambda x, **_: ds.positive(x)),
    "contiguous": via("positive", lambda x, **_: ds.positive(x)),
    "alias_copy": same("positive"),
    "logical_not": via("logical_not astype", lambda x: ds.logical_not(truth(x))),
    "logical_and": via("logical_and astype", lambda x, y: ds.logical_and(truth(x), truth(y))),
    "logical_or": via("logical_or astype", lambda x, y: ds.logical_or(truth(x), truth(y))),
    "logical_xor": via("logical_xor astype", lambda x, y: ds.logical_xor(truth(x), truth(y))),
    "round": via("round", rounded),
    "round.decimals_0": via("round", rounded),
    "round.decimals_3": via("round", rounded),
    "round.decimals_neg_3": via("round", rounded),
    "add": via("add multiply", lambda x, y, alpha=1: ds.add(x, times(y, alpha))),
    "sub": via("subtract multiply", lambda x, y, alpha=1: ds.subtract(x, times(y, alpha))),
    "rsub": via("subtract multiply", lambda x, y, alpha=1: ds.subtract(y, times(x, alpha))),
    "mul": same("multiply"),
    "true_divide": same("divide"),
    "div.no_rounding_mode": via("divide", divided),
    "div.trunc_rounding": via("divide trunc", divided),
    "div.floor_rounding": via("floor_divide", divided),
    "__radd__": via("add", lambda x, y: y + x),
    "__rsub__": via("subtract", lambda x, y: y - x),
    "__rmul__": via("multiply", lambda x, y: y * x),
    "__rdiv__": via("divide", lambda x, y: y / x),
    "__rmod__": via("remainder", lambda x, y: y % x),
    "__rpow__": via("pow", lambda x, y: y**x),
    "__rmatmul__": via("matmul", lambda x, y: y @ x),
    "float_power": via(
        "pow astype",
        lambda x, y: ds.pow(
            ds.asarray(x).astype(ds.float64),
            y.astype(ds.float64) if isinstance(y, ds.Tensor) else y,
        ),
    ),
    "eq": same("equal"),
    "ne": same("not_equal"),
    "lt": same("less"),
    "le": same("less_equal"),
    "gt": same("greater"),
    "ge": same("greater_equal"),
    "equal": via("equal all", lambda x, y: x.shape == y.shape and bool(ds.all(ds.equal(x, y)))),
    "allclose": via(
        "isclose all",
        lambda x, y, rtol=1e-5, atol=1e-8, equal_nan=False: bool(
            ds.all(ds.isclose(x, y, rtol=rtol, atol=atol, equal_nan=equal_nan))
        ),
    ),
    "max.binary": same("maximum"),
    "min.binary": same("minimum"),
    "clamp": via("clip", clamped),
    "clamp_min": via("clip", lambda x, min: ds.clip(x, min)),
    "clamp_max": via("clip", lambda x, max: ds.clip(x, None, max)),
    "addcmul": via("add multiply", lambda x, a, b, value=1: product_sum(x, a, b, value)),
    "addcdiv": via(
        "add multiply divide",
        lambda x, a, b, value=1: ds.add(x, ds.multiply(value, ds.divide(a, b))),
    ),
    "float": via("astype", lambda x, **_: x.astype(ds.float32)),
    "double": via("astype", lambda x, **_: x.astype(ds.float64)),
    "half": via("astype", lambda x, **_: x.astype(ds.float16)),
    "bfloat16": via("astype", lambda x, **_: x.astype(ds.bfloat16)),
    "bool": via("astype", lambda x, **_: x.astype(ds.bool)),
    "byte": via("astype", lambda x, **_: x.astype(ds.uint8)),
    "char": via("astype", lambda x, **_: x.astype(ds.int8)),
    "short": via("astype", lambda x, **_: x.astype(ds.int16)),
    "int": via("astype", lambda x, **_: x.astype(ds.int32)),
    "long": via("astype", lambda x, **_: x.astype(ds.int64)),
    # PyTorch's is 0 where one half and less than an epsilon of it cancel.
    "special.i1": same("bessel_i1"),
    **{
        name: via("polygamma", lambda x, n: ds.polygamma(n, x))
        for name in (
            *(f"polygamma.polygamma_n_{n}" for n in range(5)),
            "special.polygamma.special_polygamma_n_0",
        )
    },
    "special.ndtr": same("ndtr", scale=1e-10),
    "item": via("Tensor.item", lambda x: x.item()),
    "masked_fill": via(
        "where",
        lambda x, mask, value: ds.where(mask, value, x),
        lenient={"0-dimensional value": "where broadcasts what it chooses from"},
    ),
    "where": via("where", lambda a, cond, b: ds.where(cond, a, b)),
}
