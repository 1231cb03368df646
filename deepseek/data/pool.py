"""The worker processes of a loader, seen from the loader's side.

Batch k of an epoch is made by the k-th worker in turn, and a worker answers in order, so batches
arrive in order without sorting. A dead, late or broken worker is an error that says so. The
processes end with the pool, however it goes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import connection as connections
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from deepseek.data import transport
from deepseek.data.transport import receive, send, wait_writable
from deepseek.data.worker import End, Failure, Recipe, WorkerError, run

GRACE = 2.0  # seconds that workers have to end by themselves


class Pool:
    """Worker processes that serve one epoch after the other."""

    def __init__(
        self,
        recipe: Recipe,
        count: int,
        ahead: int,
        timeout: float,
        init: Callable[[int], None] | None,
        context: str | None,
    ) -> None:
        self.count = count
        self.ahead = ahead * count  # batches asked for and not yet taken
        self.timeout = timeout
        self.epoch = 0
        self.connections: list[Connection] = []
        self.processes: list[BaseProcess] = []
        self.inboxes: list[deque[Any]] = [deque() for _ in range(count)]
        self.close = weakref.finalize(
            self, end_processes, os.getpid(), self.connections, self.processes
        )
        made: Any = multiprocessing.get_context(context)
        # A worker ignores Ctrl-C; until it does, the signal waits.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for number in range(count):
                ours, theirs = made.Pipe()
                self.connections.append(ours)
                transport.ours.add(ours)
                process = made.Process(
                    target=run,
                    args=(theirs, number, count, recipe, init),
                    name=f"DataLoader worker {number}",
                    daemon=True,
                )
                process.start()
                theirs.close()
                self.processes.append(process)
        except BaseException:
            self.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def batches(self, tasks: Iterable[Any], seed: int, first: int) -> Iterator[Any]:
        """The answers to the tasks of a new epoch, in order, until tasks or streams end.

        `first` is the number of the first batch.
        """
        self.epoch += 1
        epoch = self.epoch
        for worker in range(self.count):
            self._tell(worker, ("epoch", seed))
        numbered = enumerate(tasks, first)
        serving = deque(range(self.count))  # the next one first
        asked: deque[int] = deque()
        while True:
            while serving and len(asked) < self.ahead:
                task = next(numbered, None)
                if task is None:
                    serving.clear()
                    break
                self._tell(serving[0], ("batch", epoch, *task))
                asked.append(serving[0])
                serving.rotate(-1)
            if not asked:
                return
            worker = asked.popleft()
            answer = self._answer(worker, epoch)
            if isinstance(answer, End):
                if worker in serving:
                    serving.remove(worker)
                continue
            yield answer

    def terminate(self) -> None:
        """Let the workers end in the middle of what they do."""
        for process in self.processes:
            process.terminate()

    def _tell(self, worker: int, message: Any) -> None:
        """Send, without ever waiting for a worker that waits for us to read.

        That a worker is dead shows where its answer is wanted: those it gave before come first.
        """
        connection = self.connections[worker]
        with suppress(BrokenPipeError, ConnectionResetError):
            while not wait_writable(connection):
                self._take(worker)
            send(connection, message)

    def _answer(self, worker: int, epoch: int) -> Any:
        """A worker's next answer of this epoch; raises what the worker raised."""
        while True:
            if epoch != self.epoch:
                raise WorkerError(
                    "this epoch was given up: another iteration over the same loader, whose "
                    "workers are persistent, began"
                )
            if not self.inboxes[worker]:
                self._take(worker)
            of, answer = self.inboxes[worker].popleft()
            if of != epoch:
                continue  # an earlier epoch that was given up
            if isinstance(answer, Failure):
                pid = self.processes[worker].pid
                raise answer.raised(f"DataLoader worker {worker} (pid {pid})")
            return answer

    def _take(self, worker: int) -> None:
        """Wait for a message from a worker."""
        connection = self.connections[worker]
        if not connections.wait(
            [connection, self.processes[worker].sentinel], self.timeout or None
        ):
            raise WorkerError(
                f"DataLoader worker {worker} (pid {self.processes[worker].pid}) gave no batch "
                f"within timeout={self.timeout} s"
            )
        try:
            if not connection.poll():
                raise EOFError
            self.inboxes[worker].append(receive(connection))
        except (EOFError, ConnectionResetError):
            raise self._died(worker) from None

    def _died(self, worker: int) -> WorkerError:
        process = self.processes[worker]
        process.join(GRACE)
        code = process.exitcode
        if code is None:
            how = "closed its connection"
        elif code < 0:
            how = f"was killed by {signal_name(-code)}"
        else:
            how = f"ended with exit code {code}"
        help_ = "\n  help: the machine may be out of memory" if code == -signal.SIGKILL else ""
        return WorkerError(f"DataLoader worker {worker} (pid {process.pid}) {how}{help_}")


def signal_name(number: int) -> str:
    """SIGKILL for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def end_processes(
    owner: int, connections_: Sequence[Connection], processes: Sequence[BaseProcess]
) -> None:
    """End workers: first by closing their connections, then by signals."""
    if os.getpid() != owner:  # a forked child has a copy of the pool, not of the processes
        return
    for connection in connections_:
        transport.ours.discard(connection)
        connection.close()
    deadline = time.monotonic() + GRACE
    for stop in (lambda p: None, BaseProcess.terminate, BaseProcess.kill):
        for process in processes:
            if process.is_alive():
                stop(process)
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        if not any(process.is_alive() for process in processes):
            break
        deadline = time.monotonic() + GRACE
    for process in processes:
        if not process.is_alive():
            process.close()
