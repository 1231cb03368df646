"""Created tensors: constants, ranges, and random numbers, which are compared by shape and dtype."""

from __future__ import annotations

from typing import Any

from adapt import Entry, via

import deepseek as ds


def typed(names: str, call: Any, **options: Any) -> Entry:
    """Of what has no set values, shapes and dtypes are compared."""
    return via(names, call, check="type", gradients=False, **options)


def shape_of(given: Any) -> Any:
    return given[0] if len(given) == 1 and isinstance(given[0], (tuple, list)) else given


def shape_like(a: Any, b: Any) -> Any:
    return ds.broadcast_arrays(ds.asarray(a), ds.asarray(b))[0].shape


def spaced(start: Any, end: Any, steps: int, base: float = 10.0, dtype: Any = None,
           **_: Any) -> Any:  # fmt: skip
    return ds.logspace(start, end, steps, base=base, dtype=dtype)


ENTRIES: dict[str, Entry] = {
    "zeros_like": via("zeros_like", lambda x, dtype=None, **_: ds.zeros_like(x, dtype=dtype)),
    "ones_like": via("ones_like", lambda x, dtype=None, **_: ds.ones_like(x, dtype=dtype)),
    "full_like": via("full_like", lambda x, v, dtype=None, **_: ds.full_like(x, v, dtype=dtype)),
    "empty_like": typed("empty_like", lambda x, dtype=None, **_: ds.empty_like(x, dtype=dtype)),
    "new_zeros": via("zeros", lambda x, s, dtype=None, **_: ds.zeros(s, dtype=dtype or x.dtype)),
    "new_ones": via("ones", lambda x, s, dtype=None, **_: ds.ones(s, dtype=dtype or x.dtype)),
    "new_full": via("full", lambda x, s, v, dtype=None, **_: ds.full(s, v, dtype=dtype or x.dtype)),
    "new_empty": typed("empty", lambda x, s, dtype=None, **_: ds.empty(s, dtype=dtype or x.dtype)),
    "zeros": via("zeros", lambda *s, dtype=ds.float32, **_: ds.zeros(*s, dtype=dtype)),
    "ones": via("ones", lambda *s, dtype=ds.float32, **_: ds.ones(*s, dtype=dtype)),
    "full": via("full", lambda s, v, dtype=None, **_: ds.full(s, v, dtype=dtype)),
    "empty": typed("empty", lambda *s, dtype=ds.float32, **_: ds.empty(*s, dtype=dtype)),
    "eye": via("eye", lambda n, m=None, dtype=ds.float32, **_: ds.eye(n, m, dtype=dtype)),
    "arange": via(
        "arange",
        lambda start, end=None, step=1, dtype=None, **_: ds.arange(start, end, step, dtype=dtype),
        lenient={
            "inconsistent with step": "an empty range, as the array API says",
            "step must be nonzero": "an int64 result is not asked for",
        },
    ),
    "logspace": via("logspace", spaced),
    "logspace.tensor_overload": via("logspace", spaced),
    "scalar_tensor": via("asarray", lambda v, dtype=ds.float32, **_: ds.asarray(v, dtype=dtype)),
    "fill": via("full_like", lambda x, value: ds.full_like(x, value)),
    "multinomial": typed(
        "multinomial", lambda p, n, replacement=False, **_: ds.multinomial(p, n, replacement)
    ),
    "uniform": typed("uniform", lambda x, low, high: ds.uniform(low, high, x.shape)),
    "normal.in_place": typed("normal", lambda x, mean, std: ds.normal(mean, std, x.shape)),
    "exponential": typed(
        "exponential",
        lambda x, rate: ds.exponential(1 / rate if rate else float("inf"), x.shape),
        lenient={"expects lambda": "a rate of 0 is an infinite scale"},
    ),
    "bernoulli": typed(
        "bernoulli", lambda x, p=None, **_: ds.bernoulli(x if p is None else ds.full_like(x, p))
    ),
    "normal": typed(
        "randn", lambda mean, std=1.0, **_: mean + std * ds.randn(*shape_like(mean, std))
    ),
    "normal.number_mean": typed(
        "randn",
        lambda mean, std, size=None, **_: (
            mean + std * ds.randn(*(std.shape if size is None else size))
        ),
    ),
    "randint_like": typed(
        "randint",
        lambda x, *a, dtype=None, **_: ds.randint(*(a if len(a) > 1 else (0, *a)), x.shape).astype(
            dtype or x.dtype
        ),
    ),
    "randn": typed("randn", lambda *s, dtype=None, **_: ds.randn(*s, dtype=dtype)),
    "rand_like": typed("rand_like", lambda x, dtype=None, **_: ds.rand_like(x, dtype=dtype)),
    "randn_like": typed("randn_like", lambda x, dtype=None, **_: ds.randn_like(x, dtype=dtype)),
    "randint": typed(
        "randint",
        lambda *a, dtype=ds.int64, **_: ds.randint(
            *(a if len(a) > 2 else (0, *a)), dtype=ds.int64
        ).astype(dtype),
    ),
}
