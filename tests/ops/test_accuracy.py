"""Elementary and special functions on the CPU: largest errors in units of the last place.

float32 is held against float64, float64 against extended precision; special functions against what
Python's math has and against series in extended precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import deepseek as ds

Array = np.ndarray[Any, Any]
LIMIT = {"float32": 2.0, "float64": 4.0}
EDGES = [0.0, -0.0, 1.0, -1.0, 0.5, math.inf, -math.inf, math.nan, 1e-40, -1e-40, 1e30, 5e-324,
         88.7, 89.4, 709.7, 710.4, -745.0]  # fmt: skip

UNARY: dict[str, Callable[..., Array]] = {
    "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh,
    "cosh": np.cosh, "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh,
    "exp2": np.exp2, "log2": np.log2, "log10": np.log10, "cbrt": np.cbrt,
    "reciprocal": np.reciprocal, "rsqrt": lambda x: 1 / np.sqrt(x),
}  # fmt: skip
BINARY: dict[str, Callable[..., Array]] = {"atan2": np.arctan2, "hypot": np.hypot}


def arguments(dtype: str) -> Array:
    """All magnitudes, the interesting ranges densely, and special values."""
    rng = np.random.default_rng(7)
    bits = np.uint32 if dtype == "float32" else np.uint64
    n = 5000
    parts = [
        rng.integers(0, np.iinfo(bits).max, n, dtype=bits, endpoint=True).view(dtype),
        rng.standard_normal(n) * 20, rng.uniform(-750, 720, n), rng.uniform(-1, 1, n),
        1 + rng.standard_normal(n) * 1e-3, np.arange(-200, 200) * (math.pi / 2), EDGES,
    ]  # fmt: skip
    with np.errstate(all="ignore"):
        return np.concatenate([np.asarray(p).astype(dtype) for p in parts])


def error_of(got: Array, exact: Array) -> float:
    """The largest error in ulp; infinities and NaN must be where they belong."""
    with np.errstate(all="ignore"):
        rounded = exact.astype(got.dtype)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(rounded))
        infinite = np.isinf(rounded)
        np.testing.assert_array_equal(got[infinite], rounded[infinite])
        finite = np.isfinite(rounded)
        unit = np.spacing(np.abs(rounded[finite])).astype(np.longdouble)
        return float(np.max(np.abs(got[finite].astype(np.longdouble) - exact[finite]) / unit))


def wide(x: Array) -> Array:
    return x.astype(np.float64 if x.dtype == np.float32 else np.longdouble)


@pytest.mark.parametrize("dtype", LIMIT)
@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_number(name: str, dtype: str) -> None:
    x = arguments(dtype)
    with np.errstate(all="ignore"):
        exact = UNARY[name](wide(x))
    assert error_of(getattr(ds, name)(ds.asarray(x)).numpy(), exact) <= LIMIT[dtype]


@pytest.mark.parametrize("dtype", LIMIT)
@pytest.mark.parametrize("name", BINARY)
def test_functions_of_two_numbers(name: str, dtype: str) -> None:
    a = arguments(dtype)
    b = np.random.default_rng(3).permutation(a)
    pairs = np.meshgrid(np.array(EDGES), np.array(EDGES))
    with np.errstate(all="ignore"):
        a, b = (
            np.concatenate([v, p.ravel().astype(dtype)]) for v, p in zip((a, b), pairs, strict=True)
        )
        exact = BINARY[name](wide(a), wide(b))
    got = getattr(ds, name)(ds.asarray(a), ds.asarray(b)).numpy()
    assert error_of(got, exact) <= LIMIT[dtype]


@pytest.mark.parametrize("dtype", LIMIT)
def test_logarithms_of_powers_are_exact(dtype: str) -> None:
    twos = np.arange(-120, 128)
    assert np.array_equal(ds.log2(ds.asarray((2.0**twos).astype(dtype))).numpy(), twos)
    tens = np.arange(0, 11 if dtype == "float32" else 23)
    assert np.array_equal(ds.log10(ds.asarray((10.0**tens).astype(dtype))).numpy(), tens)
    assert np.array_equal(ds.exp2(ds.asarray(twos.astype(dtype))).numpy(), 2.0**twos)


# ------------------------------------------------------------------------------- special functions


def digamma(x: float) -> float:
    """By recurrence to where the asymptotic series has more digits than needed, in 80 bits."""
    if x <= 0:
        return digamma(1 - x) - math.pi / math.tan(math.pi * (x - round(x)))
    z, total = np.longdouble(x), np.longdouble(0)
    while z < 30:
        total -= 1 / z
        z += 1
    s = 1 / (z * z)
    series = s * (1 / 12 - s * (1 / 120 - s * (1 / 252 - s * (1 / 240 - s / 132))))
    return float(total + np.log(z) - 0.5 / z - series)


def bessel(order: int) -> Callable[[float], float]:
    def of(x: float) -> float:
        term = np.longdouble(x / 2) ** order
        terms = [term]
        for k in range(1, 300):
            term = term * np.longdouble(x / 2) ** 2 / (k * (k + order))
            terms.append(term)
        return float(sum(terms[::-1]))

    return of


def lgamma(x: float) -> float:
    """Stirling's series beyond 40, and back by the logarithm of a product, in 80 bits."""
    z, product = np.longdouble(x), np.longdouble(1)
    while z < 40:
        product *= z
        z += 1
    s = 1 / (z * z)
    series = (1 / 12 - s * (1 / 360 - s * (1 / 1260 - s / 1680))) / z
    half = np.longdouble(0.5)
    root = half * np.log(8 * np.arctan(np.longdouble(1)))
    return float((z - half) * np.log(z) - z + root + series - np.log(product))


SPECIAL: dict[str, tuple[Callable[[float], float], float, float, float]] = {
    "erfc": (math.erfc, -6, 26, 4), "lgamma": (lgamma, 2.5, 60, 4),
    "ndtr": (lambda x: math.erfc(-x / math.sqrt(2)) / 2, -4, 8, 40),
    "digamma": (digamma, 4, 60, 6), "i0": (bessel(0), -50, 50, 6),
    "bessel_i1": (bessel(1), -50, 50, 6),
}  # fmt: skip
"""The function, from where to where, and the limit in float64: the references round too."""


@pytest.mark.parametrize("dtype", LIMIT)
@pytest.mark.parametrize("name", SPECIAL)
def test_special_functions(name: str, dtype: str) -> None:
    function, low, high, limit = SPECIAL[name]
    x = np.random.default_rng(5).uniform(low, high, 600).astype(dtype)
    exact = np.array([function(float(v)) for v in x], np.longdouble)
    got = getattr(ds, name)(ds.asarray(x)).numpy()
    assert error_of(got, exact) <= (2.0 if dtype == "float32" else limit)


@pytest.mark.parametrize("dtype", LIMIT)
def test_inverses_undo(dtype: str) -> None:
    """What the inverse of the error function gives has the complement asked for."""
    rest = np.exp(np.random.default_rng(6).uniform(-30, 0, 500))
    y = ds.asarray((1 - rest).astype(dtype))
    back = ds.erf(ds.erfinv(y).astype(ds.float64)).numpy()
    assert np.allclose(
        1 - back,
        1 - y.numpy().astype(np.float64),
        rtol=2e-5 if dtype == "float32" else 1e-13,
        atol=3e-16,
    )
    p = ds.asarray(np.exp(np.linspace(-600, -0.1, 300)))
    assert np.allclose(ds.log_ndtr(ds.ndtri(p)).numpy(), np.log(p.numpy()), rtol=1e-13)


def test_gamma_of_whole_numbers() -> None:
    n = np.arange(1, 20)
    factorials = np.array([math.factorial(int(k) - 1) for k in n], np.float64)
    got = ds.lgamma(ds.asarray(n.astype(np.float64))).exp().numpy()
    assert np.allclose(got, factorials, rtol=1e-13)
    # psi(n + 1) - psi(n) = 1 / n, and its derivatives alike
    x = ds.asarray(np.linspace(-7.3, 9.1, 40))
    assert np.allclose((ds.digamma(x + 1) - ds.digamma(x)).numpy(), 1 / x.numpy(), rtol=1e-10)
    for k in (1, 2, 3):
        here, next_ = ds.polygamma(k, x).numpy(), ds.polygamma(k, x + 1).numpy()
        wanted = (-1) ** k * math.factorial(k) / x.numpy() ** (k + 1)
        assert np.all(np.abs(next_ - here - wanted) <= 1e-13 * (np.abs(here) + np.abs(next_)))
