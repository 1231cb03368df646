"""Several processes and one cache folder: a warm start compiles nothing, writers do no harm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TRAIN = """
import sys
import numpy as np
import deepseek as ds
from deepseek import nn

ds.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))
opt = ds.optim.SGD(model.parameters(), lr=0.1)

@ds.jit
def step(x, y):
    opt.zero_grad()
    loss = ds.cross_entropy(model(x), y)
    loss.backward()
    opt.step()
    return loss

rng = np.random.default_rng(0)
x = ds.asarray(rng.normal(size=(8, 1, 8, 8)).astype(np.float32))
y = ds.asarray(rng.integers(0, 10, 8))
losses = [step(x, y).item() for _ in range(3)]
eager = ds.softmax(model(x), -1).sum().item()
print(losses, eager, model[3].weight.numpy().tobytes().hex()[:64])
print(ds.counters.programs, ds.counters.kernels, "llvmlite" in sys.modules)
"""


def start(code: str, folder: Path, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "DS_CACHE": str(folder), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> list[str]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert not err, err
    return out.splitlines()


def test_a_warm_start_compiles_nothing(tmp_path: Path) -> None:
    cold, (programs, kernels, llvm) = split(finished(start(TRAIN, tmp_path / "c")))
    assert (programs != "0", kernels != "0", llvm) == (True, True, "True")
    warm, work = split(finished(start(TRAIN, tmp_path / "c")))
    assert warm == cold
    assert work == ["0", "0", "False"]


def split(lines: list[str]) -> tuple[list[str], list[str]]:
    """The results, and the words of the last line."""
    return lines[:-1], lines[-1].split()


WRITE = """
import numpy as np
import deepseek as ds
x = ds.asarray(np.arange(600, dtype=np.float32).reshape(20, 30))
for k in range(12):
    f = ds.jit(lambda x: (x * k).cumulative_sum(axis=0) + k)
    assert np.array_equal(f(x).numpy(), (x.numpy() * k).cumsum(0) + k), k
print(ds.counters.kernels)
"""


def test_processes_write_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    for process in [start(WRITE, folder) for _ in range(3)]:
        finished(process)
    assert not list(folder.glob("*/.*"))
    assert finished(start(WRITE, folder)) == ["0"]


@pytest.mark.parametrize("size", ["20K", "1K"])
def test_processes_that_evict_each_other(tmp_path: Path, size: str) -> None:
    folder = tmp_path / "c"
    for process in [start(WRITE, folder, DS_CACHE_SIZE=size) for _ in range(2)]:
        finished(process)
    total = sum(path.stat().st_size for path in folder.glob("*/*"))
    assert total <= 2 * 20 * 1024
