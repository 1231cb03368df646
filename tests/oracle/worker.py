"""A worker process: takes subjects from standard input, writes results as lines of JSON.

What is printed by anyone else goes to standard error, so that the lines stay whole.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import subjects
import torch


def serve() -> int:
    """Answer requests `{"subject", "samples", "start"}` until the input ends."""
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for request in sys.stdin:
        wanted = json.loads(request)
        began = time.perf_counter()
        for result in answers(wanted):
            lines.write(json.dumps(result) + "\n")
        seconds = round(time.perf_counter() - began, 3)
        lines.write(json.dumps({"kind": "end", "seconds": seconds}) + "\n")
    return 0


def answers(wanted: dict[str, Any]) -> Iterator[dict[str, Any]]:
    try:
        yield from subjects.run(wanted["subject"], wanted["samples"], wanted["start"])
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        yield {"kind": "broken", "sample": "", "why": " ".join(text.split())[:300]}
