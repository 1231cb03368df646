"""What launchers have in common: the environment of a rank, and waiting for all of them.

The first process that fails ends the others, after a little time in which they notice themselves
and say so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from deepseek.config import variable

GRACE = 3.0  # seconds for others to come to their own error
LOOK = 0.02


class Process(Protocol):
    """A process that runs or has ended."""

    def exit_code(self) -> int | None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """The variables that tell a process its place; threads are shared out unless they are set."""
    threads = max(1, len(os.sched_getaffinity(0)) // size)
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
        "DS_NUM_THREADS": variable("DS_NUM_THREADS") or str(threads),
    }  # fmt: skip


def wait_for_all(processes: Sequence[Process]) -> tuple[int, int] | None:
    """When all have ended: (rank, exit code) of the one that failed first, None if none did."""
    failed: tuple[int, int] | None = None
    deadline = 0.0
    try:
        while True:
            codes: Mapping[int, int | None] = {r: p.exit_code() for r, p in enumerate(processes)}
            if failed is None:
                failed = next(((r, c) for r, c in codes.items() if c), None)
                deadline = time.monotonic() + GRACE
            if all(code is not None for code in codes.values()):
                return failed
            if failed is not None and time.monotonic() > deadline:
                return failed
            time.sleep(LOOK)
    finally:
        end(processes)


def end(processes: Sequence[Process]) -> None:
    """End what still runs: first politely."""
    running = [p for p in processes if p.exit_code() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline and any(p.exit_code() is None for p in running):
        time.sleep(LOOK)
    for process in running:
        if process.exit_code() is None:
            process.kill()
