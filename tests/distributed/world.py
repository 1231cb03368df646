"""A world: processes that wait for jobs. A job is a function of `jobs.py`, run by all at once.

Run as a script this file is one of the processes.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any, BinaryIO

HERE = Path(__file__).parent


class Raised(str):
    """The text of an error that a rank's job ended with."""


class World:
    """As many processes as ranks, all in one process group."""

    def __init__(self, size: int) -> None:
        self.ranks = []
        for rank in range(size):
            told = {
                "RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "localhost",
                "MASTER_PORT": f"{os.getpid()}-{size}", "DS_NUM_THREADS": "1",
            }  # fmt: skip
            self.ranks.append(
                subprocess.Popen(
                    [sys.executable, "-P", str(HERE / "world.py")],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | told,
                )  # fmt: skip
            )

    def run(self, job: str, *args: Any) -> list[Any]:
        """What each rank returns, or the text of what it raises."""
        for rank in self.ranks:
            assert rank.stdin is not None
            pickle.dump((job, args), rank.stdin)
            rank.stdin.flush()
        found = [pickle.load(rank.stdout) for rank in self.ranks]  # type: ignore[arg-type]
        return [value if ended else Raised(value) for ended, value in found]

    def close(self) -> None:
        for rank in self.ranks:
            rank.communicate(timeout=60)
            assert rank.returncode == 0


def serve(jobs_in: BinaryIO, results_out: BinaryIO) -> None:
    """Run jobs until there are no more."""
    import jobs

    jobs.distributed.init_process_group(timeout=60)
    while True:
        try:
            job, args = pickle.load(jobs_in)
        except EOFError:
            break
        try:
            result = True, getattr(jobs, job)(*args)
        except Exception:
            result = False, traceback.format_exc()
        pickle.dump(result, results_out)
        results_out.flush()
    jobs.distributed.destroy_process_group()


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a job prints is no result
    serve(sys.stdin.buffer, results)
