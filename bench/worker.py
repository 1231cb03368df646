"""A process that runs one variant of one framework, told what to do line by line.

In: one JSON object a line, `{"do": ...}`; out: one JSON object a line. The steps of a row are
prepare, first, check, time; each is a method of `Session` of that name.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import re
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import sweeping
import workloads
from neutral import Case, Framework, NotSupported, Workload
from timing import calls_in, distance

Message = dict[str, Any]
# A sample is a batch of calls that takes about so long, so that reading the clock costs nothing.
SAMPLE_SECONDS = 2e-3

IDLE = Case(lambda: None, lambda _: [])


class Session:
    """One variant and, from `prepare` on, one workload."""

    def __init__(self, framework: Framework, imported: float = 0.0) -> None:
        self.framework = framework
        self.imported = imported
        self.workload: Workload
        self.case: Case
        self.folder: Path
        self.last: Any = None
        self.batch = 0

    def prepare(self, name: str, folder: str) -> Message:
        """Load the inputs and make the case; nothing has run yet."""
        self.workload = workloads.find(name)
        self.folder = Path(folder)
        self.batch = 0
        self.case, self.last = IDLE, None  # what the last row held is free
        inputs = []
        for i in range(len(self.workload.inputs)):
            inputs.append(self.framework.tensor(np.load(self.folder / f"input{i}.npy")))
        gc.collect()
        reset_peak()
        self.case = self.framework.case(self.workload, inputs)
        return {"rss": resident(), "imported": self.imported}

    def first(self) -> Message:
        """The first call, with all that is compiled for it."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.last = self.case.call()
        return {
            "seconds": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
        }

    def check(self) -> Message:
        """How far the results are from the reference, as a ratio of Euclidean norms."""
        for _ in range(self.workload.steps - 1):
            self.last = self.case.call()
        peak = resident("VmHWM")
        results = self.case.results(self.last)
        error = 0.0
        for i, got in enumerate(results):
            wanted = np.load(self.folder / f"expected{i}.npy", mmap_mode="r")
            if got.shape != wanted.shape:
                return {"error": float("inf"), "shapes": [got.shape, wanted.shape], "peak": peak}
            error = max(error, distance(got, wanted))
        count = len(list(self.folder.glob("expected*.npy")))
        if len(results) != count:
            return {"error": float("inf"), "count": [len(results), count], "peak": peak}
        self.last = None
        return {"error": error, "peak": peak}

    def sweep(self, name: str, folder: str, seconds: float) -> Message:
        return sweeping.sweep(self.framework, workloads.find(name), Path(folder), seconds)

    def time(self, seconds: float) -> Message:
        """Calls for about so long: wall and CPU seconds a call, one pair for each sample."""
        call = self.case.call
        if not self.batch:
            self.batch = calls_in(call, SAMPLE_SECONDS)
        wall: list[float] = []
        cpu: list[float] = []
        batch = range(self.batch)
        gc.disable()
        end = time.perf_counter() + seconds
        while not wall or time.perf_counter() < end:
            cpu_began, began = time.process_time(), time.perf_counter()
            for _ in batch:
                call()
            took, worked = time.perf_counter() - began, time.process_time() - cpu_began
            wall.append(took / self.batch)
            cpu.append(worked / self.batch)
        gc.enable()
        return {"wall": wall, "cpu": cpu, "batch": self.batch}


def resident(key: str = "VmRSS") -> int:
    """Bytes of this process in memory, now or (VmHWM) at their peak."""
    found = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    return int(found[1]) * 1024 if found else 0


def reset_peak() -> None:
    """The peak is counted anew from here."""
    Path("/proc/self/clear_refs").write_text("5")


def serve(module: str, variant: str, threads: int) -> int:
    """Answer until the input ends. What libraries print goes to the standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(message: Message) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        began = time.perf_counter()
        made = importlib.import_module(module).make(variant, threads)
        imported = time.perf_counter() - began
        session = made if hasattr(made, "time") else Session(made, imported)
        answer({"versions": made.versions})
    except Exception:
        answer({"failed": traceback.format_exc()})
        return 1
    for line in sys.stdin:
        message = json.loads(line)
        step = getattr(session, message.pop("do"))
        try:
            answer(step(**message))
        except NotSupported as reason:
            answer({"unsupported": str(reason)})
        except Exception:
            answer({"failed": traceback.format_exc()})
    return 0


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1], sys.argv[2], int(sys.argv[3])))
