"""A byte-level language model: a transformer that learns to write Python from the standard library.

    python docs/examples/language.py                      train 600 steps, then write
    python docs/examples/language.py --steps 3000 --prompt "class Queue:"

The text is the source code of the Python that runs this, read from its own folder; a twentieth of
the files is held back. The training step (forward, backward, clipping, update) is one compiled
function. Writing is another: one byte a call, keys and values of earlier bytes kept in a cache that
each call extends in place, so that a byte costs the same wherever it stands.
"""

from __future__ import annotations

import argparse
import math
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import deepseek as ds
from deepseek import nn
from deepseek.nn import functional as F

BYTES = 256


@dataclass(frozen=True)
class Shape:
    """The sizes of a model."""

    width: int = 128
    heads: int = 4
    layers: int = 4
    context: int = 128


class Attention(nn.Module):
    """Causal self attention over a whole text, or of its next byte over a cache."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.size = shape.width // shape.heads
        self.project = nn.Linear(shape.width, 3 * shape.width)
        self.out = nn.Linear(shape.width, shape.width)

    def split(self, x: ds.Tensor) -> tuple[ds.Tensor, ...]:
        """Queries, keys and values (batch, head, length, size) of x (batch, length, width)."""
        batch, length, _ = x.shape
        parts = self.project(x).reshape((batch, length, 3, self.heads, self.size))
        return tuple(parts[:, :, i].permute_dims((0, 2, 1, 3)) for i in range(3))

    def joined(self, x: ds.Tensor) -> ds.Tensor:
        batch, _, length, _ = x.shape
        return self.out(x.permute_dims((0, 2, 1, 3)).reshape((batch, length, -1)))

    def forward(self, x: ds.Tensor) -> ds.Tensor:
        q, k, v = self.split(x)
        return self.joined(F.scaled_dot_product_attention(q, k, v, is_causal=True))

    def extend(self, x: ds.Tensor, keys: ds.Tensor, values: ds.Tensor, at: ds.Tensor) -> ds.Tensor:
        """The same for one byte at the place `at`, whose key and value go into the cache."""
        q, k, v = self.split(x)
        keys[:, :, at] = k[:, :, 0]
        values[:, :, at] = v[:, :, 0]
        seen = ds.arange(keys.shape[2]) <= at
        return self.joined(F.scaled_dot_product_attention(q, keys, values, seen.reshape((1, -1))))


class Block(nn.Module):
    """Attention, then two linear layers, each added to its input and with a norm in front."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.width)
        self.attention = Attention(shape)
        self.norm2 = nn.LayerNorm(shape.width)
        self.up = nn.Linear(shape.width, 4 * shape.width)
        self.down = nn.Linear(4 * shape.width, shape.width)

    def think(self, x: ds.Tensor) -> ds.Tensor:
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))

    def forward(self, x: ds.Tensor) -> ds.Tensor:
        return self.think(x + self.attention(self.norm1(x)))

    def extend(self, x: ds.Tensor, keys: ds.Tensor, values: ds.Tensor, at: ds.Tensor) -> ds.Tensor:
        return self.think(x + self.attention.extend(self.norm1(x), keys, values, at))


class Language(nn.Module):
    """Bytes (batch, length) to the logits of each next byte (batch, length, 256)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.bytes = nn.Embedding(BYTES, shape.width)
        self.places = nn.Embedding(shape.context, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        for table in (self.bytes, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def logits(self, x: ds.Tensor) -> ds.Tensor:
        return F.linear(self.norm(x), self.bytes.weight)

    def forward(self, text: ds.Tensor) -> ds.Tensor:
        x = self.bytes(text) + self.places.weight[: text.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.logits(x)

    def extend(
        self, byte: ds.Tensor, cache: list[tuple[ds.Tensor, ds.Tensor]], at: ds.Tensor
    ) -> ds.Tensor:
        """The logits (1, 256) after one more byte (1,), which stands at the place `at`."""
        x = (self.bytes(byte) + self.places.weight[at]).reshape((1, 1, -1))
        for block, (keys, values) in zip(self.blocks, cache, strict=True):
            x = block.extend(x, keys, values, at)
        return self.logits(x)[:, 0]

    def empty_cache(self) -> list[tuple[ds.Tensor, ds.Tensor]]:
        """Room for the keys and values of a whole context, for each block."""
        size = (1, self.shape.heads, self.shape.context, self.shape.width // self.shape.heads)
        return [(ds.zeros(size), ds.zeros(size)) for _ in self.blocks]


def read_library(limit: int) -> tuple[np.ndarray, np.ndarray]:
    """The standard library's source, about `limit` bytes of it: for training, and held back."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(folder.glob("*.py")) + sorted(folder.glob("[a-z]*/*.py"))
    texts, total = [], 0
    for path in files:
        text = path.read_bytes()
        texts.append(text)
        total += len(text)
        if total >= limit:
            break
    held = texts[::20]
    rest = [text for i, text in enumerate(texts) if i % 20]
    return np.frombuffer(b"".join(rest), np.uint8), np.frombuffer(b"".join(held), np.uint8)


def windows(text: np.ndarray, count: int, length: int, draw: np.random.Generator) -> ds.Tensor:
    """Random pieces (count, length + 1) of the text, as int64."""
    starts = draw.integers(0, len(text) - length, count)
    return ds.asarray(text[starts[:, None] + np.arange(length + 1)].astype(np.int64))


def train(model: Language, text: np.ndarray, held: np.ndarray, steps: int, batch: int) -> float:
    """Train; the loss on held-back text at the end, in bits per byte."""
    draw = np.random.default_rng(0)
    optimizer = ds.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1, betas=(0.9, 0.98))
    warm, length = max(1, steps // 20), model.shape.context

    def rate(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    schedule = ds.optim.lr_scheduler.LambdaLR(optimizer, rate)

    def loss_of(pieces: ds.Tensor) -> ds.Tensor:
        logits = model(pieces[:, :-1])
        return F.cross_entropy(logits.reshape((-1, BYTES)), pieces[:, 1:].reshape((-1,)))

    @ds.jit
    def step(pieces: ds.Tensor) -> ds.Tensor:
        optimizer.zero_grad()
        loss = loss_of(pieces)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    bar = ds.progress(range(steps), "train")
    for _ in bar:
        loss = step(windows(text, batch, length, draw))
        schedule.step()
        bar.set_postfix(bits=loss / math.log(2))
    judged = ds.jit(loss_of)
    with ds.no_grad():
        losses = [judged(windows(held, batch, length, draw)).item() for _ in range(8)]
    return sum(losses) / len(losses) / math.log(2)


def write(
    model: Language, prompt: bytes, count: int, temperature: float, seed: int = 0
) -> tuple[bytes, float]:
    """`prompt` and up to `count` bytes more, while the context has room, and the bytes a second
    after the first, which compiles.
    """
    ds.manual_seed(seed)
    cache = model.empty_cache()

    @ds.jit
    def extend(byte: ds.Tensor, at: ds.Tensor) -> ds.Tensor:
        logits = model.extend(byte, cache, at)
        # Gumbel's trick: the largest of log-probabilities plus noise is a draw.
        noise = -ds.log(-ds.log(ds.rand(1, BYTES) * (1 - 2e-7) + 1e-7))
        return (logits / temperature + noise).argmax(axis=1)

    text, started = bytearray(prompt), 0.0
    last = min(len(prompt) + count, model.shape.context) - 1
    with ds.no_grad():
        for at in range(last):
            drawn = int(extend(ds.asarray([text[at]]), ds.asarray(at))[0])
            if at + 1 == len(text):
                text.append(drawn)
            started = started or time.perf_counter()
    return bytes(text), (last - 1) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description="Learn to write Python, byte by byte.")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--bytes", type=int, default=6_000_000, help="how much source to read")
    parser.add_argument("--prompt", default="def ", help="what the sample starts with")
    parser.add_argument("--temperature", type=float, default=0.7)
    args = parser.parse_args()
    ds.manual_seed(0)
    text, held = read_library(args.bytes)
    model = Language(Shape())
    count = sum(p.size for p in model.parameters())
    print(f"{len(text):,} bytes to learn from, {len(held):,} held back; {count:,} parameters")
    started = time.perf_counter()
    bits = train(model, text, held, args.steps, args.batch)
    seconds = time.perf_counter() - started
    learnt = args.steps * args.batch * model.shape.context
    print(f"{bits:.3f} bits per held-back byte")
    print(f"{seconds:.1f} s, {learnt / seconds:,.0f} bytes a second learnt from")
    model.eval()
    sample, speed = write(model, args.prompt.encode(), model.shape.context, args.temperature)
    print(f"{speed:,.0f} bytes a second written:\n{sample.decode(errors='replace')}")


if __name__ == "__main__":
    main()
