"""Groups of processes: making them, asking about them, leaving them.

In flow a backend's name and a meeting; out flows a Group, which the runtime finds by its name and
collectives name. Leaving bumps `groups.version`, so compiled functions look again.
"""

from __future__ import annotations

import atexit
import datetime
from collections.abc import Sequence

from deepseek import _runtime
from deepseek.config import options
from deepseek.distributed.meeting import Meeting, meeting
from deepseek.errors import ArgumentError, BackendError, DistributedError, unknown
from deepseek.frontend.tensor import hooks, leaf, state
from deepseek.ir.dtype import uint8
from deepseek.ops.groups import ALONE, Group, groups, note_read

BACKENDS = ("shm", "nccl", "gloo")
WORLD = "world"

_meetings: dict[str, Meeting] = {}  # of the groups made by init_process_group and CommContext


def init_process_group(
    backend: str = "shm",
    init_method: str | None = None,
    world_size: int = -1,
    rank: int = -1,
    timeout: float | datetime.timedelta | None = None,
) -> None:
    """Let this process meet the others; blocks until all are there.

    `rank` and `world_size` come from RANK and WORLD_SIZE unless given; where neither says anything,
    the process is a world of one rank. `init_method` says where to meet: env:// (MASTER_PORT),
    tcp://localhost:PORT, or file:///path, of which only the name is used. `timeout` is in seconds,
    DS_COLLECTIVE_TIMEOUT unless given. Backends: shm, between processes of one machine; nccl, for
    GPUs. Raises DistributedError where the others do not come, ArgumentError where there is a
    default group already.

    >>> ds.distributed.init_process_group()
    >>> ds.distributed.get_rank(), ds.distributed.get_world_size()
    (0, 1)
    >>> ds.distributed.destroy_process_group()
    """
    if groups.default is not None:
        raise ArgumentError(
            "init_process_group: there is a default group already\n"
            "  help: call destroy_process_group() first"
        )
    where = meeting(init_method, rank, world_size)
    groups.default = make_group(WORLD, backend, where, timeout)


def make_group(
    name: str, backend: str, where: Meeting, timeout: float | datetime.timedelta | None = None
) -> Group:
    """A group of that name, when all its ranks have come."""
    if backend not in BACKENDS:
        raise unknown("backend of a process group", backend, BACKENDS)
    if backend == "gloo":
        raise BackendError(
            "backend 'gloo' is not part of this build: deepseek has no transport over Gloo yet\n"
            "  help: use 'shm' between the processes of one machine"
        )
    if isinstance(timeout, datetime.timedelta):
        timeout = timeout.total_seconds()
    seconds = options.collective_timeout if timeout is None else timeout
    over_shm = backend == "shm"
    met = _runtime.connect(name, where.path(name), where.rank, where.size, seconds, over_shm)
    if not over_shm:
        _runtime.connect_nccl(met, options.nccl)
    group = Group(name, where.rank, where.size, backend)
    groups.known[name] = group
    _meetings[name] = where
    groups.version += 1
    return group


def new_group(ranks: Sequence[int] | None = None, backend: str | None = None) -> Group | None:
    """A group of some ranks of the default one, in their order. Every process calls it, with the
    same ranks; those that are not among them get None.

    >>> ds.distributed.init_process_group()
    >>> ds.distributed.new_group([0]).size
    1
    >>> ds.distributed.destroy_process_group()
    """
    world = group_of(None)
    ranks = list(range(world.size)) if ranks is None else list(ranks)
    if not ranks or len(set(ranks)) < len(ranks) or not set(ranks) <= set(range(world.size)):
        raise ArgumentError(
            f"new_group: got ranks {ranks}; wanted different ones from 0 to {world.size - 1}"
        )
    number = next_number(WORLD)
    if world.rank not in ranks:
        return None
    name = f"group {number} of ranks {', '.join(map(str, ranks))}"
    where = Meeting(ranks.index(world.rank), len(ranks), _meetings[WORLD].place)
    return make_group(name, backend or world.backend, where)


_numbers: dict[str, int] = {}  # how many groups of a kind were made, the same on every rank


def next_number(kind: str) -> int:
    """The number of the next group of a kind."""
    _numbers[kind] = _numbers.get(kind, 0) + 1
    return _numbers[kind]


def group_of(group: Group | None) -> Group:
    """The group, or the default one. Raises DistributedError where there is none."""
    note_read("version")
    found = group or groups.default
    if found is None:
        raise DistributedError(
            "there is no default process group\n"
            "  help: call ds.distributed.init_process_group() first"
        )
    return groups.named(found.name)


def get_rank(group: Group | None = None) -> int:
    """This process's number in the group.

    Raises DistributedError where there is no group, as all functions of this module do.

    >>> ds.distributed.init_process_group()
    >>> ds.distributed.get_rank()
    0
    >>> ds.distributed.destroy_process_group()
    """
    return group_of(group).rank


def get_world_size(group: Group | None = None) -> int:
    """How many processes the group has.

    >>> ds.distributed.init_process_group()
    >>> ds.distributed.get_world_size()
    1
    >>> ds.distributed.destroy_process_group()
    """
    return group_of(group).size


def get_backend(group: Group | None = None) -> str:
    """The name of the group's backend.

    >>> ds.distributed.init_process_group()
    >>> ds.distributed.get_backend()
    'shm'
    >>> ds.distributed.destroy_process_group()
    """
    return group_of(group).backend


def is_initialized() -> bool:
    """Whether there is a default group.

    >>> ds.distributed.is_initialized()
    False
    """
    return groups.default is not None


def is_available() -> bool:
    """Whether there are collectives at all: always.

    >>> ds.distributed.is_available()
    True
    """
    return True


def destroy_process_group(group: Group | None = None) -> None:
    """Leave a group; all of them unless one is given. Others that wait for this process get an
    error. What was recorded and has not run, such as the gradients of a collective, runs before.

    >>> ds.distributed.init_process_group()
    >>> ds.distributed.destroy_process_group()
    >>> ds.distributed.is_initialized()
    False
    """
    try:
        run_recorded()
    finally:
        leave([group_of(group)] if group is not None else list(groups.known.values()))


def leave(those: Sequence[Group]) -> None:
    """Leave groups as they stand."""
    for group in those:
        if group is ALONE:
            continue
        _runtime.disconnect(group.name)
        del groups.known[group.name]
        del _meetings[group.name]
        if group is groups.default:
            groups.default = None
    if not _meetings:
        _numbers.clear()
    groups.version += 1


def run_recorded() -> None:
    """Run every collective that is recorded, in order. After an error none is left."""
    if state.trace is not None or groups.turn._value.data is not None:
        return
    try:
        hooks.evaluate([groups.turn._value])
    except BaseException:
        nothing = _runtime.Buffer.copy_of(b"", "turn")
        groups.turn._rebind(leaf(nothing, uint8, (0,)))
        raise


atexit.register(lambda: leave(list(groups.known.values())))
