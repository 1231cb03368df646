"""A worker's part in a row of many sizes: how long new sizes take, and the same ones again.

Every size is called once, then once more; results are held against the reference. Frameworks that
count what they compile are also held against functions of their own for single sizes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from neutral import Framework, Sweep
from timing import distance

# Sizes for which a function that knows no other is compiled, and how often it is timed.
SPECIALISED, TIMES = 6, 15


def sweep(framework: Framework, row: Sweep, folder: Path, seconds: float) -> dict[str, Any]:
    """Both passes; the first stops after so many seconds."""
    data = np.load(folder / "sizes.npz")
    weights = [framework.tensor(data[f"weight{i}"]) for i in range(len(row.weights))]
    inputs = [framework.tensor(data[f"input{i}"]) for i in range(len(row.shapes))]
    run = framework.function(row.body, weights, [row.varying])
    count: Callable[[], dict[str, int]] = getattr(framework, "compiles", dict)
    before = count()
    took, error, done = 0.0, 0.0, 0
    for i, x in enumerate(inputs):
        began = time.perf_counter()
        out = run(x)
        took += time.perf_counter() - began
        (got,) = framework.arrays(out)
        error = max(error, distance(got, data[f"expected{i}"]))
        done += 1
        if took > seconds:
            break
    after = count()
    began = time.perf_counter()
    for x in inputs[:done]:
        run(x)
    said: dict[str, Any] = {
        "done": done,
        "new": took,
        "again": time.perf_counter() - began,
        "error": error,
    }
    if after:
        said["compiles"] = {name: after[name] - before[name] for name in after}
        said["general"] = beside_specialised(framework, row, weights, run, inputs)
    return said


def beside_specialised(
    framework: Framework, row: Sweep, weights: Sequence[Any], run: Callable[..., Any],
    inputs: Sequence[Any],
) -> float:  # fmt: skip
    """The time of code for all sizes over that of code for one; a geometric mean over some."""
    logs = []
    for x in inputs[2 :: max(1, len(inputs) // SPECIALISED)]:
        special = framework.function(row.body, weights, [row.varying])
        special(x)
        best = {run: math.inf, special: math.inf}
        for _ in range(TIMES):
            for function in best:
                began = time.perf_counter()
                function(x)
                best[function] = min(best[function], time.perf_counter() - began)
        logs.append(math.log(best[run] / best[special]))
    return math.exp(sum(logs) / len(logs))
