"""An example's model against the same arithmetic in PyTorch: the sentence encoder of embed.py.

In flows the name of an example; out flows one result for each batch of sentences, with the largest
difference of any element as its note. The weights are the real ones; where their package is not
installed, or the tokenizer's is not, the batches are left out.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from ops import Result

import deepseek as ds

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "examples"
WITHIN = 1e-5
BATCHES: dict[str, list[str]] = {
    "one sentence": ["It will rain tomorrow."],
    "sentences of several lengths": [
        "A cat sleeps on the sofa.",
        "Short.",
        "The compiler fuses two loops into one, and what was in memory between them is gone.",
        "words " * 120,
    ],
}


def database() -> dict[str, Any]:
    return {"embed": BATCHES}


def ours_of(name: str) -> Any:
    """The example's module."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return __import__(name)


def run(batches: dict[str, list[str]], most: int, start: int) -> Iterator[Result]:
    """The embeddings of every batch, eager and compiled, against PyTorch's in float64."""
    example = ours_of("embed")
    try:
        folder = example.find_weights()
        tokens = {sample: example.tokenize(folder, given) for sample, given in batches.items()}
    except SystemExit as missing:  # the weights or the tokenizer
        yield {"kind": "left_out", "sample": "", "why": str(missing.code)}
        return
    model = example.load(folder)
    config = json.loads((folder / "config.json").read_text())
    weights = {
        k: torch.from_numpy(v.numpy().copy()).double() for k, v in model.state_dict().items()
    }
    compiled = ds.jit(model)
    for number, (sample, (pieces, mask)) in enumerate(tokens.items(), 1):
        if number <= start:
            continue
        yield {"kind": "begin", "number": number, "sample": sample}
        wanted = embedded(
            weights, config, *(torch.from_numpy(t.numpy().copy()) for t in (pieces, mask))
        )
        with ds.no_grad():
            found = {"eager": model(pieces, mask), "compiled": compiled(pieces, mask)}
        off = {
            how: float((torch.from_numpy(t.numpy().copy()) - wanted).abs().max())
            for how, t in found.items()
        }
        worst = max(off.values())
        note = ", ".join(f"{how} off by {by:.1e}" for how, by in off.items())
        why = None if worst <= WITHIN else f"{note}; wanted {WITHIN:g}"
        yield {"kind": "forward", "sample": sample, "why": why, "note": note}


def embedded(
    weights: Mapping[str, torch.Tensor], config: Mapping[str, Any], pieces: torch.Tensor,
    mask: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """What BERT gives for word pieces, averaged where the mask is 1 and scaled to length 1."""
    heads = config["num_attention_heads"]

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, weights[name + ".weight"], weights[name + ".bias"])

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        scale, shift = weights[name + ".weight"], weights[name + ".bias"]
        return F.layer_norm(x, scale.shape, scale, shift, config["layer_norm_eps"])

    def split(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    tables = {
        part: weights[f"embeddings.{part}_embeddings.weight"]
        for part in ("word", "position", "token_type")
    }
    x = tables["word"][pieces] + tables["position"][: pieces.shape[1]] + tables["token_type"][0]
    x = norm("embeddings.LayerNorm", x)
    hidden = torch.where(mask == 0, -math.inf, 0.0)[:, None, None, :]
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}."
        query, key, value = (
            split(linear(f"{layer}attention.self.{part}", x)) for part in ("query", "key", "value")
        )
        scores = query @ key.mT / math.sqrt(query.shape[-1]) + hidden
        seen = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        x = norm(layer + "attention.output.LayerNorm",
                 x + linear(layer + "attention.output.dense", seen))  # fmt: skip
        inner = F.gelu(linear(layer + "intermediate.dense", x))
        x = norm(layer + "output.LayerNorm", x + linear(layer + "output.dense", inner))
    kept = mask.double()[..., None]
    return F.normalize((x * kept).sum(1) / kept.sum(1), dim=1)
