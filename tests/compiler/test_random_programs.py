"""Random small programs: compiled for the CPU against the reference.

Their outputs may be views of each other, which is where sharing loops is hardest.
"""

from __future__ import annotations

import numpy as np
import pytest

import deepseek as ds
from deepseek.config import override

VIEWS = (
    lambda x, n: x[..., ::-1],
    lambda x, n: x.swapaxes(0, -1),
    lambda x, n: x.reshape((-1,)).reshape(x.shape[::-1]),
    lambda x, n: ds.pad(x, (1, 2)) if x.ndim == 1 else x[: max(1, x.shape[0] - 1)],
    lambda x, n: ds.concat([x, x * 0.5], axis=n % x.ndim),
    lambda x, n: ds.stack([x, x + 1])[n % 2],
)
MAPS = (
    lambda x, n: x * 0.5 + 1,
    lambda x, n: (x * 0.1).exp(),
    lambda x, n: ds.where(x > 0, x, -0.5 * x),
    lambda x, n: ds.tanh(x) * x,
    lambda x, n: x - x.mean(axis=n % x.ndim, keepdims=True),
    lambda x, n: ds.softmax(x, n % x.ndim),
    lambda x, n: x / (x.abs().max() + 1),
    lambda x, n: ds.cumulative_sum(x, axis=n % x.ndim),
)
FOLDS = (
    lambda x, n: x.sum(axis=n % x.ndim),
    lambda x, n: x.max(axis=n % x.ndim, keepdims=True),
    lambda x, n: x.var(),
)
ONE_VALUE = (lambda x, n: x + 1, lambda x, n: x * 2)


def program(seed):
    """A function of two tensors that gives three of the values it makes."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.choice([1, 2, 5, 8, 17, 33], 2))
    plan = [(float(rng.random()), *map(int, rng.integers(1000, size=4))) for _ in range(7)]

    def run(a, b):
        made = [a, b]
        for kind, i, j, which, n in plan:
            x, y = made[i % len(made)], made[j % len(made)]
            if kind < 0.85:
                table = MAPS if kind < 0.4 else VIEWS if kind < 0.7 else FOLDS
                table = table if x.ndim else ONE_VALUE
                made.append(table[which % len(table)](x, n))
            else:
                fits = x.ndim == y.ndim == 2 and x.shape[1] == y.shape[0]
                made.append(x @ y if fits else x + y.sum() * 0.1)
        return tuple(made[-3:])

    return run, [ds.asarray(rng.normal(size=shape)) for _ in range(2)]


@pytest.mark.parametrize("seed", range(60))
def test_compiled_is_reference(seed):
    run, inputs = program(seed)
    with override(backend="reference"):
        wanted = [y.numpy() for y in run(*inputs)]
    for got, y in zip(ds.jit(run)(*inputs), wanted, strict=True):
        np.testing.assert_allclose(got.numpy(), y, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("seed", range(60, 90))
def test_compiled_gradients_are_reference(seed):
    run, inputs = program(seed)

    def loss(a, b):
        return sum(((y * y).sum() for y in run(a, b)), start=ds.zeros((), dtype=ds.float64))

    gradient = ds.grad(loss, (0, 1))
    with override(backend="reference"):
        wanted = [g.numpy() for g in gradient(*inputs)]
    for got, g in zip(ds.jit(gradient)(*inputs), wanted, strict=True):
        np.testing.assert_allclose(got.numpy(), g, rtol=1e-6, atol=1e-8 * (1 + np.abs(g).max()))


@pytest.mark.parametrize("shape, axis", [((20, 40), 0), ((300, 5), 1), ((7, 3), 0), ((4, 64), 1)])
def test_a_tensor_that_is_read_and_moved_by_a_reduction(shape, axis):
    class Holder:
        mean = ds.zeros((shape[1 - axis],))

    holder = Holder()

    @ds.jit
    def step(x):
        kept = holder.mean.reshape((1, -1) if axis == 0 else (-1, 1))
        centred = x - kept
        holder.mean += 0.1 * centred.mean(axis=axis)
        return centred * 2

    x = ds.ones(shape)
    seen = [step(x).numpy()[0, 0] for _ in range(3)]
    np.testing.assert_allclose(seen, [2.0, 1.8, 1.62], rtol=1e-6)


def test_a_view_that_is_an_output_and_read_by_another_kernel():
    def run(a, b):
        total = a + b
        seen = total[:, 2:3, ::-1]
        return ds.layer_norm(seen[0], 17), seen

    rng = np.random.default_rng(0)
    inputs = ds.asarray(rng.normal(size=(1, 1, 17))), ds.asarray(rng.normal(size=(1, 5, 17)))
    for got, wanted in zip(ds.jit(run)(*inputs), run(*inputs), strict=True):
        np.testing.assert_allclose(got.numpy(), wanted.numpy(), rtol=1e-12)
