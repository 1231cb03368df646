"""A dataset in a file that a spawned process can import."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

import deepseek as ds
from deepseek.data import Dataset


class Noisy(Dataset[dict[str, Any]]):
    """Items with random numbers from every stream there is."""

    def __len__(self) -> int:
        return 22

    def __getitem__(self, i: int) -> dict[str, Any]:
        noise = random.random(), np.random.rand(), np.asarray(ds.rand(2))
        return {"i": i, "noise": noise, "wide": np.full((40, 50), i, np.float32)}
