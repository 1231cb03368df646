"""The Fashion-MNIST example on made-up pictures in real IDX files."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


def write_idx(path: Path, array: np.ndarray) -> None:
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


@pytest.fixture
def folder(tmp_path: Path, example: Callable[[str], ModuleType]) -> Path:
    """Classes that differ in which rows are bright."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 640), ("test", 200)):
        classes = rng.integers(0, 10, count)
        pictures = rng.integers(0, 120, (count, 28, 28))
        for picture, kind in zip(pictures, classes, strict=True):
            picture[2 * kind : 2 * kind + 3] += 130
        files = example("fashion").FILES
        write_idx(tmp_path / f"{files[part + '_x']}.gz", pictures)
        write_idx(tmp_path / f"{files[part + '_y']}.gz", classes)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(("name", "wanted"), [("mlp", 0.8), ("cnn", 0.3)])
def test_it_learns(
    example: Callable[[str], ModuleType], folder: Path, name: str, wanted: float
) -> None:
    fashion = example("fashion")
    data = fashion.load_data(folder)
    assert data.train_x.shape == (640, 1, 28, 28) and abs(data.train_x.mean()) < 1e-3
    accuracies = fashion.train(name, data, epochs=3)
    assert len(accuracies) == 3 and accuracies[-1] >= wanted


def test_missing_files(example: Callable[[str], ModuleType], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="apt install dataset-fashion-mnist"):
        example("fashion").load_data(tmp_path)
