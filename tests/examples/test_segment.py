"""The segmentation example on a phantom: nested ellipsoids that differ in brightness."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import deepseek as ds


def phantom(shape: tuple[int, ...]) -> list[np.ndarray]:
    """A picture and how much of each voxel is grey and white matter."""
    rng = np.random.default_rng(0)
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius = np.sqrt(sum(g**2 for g in grid))
    white = (radius < 0.5).astype(np.float32)
    grey = ((radius >= 0.5) & (radius < 0.9)).astype(np.float32)
    noise = rng.normal(0, 0.05, shape)
    return [(0.2 + 0.3 * grey + 0.7 * white + noise).astype(np.float32), grey, white]


@pytest.mark.slow
def test_it_learns(example: Callable[[str], ModuleType], tmp_path: Path) -> None:
    segment = example("segment")
    brain = segment.labelled(*phantom((40, 36, 33)))
    assert set(np.unique(brain.classes)) == {0, 1, 2}
    ds.manual_seed(0)
    model = segment.UNet(width=4)
    losses = segment.train(model, [brain], steps=30, batch=1)
    assert min(losses[-5:]) < 0.8 * losses[0]
    found = segment.predict(model, brain.picture)
    assert found.shape == brain.classes.shape
    scores = segment.dice(found, brain.classes)
    assert max(scores) > 0.5
    report = tmp_path / "segment.png"
    segment.write_report(report, brain, found, scores)
    assert report.read_bytes().startswith(b"\x89PNG")


def test_dice(example: Callable[[str], ModuleType]) -> None:
    dice = example("segment").dice
    truth = np.array([0, 0, 1, 1, 2, 2])
    assert dice(truth, truth) == [1.0, 1.0, 1.0]
    assert dice(np.array([0, 1, 1, 1, 1, 2]), truth) == pytest.approx([2 / 3, 2 / 3, 2 / 3])


def test_without_nilearn(
    example: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = example("segment")
    monkeypatch.setitem(__import__("sys").modules, "nilearn", None)
    with pytest.raises(SystemExit, match="pip install nilearn"):
        segment.load_brain(2)
