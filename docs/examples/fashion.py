"""Fashion-MNIST: 28 x 28 pictures of clothes in ten classes, by a perceptron or a small CNN.

    python docs/examples/fashion.py                    both models, 4 epochs each
    python docs/examples/fashion.py --model cnn --data FOLDER

Reads the four IDX files that the data set's authors publish (Xiao, Rasul, Vollgraf 2017), by
default from where Debian's package `dataset-fashion-mnist` puts them. The whole training step is
one compiled function; accuracy is counted over the 10,000 test pictures after each epoch.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import deepseek as ds
from deepseek import nn
from deepseek.nn import functional as F

FOLDER = Path("/usr/share/datasets/fashion-mnist")
FILES = {
    "train_x": "train-images-idx3-ubyte",
    "train_y": "train-labels-idx1-ubyte",
    "test_x": "t10k-images-idx3-ubyte",
    "test_y": "t10k-labels-idx1-ubyte",
}
BATCH = 128
TEST_BATCH = 500  # divides the 10,000 test pictures
GOALS = {"mlp": 0.86, "cnn": 0.91}


@dataclass
class Data:
    """Pictures (n, 1, 28, 28) with mean 0 and variance 1, and their classes."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


def load_data(folder: Path) -> Data:
    """The four files; exits with what to do where one is missing."""
    arrays = {}
    for name, file in FILES.items():
        found = [p for p in (folder / f"{file}.gz", folder / file) if p.exists()]
        if not found:
            sys.exit(
                f"{folder} has no {file}.gz\n"
                "  On Debian: apt install dataset-fashion-mnist. Elsewhere: get the four files\n"
                "  from https://github.com/zalandoresearch/fashion-mnist and pass --data FOLDER."
            )
        arrays[name] = ds.data.read_idx(found[0])
    mean, std = arrays["train_x"].mean(), arrays["train_x"].std()
    for name in ("train_x", "test_x"):
        pictures = (arrays[name].astype(np.float32) - mean) / std
        arrays[name] = pictures[:, None]
    for name in ("train_y", "test_y"):
        arrays[name] = arrays[name].astype(np.int64)
    return Data(**arrays)


def mlp() -> nn.Module:
    """784 - 256 - 128 - 10."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 256), nn.ReLU(),
        nn.Linear(256, 128), nn.ReLU(),
        nn.Linear(128, 10),
    )  # fmt: skip


def block(inputs: int, outputs: int) -> list[nn.Module]:
    """Conv-BN-ReLU; the norm makes a bias superfluous."""
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]


def cnn() -> nn.Module:
    """Two blocks of Conv-BN-ReLU, each halved by pooling, and a hidden layer."""
    return nn.Sequential(
        *block(1, 32), nn.MaxPool2d(2),
        *block(32, 64), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Dropout(0.25), nn.Linear(128, 10),
    )  # fmt: skip


MODELS = {"mlp": mlp, "cnn": cnn}


def batches(
    x: np.ndarray, y: np.ndarray, order: np.ndarray, size: int
) -> Iterator[tuple[ds.Tensor, ds.Tensor]]:
    """Whole batches in the given order."""
    for i in range(0, len(order) - size + 1, size):
        rows = order[i : i + size]
        yield ds.asarray(x[rows]), ds.asarray(y[rows])


def train(name: str, data: Data, epochs: int, seed: int = 0) -> list[float]:
    """Train one model; the test accuracy after each epoch."""
    ds.manual_seed(seed)
    shuffle = np.random.default_rng(seed)
    model = MODELS[name]()
    steps = epochs * (len(data.train_x) // BATCH)
    optimizer = ds.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = ds.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=max(steps, 2))

    @ds.jit
    def step(x: ds.Tensor, y: ds.Tensor) -> ds.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    @ds.jit
    def right(x: ds.Tensor, y: ds.Tensor) -> ds.Tensor:
        return (model(x).argmax(axis=1) == y).sum()

    accuracies = []
    started = time.perf_counter()
    for epoch in range(epochs):
        model.train()
        order = shuffle.permutation(len(data.train_x))
        count = len(order) // BATCH
        bar = ds.progress(
            batches(data.train_x, data.train_y, order, BATCH), f"{name} {epoch + 1}", count
        )
        for x, y in bar:
            bar.set_postfix(loss=step(x, y))
            schedule.step()
        model.eval()
        with ds.no_grad():
            held = np.arange(len(data.test_x))
            tests = batches(data.test_x, data.test_y, held, min(TEST_BATCH, len(held)))
            accuracies.append(sum(int(right(x, y)) for x, y in tests) / len(held))
        seconds = time.perf_counter() - started
        print(f"{name}  epoch {epoch + 1}  test accuracy {accuracies[-1]:.4f}  {seconds:5.1f} s")
    return accuracies


def main() -> None:
    parser = argparse.ArgumentParser(description="Train on Fashion-MNIST.")
    parser.add_argument("--data", type=Path, default=FOLDER, help="folder of the four IDX files")
    parser.add_argument("--model", choices=[*MODELS, "both"], default="both")
    parser.add_argument("--epochs", type=int, default=4)
    args = parser.parse_args()
    data = load_data(args.data)
    for name in MODELS if args.model == "both" else [args.model]:
        best = train(name, data, args.epochs)[-1]
        print(f"{name}: {best:.4f} (goal {GOALS[name]} in 4 epochs)")


if __name__ == "__main__":
    main()
