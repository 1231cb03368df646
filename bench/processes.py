"""What whole processes of ours cost: how soon there is a first result, and what idle workers take.

Each sample is a fresh process; those that are compared take turns. Out: samples in seconds by name.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

# Both end as soon as the result is there: what an interpreter tears down is not of interest.
NUMPY = "import os, numpy as np; print((np.ones(3) + 1).sum(), flush=True); os._exit(0)"
FIRST = "import os, deepseek as ds; print((ds.ones(3) + 1).sum().item(), flush=True); os._exit(0)"
# CPU time that passes while nothing is called, less what the same wait took before any worker was.
IDLE = """
import time, deepseek as ds
def waited():
    began = time.process_time()
    time.sleep(0.1)
    return time.process_time() - began
ds.set_num_threads(2)
x = ds.ones(512, 512)
before = waited()
product = ds.jit(lambda x: x @ x)
for _ in range(20):
    product(x)
print(max(0.0, waited() - before))
"""


def measured(rounds: int) -> dict[str, list[float]]:
    """Seconds to NumPy's and to our first result (with an empty cache), and of idle workers."""
    found: dict[str, list[float]] = {"NumPy": [], "first result": [], "idle workers": []}
    for _ in range(rounds):
        found["NumPy"].append(lasted(NUMPY))
        found["first result"].append(lasted(FIRST))
    found["idle workers"] = [float(ran(IDLE)) for _ in range(3)]
    return found


def lasted(program: str) -> float:
    began = time.perf_counter()
    ran(program)
    return time.perf_counter() - began


def ran(program: str) -> str:
    """What a program prints that finds no cache."""
    with tempfile.TemporaryDirectory(prefix="bench-") as cache:
        command = [sys.executable, "-P", "-c", program]
        environment = {**os.environ, "DS_CACHE": cache}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout
