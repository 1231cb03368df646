"""Matrix products and what is made of them; linear algebra."""

from __future__ import annotations

import math
from typing import Any

from adapt import Entry, LeftOut, same, via

import deepseek as ds


def scaled(x: Any, product: Any, beta: float, alpha: float) -> Any:
    """beta * x + alpha * product; PyTorch does not read x where beta is 0."""
    product = product if alpha == 1 else ds.multiply(product, alpha)
    if beta == 0:
        return ds.broadcast_to(product, ds.broadcast_arrays(x, product)[0].shape)
    return ds.add(x if beta == 1 else ds.multiply(x, beta), product)


def tensor_product(a: Any, b: Any, dims: Any = 2) -> Any:
    return ds.tensordot(a, b, axes=dims)


def vector_product(a: Any, b: Any, dim: Any = None) -> Any:
    """PyTorch's older function takes the first dim of size 3."""
    if dim is None:
        shape = ds.broadcast_arrays(a, b)[0].shape
        dim = next(i for i, s in enumerate(shape) if s == 3)
    return ds.cross(a, b, axis=dim)


def solved(a: Any, b: Any, left: bool = True) -> Any:
    """PyTorch takes a right-hand side of one dim less as vectors."""
    if not left:
        return ds.matrix_transpose(ds.solve(ds.matrix_transpose(a), ds.matrix_transpose(b)))
    if b.ndim == a.ndim - 1 and b.shape == a.shape[:-1]:
        return ds.squeeze(ds.solve(a, ds.expand_dims(b, -1)), -1)
    return ds.solve(a, b)


def unequal(a: Any, b: Any, dims: Any = 2) -> str | None:
    """PyTorch sums a dim over one of size 1."""
    if isinstance(dims, int):
        return None
    fits = all(a.shape[i] == b.shape[j] for i, j in zip(*dims, strict=True))
    return None if fits else "dims of unequal sizes are summed together"


def full_or_not(x: Any, full: bool) -> Any:
    if full and x.requires_grad:
        raise LeftOut("gradients of full matrices, of which some columns are arbitrary")
    return ds.svd(x, full_matrices=full)


def old_svd(x: Any, some: bool = True) -> Any:
    u, s, v = full_or_not(x, not some)
    return u, s, ds.matrix_transpose(v)


def symmetric(x: Any, **_: Any) -> Any:
    return x + ds.matrix_transpose(x)


def log_of_det(x: Any) -> Any:
    sign, log = ds.slogdet(x)
    return ds.where(sign < 0, float("nan"), log)


def rank(x: Any, *_: Any, atol: Any = None, rtol: Any = None, hermitian: bool = False) -> Any:
    if atol is not None or isinstance(rtol, ds.Tensor):
        raise LeftOut("an absolute tolerance, or one for each matrix")
    return ds.linalg.matrix_rank(x, rtol=rtol)


def inverted(x: Any, *_: Any, atol: Any = None, rtol: Any = None, hermitian: bool = False) -> Any:
    if atol is not None or isinstance(rtol, ds.Tensor):
        raise LeftOut("an absolute tolerance, or one for each matrix")
    return ds.pinv(x, rtol=rtol)


def fitted(a: Any, b: Any, **_: Any) -> Any:
    return ds.linalg.lstsq(a, b)[0]


def triangle(b: Any, a: Any, upper: bool = True, transpose: bool = False,
             unitriangular: bool = False) -> Any:  # fmt: skip
    a, upper = (a.mT, not upper) if transpose else (a, upper)
    return ds.linalg.solve_triangular(a, b, upper=upper, unitriangular=unitriangular)


def powers(x: Any, N: int | None = None) -> Any:  # noqa: N803
    x = x if x.ndim else x.reshape((1,))
    return x[..., None] ** ds.arange(x.shape[-1] if N is None else N)


def multivariate(x: Any, p: int) -> Any:
    parts = [ds.lgamma(x - i / 2) for i in range(p)]
    return sum(parts) + p * (p - 1) / 4 * math.log(math.pi)


ENTRIES: dict[str, Entry] = {
    "mm": same("matmul"),
    "bmm": same("matmul"),
    "mv": same("matmul"),
    "dot": same("matmul"),
    "vdot": same("matmul"),
    "matmul": same("matmul"),
    "addmm": via("matmul add", lambda x, a, b, beta=1, alpha=1: scaled(
        x, ds.matmul(a, b), beta, alpha)),
    "addmv": via("matmul add", lambda x, a, b, beta=1, alpha=1: scaled(
        x, ds.matmul(a, b), beta, alpha)),
    "baddbmm": via("matmul add", lambda x, a, b, beta=1, alpha=1: scaled(
        x, ds.matmul(a, b), beta, alpha)),
    "addbmm": via("matmul sum add", lambda x, a, b, beta=1, alpha=1: scaled(
        x, ds.sum(ds.matmul(a, b), axis=0), beta, alpha)),
    "addr": via("outer add", lambda x, a, b, beta=1, alpha=1: scaled(
        x, ds.outer(a, b), beta, alpha)),
    "einsum": via("einsum", lambda tensors, equation: ds.einsum(equation, *tensors)),
    "tensordot": via("tensordot", tensor_product, left_out=unequal),
    "cross": via("cross", vector_product),
    "linalg.cross": via("cross", lambda a, b, dim=-1: ds.cross(a, b, axis=dim)),
    "linalg.vecdot": via("vecdot", lambda a, b, dim=-1: ds.vecdot(a, b, axis=dim)),
    "addmm.decomposed": via("matmul add", lambda x, a, b, beta=1, alpha=1: scaled(
        x, ds.matmul(a, b), beta, alpha)),
    "linalg.svd": via("svd", lambda x, full_matrices=True, **_: full_or_not(x, full_matrices),
                      processed=True),
    "svd": via("svd", old_svd, processed=True),
    "linalg.eigh": via("eigh", lambda x, **k: ds.eigh(symmetric(x)), processed=True, wrapped=True),
    "linalg.eigvalsh": via(
        "linalg.eigvalsh", lambda x, **_: ds.linalg.eigvalsh(symmetric(x)), wrapped=True
    ),
    "cholesky_inverse": via("linalg.cholesky_solve", lambda a, upper=False: (
        ds.linalg.cholesky_solve(ds.broadcast_to(ds.eye(a.shape[-1]), a.shape), a, upper=upper)),
        gradients=False),  # PyTorch's reach the triangle that is not read
    "triangular_solve": via("linalg.solve_triangular", triangle, outputs=lambda out: out[0]),
    "linalg.vander": via("pow arange", powers),
    "matrix_exp": same("matrix_exp"),
    **{f"mvlgamma.mvlgamma_p_{p}": via("lgamma", multivariate) for p in (1, 3, 5)},
    "linalg.matrix_rank": via("linalg.matrix_rank", rank),
    "linalg.matrix_rank.hermitian": via("linalg.matrix_rank", rank),
    "linalg.pinv": via("pinv", inverted),
    "linalg.pinv.hermitian": via("pinv", lambda x, **k: inverted(symmetric(x), **k), wrapped=True),
    "cholesky_solve": same("linalg.cholesky_solve", wrapped=True),
    "pinverse": via("pinv", lambda x, rcond=1e-15: ds.pinv(x, rtol=rcond)),
    "linalg.lstsq": via("linalg.lstsq", fitted, outputs=lambda out: out[0]),
    "linalg.lstsq.grad_oriented": via("linalg.lstsq", fitted, outputs=lambda out: out[0]),
    "linalg.tensorsolve": via("linalg.tensorsolve", lambda a, b, dims=None: (
        ds.linalg.tensorsolve(a, b, axes=dims))),
    "logdet": via("slogdet where", log_of_det),
    "linalg.cholesky_ex": via("cholesky", lambda a, upper=False, **_: ds.cholesky(
        a, upper=upper), outputs=lambda out: out[0]),
    "linalg.inv": same("inv"),
    "linalg.inv_ex": via("inv", lambda a, **_: ds.inv(a), outputs=lambda out: out[0]),
    "linalg.solve": via("solve", solved),
    "linalg.solve_ex": via("solve", lambda a, b, left=True, **_: solved(a, b, left),
                           outputs=lambda out: out[0]),
}  # fmt: skip
