"""Forward hooks: order, replacement, removal, and that a compiled function notices them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.errors import ArgumentError


def test_hooks_run_in_order_and_may_replace() -> None:
    layer, seen = nn.ReLU(), []
    layer.register_forward_hook(lambda m, args, out: seen.append("after"))
    layer.register_forward_pre_hook(lambda m, args: seen.append("before"))
    layer.register_forward_pre_hook(lambda m, args: (args[0] - 1,))
    layer.register_forward_hook(lambda m, args, out: out * 10)
    out = layer(ds.asarray([3.0, 0.5]))
    assert out.numpy().tolist() == [20.0, 0.0] and seen == ["before", "after"]


def test_prepend_and_remove() -> None:
    layer, seen = nn.Identity(), []
    late = layer.register_forward_hook(lambda *_: seen.append("late"))
    layer.register_forward_hook(lambda *_: seen.append("early"), prepend=True)
    layer(1)
    assert seen == ["early", "late"]
    late.remove()
    late.remove()
    layer(1)
    assert seen == ["early", "late", "early"]
    with layer.register_forward_hook(lambda *_: seen.append("short")):
        layer(1)
    layer(1)
    assert seen[3:] == ["early", "short", "early"]


def test_keyword_arguments_go_through() -> None:
    class Scaled(nn.Module):
        def forward(self, x: Any, *, by: float) -> Any:
            return x * by

    layer = Scaled()

    def doubled(module: Any, args: Any, kwargs: Any) -> Any:
        return args, {"by": kwargs["by"] * 2}

    layer.register_forward_pre_hook(doubled, with_kwargs=True)
    seen = []
    layer.register_forward_hook(lambda m, a, k, out: seen.append(k["by"]), with_kwargs=True)
    assert layer(3, by=5) == 30 and seen == [10]
    layer.register_forward_pre_hook(lambda m, a, k: a, with_kwargs=True)
    with pytest.raises(ArgumentError, match="pair"):
        layer(3, by=5)


def test_after_an_error_only_where_asked() -> None:
    class Failing(nn.Module):
        def forward(self, x: Any) -> Any:
            raise ValueError("no")

    layer, seen = Failing(), []
    layer.register_forward_hook(lambda *_: seen.append("plain"))
    layer.register_forward_hook(lambda m, a, out: seen.append(out), always_call=True)
    with pytest.raises(ValueError, match="no"):
        layer(1)
    assert seen == [None]


@pytest.mark.parametrize("own", [False, True])
def test_a_compiled_function_notices(own: bool) -> None:
    class Plain(nn.Module):
        def forward(self, x: Any) -> Any:
            return x + 1

    layer = Plain() if own else nn.ReLU()
    model = nn.Sequential(layer)

    @ds.jit
    def f(x: ds.Tensor) -> ds.Tensor:
        return model(x)

    x = ds.asarray([1.0, 2.0])
    before = f(x).numpy()
    scale = 3.0
    handle = layer.register_forward_hook(lambda m, args, out: out * scale)
    np.testing.assert_array_equal(f(x).numpy(), before * 3)
    scale = 5.0  # what a hook reads is guarded too
    np.testing.assert_array_equal(f(x).numpy(), before * 5)
    handle.remove()
    np.testing.assert_array_equal(f(x).numpy(), before)
