"""Matrices taken apart on the host by LAPACK, as NumPy calls it, with gradients in ordinary ops.

In flow stacks of matrices [..., m, n]; 16-bit floats are computed in float32. Only the symmetric
part of what has to be symmetric counts, in results and gradients alike.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor, record
from deepseek.ir.op import Kind, Sample
from deepseek.ir.shape import Size, TensorType, tensor_type
from deepseek.ops.create import eye, tril
from deepseek.ops.define import FLOATS, converted, describe, op_of, primitive, promoted, shape_of
from deepseek.ops.diagonals import diag_embed
from deepseek.ops.elementwise import where
from deepseek.ops.host import LAPACK, inv, refuse_others, well_conditioned
from deepseek.ops.index import at_most
from deepseek.ops.methods import method
from deepseek.ops.view import matrix_transpose

__all__ = ["cholesky", "det", "eigh", "logdet", "pinv", "qr", "slogdet", "svd"]

Types = tuple[TensorType, ...]


class Eigh(NamedTuple):
    """What `eigh` gives."""

    eigenvalues: Tensor
    eigenvectors: Tensor


class Svd(NamedTuple):
    """What `svd` gives."""

    U: Tensor
    S: Tensor
    Vh: Tensor


class Qr(NamedTuple):
    """What `qr` gives."""

    Q: Tensor
    R: Tensor


class Slogdet(NamedTuple):
    """What `slogdet` gives."""

    sign: Tensor
    logabsdet: Tensor


def _matrix(name: str, a: Any) -> tuple[Tensor, Any]:
    """A stack of matrices in a dtype of LAPACK's, and the dtype of the results."""
    (x,) = promoted(name, (a,), FLOATS)
    if x.ndim < 2:
        raise op_error(ShapeError, name, describe(x), "matrices [..., m, n]", user_line())
    return converted(x, x.dtype.accumulator), x.dtype


def _symmetric_part(x: Tensor) -> Tensor:
    half: Tensor = (x + x.mT) * 0.5
    return half


def _column(x: Tensor) -> Tensor:
    """A number for each matrix as one that scales it."""
    return x.reshape((*shape_of(x), 1, 1))


def _definite(*shape: int) -> Any:
    a = well_conditioned(*shape)
    return (a @ np.swapaxes(a, -1, -2) / shape[-1]).astype(np.float32)


def _full_rank(*shape: int) -> Any:
    """Matrices with singular values that are far apart."""
    random = np.random.default_rng(0)
    m, n = shape[-2:]
    k = min(m, n)
    u, _ = np.linalg.qr(random.normal(size=(*shape[:-2], m, m)))
    v, _ = np.linalg.qr(random.normal(size=(*shape[:-2], n, n)))
    values = np.arange(1.0, k + 1)[::-1]
    return ((u[..., :k] * values) @ np.swapaxes(v, -1, -2)[..., :k, :]).astype(np.float32)


def _empty() -> Any:
    return np.zeros((0, 3, 3), np.float32)


# ----------------------------------------------------------------------------------- determinants


def _det_infer(a: TensorType) -> Types:
    refuse_others("det", a)
    return (tensor_type(a.dtype, a.shape[:-2]),)


@primitive(
    Kind.HOST,
    infer=_det_infer,
    reference=lambda a: np.asarray(np.linalg.det(a), a.dtype),
    vjp=lambda g, y, a: (_column(g * y) * inv(a).mT,),
    takes=LAPACK,
    samples=lambda: [
        Sample((well_conditioned(4, 4),)),
        Sample((well_conditioned(2, 3, 3, 3),)),
        Sample((_empty(),)),
    ],
    tolerance=256,
    precision="high",
    onnx="Det",
)
def det(a: Tensor, /) -> Tensor:
    """The determinant of each matrix. Its gradient needs the inverse.

    >>> float(ds.det(ds.asarray([[1.0, 2.0], [3.0, 4.0]]))).__round__(4)
    -2.0
    """
    x, dtype = _matrix("det", a)
    return converted(record(op_of(det), x), dtype)


def _slogdet_infer(a: TensorType) -> Types:
    refuse_others("slogdet", a)
    return (tensor_type(a.dtype, a.shape[:-2]),) * 2


def _slogdet_vjp(g: Any, y: Any, a: Tensor) -> tuple[Any]:
    return (None if g[1] is None else _column(g[1]) * inv(a).mT,)


@primitive(
    Kind.HOST,
    infer=_slogdet_infer,
    reference=lambda a: tuple(np.asarray(r, a.dtype) for r in np.linalg.slogdet(a)),
    vjp=_slogdet_vjp,
    takes=LAPACK,
    samples=lambda: [
        Sample((well_conditioned(4, 4),)),
        Sample((-well_conditioned(2, 3, 3),)),
        Sample((_empty(),)),
    ],
    tolerance=256,
    precision="high",
)
def slogdet(a: Tensor, /) -> Slogdet:
    """(sign, log of the absolute value) of each determinant; (0, -inf) where it is 0.

    >>> sign, logabsdet = ds.slogdet(ds.asarray([[0.0, 1.0], [1.0, 0.0]]))
    >>> float(sign), float(logabsdet)
    (-1.0, 0.0)
    """
    x, dtype = _matrix("slogdet", a)
    return Slogdet(*(converted(t, dtype) for t in record(op_of(slogdet), x)))


@method("logdet")
def logdet(a: Tensor, /) -> Tensor:
    """The log of each determinant: -inf where it is 0, NaN where it is negative.

    >>> float(ds.logdet(ds.asarray([[1.0, 0.0], [0.0, 1.0]])))
    0.0
    """
    sign, log = slogdet(a)
    return where(sign < 0, math.nan, log)


# --------------------------------------------------------------------------------- decompositions


def _cholesky_infer(a: TensorType) -> Types:
    refuse_others("cholesky", a)
    return (a,)


def _lower_half(x: Tensor) -> Tensor:
    """The lower triangle with half of the diagonal."""
    return tril(x) - x * eye(int(x.shape[-1]), dtype=x.dtype) * 0.5


def _cholesky_vjp(g: Tensor, y: Tensor, a: Tensor) -> tuple[Tensor]:
    # Murray, Differentiation of the Cholesky decomposition, 2016.
    back = inv(y)
    return (_symmetric_part(back.mT @ _lower_half(y.mT @ g) @ back),)


@primitive(
    Kind.HOST,
    infer=_cholesky_infer,
    reference=lambda a: np.linalg.cholesky(a),
    vjp=_cholesky_vjp,
    takes=LAPACK,
    samples=lambda: [
        Sample((_definite(4, 4),)),
        Sample((_definite(2, 3, 3),), {"upper": True}),
        Sample((_empty(),)),
    ],
    tolerance=256,
    precision="high",
)
def cholesky(a: Tensor, /, *, upper: bool = False) -> Tensor:
    """The lower triangular L with L @ L.mT == a for each matrix, or the upper one, L.mT.

    Raises numpy.linalg.LinAlgError where a matrix is not positive definite.

    >>> ds.cholesky(ds.asarray([[4.0, 2.0], [2.0, 5.0]])).tolist()
    [[2.0, 0.0], [1.0, 2.0]]
    """
    x, dtype = _matrix("cholesky", a)
    lower = converted(record(op_of(cholesky), _symmetric_part(x)), dtype)
    return matrix_transpose(lower) if upper else lower


def _eigh_infer(a: TensorType) -> Types:
    refuse_others("eigh", a)
    return tensor_type(a.dtype, a.shape[:-1]), a


def _eigh_vjp(g: Any, y: Any, a: Tensor) -> tuple[Tensor]:
    values, vectors = y
    inner: Any = 0 if g[0] is None else diag_embed(g[0])
    if g[1] is not None:
        gap = values.expand_dims(-2) - values.expand_dims(-1)
        turned = vectors.mT @ g[1]
        inner = inner + where(gap == 0, 0, turned / where(gap == 0, 1, gap))
    return (_symmetric_part(vectors @ inner @ vectors.mT),)


@primitive(
    Kind.HOST,
    infer=_eigh_infer,
    reference=lambda a: tuple(np.linalg.eigh(a)),
    vjp=_eigh_vjp,
    takes=LAPACK,
    samples=lambda: [
        Sample((_definite(4, 4),)),
        Sample((_definite(2, 3, 3),)),
        Sample((_empty(),)),
    ],
    tolerance=512,
    precision="high",
)
def eigh(a: Tensor, /) -> Eigh:
    """(eigenvalues in ascending order, eigenvectors as columns) of symmetric matrices.

    The sign of a vector is not defined, nor are vectors of equal eigenvalues and their gradients.

    >>> ds.eigh(ds.asarray([[2.0, 0.0], [0.0, 1.0]])).eigenvalues.tolist()
    [1.0, 2.0]
    """
    x, dtype = _matrix("eigh", a)
    return Eigh(*(converted(t, dtype) for t in record(op_of(eigh), _symmetric_part(x))))


def _least(m: Size, n: Size) -> Size:
    return m if at_most(m, n) else n


def _svd_infer(a: TensorType, *, full_matrices: bool) -> Types:
    m, n = a.shape[-2:]
    k, lead = _least(m, n), a.shape[:-2]
    left, right = (m, n) if full_matrices else (k, k)
    shapes = ((*lead, m, left), (*lead, k), (*lead, right, n))
    return tuple(tensor_type(a.dtype, shape) for shape in shapes)


def _svd_vjp(g: Any, y: Any, a: Tensor, *, full_matrices: bool) -> tuple[Tensor]:
    u, s, vh = y
    gu, gs, gvh = g
    k = int(s.shape[-1])
    if full_matrices:
        if gu is not None or gvh is not None:
            square = a.shape[-1] == a.shape[-2]
            if not square:
                raise op_error(
                    ArgumentError, "svd", f"a gradient of full matrices for {describe(a)}",
                    "full_matrices=False", user_line(), "what completes them is not defined",
                )  # fmt: skip
        u, vh = u[..., :k], vh[..., :k, :]
    v = vh.mT
    inner: Any = 0 if gs is None else diag_embed(gs)
    row, column = s.expand_dims(-2), s.expand_dims(-1)
    gap = row * row - column * column
    safe = where(gap == 0, 1, gap)

    def rotated(side: Tensor, cotangent: Tensor) -> Tensor:
        turned = side.mT @ cotangent
        return where(gap == 0, 0, (turned - turned.mT) / safe)

    out: Any = 0
    if gu is not None:
        inner = inner + rotated(u, gu) * row
        scaled = gu / row
        out = out + (scaled - u @ (u.mT @ scaled)) @ vh
    if gvh is not None:
        gv = gvh.mT
        inner = inner + rotated(v, gv) * column
        scaled = gv / row
        out = out + u @ (scaled - v @ (v.mT @ scaled)).mT
    return (u @ inner @ vh + out,)


@primitive(
    Kind.HOST,
    infer=_svd_infer,
    reference=lambda a, *, full_matrices: tuple(np.linalg.svd(a, full_matrices=full_matrices)),
    vjp=_svd_vjp,
    takes=LAPACK,
    samples=lambda: [
        Sample((_full_rank(4, 4),)),
        Sample((_full_rank(2, 5, 3),), {"full_matrices": False}),
        Sample((_full_rank(3, 4),), {"full_matrices": False}),
        Sample((_empty(),)),
    ],
    tolerance=512,
    precision="high",
)
def svd(a: Tensor, /, *, full_matrices: bool = True) -> Svd:
    """(U, S, Vh) with a == U * S @ Vh: orthogonal, the singular values descending, orthogonal.

    Without `full_matrices` U and Vh have as many columns and rows as there are singular values.
    Gradients need that, or a square matrix: else ArgumentError. Signs, and vectors of equal values,
    are not defined.

    >>> ds.svd(ds.asarray([[0.0, 2.0], [1.0, 0.0]])).S.tolist()
    [2.0, 1.0]
    """
    x, dtype = _matrix("svd", a)
    parts = record(op_of(svd), x, full_matrices=bool(full_matrices))
    return Svd(*(converted(t, dtype) for t in parts))


def _qr_infer(a: TensorType, *, mode: str) -> Types:
    m, n = a.shape[-2:]
    k: Size = m if mode == "complete" else _least(m, n)
    lead = a.shape[:-2]
    return tensor_type(a.dtype, (*lead, m, k)), tensor_type(a.dtype, (*lead, k, n))


def _qr_vjp(g: Any, y: Any, a: Tensor, *, mode: str) -> tuple[Tensor]:
    q, r = y
    gq, gr = g
    m, n = (int(s) for s in a.shape[-2:])
    if mode == "complete" and m > n:
        raise op_error(
            ArgumentError, "qr", f"a gradient in mode 'complete' for {describe(a)}",
            "mode 'reduced'", user_line(), "what completes Q is not defined",
        )  # fmt: skip
    gq = q * 0 if gq is None else gq
    gr = r * 0 if gr is None else gr
    if m < n:  # the columns behind the square part follow from Q and R alone
        behind, gbehind = a[..., m:], gr[..., m:]
        first = _qr_square(q, r[..., :m], gq + behind @ gbehind.mT, gr[..., :m])
        wide = first.pad(((0, 0),) * (a.ndim - 1) + ((0, n - m),))
        return (wide + (q @ gbehind).pad(((0, 0),) * (a.ndim - 1) + ((m, 0),)),)
    return (_qr_square(q, r, gq, gr),)


def _qr_square(q: Tensor, r: Tensor, gq: Tensor, gr: Tensor) -> Tensor:
    # Walter and Lehmann, Algorithmic differentiation of linear algebra functions, 2012.
    inner = r @ gr.mT - gq.mT @ q
    both = tril(inner) + tril(inner, -1).mT
    out: Tensor = (gq + q @ both) @ inv(r).mT
    return out


@primitive(
    Kind.HOST,
    infer=_qr_infer,
    reference=lambda a, *, mode: tuple(np.linalg.qr(a, mode=mode)),
    vjp=_qr_vjp,
    takes=LAPACK,
    samples=lambda: [
        Sample((_full_rank(4, 4),)),
        Sample((_full_rank(2, 5, 3),)),
        Sample((_full_rank(3, 5),)),
        Sample((_full_rank(3, 3),), {"mode": "complete"}),
        Sample((_empty(),)),
    ],
    tolerance=256,
    precision="high",
)
def qr(a: Tensor, /, *, mode: str = "reduced") -> Qr:
    """(Q, R) with a == Q @ R: orthogonal columns, and an upper triangle.

    Q has as many columns as R has rows: the lesser of a's sizes, or in mode "complete" as many as
    it has rows. Raises ArgumentError for other modes, and for gradients of what "complete" adds.

    >>> float(abs(ds.qr(ds.asarray([[3.0], [4.0]])).R))
    5.0
    """
    if mode not in ("reduced", "complete"):
        raise op_error(
            ArgumentError, "qr", f"mode {mode!r}", "'reduced' or 'complete'", user_line()
        )
    x, dtype = _matrix("qr", a)
    return Qr(*(converted(t, dtype) for t in record(op_of(qr), x, mode=mode)))


def _pinv_vjp(g: Tensor, y: Tensor, a: Tensor, *, rtol: float) -> tuple[Tensor]:
    # Golub and Pereyra, 1973, for a rank that does not change.
    kernel = g.mT - a @ (y @ g.mT)
    row = y.mT @ (y @ g.mT)
    return (kernel @ y @ y.mT + row - (row @ y) @ a - y.mT @ g @ y.mT,)


@primitive(
    Kind.HOST,
    infer=lambda a, *, rtol: (tensor_type(a.dtype, (*a.shape[:-2], a.shape[-1], a.shape[-2])),),
    reference=lambda a, *, rtol: np.linalg.pinv(a, rcond=rtol),
    vjp=_pinv_vjp,
    takes=LAPACK,
    samples=lambda: [
        Sample((_full_rank(4, 4),)),
        Sample((_full_rank(2, 5, 3),)),
        Sample((_full_rank(3, 5),), {"rtol": 1e-3}),
        Sample((_empty(),)),
    ],
    tolerance=512,
    precision="high",
)
def pinv(a: Tensor, /, *, rtol: float | None = None) -> Tensor:
    """The Moore-Penrose inverse of each matrix.

    Singular values below `rtol` times the largest count as 0; by default the larger size times the
    dtype's epsilon.

    >>> ds.pinv(ds.asarray([[2.0], [0.0]])).tolist()
    [[0.5, 0.0]]
    """
    x, dtype = _matrix("pinv", a)
    if rtol is None:
        sizes = [int(s) for s in x.shape[-2:]]
        rtol = max(sizes) * float(np.finfo(x.dtype.numpy).eps)
    return converted(record(op_of(pinv), x, rtol=float(rtol)), dtype)
