"""What eager code remembers: programs of ops and of pending graphs, the ones used last."""

from __future__ import annotations

import numpy as np
import pytest

import deepseek as ds
from deepseek.compiler import tiers
from deepseek.compiler.caches import Recent


@pytest.fixture
def small(monkeypatch):
    """Caches of three entries."""
    for name in ("_met", "_plans", "_ops"):
        monkeypatch.setattr(tiers, name, Recent(3))


def test_recent_drops_what_was_used_longest_ago():
    recent: Recent[str, int] = Recent(2)
    recent.put("a", 1)
    recent.put("b", 2)
    assert recent.get("a") == 1
    recent.put("c", 3)
    assert list(recent) == ["a", "c"] and recent.get("b") is None
    recent.put("a", 4)
    recent.put("d", 5)
    assert list(recent) == ["a", "d"] and recent.get("a") == 4 and len(recent) == 2
    recent.clear()
    assert not len(recent)


def test_eager_caches_are_bounded(small):
    for n in range(2, 12):
        x = ds.ones((n,)).evaluate()
        for _ in range(4):
            y = x
            for _ in range(n):
                y = y * 2 + 1
            assert y.numpy()[0] == 2 ** (n + 1) - 1
    assert len(tiers._met) == len(tiers._plans) == 3
    for op in (ds.exp, ds.sin, ds.cos, ds.tanh, ds.sqrt, ds.abs):
        op(x).evaluate()
    assert len(tiers._ops) == 3


def test_what_is_used_often_stays(small, work):
    x, y = ds.ones((3,)).evaluate(), ds.ones((3, 4)).evaluate()
    (x * 3 + x).evaluate()
    with work() as done:
        for op in (ds.exp, ds.sin, ds.cos, ds.tanh):
            for _ in range(3):
                (x + x).evaluate()
            op(y).evaluate()
    assert done.programs <= 6  # four functions, the sum as an op and as a graph


def test_ops_that_need_numbers_for_sizes_are_tried_once(monkeypatch):
    """A convolution's window is a number: that symbols do not do is remembered, for each form."""
    calls = []
    compile_op = tiers.compile_op

    def counting(node, form, now, backend, data):
        calls.append((node.op.name, now))
        return compile_op(node, form, now, backend, data)

    monkeypatch.setattr(tiers, "compile_op", counting)
    monkeypatch.setattr(tiers, "_ops", Recent(100))
    w = ds.ones((2, 1, 3, 3)).evaluate()
    x = ds.ones((1, 1, 7, 7)).evaluate()
    for i in range(4):
        got = ds.nn.functional.conv2d(x + i, w).numpy()
        np.testing.assert_array_equal(got, np.full((1, 2, 5, 5), 9.0 * (1 + i)))
    convolutions = [now for name, now in calls if name.startswith("conv")]
    assert len(convolutions) == len(set(convolutions)) <= 2
