"""python -m deepseek.distributed.run --nproc 2 script.py ...: a script as several processes.

Each process is told its place by RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. When
one fails the others are ended, and its exit code is the launcher's.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from deepseek.config import variables
from deepseek.distributed.launching import environment, wait_for_all
from deepseek.distributed.meeting import clear, free_port, place_of


class Child:
    """A process that runs the script."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        with variables(environment):
            self.process = subprocess.Popen(command)

    def exit_code(self) -> int | None:
        return self.process.poll()

    def terminate(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        self.process.kill()


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m deepseek.distributed.run", description="Run a script as several processes."
    )
    parser.add_argument("--nproc", type=int, required=True, metavar="N", help="how many")
    parser.add_argument("-m", "--module", action="store_true", help="the script is a module's name")
    parser.add_argument("script")
    parser.add_argument("args", nargs=argparse.REMAINDER)
    found = parser.parse_args(given)
    if found.nproc < 1:
        parser.error(f"--nproc: got {found.nproc}; wanted 1 or more")
    return found


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = arguments(given)
    port = free_port()
    kind = ["-m"] if options.module else []
    command = [sys.executable, *kind, options.script, *options.args]
    signal.signal(signal.SIGTERM, interrupted)
    children = [
        Child(command, environment(rank, options.nproc, port)) for rank in range(options.nproc)
    ]
    try:
        failed = wait_for_all(children)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        clear(place_of(f"port {port}"))
    if failed is None:
        return 0
    rank, code = failed
    print(f"rank {rank} ended with exit code {code}", file=sys.stderr)
    return code if code > 0 else 128 - code


def interrupted(*_: Any) -> None:
    """End the processes as for Ctrl-C."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
