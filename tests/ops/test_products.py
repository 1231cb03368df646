"""einsum and the named products against NumPy: random equations, kernels, gradients, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek.config import override
from deepseek.errors import DeepseekError

RNG = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray[Any, Any]:
    """Small whole numbers, so that every order of adding them gives the same."""
    return RNG.integers(-3, 4, shape).astype(np.float64)


def random_equation(rng: np.random.Generator) -> tuple[str, list[tuple[int, ...]]]:
    """An equation with shapes for its terms: repeated letters, '...', sizes of 1, no '->'."""
    sizes = {k: int(rng.integers(1, 4)) for k in "abcde"}
    dots = tuple(int(n) for n in rng.integers(1, 4, rng.integers(0, 3)))
    terms, shapes = [], []
    for _ in range(rng.integers(1, 5)):
        letters = list(rng.choice(list("abcde"), rng.integers(0, 4)))
        shape: list[Any] = [sizes[k] for k in letters]
        if rng.random() < 0.4:
            at = int(rng.integers(0, len(letters) + 1))
            letters.insert(at, "...")
            some = dots[int(rng.integers(0, len(dots) + 1)) :]
            shape[at:at] = [1 if rng.random() < 0.3 else n for n in some]
        terms.append("".join(letters))
        shapes.append(tuple(shape))
    equation = ",".join(terms)
    if rng.random() < 0.8:
        used = sorted({*"".join(terms)} - {"."})
        kept = [k for k in used if rng.random() < 0.5]
        equation += "->" + ("..." if "..." in equation else "") + "".join(rng.permutation(kept))
    return equation, shapes


@pytest.mark.parametrize("seed", range(5))
def test_random_equations_give_numpys_result(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(25):
        equation, shapes = random_equation(rng)
        arrays = [numbers(*shape) for shape in shapes]
        wanted = np.einsum(equation, *arrays)
        got = ds.einsum(equation, *map(ds.asarray, arrays)).numpy()
        assert got.shape == wanted.shape and np.array_equal(got, wanted), f"{equation} {shapes}"


def test_terms_may_be_lists_of_numbers() -> None:
    a, b = numbers(2, 3, 4), numbers(4, 3)
    x, y = ds.asarray(a), ds.asarray(b)
    wanted = np.einsum(a, [..., 0, 1], b, [1, 0], [..., 0])
    assert np.array_equal(ds.einsum(x, [..., 0, 1], y, [1, 0], [..., 0]).numpy(), wanted)
    assert np.array_equal(ds.einsum(x, [2, 1, 0]).numpy(), np.einsum(a, [2, 1, 0]))
    assert np.array_equal(ds.einsum("ijk,kj->i", [x, y]).numpy(), np.einsum("ijk,kj->i", a, b))


@pytest.mark.parametrize(
    ("equation", "shapes", "launches"),
    [
        ("bij,bjk->bik", [(3, 4, 5), (3, 5, 6)], 1),
        ("ij,jk->ki", [(16, 32), (32, 24)], 1),
        ("bqhd,bkhd->bhqk", [(2, 7, 3, 8), (2, 9, 3, 8)], 1),
        ("abcd,cae->bde", [(4, 6, 5, 7), (5, 4, 8)], 1),
        ("i,j->ij", [(10,), (12,)], 1),
        ("ij,j->ij", [(10, 12), (12,)], 1),
        ("bn,onm,bm->bo", [(2, 3), (4, 3, 5), (2, 5)], 2),
    ],
)
def test_pairs_are_one_kernel_without_copies(
    equation: str, shapes: list[tuple[int, ...]], launches: int
) -> None:
    tensors = [ds.asarray(numbers(*s).astype(np.float32)) for s in shapes]
    explained = ds.explain(ds.jit(lambda *x: ds.einsum(equation, *x)), *tensors)
    assert explained.counts["launches"] == launches and explained.counts["copies"] == 0


def test_the_cheapest_pair_comes_first() -> None:
    a, b, c = ds.zeros(64, 64), ds.zeros(64, 64), ds.zeros(64)
    with override(eager="0"):
        last = ds.einsum("ij,jk,k->i", a, b, c)._value.node
    assert sorted(v.type.shape for v in last.inputs) == [(64,), (64, 64)]
    vector = next(v for v in last.inputs if v.type.rank == 1)
    assert vector.node.op.name == "contract_axes", "a product of matrices was made"


SAME: dict[str, tuple[list[np.ndarray[Any, Any]], Callable[..., Any], Callable[..., Any]]] = {
    "tensordot": ([numbers(2, 3, 4), numbers(3, 4, 2)], ds.tensordot, np.tensordot),
    "tensordot_none": ([numbers(2, 3), numbers(4)], lambda a, b: ds.tensordot(a, b, axes=0),
                       lambda a, b: np.tensordot(a, b, 0)),
    "tensordot_axes": (
        [numbers(2, 3, 4), numbers(4, 5, 2)],
        lambda a, b: ds.tensordot(a, b, axes=((0, -1), (2, 0))),
        lambda a, b: np.tensordot(a, b, ((0, -1), (2, 0))),
    ),
    "dot": ([numbers(2, 3, 4), numbers(5, 4, 2)], ds.dot, np.dot),
    "dot_vectors": ([numbers(4), numbers(4)], ds.dot, np.dot),
    "dot_number": ([numbers(2, 2), numbers()], ds.dot, np.dot),
    "vdot": ([numbers(2, 3), numbers(3, 2)], ds.vdot, np.vdot),
    "inner": ([numbers(2, 4), numbers(3, 4)], ds.inner, np.inner),
    "outer": ([numbers(2), numbers(3)], ds.outer, np.outer),
    "vecdot": ([numbers(5, 1, 3), numbers(4, 3)], ds.vecdot, np.vecdot),
    "vecdot_axis": ([numbers(3, 5), numbers(3, 1)], lambda a, b: ds.vecdot(a, b, axis=0),
                    lambda a, b: np.vecdot(a, b, axis=0)),
    "mm": ([numbers(2, 3), numbers(3, 4)], ds.mm, np.matmul),
    "mv": ([numbers(2, 3), numbers(3)], ds.mv, np.matmul),
    "bmm": ([numbers(5, 2, 3), numbers(5, 3, 4)], ds.bmm, np.matmul),
    "chain": ([numbers(2), numbers(2, 9), numbers(9, 3), numbers(3, 4)], ds.chain_matmul,
              lambda *m: np.linalg.multi_dot(m)),
    "addmm": ([numbers(1, 4), numbers(2, 3), numbers(3, 4)],
              lambda x, a, b: ds.addmm(x, a, b, beta=2, alpha=3),
              lambda x, a, b: 2 * x + 3 * (a @ b)),
    "addmv": ([numbers(2), numbers(2, 3), numbers(3)], ds.addmv, lambda x, a, b: x + a @ b),
    "addr": ([numbers(2, 3), numbers(2), numbers(3)], lambda x, a, b: ds.addr(x, a, b, alpha=-1),
             lambda x, a, b: x - np.outer(a, b)),
    "baddbmm": ([numbers(2, 1), numbers(5, 2, 3), numbers(5, 3, 4)], ds.baddbmm,
                lambda x, a, b: x + a @ b),
    "addbmm": ([numbers(2, 4), numbers(5, 2, 3), numbers(5, 3, 4)],
               lambda x, a, b: ds.addbmm(x, a, b, beta=0.5),
               lambda x, a, b: 0.5 * x + (a @ b).sum(0)),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_the_same_as_in_numpy(name: str) -> None:
    arrays, mine, numpys = SAME[name]
    got, wanted = mine(*map(ds.asarray, arrays)).numpy(), numpys(*arrays)
    assert got.shape == wanted.shape and np.array_equal(got, wanted)


@pytest.mark.parametrize("name", SAME)
def test_gradients_are_those_of_differences(name: str) -> None:
    """The products are linear in each argument, so a difference is exact."""
    arrays, mine, numpys = SAME[name]
    tensors = [ds.asarray(a, requires_grad=True) for a in arrays]
    out = mine(*tensors)
    weights = numbers(*out.shape)
    (out * ds.asarray(weights)).sum().backward()
    for i, (t, a) in enumerate(zip(tensors, arrays, strict=True)):
        step = numbers(*a.shape)
        ahead = [b + step if k == i else b for k, b in enumerate(arrays)]
        wanted = np.sum((numpys(*ahead) - numpys(*arrays)) * weights)
        assert np.sum(t.grad.numpy() * step) == pytest.approx(wanted), f"argument {i}"


def test_what_is_added_with_factor_0_is_not_looked_at() -> None:
    nan = ds.full((2, 2), float("nan"))
    assert np.array_equal(
        ds.addmm(nan, ds.ones(2, 1), ds.ones(1, 2), beta=0).numpy(), np.ones((2, 2))
    )


def test_one_trace_serves_every_size() -> None:
    compiled = ds.jit(lambda x: ds.einsum("ij,jk,kl->li", x, x.mT, x))
    for rows in (4, 7, 3, 12):
        x = numbers(rows, 6)
        traces = ds.counters.traces
        assert np.array_equal(compiled(ds.asarray(x)).numpy(), (x @ x.T @ x).T)
    assert ds.counters.traces == traces, "traced again for the fourth size"


X, V = ds.ones(2, 3), ds.ones(3)
REFUSED: list[tuple[Callable[[], Any], str, str]] = [
    (lambda: ds.einsum("ij,jk", X), "einsum", "a tensor for each of 2 terms"),
    (lambda: ds.einsum("ijk", X), "einsum", "as many labels as axes"),
    (lambda: ds.einsum("i1->i", X), "einsum", "letters, and '...' at most once"),
    (lambda: ds.einsum("ij->ik", X), "einsum", "labels of the terms"),
    (lambda: ds.einsum("ij->ii", X), "einsum", "each once"),
    (lambda: ds.einsum("ii", X), "einsum", "equal sizes"),
    (lambda: ds.einsum("ij,jk", X, X), "einsum", "one size for each label"),
    (lambda: ds.contract_axes(X, V, left="ij", right="k", out="ij"), "contract_axes", "in two at"),
    (lambda: ds.tensordot(X, V, axes=2), "tensordot", "that both have"),
    (lambda: ds.tensordot(X, V, axes=((0,), (0,))), "tensordot", "of one size"),
    (lambda: ds.mm(X, V), "mm", "a matrix, a matrix"),
    (lambda: ds.mm(X, X), "matmul", "(..., k, n)"),
    (lambda: ds.bmm(ds.ones(2, 1, 1), ds.ones(3, 1, 1)), "bmm", "of one length"),
    (lambda: ds.addmm(ds.ones(4, 2, 2), X, X.mT), "addmm", "broadcasts to the product"),
    (lambda: ds.outer(X, V), "outer", "a vector, a vector"),
    (lambda: ds.cross(X.mT, X.mT), "cross", "size 3 on axis -1"),
    (lambda: ds.chain_matmul(X, V, X), "chain_matmul", "which may be vectors"),
    (lambda: ds.bilinear(X, X, X), "bilinear", "a weight (out, n, m)"),
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_bad_arguments_are_refused(case: int) -> None:
    call, op, said = REFUSED[case]
    with pytest.raises(DeepseekError) as error:
        call()
    text = str(error.value)
    assert text.startswith(f"op '{op}'") and said in text and "test_products.py" in text


@pytest.mark.parametrize("dtype", [ds.bfloat16, ds.float16, ds.int8], ids=str)
@pytest.mark.parametrize("columns", [17, 33, 65])
def test_one_column_behind_whole_registers(columns: int, dtype: ds.DType) -> None:
    a, b = numbers(8, 5), numbers(5, columns)
    product = ds.jit(lambda x, y: x @ y)(ds.asarray(a).astype(dtype), ds.asarray(b).astype(dtype))
    np.testing.assert_array_equal(product.astype(ds.float64).numpy(), a @ b)
