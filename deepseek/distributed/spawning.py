"""spawn: a function in several processes that were started afresh."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from deepseek.config import variables
from deepseek.distributed.launching import environment, wait_for_all
from deepseek.distributed.meeting import clear, free_port, place_of
from deepseek.errors import ArgumentError, DistributedError


class Child:
    """A process that `spawn` started."""

    def __init__(self, process: SpawnProcess) -> None:
        self.process = process

    def exit_code(self) -> int | None:
        return self.process.exitcode

    def terminate(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        self.process.kill()


def spawn(function: Callable[..., Any], args: Sequence[Any] = (), nprocs: int = 1) -> None:
    """Call `function(rank, *args)` in so many new processes, and wait for them.

    In each, `init_process_group()` needs no arguments. The function must be one that another
    process can import. Raises DistributedError with the traceback of the process that failed first;
    ArgumentError for a number of processes below 1.

    >>> ds.distributed.spawn(print, nprocs=0)
    Traceback (most recent call last):
        ...
    deepseek.errors.ArgumentError: spawn: got nprocs=0; wanted 1 or more
    """
    if nprocs < 1:
        raise ArgumentError(f"spawn: got nprocs={nprocs}; wanted 1 or more")
    context = multiprocessing.get_context("spawn")
    port = free_port()
    ends = [context.Pipe(duplex=False) for _ in range(nprocs)]
    children = []
    for rank, (_, out) in enumerate(ends):
        given = function, rank, tuple(args), out
        process = context.Process(target=run_one, args=given, daemon=False)
        with variables(environment(rank, nprocs, port)):
            process.start()
        out.close()
        children.append(Child(process))
    try:
        failed = wait_for_all(children)
    finally:
        clear(place_of(f"port {port}"))
    if failed is not None:
        rank, code = failed
        receiver = ends[rank][0]
        try:
            report = receiver.recv() if receiver.poll() else ""
        except EOFError:
            report = ""
        raise DistributedError(f"spawn: rank {rank} ended with exit code {code}\n{report}".rstrip())


def run_one(
    function: Callable[..., Any], rank: int, args: tuple[Any, ...], out: Connection
) -> None:
    """What a new process does."""
    try:
        function(rank, *args)
    except Exception:
        out.send(traceback.format_exc())
        raise SystemExit(1) from None
