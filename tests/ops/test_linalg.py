"""`ds.linalg` against NumPy: what the names give, for stacks, 16-bit floats, vectors and errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek.errors import DeepseekError

RNG = np.random.default_rng(0)
L = ds.linalg


def numbers(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.normal(size=shape)


A, B, T = numbers(2, 4, 4) + 4 * np.eye(4), numbers(5, 3), numbers(3, 5)
SAME: dict[str, tuple[list[Any], Callable[..., Any], Callable[..., Any]]] = {
    "inv": ([A], L.inv, np.linalg.inv),
    "det": ([A], L.det, np.linalg.det),
    "solve_vector": ([A[0], B[:4, 0]], L.solve, np.linalg.solve),
    "solve_broadcast": ([A, numbers(4, 2)], L.solve, np.linalg.solve),
    "svdvals": ([B], L.svdvals, lambda a: np.linalg.svd(a, compute_uv=False)),
    "eigvalsh": ([A + A.mT], L.eigvalsh, np.linalg.eigvalsh),
    "pinv": ([T], L.pinv, np.linalg.pinv),
    "matrix_power": ([A], lambda a: L.matrix_power(a, 5), lambda a: np.linalg.matrix_power(a, 5)),
    "matrix_power_0": ([A], lambda a: L.matrix_power(a, 0),
                       lambda a: np.broadcast_to(np.eye(4), a.shape)),
    "matrix_power_-2": ([A], lambda a: L.matrix_power(a, -2),
                        lambda a: np.linalg.matrix_power(a, -2)),
    "multi_dot": ([numbers(2, 9), numbers(9, 3), numbers(3, 4), numbers(4)],
                  lambda *m: L.multi_dot(m), lambda *m: np.linalg.multi_dot(m)),
    "diagonal": ([A], lambda a: L.diagonal(a, offset=1),
                 lambda a: np.diagonal(a, 1, -2, -1)),
    "trace": ([A], L.trace, lambda a: np.trace(a, axis1=-2, axis2=-1)),
    "cross": ([T.T, B], L.cross, np.cross),
    "outer": ([B[0], T[0]], L.outer, np.outer),
    "tensordot": ([T, B], lambda a, b: L.tensordot(a, b, axes=1), lambda a, b: a @ b),
    "vecdot": ([T.T, B], L.vecdot, lambda a, b: np.sum(a * b, axis=-1)),
    "tensorinv": ([A.reshape(4, 2, 2, 2)[:, 0].reshape(2, 2, 4)], L.tensorinv,
                  np.linalg.tensorinv),
    "tensorsolve": ([A[0].reshape(2, 2, 4), numbers(2, 2)], L.tensorsolve, np.linalg.tensorsolve),
    "norm": ([A], L.norm, np.linalg.norm),
    "norm_rows": ([B], lambda a: L.norm(a, 1, 1), lambda a: np.linalg.norm(a, 1, 1)),
    **{
        f"matrix_norm_{p}": (
            [A], lambda a, p=p: L.matrix_norm(a, ord=p, keepdims=True),
            lambda a, p=p: np.linalg.norm(a, p, (-2, -1), keepdims=True),
        )
        for p in ("fro", "nuc", 1, -1, 2, -2, math.inf, -math.inf)
    },
    **{f"cond_{p}": ([A], lambda a, p=p: L.cond(a, p), lambda a, p=p: np.linalg.cond(a, p))
       for p in (None, 1, "fro", 2, -2)},
    "solve_lower": ([A[0], B[:4]], lambda a, b: L.solve_triangular(a, b, upper=False),
                    lambda a, b: np.linalg.solve(np.tril(a), b)),
    "solve_upper_right": (
        [A[0], T[:, :4]],
        lambda a, b: L.solve_triangular(a, b, upper=True, left=False, unitriangular=True),
        lambda a, b: b @ np.linalg.inv(np.triu(a, 1) + np.eye(4)),
    ),
    "cholesky_solve": (
        [A[0] @ A[0].T, B[:4]], lambda a, b: L.cholesky_solve(b, L.cholesky(a)), np.linalg.solve
    ),
    "cholesky_solve_upper": (
        [A[0] @ A[0].T, B[:4]],
        lambda a, b: L.cholesky_solve(b, L.cholesky(a, upper=True), upper=True), np.linalg.solve,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_the_same_as_in_numpy(name: str) -> None:
    arrays, mine, numpys = SAME[name]
    got, wanted = mine(*map(ds.asarray, arrays)).numpy(), numpys(*arrays)
    assert got.shape == wanted.shape and np.allclose(got, wanted, rtol=1e-9, atol=1e-10)


def test_decompositions_multiply_to_what_they_are_of() -> None:
    for shape in ((5, 3), (3, 5), (2, 4, 4)):
        a = numbers(*shape)
        for full in (False, True):
            u, s, vh = (t.numpy() for t in L.svd(ds.asarray(a), full_matrices=full))
            k = s.shape[-1]
            assert np.allclose((u[..., :k] * s[..., None, :]) @ vh[..., :k, :], a)
            assert u.shape[-1] == (shape[-2] if full else k)
        for mode in ("reduced", "complete"):
            q, r = (t.numpy() for t in L.qr(ds.asarray(a), mode=mode))
            assert np.allclose(q @ r, a) and np.allclose(r, np.triu(r))
    values, vectors = (t.numpy() for t in L.eigh(ds.asarray(A + A.mT)))
    assert np.allclose(vectors * values[:, None] @ vectors.mT, A + A.mT)
    sign, logabsdet = L.slogdet(ds.asarray(-A[:, :3, :3]))
    assert np.allclose((sign * logabsdet.exp()).numpy(), np.linalg.det(-A[:, :3, :3]))


def test_results_have_names() -> None:
    x = ds.asarray(A[0])
    assert L.svd(x).Vh.shape == L.qr(x).Q.shape == L.eigh(x).eigenvectors.shape == (4, 4)
    assert L.slogdet(x).logabsdet.shape == ()
    found = ds.jit(lambda x: L.eigh(x))(x)
    assert np.allclose(found.eigenvalues.numpy(), np.linalg.eigvalsh((A[0] + A[0].T) / 2))


def test_least_squares_and_ranks_are_numpys() -> None:
    a, b = numbers(6, 3), numbers(6, 2)
    wanted = np.linalg.lstsq(a, b)
    found = L.lstsq(ds.asarray(a), ds.asarray(b))
    assert np.allclose(found.solution.numpy(), wanted[0])
    assert np.allclose(found.residuals.numpy(), wanted[1])
    assert int(found.rank) == wanted[2] and np.allclose(found.singular_values.numpy(), wanted[3])
    vector = L.lstsq(ds.asarray(a.T), ds.asarray(b[:3, 0]))
    assert np.allclose(vector.solution.numpy(), np.linalg.lstsq(a.T, b[:3, 0])[0])
    assert vector.residuals.size == 0
    low = a[:, :1] @ b[:, :1].T
    assert int(L.matrix_rank(ds.asarray(low))) == 1
    assert L.matrix_rank(ds.asarray(np.stack([low, np.eye(6)]))).tolist() == [1, 6]
    assert int(L.matrix_rank(ds.asarray(np.diag([1, 1e-3])), rtol=0.01)) == 1
    assert int(L.matrix_rank(ds.zeros(0, 3))) == 0


def test_16_bit_floats_are_computed_in_32() -> None:
    x = ds.asarray(A.astype(np.float32)).astype(ds.bfloat16)
    for found in (L.det(x), L.inv(x), L.cholesky(x @ x.mT), L.svd(x).S, L.pinv(x)):
        assert found.dtype is ds.bfloat16
    assert L.det(ds.asarray([[2, 0], [0, 3]])).dtype is ds.float32


def test_gradients_go_through_stacks_and_broadcasts() -> None:
    a = ds.asarray(A, requires_grad=True)
    b = ds.asarray(numbers(4, 2), requires_grad=True)
    L.solve(a, b).sum().backward()
    back = np.linalg.inv(A).mT @ np.ones((4, 2))
    assert np.allclose(b.grad.numpy(), back.sum(axis=0))
    assert np.allclose(a.grad.numpy(), -back @ np.linalg.solve(A, b.numpy()).mT)


X = ds.asarray(T)
REFUSED: list[tuple[Callable[[], Any], str, str]] = [
    (lambda: L.det(X), "det", "square matrices"),
    (lambda: L.cholesky(X[0]), "cholesky", "matrices [..., m, n]"),
    (lambda: L.qr(X, mode="raw"), "qr", "'reduced' or 'complete'"),
    (lambda: ds.grad(lambda x: L.svd(x).U.sum())(X), "svd", "full_matrices=False"),
    (lambda: ds.grad(lambda x: L.qr(x.mT, mode="complete").Q.sum())(X), "qr", "mode 'reduced'"),
    (lambda: L.matrix_power(X, 2), "matrix_power", "square matrices"),
    (lambda: L.multi_dot([X, X[0], X]), "multi_dot", "which may be vectors"),
    (lambda: L.lstsq(X, X[0]), "lstsq", "[..., m, k]"),
    (lambda: L.tensorinv(X, 1), "tensorinv", "as many elements"),
    (lambda: L.tensorsolve(X, X[0]), "tensorsolve", "as many elements as b"),
    (lambda: L.norm(X, "fro", 1), "norm", "two axes, or a number"),
    (lambda: L.solve(X, X), "solve", "square matrices"),
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_bad_arguments_are_refused(case: int) -> None:
    call, op, said = REFUSED[case]
    with pytest.raises(DeepseekError) as error:
        call()
    text = str(error.value)
    assert text.startswith(f"op '{op}'") and said in text and "test_linalg.py" in text


def test_singular_matrices_raise_numpys_error() -> None:
    with pytest.raises(np.linalg.LinAlgError):
        L.inv(ds.zeros(2, 2)).numpy()


def test_an_error_of_numpy_names_the_op() -> None:
    with pytest.raises(np.linalg.LinAlgError) as caught:
        ds.inv(ds.ones(2, 2)).numpy()
    assert caught.value.__notes__ == ["in op 'inv'"]


def test_the_exponential_of_matrices_is_their_series_and_that_of_their_eigenvalues() -> None:
    a = np.random.default_rng(0).normal(size=(2, 4, 4))
    term = total = np.broadcast_to(np.eye(4), a.shape)
    for k in range(1, 60):
        term = term @ a / k
        total = total + term
    np.testing.assert_allclose(ds.matrix_exp(ds.asarray(a)).numpy(), total, rtol=1e-12, atol=1e-12)
    large = (a + np.swapaxes(a, -1, -2)) * 20
    values, vectors = np.linalg.eigh(large)
    wanted = (vectors * np.exp(values)[:, None]) @ np.swapaxes(vectors, -1, -2)
    found = ds.linalg.matrix_exp(ds.asarray(large)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9 * wanted.max())
    assert np.isnan(ds.matrix_exp(ds.asarray([[np.inf, 0.0], [0.0, 1.0]])).numpy()).all()
