"""Processes that work together: groups, collectives, launching. PyTorch's names where it has them.

    python -m deepseek.distributed.run --nproc 2 script.py

runs a script as two processes; in it `init_process_group()` lets them meet. Every collective may
stand in `@ds.jit`. `CommContext` has them as functions of tensors, with gradients.
"""

from deepseek.distributed.context import CommContext
from deepseek.distributed.functions import (
    ReduceOp,
    all_gather,
    all_gather_into_tensor,
    all_reduce,
    all_to_all,
    all_to_all_single,
    barrier,
    broadcast,
    recv,
    reduce,
    reduce_scatter,
    reduce_scatter_tensor,
    send,
)
from deepseek.distributed.process_group import (
    destroy_process_group,
    get_backend,
    get_rank,
    get_world_size,
    init_process_group,
    is_available,
    is_initialized,
    new_group,
)
from deepseek.distributed.spawning import spawn

__all__ = [
    "CommContext", "ReduceOp", "all_gather", "all_gather_into_tensor", "all_reduce", "all_to_all",
    "all_to_all_single", "barrier", "broadcast", "destroy_process_group", "get_backend",
    "get_rank", "get_world_size", "init_process_group", "is_available", "is_initialized",
    "new_group", "recv", "reduce", "reduce_scatter", "reduce_scatter_tensor", "send", "spawn",
]  # fmt: skip
