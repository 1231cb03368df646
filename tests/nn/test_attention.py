"""MultiheadAttention against NumPy: layouts, masks, weights, widths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.errors import ArgumentError, ShapeError

Array = np.ndarray
rng = np.random.default_rng(3)


def random(*shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def expected(
    layer: nn.MultiheadAttention, q: Array, k: Array, v: Array, mask: Array | float = 0.0
) -> tuple[Array, Array]:
    """(output, weights of each head) for (batch, length, width); mask is added to the scores."""
    state = {name: t.numpy().astype(np.float64) for name, t in layer.state_dict().items()}
    width, heads = layer.embed_dim, layer.num_heads
    if "in_proj_weight" in state:
        projections = np.split(state["in_proj_weight"], 3)
    else:
        projections = [state[f"{name}_proj_weight"] for name in "qkv"]
    biases = np.split(state.get("in_proj_bias", np.zeros(3 * width)), 3)

    def split(x: Array, i: int) -> Array:
        y = x @ projections[i].T + biases[i]
        return y.reshape(*y.shape[:2], heads, width // heads).transpose(0, 2, 1, 3)

    q, k, v = split(q, 0), split(k, 1), split(v, 2)
    scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(width // heads) + mask
    e = np.exp(scores - scores.max(-1, keepdims=True))
    weights = e / e.sum(-1, keepdims=True)
    out = (weights @ v).transpose(0, 2, 1, 3).reshape(q.shape[0], q.shape[2], width)
    return out @ state["out_proj.weight"].T + state.get("out_proj.bias", 0), weights


def close(got: Any, wanted: Array) -> None:
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-4, atol=1e-5)


def layer_with_bias(**options: Any) -> nn.MultiheadAttention:
    layer = nn.MultiheadAttention(12, 3, **options)
    if layer.in_proj_bias is not None:
        state = {"in_proj_bias": random(36), "out_proj.bias": random(12)}
        layer.load_state_dict(state, strict=False)
    return layer


def test_keys_are_pytorchs() -> None:
    assert {k: v.shape for k, v in nn.MultiheadAttention(12, 3).state_dict().items()} == {
        "in_proj_weight": (36, 12),
        "in_proj_bias": (36,),
        "out_proj.weight": (12, 12),
        "out_proj.bias": (12,),
    }
    layer = nn.MultiheadAttention(12, 3, bias=False, kdim=5, vdim=7)
    assert {k: v.shape for k, v in layer.state_dict().items()} == {
        "q_proj_weight": (12, 12),
        "k_proj_weight": (12, 5),
        "v_proj_weight": (12, 7),
        "out_proj.weight": (12, 12),
    }


@pytest.mark.parametrize("need_weights", [True, False])
def test_self_attention_length_first_and_batch_first(need_weights: bool) -> None:
    x = random(2, 5, 12)
    layer = layer_with_bias(batch_first=True)
    out, weights = expected(layer, x, x, x)
    given = ds.asarray(x)
    got, got_weights = layer(given, given, given, need_weights=need_weights)
    close(got, out)
    if need_weights:
        close(got_weights, weights.mean(1))
    else:
        assert got_weights is None
    layer.batch_first = False
    turned = ds.asarray(x.transpose(1, 0, 2))
    got, _ = layer(turned, turned, turned, need_weights=need_weights)
    close(got, out.transpose(1, 0, 2))
    alone = ds.asarray(x[0])
    got, got_weights = layer(alone, alone, alone, average_attn_weights=False)
    close(got, out[0])
    close(got_weights, weights[0])


@pytest.mark.parametrize("widths", [{}, {"kdim": 5, "vdim": 7}])
def test_cross_attention(widths: dict[str, int]) -> None:
    layer = layer_with_bias(batch_first=True, **widths)
    q, k, v = random(2, 4, 12), random(2, 6, layer.kdim), random(2, 6, layer.vdim)
    out, weights = expected(layer, q, k, v)
    got, got_weights = layer(*map(ds.asarray, (q, k, v)))
    close(got, out)
    close(got_weights, weights.mean(1))


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("added", [True, False])
def test_masks(need_weights: bool, added: bool) -> None:
    layer = layer_with_bias(batch_first=True)
    x, memory = random(2, 4, 12), random(2, 6, 12)
    forbidden = rng.random((4, 6)) < 0.3
    padding = np.zeros((2, 6), bool)
    padding[1, 4:] = True
    forbidden[:, 0] = False
    numbers = random(4, 6)
    mask = np.where(padding, -np.inf, 0.0)[:, None, None, :]
    mask = mask + (numbers if added else np.where(forbidden, -np.inf, 0.0))
    out, _ = expected(layer, x, memory, memory, mask)
    got, _ = layer(
        *map(ds.asarray, (x, memory, memory)),
        key_padding_mask=ds.asarray(padding),
        attn_mask=ds.asarray(numbers if added else forbidden),
        need_weights=need_weights,
    )
    close(got, out)


def test_a_mask_for_each_head() -> None:
    layer = layer_with_bias(batch_first=True)
    x = random(2, 4, 12)
    mask = random(6, 4, 4)
    out, _ = expected(layer, x, x, x, mask.reshape(2, 3, 4, 4))
    close(layer(*[ds.asarray(x)] * 3, attn_mask=ds.asarray(mask))[0], out)


@pytest.mark.parametrize("need_weights", [True, False])
def test_causal(need_weights: bool) -> None:
    layer = layer_with_bias(batch_first=True)
    x = random(2, 4, 12)
    out, _ = expected(layer, x, x, x, np.triu(np.full((4, 4), -np.inf), 1))
    close(layer(*[ds.asarray(x)] * 3, is_causal=True, need_weights=need_weights)[0], out)


def test_dropout_only_in_training() -> None:
    ds.manual_seed(0)
    layer = nn.MultiheadAttention(12, 3, dropout=0.5, batch_first=True)
    x = ds.asarray(random(2, 4, 12))
    out, weights = layer(x, x, x)
    again, _ = layer(x, x, x)
    assert not np.array_equal(out.numpy(), again.numpy())
    layer.eval()
    assert np.array_equal(layer(x, x, x)[0].numpy(), layer(x, x, x)[0].numpy())
    close(layer(x, x, x)[1].sum(axis=-1), np.ones((2, 4)))


def test_gradients_arrive() -> None:
    layer = nn.MultiheadAttention(12, 3)
    x = ds.asarray(random(4, 2, 12), requires_grad=True)
    layer(x, x, x, need_weights=False)[0].sum().backward()
    assert x.grad is not None
    assert all(p.grad is not None for p in layer.parameters())


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(ArgumentError, match="embed_dim=10, num_heads=3"):
        nn.MultiheadAttention(10, 3)
    layer = nn.MultiheadAttention(12, 3)
    with pytest.raises(ShapeError, match="MultiheadAttention"):
        layer(*[ds.zeros(12)] * 3)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize(("bias_kv", "zero"), [(True, False), (False, True), (True, True)])
def test_keys_and_values_behind_those_of_the_source(
    need_weights: bool, bias_kv: bool, zero: bool
) -> None:
    """Written as a source that is longer, whose last rows the projections leave as they are."""
    layer = layer_with_bias(batch_first=True, add_bias_kv=bias_kv, add_zero_attn=zero)
    assert list(layer.state_dict())[2:4] == (
        ["bias_k", "bias_v"] if bias_kv else ["out_proj.weight", "out_proj.bias"]
    )
    q, k, v = random(2, 4, 12), random(2, 5, 12), random(2, 5, 12)
    hidden = np.zeros((2, 5), bool)
    hidden[1, 3:] = True
    state = {n: t.numpy().astype(np.float64) for n, t in layer.state_dict().items()}
    matrices, biases = np.split(state["in_proj_weight"], 3), np.split(state["in_proj_bias"], 3)
    extra = [(state["bias_k"], state["bias_v"])] if bias_kv else []
    extra += [(np.zeros((1, 1, 12)),) * 2] if zero else []
    longer = []
    for i, x in enumerate((q, k, v)):
        y = x @ matrices[i].T + biases[i]
        if i:
            y = np.concatenate([y, *(np.repeat(e[i - 1], 2, 0) for e in extra)], 1)
        longer.append(y.reshape(2, -1, 3, 4).swapaxes(1, 2))
    mask = np.pad(np.where(hidden, -np.inf, 0.0), [(0, 0), (0, len(extra))])
    scores = longer[0] @ longer[1].swapaxes(2, 3) / 2 + mask[:, None, None]
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    out = (weights @ longer[2]).swapaxes(1, 2).reshape(2, 4, 12)
    out = out @ state["out_proj.weight"].T + state["out_proj.bias"]
    tensors = [ds.asarray(x) for x in (q, k, v, hidden)]
    compiled = ds.jit(lambda *xs: layer(*xs, need_weights=need_weights))
    for got in (layer(*tensors, need_weights=need_weights), compiled(*tensors)):
        close(got[0], out)
        if need_weights:
            close(got[1], weights.mean(1))
    got[0].sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
