"""Functions that only move elements, against NumPy: values, gradients, symbolic sizes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek.errors import ArgumentError, DeepseekError

A = np.arange(24.0).reshape(2, 3, 4)
M = np.arange(12.0).reshape(3, 4)
V = np.arange(5.0)
S = np.array(3.0)
Function = Callable[[Any, Any], Any]


# name -> (arrays, the same for ds and for NumPy: the second argument is the namespace)
SAME: dict[str, tuple[tuple[Any, ...], Callable[..., Any]]] = {
    "flip": ((A,), lambda k, x: k.flip(x, (0, 2))),
    "fliplr": ((M,), lambda k, x: k.fliplr(x)),
    "flipud": ((V,), lambda k, x: k.flipud(x)),
    **{f"rot90_{n}": ((A,), lambda k, x, n=n: k.rot90(x, n, (0, 2))) for n in (-3, 0, 1, 2, 7)},
    "roll": ((A,), lambda k, x: k.roll(x, (1, -2), (0, 2))),
    "transpose": ((A,), lambda k, x: k.transpose(x)),
    "transpose_order": ((A,), lambda k, x: k.transpose(x, (1, 2, 0))),
    "moveaxis": ((A,), lambda k, x: k.moveaxis(x, (0, 2), (1, 0))),
    "ravel": ((A,), lambda k, x: k.ravel(x)),
    "atleast_1d": ((S,), lambda k, x: k.atleast_1d(x)),
    **{f"atleast_2d_{x.ndim}": ((x,), lambda k, x: k.atleast_2d(x)) for x in (S, V, M, A)},
    **{f"atleast_3d_{x.ndim}": ((x,), lambda k, x: k.atleast_3d(x)) for x in (S, V, M, A)},
    "hstack": ((V, V[:2]), lambda k, *x: k.hstack(x)),
    "hstack_matrices": ((M, M[:, :1]), lambda k, *x: k.hstack(x)),
    "vstack": ((M, M[0]), lambda k, *x: k.vstack(x)),
    "dstack": ((M, M), lambda k, *x: k.dstack(x)),
    "dstack_vectors": ((V, V), lambda k, *x: k.dstack(x)),
    "column_stack": ((V, np.ones((5, 2)), V), lambda k, *x: k.column_stack(x)),
    "stack": ((M, M), lambda k, *x: k.stack(x, axis=-1)),
    "tile": ((M,), lambda k, x: k.tile(x, (2, 1, 3))),
    "tile_more_axes": ((A,), lambda k, x: k.tile(x, 2)),
    "tile_none": ((M,), lambda k, x: k.tile(x, (0, 1))),
    "repeat": ((M,), lambda k, x: k.repeat(x, 3, axis=1)),
    "repeat_flat": ((M,), lambda k, x: k.repeat(x, 2)),
    "repeat_each": ((M,), lambda k, x: k.repeat(x, [2, 0, 3], axis=0)),
    "repeat_one_count": ((M,), lambda k, x: k.repeat(x, [2], axis=0)),
    "kron": ((M[:2, :3], A[0]), lambda k, *x: k.kron(*x)),
    "kron_ranks": ((V, M), lambda k, *x: k.kron(*x)),
    "diagonal": ((A,), lambda k, x: k.diagonal(x, 1, 2, 1)),
    "diagonal_below": ((A,), lambda k, x: k.diagonal(x, -1, 0, 1)),
    "diag": ((V,), lambda k, x: k.diag(x, -2)),
    "diag_matrix": ((M,), lambda k, x: k.diag(x, 1)),
    "diagflat": ((M,), lambda k, x: k.diagflat(x, 1)),
    "squeeze": ((A[:1, :, :1],), lambda k, x: k.squeeze(x, (0, 2))),
    "expand_dims": ((M,), lambda k, x: k.expand_dims(x, (0, -1))),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_the_same_as_in_numpy(name: str) -> None:
    arrays, function = SAME[name]
    got, wanted = function(ds, *map(ds.asarray, arrays)).numpy(), function(np, *arrays)
    assert got.shape == wanted.shape and np.array_equal(got, wanted)


@pytest.mark.parametrize("name", SAME)
def test_the_gradient_is_the_adjoint(name: str) -> None:
    """sum(g * f(x)) has the gradient g where each element of x went."""
    arrays, function = SAME[name]
    linear = name.partition("_")[0] != "kron"
    tensors = [ds.asarray(a, requires_grad=True) for a in arrays]
    out = function(ds, *tensors)
    weights = np.random.default_rng(0).normal(size=out.shape)
    (out * ds.asarray(weights)).sum().backward()
    for i, (t, a) in enumerate(zip(tensors, arrays, strict=True)):
        wanted = np.zeros(a.shape)
        for at in np.ndindex(a.shape):
            one = np.zeros(a.shape)
            one[at] = 1
            moved = [one if k == i else (np.zeros_like(b) if linear else b)
                     for k, b in enumerate(arrays)]  # fmt: skip
            wanted[at] = np.sum(function(np, *moved) * weights)
        assert np.allclose(t.grad.numpy(), wanted), name


SPLITS: list[tuple[Any, Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = [
    (A, lambda k, x: k.tensor_split(x, 3, 2), lambda k, x: k.array_split(x, 3, 2)),
    (V, lambda k, x: k.tensor_split(x, (1, 3)), lambda k, x: k.array_split(x, (1, 3))),
    (V, lambda k, x: k.tensor_split(x, (3, 1)), lambda k, x: k.array_split(x, (3, 1))),
    (V, lambda k, x: k.tensor_split(x, (2, 9)), lambda k, x: k.array_split(x, (2, 9))),
    (V, lambda k, x: k.tensor_split(x, 7), lambda k, x: k.array_split(x, 7)),
    (M, lambda k, x: k.hsplit(x, 2), lambda k, x: k.hsplit(x, 2)),
    (V, lambda k, x: k.hsplit(x, [2]), lambda k, x: k.hsplit(x, [2])),
    (M, lambda k, x: k.vsplit(x, 3), lambda k, x: k.vsplit(x, 3)),
    (A, lambda k, x: k.dsplit(x, [1, 2]), lambda k, x: k.dsplit(x, [1, 2])),
    (A, lambda k, x: k.split(x, 2, 1), lambda k, x: k.split(x, [2], 1)),
    (A, lambda k, x: k.split(x, [3, 0, 1], 2), lambda k, x: k.split(x, [3, 3], 2)),
    (A, lambda k, x: k.unbind(x, 1), lambda k, x: [x[:, i] for i in range(3)]),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(SPLITS)))
def test_pieces_are_numpys(case: int) -> None:
    x, mine, numpys = SPLITS[case]
    got, wanted = mine(ds, ds.asarray(x)), numpys(np, x)
    assert len(got) == len(wanted)
    assert all(np.array_equal(a.numpy(), b) for a, b in zip(got, wanted, strict=True))


def test_pytorchs_names() -> None:
    t = ds.asarray(A)
    assert t.transpose(0, 2).shape == (4, 3, 2) == t.transpose(0, -1).shape
    assert t.permute(2, 0, 1).shape == t.permute((2, 0, 1)).shape == (4, 2, 3)
    assert t.movedim(0, -1).shape == (3, 4, 2) and t.swapdims(0, 1).shape == (3, 2, 4)
    assert t.expand(5, -1, -1, 4).shape == (5, 2, 3, 4)
    assert ds.zeros(3, 1).expand(-1, 4).shape == (3, 4)
    assert ds.zeros(3, 1).expand_as(ds.zeros(2, 3, 4)).shape == (2, 3, 4)
    assert t.view_as(ds.zeros(6, 4)).shape == t.reshape_as(ds.zeros(6, 4)).shape == (6, 4)
    assert t.unflatten(-1, (2, -1)).shape == (2, 3, 2, 2)
    assert t.contiguous() is t and t.is_contiguous() and t.dim() == 3 and t.numel() == 24
    assert t.flip(0, 1).numpy().tolist() == np.flip(A, (0, 1)).tolist()
    assert t.flip((0, 1)).shape == t.flip().shape == A.shape
    assert ds.asarray(M).t().shape == ds.asarray(M).H.shape == (4, 3)
    assert t.mH.shape == t.adjoint().shape == (2, 4, 3)
    assert ds.cat([t, t], 1).shape == ds.cat([t, t], dim=1).shape == (2, 6, 4)
    assert [len(t.chunk(n, 2)) for n in (1, 2, 3, 4, 9)] == [1, 2, 2, 4, 4]
    assert ds.broadcast_shapes((2, 1), (3,), ()) == (2, 3)


def test_products_of_places_are_those_of_itertools() -> None:
    x, y, z = (ds.asarray(v) for v in ([1, 2, 3], [4, 5], [6]))
    wanted = list(itertools.product([1, 2, 3], [4, 5], [6]))
    assert ds.cartesian_prod(x, y, z).tolist() == [list(row) for row in wanted]
    for r, again in itertools.product((1, 2, 3), (False, True)):
        choose = itertools.combinations_with_replacement if again else itertools.combinations
        wanted = [list(row) for row in choose([1, 2, 3], r)]
        assert ds.combinations(x, r, again).tolist() == wanted
    blocks = [np.ones((1, 2)), np.full((2, 1), 2.0), np.array([3.0, 4]), np.array(5.0)]
    wanted = np.zeros((5, 6))
    wanted[0, :2], wanted[1:3, 2], wanted[3, 3:5], wanted[4, 5] = 1, 2, (3, 4), 5
    assert np.array_equal(ds.block_diag(*map(ds.asarray, blocks)).numpy(), wanted)


def test_diagonals_are_set_and_embedded() -> None:
    wanted = A.copy()
    np.einsum("iji->ij", wanted[:, :, :2])[...] = np.arange(6).reshape(2, 3) - 9
    source = ds.asarray(np.arange(6.0).reshape(2, 3).T - 9)
    got = ds.diagonal_scatter(ds.asarray(A[:, :, :2]), source, 0, 0, 2)
    assert np.array_equal(got.numpy(), wanted[:, :, :2])
    placed = ds.diag_embed(ds.asarray(M), -1, 0, 2).numpy()
    assert placed.shape == (5, 3, 5)
    assert np.array_equal(np.diagonal(placed, -1, 0, 2), M) and placed.sum() == M.sum()
    assert float(ds.trace(ds.asarray(M))) == np.trace(M)


def test_repeats_by_counts_are_compiled_with_their_total() -> None:
    x, counts = ds.asarray(M), ds.asarray([2, 0, 3])
    wanted = np.repeat(M, [2, 0, 3], axis=0)
    assert np.array_equal(ds.repeat_interleave(x, counts, 0).numpy(), wanted)
    run = ds.jit(lambda x, n: ds.repeat_interleave(x, n, 0, output_size=5))
    assert np.array_equal(run(x, counts).numpy(), wanted)
    with pytest.raises(ArgumentError, match="total="):
        ds.jit(lambda x, n: ds.repeat(x, n, axis=0))(x, counts)


REFUSED: list[tuple[Callable[[Any], Any], str]] = [
    (lambda x: x.tensor_split(0), "at least one piece"),
    (lambda x: x.hsplit(2), "divides 3"),
    (lambda x: ds.vsplit(x[0, 0], 1), "at least 2 axes"),
    (lambda x: x.chunk(0), "at least one"),
    (lambda x: x.split(-1), "a positive size"),
    (lambda x: x[0, 0].split([2, 1]), "add up to 4"),
    (lambda x: x.rot90(1, (0, 0)), "two of its axes"),
    (lambda x: x.tile(-1), "not negative"),
    (lambda x: x.repeat(-1), "at least 0"),
    (lambda x: x.repeat([1, 2, 3], axis=0), "one for each of 2"),
    (lambda x: x.repeat([1, -2], axis=0), "at least 0"),
    (lambda x: x.t(), "x.mT"),
    (lambda x: x.diag(), "a vector or a"),
    (lambda x: x.diagonal(0, 1, 1), "two axes"),
    (lambda x: x.diag_embed(0, 1, 1), "two axes"),
    (lambda x: x.unflatten(1, (2, 2)), "a shape of"),
    (lambda x: x.expand(-1, 2, 3, 4), "new axes"),
    (lambda x: ds.block_diag(x), "at most two axes"),
    (lambda x: ds.combinations(x), "a vector"),
    (lambda x: ds.cartesian_prod(x), "at least one vector"),
    (lambda x: x.select(0, 2), "< 2"),
    (lambda x: x.select_scatter(x, 0, 1), "a source of shape"),
    (lambda x: x.diagonal_scatter(x), "a source of shape"),
    (lambda x: x.unfold(0, 3), "at most 2 elements"),
    (lambda x: ds.unfold(x[0], 2), "(batch, channels, height, width)"),
    (lambda x: ds.fold(x, (3, 3), 2), "(batch, channels * 4, 4)"),
    (lambda x: ds.pixel_shuffle(x, 2), "the factor's square divides"),
    (lambda x: ds.pixel_unshuffle(x, 2), "that the factor divides"),
    (lambda x: ds.channel_shuffle(x, 2), "that divide the channels"),
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_bad_arguments_are_refused(case: int) -> None:
    call, said = REFUSED[case]
    with pytest.raises(DeepseekError) as error:
        call(ds.asarray(A))
    assert said in str(error.value) and "test_views.py" in str(error.value)


SYMBOLIC: dict[str, Callable[[Any], Any]] = {
    "rot90": lambda x: ds.rot90(x), "tile": lambda x: ds.tile(x, (2, 3)),
    "repeat": lambda x: ds.repeat(x, 2, axis=0), "diagonal": lambda x: ds.diagonal(x @ x.mT),
    "kron": lambda x: ds.kron(x, ds.ones(2, 2)), "hstack": lambda x: ds.hstack([x, x * 2]),
    "diag_embed": lambda x: ds.diag_embed(x), "unflatten": lambda x: x.unflatten(1, (2, -1)),
    "cartesian_prod": lambda x: ds.cartesian_prod(x[:, 0], x[:, 1]),
    "mask": lambda x: ds.masked_scatter(x, x > 0, x.flatten() * 2),
    "scatter": lambda x: ds.scatter(x, 1, x.argmax(axis=1, keepdims=True), 7.0),
    "index_copy": lambda x: ds.index_copy(x, 1, ds.asarray([1, 0]), x[:, :2]),
}  # fmt: skip


@pytest.mark.parametrize("name", SYMBOLIC)
def test_one_trace_serves_every_size(name: str) -> None:
    function = SYMBOLIC[name]
    compiled = ds.jit(function)
    rng = np.random.default_rng(0)
    for rows in (4, 7, 3, 12):
        x = ds.asarray(rng.normal(size=(rows, 6)).astype(np.float32))
        traces = ds.counters.traces
        got, wanted = compiled(x).numpy(), function(x).numpy()
        assert got.shape == wanted.shape and np.allclose(got, wanted, rtol=1e-4, atol=1e-5)
    assert ds.counters.traces == traces, "traced again for the fourth size"


def test_slices_along_an_axis_overlap() -> None:
    got = ds.asarray(A).unfold(1, 2, 1).numpy()
    wanted = np.lib.stride_tricks.sliding_window_view(A, 2, axis=1)
    assert np.array_equal(got, wanted)
    assert np.array_equal(ds.asarray(V).unfold(0, 2, 3).numpy(), [[0, 1], [3, 4]])


def test_fold_is_the_adjoint_of_unfold() -> None:
    options: dict[str, Any] = {"kernel_size": (2, 3), "stride": (2, 1), "padding": 1}
    x = np.random.default_rng(0).normal(size=(1, 2, 5, 6))
    columns = ds.unfold(ds.asarray(x), **options)
    weights = np.random.default_rng(1).normal(size=columns.shape)
    back = ds.fold(ds.asarray(weights), (5, 6), **options)
    assert np.sum(columns.numpy() * weights) == pytest.approx(np.sum(back.numpy() * x))
