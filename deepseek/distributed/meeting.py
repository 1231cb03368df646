"""Where the processes of a group meet, and who they are: from arguments, else the environment.

In flow RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as PyTorch's launchers set them too; out flow
a rank, a size and a path in shared memory that is the same for all of a group and for nobody else.
"""

from __future__ import annotations

import glob
import hashlib
import os
import socket
from dataclasses import dataclass

from deepseek.config import variable
from deepseek.errors import ArgumentError, DistributedError

SHARED_MEMORY = "/dev/shm"
HERE = ("localhost", "127.0.0.1", "::1", "")


@dataclass(frozen=True)
class Meeting:
    """This process's rank among `size`, and the beginning of the paths where they meet."""

    rank: int
    size: int
    place: str

    def path(self, group: str) -> str:
        """Where those of one group meet."""
        return f"{self.place}-{digest(group)}"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def meeting(init_method: str | None, rank: int, world_size: int) -> Meeting:
    """The meeting that the arguments mean; what they leave out is in the environment.

    A process that is told nothing is a world of one rank.
    """
    rank = from_environment("RANK", rank, 0)
    size = from_environment("WORLD_SIZE", world_size, 1)
    if not 0 <= rank < size:
        raise ArgumentError(
            f"init_process_group: got rank {rank} of {size}; wanted 0 <= rank < world_size\n"
            "  help: start the processes with python -m deepseek.distributed.run --nproc N, "
            "which sets RANK and WORLD_SIZE"
        )
    method = init_method or "env://"
    scheme, _, rest = method.partition("://")
    if scheme == "file" and rest:
        return Meeting(rank, size, place_of(f"file {os.path.abspath(rest)}"))
    if scheme == "tcp" and rest:
        address, _, port = rest.rpartition(":")
    elif scheme == "env":
        address, port = variable("MASTER_ADDR"), variable("MASTER_PORT")
    else:
        raise ArgumentError(
            f"init_process_group: got init_method {init_method!r}; wanted env://, "
            "tcp://localhost:PORT or file:///path"
        )
    if size > 1 and not port:
        raise ArgumentError(
            "init_process_group: there is no MASTER_PORT, by which the processes find each other\n"
            "  help: start them with python -m deepseek.distributed.run --nproc N script.py, or "
            "give init_method='file:///path'"
        )
    if address not in (*HERE, socket.gethostname()):
        raise DistributedError(
            f"init_process_group: MASTER_ADDR is {address!r}, another machine; wanted localhost\n"
            "  help: groups of several machines are not there yet, those of one are"
        )
    return Meeting(rank, size, place_of(f"port {port}"))


def from_environment(name: str, given: int, default: int) -> int:
    """A number that was given, or else that of the environment."""
    if given >= 0:
        return given
    text = variable(name) or str(default)
    if not text.isdecimal():
        raise ArgumentError(f"{name}: got {text!r}; wanted a whole number")
    return int(text)


def place_of(what: str) -> str:
    """The beginning of the paths of whoever meets by this word."""
    return f"{SHARED_MEMORY}/deepseek-{os.getuid()}-{digest(what)}"


def clear(place: str) -> None:
    """Remove what processes that never met have left. Those who have met need no path."""
    for path in glob.glob(f"{glob.escape(place)}-*"):
        os.unlink(path)


def free_port() -> int:
    """A port that nobody uses: a number that other runs do not have."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
