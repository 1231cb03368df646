"""Host ops: Python functions on NumPy arrays, run under the GIL in the recorded order."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from deepseek.errors import ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor, record
from deepseek.ir.dtype import float32, float64
from deepseek.ir.op import Kind, Sample
from deepseek.ir.shape import TensorType, broadcast, same, tensor_type
from deepseek.ops.define import (
    FLOATS,
    converted,
    expanded,
    filled,
    op_of,
    primitive,
    promoted,
    shape_of,
)
from deepseek.ops.slicing import narrow
from deepseek.ops.view import concat

__all__ = ["inv", "matrix_exp", "solve"]

LAPACK = (float32, float64)


def refuse_others(name: str, a: TensorType) -> None:
    """Raises ShapeError unless a is a stack of square matrices."""
    if a.rank < 2 or not same(a.shape[-1], a.shape[-2]):
        raise op_error(ShapeError, name, a, "square matrices [..., n, n]", user_line())


def well_conditioned(*shape: int) -> Any:
    """Random matrices for samples, with a diagonal that makes them easy to invert."""
    random = np.random.default_rng(0)
    return (random.uniform(-1, 1, shape) + shape[-1] * np.eye(shape[-1])).astype(np.float32)


def _inv_infer(a: TensorType) -> tuple[TensorType, ...]:
    refuse_others("inv", a)
    return (a,)


def _inv_reference(a: Any) -> Any:
    return np.linalg.inv(a) if a.size else a


@primitive(
    Kind.HOST,
    infer=_inv_infer,
    reference=_inv_reference,
    vjp=lambda g, y, a: (-(y.mT @ g @ y.mT),),
    takes=LAPACK,
    samples=lambda: [
        Sample((well_conditioned(4, 4),)),
        Sample((well_conditioned(2, 3, 5, 5),)),
        Sample((np.zeros((0, 3, 3), np.float32),)),
    ],
    tolerance=256,
    precision="high",
)
def inv(a: Tensor, /) -> Tensor:
    """The inverse of each matrix of a. Raises numpy.linalg.LinAlgError where there is none.

    >>> ds.inv(ds.asarray([[2.0, 0.0], [0.0, 4.0]]))
    tensor([[0.5 , 0.  ],
            [0.  , 0.25]])
    """
    (a,) = promoted("inv", (a,), FLOATS)
    out: Tensor = record(op_of(inv), converted(a, a.dtype.accumulator))
    return converted(out, a.dtype)


def _solve_infer(a: TensorType, b: TensorType) -> tuple[TensorType, ...]:
    refuse_others("solve", a)
    if b.rank != a.rank or not all(map(same, a.shape[:-1], b.shape[:-1])):
        raise op_error(
            ShapeError, "solve", (a, b), "[..., n, n] and [..., n, k] with equal leading axes",
            user_line(),
        )  # fmt: skip
    return (tensor_type(a.dtype, b.shape),)


def _solve_vjp(g: Tensor, y: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    from_b = solve(a.mT, g)
    return -(from_b @ y.mT), from_b


@primitive(
    Kind.HOST,
    infer=_solve_infer,
    reference=lambda a, b: np.linalg.solve(a, b),
    vjp=_solve_vjp,
    takes=LAPACK,
    samples=lambda: [
        Sample((well_conditioned(4, 4), (4, 2))),
        Sample((well_conditioned(2, 3, 3), (2, 3, 1))),
        Sample((well_conditioned(3, 3), (3,))),
    ],
    tolerance=256,
    precision="high",
)
def solve(a: Tensor, b: Tensor, /) -> Tensor:
    """x with a @ x == b for each matrix of a; b is [..., n, k], or [n].

    Leading axes broadcast. Raises numpy.linalg.LinAlgError where a matrix has no inverse,
    ShapeError for sizes that do not fit.

    >>> ds.solve(ds.asarray([[2.0, 0.0], [0.0, 4.0]]), ds.asarray([1.0, 1.0]))
    tensor([0.5 , 0.25])
    """
    a, b = promoted("solve", (a, b), FLOATS)
    carried = a.dtype.accumulator
    column = b.ndim == 1
    right = b.reshape((-1, 1)) if column else b
    if a.ndim > 1 and right.ndim > 1 and shape_of(a)[:-2] != shape_of(right)[:-2]:
        lead = broadcast([shape_of(a)[:-2], shape_of(right)[:-2]])
        a = expanded(a, (*lead, *shape_of(a)[-2:]))
        right = expanded(right, (*lead, *shape_of(right)[-2:]))
    out: Tensor = record(op_of(solve), converted(a, carried), converted(right, carried))
    return converted(out.reshape(shape_of(out)[:-1]) if column else out, a.dtype)


# ------------------------------------------------------------------------------ the exponential

# The Pade approximant of degree 13, and the norm up to which it is exact to the last bit (Higham,
# The scaling and squaring method for the matrix exponential revisited, 2005).
_PADE = (
    64764752532480000, 32382376266240000, 7771770303897600, 1187353796428800, 129060195264000,
    10559470521600, 670442572800, 33522128640, 1323241920, 40840800, 960960, 16380, 182, 1,
)  # fmt: skip
_PADE_NORM = 5.371920351148152


def _exp_reference(a: Any) -> Any:
    """Scaled by a power of two, approximated, and squared as often; all in float64."""
    x = a.astype(np.float64)
    norm = float(np.abs(x).sum(axis=-2).max(initial=0))
    if not math.isfinite(norm):
        return np.full_like(a, np.nan)
    halvings = max(0, math.ceil(math.log2(norm / _PADE_NORM))) if norm else 0
    x = x / 2.0**halvings
    square = x @ x
    even = odd = np.zeros_like(x)
    power = np.broadcast_to(np.eye(x.shape[-1]), x.shape)
    for i in range(0, len(_PADE), 2):
        even, odd = even + _PADE[i] * power, odd + _PADE[i + 1] * power
        power = power @ square
    odd = x @ odd
    out = np.linalg.solve(even - odd, even + odd)
    for _ in range(halvings):
        out = out @ out
    return out.astype(a.dtype)


def _exp_infer(a: TensorType) -> tuple[TensorType, ...]:
    refuse_others("matrix_exp", a)
    return (a,)


def _exp_vjp(g: Tensor, y: Tensor, a: Tensor) -> tuple[Tensor]:
    # The exponential of [[A, G], [0, A]] has the derivative of exp at A along G in its corner.
    n = shape_of(a)[-1]
    nothing = expanded(filled((), 0, a.dtype), shape_of(a))
    rows = concat([a.mT, g], axis=-1), concat([nothing, a.mT], axis=-1)
    out: Tensor = matrix_exp(concat(rows, axis=-2))
    return (narrow(narrow(out, -2, 0, n), -1, n, n),)


@primitive(
    Kind.HOST,
    infer=_exp_infer,
    reference=_exp_reference,
    vjp=_exp_vjp,
    takes=LAPACK,
    samples=lambda: [
        Sample(((4, 4),)),
        Sample(((2, 3, 3),), low=-9, high=9),
        Sample((np.zeros((0, 3, 3), np.float32),)),
    ],
    tolerance=256,
    precision="high",
)
def matrix_exp(a: Tensor, /) -> Tensor:
    """The exponential of each square matrix: 1 + a + a @ a / 2 + ...

    Raises ShapeError for others.

    >>> ds.matrix_exp(ds.asarray([[0.0, 1.0], [0.0, 0.0]]))
    tensor([[1., 1.],
            [0., 1.]])
    """
    (a,) = promoted("matrix_exp", (a,), FLOATS)
    out: Tensor = record(op_of(matrix_exp), converted(a, a.dtype.accumulator))
    return converted(out, a.dtype)
