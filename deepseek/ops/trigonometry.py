"""Trigonometric and hyperbolic functions and their inverses, elementwise on floats.

The body of each is its scalar meaning; integers are taken as float32. Errors are below 2 units of
the last place in float32 and 4 in float64. (sin, cos, tanh, exp and log are in transcendental.)
"""

from __future__ import annotations

import math

import numpy as np

from deepseek.frontend.tensor import Tensor
from deepseek.ir.op import Sample
from deepseek.ir.scalar import Expr
from deepseek.ops.define import FLOATS, composite, elementwise, elementwise_samples
from deepseek.ops.elementwise import multiply, where
from deepseek.ops.scalar_forms import (
    add,
    div,
    either,
    equal,
    exp,
    expm1,
    function,
    in_float64,
    is_nan,
    is_negative,
    less,
    log,
    log1p,
    mul,
    neg,
    number,
    size,
    sqrt,
    sub,
    with_sign_of,
)
from deepseek.ops.scalar_forms import where as choose
from deepseek.ops.transcendental import rsqrt, sin

__all__ = [
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cosh", "deg2rad", "hypot",
    "rad2deg", "sinc", "sinh", "tan",
]  # fmt: skip

EDGES = np.array([-np.inf, -1.0, -0.0, 0.0, 1.0, 2.0, np.inf, np.nan], np.float32)
_sine, _cosine, _arctangent = function("sin"), function("cos"), function("atan")


def edge_samples(arity: int = 1, domain: tuple[float, float] = (-2.0, 2.0)) -> list[Sample]:
    """The plain samples of an elementwise op, and one with infinities, NaN and signed zeros."""
    edges = [EDGES, EDGES.reshape((-1, 1))][:arity]
    return [*elementwise_samples(arity, domain), Sample(tuple(edges))]


# ------------------------------------------------------------------------------------ trigonometric


@elementwise(
    takes=FLOATS, precision="high", reference=np.tan, vjp=lambda g, y, x: (g * (1 + y * y),),
    method="tan", onnx="Tan", domain=(-1.5, 1.5),
)  # fmt: skip
@in_float64
def tan(x: Expr) -> Expr:
    """The tangent of x radians.

    >>> ds.tan(ds.asarray([0.0, np.pi / 4]))
    tensor([0., 1.])
    """
    return div(_sine(x), _cosine(x))


@elementwise(
    takes=FLOATS, reference=np.arcsin, vjp=lambda g, y, x: (g * rsqrt((1 - x) * (1 + x)),),
    method="asin", precision="high", onnx="Asin", samples=lambda: edge_samples(domain=(-0.9, 0.9)),
)  # fmt: skip
@in_float64
def asin(x: Expr) -> Expr:
    """The angle from -pi/2 to pi/2 whose sine is x; NaN beyond 1.

    >>> ds.asin(ds.asarray([0.0, 1.0]))
    tensor([0.       , 1.5707964])
    """
    return _arctangent(div(x, sqrt(mul(sub(1, x), add(1, x)))))


@elementwise(
    takes=FLOATS, reference=np.arccos, vjp=lambda g, y, x: (-g * rsqrt((1 - x) * (1 + x)),),
    method="acos", precision="high", onnx="Acos", samples=lambda: edge_samples(domain=(-0.9, 0.9)),
)  # fmt: skip
@in_float64
def acos(x: Expr) -> Expr:
    """The angle from 0 to pi whose cosine is x; NaN beyond 1.

    >>> ds.acos(ds.asarray([1.0, -1.0]))
    tensor([0.       , 3.1415927])
    """
    return mul(2, _arctangent(sqrt(div(sub(1, x), add(1, x)))))


@elementwise(
    takes=FLOATS, reference=np.arctan, vjp=lambda g, y, x: (g / (1 + x * x),), method="atan",
    onnx="Atan", samples=edge_samples,
)  # fmt: skip
def atan(x: Expr) -> Expr:
    """The angle from -pi/2 to pi/2 whose tangent is x.

    >>> ds.atan(ds.asarray([0.0, np.inf]))
    tensor([0.       , 1.5707964])
    """
    return _arctangent(x)


def _atan2_vjp(g: Tensor, angle: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    share = g / (x * x + y * y)
    return share * x, -share * y


@elementwise(
    takes=FLOATS, reference=np.arctan2, vjp=_atan2_vjp, method="atan2",
    samples=lambda: edge_samples(2),
)  # fmt: skip
def atan2(y: Expr, x: Expr) -> Expr:
    """The angle from -pi to pi of the point (x, y), by the signs of both.

    >>> ds.atan2(ds.asarray([1.0, 0.0, -0.0]), ds.asarray([0.0, -1.0, -1.0]))
    tensor([ 1.5707964,  3.1415927, -3.1415927])
    """
    rise, run = size(y), size(x)
    alike = either(equal(rise, run), equal(rise, 0))  # of equals the ratio is 1, whatever they are
    ratio = div(rise, run)
    steep = choose(alike, choose(equal(rise, 0), number(0.0, x), math.pi / 4), _arctangent(ratio))
    angle = choose(is_negative(x), sub(math.pi, steep), steep)
    signed = choose(is_negative(y), neg(angle), angle)
    return choose(either(is_nan(x), is_nan(y)), add(x, y), signed)


def _hypot_vjp(g: Tensor, y: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    share = where(y == 0, 0, g / where(y == 0, 1, y))
    return share * a, share * b


@elementwise(
    takes=FLOATS, reference=np.hypot, vjp=_hypot_vjp, method="hypot",
    samples=lambda: edge_samples(2),
)  # fmt: skip
@in_float64
def hypot(a: Expr, b: Expr) -> Expr:
    """sqrt(a * a + b * b) without overflow; infinite where a or b is.

    >>> ds.hypot(ds.asarray([3.0, np.inf]), ds.asarray([4.0, np.nan]))
    tensor([ 5., inf])
    """
    a, b = size(a), size(b)
    long = choose(less(a, b), b, a)
    short = choose(less(a, b), a, b)
    ratio = div(short, choose(equal(long, 0), 1.0, long))
    length = mul(long, sqrt(add(1, mul(ratio, ratio))))
    infinite = either(equal(a, math.inf), equal(b, math.inf))
    return choose(infinite, math.inf, length)


@composite(
    reference=lambda x: np.sinc(x), samples=lambda: edge_samples()[:3], method="sinc", tolerance=16
)
def sinc(x: Tensor) -> Tensor:
    """sin(pi * x) / (pi * x), 1 at 0.

    >>> ds.sinc(ds.asarray([0.0, 0.5]))
    tensor([1.        , 0.63661975])
    """
    angle = multiply(x, math.pi)
    nowhere = angle == 0
    return where(nowhere, 1, sin(angle) / where(nowhere, 1, angle))


@composite(reference=lambda x: np.deg2rad(x), samples=lambda: edge_samples()[:3], method="deg2rad")
def deg2rad(x: Tensor) -> Tensor:
    """Degrees as radians.

    >>> ds.deg2rad(ds.asarray([180.0]))
    tensor([3.1415927])
    """
    return multiply(x, math.pi / 180)


@composite(reference=lambda x: np.rad2deg(x), samples=lambda: edge_samples()[:3], method="rad2deg")
def rad2deg(x: Tensor) -> Tensor:
    """Radians as degrees.

    >>> ds.rad2deg(ds.asarray([np.pi]))
    tensor([180.])
    """
    return multiply(x, 180 / math.pi)


# --------------------------------------------------------------------------------------- hyperbolic


@elementwise(
    takes=FLOATS, precision="high", reference=np.sinh, vjp=lambda g, y, x: (g * cosh(x),),
    method="sinh", onnx="Sinh", samples=edge_samples,
)  # fmt: skip
@in_float64
def sinh(x: Expr) -> Expr:
    """(exp(x) - exp(-x)) / 2.

    >>> ds.sinh(ds.asarray([0.0, 1.0]))
    tensor([0.       , 1.1752012])
    """
    a = size(x)
    e = expm1(a)
    near = mul(0.5, add(e, div(e, add(e, 1))))
    return with_sign_of(choose(less(a, 700.0), near, _half_of_exp(a)), x)


@elementwise(
    takes=FLOATS, precision="high", reference=np.cosh, vjp=lambda g, y, x: (g * sinh(x),),
    method="cosh", onnx="Cosh", samples=edge_samples,
)  # fmt: skip
@in_float64
def cosh(x: Expr) -> Expr:
    """(exp(x) + exp(-x)) / 2.

    >>> ds.cosh(ds.asarray([0.0, 1.0]))
    tensor([1.       , 1.5430807])
    """
    a = size(x)
    e = exp(a)
    near = mul(0.5, add(e, div(1, e)))
    return choose(less(a, 700.0), near, _half_of_exp(a))


def _half_of_exp(x: Expr) -> Expr:
    """exp(x) / 2, also where exp(x) overflows."""
    root = exp(mul(0.5, x))
    return mul(mul(0.5, root), root)


@elementwise(
    takes=FLOATS, precision="high", reference=np.arcsinh, method="asinh", onnx="Asinh",
    vjp=lambda g, y, x: (g * rsqrt(x * x + 1),), samples=edge_samples,
)  # fmt: skip
@in_float64
def asinh(x: Expr) -> Expr:
    """The number whose hyperbolic sine is x.

    >>> ds.asinh(ds.asarray([0.0, 1.0]))
    tensor([0.       , 0.8813736])
    """
    a = size(x)
    square = mul(a, a)
    near = log1p(add(a, div(square, add(1, sqrt(add(1, square))))))
    far = add(log(a), math.log(2))
    return with_sign_of(choose(less(a, 2.0**30), near, far), x)


@elementwise(
    takes=FLOATS, precision="high", reference=np.arccosh, method="acosh", onnx="Acosh",
    vjp=lambda g, y, x: (g * rsqrt((x - 1) * (x + 1)),),
    samples=lambda: edge_samples(domain=(1.1, 9.0)),
)  # fmt: skip
@in_float64
def acosh(x: Expr) -> Expr:
    """The number from 0 on whose hyperbolic cosine is x; NaN below 1.

    >>> ds.acosh(ds.asarray([1.0, 0.0]))
    tensor([ 0., nan])
    """
    above = choose(less(x, 1), math.nan, sub(x, 1))
    near = log1p(add(above, sqrt(mul(above, add(above, 2)))))
    return choose(less(x, 2.0**30), near, add(log(x), math.log(2)))


@elementwise(
    takes=FLOATS, precision="high", reference=np.arctanh, method="atanh", onnx="Atanh",
    vjp=lambda g, y, x: (g / ((1 - x) * (1 + x)),),
    samples=lambda: edge_samples(domain=(-0.9, 0.9)),
)  # fmt: skip
@in_float64
def atanh(x: Expr) -> Expr:
    """The number whose hyperbolic tangent is x; NaN beyond 1.

    >>> ds.atanh(ds.asarray([0.0, 1.0, 2.0]))
    tensor([ 0., inf, nan])
    """
    a = size(x)
    return with_sign_of(mul(0.5, log1p(div(mul(2, a), sub(1, a)))), x)
