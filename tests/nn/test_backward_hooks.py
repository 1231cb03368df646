"""Backward hooks: what they are given, what they may replace, eagerly, compiled and recomputed."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.errors import ArgumentError, TraceError

rng = np.random.default_rng(2)
X = rng.standard_normal((5, 3)).astype(np.float32)


def network() -> nn.Sequential:
    ds.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def slopes(model: nn.Module, call: Any = None) -> list[np.ndarray]:
    """The gradients of the input and of the parameters."""
    model.zero_grad()
    x = ds.asarray(X, requires_grad=True)
    ((call or model)(x) ** 2).sum().backward()
    return [x.grad.numpy(), *(p.grad.numpy().copy() for p in model.parameters())]


def test_gradients_of_inputs_and_outputs_are_given() -> None:
    model, seen = network(), {}

    def keep(module: nn.Module, inputs: Any, outputs: Any) -> None:
        seen[module] = [t[0].numpy() for t in (inputs, outputs)]

    for part in (model, *model):
        part.register_full_backward_hook(keep)
    first = slopes(model)
    w, v = (model[i].weight.numpy().astype(np.float64) for i in (0, 2))
    hidden = np.tanh(X @ w.T + model[0].bias.numpy())
    out = 2 * (hidden @ v.T + model[2].bias.numpy())
    at_tanh = out @ v
    at_first = at_tanh * (1 - hidden**2)
    expected = {
        model: (at_first @ w, out), model[2]: (at_tanh, out), model[1]: (at_first, at_tanh),
        model[0]: (at_first @ w, at_first),
    }  # fmt: skip
    assert set(seen) == set(expected)
    for module, pair in expected.items():
        for got, wanted in zip(seen[module], pair, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-5)
    assert np.array_equal(first[0], seen[model][0])


def test_what_hooks_return_goes_on() -> None:
    plain = slopes(network())
    model = network()
    model[2].register_full_backward_pre_hook(lambda m, g: (g[0] * 3,))
    model[2].register_full_backward_hook(lambda m, gin, gout: gin[0] * 2)
    for call in (model, ds.jit(model), ds.checkpoint(model)):
        x0, w0, b0, w2, b2 = slopes(model, call)
        for got, before, times in zip((x0, w0, b0, w2, b2), plain, (6, 6, 6, 3, 3), strict=True):
            np.testing.assert_allclose(got, before * times, rtol=2e-5, atol=1e-6)


def test_order_prepending_and_removal() -> None:
    layer, seen = nn.Linear(3, 3), []
    late = layer.register_full_backward_hook(lambda *_: seen.append("late"))
    layer.register_full_backward_hook(lambda *_: seen.append("early"), prepend=True)
    layer.register_full_backward_pre_hook(lambda *_: seen.append("first"))
    slopes(layer)
    assert seen == ["first", "early", "late"]
    late.remove()
    slopes(layer)
    assert seen[3:] == ["first", "early"]


def test_inputs_without_gradients_are_none() -> None:
    class Both(nn.Module):
        def forward(self, n: int, x: ds.Tensor, y: ds.Tensor) -> Any:
            return x * n, y + 1, "text"

    layer, seen = Both(), []
    layer.register_full_backward_hook(lambda m, gin, gout: seen.append((gin, gout)))
    x = ds.ones(2, requires_grad=True)
    a, b, text = layer(3, x, ds.ones(2))
    assert text == "text" and not b.requires_grad
    a.sum().backward()
    ((gin, gout),) = seen
    assert gin[0] is None and gin[2] is None and gin[1].tolist() == [3.0, 3.0]
    assert gout[0].tolist() == [1.0, 1.0] and gout[1:] == (None, None)
    linear = nn.Linear(3, 2)
    linear.register_full_backward_hook(lambda m, gin, gout: seen.append(gin))
    linear(ds.asarray(X)).sum().backward()
    assert seen[1] == (None,)


def test_a_module_that_is_called_twice() -> None:
    layer, seen = nn.Linear(3, 3, bias=False), []
    layer.register_full_backward_hook(lambda m, gin, gout: seen.append((gin[0], gout[0])))
    x = ds.asarray(X, requires_grad=True)
    (layer(layer(x)) + layer(x) * 2).sum().backward()
    w = layer.weight.numpy().astype(np.float64)
    ones = np.ones((5, 3))
    pairs = [(2 * ones @ w, 2 * ones), (ones @ w, ones), (ones @ w @ w, ones @ w)]
    assert len(seen) == 3
    for got, wanted in zip(seen, pairs, strict=True):
        for g, e in zip(got, wanted, strict=True):
            np.testing.assert_allclose(g.numpy(), e, rtol=2e-5, atol=1e-6)


def test_a_compiled_function_notices_hooks() -> None:
    model = network()
    step = ds.jit(model)
    plain = slopes(model, step)
    with model[0].register_full_backward_hook(lambda m, gin, gout: (gin[0] * 5,)):
        hooked = slopes(model, step)
    np.testing.assert_allclose(hooked[0], 5 * plain[0], rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(hooked[1], plain[1], rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(slopes(model, step)[0], plain[0], rtol=2e-5, atol=1e-6)


def test_a_hook_that_keeps_something_is_refused_in_a_trace() -> None:
    model, seen = network(), []
    model.register_full_backward_hook(lambda m, gin, gout: seen.append(gout))

    @ds.jit
    def step(x: ds.Tensor) -> ds.Tensor:
        loss = model(x).sum()
        loss.backward()
        return loss

    with pytest.raises(TraceError, match="seen changed while the function was traced"):
        step(ds.asarray(X))


def test_what_is_wrong_is_named() -> None:
    layer = nn.Linear(3, 2)
    hook = layer.register_full_backward_hook(lambda m, gin, gout: ds.ones(4))
    with pytest.raises(ArgumentError, match=r"wanted None or the gradients \(float32\[5, 3\]"):
        slopes(layer)
    hook.remove()
    layer.register_full_backward_pre_hook(lambda m, gout: "nothing")
    with pytest.raises(ArgumentError, match="a backward hook of Linear returned 'nothing'"):
        slopes(layer)

    class Named(nn.Module):
        def forward(self, x: ds.Tensor) -> Any:
            return {"y": x}

    named = Named()
    named.register_full_backward_hook(lambda *_: None)
    with pytest.raises(ArgumentError, match="returned a dict; wanted a Tensor or a tuple"):
        named(ds.ones(2))


def test_a_hooked_module_is_let_go() -> None:
    layer = nn.Linear(3, 2)
    layer.register_full_backward_hook(lambda *_: None)
    slopes(layer)
    gone = weakref.ref(layer)
    del layer
    gc.collect()
    assert gone() is None
