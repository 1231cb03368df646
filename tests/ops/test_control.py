"""cond, while_loop and scan: results, gradients through what they close over, and their errors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

import deepseek as ds
from deepseek.errors import ArgumentError, DeepseekError, DTypeError, ShapeError
from deepseek.frontend.tensor import Tensor


class Pair(NamedTuple):
    a: Tensor
    b: Tensor


@pytest.fixture(params=["reference", "cpu"], autouse=True)
def backend(request: pytest.FixtureRequest):  # noqa: ANN201
    with ds.config.override(backend=request.param):
        yield request.param


def test_cond_runs_one_branch_and_differentiates_it() -> None:
    for flag in (True, False):
        x = ds.asarray([1.0, 2.0], requires_grad=True)
        w = ds.asarray([3.0, 5.0], requires_grad=True)
        y = ds.cond(ds.asarray(flag), lambda x, w=w: x * w, lambda x: x * x * x, x)
        y.sum().backward()
        assert y.tolist() == ([3, 10] if flag else [1, 8])
        assert x.grad.tolist() == ([3, 5] if flag else [3, 12])
        assert w.grad.tolist() == ([1, 2] if flag else [0, 0])


def test_cond_returns_nested_structures() -> None:
    x = ds.asarray([1.0, 2.0])
    out = ds.cond(
        x.sum() > 2,
        lambda p: {"s": Pair(p.a, p.b), "n": 1},
        lambda p: {"s": Pair(p.b, p.a), "n": 0},
        Pair(x, x + 1),
    )  # fmt: skip
    assert isinstance(out["s"], Pair)
    assert out["s"].a.tolist() == [1, 2] and int(out["n"]) == 1


def test_while_loop_swaps_its_state() -> None:
    a, b, n = ds.while_loop(
        lambda s: s[2] < 5, lambda s: (s[1], s[0] + s[1], s[2] + 1),
        (ds.asarray(0), ds.asarray(1), ds.asarray(0)),
    )  # fmt: skip
    assert (int(a), int(b), int(n)) == (5, 8, 5)


def test_while_loop_reads_outside_tensors_when_it_runs() -> None:
    limit = ds.asarray(10.0)
    out = ds.while_loop(lambda x: x < limit, lambda x: x * 2, ds.asarray(1.5))
    assert float(out) == 12.0


def test_while_loop_has_no_gradient() -> None:
    x = ds.asarray(1.0, requires_grad=True)
    y = ds.while_loop(lambda s: s < 10, lambda s: s * 2, x)
    with pytest.raises(ArgumentError, match="ds.scan"):
        y.backward()


def test_scan_carries_and_stacks() -> None:
    xs = ds.asarray(np.arange(5, dtype=np.float32))
    total, partial = ds.scan(lambda s, x: (s + x, s * 10), ds.asarray(1.0), xs)
    assert float(total) == 11
    assert partial.tolist() == [10, 10, 20, 40, 70]
    total, partial = ds.scan(lambda s, x: (s + x, s), ds.asarray(1.0), xs, reverse=True)
    assert float(total) == 11
    assert partial.tolist() == [11, 10, 8, 5, 1]
    state, none = ds.scan(lambda s, _: (s * 2, None), ds.asarray([1, 2]), length=3)
    assert state.tolist() == [8, 16] and none is None


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_differentiates_state_rows_and_closures(reverse: bool) -> None:
    rng = np.random.default_rng(0)
    xs_, w_, h_ = rng.normal(size=(4, 3)), rng.normal(size=(3, 3)), rng.normal(size=3)

    def loss(xs: Tensor, w: Tensor, h: Tensor) -> Tensor:
        h, ys = ds.scan(lambda h, x: ((h @ w + x).tanh(), h * 2), h, xs, reverse=reverse)
        return (h * h).sum() + ys.exp().sum()

    def unrolled(xs: Tensor, w: Tensor, h: Tensor) -> Tensor:
        total = 0.0
        for i in range(3, -1, -1) if reverse else range(4):
            total = total + (h * 2).exp().sum()
            h = (h @ w + xs[i]).tanh()
        return (h * h).sum() + total

    args = [ds.asarray(a) for a in (xs_, w_, h_)]
    value, grads = ds.value_and_grad(loss, (0, 1, 2))(*args)
    wanted, wanted_grads = ds.value_and_grad(unrolled, (0, 1, 2))(*args)
    assert np.allclose(value.numpy(), wanted.numpy())
    for g, h in zip(grads, wanted_grads, strict=True):
        assert np.allclose(g.numpy(), h.numpy(), rtol=1e-10)


def test_scan_has_second_derivatives() -> None:
    def f(x: Tensor) -> Tensor:
        return ds.scan(lambda s, _: (s * s, None), x, length=2)[0]  # x ** 4

    x = ds.asarray(1.5, dtype=ds.float64)
    assert float(ds.grad(ds.grad(f))(x)) == pytest.approx(12 * 1.5**2)


def test_control_flow_nests() -> None:
    def step(s: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        s = ds.cond(x > 1, lambda s: s + x, lambda s: s * 3, s)
        inner, _ = ds.scan(lambda t, y: (t + y, None), s, ds.arange(3).astype(ds.float32) * x)
        return inner, s

    out, seen = ds.scan(step, ds.asarray(1.0), ds.asarray([0.0, 2.0, 1.0]))
    assert seen.tolist() == [3, 5, 33] and float(out) == 36


def test_each_step_of_a_scan_draws_anew() -> None:
    _, rows = ds.scan(lambda s, _: (s, ds.rand(8)), ds.asarray(0), length=4)
    assert len({tuple(r) for r in rows.tolist()}) == 4
    x = ds.ones(4, 64)
    _, dropped = ds.scan(lambda s, row: (s, ds.dropout(row, 0.5)), ds.asarray(0), x)
    assert len({tuple(r) for r in dropped.tolist()}) == 4


def test_an_empty_scan_gives_its_start() -> None:
    state, rows = ds.scan(lambda s, x: (s + x, s), ds.asarray(2.0), ds.zeros(0))
    assert float(state) == 2 and rows.shape == (0,)


def test_bodies_that_do_not_fit_are_refused() -> None:
    x = ds.asarray([1.0, 2.0])
    with pytest.raises(DTypeError, match="a state that becomes int64"):
        ds.scan(lambda s, _: (s.astype(ds.int64), None), x, length=2)
    with pytest.raises(ShapeError, match="a state that becomes"):
        ds.while_loop(lambda s: s.sum() < 3, lambda s: s[:1], x)
    with pytest.raises(ArgumentError, match="structure"):
        ds.cond(x.sum() > 1, lambda x: (x, x), lambda x: x, x)
    with pytest.raises(DTypeError, match="false_fn"):
        ds.cond(x.sum() > 1, lambda x: x, lambda x: x > 1, x)
    with pytest.raises(ShapeError, match="shape \\(\\)"):
        ds.cond(x > 1, lambda x: x, lambda x: x, x)
    with pytest.raises(ArgumentError, match="pair"):
        ds.scan(lambda s, _: s, x, length=2)
    with pytest.raises(ArgumentError, match="neither xs nor length"):
        ds.scan(lambda s, _: (s, s), x)
    with pytest.raises(ShapeError, match="same first size"):
        ds.scan(lambda s, x: (s, s), x, (ds.zeros(2), ds.zeros(3)))


def test_a_body_may_not_change_what_is_outside() -> None:
    outside = ds.asarray([1.0])

    def body(x: Tensor) -> Tensor:
        nonlocal outside
        outside += x
        return x

    with pytest.raises(DeepseekError, match="only what it made"):
        ds.cond(ds.asarray(True), body, lambda x: x, ds.asarray([2.0]))
    assert outside.tolist() == [1]


def test_a_branch_on_a_value_inside_a_body_says_what_to_write() -> None:
    def body(x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x

    with pytest.raises(DeepseekError, match="ds.where"):
        ds.cond(ds.asarray(True), body, lambda x: x, ds.asarray([2.0]))
