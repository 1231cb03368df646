"""Train a small convolutional network on scikit-learn's 1,797 handwritten digits, step compiled.

Run by `make demo`. The whole training step (forward, backward, clipping, update) is one function
under `@ds.jit`, hence one program. Afterwards: how fast and how large the step is, the weights
saved and loaded, batch norms folded, the network exported to ONNX and run by onnxruntime, and a
report page. The same seed gives the same bits on every run.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
from digits_report import write_report
from sklearn.datasets import load_digits
from tqdm import tqdm

import deepseek as ds
from deepseek import nn
from deepseek.config import override

BATCH = 64
LEARNING_RATE = 3e-3
Step = Callable[[ds.Tensor, ds.Tensor], tuple[ds.Tensor, ds.Tensor]]


@dataclass
class Data:
    """Images (n, 1, 8, 8) in [0, 1] and their digits; a fifth is held back for the test."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


@dataclass
class History:
    """What happened while training: loss and accuracy of each step, test accuracy of each epoch."""

    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    test_accuracies: list[float] = field(default_factory=list)


def load_data(seed: int) -> Data:
    digits = load_digits()
    x = (digits.images / 16).astype(np.float32)[:, None]
    y = digits.target.astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(x))
    test, train = order[: len(x) // 5], order[len(x) // 5 :]
    return Data(x[train], y[train], x[test], y[test])


def build_model() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def make_step(model: nn.Module, optimizer: ds.optim.Optimizer) -> Step:
    """The training step as a plain function; `ds.jit` makes one program of it."""

    def step(x: ds.Tensor, y: ds.Tensor) -> tuple[ds.Tensor, ds.Tensor]:
        optimizer.zero_grad()
        scores = model(x)
        loss = nn.functional.cross_entropy(scores, y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        right = (scores.argmax(axis=1) == y).sum()
        return loss, right

    return step


def new_step(model: nn.Module) -> tuple[Step, ds.optim.Optimizer]:
    optimizer = ds.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    return make_step(model, optimizer), optimizer


def batches(data: Data, rng: np.random.Generator) -> Iterator[tuple[ds.Tensor, ds.Tensor]]:
    """The training images in random order, in whole batches."""
    order = rng.permutation(len(data.train_x))
    for start in range(0, len(order) - BATCH + 1, BATCH):
        rows = order[start : start + BATCH]
        yield ds.asarray(data.train_x[rows]), ds.asarray(data.train_y[rows])


def first_batch(data: Data) -> tuple[ds.Tensor, ds.Tensor]:
    return ds.asarray(data.train_x[:BATCH]), ds.asarray(data.train_y[:BATCH])


def train(model: nn.Module, data: Data, epochs: int, seed: int) -> tuple[Step, History]:
    """Train with the compiled step, the learning rate falling along half a cosine."""
    plain, optimizer = new_step(model)
    step = ds.jit(plain)
    rng = np.random.default_rng(seed)
    history = History()
    per_epoch = len(data.train_x) // BATCH
    bar = tqdm(total=epochs * per_epoch, unit="step", desc="compiling the training step")
    with bar:
        for epoch in range(epochs):
            model.train()
            for x, y in batches(data, rng):
                done = bar.n / bar.total
                optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 + math.cos(math.pi * done)) / 2
                loss, right = step(x, y)
                history.losses.append(loss.item())
                history.accuracies.append(right.item() / BATCH)
                bar.update()
                bar.set_description(f"epoch {epoch + 1}/{epochs}", refresh=False)
                recent = history.accuracies[-per_epoch:]
                bar.set_postfix(
                    loss=f"{history.losses[-1]:.4f}",
                    accuracy=f"{sum(recent) / len(recent):.1%}",
                    refresh=False,
                )
            history.test_accuracies.append(float(np.mean(predict(model, data) == data.test_y)))
    return step, history


def scores_of(model: nn.Module, x: np.ndarray) -> np.ndarray:
    """What the model, in evaluation mode, gives for images."""
    model.eval()
    with ds.no_grad():
        return model(ds.asarray(x)).numpy()


def predict(model: nn.Module, data: Data) -> np.ndarray:
    return scores_of(model, data.test_x).argmax(axis=1)


# ------------------------------------------------------------------------------- fast and small


def seconds_per_step(step: Step, data: Data, warm_up: int, repeat: int) -> float:
    """The median time of a step, the loss looked at."""
    x, y = first_batch(data)
    times = []
    for _ in range(warm_up + repeat):
        start = time.perf_counter()
        loss, _ = step(x, y)
        loss.item()
        times.append(time.perf_counter() - start)
    return median(times[warm_up:])


def time_steps(model: nn.Module, data: Data) -> dict[str, float]:
    """Seconds per step of copies of the model: in reference mode, eager, compiled."""
    times = {}
    with override(backend="reference"):
        step, _ = new_step(copy.deepcopy(model).train())
        times["reference"] = seconds_per_step(step, data, warm_up=1, repeat=3)
    step, _ = new_step(copy.deepcopy(model).train())
    times["eager"] = seconds_per_step(step, data, warm_up=4, repeat=10)
    step, _ = new_step(copy.deepcopy(model).train())
    times["compiled"] = seconds_per_step(ds.jit(step), data, warm_up=3, repeat=50)
    return times


def peak_memory(explained: ds.debug.Explanation) -> dict[str, int]:
    """Bytes of intermediate values: as planned, and what other ways of keeping them would take."""
    plan = explained.memory
    return {
        "planned": plan.arena_bytes,
        "freed by count": plan.freed_by_count,
        "keep everything": plan.keep_everything,
        "lower bound": plan.lower_bound,
    }


# ------------------------------------------------------------------------------ save and export


def check_reload(model: nn.Module, path: Path) -> str:
    """Save the weights, load them into a new model, compare; returns the file's checksum."""
    ds.save(model, path)
    other = build_model()
    other.load_state_dict(ds.load(path))
    for name, tensor in model.state_dict().items():
        assert np.array_equal(tensor.numpy(), other.state_dict()[name].numpy()), name
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


@dataclass
class Comparison:
    """Our scores for the test images and onnxruntime's."""

    same_predictions: bool
    max_error: float  # relative to the largest score


def compare_with_onnxruntime(model: nn.Module, data: Data, path: Path) -> Comparison:
    """Fold the batch norms, export, run the file in onnxruntime on the test images."""
    fused = nn.fuse_layers(model.eval())
    ds.onnx.export(fused, (ds.asarray(data.test_x),), path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {session.get_inputs()[0].name: data.test_x})
    ours = scores_of(model, data.test_x)
    return Comparison(
        bool(np.array_equal(ours.argmax(axis=1), theirs.argmax(axis=1))),
        float(np.abs(ours - theirs).max() / np.abs(ours).max()),
    )


def confusion(predicted: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """How often digit i (row) was taken for digit j (column)."""
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (wanted, predicted), 1)
    return counts


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("out/digits"), help="a folder")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    folder: Path = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    ds.manual_seed(arguments.seed)
    data = load_data(arguments.seed)
    model = build_model()
    print(f"{sum(p.size for p in model.parameters())} parameters, {len(data.train_y)} images")
    step, history = train(model, data, arguments.epochs, arguments.seed)
    predicted = predict(model, data)
    accuracy = float(np.mean(predicted == data.test_y))
    print(f"test accuracy: {accuracy:.2%} of {len(data.test_y)} images")

    times = time_steps(model, data)
    for mode, seconds in times.items():
        faster = times["reference"] / seconds
        print(f"time per step, {mode}: {seconds * 1e3:.2f} ms ({faster:.1f}x reference mode)")

    model.train()
    explained = ds.explain(step, *first_batch(data))
    counts = " + ".join(f"{n} {what}" for what, n in explained.counts.items() if n)
    print(f"kernels per step: {counts}")
    sizes = {name: f"{n / 1024:.0f} KiB" for name, n in peak_memory(explained).items()}
    print("peak memory of a step:", ", ".join(f"{name} {size}" for name, size in sizes.items()))

    weights = folder / "digits.safetensors"
    print(f"weights: {weights} (sha256 {check_reload(model, weights)}...), saved and loaded")
    compared = compare_with_onnxruntime(model, data, folder / "digits.onnx")
    same = "the same predictions" if compared.same_predictions else "DIFFERENT predictions"
    print(f"onnxruntime: {same}, error {compared.max_error:.1e} of the largest score")

    page = folder / "report.html"
    write_report(
        page,
        summary={
            "test accuracy": f"{accuracy:.2%}",
            **{f"time per step, {mode}": f"{s * 1e3:.2f} ms" for mode, s in times.items()},
            "kernels per step": counts,
            **{f"peak memory, {name}": size for name, size in sizes.items()},
            "onnxruntime": f"{same}, error {compared.max_error:.1e}",
        },
        losses=history.losses,
        accuracies=history.accuracies,
        test_accuracies=history.test_accuracies,
        confusion=confusion(predicted, data.test_y),
        graph=explained.svg_graph(),
        memory=explained.svg_memory(),
    )
    print(f"report: {page}")
    assert accuracy >= 0.98, "the network should read at least 98 % of the digits"
    assert compared.same_predictions and compared.max_error <= 1e-5, "onnxruntime should agree"


if __name__ == "__main__":
    main()
