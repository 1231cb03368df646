"""The kernel interpreter against NumPy written down by hand."""

from __future__ import annotations

import numpy as np
import pytest
from samples import SAMPLES, I, M, N, Sample, at, f32, inp, loop, out, total

from deepseek.errors import VerifyError
from deepseek.ir.dtype import float32
from deepseek.ir.scalar import ZERO, add, call, const, load, mul, sub, var
from deepseek.kernel import interpret as module
from deepseek.kernel.interpret import interpret
from deepseek.kernel.ir import GRID, SERIAL, VECTOR, Axis, Fold, Kernel, Store

Arrays = list[np.ndarray]


def run(sample: Sample, sizes: tuple[int, ...]) -> tuple[Arrays, Arrays]:
    given = sample.buffers(sizes)
    after = [b.copy() for b in given]
    interpret(sample.kernel, after, list(sizes))
    return given, after


@pytest.mark.parametrize("lanes", [1, 4, 16, 64])
def test_softmax(lanes: int) -> None:
    sample = SAMPLES[f"softmax{lanes}_m"]
    for n, m in sample.sizes:
        (x, _), (_, o) = run(sample, (n, m))
        e = np.exp(x.reshape(n, m) - x.reshape(n, m).max(1, keepdims=True))
        np.testing.assert_allclose(o.reshape(n, m), e / e.sum(1, keepdims=True), rtol=2e-6)


def test_welford() -> None:
    (x, *_), (_, mean, variance) = run(SAMPLES["welford"], (3, 65))
    rows = x.reshape(3, -1).astype(np.float64)
    np.testing.assert_allclose(mean, rows.mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variance, rows.var(1), rtol=1e-5)


def test_argmax_takes_the_first() -> None:
    sample = SAMPLES["argmax"]
    x = np.float32([[1, 5, 2, 5, 0], [3, 3, 3, 3, 3]])
    o = np.zeros(2, np.int64)
    interpret(sample.kernel, [x.ravel(), o], [2, 5])
    assert o.tolist() == [1, 0]


def test_columns_pass_through_scratch() -> None:
    (x, _), (_, o) = run(SAMPLES["columns"], (3, 65))
    rows = x.reshape(3, 65)
    np.testing.assert_allclose(o.reshape(3, 65), rows - rows.mean(0), rtol=1e-5, atol=1e-6)


def test_prefix_stores_see_the_new_values() -> None:
    (x, *_), (_, sums, tops) = run(SAMPLES["cumulative"], (3, 10))
    rows = x.reshape(3, 10)
    np.testing.assert_allclose(sums.reshape(3, 10), rows.cumsum(1) + 1, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(tops.reshape(3, 10), np.maximum.accumulate(rows, axis=1))


def test_matrix_product() -> None:
    (a, b, _), (_, _, o) = run(SAMPLES["mma_6x32"], (2, 7))
    left = a[: 7 * 6].reshape(7, 6)
    right = b[: 2 * 7 * 32].reshape(2, 7, 32)
    exact = np.maximum(np.einsum("ki,tkj->tij", left, right), -1)
    np.testing.assert_allclose(o.reshape(2, 6, 32), exact, rtol=1e-5, atol=1e-5)


def test_scatter_adds_every_lane() -> None:
    (k, x, o, c, _), (_, _, o2, c2, _) = run(SAMPLES["scatter"], (37,))
    np.testing.assert_array_equal(c2 - c, np.bincount(k, minlength=5))
    np.testing.assert_allclose(o2 - o, np.bincount(k, x, 5), rtol=1e-5)


def test_lanes_are_merged_in_halves() -> None:
    """The order of a vector fold, spelled out: floats would tell another one apart."""
    s = total("s", at("x", I))
    fold = Fold((Axis(I, N, VECTOR),), (s,), lanes=4)
    kernel = Kernel("k", (inp("x"), out("o")), (N,), (fold, Store("o", ZERO, s.var)))
    x = np.random.default_rng(0).uniform(-1e4, 1e4, 11).astype(np.float32)
    lane = [np.float32(0)] * 4
    for e, value in enumerate(x):
        lane[e % 4] = np.float32(lane[e % 4] + value)
    exact = np.float32(np.float32(lane[0] + lane[2]) + np.float32(lane[1] + lane[3]))
    o = np.zeros(1, np.float32)
    interpret(kernel, [x, o], [11])
    assert o[0] == exact


def test_ragged_loops_run_each_task_to_its_own_end() -> None:
    j = var("j", low=0, extent=add(I, const(1)))
    s = total("s", at("x", j))
    fold = Fold((Axis(j, add(I, const(1))),), (s,))
    body = loop(I, N, GRID, fold, Store("o", I, s.var))
    kernel = Kernel("k", (inp("x"), out("o")), (N,), (body,))
    x = np.arange(6, dtype=np.float32)
    o = np.zeros(6, np.float32)
    interpret(kernel, [x, o], [6])
    assert o.tolist() == x.cumsum().tolist()


@pytest.mark.parametrize("index", [sub(I, const(1)), add(I, const(1)), mul(I, M)])
def test_loads_outside_are_errors(index: object) -> None:
    kernel = Kernel(
        "reader", (inp("x"), out("o")), (N, M),
        (loop(I, N, VECTOR, Store("o", I, load("x", float32, index))),),  # type: ignore[arg-type]
    )  # fmt: skip
    buffers = [np.zeros(5, np.float32), np.zeros(5, np.float32)]
    with pytest.raises(
        VerifyError, match="'reader' accesses element .* of buffer 'x', which has 5"
    ):
        interpret(kernel, buffers, [5, 3])


def test_stores_outside_are_errors_where_the_guard_holds() -> None:
    def kernel(limit: int) -> Kernel:
        guard = call("lt", I, const(limit))
        body = loop(I, N, SERIAL, Store("o", I, f32(1), guard))
        return Kernel("writer", (out("o"),), (N,), (body,))

    o = np.zeros(3, np.float32)
    interpret(kernel(3), [o], [7])
    assert o.tolist() == [1, 1, 1]
    with pytest.raises(VerifyError, match="element 3 of buffer 'o', which has 3"):
        interpret(kernel(4), [o], [7])


def test_wrong_buffers_are_errors() -> None:
    kernel = SAMPLES["silu"].kernel
    good = np.zeros(2, np.float32)
    with pytest.raises(VerifyError, match="buffer 'b' is float64 with 1 dimensions"):
        interpret(kernel, [good, good.astype(np.float64), good], [2])


def test_long_axes_run_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = SAMPLES["columns"]
    _, whole = run(sample, (3, 65))
    monkeypatch.setattr(module, "PIECE", 16)
    _, pieces = run(sample, (3, 65))
    np.testing.assert_array_equal(whole[-1], pieces[-1])
