"""Transformer layers against the same arithmetic in NumPy float64; masks, stacks, keys."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.errors import ArgumentError

HEADS, WIDTH = 2, 8


def norm(x: Any, w: dict[str, Any], name: str) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    scale = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return centred / scale * w[f"{name}.weight"] + w[f"{name}.bias"]


def attention(q: Any, kv: Any, w: dict[str, Any], name: str, mask: Any) -> Any:
    """One head after the other; q (batch, target, width), kv (batch, source, width)."""
    weights = np.split(w[f"{name}.in_proj_weight"], 3)
    biases = np.split(w[f"{name}.in_proj_bias"], 3)
    q, k, v = (x @ m.T + b for x, m, b in zip((q, kv, kv), weights, biases, strict=True))
    size = WIDTH // HEADS
    heads = []
    for i in range(HEADS):
        part = slice(i * size, (i + 1) * size)
        scores = q[..., part] @ np.swapaxes(k[..., part], 1, 2) / np.sqrt(size) + mask
        e = np.exp(scores - scores.max(-1, keepdims=True))
        heads.append(e / e.sum(-1, keepdims=True) @ v[..., part])
    out = np.concatenate(heads, axis=-1)
    return out @ w[f"{name}.out_proj.weight"].T + w[f"{name}.out_proj.bias"]


def feed_forward(x: Any, w: dict[str, Any]) -> Any:
    hidden = np.maximum(x @ w["linear1.weight"].T + w["linear1.bias"], 0)
    return hidden @ w["linear2.weight"].T + w["linear2.bias"]


def by_hand(x: Any, memory: Any, w: dict[str, Any], first: bool, mask: Any) -> Any:
    blocks = [lambda y: attention(y, y, w, "self_attn", mask)]
    if memory is not None:
        blocks.append(lambda y: attention(y, memory, w, "multihead_attn", 0))
    blocks.append(lambda y: feed_forward(y, w))
    for i, block in enumerate(blocks, 1):
        x = x + block(norm(x, w, f"norm{i}")) if first else norm(x + block(x), w, f"norm{i}")
    return x


def weights_of(layer: nn.Module) -> dict[str, Any]:
    return {k: v.numpy().astype(np.float64) for k, v in layer.state_dict().items()}


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("decodes", [False, True])
def test_a_layer(norm_first: bool, causal: bool, decodes: bool) -> None:
    ds.manual_seed(0)
    kind = nn.TransformerDecoderLayer if decodes else nn.TransformerEncoderLayer
    layer = kind(WIDTH, HEADS, 12, norm_first=norm_first, batch_first=True).eval()
    x, memory = ds.randn(3, 5, WIDTH), ds.randn(3, 4, WIDTH)
    mask = np.triu(np.full((5, 5), -np.inf), 1) if causal else 0

    def call(x: ds.Tensor, memory: ds.Tensor) -> ds.Tensor:
        if decodes:
            return layer(x, memory, tgt_is_causal=causal)
        return layer(x, is_causal=causal)

    wanted = by_hand(
        x.numpy().astype(np.float64),
        memory.numpy().astype(np.float64) if decodes else None,
        weights_of(layer), norm_first, mask,
    )  # fmt: skip
    for run in (call, ds.jit(call)):
        np.testing.assert_allclose(run(x, memory).numpy(), wanted, atol=2e-5)


def test_masks_agree_with_is_causal() -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 12).eval()
    x = ds.randn(5, 3, WIDTH)
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    np.testing.assert_allclose(layer(x, mask).numpy(), layer(x, is_causal=True).numpy(), atol=1e-6)
    padding = ds.asarray([[False] * 5, [False, False, True, True, True], [False] * 5])
    short = layer(x[:2]).numpy()[:, 1]
    np.testing.assert_allclose(
        layer(x, src_key_padding_mask=padding).numpy()[:2, 1], short, atol=1e-5
    )


def test_stacks_have_layers_of_their_own() -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 12, dropout=0.0)
    stack = nn.TransformerEncoder(layer, 2, nn.LayerNorm(WIDTH))
    keys = list(stack.state_dict())
    assert keys[0] == "layers.0.self_attn.in_proj_weight" and keys[-1] == "norm.bias"
    assert len(list(stack.parameters())) == 2 * 12 + 2
    x = ds.randn(5, 3, WIDTH)
    wanted = stack.norm(stack.layers[1](stack.layers[0](x)))
    np.testing.assert_array_equal(stack(x).numpy(), wanted.numpy())


@pytest.mark.slow
def test_a_transformer_trains_in_one_program() -> None:
    ds.manual_seed(0)
    model = nn.Transformer(WIDTH, HEADS, 1, 1, 12, dropout=0.1, batch_first=True)
    optimizer = ds.optim.AdamW(model.parameters(), lr=1e-2)
    src, tgt, wanted = ds.randn(4, 6, WIDTH), ds.randn(4, 5, WIDTH), ds.randn(4, 5, WIDTH)

    @ds.jit
    def step(src: ds.Tensor, tgt: ds.Tensor, wanted: ds.Tensor) -> ds.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(src, tgt, tgt_is_causal=True), wanted)
        loss.backward()
        optimizer.step()
        return loss

    before = ds.counters.programs
    losses = [step(src, tgt, wanted).item() for _ in range(30)]
    assert losses[-1] < 0.8 * losses[0]
    assert ds.counters.programs - before <= 2


def test_an_unknown_activation() -> None:
    with pytest.raises(ArgumentError, match="valid: relu, gelu"):
        nn.TransformerEncoderLayer(WIDTH, HEADS, activation="tanh")
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 12, activation=ds.tanh)
    assert layer(ds.ones(5, 3, WIDTH)).shape == (5, 3, WIDTH)
