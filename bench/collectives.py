"""How long an all_reduce of float32 takes between processes, by size: the transport alone, called
from a compiled function, and eagerly. The least and the median of many single calls.

    python -m deepseek.distributed.run --nproc 2 bench/collectives.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

import deepseek as ds
from deepseek import _runtime

SIZES = (4, 1 << 10, 1 << 16, 1 << 20, 1 << 22)  # bytes
ROUNDS = {4: 3000, 1 << 10: 3000, 1 << 16: 1000}
FEWEST_ROUNDS = 200


def measure(call: Callable[[], object], rounds: int) -> str:
    """The least and the median time in microseconds, the ranks starting together."""
    taken = []
    for _ in range(rounds):
        ds.distributed.barrier()
        start = time.perf_counter()
        call()
        taken.append((time.perf_counter() - start) * 1e6)
    return f"{min(taken):10.1f} {np.median(taken):10.1f}"


def main() -> None:
    ds.distributed.init_process_group()
    group = _runtime.communicator("world")
    compiled = ds.jit(lambda x: ds.distributed.all_reduce(x * 1))
    if group.rank == 0:
        print("     bytes   transport, us         compiled              eager")
    for nbytes in SIZES:
        given = np.ones(nbytes // 4, np.float32)
        taken = np.empty_like(given)
        x = ds.asarray(given)
        calls: tuple[Callable[[], object], ...] = (
            lambda given=given, taken=taken: group.run(
                "all_reduce", "float32", "sum", count=given.size, given=given, taken=taken
            ),
            lambda x=x: compiled(x),
            lambda x=x: ds.distributed.all_reduce(x * 1),
        )
        columns = [measure(call, ROUNDS.get(nbytes, FEWEST_ROUNDS)) for call in calls]
        if group.rank == 0:
            print(f"{nbytes:10}", *columns, flush=True)
    ds.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
